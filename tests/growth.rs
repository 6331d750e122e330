//! Nothing grows: memory, descriptors and mappings are the same after 10,000 launches and 10,000
//! reclaiming cancels of functions that hold no heap. One test, as it looks at its whole process.

use inger::{launch, pause, resume};

#[derive(Debug, PartialEq)]
struct Usage {
    descriptors: usize,
    mappings: usize,
    resident_pages: usize,
}

fn usage() -> Usage {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    Usage {
        descriptors: std::fs::read_dir("/proc/self/fd").unwrap().count(),
        mappings: std::fs::read_to_string("/proc/self/maps").unwrap().lines().count(),
        resident_pages: statm.split(' ').nth(1).unwrap().parse().unwrap(),
    }
}

/// As much as what is measured with uses, and a few pages touched for the first time.
const SLACK_PAGES: usize = 64;

#[track_caller]
fn assert_does_not_grow(what: &str, mut round: impl FnMut(usize)) {
    (0..200).for_each(&mut round);
    usage();
    let before = usage();
    (0..10_000).for_each(&mut round);
    let after = usage();
    println!("{what}: {before:?}, then {after:?}");
    assert_eq!(after.descriptors, before.descriptors, "{what}: descriptors");
    assert!(after.mappings <= before.mappings, "{what}: mappings: {before:?}, then {after:?}");
    assert!(after.resident_pages <= before.resident_pages + SLACK_PAGES, "{what}: memory: {before:?}, then {after:?}");
}

/// Uses stack and thread-locals, and is stopped anywhere in it; holds no heap.
fn without_heap() {
    thread_local!(static COUNT: std::cell::Cell<u64> = const { std::cell::Cell::new(0) });
    loop {
        let mut array = [0_u64; 500];
        for (index, number) in array.iter_mut().enumerate() {
            *number = std::hint::black_box(index as u64 * 31);
        }
        COUNT.set(COUNT.get() + array.iter().sum::<u64>());
        let mut text = [0_u8; 64];
        // SAFETY: the buffer is as long as said; the format takes what is passed.
        unsafe { libc::snprintf(text.as_mut_ptr().cast(), text.len(), c"%ld %g".as_ptr(), array[7], 0.5_f64) };
        std::hint::black_box(text);
    }
}

#[test]
fn nothing_grows() {
    assert_does_not_grow("launches", |number| {
        let text = launch(|| format!("{number}"), u64::MAX).unwrap().completion().unwrap();
        assert_eq!(text.len(), number.to_string().len());
    });
    assert_does_not_grow("large launches", |number| {
        let large = [number as u8; 70_000];
        assert_eq!(launch(move || large, u64::MAX).unwrap().completion().unwrap()[69_999], number as u8);
    });
    assert_does_not_grow("pauses and resumes", |_| {
        let mut linger = launch(pause, u64::MAX).unwrap();
        resume(&mut linger, u64::MAX).unwrap();
        assert!(linger.is_completion());
    });
    assert_does_not_grow("reclaims of preempted functions", |number| {
        let linger = launch(without_heap, 5 + number as u64 % 50).unwrap();
        assert!(linger.is_continuation());
        // SAFETY: nothing outside points into the function.
        unsafe { linger.reclaim() };
    });
    assert_does_not_grow("reclaims of paused functions", |_| {
        let linger = launch(pause, u64::MAX).unwrap();
        // SAFETY: nothing outside points into the function.
        unsafe { linger.reclaim() };
    });
    assert_does_not_grow("functions that never start", |_| drop(launch(without_heap, 0).unwrap()));
    assert_does_not_grow("reclaims of nested functions", |_| {
        let linger = launch(|| drop(launch(without_heap, u64::MAX).unwrap()), 20).unwrap();
        // SAFETY: nothing outside points into the functions.
        unsafe { linger.reclaim() };
    });
}
