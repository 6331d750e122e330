//! Launching, resuming and pausing: what comes back, and when.

mod support;

use inger::{Linger, launch, nsnow, pause, resume};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use support::{compute, compute_for_ever, finish, slots};

#[test]
fn a_function_that_returns_is_a_completion() {
    let _slots = slots(1);
    let linger = launch(|| 6 * 7, 1_000_000).unwrap();
    assert!(linger.is_completion() && !linger.is_continuation() && !linger.yielded());
    assert_eq!(linger.completion(), Some(42));
}

#[test]
fn the_next_launch_can_follow_at_once() {
    let _slots = slots(1);
    for number in 0..10_000_u64 {
        let result = launch(move || number * 2, u64::MAX).unwrap().completion();
        assert_eq!(result, Some(number * 2));
    }
}

#[test]
fn a_timeout_is_never_early() {
    let _slots = slots(1);
    for budget_us in [1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000] {
        for _ in 0..10 {
            let start = Instant::now();
            let linger = launch(compute_for_ever, budget_us).unwrap();
            let elapsed = start.elapsed();
            assert!(linger.is_continuation() && !linger.yielded());
            assert!(elapsed >= Duration::from_micros(budget_us), "{elapsed:?} instead of {budget_us} us");
        }
    }
}

#[test]
fn a_resumed_function_is_not_stopped_early() {
    let _slots = slots(1);
    let mut linger = launch(compute_for_ever, 100).unwrap();
    for budget_us in [50, 500, 5_000, 500, 50] {
        let start = Instant::now();
        resume(&mut linger, budget_us).unwrap();
        let elapsed = start.elapsed();
        assert!(linger.is_continuation());
        assert!(elapsed >= Duration::from_micros(budget_us), "{elapsed:?} instead of {budget_us} us");
    }
}

/// What was armed for one launch must neither cut the next one short nor let it run on.
#[test]
fn budgets_of_launches_in_turn_are_their_own() {
    let _slots = slots(1);
    for _ in 0..20 {
        for (budget_us, work) in [(1_000, None), (50_000, Some(2_000)), (200, None), (u64::MAX, Some(1_500))] {
            let start = Instant::now();
            let linger = launch(
                || match work {
                    Some(us) => compute(Duration::from_micros(us)),
                    None => compute_for_ever(),
                },
                budget_us,
            )
            .unwrap();
            let over = start.elapsed() >= Duration::from_micros(budget_us);
            assert!(if linger.is_completion() { work.is_some() } else { over }, "{budget_us} us, work {work:?}");
        }
    }
}

#[test]
fn resuming_completes_a_function() {
    let _slots = slots(1);
    let linger = launch(
        || {
            let mut sum = 0_u64;
            for number in 0..3_000_000_u64 {
                sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(number));
            }
            sum
        },
        100,
    )
    .unwrap();
    let (sum, slices) = finish(linger, 100);
    let mut expected = 0_u64;
    for number in 0..3_000_000_u64 {
        expected = expected.wrapping_mul(31).wrapping_add(number);
    }
    assert_eq!(sum, expected);
    assert!(slices > 2, "only {slices} slices");
}

#[test]
fn pause_yields_and_resume_goes_on_after_it() {
    let _slots = slots(1);
    let steps = AtomicUsize::new(0);
    let mut linger = launch(
        || {
            for _ in 0..5 {
                steps.fetch_add(1, Relaxed);
                pause();
            }
            "done"
        },
        u64::MAX,
    )
    .unwrap();
    for step in 1..=5 {
        assert!(linger.is_continuation() && linger.yielded());
        assert_eq!(steps.load(Relaxed), step);
        resume(&mut linger, u64::MAX).unwrap();
    }
    assert!(!linger.yielded());
    assert_eq!(linger.completion(), Some("done"));
}

#[test]
fn pause_outside_does_nothing() {
    pause();
    let _slots = slots(1);
    assert!(launch(|| (), u64::MAX).unwrap().is_completion());
    pause();
}

#[test]
fn a_timeout_after_a_pause_is_not_a_yield() {
    let _slots = slots(1);
    let mut linger = launch(
        || {
            pause();
            compute_for_ever();
        },
        u64::MAX,
    )
    .unwrap();
    assert!(linger.yielded());
    resume(&mut linger, 100).unwrap();
    assert!(linger.is_continuation() && !linger.yielded());
}

#[test]
fn budget_zero_only_prepares() {
    let _slots = slots(1);
    let runs = AtomicUsize::new(0);
    let mut linger = launch(|| runs.fetch_add(1, Relaxed), 0).unwrap();
    assert!(linger.is_continuation() && !linger.yielded());
    resume(&mut linger, 0).unwrap();
    assert!(linger.is_continuation());
    assert_eq!(runs.load(Relaxed), 0);
    assert!(resume(&mut linger, u64::MAX).unwrap().is_completion());
    assert_eq!(runs.load(Relaxed), 1);
}

#[test]
fn resuming_a_stopped_function_with_budget_zero_leaves_it_as_it_is() {
    let _slots = slots(1);
    let steps = AtomicUsize::new(0);
    let mut linger = launch(
        || {
            pause();
            steps.fetch_add(1, Relaxed);
        },
        u64::MAX,
    )
    .unwrap();
    assert!(resume(&mut linger, 0).unwrap().yielded());
    assert_eq!(steps.load(Relaxed), 0);
    assert!(resume(&mut linger, 1_000_000).unwrap().is_completion());
}

#[test]
fn no_limit_and_huge_budgets_do_not_stop_a_function() {
    let _slots = slots(1);
    for budget_us in [u64::MAX, u64::MAX - 1, u64::MAX / 1000, i64::MAX as u64, 1 << 40] {
        let linger = launch(|| compute(Duration::from_millis(30)), budget_us).unwrap();
        assert!(linger.is_completion(), "stopped with a budget of {budget_us}");
    }
}

#[test]
fn resuming_a_completion_does_nothing() {
    let _slots = slots(1);
    let runs = AtomicUsize::new(0);
    let mut linger = launch(|| runs.fetch_add(1, Relaxed), u64::MAX).unwrap();
    for budget_us in [0, 1, 1_000, u64::MAX] {
        assert!(resume(&mut linger, budget_us).unwrap().is_completion());
    }
    assert_eq!(linger.completion(), Some(0));
    assert_eq!(runs.load(Relaxed), 1);
}

#[test]
fn resuming_poison_does_nothing() {
    let mut linger = Linger::<()>::Poison;
    assert!(matches!(resume(&mut linger, 1_000).unwrap(), Linger::Poison));
}

#[test]
fn several_functions_take_turns() {
    let _slots = slots(4);
    let counts: [AtomicUsize; 4] = Default::default();
    let mut lingers: Vec<Linger<'_, ()>> = Vec::new();
    for count in &counts {
        let work = move || loop {
            count.fetch_add(1, Relaxed);
        };
        lingers.push(launch(work, 0).unwrap());
    }
    let (mut last, mut stalls) = ([0; 4], 0);
    for _ in 0..200 {
        for (linger, (count, last)) in lingers.iter_mut().zip(counts.iter().zip(&mut last)) {
            resume(linger, 200).unwrap();
            let now = count.load(Relaxed);
            stalls += usize::from(now == *last);
            *last = now;
        }
    }
    // Not none: the machine may have run something else for the length of a slice.
    assert!(stalls < 200, "{stalls} of 800 slices without progress");
    drop(lingers);
}

#[test]
fn the_clock_is_the_one_of_budgets() {
    let (start, before) = (Instant::now(), nsnow());
    compute(Duration::from_millis(1));
    let elapsed_ns = nsnow() - before;
    assert!((1_000_000..=start.elapsed().as_nanos() as u64).contains(&elapsed_ns), "{elapsed_ns} ns");
}

#[test]
fn short_slices_make_progress() {
    let _slots = slots(1);
    for slice_us in [1, 5, 20] {
        let linger = launch(|| compute(Duration::from_millis(20)), slice_us).unwrap();
        let start = Instant::now();
        let ((), slices) = finish(linger, slice_us);
        assert!(slices > 20, "only {slices} slices");
        assert!(start.elapsed() < Duration::from_secs(5), "{slices} slices took {:?}", start.elapsed());
    }
}

#[test]
fn types_can_be_named_without_the_function() {
    let _slots = slots(2);
    let first: Linger<'static, i32> = launch(|| 1, 0).unwrap().erase();
    let second: Linger<'static, i32> = launch(|| 2, 0).unwrap().erase();
    let results: Vec<_> = [first, second].into_iter().map(|linger| finish(linger, u64::MAX).0).collect();
    assert_eq!(results, [1, 2]);
    assert!(format!("{:?}", launch(|| 3, u64::MAX).unwrap()).contains("Completion(3)"));
    assert!(format!("{:?}", launch(|| 3, 0).unwrap()).contains("Continuation"));
}
