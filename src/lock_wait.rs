//! Waits for locks that stopped functions may hold, and that take long: who is told.

use crate::linger::BracketGuard;
use crate::task;
use std::fmt;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering::Relaxed};

/// A thread has been waiting for a second for a lock that a function may hold which does not go on: see
/// [`set_lock_wait_hook`].
///
/// Its text says so in a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockWait {
    /// The kernel's number of the thread that waits.
    pub thread: i32,
    /// Who holds the lock.
    pub holder: LockHolder,
    /// How many functions are unfinished, in the whole process.
    pub unfinished: usize,
    /// How many have been cancelled in mid-run so far.
    pub cancelled: usize,
}

/// Who holds a lock that a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockHolder {
    /// A function that is unfinished, and does not go on while the thread waits.
    Unfinished,
    /// A function that was cancelled.
    Cancelled,
    /// Not known, as of locks of Rust's standard library: perhaps somebody else who is merely slow.
    Unknown,
}

impl fmt::Display for LockWait {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "thread {} has waited for a second for a lock that ", self.thread)?;
        match (self.holder, self.cancelled) {
            (LockHolder::Unfinished, _) => formatter.write_str("is held by a preemptible function that does not go on"),
            (LockHolder::Cancelled, _) => {
                formatter.write_str("was held by a preemptible function when it was cancelled")
            }
            (LockHolder::Unknown, 0) => {
                write!(formatter, "may be held by one of the {} functions that are unfinished", self.unfinished)
            }
            (LockHolder::Unknown, cancelled) => {
                write!(formatter, "may be held by one of the {cancelled} functions that were cancelled")
            }
        }
    }
}

static HOOK: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

/// Has `hook` called when a thread that launches functions has waited for a lock for a second, which one of them may
/// hold that does not go on meanwhile: it has paused, may not be run on by others, or was cancelled. `None`: as at the
/// program's start, a line on standard error says so.
///
/// Waits without a deadline for the C library's mutexes, read-write and spin locks, and for locks that are made of futexes,
/// as Rust's are. Whose a lock is only mutexes, and read-write locks of who writes, tell. Of others the hook is told whenever some
/// function is unfinished or has been cancelled; the line is written once, if functions have been cancelled. Waits for
/// `pthread_once` are told only while functions are run on for them.
///
/// # Context
///
/// The hook runs on the thread that waits, in the call that waits, once for each long wait, as a handler of a signal
/// of the program would: it is not preempted, [`pause`](crate::pause) does nothing in it, and the thread goes on
/// waiting when it has returned. What the thread holds is held: so it is to take no lock that the thread may hold or
/// wait for. That includes standard output's and standard error's, if functions print. It may allocate, unless the
/// program's allocator is part of the executable. To write to a descriptor, to store what it is told, or to abort the
/// process is safe.
///
/// # Panics
///
/// A panic of the hook aborts the process.
///
/// # Examples
///
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
///
/// static LONG_WAITS: AtomicUsize = AtomicUsize::new(0);
///
/// inger::set_lock_wait_hook(Some(|_| {
///     LONG_WAITS.fetch_add(1, Relaxed);
/// }));
/// ```
pub fn set_lock_wait_hook(hook: Option<fn(&LockWait)>) {
    HOOK.store(hook.map_or(std::ptr::null_mut(), |hook| hook as *mut ()), Relaxed);
}

/// The calling thread has waited for a lock for a second: of the function whose TCB has that tid; 0: of whomever.
///
/// Context: as a handler of the program, in the libset of whoever waits.
pub(crate) fn report(tid: i32) {
    let hook = HOOK.load(Relaxed);
    let wait = {
        let _bracket = BracketGuard::enter();
        let wait = describe(tid);
        if hook.is_null() {
            say(&wait);
        }
        wait
    };
    let is_known = wait.holder != LockHolder::Unknown || wait.unfinished + wait.cancelled > 0;
    if !hook.is_null() && is_known {
        // SAFETY: what set_lock_wait_hook() has stored.
        let hook = unsafe { std::mem::transmute::<*mut (), fn(&LockWait)>(hook) };
        hook(&wait);
    }
}

/// Context: bracketed.
fn describe(tid: i32) -> LockWait {
    let (is_alive, unfinished, cancelled) = task::look_for(tid);
    let holder = match (tid, is_alive) {
        (0, _) => LockHolder::Unknown,
        (_, true) => LockHolder::Unfinished,
        (_, false) => LockHolder::Cancelled,
    };
    LockWait { thread: libsignal::gettid(), holder, unfinished, cancelled }
}

/// Context: bracketed.
fn say(wait: &LockWait) {
    static IS_SAID: AtomicBool = AtomicBool::new(false);
    let is_unclear = wait.holder == LockHolder::Unknown;
    if is_unclear && (wait.cancelled == 0 || IS_SAID.swap(true, Relaxed)) {
        return;
    }
    let mut line = [0_u8; 256];
    let mut rest = &mut line[..];
    // What does not fit is left out.
    let _ = writeln!(rest, "inger: {wait}");
    let rest_len = rest.len();
    // SAFETY: the line's bytes. Not by the standard library, whose lock it may be, nor where a thread is cancelled.
    unsafe { libc::syscall(libc::SYS_write, libc::STDERR_FILENO, line.as_ptr(), line.len() - rest_len) };
}
