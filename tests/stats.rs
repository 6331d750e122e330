//! What the library counts. One test: the counters are the process's.

mod support;

use inger::{Linger, launch, pause, resume, stats};
use std::time::Duration;
use support::{compute, compute_for_ever};

#[test]
fn counts() {
    let none = stats();
    assert_eq!(none, inger::Stats::default(), "before the first launch");

    assert!(launch(|| (), u64::MAX).unwrap().is_completion());
    let mut linger = launch(pause, u64::MAX).unwrap();
    resume(&mut linger, u64::MAX).unwrap();
    let one = stats();
    assert_eq!((one.launches, one.completions, one.pauses, one.preemptions), (2, 2, 1, 0));
    assert_eq!((one.libsets_made, one.libsets_in_use, one.libsets_retired), (1, 0, 0));
    assert_eq!(one.overshoot.iter().sum::<u64>(), 0);

    const SLICES: u64 = 100;
    let mut linger = launch(compute_for_ever, 200).unwrap();
    for _ in 1..SLICES {
        resume(&mut linger, 200).unwrap();
    }
    let two = stats();
    assert_eq!((two.launches, two.completions, two.preemptions), (3, 2, SLICES));
    assert_eq!((two.libsets_made, two.libsets_in_use), (1, 1));
    assert_eq!(two.overshoot.iter().sum::<u64>(), SLICES);
    // Less than a millisecond late: most of them, on any machine.
    assert!(two.overshoot[..=10].iter().sum::<u64>() > SLICES / 2, "{two:?}");
    // SAFETY: nothing outside points into the function.
    unsafe { linger.reclaim() };
    let three = stats();
    assert_eq!((three.cancellations, three.abandoned, three.libsets_in_use), (1, 0, 0));
    drop(launch(compute_for_ever, 200).unwrap());
    let four = stats();
    assert_eq!((four.cancellations, four.abandoned, four.libsets_in_use, four.libsets_made), (2, 1, 0, 1));

    // Of a thread that has ended, too.
    std::thread::spawn(|| launch(|| compute(Duration::from_micros(10)), u64::MAX).unwrap().completion())
        .join()
        .unwrap();
    assert_eq!(stats().launches, four.launches + 1);

    // What outlives its function keeps the libset.
    let thread = || drop(std::thread::spawn(|| std::thread::sleep(Duration::from_secs(5))));
    let linger: Linger<'_, ()> = launch(
        || {
            thread();
            compute_for_ever();
        },
        5_000,
    )
    .unwrap();
    // SAFETY: the thread uses nothing of the function's.
    unsafe { linger.reclaim() };
    let five = stats();
    assert_eq!((five.libsets_retired, five.libsets_in_use), (1, 0));

    inger::no_preempt(|| ());
    assert!(!launch(|| inger::no_preempt(|| compute(Duration::from_millis(3))), 1_000).unwrap().yielded());
    assert!(stats().deferred > five.deferred);
}
