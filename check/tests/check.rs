//! What inger-check says is what happens: of this program itself, with libraries preloaded and environments of several kinds,
//! compared with the library's own answer; of the machine's programs, with the dynamic linker's; and of programs made to be
//! refused.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn check(program: &Path, environment: &[(&str, &str)]) -> (Option<i32>, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inger-check"));
    let output = run(command.arg("--json").arg(program).envs(environment.iter().copied()));
    let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    assert!(output.status.code() == Some(2) || !report.is_null(), "{output:?}");
    (output.status.code(), report)
}

/// The last one names a library of their own.
fn compile(folder: &Path, name: &str, source: &str, flags: &[&str]) -> PathBuf {
    let (input, path) = (folder.join(format!("{name}.c")), folder.join(name));
    std::fs::write(&input, source).expect("a folder of ours");
    let output = run(Command::new("cc").arg("-o").arg(&path).arg(&input).args(flags));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    path
}

fn texts(list: &Value) -> String {
    let texts = list.as_array().expect("a list").iter().map(|text| text.as_str().expect("text"));
    texts.collect::<Vec<_>>().join("\n")
}

// ---------------------------------------------------------------------------------- the library's own answer

const LAUNCHER: &str = "INGER_CHECK_LAUNCHER";

/// Run again by [`answer`], with other libraries: launches, and tells which files have been mapped from their beginnings more
/// than once.
#[test]
fn launcher() {
    if std::env::var_os(LAUNCHER).is_none() {
        return;
    }
    match inger::launch(|| 7, u64::MAX) {
        Ok(linger) => assert_eq!(linger.completion(), Some(7)),
        Err(error) => return println!("\nerror {error}"),
    }
    let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux");
    let mut counts = BTreeMap::new();
    // Memory files are the library's.
    for line in maps.lines().filter(|line| line.contains(" 00000000 ") && !line.contains("/memfd:")) {
        if let Some((_, path)) = line.split_once('/') {
            *counts.entry(path).or_insert(0) += 1;
        }
    }
    println!("\nlaunched");
    counts.iter().filter(|(_, count)| **count > 1).for_each(|(path, _)| println!("copied /{path}"));
}

/// The error, or the libraries that were copied.
fn answer(program: &Path, environment: &[(&str, &str)]) -> Result<BTreeSet<PathBuf>, String> {
    let mut command = Command::new(program);
    command.args(["launcher", "--exact", "--nocapture", "--test-threads=1"]).env(LAUNCHER, "1");
    let output = run(command.envs(environment.iter().copied()));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    if let Some(error) = text.lines().find_map(|line| line.strip_prefix("error ")) {
        return Err(error.to_owned());
    }
    assert!(text.lines().any(|line| line == "launched"), "{text}");
    Ok(text.lines().filter_map(|line| line.strip_prefix("copied ")).map(PathBuf::from).collect())
}

/// Both agree: which libraries are copied, or that it is refused, for this cause.
#[track_caller]
fn agree(environment: &[(&str, &str)], refusal: Option<&str>) -> BTreeSet<String> {
    let program = std::env::current_exe().expect("this program");
    let (status, report) = check(&program, environment);
    let answer = answer(&program, environment);
    if let Some(cause) = refusal {
        let (error, refusals) = (answer.expect_err("a refusal"), texts(&report["refusals"]));
        assert!(status == Some(1) && refusals.contains(cause) && error.contains(cause), "{error}; {refusals}");
        return BTreeSet::new();
    }
    let objects = report["objects"].as_array().expect("a list").iter();
    let isolated = objects.filter(|object| object["isolated"] == true);
    let paths =
        isolated.map(|object| Path::new(object["path"].as_str().expect("a path")).canonicalize().expect("a file"));
    let paths: BTreeSet<_> = paths.collect();
    assert_eq!((status, Ok(&paths)), (Some(0), answer.as_ref()), "{environment:?}: {report:#}");
    paths.iter().map(|path| path.file_name().expect("a name").to_string_lossy().into_owned()).collect()
}

fn has(names: &BTreeSet<String>, start: &str) -> bool {
    names.iter().any(|name| name.starts_with(start))
}

#[test]
fn what_is_copied_and_what_is_shared() {
    let preload = ("LD_PRELOAD", "libm.so.6 libresolv.so.2");
    let names = agree(&[preload], None);
    assert!(
        has(&names, "libm") && has(&names, "libresolv") && has(&names, "libc") && !has(&names, "libgcc_s"),
        "{names:?}"
    );
    let names = agree(&[preload, ("LIBGOTCHA_SHARED", "libother.so:libresolv.so.2")], None);
    assert!(has(&names, "libm") && !has(&names, "libresolv"), "{names:?}");
    let names = agree(&[preload, ("LIBGOTCHA_LOADER", "dlmopen")], None);
    assert!(has(&names, "libresolv") && has(&names, "libgcc_s"), "{names:?}");
    agree(&[("LIBGOTCHA_LOADER", "no such engine")], None);
}

#[test]
fn who_defines_malloc_is_shared() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = "#include <stddef.h>\nextern void *__libc_malloc(size_t);\nvoid *malloc(size_t n) { return __libc_malloc(n); }\n";
    let library = compile(folder.path(), "liballocator.so", source, &["-shared", "-fPIC"]);
    let names = agree(&[("LD_PRELOAD", library.to_str().expect("text"))], None);
    assert!(!has(&names, "liballocator") && has(&names, "libc"), "{names:?}");
}

#[test]
fn text_relocations_are_for_the_dynamic_linker() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = "int late(void) { return 1; }\n__asm__(\".text\\n.quad late\\n\");\n";
    let library = compile(folder.path(), "libtext.so", source, &["-shared", "-fPIC", "-Wl,-z,notext"]);
    let preload = ("LD_PRELOAD", library.to_str().expect("text"));
    assert!(has(&agree(&[preload], None), "libtext"));
    agree(&[preload, ("LIBGOTCHA_LOADER", "clone")], Some("text relocations"));
    agree(&[preload, ("LIBGOTCHA_LOADER", "clone"), ("LIBGOTCHA_SHARED", "libtext.so")], None);
}

#[test]
fn sanitizers_and_skipped_programs_are_refused() {
    let program = std::env::current_exe().expect("this program");
    let name = program.file_name().expect("a name").to_str().expect("text");
    agree(&[("LIBGOTCHA_SKIP", name)], Some("listed in LIBGOTCHA_SKIP"));
    agree(&[("LIBGOTCHA_SKIP", "another")], None);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let library = compile(folder.path(), "libpoison.so", "void __asan_init(void) {}\n", &["-shared", "-fPIC"]);
    agree(&[("LD_PRELOAD", library.to_str().expect("text"))], Some("a sanitizer's runtime (__asan_init)"));
}

#[test]
fn the_table_says_the_same() {
    let table = |environment: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_inger-check"));
        let output = run(command.arg("/bin/sh").envs(environment.iter().copied()));
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (status, text) = table(&[]);
    assert!(status == Some(0) && text.contains("libc.so.6 ") && text.contains("  own copy  "), "{text}");
    assert!(text.ends_with("/bin/sh: fine; libraries that each function has a copy of: 1\n"), "{text}");
    let (status, text) = table(&[("LIBGOTCHA_SKIP", "sh")]);
    assert!(status == Some(1) && text.ends_with("refused: listed in LIBGOTCHA_SKIP\n"), "{text}");
}

// ---------------------------------------------------------------------------------- refused by their files

const EMPTY: &str = "int main(void) { return 0; }\n";

#[test]
fn programs_that_cannot_be() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let musl = "-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1";
    let bare = "void _start(void) { for (;;); }\n";
    for (name, source, flags, cause) in [
        ("static", EMPTY, ["-static"].as_slice(), "a static program"),
        ("static-pie", EMPTY, &["-static-pie"], "a static program"),
        ("musl", EMPTY, &[musl], "its dynamic linker is /lib/ld-musl-x86_64.so.1"),
        ("without-libc", bare, &["-nostdlib", "-pie", "-Wl,-E"], "no libc.so.6 among its objects"),
        ("small", bare, &["-m32", "-nostdlib", "-static"], "386, 32 bits"),
    ] {
        let (status, report) = check(&compile(folder.path(), name, source, flags), &[]);
        let refusals = texts(&report["refusals"]);
        assert!(status == Some(1) && refusals.contains(cause), "{name}: {report:#}");
    }
    std::fs::write(folder.path().join("text"), "not a program").expect("a folder of ours");
    for path in ["text", "missing"] {
        assert_eq!(check(&folder.path().join(path), &[]).0, Some(2), "{path}");
    }
    assert_eq!(check(Path::new("/lib/x86_64-linux-gnu/libm.so.6"), &[]).0, Some(2));
}

#[test]
fn variables_and_thread_locals_are_told() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let library =
        "int counter; const int fixed = 1; __thread char local[40]; int touch(void) { return local[counter]; }\n";
    compile(folder.path(), "libcounted.so", library, &["-shared", "-fPIC"]);
    let program = "extern int counter; extern const int fixed; int main(void) { return counter + fixed; }\n";
    let link = format!("-L{}", folder.path().display());
    let rpath = format!("-Wl,-rpath,{}", folder.path().display());
    for kind in ["-no-pie", "-pie"] {
        let pic = if kind == "-pie" { "-fPIC" } else { "-fno-pie" };
        let program = compile(folder.path(), "program", program, &[kind, pic, &link, "-lcounted", &rpath]);
        let (_, report) = check(&program, &[]);
        let objects = report["objects"].as_array().expect("a list");
        let library = objects.iter().find(|object| object["path"].as_str().expect("a path").ends_with("libcounted.so"));
        let notes = texts(&library.expect("the library")["notes"]);
        assert!(notes.contains("the program names counter: one per process"), "{kind}: {notes}");
        assert!(notes.contains("40 bytes of thread-local storage, dynamic"), "{kind}: {notes}");
    }
}

// ---------------------------------------------------------------------------------- the dynamic linker's answer

/// Libraries of a program as ld.so finds them; nothing of the program is run. `None`: it is not for ld.so.
fn listed(program: &Path) -> Option<BTreeSet<PathBuf>> {
    let output = run(Command::new("/lib64/ld-linux-x86-64.so.2").arg("--list").arg(program));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let paths = text.lines().filter_map(|line| {
        let line = line.trim();
        let path = line.split_once(" => ").map_or(line, |(_, path)| path);
        path.starts_with('/').then(|| PathBuf::from(path.split(" (").next().unwrap_or_default()))
    });
    let paths: BTreeSet<_> = paths.filter_map(|path| path.canonicalize().ok()).collect();
    (output.status.success() && !paths.is_empty()).then_some(paths)
}

#[track_caller]
fn finds_the_same(program: &Path) -> bool {
    let Some(expected) = listed(program) else { return false };
    let (status, report) = check(program, &[]);
    let objects = report["objects"].as_array().unwrap_or_else(|| panic!("{}: {status:?}", program.display()));
    let paths = objects.iter().skip(1).map(|object| Path::new(object["path"].as_str().expect("a path")));
    let found: BTreeSet<_> = paths.filter_map(|path| path.canonicalize().ok()).collect();
    assert!(found == expected, "{}: {found:?}, and not {expected:?}", program.display());
    true
}

/// Some of those that are installed.
#[test]
fn libraries_of_the_machine_s_programs() {
    const WANTED: usize = 40;
    let folder = std::fs::read_dir("/usr/bin").expect("Linux");
    let mut programs: Vec<_> = folder.map(|entry| entry.expect("an entry").path()).collect();
    programs.sort();
    let step = programs.len().div_ceil(2 * WANTED).max(1);
    let compared = programs.iter().step_by(step).filter(|program| finds_the_same(program)).count();
    println!("{compared} programs");
    assert!(compared >= 10, "only {compared}");
    for program in ["/bin/sh", "/usr/bin/env", "/bin/ls"] {
        assert!(finds_the_same(Path::new(program)), "{program}");
        assert_eq!(check(Path::new(program), &[]).0, Some(0), "{program}");
    }
}

/// A library's library: found by the RPATH of whoever needs the first, and by nobody's RUNPATH but its own.
#[test]
fn search_paths() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let inner = folder.path().join("inner");
    std::fs::create_dir(&inner).expect("a folder of ours");
    let shared = ["-shared", "-fPIC"];
    compile(&inner, "libsecond.so", "int second(void) { return 2; }\n", &shared);
    let link = format!("-L{}", inner.display());
    let first = "int second(void); int first(void) { return second(); }\n";
    compile(folder.path(), "libfirst.so", first, &[&shared[..], &[&link, "-lsecond"]].concat());
    let program = "int first(void); int main(void) { return first(); }\n";
    let link = format!("-L{}", folder.path().display());
    let rpath = "-Wl,-rpath,$ORIGIN:${ORIGIN}/inner";
    for (tags, is_found) in [("-Wl,--disable-new-dtags", true), ("-Wl,--enable-new-dtags", false)] {
        let flags = [&link, "-lfirst", rpath, tags, "-Wl,--allow-shlib-undefined"];
        let program = compile(folder.path(), "program", program, &flags);
        let (status, report) = check(&program, &[]);
        assert_eq!(status, Some(i32::from(!is_found)), "{tags}: {report:#}");
        assert_eq!(finds_the_same(&program), is_found, "{tags}");
        assert!(
            is_found || texts(&report["refusals"]).contains("libfirst.so needs libsecond.so, which is not found"),
            "{report:#}"
        );
        let path = inner.to_str().expect("text");
        assert_eq!(check(&program, &[("LD_LIBRARY_PATH", path)]).0, Some(0), "{tags}");
    }
}
