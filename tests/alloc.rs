//! `inger::Alloc`: an allocator inside it is the kernel thread's, and nobody is stopped in it.

mod support;

use inger::{Alloc, Linger, launch, no_preempt, pause, resume};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use support::{compute, finish, slots};

/// The whole program uses it, twice over: from before the first launch to the end of threads that never launch.
#[global_allocator]
static GLOBAL: Alloc<Alloc<System>> = Alloc(Alloc(System));

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

fn calls() -> usize {
    CALLS.get()
}

/// Takes its time, keeps a count for each thread, and spoils errno.
struct Slow {
    /// Calls that have not returned.
    inside: AtomicUsize,
}

impl Slow {
    const fn new() -> Slow {
        Slow { inside: AtomicUsize::new(0) }
    }

    fn take_time<R>(&self, call: impl FnOnce() -> R) -> R {
        self.inside.fetch_add(1, Relaxed);
        CALLS.set(calls() + 1);
        compute(Duration::from_micros(3));
        let result = call();
        set_errno(libc::EDOM);
        self.inside.fetch_sub(1, Relaxed);
        result
    }
}

// SAFETY: hands on to the system's allocator.
unsafe impl GlobalAlloc for Slow {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise; so below.
        self.take_time(|| unsafe { System.alloc(layout) })
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        self.take_time(|| unsafe { System.dealloc(block, layout) });
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        self.take_time(|| unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size_bytes: usize) -> *mut u8 {
        // SAFETY: as above.
        self.take_time(|| unsafe { System.realloc(block, layout, size_bytes) })
    }
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().expect("errno")
}

fn set_errno(error: i32) {
    // SAFETY: the current thread's, or function's.
    unsafe { *libc::__errno_location() = error };
}

/// Each of the four, once.
fn use_all(allocator: &impl GlobalAlloc) {
    let layout = Layout::new::<[u8; 100]>();
    let larger = Layout::new::<[u8; 5000]>();
    // SAFETY: the blocks are used within their sizes, and freed once with the size that they have.
    unsafe {
        let block = allocator.alloc(layout);
        block.write_bytes(7, 100);
        let block = allocator.realloc(block, layout, larger.size());
        assert!((0..100).all(|byte| block.add(byte).read() == 7));
        let zeroes = allocator.alloc_zeroed(larger);
        assert!((0..5000).all(|byte| zeroes.add(byte).read() == 0));
        allocator.dealloc(zeroes, larger);
        allocator.dealloc(block, larger);
    }
}

const CALLS_OF_ALL: usize = 5;

/// How often a function that allocates is found stopped in the allocator.
fn stops_inside(allocator: &(impl GlobalAlloc + Sync), slow: &Slow) -> usize {
    let mut function: Linger<'_, ()> = launch(
        || loop {
            use_all(allocator)
        },
        0,
    )
    .unwrap();
    let slices = 0..2_000;
    let found = slices.filter(|slice| {
        resume(&mut function, 15 + slice % 20).unwrap();
        slow.inside.load(Relaxed) != 0
    });
    found.count()
}

#[test]
fn nobody_is_stopped_in_it() {
    let _slots = slots(1);
    static INSIDE: Alloc<Slow> = Alloc(Slow::new());
    assert_eq!(stops_inside(&INSIDE, &INSIDE.0), 0);
}

/// The negative control of the above.
#[test]
fn without_it_functions_are_stopped_in_the_allocator() {
    let _slots = slots(1);
    static PLAIN: Slow = Slow::new();
    // Of 2,000; how many depends on how long a call takes beside what is around it.
    let found = stops_inside(&PLAIN, &PLAIN);
    assert!(found > 50, "only {found}");
}

/// Also on another kernel thread, by which the function is resumed, and in a function inside the function.
#[test]
fn thread_locals_are_the_kernel_thread_s() {
    let _slots = slots(2);
    static INSIDE: Alloc<Slow> = Alloc(Slow::new());
    let work = || {
        let use_here = || {
            use_all(&INSIDE);
            calls()
        };
        let first = use_here();
        pause();
        (first, use_here(), launch(use_here, u64::MAX).unwrap().completion())
    };
    let mut function = launch(work, u64::MAX).unwrap();
    assert_eq!(calls(), CALLS_OF_ALL);
    let (counts, on_other) = std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            resume(&mut function, u64::MAX).unwrap();
            (function.completion(), calls())
        });
        other.join().unwrap()
    });
    assert_eq!(counts, Some((0, 0, Some(0))), "the functions' own");
    assert_eq!((calls(), on_other), (CALLS_OF_ALL, 2 * CALLS_OF_ALL));
}

#[test]
fn errno_is_left_alone() {
    let _slots = slots(1);
    static INSIDE: Alloc<Slow> = Alloc(Slow::new());
    let work = || {
        set_errno(libc::ENOENT);
        use_all(&INSIDE);
        let first = errno();
        pause();
        use_all(&INSIDE);
        (first, errno())
    };
    let mut function = launch(work, 0).unwrap();
    set_errno(libc::EPERM);
    resume(&mut function, u64::MAX).unwrap();
    assert_eq!(errno(), libc::EPERM, "the launcher's");
    assert_eq!(finish(function, u64::MAX).0, (libc::ENOENT, libc::ENOENT), "the function's");
}

/// Wherever Rust code runs: destructors of thread-locals, threads, functions in functions, panics, sections.
#[test]
fn as_the_global_allocator() {
    struct AllocatesAtItsEnd(Vec<u8>);
    impl Drop for AllocatesAtItsEnd {
        fn drop(&mut self) {
            self.0 = vec![1; 5000];
            assert!(self.0.iter().all(|&byte| byte == 1));
        }
    }
    thread_local! {
        static KEPT: RefCell<AllocatesAtItsEnd> = const { RefCell::new(AllocatesAtItsEnd(Vec::new())) };
    }
    fn churn() -> usize {
        let blocks: Vec<_> = (0..200).map(|size| vec![size; size as usize]).collect();
        KEPT.with_borrow_mut(|kept| kept.0.push(1));
        blocks.into_iter().map(|block: Vec<u8>| no_preempt(|| block.len())).sum()
    }
    let _slots = slots(4);
    let expected = churn();
    let mut preemptions = 0;
    for _ in 0..50 {
        let inner = || finish(launch(churn, 20).unwrap(), 20).0;
        let panicking = || std::panic::catch_unwind(|| std::panic::resume_unwind(Box::new(churn())));
        let threads = || std::thread::spawn(churn).join().unwrap();
        let work = || churn() + inner() + *panicking().unwrap_err().downcast::<usize>().unwrap() + threads();
        let (sum, slices) = finish(launch(work, 20).unwrap(), 20);
        assert_eq!(sum, 4 * expected);
        preemptions += slices;
        assert_eq!(std::thread::spawn(churn).join().unwrap(), expected);
    }
    assert!(preemptions > 100, "only {preemptions}");
}
