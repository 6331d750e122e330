//! Clocks, and timers that signal one thread.

use crate::{Errno, Signal};
use core::{mem, ptr};
use libc::{itimerspec, siginfo_t, timespec};
use syscalls::Sysno;

const NS_PER_S: u64 = 1_000_000_000;

/// A clock of the kernel, to read or to run a [`Timer`] by.
///
/// There is no wall clock here: it can be set, and jumps.
///
/// # Source
/// clock_gettime(2)
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Clock {
    /// Time since some point in the past, without the time that the machine was suspended.
    Monotonic,
    /// CPU time that the calling thread has used; for a timer, the thread that made it.
    ThreadCpu,
    /// CPU time that all threads of the process together have used.
    ProcessCpu,
}

impl Clock {
    /// The kernel's number of the clock.
    const fn id(self) -> libc::clockid_t {
        match self {
            Clock::Monotonic => libc::CLOCK_MONOTONIC,
            Clock::ThreadCpu => libc::CLOCK_THREAD_CPUTIME_ID,
            Clock::ProcessCpu => libc::CLOCK_PROCESS_CPUTIME_ID,
        }
    }
}

/// Reads a clock.
///
/// This enters the kernel, several times slower than the vdso, which it must not call; it is for
/// slow paths such as a handler, and for tests.
///
/// # Units
/// Nanoseconds.
///
/// # Source
/// clock_gettime(2)
#[inline]
pub fn now_ns(clock: Clock) -> u64 {
    let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is live, and libc's type is laid out as the kernel's.
    let result = unsafe { syscalls::syscall2(Sysno::clock_gettime, clock.id() as usize, &raw mut now as usize) };
    // The call fails for an unknown clock or a bad pointer only, so not here.
    let _ = result;
    to_ns(&now)
}

/// A one-shot timer that sends a signal to one thread when it expires.
///
/// The signal's `si_code` is `SI_TIMER` and its `si_value` the timer's cookie, which
/// [`is_timer_expiry`] looks at. A new timer is not armed. Arming an armed timer replaces its
/// expiry. Dropping the timer deletes it.
///
/// Arming and deleting act on the kernel's timer whichever thread calls them, so a `Timer` may
/// move to and be shared with other threads. The timer survives the thread that it signals, and is
/// then silent.
///
/// After replacing an expiry, disarming or deleting, the signal of an expiry just before may still
/// arrive: some kernels leave it queued. A handler must bear a signal that comes too early.
///
/// Not supported: periodic timers.
///
/// # After fork
/// The child has no timers. It must [`forget`](Timer::forget) the value: an id may soon name
/// another timer, that it made itself. `execve` deletes the timers.
///
/// # Invariants
/// `id` is a timer of this process that nothing else deletes.
///
/// # Examples
/// ```
/// use libsignal::{Clock, MaskGuard, Signal, SignalSet, Timer, gettid};
///
/// let guard = MaskGuard::block(&SignalSet::single(Signal::ALRM)); // so that none is delivered
/// let timer = Timer::new(Clock::Monotonic, Signal::ALRM, gettid(), 7)?;
/// timer.arm_in(60_000_000_000)?;
/// assert!(timer.remaining_ns() > 50_000_000_000);
/// timer.disarm()?;
/// assert_eq!(timer.remaining_ns(), 0);
/// # drop(guard);
/// # Ok::<(), libsignal::Errno>(())
/// ```
///
/// # Source
/// timer_create(2), timer_settime(2), timer_delete(2)
#[derive(Debug)]
pub struct Timer {
    id: i32, // the kernel's `timer_t`, at least 0
}

impl Timer {
    /// Makes a timer that sends `signal`, with `cookie` in its `si_value`, to thread `tid` of this
    /// process.
    ///
    /// # Errors
    /// - `EAGAIN`: the user's limit of queued signals (`RLIMIT_SIGPENDING`) is reached; each timer
    ///   counts as one.
    /// - `EINVAL`: `tid` is no thread of this process.
    /// - `ENOMEM`: the kernel is out of memory.
    #[inline]
    pub fn new(clock: Clock, signal: Signal, tid: i32, cookie: usize) -> Result<Timer, Errno> {
        // SAFETY: a sigevent holds integers and pointers, for which zero is a value.
        let mut event: libc::sigevent = unsafe { mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal.number();
        event.sigev_notify_thread_id = tid;
        event.sigev_value.sival_ptr = ptr::without_provenance_mut(cookie);
        let mut id = 0i32;
        // SAFETY: `event` and `id` are live; libc's type is laid out as the kernel's, and the
        // kernel's `timer_t` is an int.
        unsafe {
            syscalls::syscall3(
                Sysno::timer_create,
                clock.id() as usize,
                &raw const event as usize,
                &raw mut id as usize,
            )
        }
        .map_err(Errno::from_kernel)?;
        // INVARIANT: the kernel has just made the timer, and nobody else knows its number.
        Ok(Timer { id })
    }

    /// Lets the timer expire after `delay_ns` from now.
    ///
    /// A delay of 0 counts as 1: it expires at once, and never disarms.
    ///
    /// # Units
    /// Nanoseconds of the timer's clock.
    ///
    /// # Errors
    /// - `EINVAL`: the timer does not exist; in the child after a fork only.
    /// - `ESRCH`: its clock is the CPU time of a thread that has ended.
    #[inline]
    pub fn arm_in(&self, delay_ns: u64) -> Result<(), Errno> {
        self.set(0, delay_ns.max(1))
    }

    /// Lets the timer expire when its clock shows `deadline_ns`, at once if that is past.
    ///
    /// A deadline of 0 is past, too, and does not disarm.
    ///
    /// # Units
    /// Nanoseconds of the timer's clock, as [`now_ns`] returns them.
    ///
    /// # Errors
    /// - `EINVAL`: the timer does not exist; in the child after a fork only.
    /// - `ESRCH`: its clock is the CPU time of a thread that has ended.
    #[inline]
    pub fn arm_at(&self, deadline_ns: u64) -> Result<(), Errno> {
        self.set(libc::TIMER_ABSTIME, deadline_ns.max(1))
    }

    /// Takes back the expiry that is set, if any.
    ///
    /// # Errors
    /// - `EINVAL`: the timer does not exist; in the child after a fork only.
    /// - `ESRCH`: its clock is the CPU time of a thread that has ended.
    #[inline]
    pub fn disarm(&self) -> Result<(), Errno> {
        self.set(0, 0)
    }

    /// Returns the time until the timer expires, 0 if it is not armed.
    ///
    /// # Units
    /// Nanoseconds of the timer's clock.
    ///
    /// # Source
    /// timer_gettime(2)
    #[inline]
    pub fn remaining_ns(&self) -> u64 {
        let mut setting = one_shot(0);
        // SAFETY: `setting` is live, and libc's type is laid out as the kernel's.
        let result = unsafe { syscalls::syscall2(Sysno::timer_gettime, self.id as usize, &raw mut setting as usize) };
        // A timer that does not exist is not armed; `setting` says so already.
        let _ = result;
        to_ns(&setting.it_value)
    }

    /// Returns how many expiries the last delivered signal of this timer stood for, besides its
    /// own.
    ///
    /// A one-shot timer has an overrun only if it was armed again before its signal was delivered.
    ///
    /// # Source
    /// timer_getoverrun(2)
    #[inline]
    pub fn overrun(&self) -> u32 {
        // SAFETY: the call takes a number only.
        let result = unsafe { syscalls::syscall1(Sysno::timer_getoverrun, self.id as usize) };
        // A timer that does not exist delivered nothing.
        result.unwrap_or(0) as u32
    }

    /// Returns the kernel's number of the timer, which `si_timerid` of its signals holds.
    #[inline]
    pub const fn id(&self) -> i32 {
        self.id
    }

    /// Gives up the timer without deleting it.
    ///
    /// This is for the child after a fork, in which the timer does not exist. Elsewhere the timer
    /// stays until the process ends or executes another program.
    #[inline]
    pub const fn forget(self) {
        mem::forget(self);
    }

    /// Sets the expiry; a time of 0 disarms.
    #[inline]
    fn set(&self, flags: i32, time_ns: u64) -> Result<(), Errno> {
        let setting = one_shot(time_ns);
        // SAFETY: `setting` is live, and libc's type is laid out as the kernel's; the previous
        // setting is not asked for.
        unsafe {
            syscalls::syscall4(Sysno::timer_settime, self.id as usize, flags as usize, &raw const setting as usize, 0)
        }
        .map(drop)
        .map_err(Errno::from_kernel)
    }
}

impl Drop for Timer {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the call takes a number only; by the invariant the timer is ours to delete.
        let result = unsafe { syscalls::syscall1(Sysno::timer_delete, self.id as usize) };
        // It fails only if the timer does not exist, and there is nothing to delete then.
        let _ = result;
    }
}

/// Tells whether a signal is the expiry of a timer with this cookie.
///
/// Any process that may signal this one can send a signal that looks so. A handler that must not be
/// fooled compares with a clock, too.
///
/// # Examples
/// ```no_run
/// # use core::ffi::c_void;
/// unsafe extern "C" fn handler(_: i32, info: *mut libc::siginfo_t, _: *mut c_void) {
///     // SAFETY: the kernel passes a live `siginfo_t` to a handler with SA_SIGINFO.
///     if libsignal::is_timer_expiry(unsafe { &*info }, 7) {
///         // the timer with cookie 7
///     }
/// }
/// ```
///
/// # Source
/// sigaction(2), `siginfo_t`
#[inline]
pub fn is_timer_expiry(info: &siginfo_t, cookie: usize) -> bool {
    // SAFETY: all bytes of a `siginfo_t` are initialised, and with SI_TIMER the kernel has put the
    // value there.
    info.si_code == libc::SI_TIMER && unsafe { info.si_value() }.sival_ptr.addr() == cookie
}

/// The kernel's form of a setting that expires once; a time of 0 is "not armed".
const fn one_shot(time_ns: u64) -> itimerspec {
    itimerspec {
        it_interval: timespec { tv_sec: 0, tv_nsec: 0 },
        // Both fit: the seconds are below 2^35.
        it_value: timespec { tv_sec: (time_ns / NS_PER_S) as i64, tv_nsec: (time_ns % NS_PER_S) as i64 },
    }
}

/// The nanoseconds of a time that the kernel returned, which is never negative.
const fn to_ns(time: &timespec) -> u64 {
    (time.tv_sec as u64).wrapping_mul(NS_PER_S).wrapping_add(time.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_the_kernels_form() {
        for ns in [0, 1, 999_999_999, NS_PER_S, 60 * NS_PER_S + 7, u64::MAX] {
            assert_eq!(to_ns(&one_shot(ns).it_value), ns);
        }
    }
}
