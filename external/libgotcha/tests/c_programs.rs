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
fn calls_of_a_shared_library() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (library, program) = (folder.join("libshared_by_test.so"), folder.join("shared"));
    let sources = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Iinclude", "tests/shared.c"];
    let own = Path::new(env!("OUT_DIR")).join("libgotcha.a");
    for (output, arguments) in [
        (&library, vec!["-DLIBRARY".as_ref(), "-shared".as_ref(), "-fPIC".as_ref()]),
        (&program, vec![own.as_os_str(), library.as_os_str()]),
    ] {
        run(Command::new("cc")
            .args(sources)
            .args(arguments)
            .arg("-o")
            .arg(output)
            .current_dir(env!("CARGO_MANIFEST_DIR")));
    }
    let shared = |loader: &str| {
        let mut command = Command::new(&program);
        command.env("LIBGOTCHA_SHARED", "libshared_by_test.so").env("LIBGOTCHA_LOADER", loader);
        command
    };
    run(&mut shared("dlmopen"));
    run(&mut shared("clone"));
    // more calls inside calls than there is room for
    let output = shared("dlmopen").arg("70").output().expect("the program starts");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(6));
    let message = "libgotcha: calls of shared libraries from inside libsets nest too deeply\n";
    assert_eq!(String::from_utf8_lossy(&output.stderr), message);
}

#[test]
fn the_example_counts_calls_by_libset() {
    let text = run(&mut Command::new(build("examples/count_calls.c")));
    assert_eq!(text, "libset 1: 20 calls, libset 2: 2000 calls; strtok: 0, base: 0\n");
}
