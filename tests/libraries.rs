//! libpng, zlib, sqlite3 and libxml2, interleaved in several libsets: see tests/c/libraries.c.

#[path = "support/c.rs"]
mod c;

use c::library_folder;
use std::process::Command;

const PACKAGES: [&str; 4] = ["libpng", "zlib", "sqlite3", "libxml-2.0"];

fn package_flags() -> Option<Vec<String>> {
    let output = Command::new("pkg-config").args(["--cflags", "--libs"]).args(PACKAGES).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then(|| text.split_whitespace().map(str::to_owned).collect())
}

#[test]
fn interleaved_jobs_give_what_plain_ones_give() {
    let Some(flags) = package_flags() else {
        assert!(std::env::var_os("INGER_CI").is_none(), "packages are missing: {PACKAGES:?}");
        eprintln!("skip: not all of the packages are here: {PACKAGES:?}");
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = folder.path().join("libraries");
    let mut compiler = c::compiler();
    compiler.args(["-std=gnu11", "-O2", "tests/c/libraries.c", "-o"]).arg(&program);
    c::run(compiler.arg("-L").arg(library_folder()).arg("-linger").args(flags));
    let output = Command::new(&program).env("LD_LIBRARY_PATH", library_folder()).output().expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    println!("{text}");
}
