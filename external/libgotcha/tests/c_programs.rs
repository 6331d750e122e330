//! Control libraries in C, linked with libgotcha.a: the public interface, and the example.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn build(source: &str) -> PathBuf {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(Path::new(source).file_stem().expect("a file's name"));
    let output = Command::new("cc")
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Iinclude", source, "-o"])
        .arg(&program)
        .arg(Path::new(env!("OUT_DIR")).join("libgotcha.a"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("a C compiler");
    assert!(output.status.success(), "{source}: {}", String::from_utf8_lossy(&output.stderr));
    program
}

fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("the program starts");
    assert!(status.success(), "{command:?}: {status}\n{}", String::from_utf8_lossy(&stderr));
    String::from_utf8_lossy(&stdout).into_owned()
}

#[test]
fn public_interface() {
    run(Command::new(build("tests/api.c")).env("LIBGOTCHA_NUMGROUPS", "3"));
}

#[test]
fn the_example_counts_calls_by_libset() {
    let text = run(&mut Command::new(build("examples/count_calls.c")));
    assert_eq!(text, "libset 1: 20 calls, libset 2: 2000 calls; strtok: 0, base: 0\n");
}
