//! What a cancelled function has borrowed, and captures that panic when they are dropped.

use inger::{Linger, launch};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

/// The function is stopped while its scoped thread writes through a borrow: when the drop has returned, nobody
/// writes any more.
#[test]
fn drop_waits_for_scoped_threads() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let counter = AtomicU64::new(0);
    let linger = launch(
        || {
            thread::scope(|scope| {
                scope.spawn(|| {
                    while !STOP.load(SeqCst) {
                        counter.fetch_add(1, SeqCst);
                    }
                });
                loop {
                    std::hint::spin_loop();
                }
            })
        },
        50_000,
    )
    .expect("a libset is free");
    let linger: Linger<'_, ()> = linger;
    assert!(linger.is_continuation());
    let stopper = thread::spawn(|| {
        thread::sleep(Duration::from_millis(100));
        STOP.store(true, SeqCst);
    });
    drop(linger);
    assert!(STOP.load(SeqCst), "the drop did not wait");
    let seen = counter.load(SeqCst);
    thread::sleep(Duration::from_millis(20));
    assert_eq!(counter.load(SeqCst), seen);
    stopper.join().expect("the stopper does not panic");
}

struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

/// More often than there are libsets.
#[test]
fn panic_in_a_capture_loses_no_libset() {
    for _ in 0..40 {
        let captured = PanicsOnDrop;
        let prepared = launch(move || std::mem::forget(captured), 0).expect("a libset is free");
        let result = catch_unwind(AssertUnwindSafe(|| drop(prepared)));
        assert!(result.is_err());
    }
}
