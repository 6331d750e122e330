//! Process and thread numbers, and signals sent to one thread.

use crate::{Errno, Signal};
use core::ptr;
use libc::siginfo_t;
use syscalls::Sysno;

/// Returns the kernel's number of the calling thread.
///
/// # Source
/// gettid(2)
#[inline]
pub fn gettid() -> i32 {
    // SAFETY: the call takes no arguments and touches no memory.
    let result = unsafe { syscalls::syscall0(Sysno::gettid) };
    // It cannot fail; 0 is no thread's number.
    result.unwrap_or(0) as i32
}

/// Returns the kernel's number of the calling process.
///
/// # Source
/// getpid(2)
#[inline]
pub fn getpid() -> i32 {
    // SAFETY: the call takes no arguments and touches no memory.
    let result = unsafe { syscalls::syscall0(Sysno::getpid) };
    // It cannot fail; 0 is no process's number.
    result.unwrap_or(0) as i32
}

/// Sends a signal to thread `tid` of process `pid`.
///
/// The signal's `si_code` is `SI_TKILL`. A standard signal that is pending on that thread already
/// is not queued a second time.
///
/// # Errors
/// - `ESRCH`: there is no such thread in that process.
/// - `EPERM`: the caller may not signal that process.
/// - `EAGAIN`: the user's limit of queued signals (`RLIMIT_SIGPENDING`) is reached; real-time
///   signals only.
/// - `EINVAL`: a number is not positive.
///
/// # Source
/// tgkill(2)
#[inline]
pub fn send_to_thread(pid: i32, tid: i32, signal: Signal) -> Result<(), Errno> {
    // SAFETY: the call takes numbers only.
    unsafe { syscalls::syscall3(Sysno::tgkill, pid as usize, tid as usize, signal.number() as usize) }
        .map(drop)
        .map_err(Errno::from_kernel)
}

/// Queues a signal for thread `tid` of process `pid` with the given origin, as if it arrived anew.
///
/// This is for a handler that took a signal which it must pass on, or deliver later. The receiver
/// sees `info` unchanged, but for `si_signo`, which the kernel sets to `signal`.
///
/// # Errors
/// - `EPERM`: `info.si_code` is not negative, or is `SI_TKILL`, and `tid` is not the calling thread
///   itself: the kernel lets nobody pretend to another thread that it or `kill` sent a signal.
/// - `ESRCH`, `EAGAIN`, `EINVAL`: as for [`send_to_thread`].
///
/// # Safety
/// The receiver may act on the addresses and numbers in `info`; they must be as good as those of a
/// signal of that origin. One taken over from a handler's argument, unchanged, is.
///
/// # Source
/// rt_tgsigqueueinfo(2)
#[inline]
pub unsafe fn requeue_to_thread(pid: i32, tid: i32, signal: Signal, info: &siginfo_t) -> Result<(), Errno> {
    // SAFETY: the kernel reads `info`, which is live and laid out as its own structure.
    unsafe {
        syscalls::syscall4(
            Sysno::rt_tgsigqueueinfo,
            pid as usize,
            tid as usize,
            signal.number() as usize,
            ptr::from_ref(info) as usize,
        )
    }
    .map(drop)
    .map_err(Errno::from_kernel)
}

/// Makes a signal pending for the calling process again, with the information that it arrived with.
///
/// The kernel delivers it to a thread that does not block it, or that waits for it.
///
/// # Errors
/// `EAGAIN`: the limit of queued signals is reached; `EINVAL`: the kernel knows no such signal.
///
/// # Safety
/// As for [`requeue_to_thread`].
///
/// # Source
/// rt_sigqueueinfo(2); `do_rt_sigqueueinfo` in `kernel/signal.c`
#[inline]
pub unsafe fn requeue_to_process(signal: Signal, info: &siginfo_t) -> Result<(), Errno> {
    // The kernel takes a thread's number for its process, and lets a thread repeat what `kill` or the kernel
    // itself has sent under its own number only.
    // SAFETY: the kernel reads `info`, which is live and laid out as its own structure.
    unsafe {
        syscalls::syscall3(
            Sysno::rt_sigqueueinfo,
            gettid() as usize,
            signal.number() as usize,
            ptr::from_ref(info) as usize,
        )
    }
    .map(drop)
    .map_err(Errno::from_kernel)
}
