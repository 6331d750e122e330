//! At the limit of queued signals, making a timer fails with `EAGAIN`, and works again below it.
//!
//! The limit is the process's, so the test runs itself in a child.

use libsignal::{Clock, Errno, Signal, Timer, gettid};
use std::env;
use std::process::Command;

const IN_CHILD: &str = "LIBSIGNAL_TEST_PENDING_LIMIT";
const LIMIT: libc::rlim_t = 16;

#[test]
fn too_many_timers_are_refused() {
    if env::var_os(IN_CHILD).is_some() {
        return exhaust();
    }
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", "too_many_timers_are_refused", "--nocapture"])
        .env(IN_CHILD, "1")
        .output()
        .unwrap();
    assert!(
        output.status.success() && String::from_utf8_lossy(&output.stdout).contains("1 passed"),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Makes timers until there may be no more.
fn exhaust() {
    let new_timer = || Timer::new(Clock::Monotonic, Signal::ALRM, gettid(), 0);
    let mut previous = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `previous` is live.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_SIGPENDING, &mut previous) };
    assert_eq!(result, 0);
    let set_limit = |limit| {
        let limit = libc::rlimit { rlim_cur: limit, ..previous };
        // SAFETY: `limit` is live.
        let result = unsafe { libc::setrlimit(libc::RLIMIT_SIGPENDING, &limit) };
        assert_eq!(result, 0);
    };

    set_limit(LIMIT.min(previous.rlim_max));
    let mut timers = Vec::new();
    // What other processes of the same user have queued counts, too; so there may be fewer.
    let error = loop {
        match new_timer() {
            Ok(timer) => timers.push(timer),
            Err(error) => break error,
        }
        assert!(timers.len() as libc::rlim_t <= LIMIT, "the limit has no effect");
    };
    assert_eq!(error, Errno(libc::EAGAIN));

    set_limit(previous.rlim_cur);
    timers.push(new_timer().expect("below the limit it works"));
    let id = timers.last().unwrap().id();
    drop(timers);
    let again = new_timer().expect("dropping timers gives their places back");
    assert_ne!(again.id(), id, "the kernel does not reuse a number at once");
}
