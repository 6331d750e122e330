//! Budgets of processor time.
//!
//! The timer knows elapsed time alone. A function whose budget is processor time has a deadline all the same: the earliest
//! at which it can have used it. When that has come and it has not, because the kernel ran other threads, or it slept, the
//! deadline moves by what is left. (A timer of the kernel's for processor time looks at it only at the clock's ticks,
//! some milliseconds apart.)

use super::Task;
use crate::deadline::{self, NEVER};
use crate::thread::Thread;
use std::sync::atomic::Ordering::Relaxed;

/// The least by which a deadline moves: a function that sleeps with less than that left is not looked at more often. Its
/// sleep can be long, but each look uses some of what is left.
const SHORTEST_REST_NS: u64 = 50_000;

/// The processor time of this kernel thread, which is noted for the child of a fork.
///
/// Context: this kernel thread launches.
fn look_at_clock() -> u64 {
    let now_ns = deadline::cpu_time_ns();
    // SAFETY: the callers' context: this kernel thread's record.
    unsafe { (*Thread::current()).cpu_time_seen_ns.store(now_ns, Relaxed) };
    now_ns
}

impl Task {
    /// Its budget begins. Donated time is elapsed time: somebody waits.
    ///
    /// # Safety
    ///
    /// As for run.
    #[cold]
    pub(super) unsafe fn settle_cpu_time(task: *mut Task, budget_us: u64) {
        // SAFETY: the caller's promise.
        unsafe {
            let ends_ns = || deadline::deadline_after(look_at_clock(), budget_us);
            (*task).cpu_deadline_ns = if (*task).is_donated { 0 } else { ends_ns() };
        }
    }

    /// One that was stopped inside another goes on, with what it had left then, maybe on another kernel thread.
    ///
    /// # Safety
    ///
    /// As for run.
    #[cold]
    pub(super) unsafe fn go_on_with_cpu_time(inner: *mut Task) {
        // SAFETY: the caller's promise.
        unsafe { (*inner).cpu_deadline_ns = look_at_clock().saturating_add((*inner).cpu_rest_ns) };
    }

    /// The functions inside `task` are going to be stopped with it.
    ///
    /// Context: a function's TCB, preemption deferred; a handler too.
    ///
    /// # Safety
    ///
    /// The chain is running on this kernel thread.
    #[inline]
    pub(super) unsafe fn note_cpu_time(mut inner: *mut Task, task: *mut Task) {
        // SAFETY: the caller's promise.
        unsafe {
            while inner != task {
                if (*inner).counts_cpu_time {
                    (*inner).cpu_rest_ns = (*inner).cpu_deadline_ns.saturating_sub(deadline::cpu_time_ns());
                }
                inner = (*inner).parent;
            }
        }
    }

    /// Is its time up?
    ///
    /// Context: as above.
    ///
    /// # Safety
    ///
    /// As above.
    #[inline]
    pub(super) unsafe fn is_over(task: *mut Task, now_ns: u64) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            (*task).deadline_ns <= now_ns
                && !((*task).counts_cpu_time && deadline::cpu_time_ns() < (*task).cpu_deadline_ns)
        }
    }

    /// Moves the deadlines that have come too early. Returns the earliest then.
    ///
    /// Context: as above.
    ///
    /// # Safety
    ///
    /// `thread` is this kernel thread, and a function is running on it.
    #[inline]
    pub(crate) unsafe fn extend(thread: *mut Thread, now_ns: u64) -> u64 {
        // SAFETY: the caller's promise: the chain is this thread's.
        unsafe {
            let innermost = (*thread).current.load(Relaxed);
            let mut is_moved = false;
            let mut task = innermost;
            while !task.is_null() {
                if (*task).counts_cpu_time && (*task).deadline_ns <= now_ns && !Task::is_over(task, now_ns) {
                    let rest_ns = (*task).cpu_deadline_ns.saturating_sub(look_at_clock());
                    (*task).deadline_ns = now_ns + rest_ns.max(SHORTEST_REST_NS);
                    is_moved = true;
                }
                task = (*task).parent;
            }
            if is_moved {
                Task::find_earliest(innermost);
                (*thread).deadline_ns.store((*innermost).effective_ns, Relaxed);
            }
            (*thread).deadline_ns.load(Relaxed)
        }
    }

    /// In the child of a fork, whose clock begins anew: what its functions had left when it was last looked at.
    ///
    /// # Safety
    ///
    /// `thread` is this kernel thread, with preemption deferred.
    pub(crate) unsafe fn begin_cpu_time_anew(thread: *mut Thread) {
        // SAFETY: the caller's promise: the chain is this thread's.
        unsafe {
            let seen_ns = (*thread).cpu_time_seen_ns.load(Relaxed);
            let mut task = (*thread).current.load(Relaxed);
            while !task.is_null() {
                if (*task).counts_cpu_time && (*task).cpu_deadline_ns != NEVER {
                    let rest_ns = (*task).cpu_deadline_ns.saturating_sub(seen_ns);
                    (*task).cpu_deadline_ns = deadline::cpu_time_ns() + rest_ns;
                }
                task = (*task).parent;
            }
        }
    }

    /// The outermost's first: functions may nest as deeply as stacks are made for, and are not many.
    unsafe fn find_earliest(task: *mut Task) {
        // SAFETY: extend's: the chain is this thread's.
        unsafe {
            if !(*task).parent.is_null() {
                Task::find_earliest((*task).parent);
            }
            let stopper = Task::stopper(task);
            let outer_ns = if stopper.is_null() { NEVER } else { (*stopper).effective_ns };
            (*task).effective_ns = (*task).deadline_ns.min(outer_ns);
        }
    }
}
