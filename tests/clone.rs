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

/// Runs a program to its end, which comes before this many seconds have passed. No engine: the default one.
fn output<S: AsRef<OsStr>>(folder: &Path, engine: &str, seconds: u32, command: impl IntoIterator<Item = S>) -> Output {
    let mut limited = Command::new("timeout");
    limited.args(["-s", "KILL"]).arg(seconds.to_string()).args(command).current_dir(folder);
    // Cargo's search path may lead to an older build.
    limited.env("LD_LIBRARY_PATH", c::library_folder());
    match engine {
        NO_ENGINE => limited.env_remove("LIBGOTCHA_LOADER"),
        engine => limited.env("LIBGOTCHA_LOADER", engine),
    };
    limited.output().expect("timeout(1)")
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
const NO_ENGINE: &str = "";

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

/// The flags for those of these libraries that are installed.
fn installed(libraries: &[&'static str]) -> Vec<&'static str> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (source, program) = (folder.path().join("empty.c"), folder.path().join("empty"));
    std::fs::write(&source, "int main(void) { return 0; }\n").expect("a source file");
    let links = |library: &&str| {
        let output = c::compiler().arg(&source).arg("-o").arg(&program).args(["-Wl,--no-as-needed", *library]).output();
        output.expect("a C compiler").status.success()
    };
    let found: Vec<_> = libraries.iter().copied().filter(links).collect();
    if found.len() < libraries.len() {
        assert!(std::env::var_os("INGER_CI").is_none(), "only {found:?} are installed");
        println!("not installed, and left out: all but {found:?}");
    }
    found
}

/// The dynamic linker relocates the same libraries; each word is compared.
#[test]
fn relocated_as_by_the_dynamic_linker() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let libraries = installed(&["-lm", "-lz", "-lpng", "-lstdc++", "-lxml2", "-lsqlite3"]);
    build(folder.path(), "oracle", &[], &[&["-Wl,--no-as-needed"], &libraries[..]].concat());
    print!("{}", succeed(folder.path(), "clone", 60, ["./oracle"]));
}

/// 5,000 functions at once, and more than 2,000 in a program with five libraries, half of them stopped in the middle of
/// these libraries' work. Prints what they cost.
#[test]
fn thousands_at_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    build(folder.path(), "scale", &[], &[]);
    println!("libc alone:\n{}", succeed(folder.path(), "clone", 300, ["./scale", "5000"]));
    let libraries = installed(&["-lz", "-lm", "-lpng", "-lstdc++"]);
    let flags: &[&str] = if libraries.contains(&"-lz") { &["-DHAS_ZLIB"] } else { &[] };
    build(folder.path(), "scale", flags, &[&["-Wl,--no-as-needed"], &libraries[..]].concat());
    println!("libc and {libraries:?}:\n{}", succeed(folder.path(), "clone", 300, ["./scale", "2048"]));
}

/// The limit that the environment sets is met, and told.
#[test]
fn as_many_as_the_environment_says() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    build(folder.path(), "failures", &[], &[]);
    let text = succeed(folder.path(), "clone", 60, ["env", "LIBGOTCHA_NUMGROUPS=40", "./failures", "numgroups", "40"]);
    assert!(text.starts_with("40 at once, then: too many libsets: all 40 libsets"), "{text}");
}

/// Address space, mappings, descriptors or sizes of files run out: an error that says so, and nothing is lost.
#[test]
fn the_system_refuses() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    build(folder.path(), "failures", &[], &[]);
    for resource in ["address_space", "mappings", "descriptors", "file_size"] {
        succeed(folder.path(), "clone", 60, ["./failures", resource]);
    }
}

/// A library's file is not what the program was started with: it is named.
#[test]
fn replaced_library() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let library = folder.path().join("libtotal.so");
    let source = "tests/c_clone/late.c";
    let compile = |flag: &str, name: &Path| {
        c::run(c::compiler().args(["-shared", "-fPIC", "-Wl,--build-id", flag, source, "-o"]).arg(name));
    };
    compile("-O0", &library);
    let (path, rpath) = (library.display().to_string(), format!("-Wl,-rpath,{}", folder.path().display()));
    build(folder.path(), "failures", &[], &["-Wl,--no-as-needed", &path, &rpath]);
    let rebuilt = folder.path().join("libtotal.so.rebuilt");
    compile("-O2", &rebuilt);
    succeed(folder.path(), "clone", 60, ["./failures", "replaced", &path]);
    compile("-O0", &library);
    compile("-O2", &rebuilt);
    succeed(folder.path(), "dlmopen", 60, ["./failures", "rebuilt", &path]);
}

/// Where this engine is the default one and not asked for by name, the other takes its place, and the trace tells.
#[track_caller]
fn is_by_dlmopen(folder: &Path, before: &[&str], cause: &str) {
    let trace = "LIBGOTCHA_TRACE=libsets";
    let command = [before, &["env", trace, "./failures", "by_dlmopen", cause]].concat();
    let text = succeed(folder, NO_ENGINE, 60, &command);
    let line = text.lines().find(|line| line.contains("by dlmopen, at most 15: "));
    assert!(line.is_some_and(|line| line.contains(cause)), "{text}");
    let command = [before, &["./failures", "startup", cause]].concat();
    succeed(folder, "clone", 60, &command);
}

/// It is the default.
#[test]
fn unasked() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    build(folder.path(), "failures", &[], &[]);
    succeed(folder.path(), NO_ENGINE, 60, ["env", "LIBGOTCHA_NUMGROUPS=40", "./failures", "numgroups", "40"]);
}

/// A program whose address space is limited keeps most of it.
#[test]
fn little_address_space() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    build(folder.path(), "failures", &[], &[]);
    is_by_dlmopen(folder.path(), &["prlimit", "--as=2000000000"], "no address space");
}

/// Such a library has more segments than others, and the last of them is not its data.
#[test]
fn library_with_code_behind_its_data() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let library = folder.path().join("libfar.so");
    let source = "tests/c_clone/far_library.c";
    c::run(c::compiler().args(["-shared", "-fPIC", source, "-Wl,--section-start=.far=0x1000000", "-o"]).arg(&library));
    build(
        folder.path(),
        "far",
        &[],
        &[&library.display().to_string(), &format!("-Wl,-rpath,{}", folder.path().display())],
    );
    succeed(folder.path(), "clone", 60, ["./far"]);
}

/// Text relocations: refused by name if the program is linked with the library; without copies if it opens it.
#[test]
fn library_that_cannot_be_copied() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let library = folder.path().join("libtext.so");
    let source = "tests/c_clone/text_relocation.s";
    c::run(c::compiler().args(["-shared", source, "-Wl,-z,notext", "-o"]).arg(&library));
    let (library, rpath) = (library.display().to_string(), format!("-Wl,-rpath,{}", folder.path().display()));
    build(folder.path(), "failures", &[], &[]);
    succeed(folder.path(), "clone", 60, ["./failures", "cannot_be_copied", &library]);
    build(folder.path(), "failures", &[], &["-Wl,--no-as-needed", &library, &rpath]);
    is_by_dlmopen(folder.path(), &[], "libtext.so has text relocations");
    // As the error says.
    let shared = ["env", "LIBGOTCHA_SHARED=libtext.so", "LIBGOTCHA_NUMGROUPS=40", "./failures", "numgroups", "40"];
    succeed(folder.path(), "clone", 60, shared);
}

/// Exceptions and backtraces cross copies of the C and the C++ library, with an unwinder of the program's own too.
#[test]
fn unwinding() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let inger = c::library_folder();
    for (program, flag) in [("unwind", "-shared-libgcc"), ("unwind_static", "-static-libgcc")] {
        c::run(
            Command::new("c++")
                .args([
                    "-std=gnu++17",
                    "-O1",
                    "-Wall",
                    "-Wextra",
                    "-Werror",
                    "-pthread",
                    "-rdynamic",
                    "-Iinclude",
                    flag,
                ])
                .args(["tests/c_clone/unwind.cpp", "-o"])
                .arg(folder.path().join(program))
                .arg("-L")
                .arg(&inger)
                .arg("-linger")
                .arg(format!("-Wl,-rpath,{}", inger.display())),
        );
        for engine in ENGINES {
            succeed(folder.path(), engine, 60, [format!("./{program}")]);
        }
    }
}

/// The pristine state is a file that the child of a fork inherits: its changes are its own. (The parent's libsets once
/// changed under it.)
#[test]
fn forks_change_their_own_libsets() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    build(folder.path(), "forks", &[], &[]);
    for engine in ENGINES {
        succeed(folder.path(), engine, 30, ["./forks"]);
    }
}

/// Roll backs are compared byte by byte with what was there before; of little memory, and of so much that the kernel is
/// asked what has been written. (An older kernel does not tell.)
#[test]
fn rolled_back_to_the_byte() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    build(folder.path(), "rollback", &[], &["-lm"]);
    println!("{}", succeed(folder.path(), "clone", 120, ["./rollback"]));
    let library = folder.path().join("liblarge.so");
    c::run(c::compiler().args(["-shared", "-fPIC", "tests/c/large_library.c", "-o"]).arg(&library));
    let (library, rpath) = (library.display().to_string(), format!("-Wl,-rpath,{}", folder.path().display()));
    build(folder.path(), "rollback", &["-DHAS_LARGE"], &["-lm", &library, &rpath]);
    succeed(folder.path(), "clone", 120, ["./rollback"]);
    succeed(folder.path(), "clone", 120, ["./rollback", "unasked"]);
}
