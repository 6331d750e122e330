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

#[test]
fn backtrace_leads_to_the_launcher() {
    if Command::new("gdb").arg("--version").stdout(Stdio::null()).status().is_err() {
        assert!(std::env::var_os("INGER_CI").is_none(), "gdb is not installed");
        println!("skipped: gdb is not installed");
        return;
    }
    let program = std::env::current_exe().expect("a running program");
    let begin = Instant::now();
    // A debugger that hangs is killed, and what it has not written is missed below.
    let output = Command::new("timeout")
        .args(["--signal=KILL", "60", "gdb", "-nx", "-q", "-batch"])
        .args(["-iex", "set debuginfod enabled off"])
        .args(["-ex", "break inger_debugged_function", "-ex", "run", "-ex", "delete"])
        .args(["-ex", "break snprintf", "-ex", "continue", "-ex", "backtrace", "-ex", "delete", "-ex", "continue"])
        .arg("--args")
        .arg(&program)
        .args(["debuggee", "--exact", "--nocapture", "--test-threads=1"])
        .env(DEBUGGEE, "1")
        .stdin(Stdio::null())
        .output()
        .expect("timeout is part of coreutils");
    let text = String::from_utf8_lossy(&output.stdout);
    let context = || format!("after {:?}:\n{text}\n{}", begin.elapsed(), String::from_utf8_lossy(&output.stderr));
    assert!(begin.elapsed() < Duration::from_secs(60), "{}", context());
    let frames: Vec<_> = text.lines().filter(|line| line.starts_with('#')).collect();
    let position = |name: &str| frames.iter().position(|frame| frame.contains(name));
    let (library, function) = (position("snprintf"), position("inger_debugged_function"));
    let base = position("<signal handler called>");
    let launcher = frames.iter().rposition(|frame| frame.contains("debugger::debuggee"));
    assert!(library.is_some() && library < function && function < base && base < launcher, "{}", context());
    assert!(text.contains("digits: Some(5)"), "{}", context());
}
