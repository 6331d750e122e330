//! Building C programs against libinger.so, as a user would.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Where cargo has put libinger.so: beside the programs, or one folder down; the newest counts.
pub(crate) fn library_folder() -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_inger")).parent().expect("a program lies in a folder");
    let age = |folder: &PathBuf| folder.join("libinger.so").metadata().and_then(|data| data.modified()).ok();
    let folders = [target.to_path_buf(), target.join("deps")];
    let newest = folders.into_iter().filter(|folder| age(folder).is_some()).max_by_key(age);
    newest.expect("cargo builds libinger.so with the tests")
}

/// Runs a command that has to succeed.
pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    output
}

/// The C compiler, with the header's folder, no warnings allowed.
pub(crate) fn compiler() -> Command {
    let mut command = Command::new("cc");
    let include = concat!("-I", env!("CARGO_MANIFEST_DIR"), "/include");
    command.args(["-std=c11", "-D_DEFAULT_SOURCE", "-Wall", "-Wextra", "-Werror", include]);
    command
}
