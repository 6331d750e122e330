//! What launches can ask for: stacks, and budgets of processor time.

mod support;

use inger::{Clock, Error, Linger, Options, launch, resume};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use support::{compute_for_ever, slots};

/// The processor time that this kernel thread has used.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn by_cpu_time() -> Options {
    Options::new().clock(Clock::ThreadCpuTime)
}

/// The stack of the thread that calls it, as far as it knows.
fn stack_size_bytes() -> usize {
    let (mut bottom, mut size_bytes) = (std::ptr::null_mut(), 0);
    // SAFETY: the attributes are valid from getattr to destroy.
    unsafe {
        let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
        assert_eq!(libc::pthread_getattr_np(libc::pthread_self(), &mut attributes), 0);
        libc::pthread_attr_getstack(&attributes, &mut bottom, &mut size_bytes);
        libc::pthread_attr_destroy(&mut attributes);
    }
    size_bytes
}

/// Uses that much of it, from `top` downwards. Returns how much.
#[inline(never)]
fn descend(top: usize, bytes: usize) -> usize {
    let block = std::hint::black_box([1_u8; 1024]);
    let used = top - (&raw const block).addr();
    let below = if used < bytes { descend(top, bytes) } else { used };
    below + usize::from(std::hint::black_box(&block)[7] - 1)
}

fn use_stack(bytes: usize) -> usize {
    descend((&raw const bytes).addr(), bytes)
}

#[test]
fn stacks_of_any_size() {
    let _slots = slots(2);
    for size_bytes in [1, 3 << 20, 20 << 20, 1 << 20] {
        let options = Options::new().stack_size(size_bytes);
        let work = || (stack_size_bytes(), use_stack(size_bytes / 4 * 3));
        let (size, used) = options.launch(work, u64::MAX).unwrap().completion().unwrap();
        assert!(size >= size_bytes && used >= size_bytes / 4 * 3, "{size_bytes}: {size}, {used}");
        // Stopped on it, resumed, and the stack used again.
        let mut linger = options.launch(|| (inger::pause(), use_stack(size_bytes / 4 * 3)).1, u64::MAX).unwrap();
        assert!(resume(&mut linger, u64::MAX).unwrap().is_completion());
    }
    let error = Options::new().stack_size(1 << 60).launch(|| (), 1).unwrap_err();
    assert_eq!(error, Error::Os { operation: "allocating a stack", errno: libc::ENOMEM });
    assert!(launch(|| (), u64::MAX).unwrap().is_completion());
}

#[test]
fn sleeping_is_no_processor_time() {
    let _slots = slots(1);
    let sleep = || std::thread::sleep(Duration::from_millis(200));
    // Elapsed time is over long before.
    assert_eq!(Options::new().timeout(Duration::from_millis(100), sleep), Err(Error::TimedOut));
    assert_eq!(by_cpu_time().timeout(Duration::from_millis(100), sleep), Ok(()));
    // So it is with a budget that is used up almost when it falls asleep.
    let end = Duration::from_millis(20);
    let almost = || {
        let begin = cpu_time();
        while cpu_time() - begin < end - Duration::from_millis(1) {
            std::hint::spin_loop();
        }
        std::thread::sleep(Duration::from_millis(40));
        cpu_time() - begin
    };
    let begin = cpu_time();
    let linger = by_cpu_time().launch(almost, end.as_micros() as u64).unwrap();
    if let Linger::Continuation(_) = linger {
        // What looks at it takes processor time too, on a slow machine all that is left.
        assert!(cpu_time() - begin >= end);
        println!("used up by looking");
    }
}

/// Other threads want the processor meanwhile.
fn in_a_crowd(test: impl FnOnce()) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 * std::thread::available_parallelism().map_or(2, |number| number.get()) {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        test();
        is_over.store(true, Relaxed);
    });
}

#[test]
fn processor_time_is_never_cut_short() {
    let _slots = slots(1);
    in_a_crowd(|| {
        let budget = Duration::from_millis(10);
        let mut linger = by_cpu_time().launch(compute_for_ever, 0).unwrap();
        let mut elapsed = Duration::ZERO;
        for _ in 0..10 {
            let (begin, start) = (cpu_time(), Instant::now());
            resume(&mut linger, budget.as_micros() as u64).unwrap();
            let used = cpu_time() - begin;
            assert!(linger.is_continuation() && used >= budget, "{used:?}");
            elapsed += start.elapsed();
        }
        println!("10 times {budget:?} took {elapsed:?}");
        // SAFETY: it has shared nothing.
        unsafe { linger.reclaim() };
    });
}

/// How much processor time the inner function has had when it was stopped, which counts it and sleeps most of the time,
/// while the outer one's slices are much shorter, of elapsed time, and on many kernel threads.
#[test]
fn processor_time_inside_a_function_that_is_stopped() {
    let _slots = slots(2);
    let budget = Duration::from_millis(20);
    let work = || {
        loop {
            support::compute(Duration::from_micros(100));
            std::thread::sleep(Duration::from_micros(300));
        }
    };
    let inner = move || {
        let linger = by_cpu_time().launch::<(), _>(work, budget.as_micros() as u64).unwrap();
        assert!(linger.is_continuation());
        // SAFETY: it has shared nothing.
        unsafe { linger.reclaim() };
    };
    let mut used = Duration::ZERO;
    let mut slices = 0;
    let mut outer = launch(inner, 0).unwrap();
    while outer.is_continuation() {
        std::thread::scope(|scope| {
            let slice = || {
                // Kernel threads have used different amounts before.
                support::compute(Duration::from_micros(100) * (slices % 7));
                let begin = cpu_time();
                resume(&mut outer, 1_000).unwrap();
                cpu_time() - begin
            };
            used += scope.spawn(slice).join().unwrap();
        });
        slices += 1;
    }
    assert!(used >= budget && slices > 1, "{used:?} in {slices} slices");
}

/// An outer function counts what the inner ones use; and one that counts elapsed time stops one that does not.
#[test]
fn clocks_of_functions_inside_each_other() {
    let _slots = slots(2);
    let begin = cpu_time();
    let outer = || launch(compute_for_ever, u64::MAX).is_ok();
    let linger = by_cpu_time().launch(outer, 5_000).unwrap();
    assert!(linger.is_continuation() && cpu_time() - begin >= Duration::from_millis(5));
    // SAFETY: nothing outside points into the functions.
    unsafe { linger.reclaim() };

    let sleep = || std::thread::sleep(Duration::from_secs(1_000));
    let linger = launch(|| by_cpu_time().launch(sleep, 1_000_000).is_ok(), 5_000).unwrap();
    assert!(linger.is_continuation());
    // SAFETY: as above.
    unsafe { linger.reclaim() };

    let inner = || launch(sleep, 1_000).unwrap().is_continuation();
    assert_eq!(by_cpu_time().timeout(Duration::from_secs(1), inner), Ok(true));
}

#[test]
fn sharing_is_for_the_time_before_the_first_launch() {
    assert!(launch(|| (), u64::MAX).unwrap().is_completion());
    let error = inger::share_library("libm.so.6").unwrap_err();
    assert!(matches!(&error, Error::TooLate { cause } if cause.starts_with("too late to share libm.so.6")), "{error}");
    let error = inger::share_library("a\0b").unwrap_err();
    assert_eq!(error, Error::Os { operation: "sharing a library", errno: libc::EINVAL });
}

/// A budget of processor time is the child's own: its clock begins anew.
#[test]
fn processor_time_in_the_child_of_a_fork() {
    let _slots = slots(1);
    let used = Duration::from_secs(1);
    let begin = cpu_time();
    while cpu_time() - begin < used {
        std::hint::spin_loop();
    }
    let parent = std::process::id();
    let fork_and_compute = || {
        // SAFETY: the child uses its own memory, and ends by _exit.
        let child = unsafe { libc::fork() };
        if child == 0 {
            compute_for_ever();
        }
        child
    };
    let linger = by_cpu_time().launch(fork_and_compute, 50_000).unwrap();
    if std::process::id() != parent {
        let is_stopped_in_time = linger.is_continuation() && cpu_time() < used / 2;
        // SAFETY: ends the child.
        unsafe { libc::_exit(if is_stopped_in_time { 0 } else { 1 }) };
    }
    let child = linger.completion().expect("the parent's is over at once");
    let mut status = 0;
    // SAFETY: the child is ours; the status is valid for writes.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
}
