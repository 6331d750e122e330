//! To a function it looks as if it ran on a thread of its own: its thread-locals are fresh at each launch.

mod support;

use inger::{launch, pause, resume};
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use support::{compute_for_ever, finish, slots};

thread_local! {
    static CONSTANT: Cell<u32> = const { Cell::new(1) };
    static LAZY: RefCell<Vec<u32>> = RefCell::new(vec![1]);
}

/// A thread-local whose destructor counts, in the counter that it is given.
struct OnExit(Cell<Option<&'static AtomicUsize>>);

impl Drop for OnExit {
    fn drop(&mut self) {
        if let Some(counter) = self.0.get() {
            counter.fetch_add(1, Relaxed);
        }
    }
}

thread_local!(static ON_EXIT: OnExit = const { OnExit(Cell::new(None)) });

fn counter() -> &'static AtomicUsize {
    Box::leak(Box::default())
}

fn read() -> (u32, Vec<u32>) {
    (CONSTANT.get(), LAZY.with_borrow(Vec::clone))
}

fn change(to: u32) {
    CONSTANT.set(to);
    LAZY.with_borrow_mut(|values| values.push(to));
}

#[test]
fn are_fresh_at_each_launch() {
    let _slots = slots(1);
    change(2);
    for number in 3..50 {
        let inside = launch(
            || {
                let before = read();
                change(number);
                (before, read())
            },
            u64::MAX,
        );
        let (before, after) = inside.unwrap().completion().unwrap();
        assert_eq!(before, (1, vec![1]));
        assert_eq!(after, (number, vec![1, number]));
        assert_eq!(read(), (2, vec![1, 2]));
    }
}

#[test]
fn are_fresh_after_a_cancel() {
    let _slots = slots(1);
    for reclaimed in [false, true, false, true] {
        let work = || {
            change(9);
            compute_for_ever();
        };
        let linger = launch(work, 300).unwrap();
        if reclaimed {
            // SAFETY: nothing outside points into the function.
            unsafe { linger.reclaim() };
        } else {
            drop(linger);
        }
        assert_eq!(launch(read, u64::MAX).unwrap().completion(), Some((1, vec![1])));
    }
}

#[test]
fn last_across_pauses_and_are_one_per_function() {
    let _slots = slots(3);
    let mut lingers: Vec<_> = (10..13)
        .map(|number| {
            let work = move || {
                for step in 0..10 {
                    change(number * 100 + step);
                    pause();
                    assert_eq!(CONSTANT.get(), number * 100 + step);
                }
                LAZY.with_borrow(Vec::len)
            };
            launch(work, u64::MAX).unwrap()
        })
        .collect();
    for _ in 0..10 {
        for linger in &mut lingers {
            resume(linger, u64::MAX).unwrap();
        }
    }
    for linger in lingers {
        assert_eq!(linger.completion(), Some(11));
    }
}

#[test]
fn destructors_run_at_completion() {
    let _slots = slots(1);
    let exits = counter();
    let mut linger = launch(
        || {
            ON_EXIT.with(|on_exit| on_exit.0.set(Some(exits)));
            pause();
            exits.load(Relaxed)
        },
        u64::MAX,
    )
    .unwrap();
    assert_eq!(exits.load(Relaxed), 0);
    assert!(resume(&mut linger, u64::MAX).unwrap().is_completion());
    assert_eq!(exits.load(Relaxed), 1);
    assert_eq!(linger.completion(), Some(0));
    launch(|| (), u64::MAX).unwrap().completion().unwrap();
    assert_eq!(exits.load(Relaxed), 1);
}

#[test]
fn destructors_do_not_run_at_a_cancel_nor_later() {
    let _slots = slots(1);
    let exits = counter();
    for reclaimed in [true, false] {
        let work = || {
            ON_EXIT.with(|on_exit| on_exit.0.set(Some(exits)));
            compute_for_ever();
        };
        let linger = launch(work, 2_000).unwrap();
        if reclaimed {
            // SAFETY: nothing outside points into the function.
            unsafe { linger.reclaim() };
        } else {
            drop(linger);
        }
        for _ in 0..10 {
            launch(|| (), u64::MAX).unwrap().completion().unwrap();
        }
        assert_eq!(exits.load(Relaxed), 0);
    }
}

/// A destructor is the function's code: it uses thread-locals, registers others, is preempted and paused.
#[test]
fn destructors_are_code_like_any_other() {
    struct Slow(Cell<Option<&'static AtomicUsize>>);
    impl Drop for Slow {
        fn drop(&mut self) {
            let Some(exits) = self.0.get() else { return };
            ON_EXIT.with(|on_exit| on_exit.0.set(Some(exits)));
            pause();
            support::compute(std::time::Duration::from_millis(2));
            exits.fetch_add(10, Relaxed);
        }
    }
    thread_local!(static SLOW: Slow = const { Slow(Cell::new(None)) });
    let _slots = slots(1);
    let exits = counter();
    let linger = launch(|| SLOW.with(|slow| slow.0.set(Some(exits))), 1_000_000).unwrap();
    assert!(linger.yielded());
    let ((), slices) = finish(linger, 100);
    assert_eq!(exits.load(Relaxed), 11);
    assert!(slices > 1);
}

/// Those of a thread that a function starts are that thread's.
#[test]
fn of_threads_started_inside() {
    let _slots = slots(1);
    let exits = counter();
    let inside = launch(
        || {
            change(5);
            let thread = std::thread::spawn(|| {
                ON_EXIT.with(|on_exit| on_exit.0.set(Some(exits)));
                let before = read();
                change(6);
                before
            });
            let result = thread.join().unwrap();
            (result, exits.load(Relaxed), read())
        },
        u64::MAX,
    );
    assert_eq!(inside.unwrap().completion(), Some(((1, vec![1]), 1, (5, vec![1, 5]))));
}

/// POSIX keys, which Rust's standard library uses too on some paths.
#[test]
fn of_keys() {
    extern "C" fn on_exit(value: *mut libc::c_void) {
        // SAFETY: the value is the counter's address.
        unsafe { &*value.cast::<AtomicUsize>() }.fetch_add(1, Relaxed);
    }
    let _slots = slots(1);
    let exits = counter();
    let mut key = 0;
    // SAFETY: `key` is valid for writes, and the destructor takes what is stored below.
    assert_eq!(unsafe { libc::pthread_key_create(&mut key, Some(on_exit)) }, 0);
    // SAFETY: the key exists; the counter lives for ever.
    let get = || unsafe { libc::pthread_getspecific(key) }.addr();
    // SAFETY: as above.
    let set = || unsafe { libc::pthread_setspecific(key, std::ptr::from_ref(exits).cast()) };
    for number in 0..20 {
        let before = launch(
            || {
                let before = get();
                assert_eq!(set(), 0);
                before
            },
            u64::MAX,
        );
        assert_eq!(before.unwrap().completion(), Some(0));
        assert_eq!(exits.load(Relaxed), number + 1);
        assert_eq!(get(), 0);
    }
    // A cancelled function's are forgotten.
    let work = || {
        set();
        pause();
    };
    let linger = launch(work, u64::MAX).unwrap();
    // SAFETY: nothing outside points into the function.
    unsafe { linger.reclaim() };
    assert_eq!(launch(get, u64::MAX).unwrap().completion(), Some(0));
    assert_eq!(exits.load(Relaxed), 20);
}
