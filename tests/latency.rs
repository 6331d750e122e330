//! How late a timeout comes, and that it never comes early.
//!
//! The distribution is printed to standard error. What is asserted of it is only what a busy machine cannot
//! break: the numbers that the README promises are benchmarks' to show.

use inger::{Error, Linger, launch, resume, timeout};
use std::io::Write as _;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

const ROUNDS: usize = 400;
const BUDGET: Duration = Duration::from_millis(1);
/// For a median, on a machine with other things to do.
const SANE: Duration = Duration::from_millis(5);

/// One measurement at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Calls `slice` [`ROUNDS`] times, which is to take [`BUDGET`]; the median by which it is late. What it returns is
/// reclaimed.
fn median_overshoot(what: &str, mut slice: impl FnMut() -> Option<Linger<'static, ()>>) -> Duration {
    let mut overshoots: Vec<Duration> = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        let start = Instant::now();
        let linger = slice();
        let elapsed = start.elapsed();
        linger.into_iter().for_each(reclaim);
        let overshoot = elapsed.checked_sub(BUDGET);
        overshoots.push(overshoot.unwrap_or_else(|| panic!("{what}, round {round}: early, after {elapsed:?}")));
    }
    overshoots.sort();
    let (median, worst) = (overshoots[ROUNDS / 2], overshoots[ROUNDS - 1]);
    let ninth = overshoots[ROUNDS * 9 / 10];
    let _ = writeln!(
        std::io::stderr(),
        "{what}: {} us median overshoot of {BUDGET:?}, 90% {} us, worst {} us",
        median.as_micros(),
        ninth.as_micros(),
        worst.as_micros()
    );
    median
}

fn budget_us() -> u64 {
    BUDGET.as_micros() as u64
}

fn spin() {
    loop {
        std::hint::spin_loop();
    }
}

fn reclaim(linger: Linger<'_, ()>) {
    assert!(linger.is_continuation());
    // SAFETY: the functions of this file share nothing.
    unsafe { linger.reclaim() };
}

#[test]
fn a_launch_is_never_early() {
    let _alone = alone();
    let median = median_overshoot("launch of a loop", || Some(launch(spin, budget_us()).unwrap()));
    assert!(median < SANE, "{median:?}");
}

#[test]
fn a_resume_is_never_early() {
    let _alone = alone();
    let mut linger = launch(spin, 0).unwrap();
    let median = median_overshoot("resume of a loop", || {
        resume(&mut linger, budget_us()).unwrap();
        None
    });
    reclaim(linger);
    assert!(median < SANE, "{median:?}");
}

#[test]
fn a_blocked_function_is_stopped_in_time() {
    let _alone = alone();
    let mut linger = launch(|| std::thread::sleep(Duration::from_secs(1_000)), 0).unwrap();
    let median = median_overshoot("resume of a sleep", || {
        resume(&mut linger, budget_us()).unwrap();
        None
    });
    reclaim(linger);
    assert!(median < SANE, "{median:?}");
}

/// Few rounds: each abandons its function.
#[test]
fn a_timeout_is_never_early() {
    let _alone = alone();
    for _ in 0..20 {
        let start = Instant::now();
        assert_eq!(timeout(BUDGET, spin), Err(Error::TimedOut));
        assert!(start.elapsed() >= BUDGET, "{:?}", start.elapsed());
    }
}

/// A short slice after a long one, and the reverse: the timer that is already set serves, or does not.
#[test]
fn slices_of_changing_length_are_never_early() {
    let _alone = alone();
    let mut linger = launch(spin, 0).unwrap();
    for round in 0_u64..500 {
        let slice_us = [30, 2_000, 200, 1_000, 60][round as usize % 5] + round % 7;
        let start = Instant::now();
        resume(&mut linger, slice_us).unwrap();
        let elapsed = start.elapsed();
        assert!(elapsed >= Duration::from_micros(slice_us), "{slice_us} us: early, after {elapsed:?}");
    }
    reclaim(linger);
}
