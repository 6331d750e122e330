//! The examples do what their texts say. (`png` has a twin in C: see `c_programs.rs`.)

mod support;

use std::path::Path;
use std::process::Command;

/// What an example prints, line by line.
fn lines(name: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_BIN_EXE_inger")).with_file_name("examples").join(name);
    assert!(path.exists(), "cargo builds the examples with all tests: cargo build --example {name}");
    let output = support::output(&mut Command::new(path));
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).lines().map(String::from).collect()
}

/// Handlers that loop get the error, in turns with others, which get their answers.
#[test]
fn tower() {
    let lines = lines("tower");
    let answers: Vec<_> = lines.iter().map(|line| line.split(" after ").next().unwrap().trim()).collect();
    let expected = [
        "18446744073709551557: deadline has elapsed",
        "91: 7",
        "18446744073709551533: deadline has elapsed",
        "1000003: 1000003",
        "1: a number greater than 1, please",
    ];
    assert_eq!(answers, expected);
}
