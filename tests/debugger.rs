//! gdb on a program with libsets: it starts, stops inside a function and inside a library's copy, and its backtrace
//! leads from there to the launcher. (It once waited for ever: see `descriptor_path` in engine_dlmopen.c.)

use inger::launch;
use std::ffi::c_int;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const DEBUGGEE: &str = "INGER_DEBUGGEE";

/// A breakpoint's place.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn inger_debugged_function(number: c_int) -> c_int {
    let mut text = [0_u8; 16];
    // SAFETY: the buffer is as long as said, and the format fits its argument.
    unsafe { libc::snprintf(text.as_mut_ptr().cast(), text.len(), c"%d".as_ptr(), number) }
}

/// The program that is debugged: this test binary, run again.
#[test]
fn debuggee() {
    if std::env::var_os(DEBUGGEE).is_some() {
        let linger = launch(|| inger_debugged_function(12_345), u64::MAX).expect("a launch");
        println!("digits: {:?}", linger.completion());
    }
}

/// What gdb writes; `None` without gdb.
fn debug(environment: &[(&str, &str)]) -> Option<String> {
    if Command::new("gdb").arg("--version").stdout(Stdio::null()).status().is_err() {
        assert!(std::env::var_os("INGER_CI").is_none(), "gdb is not installed");
        println!("skipped: gdb is not installed");
        return None;
    }
    let program = std::env::current_exe().expect("a running program");
    let begin = Instant::now();
    // A debugger that hangs is killed, and what it has not written is missed by the callers.
    let output = Command::new("timeout")
        .args(["--signal=KILL", "60", "gdb", "-nx", "-q", "-batch"])
        .args(["-iex", "set debuginfod enabled off"])
        .args(["-ex", "break inger_debugged_function", "-ex", "run", "-ex", "delete"])
        .args(["-ex", "break snprintf", "-ex", "continue", "-ex", "backtrace", "-ex", "delete"])
        .args(["-ex", "finish", "-ex", "info locals", "-ex", "continue"])
        .arg("--args")
        .arg(&program)
        .args(["debuggee", "--exact", "--nocapture", "--test-threads=1"])
        .env(DEBUGGEE, "1")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("timeout is part of coreutils");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(begin.elapsed() < Duration::from_secs(60), "after {:?}:\n{text}\n{errors}", begin.elapsed());
    assert!(text.contains("digits: Some(5)"), "{text}\n{errors}");
    Some(text)
}

/// A breakpoint in the copy's `snprintf` is hit, and the frames are in order.
fn stops_in_the_copy(text: &str) -> bool {
    let frames: Vec<_> = text.lines().filter(|line| line.starts_with('#')).collect();
    let position = |name: &str| frames.iter().position(|frame| frame.contains(name));
    let (library, function) = (position("snprintf"), position("inger_debugged_function"));
    let base = position("<signal handler called>");
    let launcher = frames.iter().rposition(|frame| frame.contains("debugger::debuggee"));
    library.is_some() && library < function && function < base && base < launcher
}

#[test]
fn backtrace_leads_from_a_namespace_to_the_launcher() {
    if let Some(text) = debug(&[("LIBGOTCHA_LOADER", "dlmopen")]) {
        assert!(stops_in_the_copy(&text), "{text}");
    }
}

#[test]
fn backtrace_leads_from_a_clone_to_the_launcher() {
    if let Some(text) = debug(&[("LIBGOTCHA_LOADER", "clone"), ("LIBGOTCHA_GDB", "1")]) {
        assert!(stops_in_the_copy(&text), "{text}");
        // Release builds have line tables alone.
        if cfg!(debug_assertions) {
            assert!(text.contains("number = 12345") || text.contains("number=12345"), "{text}");
            assert!(text.contains("text = "), "{text}");
        }
    }
}

/// Negative control of the above.
#[test]
fn clones_are_not_announced_unasked() {
    if let Some(text) = debug(&[("LIBGOTCHA_LOADER", "clone")]) {
        assert!(!stops_in_the_copy(&text), "{text}");
    }
}
