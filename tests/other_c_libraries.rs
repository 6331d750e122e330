//! Programs whose C library cannot be copied: one that is linked statically gets an error from its first launch, one for
//! another C library is not built.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PROGRAM: &str = r#"
fn main() {
    let error = inger::launch(|| 7, u64::MAX).expect_err("no library to copy");
    let again = inger::launch(|| 7, u64::MAX).expect_err("no library to copy");
    assert!(matches!(error, inger::Error::Unsupported { .. }), "{error:?}");
    assert_eq!((error.to_string(), inger::concurrency_limit()), (again.to_string(), 0));
    println!("{error}");
}
"#;

/// Runs cargo on a package that depends on this one, outside of its workspace.
fn cargo(name: &str, arguments: &[&str], flags: &str) -> (PathBuf, Output) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(folder.join("src")).expect("a folder for a package");
    let manifest = format!(
        "[package]\nname = \"program\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
         [dependencies]\ninger = {{ path = {root:?} }}\n[workspace]\n"
    );
    std::fs::write(folder.join("Cargo.toml"), manifest).expect("a manifest");
    std::fs::write(folder.join("src/main.rs"), PROGRAM).expect("a program");
    // the same dependencies, which are there
    std::fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")).expect("the workspace's lock file");
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments).args(["--offline", "--quiet", "--target-dir", "target"]).current_dir(&folder);
    let output = command.env_remove("CARGO_TARGET_DIR").env("RUSTFLAGS", flags).output().expect("cargo");
    (folder, output)
}

#[test]
fn static_programs_are_refused() {
    let target = "x86_64-unknown-linux-gnu";
    let (folder, output) = cargo("static", &["build", "--target", target], "-Ctarget-feature=+crt-static");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let program = folder.join("target").join(target).join("debug/program");
    let output = Command::new(program).output().expect("the program starts");
    let text = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
    assert!(output.status.success() && text.contains("a static program?"), "{}\n{text}", output.status);
}

#[test]
fn other_c_libraries_are_refused() {
    let (_, output) = cargo("musl", &["check", "--keep-going", "--target", "x86_64-unknown-linux-musl"], "");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("x86-64 Linux with glibc is needed"), "{text}");
}
