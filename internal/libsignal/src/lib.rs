//! Typed signals, masks, actions and per-thread timers for x86-64 Linux.
//!
//! The crate holds mechanism only: which signal serves what, and what a handler does, is decided
//! by its users.
//!
//! # Why system calls, and not libc
//! The operations here run inside signal handlers, while the thread pointer designates a
//! thread-control block that libc did not set up, and in processes whose GOT has been rewritten.
//! A libc call would go through that GOT and store its `errno` through that thread pointer. Every
//! operation is therefore an inline system call: it calls no libc function, reads and writes no
//! thread-local variable (`errno` included), allocates nothing and does not panic. All of them are
//! async-signal-safe. The exceptions are the `Display` and `Debug` implementations and the
//! conversion to [`std::io::Error`], which are for reports outside handlers.
//!
//! # How this differs from the libc functions of the same purpose
//! - Masks and actions apply to signals 32 and 33 too, which glibc keeps for `pthread_cancel` and
//!   `setuid`, and which its wrappers leave out of every mask.
//! - Process and thread numbers are always the kernel's, never a cached value.
//! - Handlers return through this crate's own restorer, see [`set_action`].
//!
//! # Modules
//! | File | Contents |
//! |---|---|
//! | `errno.rs` | [`Errno`], the error of a system call |
//! | `signal.rs` | [`Signal`], one signal number |
//! | `set.rs` | [`SignalSet`], a set of them as the kernel stores it |
//! | `mask.rs` | the calling thread's mask, [`MaskGuard`] |
//! | `action.rs` | [`Action`], [`Disposition`], [`Flags`], [`set_action`] |
//! | `restorer.rs` | the return from a handler, all assembly of the crate |
//! | `thread.rs` | process and thread numbers, signals sent to one thread |
//! | `timer.rs` | [`Clock`], [`Timer`], [`is_timer_expiry`] |
//! | `stack.rs` | the alternate signal stack |

#[cfg(not(all(target_os = "linux", target_arch = "x86_64", target_pointer_width = "64")))]
compile_error!("libsignal supports x86-64 Linux only");

mod action;
mod errno;
mod mask;
mod restorer;
mod set;
mod signal;
mod stack;
mod thread;
mod timer;

pub use action::{Action, Disposition, Flags, Handler, action, set_action};
pub use errno::Errno;
pub use mask::{MaskGuard, block, set_thread_mask, thread_mask, unblock};
pub use set::{Iter, SignalSet};
pub use signal::Signal;
pub use stack::{alternate_stack, set_alternate_stack};
pub use thread::{getpid, gettid, requeue_to_process, requeue_to_thread, send_to_thread};
pub use timer::{Clock, Timer, is_timer_expiry, now_ns};
