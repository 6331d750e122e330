//! Runs functions on stacks of their own, and switches between them within a kernel thread.
//!
//! - [`Stack`] is memory to run on.
//! - [`Coroutine`] is the safe use: a closure that can suspend itself and be resumed.
//! - [`raw`] is the switch, for run times that need more: a thread pointer for each function, functions
//!   that move between kernel threads, and that are suspended inside a signal handler.
//! - [`unwind`] tells where a suspended function stands.
//!
//! A switch takes a few nanoseconds and no system call. Backtraces and debuggers see the frames of
//! the launcher below those of a function.
//!
//! x86-64 Linux only. Not supported: user shadow stacks.

mod arch;
mod coroutine;
pub mod raw;
mod stack;
pub mod unwind;

pub use coroutine::{Coroutine, Step, Suspender};
pub use raw::Context;
pub use stack::Stack;

/// The examples in the README run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// How a switch sets the thread pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadPointerMethod {
    /// The instruction: about 10 ns.
    Wrfsbase,
    /// The system call `arch_prctl(ARCH_SET_FS)`: a few hundred ns.
    ArchPrctl,
}

/// How switches set the thread pointer in this process.
///
/// Found out when the program or shared object is loaded: [`Wrfsbase`](ThreadPointerMethod::Wrfsbase)
/// if the kernel announces it (AT_HWCAP2, bit 1).
pub fn thread_pointer_method() -> ThreadPointerMethod {
    if arch::current::uses_wrfsbase() { ThreadPointerMethod::Wrfsbase } else { ThreadPointerMethod::ArchPrctl }
}

/// Makes all switches set the thread pointer by the system call from now on.
///
/// For tests, and for environments that announce `wrfsbase` but do not preserve the FS base.
pub fn use_arch_prctl() {
    arch::current::use_arch_prctl();
}
