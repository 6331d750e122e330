//! The README's C program, as it stands there, compiles without warnings, links, and does what it says. (Its Rust
//! program is a documentation test of the crate.)

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const README: &str = include_str!("../README.md");

/// The contents of the blocks that begin with this line.
fn blocks<'a>(text: &'a str, fence: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(fence).skip(1).filter_map(|rest| rest.split_once("```")).map(|(block, _)| block)
}

/// Where cargo has put libinger.so: beside the programs, or one folder down; the newest counts.
fn library_folder() -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_inger")).parent().expect("a program lies in a folder");
    let age = |folder: &PathBuf| folder.join("libinger.so").metadata().and_then(|data| data.modified()).ok();
    let folders = [target.to_path_buf(), target.join("deps")];
    let newest = folders.into_iter().filter(|folder| age(folder).is_some()).max_by_key(age);
    newest.expect("cargo builds libinger.so with the tests")
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn c_program_runs() {
    let programs: Vec<_> = blocks(README, "```c\n").collect();
    assert_eq!(programs.len(), 1);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (source, program) = (folder.path().join("search.c"), folder.path().join("search"));
    std::fs::write(&source, programs[0]).expect("the folder is new");
    run(Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-Iinclude"])
        .arg(&source)
        .arg("-o")
        .arg(&program)
        .arg("-L")
        .arg(library_folder())
        .arg("-linger"));
    let output = run(Command::new(&program).env("LD_LIBRARY_PATH", library_folder()));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(programs[0].contains(&format!("{:?}", text)), "the program printed {text:?}");
    assert!(text.contains("cancelled"), "{text}");
}

#[test]
fn names_the_files_that_exist() {
    for path in ["ARCHITECTURE.md", "CHANGELOG.md", "configure", "include/libinger.h", "examples/runaway.rs"] {
        assert!(Path::new(path).exists(), "{path}");
    }
}
