//! Launching, completing, pausing and resuming take nothing from the heap, in the steady state: neither in Rust nor
//! in C. Without the harness, whose threads allocate too.

use inger::{Linger, launch, pause, resume};
use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::c_void;
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What Rust code has taken.
static BY_RUST: AtomicUsize = AtomicUsize::new(0);
/// What has been taken from the C library's heap, by Rust's allocator and by libraries alike.
static BY_ALL: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: hands on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BY_RUST.fetch_add(1, Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size_bytes: usize) -> *mut u8 {
        BY_RUST.fetch_add(1, Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(block, layout, size_bytes) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }
}

/// The program's own definitions, which all its libraries use.
mod counting_heap {
    use super::*;

    unsafe extern "C" {
        fn __libc_malloc(size_bytes: usize) -> *mut c_void;
        fn __libc_calloc(count: usize, size_bytes: usize) -> *mut c_void;
        fn __libc_realloc(block: *mut c_void, size_bytes: usize) -> *mut c_void;
        fn __libc_free(block: *mut c_void);
        fn __libc_memalign(alignment: usize, size_bytes: usize) -> *mut c_void;
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn malloc(size_bytes: usize) -> *mut c_void {
        BY_ALL.fetch_add(1, Relaxed);
        // SAFETY: the caller's promise; so below.
        unsafe { __libc_malloc(size_bytes) }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn calloc(count: usize, size_bytes: usize) -> *mut c_void {
        BY_ALL.fetch_add(1, Relaxed);
        // SAFETY: as above.
        unsafe { __libc_calloc(count, size_bytes) }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn realloc(block: *mut c_void, size_bytes: usize) -> *mut c_void {
        BY_ALL.fetch_add(1, Relaxed);
        // SAFETY: as above.
        unsafe { __libc_realloc(block, size_bytes) }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn free(block: *mut c_void) {
        // SAFETY: as above.
        unsafe { __libc_free(block) }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn aligned_alloc(alignment: usize, size_bytes: usize) -> *mut c_void {
        BY_ALL.fetch_add(1, Relaxed);
        // SAFETY: as above.
        unsafe { __libc_memalign(alignment, size_bytes) }
    }
}

#[derive(Debug, PartialEq)]
struct Taken {
    by_rust: usize,
    by_all: usize,
}

const ROUNDS: usize = 1_000;

/// What `ROUNDS` rounds take, after as many that are not counted.
fn taken(mut round: impl FnMut(usize)) -> Taken {
    (0..ROUNDS).for_each(&mut round);
    let (by_rust, by_all) = (BY_RUST.load(Relaxed), BY_ALL.load(Relaxed));
    (0..ROUNDS).for_each(&mut round);
    Taken { by_rust: BY_RUST.load(Relaxed) - by_rust, by_all: BY_ALL.load(Relaxed) - by_all }
}

#[track_caller]
fn assert_takes(what: &str, by_rust: usize, by_all: usize, round: impl FnMut(usize)) {
    let taken = taken(round);
    println!("{what}: {taken:?} in {ROUNDS} rounds");
    assert_eq!(taken, Taken { by_rust, by_all }, "{what}");
}

/// A capture that has a destructor.
struct Captured<'a>(&'a AtomicUsize, usize);

impl Drop for Captured<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(self.1, Relaxed);
    }
}

fn pause_for_ever() {
    loop {
        pause();
    }
}

fn compute_for_ever() {
    loop {
        std::hint::spin_loop();
    }
}

fn reclaim(linger: Linger<'_, ()>) {
    assert!(linger.is_continuation());
    // SAFETY: the functions of this file share nothing with others.
    unsafe { linger.reclaim() };
}

fn main() {
    if std::env::args().any(|argument| argument == "--list") {
        println!("allocations: test");
        return;
    }
    let dropped = AtomicUsize::new(0);
    for budget_us in [u64::MAX, 10_000_000, 1_000] {
        assert_takes(&format!("launch of {budget_us} us and completion"), 0, 0, |number| {
            let captured = Captured(&dropped, number);
            let mut linger = launch(
                move || {
                    let captured = captured;
                    captured.1
                },
                budget_us,
            )
            .unwrap();
            while linger.is_continuation() {
                resume(&mut linger, budget_us).unwrap();
            }
            assert_eq!(linger.completion(), Some(number));
        });
    }
    assert_eq!(dropped.into_inner(), 3 * ROUNDS * (ROUNDS - 1));

    let mut pauses = launch(pause_for_ever, u64::MAX).unwrap();
    assert_takes("pause and resume", 0, 0, |_| {
        assert!(resume(&mut pauses, u64::MAX).unwrap().yielded());
    });
    let mut computes = launch(compute_for_ever, 20).unwrap();
    assert_takes("preemption and resume", 0, 0, |_| {
        assert!(resume(&mut computes, 20).unwrap().is_continuation());
    });
    reclaim(pauses);
    reclaim(computes);
    assert_takes("launch and reclaim of a paused function", 0, 0, |_| {
        reclaim(launch(pause_for_ever, u64::MAX).unwrap());
    });
    assert_takes("launch of 0 us and drop", 0, 0, |_| drop(launch(compute_for_ever, 0).unwrap()));

    // The counters count: what is taken outside, what a function takes, and what does not fit onto its stack.
    assert_takes("a box outside", ROUNDS, ROUNDS, |number| drop(black_box(Box::new(number))));
    assert_takes("a box inside", ROUNDS, ROUNDS, |number| {
        launch(|| drop(black_box(Box::new(number))), u64::MAX).unwrap().completion().unwrap();
    });
    assert_takes("strdup inside", 0, ROUNDS, |_| {
        // SAFETY: the string is one, and its copy is freed.
        launch(|| unsafe { libc::free(black_box(libc::strdup(c"text".as_ptr())).cast()) }, u64::MAX)
            .unwrap()
            .completion()
            .unwrap();
    });
    assert_takes("a launch with a large result", ROUNDS, ROUNDS, |number| {
        assert_eq!(launch(move || [number; 10_000], u64::MAX).unwrap().completion().unwrap()[9_999], number);
    });
}
