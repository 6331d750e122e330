//! The library's own operations and those that a program would use instead, by the names of the original.
//!
//! `cargo bench` for all, `cargo bench -- launch` for some. What is measured against what, and how large the
//! claims are, is the business of `cargo run --release -p inger-bench`.

use criterion::{BatchSize, Criterion};
use inger::{Linger, launch, nsnow, pause, resume};
use std::ffi::c_void;
use std::hint::black_box;
use std::ptr::{null, null_mut};
use std::time::{Duration, Instant};

fn reclaim(linger: Linger<'_, ()>) {
    // SAFETY: the functions of this file share nothing with others.
    unsafe { linger.reclaim() };
}

fn pause_for_ever() {
    loop {
        pause();
    }
}

/// The sum over `iterations` of what `round` returns, in ns: the time of a part of what it does.
fn sum_ns(iterations: u64, mut round: impl FnMut() -> u64) -> Duration {
    Duration::from_nanos((0..iterations).map(|_| round()).sum())
}

/// From the call of `launch` to the function's end; and how that divides into the way there and the way back. Each
/// part contains one reading of the clock.
fn bench_launch(criterion: &mut Criterion) {
    criterion.bench_function("launch", |bencher| {
        bencher.iter(|| launch(|| black_box(()), u64::MAX).expect("a libset").is_completion());
    });
    criterion.bench_function("launch/entry", |bencher| {
        bencher.iter_custom(|iterations| {
            sum_ns(iterations, || {
                let start_ns = nsnow();
                launch(nsnow, u64::MAX).expect("a libset").completion().expect("it has returned") - start_ns
            })
        });
    });
    criterion.bench_function("launch/exit", |bencher| {
        bencher.iter_custom(|iterations| {
            sum_ns(iterations, || {
                let end_ns = launch(nsnow, u64::MAX).expect("a libset").completion().expect("it has returned");
                nsnow() - end_ns
            })
        });
    });
    // With a deadline: the clock is read, and the timer is armed now and then.
    criterion.bench_function("launch/1 ms", |bencher| {
        bencher.iter(|| launch(|| black_box(()), 1_000).expect("a libset").is_completion());
    });
}

/// There and back again: a resumed function pauses at once.
fn bench_resume(criterion: &mut Criterion) {
    criterion.bench_function("resume", |bencher| {
        let mut linger = launch(pause_for_ever, u64::MAX).expect("a libset");
        bencher.iter(|| resume(&mut linger, u64::MAX).expect("it can go on").yielded());
        reclaim(linger);
    });
    for (name, is_entry) in [("resume/entry", true), ("resume/exit", false)] {
        criterion.bench_function(name, |bencher| {
            let mut inside_ns = 0;
            let shared = SharedNs(&raw mut inside_ns);
            let mut linger = launch(move || read_clock_for_ever(shared), u64::MAX).expect("a libset");
            bencher.iter_custom(|iterations| {
                sum_ns(iterations, || {
                    let start_ns = nsnow();
                    resume(&mut linger, u64::MAX).expect("it can go on");
                    let end_ns = nsnow();
                    // SAFETY: the function is paused.
                    let inside_ns = unsafe { shared.0.read_volatile() };
                    if is_entry { inside_ns - start_ns } else { end_ns - inside_ns }
                })
            });
            reclaim(linger);
        });
    }
}

#[derive(Clone, Copy)]
struct SharedNs(*mut u64);
// SAFETY: the launcher looks at it only while the function is paused.
unsafe impl Send for SharedNs {}

fn read_clock_for_ever(shared: SharedNs) {
    loop {
        // SAFETY: the launcher waits.
        unsafe { shared.0.write_volatile(nsnow()) };
        pause();
    }
}

/// A cancelled function's libset is made as new, for use by another.
fn bench_renew(criterion: &mut Criterion) {
    criterion.bench_function("renew", |bencher| {
        bencher.iter_batched(|| launch(pause_for_ever, u64::MAX).expect("a libset"), reclaim, BatchSize::PerIteration);
    });
}

/// What a program that has no such library can do: a process or a thread.
fn bench_others(criterion: &mut Criterion) {
    criterion.bench_function("fork", |bencher| {
        bencher.iter(|| {
            // SAFETY: the child ends at once.
            match unsafe { libc::fork() } {
                // SAFETY: ends the child.
                0 => unsafe { libc::_exit(0) },
                pid => wait(pid),
            }
        });
    });
    criterion.bench_function("vfork", |bencher| {
        let mut stack = vec![0_u128; 4096];
        bencher.iter(|| {
            // What vfork is, on a stack of its own: a function that returns twice is not for Rust.
            // SAFETY: the child runs on `stack`, which nobody uses meanwhile, and touches nothing else.
            wait(unsafe {
                let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
                libc::clone(exit_at_once, stack.as_mut_ptr_range().end.cast(), flags, null_mut())
            });
        });
    });
    criterion.bench_function("pthread_create", |bencher| {
        bencher.iter_custom(|iterations| {
            (0..iterations)
                .map(|_| {
                    let start = Instant::now();
                    let thread = create();
                    let elapsed = start.elapsed();
                    join(thread);
                    elapsed
                })
                .sum()
        });
    });
    criterion.bench_function("pthread_join", |bencher| bencher.iter_batched(create, join, BatchSize::PerIteration));
}

extern "C" fn exit_at_once(_argument: *mut c_void) -> libc::c_int {
    // SAFETY: ends the child.
    unsafe { libc::_exit(0) }
}

fn wait(pid: libc::pid_t) {
    assert!(pid > 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the child is ours, and its status is not asked for.
    assert_eq!(unsafe { libc::waitpid(pid, null_mut(), 0) }, pid);
}

extern "C" fn do_nothing(argument: *mut c_void) -> *mut c_void {
    argument
}

fn create() -> libc::pthread_t {
    let mut thread = 0;
    // SAFETY: `thread` is valid for writes, and the function needs no argument.
    assert_eq!(unsafe { libc::pthread_create(&mut thread, null(), do_nothing, null_mut()) }, 0);
    thread
}

fn join(thread: libc::pthread_t) {
    // SAFETY: the thread was created by `create`, and is joined once.
    assert_eq!(unsafe { libc::pthread_join(thread, null_mut()) }, 0);
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    bench_launch(&mut criterion);
    bench_resume(&mut criterion);
    bench_renew(&mut criterion);
    bench_others(&mut criterion);
    criterion.final_summary();
}
