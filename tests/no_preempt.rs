//! Critical sections: a preemption that comes inside is taken right after.

mod support;

use inger::{launch, no_preempt, pause, resume};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use support::{compute, compute_for_ever, finish, slots};

#[test]
fn outside_it_just_runs() {
    assert_eq!(no_preempt(|| no_preempt(|| 5)), 5);
}

#[test]
fn deferred_inside_taken_right_after() {
    let _slots = slots(1);
    let (inside, after) = (AtomicU64::new(0), AtomicU64::new(0));
    let work = || {
        no_preempt(|| {
            no_preempt(|| compute(Duration::from_millis(5)));
            // Leaving the inner one opens nothing.
            compute(Duration::from_millis(5));
            inside.store(1, Relaxed);
        });
        after.store(1, Relaxed);
        compute_for_ever();
    };
    let start = Instant::now();
    let linger = launch(work, 1_000).unwrap();
    assert!(linger.is_continuation());
    assert!(start.elapsed() >= Duration::from_millis(10));
    assert_eq!((inside.load(Relaxed), after.load(Relaxed)), (1, 0), "taken at the end of the section");
}

#[test]
fn is_open_again_after_a_panic_in_it() {
    let _slots = slots(1);
    let work = || {
        let section = || no_preempt(|| std::panic::resume_unwind(Box::new(())));
        assert!(std::panic::catch_unwind(section).is_err());
        compute_for_ever();
    };
    assert!(launch(work, 1_000).unwrap().is_continuation());
}

/// What a caller shares with its functions is whole whenever it looks.
#[test]
fn makes_updates_whole_for_the_caller() {
    let _slots = slots(1);
    let (first, second) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || loop {
        no_preempt(|| {
            first.fetch_add(1, Relaxed);
            compute(Duration::from_micros(3));
            second.fetch_add(1, Relaxed);
        });
    };
    let mut linger = launch(work, 50).unwrap();
    for _ in 0..1_000 {
        resume(&mut linger, 20).unwrap();
        assert_eq!(first.load(Relaxed), second.load(Relaxed));
    }
    // Not one in each: the machine may have run something else for the length of a slice.
    assert!(first.load(Relaxed) > 500, "little progress");
    let _: inger::Linger<'_, ()> = linger;
}

/// The negative control of the above: without the section the caller sees halves.
#[test]
fn without_it_the_caller_sees_halves() {
    let _slots = slots(1);
    let (first, second) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || loop {
        first.fetch_add(1, Relaxed);
        compute(Duration::from_micros(3));
        second.fetch_add(1, Relaxed);
    };
    let mut linger = launch(work, 50).unwrap();
    let halves = (0..1_000)
        .filter(|_| {
            resume(&mut linger, 20).unwrap();
            first.load(Relaxed) != second.load(Relaxed)
        })
        .count();
    assert!(halves > 100, "only {halves}");
    let _: inger::Linger<'_, ()> = linger;
}

/// To pause on purpose is allowed anywhere, and the section goes on afterwards.
#[test]
fn a_pause_inside_yields() {
    let _slots = slots(1);
    let work = || {
        no_preempt(|| {
            pause();
            compute(Duration::from_millis(3));
        });
        compute(Duration::from_millis(3));
    };
    let mut linger = launch(work, u64::MAX).unwrap();
    assert!(linger.yielded());
    let start = Instant::now();
    resume(&mut linger, 100).unwrap();
    assert!(linger.is_continuation() && !linger.yielded());
    assert!(start.elapsed() >= Duration::from_millis(3), "the section was cut");
    finish(linger, u64::MAX);
}

/// Wherever in them the pause is, and whichever kernel thread goes on.
#[test]
fn a_pause_inside_nested_sections_leaves_them_whole() {
    let _slots = slots(1);
    let inside = AtomicU64::new(0);
    let work = || {
        for depth in 1..5_u64 {
            let part = |now: u64| {
                inside.store(now, Relaxed);
                pause();
                compute(Duration::from_micros(700));
            };
            no_preempt(|| {
                part(1);
                no_preempt(|| {
                    part(2);
                    no_preempt(|| part(3));
                    part(4);
                });
                part(depth);
                inside.store(0, Relaxed);
            });
            compute(Duration::from_millis(1));
        }
    };
    let mut linger = launch(work, 100).unwrap();
    let (mut yields, mut preemptions) = (0, 0);
    while linger.is_continuation() {
        if linger.yielded() {
            yields += 1;
        } else {
            preemptions += 1;
            assert_eq!(inside.load(Relaxed), 0, "stopped in a section");
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                resume(&mut linger, 100).unwrap();
            });
        });
    }
    assert_eq!(yields, 20);
    assert!(preemptions >= 4, "only {preemptions}");
}

/// A section is whole even if what runs in it is another function, which has limits of its own.
#[test]
fn launching_inside() {
    let _slots = slots(2);
    let inside = AtomicU64::new(0);
    let work = || {
        no_preempt(|| {
            inside.store(1, Relaxed);
            assert!(launch(|| compute(Duration::from_millis(5)), u64::MAX).unwrap().is_completion());
            assert!(launch(compute_for_ever, 2_000).unwrap().is_continuation());
            inside.store(0, Relaxed);
        });
        compute_for_ever();
    };
    let start = Instant::now();
    let linger = launch(work, 1_000).unwrap();
    assert_eq!(inside.load(Relaxed), 0, "stopped in the section");
    assert!(linger.is_continuation());
    assert!(start.elapsed() >= Duration::from_millis(7));
}

/// A lock that the caller takes too.
#[test]
fn a_lock_shared_with_the_caller() {
    let _slots = slots(1);
    let list = std::sync::Mutex::new(Vec::new());
    let work = || {
        for number in 0..20_000 {
            no_preempt(|| list.lock().unwrap().push(number));
        }
    };
    let mut linger = launch(work, 20).unwrap();
    while linger.is_continuation() {
        list.lock().unwrap().push(0);
        resume(&mut linger, 20).unwrap();
    }
    drop(linger);
    assert!(list.into_inner().unwrap().len() > 20_000);
}
