//! Control libraries in C, linked with libgotcha.a: the public interface, and the example.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn build(source: &str) -> PathBuf {
    build_with(source, &[])
}

fn build_with(source: &str, flags: &[String]) -> PathBuf {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(Path::new(source).file_stem().expect("a file's name"));
    let output = Command::new("cc")
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Iinclude", source, "-o"])
        .arg(&program)
        .arg(Path::new(env!("OUT_DIR")).join("libgotcha.a"))
        .args(flags)
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

/// Whatever fails while a libset is made, in both engines, in the first one and later.
#[test]
fn failures_lose_nothing() {
    let calls = "malloc calloc realloc strdup mmap mprotect memfd_create ftruncate open fstat pread write readlink on_exit \
        dlmopen dlvsym";
    let flags: Vec<_> = calls.split_whitespace().map(|call| format!("-Wl,--wrap={call}")).collect();
    let program = build_with("tests/failures.c", &flags);
    for (loader, gdb) in [("clone", "0"), ("clone", "1"), ("dlmopen", "0")] {
        for made_before in ["0", "1"] {
            let mut command = Command::new(&program);
            let text = run(command.arg(made_before).env("LIBGOTCHA_LOADER", loader).env("LIBGOTCHA_GDB", gdb));
            let calls: usize = text.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number");
            assert!(calls >= 12, "{loader}: only {text}");
        }
    }
}

#[test]
fn the_example_counts_calls_by_libset() {
    let text = run(&mut Command::new(build("examples/count_calls.c")));
    assert_eq!(text, "libset 1: 20 calls, libset 2: 2000 calls; strtok: 0, base: 0\n");
}
