//! The switch itself, without any protection: what the safe part of the crate, and other run times,
//! are built from.
//!
//! A *function* runs on a stack of its own. Its *host* is the execution that entered it, and that
//! goes on when the function leaves or completes. The three operations are [`enter`], [`leave`] and
//! [`reenter`]. No path makes a system call where the kernel allows `wrfsbase`
//! (see [`thread_pointer_method`](crate::thread_pointer_method)), none calls the C library.
//!
//! # What travels
//!
//! - The callee-saved registers and the stack pointer, as in a call.
//! - The thread pointer (FS base), if the context switched to names one. While it is the function's,
//!   the stack pointer is the function's too: on the way in it is switched after the stack pointer,
//!   on the way out before it.
//! - The control bits of mxcsr, and the x87 control word. A fresh function starts with its host's;
//!   a host gets back what it had, a reentered function what it had.
//! - The exception flags of mxcsr accumulate: after a switch, the flags that this side had raised
//!   are raised, and those of the other side may be too, as after a call. The x87 status word stays
//!   with the kernel thread.
//!
//! Not supported: shadow stacks (a process that runs with user shadow stacks enabled faults at the
//! first switch), and unwinding out of a function ([`Entry`] is `extern "C"`, which aborts).

use crate::arch::current as arch;
use core::ffi::c_void;

/// Where a suspended execution is: its stack pointer and thread pointer.
///
/// # Invariants
///
/// While the execution is suspended, `sp` points to the frame that [`enter`], [`reenter`] or
/// [`leave`] built on its stack. While it runs, `sp` has no meaning.
#[derive(Debug)]
#[repr(C)]
pub struct Context {
    /// Points to the frame of the suspended execution.
    pub sp: *mut u8,
    /// FS base to install when this context is switched to; 0: leave FS alone.
    pub thread_pointer: usize,
    /// Where the function's stack holds the `sp` of its host, for the unwinder; null in a host.
    pub(crate) link: *mut *mut u8,
}

impl Context {
    /// Makes a context of nothing yet; it is filled by the switch.
    ///
    /// `thread_pointer` is the FS base to install when the context is switched to, or 0.
    pub const fn new(thread_pointer: usize) -> Self {
        Context { sp: core::ptr::null_mut(), thread_pointer, link: core::ptr::null_mut() }
    }
}

/// What [`enter`] runs on the new stack.
///
/// It returns the context to go back to when it is done: that of the latest `enter` or [`reenter`],
/// which is not the first one if the function has moved to another host.
pub type Entry = unsafe extern "C" fn(arg: *mut c_void) -> *mut Context;

/// What [`enter`] and [`reenter`] return when the entry has returned.
pub const COMPLETED: usize = 0;

/// Runs `entry(arg)` on the stack that ends at `stack_top`.
///
/// Saves the caller in `*host` (its `sp`; the caller has set its `thread_pointer`) and installs
/// `func.thread_pointer`. Returns [`COMPLETED`] once `entry` has returned, to the context that it
/// returned, or the code of a [`leave`].
///
/// `stack_top` is rounded down to a multiple of 16; the topmost 16 bytes are the switch's.
///
/// # Safety
///
/// - `host` and `func` are valid for writes, and remain so until the function leaves or completes.
/// - Below `stack_top` there is enough writable memory, that nobody else uses, for `entry`.
/// - A `thread_pointer`, where not 0, is the address of a TCB fit for the code that runs with it. If
///   it differs from the current one, no reference to a `thread_local!` may be used across the switch.
/// - The context that `entry` returns is suspended in `enter` or `reenter`, and nobody else
///   switches to it.
/// - `entry` does not unwind.
#[inline]
pub unsafe fn enter(
    host: *mut Context,
    func: *mut Context,
    stack_top: *mut u8,
    entry: Entry,
    arg: *mut c_void,
) -> usize {
    // SAFETY: the caller's promises are those that the assembly relies upon.
    unsafe { arch::libtimetravel_enter(host, func, stack_top, entry, arg) }
}

/// Continues a function that [`leave`] suspended; returns what [`enter`] would.
///
/// The kernel thread may be another than the one that the function ran on before.
///
/// # Safety
///
/// As for [`enter`]; and `func` is the context that the latest `leave` was given, or was moved from
/// it, and the function has not been reentered since.
#[inline]
pub unsafe fn reenter(host: *mut Context, func: *mut Context) -> usize {
    // SAFETY: the caller's promises are those that the assembly relies upon.
    unsafe { arch::reenter(host, func) }
}

/// Suspends: saves the current point in `*func` and goes back to `*host`, whose [`enter`] or
/// [`reenter`] returns `code`. Returns when the function is reentered.
///
/// `code` is the caller's to choose, but not [`COMPLETED`].
///
/// # Safety
///
/// - `func` is the context that the latest `enter` or `reenter` of this function was given. (It may
///   be that of an outer function, if functions are nested: then the whole chain is suspended, and
///   `func.thread_pointer` has to be the current thread pointer.)
/// - `host` is the context that the same call was given, and that call has not returned.
/// - If the function goes on with another thread pointer or on another kernel thread, no address of a
///   thread-local variable may be used across the call.
#[inline]
pub unsafe fn leave(func: *mut Context, host: *mut Context, code: usize) {
    debug_assert_ne!(code, COMPLETED);
    // SAFETY: the caller's promises are those that the assembly relies upon.
    unsafe { arch::leave(func, host, code) }
}

/// The thread pointer (FS base) of the caller, as the psABI stores it in the TCB.
#[inline]
pub fn thread_pointer() -> usize {
    arch::thread_pointer()
}

/// The pair of words that says whether the running code may be preempted.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Gate {
    /// Not 0: do not preempt now (the gate is closed); set `pending` instead.
    pub defer: u32,
    /// Not 0: a preemption came while the gate was closed; whoever opens it has to look.
    pub pending: u8,
}

/// How [`return_from_signal`] continues the interrupted code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Return {
    /// In user mode. The signal mask and the alternate signal stack stay as they are.
    Fast,
    /// By `rt_sigreturn`, which also installs the frame's signal mask and alternate stack.
    Sigreturn,
}

/// Ends a signal handler: opens the gate, and continues the interrupted code.
///
/// Sets `gate.defer` to 0. If `gate.pending` is set then, sets `gate.defer` to 1 again and returns,
/// for the caller to deal with it and call once more. Otherwise it does not return: it loads the
/// registers, flags and extended state from `uc`.
///
/// With [`Return::Fast`], falls back to [`Return::Sigreturn`] where the signal frame has no XSAVE
/// image. The way back stores 16 bytes just below the red zone of the interrupted code.
///
/// # Safety
///
/// - `uc` is the third argument of the signal handler that is running, the handler was entered by
///   the kernel with SA_SIGINFO, and the current stack pointer is below `uc` in the same stack.
/// - No frame between the handler's and this one needs its destructors run.
/// - `gate` stays valid, and nobody but signal handlers on this kernel thread uses it meanwhile.
/// - With [`Return::Fast`], the signal mask now is the one to continue with: SA_NODEFER and an empty
///   `sa_mask`, or restored by the caller; and the process does not use shadow stacks.
/// - A nested signal handler does not suspend code whose program counter is in [`return_window`].
#[inline]
pub unsafe fn return_from_signal(uc: *mut libc::ucontext_t, gate: *mut Gate, how: Return) {
    // SAFETY: the caller's promises are those that the assembly relies upon.
    unsafe { arch::libtimetravel_return_from_signal(uc, gate, how as u32) }
}

/// The code of the oldest frame of every function's stack, from where backtraces go on in the launcher's.
///
/// Who suspends functions in the middle of a backtrace, and resumes them elsewhere, ends theirs here.
#[must_use]
#[inline]
pub fn function_base() -> core::ops::Range<usize> {
    arch::function_base()
}

/// The instruction addresses, from the gate's opening to the last instruction of
/// [`return_from_signal`], in which a nested signal handler must not preempt.
///
/// To suspend there would be correct once, but leave the signal frame in place: were every return to
/// be preempted, frames would pile up.
pub fn return_window() -> core::ops::Range<usize> {
    arch::return_window()
}
