//! The safe interface: yields, results, panics, destructors.
#![cfg(not(miri))]

use libtimetravel::{Coroutine, Stack, Step, Suspender};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

fn stack() -> Stack {
    Stack::new(256 * 1024).unwrap()
}

/// Counts its drops.
struct Guard(Rc<Cell<u32>>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

#[test]
fn yields_then_returns() {
    let mut squares = Coroutine::new(stack(), |suspender, mut n: u64| {
        while n != 0 {
            n = suspender.suspend(n * n);
        }
        "done"
    });
    assert_eq!(squares.resume(3), Step::Yield(9));
    assert_eq!(squares.resume(12), Step::Yield(144));
    assert!(!squares.is_done());
    assert_eq!(squares.resume(0), Step::Return("done"));
    assert!(squares.is_done());
}

#[test]
fn hundred_thousand_switches() {
    let mut counter = Coroutine::new(stack(), |suspender: &Suspender<u64, u64>, mut n| {
        loop {
            n = suspender.suspend(n + 1);
        }
    });
    let last = (0..100_000).fold(0, |n, _| match counter.resume(n) {
        Step::Yield(n) => n,
        Step::Return(never) => never,
    });
    assert_eq!(last, 100_000);
}

#[test]
fn panic_continues_in_the_resumer() {
    let drops = Rc::new(Cell::new(0));
    let guard = Guard(drops.clone());
    let mut panics = Coroutine::<(), (), ()>::new(stack(), move |suspender, ()| {
        let _guard = guard;
        suspender.suspend(());
        std::panic::resume_unwind(Box::new("payload"));
    });
    assert_eq!(panics.resume(()), Step::Yield(()));
    let payload = catch_unwind(AssertUnwindSafe(|| panics.resume(()))).unwrap_err();
    assert_eq!(payload.downcast_ref(), Some(&"payload"));
    assert_eq!(drops.get(), 1);
    assert!(panics.is_done());
}

#[test]
fn panic_can_be_caught_inside_across_a_suspension() {
    let mut catches = Coroutine::<(), (), String>::new(stack(), |suspender, ()| {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            suspender.suspend(());
            std::panic::resume_unwind(Box::new(String::from("inner")));
        }));
        *caught.unwrap_err().downcast().unwrap()
    });
    assert_eq!(catches.resume(()), Step::Yield(()));
    assert_eq!(catches.resume(()), Step::Return(String::from("inner")));
    assert!(!std::thread::panicking());
}

#[test]
#[should_panic(expected = "resumed a coroutine that is done")]
fn resuming_a_finished_coroutine_panics() {
    let mut empty = Coroutine::<(), (), ()>::new(stack(), |_, ()| ());
    assert_eq!(empty.resume(()), Step::Return(()));
    empty.resume(());
}

#[test]
fn dropping_a_suspended_coroutine_runs_its_destructors() {
    let drops = Rc::new(Cell::new(0));
    let (captured, seen) = (Guard(drops.clone()), drops.clone());
    let mut suspended = Coroutine::<(), Guard, ()>::new(stack(), move |suspender, ()| {
        let _captured = captured;
        let _local = Guard(seen.clone());
        loop {
            suspender.suspend(Guard(seen.clone()));
        }
    });
    drop(suspended.resume(()));
    assert_eq!(drops.get(), 1);
    drop(suspended);
    assert_eq!(drops.get(), 3);
}

#[test]
fn dropping_a_fresh_coroutine_drops_its_closure() {
    let drops = Rc::new(Cell::new(0));
    let guard = Guard(drops.clone());
    drop(Coroutine::<(), (), ()>::new(stack(), move |_, ()| drop(guard)));
    assert_eq!(drops.get(), 1);
}

#[test]
fn suspending_while_being_dropped_unwinds_again() {
    let attempts = Rc::new(Cell::new(0));
    let seen = attempts.clone();
    let mut stubborn = Coroutine::<(), (), ()>::new(stack(), move |suspender, ()| {
        while seen.get() < 3 {
            seen.set(seen.get() + 1);
            drop(catch_unwind(AssertUnwindSafe(|| suspender.suspend(()))));
        }
    });
    stubborn.resume(());
    drop(stubborn);
    assert_eq!(attempts.get(), 3);
}

#[test]
fn a_panic_of_a_dropped_coroutine_continues_in_the_dropper() {
    let mut other = Coroutine::<(), (), ()>::new(stack(), |suspender, ()| {
        drop(catch_unwind(AssertUnwindSafe(|| suspender.suspend(()))));
        std::panic::resume_unwind(Box::new("other"));
    });
    other.resume(());
    let payload = catch_unwind(AssertUnwindSafe(|| drop(other))).unwrap_err();
    assert_eq!(payload.downcast_ref(), Some(&"other"));
}

#[test]
fn coroutine_dropped_by_a_panic_is_unwound() {
    let drops = Rc::new(Cell::new(0));
    let guard = Guard(drops.clone());
    let mut inner = Coroutine::<(), (), ()>::new(stack(), move |suspender, ()| {
        let _guard = guard;
        suspender.suspend(());
    });
    inner.resume(());
    let result = catch_unwind(AssertUnwindSafe(move || {
        let _inner = inner;
        std::panic::resume_unwind(Box::new(()));
    }));
    assert!(result.is_err());
    assert_eq!(drops.get(), 1);
    assert!(!std::thread::panicking());
}

#[test]
fn coroutines_nest() {
    let log = Rc::new(RefCell::new(Vec::new()));
    let seen = log.clone();
    let mut outer = Coroutine::<(), u32, ()>::new(stack(), move |suspender, ()| {
        let mut inner = Coroutine::<(), u32, ()>::new(stack(), |suspender, ()| {
            suspender.suspend(1);
            suspender.suspend(2);
        });
        while let Step::Yield(n) = inner.resume(()) {
            seen.borrow_mut().push(n);
            suspender.suspend(n * 10);
        }
    });
    assert_eq!(outer.resume(()), Step::Yield(10));
    assert_eq!(outer.resume(()), Step::Yield(20));
    assert_eq!(outer.resume(()), Step::Return(()));
    assert_eq!(*log.borrow(), [1, 2]);
}

fn depth(n: u64) -> u64 {
    let frame = std::hint::black_box([n; 16]);
    if n == 0 { 0 } else { 1 + depth(frame[15] - 1) }
}

#[test]
fn deep_recursion() {
    let mut deep = Coroutine::<u64, (), u64>::new(Stack::new(64 << 20).unwrap(), |_, n| depth(n));
    assert_eq!(deep.resume(100_000), Step::Return(100_000));
}

#[test]
fn many_coroutines() {
    let small = || Stack::new(16 * 1024).unwrap();
    let mut all: Vec<_> = (0..2000_u32)
        .map(|i| {
            Coroutine::<u32, u32, u32>::new(small(), move |suspender, n| {
                let n = suspender.suspend(n + i);
                n * i
            })
        })
        .collect();
    for (i, coroutine) in (0..).zip(&mut all) {
        assert_eq!(coroutine.resume(7), Step::Yield(7 + i));
    }
    for (i, coroutine) in (0..).zip(&mut all) {
        assert_eq!(coroutine.resume(3), Step::Return(3 * i));
    }
}

/// Re-executes this test binary in a child that overflows, since the fault ends the process.
#[test]
fn overflow_hits_the_guard_page() {
    use std::os::unix::process::ExitStatusExt;
    const CHILD: &str = "LIBTIMETRAVEL_OVERFLOW_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let mut deep = Coroutine::<u64, (), u64>::new(stack(), |_, n| depth(n));
        deep.resume(1_000_000);
        unreachable!();
    }
    let this = std::env::current_exe().unwrap();
    let output = std::process::Command::new(this)
        .args(["--exact", "overflow_hits_the_guard_page", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{output:?}");
}
