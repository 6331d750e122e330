//! What goes into a function and comes out of it: borrows, large and over-aligned values, destructors.

mod support;

use inger::{Linger, launch, pause, resume};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use support::{compute_for_ever, finish, slots};

/// Counts how often it is dropped.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[test]
fn captures_by_reference() {
    let _slots = slots(1);
    let words = [String::from("lightweight"), String::from("preemptible")];
    let linger = launch(|| words.iter().map(String::len).sum::<usize>(), u64::MAX).unwrap();
    assert_eq!(linger.completion(), Some(22));
    assert_eq!(words.len(), 2);
}

#[test]
fn mutation_of_borrowed_data_is_seen_by_the_caller() {
    let _slots = slots(1);
    let mut numbers = vec![1, 2, 3];
    let mut array = [0_u8; 300];
    let linger = launch(
        || {
            numbers.push(4);
            pause();
            numbers.extend(0..1000);
            array.fill(7);
        },
        u64::MAX,
    )
    .unwrap();
    finish(linger, u64::MAX);
    assert_eq!(numbers.len(), 1004);
    assert!(array.iter().all(|byte| *byte == 7));
}

#[test]
fn what_is_moved_in_can_be_moved_out() {
    let _slots = slots(1);
    let text = String::from("heap");
    let address = text.as_ptr();
    let returned = launch(move || text, u64::MAX).unwrap().completion().unwrap();
    assert_eq!(returned, "heap");
    assert_eq!(returned.as_ptr(), address);
}

#[test]
fn a_result_may_borrow_from_the_caller() {
    let _slots = slots(1);
    let text = String::from("one two");
    let word = launch(|| text.split(' ').next(), u64::MAX).unwrap().completion().unwrap();
    assert_eq!(word, Some("one"));
}

#[test]
fn nothing_and_never_are_results_too() {
    let _slots = slots(1);
    assert_eq!(launch(|| (), u64::MAX).unwrap().completion(), Some(()));
    let linger: Linger<'_, std::convert::Infallible> = launch(
        || loop {
            std::hint::spin_loop()
        },
        100,
    )
    .unwrap();
    assert!(linger.is_continuation());
}

/// The sizes around the one above which values do not go onto the function's stack.
fn round_trip<const SIZE: usize>() {
    let mut input = [0_u8; SIZE];
    for (index, byte) in input.iter_mut().enumerate() {
        *byte = index as u8;
    }
    let linger = launch(
        move || {
            let mut copy = input;
            pause();
            copy.reverse();
            copy
        },
        u64::MAX,
    )
    .unwrap();
    assert!(linger.yielded());
    let (output, _) = finish(linger, u64::MAX);
    assert!(output.iter().eq(input.iter().rev()), "{SIZE} bytes were damaged");
}

#[test]
fn captures_and_results_of_all_sizes() {
    let _slots = slots(1);
    round_trip::<0>();
    round_trip::<1>();
    round_trip::<63>();
    round_trip::<64>();
    round_trip::<4_095>();
    round_trip::<32_600>();
    round_trip::<32_700>();
    round_trip::<{ 32 << 10 }>();
    round_trip::<65_535>();
    round_trip::<65_536>();
    round_trip::<65_537>();
    round_trip::<100_000>();
}

macro_rules! over_aligned {
    ($($name:ident $alignment:literal)*) => {
        $(
            #[repr(align($alignment))]
            #[derive(Clone, Copy)]
            struct $name([u8; 5]);
        )*

        #[test]
        fn over_aligned_captures_and_results() {
            let _slots = slots(1);
            $({
                let input = $name([1, 2, 3, 4, 5]);
                let (output, (captured, local)) = launch(
                    move || {
                        let local = $name([9; 5]);
                        let addresses = (std::ptr::from_ref(&input).addr(), std::ptr::from_ref(&local).addr());
                        (input, std::hint::black_box(addresses))
                    },
                    u64::MAX,
                )
                .unwrap()
                .completion()
                .unwrap();
                assert_eq!(output.0, [1, 2, 3, 4, 5]);
                assert_eq!(captured % $alignment, 0, "a capture");
                assert_eq!(local % $alignment, 0, "a local");
            })*
        }
    };
}
over_aligned!(A16 16 A32 32 A64 64 A128 128 A1024 1024 A4096 4096);

#[test]
fn a_function_that_never_started_is_dropped_once() {
    let _slots = slots(1);
    let drops = AtomicUsize::new(0);
    for end in [drop_it, reclaim] {
        let counted = Counted(&drops);
        let linger = launch(move || drop(counted), 0).unwrap();
        assert_eq!(drops.load(Relaxed), 0);
        end(linger);
        assert_eq!(drops.swap(0, Relaxed), 1);
    }
}

fn drop_it(linger: Linger<'_, ()>) {
    drop(linger);
}

fn reclaim(linger: Linger<'_, ()>) {
    // SAFETY: the tests' functions share nothing but counters of the caller.
    unsafe { linger.reclaim() };
}

#[test]
fn a_large_function_that_never_started_is_dropped_once() {
    let _slots = slots(1);
    let drops = AtomicUsize::new(0);
    let counted = Counted(&drops);
    let large = [1_u8; 100_000];
    let linger = launch(
        move || {
            let _counted = counted;
            large[5]
        },
        0,
    )
    .unwrap();
    drop(linger);
    assert_eq!(drops.load(Relaxed), 1);
}

#[test]
fn captures_of_a_completed_function_are_dropped_once() {
    let _slots = slots(1);
    let drops = AtomicUsize::new(0);
    let counted = Counted(&drops);
    let borrowed = &drops;
    let linger = launch(
        move || {
            let _counted = counted;
            pause();
            borrowed.load(Relaxed)
        },
        u64::MAX,
    )
    .unwrap();
    assert_eq!(drops.load(Relaxed), 0);
    let (before, _) = finish(linger, u64::MAX);
    assert_eq!(before, 0);
    assert_eq!(drops.load(Relaxed), 1);
}

#[test]
fn a_completion_is_dropped_once() {
    let _slots = slots(1);
    let drops = AtomicUsize::new(0);
    // With the Linger.
    drop(launch(|| Counted(&drops), u64::MAX).unwrap());
    assert_eq!(drops.swap(0, Relaxed), 1);
    // Taken out.
    let result = launch(|| Counted(&drops), u64::MAX).unwrap().completion().unwrap();
    assert_eq!(drops.load(Relaxed), 0);
    drop(result);
    assert_eq!(drops.swap(0, Relaxed), 1);
    // Resumed, then reclaimed.
    let mut linger = launch(
        || {
            pause();
            Counted(&drops)
        },
        u64::MAX,
    )
    .unwrap();
    resume(&mut linger, u64::MAX).unwrap();
    // SAFETY: it has completed: nothing is reclaimed.
    unsafe { linger.reclaim() };
    assert_eq!(drops.swap(0, Relaxed), 1);
    // Large.
    drop(launch(|| (Counted(&drops), [0_u8; 100_000]), u64::MAX).unwrap());
    assert_eq!(drops.load(Relaxed), 1);
}

#[test]
fn dropping_a_started_function_leaks_what_it_holds() {
    let _slots = slots(1);
    let drops = AtomicUsize::new(0);
    let counted = Counted(&drops);
    let work = move || {
        let _counted = counted;
        compute_for_ever();
    };
    drop(launch(work, 500).unwrap());
    assert_eq!(drops.load(Relaxed), 0);
    assert_eq!(launch(|| String::from("clean"), u64::MAX).unwrap().completion().as_deref(), Some("clean"));
}

#[test]
fn reclaiming_a_started_function_does_not_run_destructors() {
    let _slots = slots(1);
    let kept = Arc::new(());
    let inside = Arc::clone(&kept);
    let linger = launch(
        move || {
            let _inside = inside;
            compute_for_ever();
        },
        200,
    )
    .unwrap();
    reclaim(linger);
    assert_eq!(Arc::strong_count(&kept), 2);
    assert!(launch(|| (), u64::MAX).unwrap().is_completion());
}

#[test]
fn reclaiming_large_functions_frees_their_captures_memory() {
    let _slots = slots(1);
    for _ in 0..50 {
        let large = [1_u8; 100_000];
        let linger = launch(
            move || {
                std::hint::black_box(&large);
                compute_for_ever();
            },
            50,
        )
        .unwrap();
        reclaim(linger);
    }
}

#[test]
fn a_forgotten_continuation_never_goes_on() {
    let _slots = slots(2);
    let steps = Arc::new(AtomicUsize::new(0));
    let inside = Arc::clone(&steps);
    let work = move || loop {
        inside.fetch_add(1, Relaxed);
    };
    let linger: Linger<'_, ()> = launch(work, 100).unwrap();
    std::mem::forget(linger);
    let before = steps.load(Relaxed);
    support::compute(std::time::Duration::from_millis(5));
    assert_eq!(steps.load(Relaxed), before);
}
