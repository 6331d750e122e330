//! What the tests of the Rust interface share.
#![allow(dead_code, reason = "each test binary uses its own part")]

use inger::{Linger, resume};
use std::fs::File;
use std::os::fd::FromRawFd;
use std::process::{Command, Output};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How many unfinished functions the tests of one binary may have at a time, on however many threads
/// the harness runs them: fewer than there are libsets.
const SLOTS: usize = 8;
static FREE: Mutex<usize> = Mutex::new(SLOTS);
static FREED: Condvar = Condvar::new();

fn free() -> MutexGuard<'static, usize> {
    FREE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The right to have some unfinished functions.
#[must_use]
pub(crate) struct SlotsGuard(usize);

/// Waits until this test may have `count` unfinished functions.
pub(crate) fn slots(count: usize) -> SlotsGuard {
    assert!(count <= SLOTS);
    let mut free = FREED.wait_while(free(), |free| *free < count).unwrap_or_else(|poisoned| poisoned.into_inner());
    *free -= count;
    SlotsGuard(count)
}

impl Drop for SlotsGuard {
    fn drop(&mut self) {
        *free() += self.0;
        FREED.notify_all();
    }
}

/// Computes for about this long, without a system call. Time that it is not running does not count.
pub(crate) fn compute(time: Duration) {
    /// Between two looks at the clock: more means that it was stopped, or that something else was run.
    const LONGEST_STEP: Duration = Duration::from_micros(10);
    let (mut left, mut last) = (time, Instant::now());
    while !left.is_zero() {
        let now = Instant::now();
        let step = now - last;
        if step < LONGEST_STEP {
            left = left.saturating_sub(step);
        }
        last = now;
    }
}

/// Computes for ever.
pub(crate) fn compute_for_ever() {
    loop {
        std::hint::spin_loop();
    }
}

/// Resumes a function in slices until it has returned; also how many slices that took.
pub(crate) fn finish<T: Send>(mut linger: Linger<'_, T>, slice_us: u64) -> (T, usize) {
    let mut slices = 0;
    while linger.is_continuation() {
        resume(&mut linger, slice_us).expect("a function that can go on");
        slices += 1;
    }
    (linger.completion().expect("the function's result"), slices)
}

/// Both ends of a pipe. (`std::io::pipe` is newer than the declared Rust version.)
pub(crate) fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: the array is as long as the kernel expects; the descriptors are new, and nobody else's.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1]))
    }
}

/// Set in a child: which scenario it is to run.
const SCENARIO: &str = "INGER_TEST_SCENARIO";

/// Is this process a child that is to run the scenario of this test?
pub(crate) fn is_child(test: &str) -> bool {
    std::env::var(SCENARIO).is_ok_and(|scenario| scenario == test)
}

/// The command that runs this binary's test `test` in a process of its own, where [`is_child`] holds.
pub(crate) fn child(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this binary's path"));
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(SCENARIO, test);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LIBGOTCHA_") && name != "LIBGOTCHA_LOADER" {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a child to its end, which must come soon.
pub(crate) fn output(command: &mut Command) -> Output {
    use std::process::Stdio;
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.expect("a child process");
    let pid = child.id();
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let late = is_done.recv_timeout(Duration::from_secs(60)).is_err();
        if late {
            // SAFETY: the child is not waited for before this thread has ended.
            unsafe { libc::kill(pid as i32, libc::SIGKILL) };
        }
        late
    });
    let output = child.wait_with_output().expect("the child's output");
    let _ = done.send(());
    assert!(!watchdog.join().expect("the watchdog"), "the child hung: {output:?}");
    output
}

/// Runs a child, which must succeed; returns its standard error.
#[track_caller]
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = output(command);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// In a process of its own, which is killed if it hangs. Returns what it has printed.
pub(crate) fn watched(test: &str, body: impl FnOnce()) -> String {
    if is_child(test) {
        body();
        return String::new();
    }
    let output = output(&mut child(test));
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Lets functions take turns until all have returned; how many slices ended. In between, `between`.
pub(crate) fn take_turns<T: Send>(functions: &mut [Linger<'_, T>], slice_us: u64, mut between: impl FnMut()) -> usize {
    let mut preemptions = 0;
    while functions.iter().any(Linger::is_continuation) {
        for function in functions.iter_mut().filter(|function| function.is_continuation()) {
            resume(function, slice_us).unwrap();
            preemptions += usize::from(function.is_continuation());
            between();
        }
    }
    preemptions
}
