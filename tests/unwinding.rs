//! Cancellation of functions that have stopped in `pause`: they are unwound from there, and run their destructors.

mod support;

use inger::{Linger, launch, no_preempt, pause, resume};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use support::{compute, compute_for_ever, finish, slots};

const SOON: Duration = Duration::from_secs(100);

/// Counts its destruction, which takes a while.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        compute(Duration::from_micros(20));
        self.0.fetch_add(1, Relaxed);
    }
}

thread_local!(static ON_EXIT: Cell<Option<Counted<'static>>> = const { Cell::new(None) });

fn counter() -> &'static AtomicUsize {
    Box::leak(Box::default())
}

#[test]
fn dropping_runs_destructors() {
    let _slots = slots(1);
    let drops = counter();
    // More than may be abandoned.
    for round in 0..11_000 {
        let captured = Counted(drops);
        let linger = launch(
            move || {
                let _captured = captured;
                ON_EXIT.set(Some(Counted(drops)));
                let _on_the_heap = Box::new(Counted(drops));
                pause();
                unreachable!("it goes no further");
            },
            u64::MAX,
        );
        let linger: Linger<'_, ()> = linger.unwrap();
        assert!(linger.yielded());
        assert_eq!(drops.load(Relaxed), round * 3);
        drop(linger);
        assert_eq!(drops.load(Relaxed), (round + 1) * 3);
    }
}

/// Also where it is dropped by a function that is stopped meanwhile, and on another kernel thread.
#[test]
fn dropping_elsewhere() {
    let _slots = slots(2);
    for _ in 0..50 {
        let drops = AtomicUsize::new(0);
        let work = || {
            let _several = [(); 10].map(|()| Counted(&drops));
            pause();
        };
        let inner = launch(work, u64::MAX).unwrap();
        let (_, slices) = finish(launch(|| drop(inner), 50).unwrap(), 50);
        assert!(slices > 0, "200 us of destructors");
        assert_eq!(drops.swap(0, Relaxed), 10);
        let inner = launch(work, u64::MAX).unwrap();
        thread::scope(|scope| scope.spawn(|| drop(inner)).join()).unwrap();
        assert_eq!(drops.load(Relaxed), 10);
    }
}

/// What catches the unwinding goes on; the next `pause` unwinds anew, and none does while destructors run.
#[test]
fn caught_and_paused_again() {
    struct PausesOnDrop<'a>(&'a AtomicUsize);
    impl Drop for PausesOnDrop<'_> {
        fn drop(&mut self) {
            pause();
            self.0.fetch_add(1, Relaxed);
        }
    }
    thread_local!(static PAUSES_ON_EXIT: Cell<Option<PausesOnDrop<'static>>> = const { Cell::new(None) });
    let _slots = slots(1);
    let steps = counter();
    let linger = launch(
        || {
            PAUSES_ON_EXIT.set(Some(PausesOnDrop(steps)));
            for _ in 0..3 {
                let caught = catch_unwind(|| {
                    let _pauses = PausesOnDrop(steps);
                    pause();
                });
                assert!(caught.is_err());
            }
            steps.fetch_add(10, Relaxed);
        },
        u64::MAX,
    );
    drop(linger.unwrap());
    assert_eq!(steps.load(Relaxed), 14);
}

/// A destructor that is running, because of a panic or because the thread-locals go, is not unwound.
#[test]
fn stopped_in_a_destructor() {
    struct PausesOnDrop;
    impl Drop for PausesOnDrop {
        fn drop(&mut self) {
            pause();
        }
    }
    thread_local!(static PAUSES_ON_EXIT: Cell<Option<PausesOnDrop>> = const { Cell::new(None) });
    let _slots = slots(1);
    let panicking = || {
        let _pauses = PausesOnDrop;
        std::panic::resume_unwind(Box::new(1));
    };
    let exiting = || PAUSES_ON_EXIT.set(Some(PausesOnDrop));
    for _ in 0..10 {
        for linger in [launch(panicking, u64::MAX).unwrap(), launch(exiting, u64::MAX).unwrap()] {
            assert!(linger.yielded());
            drop(linger);
        }
        let mut linger = launch(panicking, u64::MAX).unwrap();
        let caught = catch_unwind(AssertUnwindSafe(|| resume(&mut linger, u64::MAX).map(drop)));
        assert_eq!(*caught.unwrap_err().downcast::<i32>().unwrap(), 1);
    }
}

#[test]
fn while_the_caller_panics() {
    let _slots = slots(1);
    let drops = AtomicUsize::new(0);
    let caught = catch_unwind(|| {
        let _linger = launch(
            || {
                let _counted = Counted(&drops);
                pause();
            },
            u64::MAX,
        );
        std::panic::resume_unwind(Box::new(()));
    });
    assert!(caught.is_err());
    assert_eq!(drops.load(Relaxed), 1);
}

/// A critical section that it has paused in ends.
#[test]
fn in_a_critical_section() {
    let _slots = slots(1);
    drop(launch(|| no_preempt(|| no_preempt(pause)), u64::MAX).unwrap());
    for _ in 0..3 {
        let linger = launch(compute_for_ever, 100).unwrap();
        assert!(linger.is_continuation());
        // SAFETY: it shares nothing.
        unsafe { linger.reclaim() };
    }
}

/// Threads that it has started in a scope are waited for where they are joined, inside.
#[test]
fn with_scoped_threads() {
    let _slots = slots(1);
    let steps = AtomicUsize::new(0);
    let linger = launch(
        || {
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        thread::sleep(Duration::from_millis(20));
                        steps.fetch_add(1, Relaxed);
                    });
                }
                pause();
            });
        },
        u64::MAX,
    );
    drop(linger.unwrap());
    assert_eq!(steps.load(Relaxed), 2);
}

/// Those that it holds are unwound with it; those that it has given away go on.
#[test]
fn functions_inside() {
    let _slots = slots(3);
    for _ in 0..20 {
        let drops = AtomicUsize::new(0);
        let given = Mutex::new(None);
        let work = || {
            let _counted = Counted(&drops);
            pause();
            7
        };
        let outer = launch(
            || {
                let _inner = launch(work, u64::MAX).unwrap();
                *given.lock().unwrap() = Some(launch(work, u64::MAX).unwrap());
                pause();
            },
            u64::MAX,
        );
        drop(outer.unwrap());
        assert_eq!(drops.load(Relaxed), 1);
        let mut given = given.lock().unwrap().take().unwrap();
        resume(&mut given, u64::MAX).unwrap();
        assert_eq!(given.completion(), Some(7));
        assert_eq!(drops.load(Relaxed), 2);
    }
}

/// As the caller of `cancel_within` finds a function.
#[test]
fn within_a_time() {
    let _slots = slots(1);
    let drops = AtomicUsize::new(0);
    let pauses_after = |time: Duration| {
        let counted = Counted(&drops);
        let drops = &drops;
        move || {
            let _both = (counted, Counted(drops));
            compute(time);
            pause();
            7
        }
    };
    // It comes to its next pause, or stands there already.
    for budget_us in [50, u64::MAX] {
        let linger = launch(pauses_after(Duration::from_millis(2)), budget_us).unwrap();
        assert_eq!(linger.cancel_within(SOON), None);
        assert_eq!(drops.swap(0, Relaxed), 2);
    }
    // It does not.
    let linger = launch(pauses_after(SOON), 50).unwrap();
    assert_eq!(linger.cancel_within(Duration::from_millis(2)), None);
    assert_eq!(drops.load(Relaxed), 0);
    let linger = launch(pauses_after(SOON), 50).unwrap();
    assert_eq!(linger.cancel_within(Duration::ZERO), None);
    assert_eq!(drops.load(Relaxed), 0);
    // It has not started.
    assert_eq!(launch(pauses_after(SOON), 0).unwrap().cancel_within(SOON), None);
    assert_eq!(drops.swap(0, Relaxed), 1);
    // It returns before.
    let returns = || {
        compute(Duration::from_millis(1));
        8
    };
    assert_eq!(launch(returns, 50).unwrap().cancel_within(SOON), Some(8));
    assert_eq!(launch(returns, u64::MAX).unwrap().cancel_within(Duration::ZERO), Some(8));
    // It panics.
    let panics = || {
        compute(Duration::from_millis(1));
        std::panic::resume_unwind(Box::new(9));
    };
    let linger: Linger<'_, ()> = launch(panics, 50).unwrap();
    let caught = catch_unwind(AssertUnwindSafe(|| linger.cancel_within(SOON)));
    assert_eq!(*caught.unwrap_err().downcast::<i32>().unwrap(), 9);
    assert_eq!(Linger::<()>::Poison.cancel_within(SOON), None);
}

/// A result that comes instead of the unwinding belongs to nobody, and is dropped.
#[test]
fn a_result_that_nobody_takes() {
    let _slots = slots(1);
    let result = Arc::new(());
    let inside = Arc::clone(&result);
    let linger = launch(
        move || {
            let _ = catch_unwind(pause);
            inside
        },
        u64::MAX,
    );
    drop(linger.unwrap());
    assert_eq!(Arc::strong_count(&result), 1);
}

/// A function may be stopped in the middle of a walk over its stack, and go on in another launcher's frames: it must not walk there.
#[test]
fn backtraces_end_at_the_functions_base() {
    #[inline(never)]
    fn take_backtrace() -> String {
        std::backtrace::Backtrace::force_capture().to_string()
    }
    let trace = launch(take_backtrace, u64::MAX).unwrap().completion().unwrap();
    let frames: Vec<_> =
        trace.lines().filter(|line| line.trim_start().starts_with(|first: char| first.is_ascii_digit())).collect();
    assert!(frames.first().is_some_and(|frame| frame.contains("take_backtrace")), "{trace}");
    assert!(frames.last().is_some_and(|frame| frame.contains("libtimetravel_function_base")), "{trace}");
}
