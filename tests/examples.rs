//! The examples do what their texts say. (`png` has a twin in C: see `c_programs.rs`.)

mod support;

use std::path::Path;
use std::process::Command;

/// What an example prints, line by line, and its exit status.
fn run(name: &str, arguments: &[&str]) -> (Vec<String>, Option<i32>) {
    let path = Path::new(env!("CARGO_BIN_EXE_inger")).with_file_name("examples").join(name);
    assert!(path.exists(), "cargo builds the examples with all tests: cargo build --example {name}");
    let output = support::output(Command::new(path).args(arguments));
    assert!(output.status.code().is_some(), "{output:?}");
    (String::from_utf8_lossy(&output.stdout).lines().map(String::from).collect(), output.status.code())
}

/// The same, of one that succeeds.
fn lines(name: &str, arguments: &[&str]) -> Vec<String> {
    let (lines, status) = run(name, arguments);
    assert_eq!(status, Some(0), "{lines:?}");
    lines
}

/// Handlers that loop get the error, in turns with others, which get their answers.
#[test]
fn tower() {
    let lines = lines("tower", &[]);
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

#[test]
fn round_robin() {
    let lines = lines("round_robin", &["100"]);
    let after = |what: &str| {
        let rest = lines[0].split(what).nth(1).expect("the number of this");
        rest.split(',').next().expect("it ends").parse::<usize>().expect("a number")
    };
    assert_eq!(after("functions: "), 100);
    // As many as the engine can have.
    assert!((8..=100).contains(&after("at a time: ")), "{lines:?}");
    assert!(after("turns: ") > 150, "the long ones take many: {lines:?}");
}

#[test]
fn anytime() {
    let lines = lines("anytime", &["1000"]);
    let trip = |line: &String| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
    assert!(trip(&lines[2]) < trip(&lines[0]), "{lines:?}");
}

#[test]
fn harness() {
    let (lines, status) = run("harness", &[]);
    assert_eq!(status, Some(1));
    let outcomes: Vec<_> = lines.iter().map(|line| line.split(" ms  ").last().unwrap()).collect();
    let late = "FAILED: time is up";
    let wrong = "FAILED: assertion `left == right` failed";
    assert_eq!(outcomes, ["ok", wrong, late, late, late, "ok", "6 tests, 4 failures"]);
}
