//! A global allocator that functions share with their launchers.

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::c_void;

/// Makes an allocator that is part of the executable one that functions can use as their launchers do.
///
/// For `#[global_allocator]`, around the allocator proper. What a function asks of it is done by the *kernel thread*,
/// with that one's thread-locals, and without preemption: a timeout that comes meanwhile takes effect right after it.
/// Hence
///
/// - no function is ever stopped in the allocator, with its locks held or its lists in halves: neither its launcher nor
///   another thread waits for it, and a cancel, at whatever moment, leaves the allocator whole;
/// - the allocator does not meet functions as threads. To it each would be a new one, which sets up caches when it
///   first allocates and is torn down at its end, and which a cancel makes vanish: its caches would leak, and the
///   allocator go on using thread-locals that the next function overwrites.
///
/// Outside of functions a call costs nothing more, inside about 30 ns.
///
/// # When it is needed
///
/// With an allocator that is linked into the executable statically, as crates for jemalloc and mimalloc do, or that is
/// written in Rust. Without it, functions may use such an allocator as threads do, if launchers do not wait for
/// what a stopped one holds, which they cannot avoid as soon as they allocate; and none may be cancelled that has
/// allocated.
///
/// Not with the system's allocator, [`std::alloc::System`], which is the default: the C library's `malloc` is treated
/// like that anyway, also for C libraries. Nor does it apply to what C code in the process calls: only to Rust's allocations.
///
/// # Panics
///
/// The allocator must not unwind ([`GlobalAlloc`]); inside a function this ends the process.
///
/// # Safety
///
/// It adds nothing to the contract of [`GlobalAlloc`]. The allocator's methods run on the stack of the function, which is
/// as large as [`set_stack_size`](crate::set_stack_size) says.
///
/// As ever, a signal handler must not allocate; so must no function that a handler launches.
///
/// # Examples
///
/// ```
/// use inger::{Alloc, launch};
/// // In place of System: tikv_jemallocator::Jemalloc, mimalloc::MiMalloc...
/// use std::alloc::System;
///
/// #[global_allocator]
/// static ALLOCATOR: Alloc<System> = Alloc(System);
///
/// // Stopped at some moment, and cancelled.
/// let endless: inger::Linger<()> = launch(|| loop { drop(Vec::<u64>::with_capacity(100)) }, 1_000)?;
/// assert!(endless.is_continuation());
/// // SAFETY: nothing outside points into what the function has on its stack.
/// unsafe { endless.reclaim() };
///
/// let words = launch(|| String::from("as ever"), 1_000_000)?.completion();
/// assert_eq!(words.as_deref(), Some("as ever"));
/// # Ok::<(), inger::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Alloc<A>(pub A);

/// Runs `call` as the kernel thread's own code, unpreempted.
///
/// Context: any; at any time, in a bracket too. Allocates nothing.
#[inline]
fn hosted<R, F: FnOnce() -> R>(call: F) -> R {
    /// Called by address, so never inlined: the caller's thread-locals are not where these are.
    unsafe extern "C" fn run<R, F: FnOnce() -> R>(argument: *mut c_void) {
        // SAFETY: what is passed below, and nobody else uses meanwhile.
        let (call, result) = unsafe { &mut *argument.cast::<(Option<F>, Option<R>)>() };
        *result = call.take().map(|call| call());
    }
    // SAFETY: the state of the current TCB is always there.
    let is_own = unsafe { (*gotcha::this()).is_virtual } == 0;
    if is_own {
        return call();
    }
    let mut argument = (Some(call), None);
    // SAFETY: the function fits its argument. It returns, as an unwinding would not leave it.
    unsafe { gotcha::libgotcha_run_hosted(Some(run::<R, F>), (&raw mut argument).cast()) };
    argument.1.expect("it has run")
}

// SAFETY: each call is handed on, once. What the allocator finds in thread-locals is the kernel thread's on whichever
// stack it is called: to it these are calls of that thread, none of which begins before another has returned.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Alloc<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        hosted(|| unsafe { self.0.alloc(layout) })
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        hosted(|| unsafe { self.0.dealloc(block, layout) });
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        hosted(|| unsafe { self.0.alloc_zeroed(layout) })
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size_bytes: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        hosted(|| unsafe { self.0.realloc(block, layout, size_bytes) })
    }
}
