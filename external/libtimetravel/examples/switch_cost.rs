//! Measures a switch: `cargo run --release --example switch_cost`.
//!
//! Each figure is the median, over 1000 samples, of the mean of 1000 round trips.

use libtimetravel::raw::{self, Context};
use libtimetravel::{Coroutine, Stack, Step, Suspender, thread_pointer_method, use_arch_prctl};
use std::ffi::c_void;
use std::time::Instant;

const BATCH: u32 = 1000;

fn median_ns(mut round_trip: impl FnMut()) -> f64 {
    let mut samples: Vec<f64> = (0..1000)
        .map(|_| {
            let start = Instant::now();
            (0..BATCH).for_each(|_| round_trip());
            start.elapsed().as_nanos() as f64 / f64::from(BATCH)
        })
        .collect();
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// The two contexts of one function.
struct Pair {
    host: Context,
    func: Context,
}

unsafe extern "C" fn complete(pair: *mut c_void) -> *mut Context {
    // SAFETY: `enter` passes a Pair.
    unsafe { &raw mut (*pair.cast::<Pair>()).host }
}

unsafe extern "C" fn leave_forever(pair: *mut c_void) -> *mut Context {
    let pair = pair.cast::<Pair>();
    loop {
        // SAFETY: the contexts are those that `enter` and `reenter` are given.
        unsafe { raw::leave(&raw mut (*pair).func, &raw mut (*pair).host, 1) };
    }
}

fn measure(thread_pointer: usize) {
    let stack = Stack::new(64 * 1024).expect("a stack");
    let mut pair = Pair { host: Context::new(thread_pointer), func: Context::new(thread_pointer) };
    let (host, func, arg) = (&raw mut pair.host, &raw mut pair.func, (&raw mut pair).cast());
    // SAFETY: the pair and the stack outlive the functions, the last of which is abandoned.
    unsafe {
        let ns = median_ns(|| _ = raw::enter(host, func, stack.top(), complete, arg));
        println!("  enter + complete  {ns:6.1} ns");
        raw::enter(host, func, stack.top(), leave_forever, arg);
        println!("  reenter + leave   {:6.1} ns", median_ns(|| _ = raw::reenter(host, func)));
    }
}

fn main() {
    println!("without a thread pointer");
    measure(0);
    println!("with a thread pointer, {:?}", thread_pointer_method());
    measure(raw::thread_pointer());
    use_arch_prctl();
    println!("with a thread pointer, {:?}", thread_pointer_method());
    measure(raw::thread_pointer());

    let stack = Stack::new(64 * 1024).expect("a stack");
    let mut counter = Coroutine::new(stack, |suspender: &Suspender<u64, u64>, mut n| {
        loop {
            n = suspender.suspend(n + 1);
        }
    });
    let mut n = 0;
    let ns = median_ns(|| match counter.resume(n) {
        Step::Yield(next) => n = next,
        Step::Return(never) => never,
    });
    println!("Coroutine::resume + suspend\n  {ns:24.1} ns");
}
