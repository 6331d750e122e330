//! What a launch can ask for beyond the usual.

use super::{State, Task};
use crate::error::{ErrnoGuard, Error};
use libtimetravel::Stack;

/// Smaller stacks are not made.
pub(crate) const SMALLEST_STACK_BYTES: usize = 64 << 10;

#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// Its stack has at least that.
    pub(crate) stack_size_bytes: Option<usize>,
    pub(crate) counts_cpu_time: bool,
    /// What it allocates or opens is noted: of the `LIBGOTCHA_TRACKS_...`...
    pub(crate) tracks: u32,
    /// ...and given back when it is cancelled, however that is done.
    pub(crate) is_reclaimed: bool,
}

impl Task {
    /// The same as [`Task::take`], of one that can do what the settings ask for; prepared, it is told by
    /// [`Task::apply`].
    ///
    /// Context: bracketed.
    pub(crate) fn take_for(settings: &Settings) -> Result<*mut Task, Error> {
        if settings.tracks != 0 {
            let _errno = ErrnoGuard::new();
            gotcha::track_start(settings.tracks)?;
        }
        let task = Task::take()?;
        // SAFETY: the task was just taken.
        let made = unsafe { Task::make_room(task, settings) };
        if made.is_err() {
            // SAFETY: as above: it has no function.
            unsafe { Task::release(task) };
        }
        made.map(|()| task)
    }

    /// Nothing of the old stack is left, and nobody is on it: see release, and reclaim, which calls it.
    unsafe fn make_room(task: *mut Task, settings: &Settings) -> Result<(), Error> {
        let Some(size_bytes) = settings.stack_size_bytes else { return Ok(()) };
        // SAFETY: take_for's: the task is idle and ours.
        unsafe {
            debug_assert!((*task).state == State::Idle);
            if (*task).stack.size_bytes() < size_bytes {
                let _errno = ErrnoGuard::new();
                let stack = Task::make_stack(size_bytes)?;
                gotcha::libgotcha_tcb_set_stack(&(*task).tcb, stack.bottom().cast(), stack.size_bytes());
                (*task).stack = stack;
            }
        }
        Ok(())
    }

    pub(super) fn make_stack(size_bytes: usize) -> Result<Stack, Error> {
        Stack::new(size_bytes).map_err(|error| Error::Os {
            operation: "allocating a stack",
            errno: error.raw_os_error().unwrap_or(libc::ENOMEM),
        })
    }

    /// Context: bracketed.
    ///
    /// # Safety
    ///
    /// `task` was taken for these settings, is prepared, and has not run.
    pub(crate) unsafe fn apply(task: *mut Task, settings: &Settings) {
        // SAFETY: the caller's promise.
        unsafe {
            (*task).counts_cpu_time = settings.counts_cpu_time;
            (*task).is_reclaimed = settings.is_reclaimed;
            (*(*task).tls).tracked = settings.tracks as u8;
        }
    }

    /// A function that is tracked has returned: what it has is part of its result. It is its launcher's, if that is
    /// tracked too; on donated time that is not who runs it.
    ///
    /// Context: the function's stack and TCB, bracketed.
    ///
    /// # Safety
    ///
    /// `task` is the current function of this kernel thread.
    #[cold]
    pub(super) unsafe fn hand_over(task: *mut Task) {
        // SAFETY: the caller's promise: its parent is running here too.
        unsafe {
            let parent = (*task).parent;
            if parent.is_null() || (*task).is_donated {
                gotcha::libgotcha_group_hand_over((*task).group, 0, 0);
            } else {
                let heir_tracks = (*(*parent).tls).tracked;
                gotcha::libgotcha_group_hand_over((*task).group, (*parent).group, heir_tracks.into());
            }
        }
    }

    /// A function is cancelled: its libset is about to be rolled back, with which what it has is given back. If that is
    /// not to be, it is nobody's.
    ///
    /// Context: bracketed.
    ///
    /// # Safety
    ///
    /// `task` is the caller's, and not running.
    pub(super) unsafe fn settle_resources(task: *mut Task) {
        // SAFETY: the caller's promise.
        unsafe {
            if (*(*task).tls).tracked != 0 && !(*task).is_reclaimed {
                gotcha::libgotcha_group_hand_over((*task).group, 0, 0);
            }
        }
    }
}
