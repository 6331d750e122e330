//! The clone engine: what it does itself where the dlmopen engine has the dynamic linker do it. The programs of
//! tests/c_clone, one a subject, run with both engines where both promise the same.

#[path = "support/c.rs"]
mod c;

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};

/// Builds `tests/c_clone/<name>.c`, linked with libinger.so, in `folder`.
fn build(folder: &Path, name: &str, flags: &[&str], libraries: &[&str]) {
    let inger = c::library_folder();
    c::run(
        c::compiler()
            .args(["-std=gnu11", "-O2", "-pthread"])
            .args(flags)
            .arg(format!("tests/c_clone/{name}.c"))
            .arg("-o")
            .arg(folder.join(name))
            .arg("-L")
            .arg(&inger)
            .arg("-linger")
            .arg(format!("-Wl,-rpath,{}", inger.display()))
            .args(libraries),
    );
}

/// Runs a program to its end, which comes before this many seconds have passed.
fn output<S: AsRef<OsStr>>(folder: &Path, engine: &str, seconds: u32, command: impl IntoIterator<Item = S>) -> Output {
    Command::new("timeout")
        .args(["-s", "KILL"])
        .arg(seconds.to_string())
        .args(command)
        .env("LIBGOTCHA_LOADER", engine)
        .current_dir(folder)
        .output()
        .expect("timeout(1)")
}

/// The same; the program has to succeed.
#[track_caller]
fn succeed<S: AsRef<OsStr>>(folder: &Path, engine: &str, seconds: u32, command: impl IntoIterator<Item = S>) -> String {
    let output = output(folder, engine, seconds, command);
    let text = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{engine}: {}\n{text}", output.status);
    text
}

const ENGINES: [&str; 2] = ["dlmopen", "clone"];

/// The C library's resolvers of indirect functions note sizes of caches, which its copies are given: without them
/// the first large memmove() divided by zero.
#[test]
fn large_moves() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    build(folder.path(), "memory", &[], &[]);
    for engine in ENGINES {
        succeed(folder.path(), engine, 120, ["./memory"]);
    }
}

/// Libraries that differ in what they define, how they were linked, and (in the program) how they are opened.
fn build_scope_libraries(folder: &Path) {
    let library = |output: &str, name: &str, flags: &[&str]| {
        c::run(
            c::compiler()
                .args(["-std=gnu11", "-O1", "-shared", "-fPIC", "tests/c_clone/scope_library.c"])
                .arg(format!("-DNAME=\"{name}\""))
                .args(flags)
                .arg("-o")
                .arg(folder.join(output)),
        );
    };
    let here = format!("-L{}", folder.display());
    let needs =
        |dependency| ["-DDESCRIBE=describe", "-DCALLS_BACK", "-DNEEDS", &here, dependency, "-Wl,-rpath,$ORIGIN"];
    let dependency = ["-DDESCRIBE=needed_describe", "-DNO_HELPER"];
    library("libdependency.so", "dependency", &dependency);
    library("libother_dependency.so", "other_dependency", &dependency);
    library("local.so", "local", &[&needs("-ldependency")[..], &["-Wl,-z,lazy"]].concat());
    library("other_local.so", "other_local", &[&needs("-lother_dependency")[..], &["-Wl,-z,lazy"]].concat());
    library("global.so", "global", &["-DDESCRIBE=describe", "-DCALLS_BACK"]);
    library("user.so", "user", &["-DDESCRIBE=describe", "-DNO_HELPER", "-Wl,-z,now"]);
    library("lazy_user.so", "lazy_user", &["-DDESCRIBE=describe", "-DNO_HELPER", "-Wl,-z,lazy"]);
    library("deep.so", "deep", &["-DDESCRIBE=describe"]);
    library("symbolic.so", "symbolic", &["-DDESCRIBE=describe", "-Wl,-z,lazy,-Bsymbolic"]);
}

/// Scopes of libraries that dlopen() has opened: with RTLD_LOCAL, RTLD_GLOBAL, RTLD_DEEPBIND, bound lazily and at
/// once, in what they need, by calls and by stored addresses.
#[test]
fn bound_as_in_base() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    build_scope_libraries(folder.path());
    build(folder.path(), "scopes", &[], &[]);
    for when in ["before", "after", "inside"] {
        succeed(folder.path(), "dlmopen", 30, ["./scopes", "local", when]);
        // The dlmopen engine opens in its namespaces without RTLD_GLOBAL.
        for libraries in ["local", "global"] {
            succeed(folder.path(), "clone", 30, ["./scopes", libraries, when]);
        }
    }
}
