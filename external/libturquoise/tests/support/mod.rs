//! What the tests share.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::process::{Command, Output};
use std::sync::mpsc::Sender;
use std::task::{RawWakerVTable, Waker};
use std::time::{Duration, Instant};
use turquoise::{Config, Runtime};

pub(crate) fn runtime(threads: usize, quantum: Duration) -> Runtime {
    Runtime::new(Config { threads, quantum, ..Config::default() }).expect("functions can be launched here")
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

pub(crate) fn compute_for_ever() {
    loop {
        std::hint::spin_loop();
    }
}

/// Waits until no task is left: those that are joined may have some instructions to go.
pub(crate) fn all_finish(runtime: &Runtime) {
    while runtime.stats().tasks > 0 {
        std::thread::yield_now();
    }
}

/// Ends the calling thread, which a function is to itself.
pub(crate) fn end_thread() {
    // SAFETY: its frames hold nothing that needs to be dropped.
    unsafe { libc::pthread_exit(std::ptr::null_mut()) }
}

/// Tells `begins` when it is being cloned, and never comes to the end of that.
pub(crate) fn endless_waker(begins: Sender<()>) -> Waker {
    const TABLE: RawWakerVTable = RawWakerVTable::new(
        |sender| {
            // SAFETY: a waker that is being cloned was not dropped.
            let begins = unsafe { &*sender.cast::<Sender<()>>() };
            begins.send(()).expect("the test waits for it");
            compute_for_ever();
            unreachable!()
        },
        |_| (),
        |_| (),
        // SAFETY: what the waker was made of. It has no clones, and is not woken by value.
        |sender| drop(unsafe { Box::from_raw(sender.cast::<Sender<()>>().cast_mut()) }),
    );
    let sender = Box::into_raw(Box::new(begins));
    // SAFETY: the functions may be called on any thread, as a sender is Send and Sync. They keep to what is said there.
    unsafe { Waker::new(sender.cast(), &TABLE) }
}

/// What hangs says so, and ends the test's process.
pub(crate) fn watched(test: impl FnOnce()) {
    const LONGEST: Duration = Duration::from_secs(200);
    let (over, is_over) = std::sync::mpsc::channel::<()>();
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    let watchdog = std::thread::spawn(move || {
        if is_over.recv_timeout(LONGEST) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            eprintln!("{name} hangs");
            std::process::abort();
        }
    });
    test();
    drop(over);
    watchdog.join().expect("it does not panic");
}

const SCENARIO: &str = "TURQUOISE_TEST_SCENARIO";

pub(crate) fn is_child(test: &str) -> bool {
    std::env::var(SCENARIO).is_ok_and(|scenario| scenario == test)
}

/// Runs this binary's test `test` in a process of its own, where [`is_child`] holds.
pub(crate) fn child(test: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().expect("this binary's path"));
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(SCENARIO, test);
    command.envs(variables.iter().copied()).output().expect("it can be run again")
}
