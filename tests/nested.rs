//! Functions that launch functions.

mod support;

use inger::{Error, Linger, launch, pause, resume};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::{compute, compute_for_ever, finish, slots};

#[test]
fn two_and_three_deep() {
    let _slots = slots(3);
    for _ in 0..50 {
        let two = launch(|| launch(|| 1, u64::MAX).unwrap().completion().unwrap() + 1, u64::MAX);
        assert_eq!(two.unwrap().completion(), Some(2));
        let three = launch(
            || {
                let inner = launch(|| launch(|| 1, 1_000_000).unwrap().completion().unwrap() + 1, u64::MAX);
                inner.unwrap().completion().unwrap() + 1
            },
            1_000_000,
        );
        assert_eq!(three.unwrap().completion(), Some(3));
    }
}

#[test]
fn an_inner_timeout_stops_the_inner_one_only() {
    let _slots = slots(2);
    let outer = launch(
        || {
            let start = Instant::now();
            let inner = launch(compute_for_ever, 1_000).unwrap();
            (inner.is_continuation(), start.elapsed() >= Duration::from_millis(1))
        },
        u64::MAX,
    );
    assert_eq!(outer.unwrap().completion(), Some((true, true)));
}

#[test]
fn an_inner_pause_comes_back_to_the_outer_one() {
    let _slots = slots(2);
    let outer = launch(
        || {
            let mut inner = launch(
                || {
                    pause();
                    5
                },
                u64::MAX,
            )
            .unwrap();
            let yielded = inner.yielded();
            // The outer one's own pause does not touch the inner one.
            pause();
            resume(&mut inner, u64::MAX).unwrap();
            (yielded, inner.completion())
        },
        u64::MAX,
    )
    .unwrap();
    assert!(outer.yielded());
    assert_eq!(finish(outer, u64::MAX).0, (true, Some(5)));
}

#[test]
fn the_outer_deadline_stops_both_and_a_resume_goes_on_inside() {
    let _slots = slots(3);
    for depth in [2, 3] {
        let steps = AtomicUsize::new(0);
        let work = || {
            for _ in 0..300 {
                compute(Duration::from_micros(50));
                steps.fetch_add(1, Relaxed);
            }
            "inner"
        };
        let start = Instant::now();
        let outer = launch(
            || {
                let middle = || {
                    let inner = launch(work, u64::MAX).unwrap();
                    assert!(inner.is_completion(), "it has no limit of its own");
                    inner.completion()
                };
                if depth == 2 { middle() } else { launch(middle, u64::MAX).unwrap().completion().unwrap() }
            },
            2_000,
        )
        .unwrap();
        assert!(outer.is_continuation() && !outer.yielded());
        assert!(start.elapsed() >= Duration::from_millis(2));
        let (result, slices) = finish(outer, 2_000);
        assert_eq!(result, Some("inner"));
        assert_eq!(steps.load(Relaxed), 300);
        assert!(slices >= 2, "only {slices} slices");
    }
}

/// While the outer function is stopped the inner one's clock stands still.
#[test]
fn an_inner_budget_is_not_used_up_while_the_outer_one_is_stopped() {
    let _slots = slots(2);
    let mut outer = launch(
        || {
            let start = Instant::now();
            let inner = launch(|| compute(Duration::from_millis(5)), 200_000).unwrap();
            (inner.is_completion(), start.elapsed())
        },
        500,
    )
    .unwrap();
    assert!(outer.is_continuation());
    compute(Duration::from_millis(250));
    resume(&mut outer, u64::MAX).unwrap();
    let (completed, elapsed) = outer.completion().unwrap();
    assert!(completed, "stopped after {elapsed:?} of which 250 ms were not its own");
}

/// Of two deadlines the outer one may well be the earlier: then the inner budget is what is left of it
/// after the resume.
#[test]
fn an_inner_budget_goes_on_after_the_outer_deadline() {
    let _slots = slots(2);
    let outer = launch(
        || {
            let start = Instant::now();
            let inner = launch(compute_for_ever, 5_000).unwrap();
            (inner.is_continuation(), start.elapsed())
        },
        1_000,
    )
    .unwrap();
    assert!(outer.is_continuation());
    let ((stopped, elapsed), slices) = finish(outer, 1_000);
    assert!(stopped && elapsed >= Duration::from_millis(5), "{elapsed:?}");
    assert!(slices >= 1);
}

#[test]
fn an_inner_continuation_can_be_returned() {
    let _slots = slots(2);
    let text = String::from("borrowed from the outermost caller");
    let borrowed = &text;
    let inner: Linger<'_, usize> = launch(
        || {
            launch(
                || {
                    compute(Duration::from_millis(3));
                    pause();
                    borrowed.len()
                },
                100,
            )
            .unwrap()
        },
        u64::MAX,
    )
    .unwrap()
    .completion()
    .unwrap();
    assert!(inner.is_continuation() && !inner.yielded());
    let (length, slices) = finish(inner, 500);
    assert_eq!(length, text.len());
    assert!(slices >= 2);
}

#[test]
fn a_continuation_from_outside_can_be_resumed_inside() {
    let _slots = slots(2);
    let mut first = launch(
        || {
            pause();
            compute(Duration::from_millis(2));
            9
        },
        u64::MAX,
    )
    .unwrap();
    let second = launch(
        || {
            resume(&mut first, 100).unwrap();
            first.is_continuation()
        },
        u64::MAX,
    );
    assert_eq!(second.unwrap().completion(), Some(true));
    assert_eq!(finish(first, 1_000_000).0, 9);
}

/// Dropping the outer one ends the inner ones that its frames own; all libsets can be used again.
#[test]
fn cancelling_the_outer_one_cancels_those_inside() {
    let _slots = slots(3);
    let steps = AtomicUsize::new(0);
    let work = || loop {
        steps.fetch_add(1, Relaxed);
    };
    for reclaimed in [true, false].repeat(20) {
        let middle = || drop(launch(work, u64::MAX).map(|_: Linger<'_, ()>| ()));
        let outer = launch(|| drop(launch(middle, u64::MAX)), 300).unwrap();
        assert!(outer.is_continuation());
        if reclaimed {
            // SAFETY: nothing outside points into the functions.
            unsafe { outer.reclaim() };
        } else {
            drop(outer);
        }
        let before = steps.load(Relaxed);
        assert_eq!(
            launch(|| launch(|| 3, u64::MAX).unwrap().completion(), u64::MAX).unwrap().completion(),
            Some(Some(3))
        );
        assert_eq!(steps.load(Relaxed), before);
    }
}

/// Those that wait in its frames, too: nobody else could ever give their libsets back.
#[test]
fn cancelling_the_outer_one_cancels_those_that_it_has_stopped() {
    let _slots = slots(8);
    for reclaimed in [true, false].repeat(20) {
        let pausing = || {
            let _grandchild = launch(compute_for_ever, 100);
            pause();
        };
        let outer = || {
            let _paused = launch(pausing, u64::MAX);
            let _preempted = launch(|| drop(launch(compute_for_ever, u64::MAX)), 100);
            let _prepared = launch(pause, 0);
            pause();
        };
        let outer = launch(outer, u64::MAX).unwrap();
        assert!(outer.yielded());
        if reclaimed {
            // SAFETY: nothing outside points into the functions.
            unsafe { outer.reclaim() };
        } else {
            drop(outer);
        }
    }
}

/// A function that was stopped, not by itself, some time after it has done `work`.
fn stopped_after<'a>(work: impl FnOnce() + Send + 'a) -> Linger<'a, ()> {
    let is_done = Arc::new(AtomicBool::new(false));
    let done = Arc::clone(&is_done);
    let mut linger = launch(
        move || {
            work();
            done.store(true, Relaxed);
            compute_for_ever();
        },
        100,
    )
    .unwrap();
    while !is_done.load(Relaxed) {
        resume(&mut linger, 100).unwrap();
    }
    linger
}

/// A handle that was put elsewhere outlives its function.
#[test]
fn handles_of_those_that_were_cancelled_with_the_outer_one_are_stale() {
    let _slots = slots(4);
    for reclaimed in [true, false].repeat(10) {
        let steps = Arc::new(AtomicUsize::new(0));
        let escaped = Mutex::new(Vec::new());
        let outer = stopped_after(|| {
            for budget_us in [u64::MAX, 0] {
                let steps = steps.clone();
                let work = move || {
                    pause();
                    steps.fetch_add(1, Relaxed);
                };
                escaped.lock().unwrap().push(launch(work, budget_us).unwrap());
            }
        });
        if reclaimed {
            // SAFETY: nothing outside points into the functions' frames, and what they share is on the heap.
            unsafe { outer.reclaim() };
        } else {
            drop(outer);
        }
        // Others have their tasks now.
        let mut others: Vec<_> = (0..3).map(|number| launch(move || (pause(), number).1, u64::MAX).unwrap()).collect();
        let mut escaped = escaped.into_inner().unwrap();
        for linger in &mut escaped {
            assert!(linger.is_continuation() && !linger.yielded());
            assert_eq!(resume(linger, u64::MAX).unwrap_err(), Error::Cancelled);
            assert!(matches!(linger, Linger::Poison));
        }
        for (number, other) in others.iter_mut().enumerate() {
            assert!(other.yielded());
            resume(other, u64::MAX).unwrap();
            assert!(matches!(other, Linger::Completion(result) if *result == number));
        }
        assert_eq!(steps.load(Relaxed), 0);
    }
}

#[test]
fn stale_handles_can_be_dropped() {
    let _slots = slots(4);
    for _ in 0..20 {
        let escaped = Mutex::new(Vec::new());
        drop(stopped_after(|| {
            for budget_us in [u64::MAX, 0, u64::MAX] {
                escaped.lock().unwrap().push(launch(pause, budget_us).unwrap());
            }
        }));
        let other = launch(pause, u64::MAX).unwrap();
        let mut escaped = escaped.into_inner().unwrap();
        // SAFETY: nothing points into a function that is gone.
        unsafe { escaped.swap_remove(0).reclaim() };
        drop(escaped);
        assert!(other.yielded());
        finish(other, u64::MAX);
    }
}

/// Who has resumed it last has it; and what an outer function has returned from is not its any more.
#[test]
fn a_function_that_others_have_taken_over_outlives_the_outer_one() {
    let _slots = slots(3);
    for returns in [true, false] {
        let escaped = Mutex::new(None);
        let outer = || {
            let work = || {
                pause();
                pause();
                7
            };
            *escaped.lock().unwrap() = Some(launch(work, u64::MAX).unwrap());
            if !returns {
                pause();
            }
        };
        let outer = launch(outer, u64::MAX).unwrap();
        let mut inner = escaped.lock().unwrap().take().unwrap();
        resume(&mut inner, u64::MAX).unwrap();
        assert!(inner.yielded());
        drop(outer);
        resume(&mut inner, u64::MAX).unwrap();
        assert!(matches!(inner, Linger::Completion(7)));
    }
}

#[test]
fn a_stopped_chain_moves_between_threads() {
    let _slots = slots(3);
    let mut outer = launch(
        || {
            let work = || {
                (0..200)
                    .map(|number| {
                        compute(Duration::from_micros(30));
                        std::hint::black_box(vec![number; 10]).len()
                    })
                    .sum::<usize>()
            };
            let middle = || launch(work, u64::MAX).unwrap().completion().unwrap() + 1;
            launch(middle, u64::MAX).unwrap().completion().unwrap() + 1
        },
        100,
    )
    .unwrap();
    let mut rounds = 0;
    while outer.is_continuation() {
        outer = std::thread::spawn(move || {
            resume(&mut outer, 200).unwrap();
            outer
        })
        .join()
        .unwrap();
        rounds += 1;
    }
    assert_eq!(outer.completion(), Some(2002));
    assert!(rounds > 3, "only {rounds} rounds");
}

/// The inner deadline passes first, then the outer one, over and over; nothing is lost between them.
#[test]
fn two_levels_of_slices() {
    let _slots = slots(2);
    let outer = launch(
        || {
            let work = || {
                (0..5_000_u64).fold(0_u64, |sum, number| {
                    compute(Duration::from_micros(2));
                    sum.wrapping_mul(31) ^ number
                })
            };
            finish(launch(work, 70).unwrap(), 70)
        },
        110,
    );
    let ((sum, inner_slices), outer_slices) = finish(outer.unwrap(), 110);
    assert_eq!(sum, (0..5_000_u64).fold(0_u64, |sum, number| sum.wrapping_mul(31) ^ number));
    assert!(inner_slices > 20 && outer_slices > 20, "{inner_slices} and {outer_slices} slices");
}
