//! Cancellation: by dropping, by `reclaim`, by `timeout`; and functions that end their thread.

mod support;

use inger::{Error, Linger, launch, pause, resume, timeout};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};
use support::{compute, compute_for_ever, slots};

/// What a function that is stopped at a random moment may be in the middle of.
fn busy_in_libraries() {
    loop {
        let mut words: Vec<String> = (0..50).map(|number| format!("{:08x}", number * 7919)).collect();
        words.sort();
        // SAFETY: the string is terminated, and nobody changes the environment.
        std::hint::black_box(unsafe { libc::getenv(c"PATH".as_ptr()) });
        std::hint::black_box(words.concat());
        // SAFETY: the results are copied out before the next call in this libset.
        unsafe {
            let time: libc::time_t = 1_000_000_000;
            std::hint::black_box(*libc::localtime(&time));
        }
    }
}

#[test]
fn launches_after_random_drops_are_clean() {
    let _slots = slots(1);
    for number in 0..300_u64 {
        let linger = launch(busy_in_libraries, 20 + number * 7 % 400).unwrap();
        assert!(linger.is_continuation());
        drop(linger);
        let text = launch(|| format!("{number} {}", std::env::vars().count() > 0), u64::MAX).unwrap().completion();
        assert_eq!(text, Some(format!("{number} true")));
    }
}

#[test]
fn launches_after_random_reclaims_are_clean() {
    let _slots = slots(1);
    for number in 0..2_000_u64 {
        let linger = launch(busy_in_libraries, 20 + number * 7 % 400).unwrap();
        assert!(linger.is_continuation());
        // SAFETY: nothing outside points into the function.
        unsafe { linger.reclaim() };
        let text = launch(|| format!("{number} {}", std::env::vars().count() > 0), u64::MAX).unwrap().completion();
        assert_eq!(text, Some(format!("{number} true")));
    }
}

/// What the C library keeps for itself is pristine after a cancel, and only a cache otherwise.
#[test]
fn library_state_is_rolled_back() {
    /// The generator's first numbers tell whether it was seeded.
    fn first_numbers() -> [i32; 3] {
        // SAFETY: plain calls.
        unsafe { [libc::rand(), libc::rand(), libc::rand()] }
    }
    let _slots = slots(1);
    let seed = || {
        // SAFETY: a plain call.
        unsafe { libc::srand(12345) };
        pause();
    };
    let linger = launch(seed, u64::MAX).unwrap();
    // SAFETY: nothing outside points into the function.
    unsafe { linger.reclaim() };
    let after_reclaim = launch(first_numbers, u64::MAX).unwrap().completion().unwrap();
    let seed_and_compute = || {
        // SAFETY: a plain call.
        unsafe { libc::srand(12345) };
        compute_for_ever();
    };
    drop(launch(seed_and_compute, 5_000).unwrap());
    let after_drop = launch(first_numbers, u64::MAX).unwrap().completion().unwrap();
    drop(launch(seed, u64::MAX).unwrap());
    let after_unwinding = launch(first_numbers, u64::MAX).unwrap().completion().unwrap();
    // As a program that never calls srand() finds it: srand(1).
    let pristine = [1804289383, 846930886, 1681692777];
    assert_eq!([after_reclaim, after_drop, after_unwinding], [pristine; 3]);
}

#[test]
fn timeout_returns_a_result_that_comes_in_time() {
    let _slots = slots(1);
    let mut numbers = vec![3, 1, 2];
    let length = timeout(Duration::from_secs(10), || {
        numbers.sort();
        numbers.len()
    });
    assert_eq!(length, Ok(3));
    assert_eq!(numbers, [1, 2, 3]);
}

#[test]
fn timeout_cancels_what_takes_longer_and_never_early() {
    let _slots = slots(1);
    let steps = AtomicUsize::new(0);
    for limit in
        [Duration::from_nanos(1), Duration::from_micros(50), Duration::from_micros(1500), Duration::from_millis(7)]
    {
        let start = Instant::now();
        let result = timeout(limit, || {
            loop {
                steps.fetch_add(1, Relaxed);
            }
        });
        assert_eq!(result, Err::<(), _>(Error::TimedOut));
        assert!(start.elapsed() >= limit);
        let before = steps.load(Relaxed);
        compute(Duration::from_millis(1));
        assert_eq!(steps.load(Relaxed), before);
    }
}

#[test]
fn timeout_takes_any_duration() {
    let _slots = slots(1);
    assert_eq!(timeout(Duration::MAX, || 1), Ok(1));
    assert_eq!(timeout(Duration::from_secs(1 << 40), || 1), Ok(1));
    // Not a microsecond to run for: it never does.
    let runs = AtomicUsize::new(0);
    assert_eq!(timeout(Duration::ZERO, || runs.fetch_add(1, Relaxed)), Err(Error::TimedOut));
    assert_eq!(runs.load(Relaxed), 0);
    // It has no caller to pause for.
    assert_eq!(timeout(Duration::from_secs(10), pause), Err(Error::TimedOut));
}

fn end_thread() {
    // SAFETY: the frames between here and the function's base own nothing.
    unsafe { libc::pthread_exit(std::ptr::null_mut()) }
}

#[test]
fn ending_the_thread_ends_the_function() {
    let _slots = slots(2);
    for _ in 0..100 {
        assert_eq!(launch(end_thread, u64::MAX).unwrap_err(), Error::Ended);
        let work = || {
            pause();
            end_thread();
        };
        let mut linger = launch(work, u64::MAX).unwrap();
        assert_eq!(resume(&mut linger, u64::MAX).unwrap_err(), Error::Ended);
        assert!(matches!(linger, Linger::Poison));
        assert_eq!(timeout(Duration::from_secs(10), end_thread), Err(Error::Ended));
        assert!(launch(|| (), u64::MAX).unwrap().is_completion());
    }
}

/// A function that cannot be resumed is dropped where its launcher can be preempted: that waits for threads that it has started.
#[test]
fn a_launcher_does_not_wait_unpreempted() {
    const WAIT: Duration = Duration::from_secs(2);
    let _slots = slots(2);
    let starts_a_thread = || {
        thread::spawn(|| thread::sleep(WAIT));
        end_thread();
    };
    let start = Instant::now();
    let launches = || launch(starts_a_thread, u64::MAX).unwrap_err();
    let mut outer = launch(launches, 20_000).unwrap();
    assert!(start.elapsed() < WAIT);
    assert!(outer.is_continuation());
    assert!(resume(&mut outer, u64::MAX).unwrap().is_completion());
    assert_eq!(outer.completion(), Some(Error::Ended));
}

#[test]
fn ending_the_thread_in_an_inner_function_ends_that_only() {
    let _slots = slots(2);
    let outer = launch(|| (launch(end_thread, u64::MAX).unwrap_err(), "outer goes on"), u64::MAX);
    assert_eq!(outer.unwrap().completion(), Some((Error::Ended, "outer goes on")));
}

/// In a child, as it leaves nothing to launch with.
#[test]
fn there_is_a_limit_to_abandoned_functions() {
    const NAME: &str = "there_is_a_limit_to_abandoned_functions";
    if !support::is_child(NAME) {
        let errors = support::succeed(&mut support::child(NAME));
        assert!(errors.contains("limit met"), "{errors}");
        return;
    }
    let error = (0..20_000).find_map(|_| launch(compute_for_ever, 1).err());
    let Some(Error::TooManyAbandoned { count }) = error else { panic!("{error:?}") };
    assert_eq!(count, 10_000);
    assert!(Error::TooManyAbandoned { count }.to_string().contains("10000 functions"));
    writeln!(std::io::stderr(), "limit met").unwrap();
}

#[test]
fn cancelling_one_function_does_not_disturb_another() {
    let _slots = slots(3);
    let mut survivor = launch(
        || {
            let mut total = 0;
            for number in 0..100 {
                total += number;
                pause();
            }
            total
        },
        u64::MAX,
    )
    .unwrap();
    for step in 0..100 {
        let victim = launch(compute_for_ever, 20).unwrap();
        if step % 2 == 0 {
            drop(victim);
        } else {
            // SAFETY: nothing outside points into the function.
            unsafe { victim.reclaim() };
        }
        resume(&mut survivor, u64::MAX).unwrap();
    }
    assert_eq!(survivor.completion(), Some(4950));
}
