//! The calling thread's signal mask.

use crate::SignalSet;
use core::marker::PhantomData;
use core::ptr;
use syscalls::Sysno;

/// Returns the set of signals that the calling thread blocks.
///
/// # Source
/// rt_sigprocmask(2)
#[inline]
pub fn thread_mask() -> SignalSet {
    change_mask(libc::SIG_BLOCK, None)
}

/// Makes the calling thread block exactly `mask`, and returns the mask before.
///
/// Signals that become unblocked and are pending are delivered before the call returns.
/// `SIGKILL` and `SIGSTOP` stay open whatever `mask` says. A mask that holds signal 32 or 33 makes
/// `pthread_cancel` of this thread, or `setuid` in any thread, wait: keep such a mask for a short
/// time.
///
/// # Source
/// rt_sigprocmask(2)
#[inline]
pub fn set_thread_mask(mask: &SignalSet) -> SignalSet {
    change_mask(libc::SIG_SETMASK, Some(mask))
}

/// Makes the calling thread block the signals of `set` as well, and returns the mask before.
///
/// # Source
/// rt_sigprocmask(2)
#[inline]
pub fn block(set: &SignalSet) -> SignalSet {
    change_mask(libc::SIG_BLOCK, Some(set))
}

/// Makes the calling thread no longer block the signals of `set`, and returns the mask before.
///
/// # Source
/// rt_sigprocmask(2)
#[inline]
pub fn unblock(set: &SignalSet) -> SignalSet {
    change_mask(libc::SIG_UNBLOCK, Some(set))
}

/// Changes the mask as `how` says, or not at all without a set, and returns the mask before.
#[inline]
fn change_mask(how: i32, set: Option<&SignalSet>) -> SignalSet {
    let mut previous = SignalSet::empty();
    let set = set.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: `set` is null or a live set, `previous` is a live set, and a `SignalSet` is the mask
    // of 8 bytes that the last argument announces.
    let result = unsafe {
        syscalls::syscall4(
            Sysno::rt_sigprocmask,
            how as usize,
            set as usize,
            &raw mut previous as usize,
            size_of::<SignalSet>(),
        )
    };
    // The call fails for an unknown `how`, a wrong size or a bad pointer only, so not here.
    let _ = result;
    previous
}

/// Blocks signals on the calling thread for as long as it lives.
///
/// Dropping the guard sets the mask of the time before, whatever was changed in between; so
/// guards that nest must be dropped in the opposite order of their making.
///
/// # Examples
/// ```
/// use libsignal::{MaskGuard, Signal, thread_mask};
///
/// let before = thread_mask();
/// let guard = MaskGuard::block_all();
/// assert!(thread_mask().contains(Signal::ALRM));
/// drop(guard);
/// assert_eq!(thread_mask(), before);
/// ```
///
/// The mask is the thread's, so the guard stays on it:
/// ```compile_fail,E0277
/// fn send<T: Send>(_: T) {}
/// send(libsignal::MaskGuard::block_all());
/// ```
#[derive(Debug)]
#[must_use = "the signals are open again as soon as the guard is dropped"]
pub struct MaskGuard {
    saved_mask: SignalSet,          // the mask that drop sets
    not_send: PhantomData<*mut ()>, // a mask belongs to one thread
}

impl MaskGuard {
    /// Blocks all signals.
    #[inline]
    pub fn block_all() -> MaskGuard {
        MaskGuard::block(&SignalSet::full())
    }

    /// Blocks the signals of `set`, besides those that are blocked already.
    #[inline]
    pub fn block(set: &SignalSet) -> MaskGuard {
        MaskGuard { saved_mask: block(set), not_send: PhantomData }
    }

    /// Returns the mask that dropping the guard will set.
    #[inline]
    pub fn saved_mask(&self) -> SignalSet {
        self.saved_mask
    }
}

impl Drop for MaskGuard {
    #[inline]
    fn drop(&mut self) {
        set_thread_mask(&self.saved_mask);
    }
}
