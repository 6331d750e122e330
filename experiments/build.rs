//! The decoder, if libpng is there.

use std::process::Command;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(has_libpng)");
    println!("cargo::rerun-if-changed=src/bomb.c");
    println!("cargo::rerun-if-env-changed=PKG_CONFIG_PATH");
    let flags = |option: &str| {
        let output = Command::new("pkg-config").args([option, "libpng16"]).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then(|| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    };
    let (Some(compiler), Some(linker)) = (flags("--cflags"), flags("--libs-only-L")) else { return };
    let mut build = cc::Build::new();
    for flag in &compiler {
        build.flag(flag);
    }
    build.file("src/bomb.c").std("gnu11").opt_level(2).warnings(true).extra_warnings(true).compile("bomb");
    println!("cargo::rustc-cfg=has_libpng");
    linker.iter().for_each(|flag| println!("cargo::rustc-link-search=native={}", flag.trim_start_matches("-L")));
    println!("cargo::rustc-link-lib=png16");
}
