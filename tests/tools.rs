//! Tools that look into programs from outside: valgrind's memcheck reports the errors of functions and no others, perf
//! names what they run, and functions get on under strace. (gdb: tests/debugger.rs.)

#[path = "support/c.rs"]
mod c;

use std::path::Path;
use std::process::{Command, Output, Stdio};

const ENGINES: [&str; 2] = ["dlmopen", "clone"];

/// Whether there is such a tool; where all tests have to run, there is.
fn is_installed(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        return true;
    }
    assert!(std::env::var_os("INGER_CI").is_none(), "{tool} is not installed");
    println!("skipped: {tool} is not installed");
    false
}

fn build(folder: &Path, name: &str, libraries: &[&str]) {
    let inger = c::library_folder();
    c::run(
        c::compiler()
            .args(["-std=gnu11", "-O1", "-g", "-pthread"])
            .arg(format!("tests/c_tools/{name}.c"))
            .arg("-o")
            .arg(folder.join(name))
            .args(["-linger".as_ref(), "-L".as_ref(), inger.as_os_str(), "-L".as_ref(), folder.as_os_str()])
            .args(libraries)
            .arg(format!("-Wl,-rpath,{}:{}", inger.display(), folder.display())),
    );
}

fn run(folder: &Path, engine: &str, environment: &[(&str, &str)], command: &[&str]) -> Output {
    Command::new("timeout")
        .args(["-s", "KILL", "120"])
        .args(command)
        .env("LIBGOTCHA_LOADER", engine)
        // Cargo's search path may lead to an older build.
        .env("LD_LIBRARY_PATH", c::library_folder())
        .envs(environment.iter().copied())
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("timeout(1)")
}

fn text(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

// ---------------------------------------------------------------------------------- valgrind

/// The status with which valgrind ends a program in which it has found an error.
const ERRORS_FOUND: i32 = 99;

fn memcheck(folder: &Path, engine: &str, environment: &[(&str, &str)], error: &str) -> Output {
    let exit_code = format!("--error-exitcode={ERRORS_FOUND}");
    run(folder, engine, environment, &["valgrind", &exit_code, "./memcheck", error])
}

/// No report of what the library does, nor of what copies of the C library do.
#[test]
fn memcheck_reports_nothing() {
    if !is_installed("valgrind") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    build(folder.path(), "memcheck", &[]);
    for engine in ENGINES {
        for environment in [&[][..], &[("LIBGOTCHA_NOFSGSBASE", "1")]] {
            let output = memcheck(folder.path(), engine, environment, "none");
            let text = text(&output);
            assert!(output.status.success() && text.contains("0 errors from 0 contexts"), "{engine}:\n{text}");
        }
    }
}

/// Negative control of the above: each kind of error inside a function is reported, and in the function's line.
#[test]
fn memcheck_reports_errors_inside() {
    if !is_installed("valgrind") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    build(folder.path(), "memcheck", &[]);
    for engine in ENGINES {
        for (error, report) in [
            ("uninitialised", "Conditional jump or move depends on uninitialised value"),
            ("heap", "Invalid read of size 4"),
            ("text", "Invalid read of size 1"),
            ("freed", "Invalid read of size 4"),
        ] {
            let output = memcheck(folder.path(), engine, &[], error);
            let text = text(&output);
            assert_eq!(output.status.code(), Some(ERRORS_FOUND), "{engine}, {error}:\n{text}");
            assert!(text.contains(report) && text.contains(": make_error (memcheck.c:"), "{engine}, {error}:\n{text}");
            assert!(text.contains("1 errors from 1 contexts"), "{engine}, {error}:\n{text}");
        }
    }
}

// ---------------------------------------------------------------------------------- strace

/// Each system call of ours takes longer than a slice, setting the timer too.
#[test]
fn functions_get_on_under_strace() {
    if !is_installed("strace") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    build(folder.path(), "traced", &[]);
    for engine in ENGINES {
        let output = run(folder.path(), engine, &[], &["strace", "-f", "-o", "trace", "./traced"]);
        assert!(output.status.success(), "{engine}: {}\n{}", output.status, text(&output));
    }
}

// ---------------------------------------------------------------------------------- perf

/// Whether the kernel lets this process profile a child of its own. That is for a machine's owner to say, and so not
/// being allowed to is no failure anywhere.
fn may_profile() -> bool {
    // PERF_TYPE_SOFTWARE, the structure's size, PERF_COUNT_SW_CPU_CLOCK (linux/perf_event.h); no kernel, no hypervisor.
    let mut attributes = [0_u64; 8];
    attributes[0] = 1 | 64 << 32;
    attributes[5] = 1 << 5 | 1 << 6;
    // SAFETY: the structure is as long as it says; the descriptor is closed at once, or there is none.
    let descriptor = unsafe { libc::syscall(libc::SYS_perf_event_open, attributes.as_ptr(), 0, -1, -1, 0) };
    if descriptor >= 0 {
        // SAFETY: the descriptor is nobody else's.
        unsafe { libc::close(descriptor as i32) };
        return true;
    }
    println!("skipped: perf_event_open: {}", std::io::Error::last_os_error());
    false
}

/// The share of samples that `perf report` gives to a symbol.
fn percents(report: &str, library: &str, symbol: &str) -> f64 {
    let lines = report.lines().filter(|line| line.contains(library) && line.contains(symbol));
    let shares = lines.filter_map(|line| line.trim_start().split_once('%')?.0.parse::<f64>().ok());
    shares.sum()
}

/// Time that functions spend in copies of libraries is told under the names of the libraries' functions.
#[test]
fn perf_names_functions_of_copies() {
    if !is_installed("perf") || !may_profile() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let library = folder.path().join("libprofiled.so");
    let source = "tests/c_tools/profiled_library.c";
    c::run(c::compiler().args(["-O1", "-shared", "-fPIC", source, "-o"]).arg(&library));
    build(folder.path(), "profiled", &["-lprofiled"]);
    for engine in ENGINES {
        let record = ["perf", "record", "-q", "-N", "-e", "cpu-clock:u", "-o", "data", "./profiled"];
        let output = run(folder.path(), engine, &[], &record);
        assert!(output.status.success(), "{engine}:\n{}", text(&output));
        let report =
            text(&run(folder.path(), engine, &[], &["perf", "report", "--stdio", "-s", "dso,sym", "-i", "data"]));
        let (checksums, searches) =
            (percents(&report, "libprofiled.so", "profiled_checksum"), percents(&report, "libc.so.6", "memmem"));
        println!("{engine}: {checksums} % in profiled_checksum, {searches} % in memmem");
        assert!(checksums > 5.0 && searches > 5.0 && checksums + searches > 80.0, "{engine}:\n{report}");
    }
}
