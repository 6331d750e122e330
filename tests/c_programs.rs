//! C and C++ programs against libinger.so: each is built and run as position-independent and not, bound
//! lazily and at once, with and without optimisation.

#[path = "support/c.rs"]
mod c;

use c::{VARIANTS, describe, library_folder, run, scratch, start};
use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

// ---------------------------------------------------------------------------------- building and running

/// Compiles a source of tests/c and links it.
fn build(source: &str, program: &Path, flags: &[&str], libraries: &[&str]) {
    c::build(&Path::new("tests/c").join(source), program, flags, libraries);
}

/// Builds `source` in each variant and hands it to `check`.
fn in_each_variant(source: &str, check: impl Fn(&str, &Path)) {
    let folder = scratch();
    // The program that opens the library at run time is not linked with it.
    let libraries = if source == "open.c" { ["-ldl"] } else { ["-linger"] };
    for (variant, flags) in VARIANTS {
        let program = folder.path().join(format!("{variant}-{source}.out"));
        build(source, &program, flags, &libraries);
        check(&format!("{source} ({variant})"), &program);
    }
}

/// Builds and runs it in each variant; its own checks decide.
fn passes(source: &str, arguments: &[&str]) {
    let arguments: Vec<_> = arguments.iter().map(OsStr::new).collect();
    in_each_variant(source, |what, program| {
        let begin = Instant::now();
        let output = start(program, &arguments, &[]);
        assert!(output.status.success(), "{}", describe(what, &output));
        println!("{what}: {:?} {}", begin.elapsed(), String::from_utf8_lossy(&output.stdout));
    });
}

// ---------------------------------------------------------------------------------- the programs

#[test]
fn life_of_a_handle() {
    passes("basic.c", &[]);
}

#[test]
fn backtraces() {
    passes("backtrace.c", &[]);
}

#[test]
fn nested_launches() {
    passes("nested.c", &[]);
}

#[test]
fn kernel_threads() {
    passes("threads.c", &[]);
}

#[test]
fn library_state_is_isolated() {
    passes("isolation.c", &[]);
}

#[test]
fn jumps() {
    passes("jumps.c", &[]);
}

#[test]
fn jump_out_of_a_function_is_refused() {
    in_each_variant("jumps.c", |what, program| {
        let output = start(program, &["out".as_ref()], &[]);
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{}", describe(what, &output));
        assert_eq!(output.stderr, b"libgotcha: longjmp out of a preemptible function\n", "{}", describe(what, &output));
    });
}

#[test]
fn loops_inside_the_library() {
    passes("library_loop.c", &[]);
}

#[test]
fn locale_of_the_program() {
    passes("locale.c", &[]);
}

#[test]
fn ignored_signal_across_exec() {
    passes("ignored.c", &[]);
}

#[test]
fn heap_is_shared() {
    passes("heap.c", &[]);
}

#[test]
fn what_a_cancelled_function_had_allocated() {
    passes("reclaim.c", &[]);
}

#[test]
fn child_processes() {
    passes("forks.c", &[]);
}

#[test]
fn system_calls_are_interrupted() {
    passes("interrupted.c", &[]);
}

#[test]
fn signals_of_the_program() {
    passes("signals.c", &[]);
}

#[test]
fn handlers_on_top_of_functions() {
    passes("handlers.c", &[]);
}

#[test]
fn handlers_installed_during_the_start() {
    passes("startup.c", &[]);
}

#[test]
fn signals_sent_by_other_threads() {
    passes("sent.c", &[]);
}

#[test]
fn cplusplus() {
    passes("cplusplus.cpp", &[]);
}

#[test]
fn locks_of_stopped_functions() {
    passes("donation.cpp", &[]);
}

#[test]
fn locks() {
    passes("locks.cpp", &[]);
}

#[test]
fn cplusplus_interface() {
    passes("wrapper.cpp", &[]);
}

/// A library that the program is linked with, from tests/c.
fn build_library(source: &str, library: &Path) {
    let (mut compiler, standard) = if source.ends_with(".cpp") {
        (Command::new("c++"), ["-std=c++17", "-Wall", "-Wextra", "-Werror"].as_slice())
    } else {
        (c::compiler(), ["-std=gnu11"].as_slice())
    };
    let source = Path::new("tests/c").join(source);
    run(compiler.args(standard).args(["-O1", "-shared", "-fPIC"]).arg(source).arg("-o").arg(library));
}

#[test]
fn constructors_and_destructors() {
    let folder = scratch();
    let library = folder.path().join("libconstructed.so");
    build_library("constructed_library.c", &library);
    let library = library.to_str().expect("a path that is text");
    for (variant, flags) in VARIANTS {
        let program = folder.path().join(variant);
        build("constructed.c", &program, flags, &["-linger", "-Wl,--no-as-needed", library]);
        for check in ["end", "blocks", "forks", "exits"] {
            let output = start(&program, &[check.as_ref()], &[]);
            assert!(output.status.success(), "{}", describe(&format!("{check} ({variant})"), &output));
        }
    }
}

#[test]
fn megabytes_of_state_are_rolled_back() {
    let folder = scratch();
    let library = folder.path().join("liblarge.so");
    build_library("large_library.c", &library);
    let program = folder.path().join("large");
    build("large.c", &program, &[], &["-linger", library.to_str().expect("a path that is text")]);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("Linux");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    // What the kernel is asked for is there since 6.7.
    let can_be_sparing = (numbers.next(), numbers.next()) >= (Some(6), Some(7));
    for (engine, check) in [("dlmopen", "all"), ("clone", if can_be_sparing { "sparing" } else { "all" })] {
        let output = start(&program, &[check.as_ref()], &[("LIBGOTCHA_LOADER", engine)]);
        assert!(output.status.success(), "{}", describe(engine, &output));
    }
}

/// Variables that the program has copied, and such as it reaches through its GOT.
#[test]
fn variables_of_libraries() {
    let folder = scratch();
    let mut arguments = vec!["-linger".to_owned(), "-Wl,--no-as-needed".to_owned()];
    for source in ["variables_user.c", "variables_library.c"] {
        let library = folder.path().join(format!("lib{source}.so"));
        build_library(source, &library);
        arguments.push(library.to_str().expect("a path that is text").to_owned());
    }
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let through_got: [(&str, &[&str]); 2] =
        [("fPIC", &["-fPIC", "-pie"]), ("indirect", &["-fPIE", "-pie", "-mno-direct-extern-access"])];
    for (variant, flags) in VARIANTS.into_iter().chain(through_got) {
        let program = folder.path().join(variant);
        build("variables.c", &program, &[flags, &["-D_GNU_SOURCE"]].concat(), &arguments);
        for engine in ["dlmopen", "clone"] {
            let output = start(&program, &[], &[("LIBGOTCHA_LOADER", engine)]);
            assert!(output.status.success(), "{}", describe(&format!("variables.c ({variant}) {engine}"), &output));
        }
    }
}

/// Builds the program and the libraries `lib<source>.so` and runs it in each variant, with each of the pairs of
/// engine and shared libraries.
fn passes_with_shared(source: &str, libraries: &[&str], environments: &[(&str, &str)]) {
    let folder = scratch();
    let mut arguments = vec!["-linger".to_owned(), "-Wl,--no-as-needed".to_owned()];
    for source in libraries {
        let library = folder.path().join(format!("lib{source}.so"));
        build_library(source, &library);
        arguments.push(library.to_str().expect("a path that is text").to_owned());
    }
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    for (variant, flags) in VARIANTS {
        let program = folder.path().join(variant);
        build(source, &program, flags, &arguments);
        for (engine, shared) in environments {
            let output = start(&program, &[], &[("LIBGOTCHA_LOADER", engine), ("LIBGOTCHA_SHARED", shared)]);
            assert!(
                output.status.success(),
                "{}",
                describe(&format!("{source} ({variant}) {engine} {shared}"), &output)
            );
        }
    }
}

/// Parameters and results are the same where calls are traced.
#[test]
fn traced_calls() {
    let folder = scratch();
    let library = folder.path().join("libshared.so");
    build_library("shared_library.c", &library);
    build_library("shared_caller.c", &folder.path().join("libcaller.so"));
    let (program, caller) = (folder.path().join("program"), folder.path().join("libcaller.so"));
    let libraries = [&library, &caller].map(|path| path.to_str().expect("a path that is text"));
    build("shared.c", &program, &[], &["-linger", "-Wl,--no-as-needed", libraries[0], libraries[1]]);
    for engine in ["dlmopen", "clone"] {
        let environment =
            [("LIBGOTCHA_LOADER", engine), ("LIBGOTCHA_SHARED", "libshared.so"), ("LIBGOTCHA_TRACE", "calls")];
        let output = start(&program, &[], &environment);
        assert!(output.status.success(), "{}", describe(engine, &output));
        let errors = String::from_utf8_lossy(&output.stderr);
        for call in ["shared_add of libshared.so\n", "shared_long_double of libshared.so\n", "malloc\n"] {
            assert!(errors.contains(call), "{call}: {}", describe(engine, &output));
        }
    }
}

#[test]
fn calls_of_a_shared_library() {
    let shared = "libshared_library.c.so";
    let libraries = ["shared_library.c", "shared_caller.c"];
    passes_with_shared("shared.c", &libraries, &[("dlmopen", shared), ("clone", shared)]);
}

#[test]
fn options() {
    passes_with_shared("options.c", &["shared_library.c"], &[("dlmopen", ""), ("clone", "")]);
}

/// The thunk, from its first instruction to the one after its last.
#[test]
fn every_instruction_of_a_shared_call_has_a_backtrace() {
    let folder = scratch();
    let (library, program) = (folder.path().join("libshared.so"), folder.path().join("program"));
    build_library("shared_library.c", &library);
    build("shared_step.c", &program, &["-g"], &["-linger", library.to_str().expect("a path that is text")]);
    let script = folder.path().join("script");
    let steps = |count| {
        format!(
            "tbreak *&gotcha_thunk\ncontinue\nset $n = 0\nwhile $n < {count}\nstepi\necho === step\\n\nbt\nset $n = $n + 1\nend\n"
        )
    };
    // The first call makes room for calls: up to where C is called. The second is stepped through whole.
    let commands = format!("set language c\ntbreak inner\nrun\n{}tbreak inner\ncontinue\n{}", steps(40), steps(75));
    std::fs::write(&script, commands).expect("a file in a folder of our own");
    let output = Command::new("timeout")
        .args(["--signal=KILL", "60", "gdb", "-nx", "-q", "-batch", "-iex", "set debuginfod enabled off", "-x"])
        .args([&script, &program])
        .envs([("LD_LIBRARY_PATH", library_folder().as_path()), ("LIBGOTCHA_SHARED", Path::new("libshared.so"))])
        .stdin(Stdio::null())
        .output()
        .expect("timeout is part of coreutils");
    let text = String::from_utf8_lossy(&output.stdout);
    if output.status.code() == Some(127) || text.contains("ptrace: Operation not permitted") {
        assert!(std::env::var_os("INGER_CI").is_none(), "gdb is missing, or may not trace");
        println!("skipped: gdb is missing, or may not trace");
        return;
    }
    let traces: Vec<_> = text.split("=== step").skip(1).collect();
    assert_eq!(traces.len(), 40 + 75, "{}", describe("gdb", &output));
    let is_back = |trace: &str| trace.lines().any(|line| line.starts_with("#0 ") && line.contains("inner ("));
    let end = traces.iter().position(|trace| is_back(trace)).unwrap_or_else(|| panic!("not back yet: {text}"));
    assert!(end > 40 + 40, "{text}");
    for trace in &traces[..=end] {
        let position = |name: &str| trace.find(&format!(" {name} ("));
        let (inner, outer, main) = (position("inner"), position("outer"), position("main"));
        assert!(inner.is_some() && inner < outer && outer < main && !trace.contains("corrupt stack"), "{trace}");
    }
}

#[test]
fn exceptions_through_a_shared_library() {
    let shared = "libshared_throws.cpp.so";
    let with_runtime = "libshared_throws.cpp.so:libstdc++.so.6:libgcc_s.so.1";
    let environments = [("dlmopen", shared), ("dlmopen", with_runtime), ("clone", shared), ("clone", with_runtime)];
    passes_with_shared("shared_throws_program.cpp", &["shared_throws.cpp"], &environments);
}

/// 100,000 preemptions in all.
#[test]
fn helper_threads() {
    in_each_variant("helpers.c", |what, program| {
        let output = start(program, &[], &[]);
        // 0 would be the exit of a C library that has counted its threads wrongly.
        assert_eq!(output.status.code(), Some(7), "{}", describe(what, &output));
    });
}

#[test]
fn functions_in_data_tables() {
    passes("table.c", &["25000"]);
}

#[test]
fn as_many_as_the_system_grants() {
    // tests/limit.rs goes on to where the clone engine's end is.
    in_each_variant("limit.c", |what, program| {
        let output = start(program, &["11".as_ref()], &[("LIBGOTCHA_NUMGROUPS", "300")]);
        assert!(output.status.success(), "{}", describe(what, &output));
    });
}

#[test]
fn more_with_a_tunable() {
    in_each_variant("limit.c", |what, program| {
        let output = start(program, &["11".as_ref()], &[("LIBGOTCHA_LOADER", "dlmopen")]);
        assert!(String::from_utf8_lossy(&output.stdout).contains("nns=16"), "{}", describe(what, &output));
        let environment = [("GLIBC_TUNABLES", "glibc.rtld.nns=16"), ("LIBGOTCHA_LOADER", "dlmopen")];
        let output = start(program, &["15".as_ref()], &environment);
        assert!(output.status.success(), "{}", describe(what, &output));
        // What is set is not recommended.
        assert!(!String::from_utf8_lossy(&output.stdout).contains("nns=16"), "{}", describe(what, &output));
    });
}

#[test]
fn fewer_by_environment() {
    in_each_variant("limit.c", |what, program| {
        let output = start(program, &["2".as_ref()], &[("LIBGOTCHA_NUMGROUPS", "2")]);
        assert!(output.status.success(), "{}", describe(what, &output));
        assert!(String::from_utf8_lossy(&output.stdout).starts_with("2 at once"), "{}", describe(what, &output));
    });
}

#[test]
fn opened_at_run_time() {
    let library = library_folder().join("libinger.so");
    passes("open.c", &[library.to_str().expect("a path that is text")]);
}

#[test]
fn second_copy_of_the_library() {
    let folder = scratch();
    let copy = folder.path().join("libsecond.so");
    std::fs::copy(library_folder().join("libinger.so"), &copy).expect("the folder is new");
    passes("second.c", &[copy.to_str().expect("a path that is text")]);
}

#[test]
fn streams() {
    in_each_variant("streams.c", |what, program| {
        let folder = scratch();
        let output = start(program, &[folder.path().as_os_str()], &[]);
        assert!(output.status.success(), "{}", describe(what, &output));
        let stdout = String::from_utf8(output.stdout).expect("the program prints text");
        for name in ["main", "a", "b", "c"] {
            let lines = stdout.lines().filter(|line| line.starts_with(&format!("{name} ")));
            let expected = (0..10_000).map(|number| format!("{name} {number} abcdefghijklmnopqrstuvwxyz"));
            assert!(lines.eq(expected), "{what}: lines of {name} are lost, torn or out of order");
        }
        assert_eq!(stdout.lines().count(), 4 * 10_000, "{what}");
        let paused = std::fs::read_to_string(folder.path().join("paused.txt")).expect("the program wrote it");
        assert_eq!(paused, "left open by a function that is paused\n", "{what}");
        let threads = std::fs::read_to_string(folder.path().join("threads.txt")).expect("the program wrote it");
        assert_eq!(threads, "left open by a thread\n", "{what}");
    });
}

#[test]
fn end_of_the_process() {
    // how: status, and what has been written
    let cases = [
        ("return", Some(7), "paused outside handler "),
        ("exit", Some(7), "paused outside inside handler "),
        ("late", Some(7), "paused outside inside handler "),
        ("handler", Some(7), "paused outside handler "),
        ("x: launches", Some(7), "paused outside launched "),
        ("y: launches after exit() inside", Some(7), "paused outside inside launched "),
        ("quick", Some(7), ""),
        ("abort", None, ""),
    ];
    in_each_variant("process_end.c", |what, program| {
        for (how, status, written) in cases {
            let output = start(program, &[how.as_ref()], &[]);
            let what = describe(&format!("{what}, {how}"), &output);
            assert_eq!(output.status.code(), status, "{what}");
            assert_eq!(String::from_utf8_lossy(&output.stdout), written, "{what}");
            assert!(output.stderr.is_empty(), "{what}");
        }
    });
}

#[test]
fn stack_overflow_is_reported() {
    in_each_variant("overflow.c", |what, program| {
        let output = start(program, &[], &[]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{}", describe(what, &output));
        assert!(stderr.contains("stack overflow in a preemptible function"), "{}", describe(what, &output));
    });
}

// ---------------------------------------------------------------------------------- the PNG example and its twin

/// What an example has printed, without what differs from run to run.
fn lines_without_times(output: &Output) -> Vec<String> {
    let stdout = String::from_utf8_lossy(&output.stdout);
    stdout.lines().map(|line| line.split(", in ").next().unwrap_or(line).to_owned()).collect()
}

#[test]
fn png_examples_agree() {
    if !cfg!(has_libpng) {
        assert!(std::env::var_os("INGER_CI").is_none(), "libpng is missing");
        println!("skipped: pkg-config does not find libpng");
        return;
    }
    let folder = scratch();
    let in_c = folder.path().join("png");
    build("../../examples/png.c", &in_c, &["-O2"], &["-linger", "-lpng16"]);
    let in_rust = Path::new(env!("CARGO_BIN_EXE_inger")).with_file_name("examples").join("png");
    assert!(in_rust.exists(), "cargo builds the examples with all tests: cargo build --example png");
    let mut hashes = Vec::new();
    for program in [&in_c, &in_rust] {
        let output = start(program, &[], &[]);
        let what = describe(&program.to_string_lossy(), &output);
        assert!(output.status.success(), "{what}");
        let lines = lines_without_times(&output);
        assert!(lines.iter().any(|line| line == "large: not done after 5 ms, cancelled"), "{what}");
        let hash = lines.iter().find(|line| line.starts_with("large: 4000 x 4000, hash ")).cloned();
        hashes.push(hash.unwrap_or_else(|| panic!("{what}")));
    }
    assert_eq!(hashes[0], hashes[1]);

    let broken = folder.path().join("broken.png");
    std::fs::write(&broken, b"not a PNG file").expect("a file can be written");
    for program in [&in_c, &in_rust] {
        let output = start(program, &[broken.as_os_str()], &[]);
        assert_eq!(output.status.code(), Some(1), "{}", describe(&program.to_string_lossy(), &output));
    }
}

// ---------------------------------------------------------------------------------- the header and the library

/// The header compiles beside `<unistd.h>`, in both orders and languages, and its pause() is the library's
/// unless the program wants it otherwise.
#[test]
fn header_compiles() {
    let folder = scratch();
    let program = folder.path().join("include_order");
    for language in ["c", "c++"] {
        for order in ["-DUNISTD_FIRST", "-DUNISTD_LAST"] {
            for (pause, status) in [("-DPAUSE_YIELDS", 11), ("-DLINGER_NO_PAUSE", 1)] {
                for (variant, flags) in VARIANTS {
                    let flags: Vec<_> = [order, pause, "-x", language].iter().chain(flags).copied().collect();
                    build("include_order.c", &program, &flags, &["-linger"]);
                    let output = start(&program, &[], &[]);
                    let what = format!("{language} {order} {pause} {variant}");
                    assert_eq!(output.status.code(), Some(status), "{}", describe(&what, &output));
                }
            }
        }
    }
}

#[test]
fn header_compiles_with_clang() {
    if Command::new("clang").arg("--version").output().is_err() {
        println!("skipped: clang is missing, gcc has compiled the header");
        return;
    }
    for (language, standard) in [("c", "-std=c11"), ("c++", "-std=c++17")] {
        for order in ["-DUNISTD_FIRST", "-DUNISTD_LAST"] {
            run(Command::new("clang")
                .args(["-fsyntax-only", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Iinclude"])
                .args(["-x", language, standard, order, "tests/c/include_order.c"]));
        }
    }
}

/// The dynamic section and symbols of libinger.so, as readelf tells them.
fn readelf(option: &str) -> String {
    let output = run(Command::new("readelf").args(["--wide", option]).arg(library_folder().join("libinger.so")));
    String::from_utf8(output.stdout).expect("readelf prints text")
}

#[test]
fn exports_are_the_interface() {
    let symbols = readelf("--dyn-syms");
    let mut exported: Vec<_> = symbols
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.len() >= 8 && matches!(fields[4], "GLOBAL" | "WEAK") && fields[6] != "UND")
        .map(|fields| fields[7].to_owned())
        .collect();
    exported.sort();
    let interface = [
        "cancel",
        "launch",
        "linger_backtrace",
        "linger_cancel",
        "linger_cancel_reclaim",
        "linger_concurrency_limit",
        "linger_defer",
        "linger_error",
        "linger_launch",
        "linger_launch_with",
        "linger_pause",
        "linger_resume",
        "linger_set_lock_wait_hook",
        "linger_share_library",
        "linger_stats",
        "linger_undefer",
        "resume",
    ];
    assert_eq!(exported, interface);
    // Each has a manual page, by its name.
    let installer = std::fs::read_to_string("install.sh").expect("a script");
    let (_, pages) = installer.split_once("manual_pages=\"").expect("the list of pages");
    let (pages, _) = pages.split_once('"').expect("its end");
    let mut pages: Vec<_> = pages.split_whitespace().filter(|word| *word != "\\").collect();
    pages.sort_unstable();
    let functions: Vec<_> = interface.into_iter().filter(|name| name.starts_with("linger_")).collect();
    assert_eq!(pages, functions);
    let page = std::fs::read_to_string("packaging/libinger.3").expect("the page");
    for function in functions {
        assert!(page.matches(function).count() >= 2, "{function} is not in packaging/libinger.3");
    }
}

#[test]
fn library_asks_for_nothing_private() {
    let versions = readelf("--version-info");
    assert!(versions.contains("GLIBC_2.34"), "{versions}");
    assert!(!versions.contains("GLIBC_PRIVATE"), "{versions}");
}

#[test]
fn library_has_a_name_and_stays_loaded() {
    let dynamic = readelf("--dynamic");
    assert!(dynamic.contains("Library soname: [libinger.so]"), "{dynamic}");
    assert!(dynamic.contains("NODELETE"), "{dynamic}");
}
