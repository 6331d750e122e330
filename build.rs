//! Linker flags of libinger.so, and what the examples and tests find on this system.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Programs linked with -linger ask for it by this name, wherever it lay at the time.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libinger.so");
    // The trampolines and the signal handler are in use until the process ends, whatever dlclose() says.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    find_libpng();
}

/// For the PNG example, which says so if it was built without.
fn find_libpng() {
    println!("cargo::rustc-check-cfg=cfg(has_libpng)");
    println!("cargo::rerun-if-env-changed=PKG_CONFIG_PATH");
    let output = Command::new("pkg-config").args(["--libs-only-L", "libpng16"]).output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else { return };
    println!("cargo::rustc-cfg=has_libpng");
    for folder in String::from_utf8_lossy(&output.stdout).split_whitespace() {
        println!("cargo::rustc-link-search=native={}", folder.trim_start_matches("-L"));
    }
}
