//! The README's programs in C and C++, as they stand there, compile without warnings, link, and do what they say. (The
//! one in Rust is a documentation test of the crate. With the README's own commands: .ci/readme.)

#[path = "support/c.rs"]
mod c;

use std::path::Path;
use std::process::Command;

const README: &str = include_str!("../README.md");

/// The contents of the blocks that begin with this line.
fn blocks<'a>(text: &'a str, fence: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(fence).skip(1).filter_map(|rest| rest.split_once("```")).map(|(block, _)| block)
}

#[test]
fn c_program_runs() {
    let programs: Vec<_> = blocks(README, "```c\n").collect();
    assert_eq!(programs.len(), 1);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (source, program) = (folder.path().join("search.c"), folder.path().join("search"));
    std::fs::write(&source, programs[0]).expect("the folder is new");
    let library = c::library_folder();
    c::run(c::compiler().arg(&source).arg("-o").arg(&program).arg("-L").arg(&library).arg("-linger"));
    let output = c::run(Command::new(&program).env("LD_LIBRARY_PATH", &library));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(programs[0].contains(&format!("{:?}", text)), "the program printed {text:?}");
    assert!(text.contains("cancelled"), "{text}");
}

#[test]
fn cplusplus_program_runs() {
    let programs: Vec<_> = blocks(README, "```cpp\n").collect();
    assert_eq!(programs.len(), 1);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (source, program) = (folder.path().join("search.cpp"), folder.path().join("search"));
    std::fs::write(&source, programs[0]).expect("the folder is new");
    let library = c::library_folder();
    let include = concat!("-I", env!("CARGO_MANIFEST_DIR"), "/include");
    let flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", include, "-o"];
    c::run(Command::new("c++").args(flags).arg(&program).arg(&source).arg("-L").arg(&library).arg("-linger"));
    let output = c::run(Command::new(&program).env("LD_LIBRARY_PATH", &library));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "cancelled after 5 ms\n");
}

#[test]
fn names_the_files_that_exist() {
    for path in [
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "configure",
        "include/libinger.h",
        "include/inger.hpp",
        "examples/runaway.rs",
    ] {
        assert!(Path::new(path).exists(), "{path}");
    }
}
