//! Call any function with a timeout, on the caller's own kernel thread.

mod deadline;
mod error;
#[cfg(feature = "ffi")]
pub mod ffi;
mod linger;
mod preempt;
mod task;
mod thread;

pub use error::Error;
pub use linger::{Continuation, Linger, concurrency_limit, launch, no_preempt, nsnow, pause, resume, timeout};

/// The README's examples, as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
