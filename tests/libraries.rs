//! libpng, zlib, sqlite3 and libxml2, interleaved in several libsets: see tests/c/libraries.c.

use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGES: [&str; 4] = ["libpng", "zlib", "sqlite3", "libxml-2.0"];

fn package_flags() -> Option<Vec<String>> {
    let output = Command::new("pkg-config").args(["--cflags", "--libs"]).args(PACKAGES).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then(|| text.split_whitespace().map(str::to_owned).collect())
}

/// Where libinger.so lies: beside the program that cargo has built, or one folder down.
fn library_folder() -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_inger")).parent().expect("a program lies in a folder");
    let age = |folder: &PathBuf| folder.join("libinger.so").metadata().and_then(|data| data.modified()).ok();
    let folders = [target.to_path_buf(), target.join("deps")];
    let newest = folders.into_iter().filter(|folder| age(folder).is_some()).max_by_key(age);
    newest.expect("cargo builds libinger.so with the tests")
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
    let output = Command::new("cc")
        .args(["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-Iinclude", "tests/c/libraries.c", "-o"])
        .arg(&program)
        .arg("-L")
        .arg(library_folder())
        .arg("-linger")
        .args(flags)
        .output()
        .expect("a C compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = Command::new(&program).env("LD_LIBRARY_PATH", library_folder()).output().expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    println!("{text}");
}
