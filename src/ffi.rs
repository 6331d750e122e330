//! The C interface: `include/libinger.h` in Rust's words.

use crate::linger::in_function;
use crate::preempt;
use crate::task::{self, State, Stop, Task};
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

/// A preemptible function: see `linger_t` in libinger.h.
#[repr(C, align(8))]
#[derive(Debug)]
pub struct linger_t {
    /// The function has returned.
    pub is_complete: bool,
    /// The function stopped last by itself.
    pub is_yielded: bool,
    /// 0, or the errno value that says why the function could not be launched or resumed.
    pub error: c_int,
    /// The library's own.
    pub continuation: *mut c_void,
}

const FAILED: fn(c_int) -> linger_t =
    |error| linger_t { is_complete: false, is_yielded: false, error, continuation: null_mut() };

fn try_launch(function: task::Function, budget_us: u64, argument: *mut c_void) -> Result<linger_t, crate::Error> {
    task::init()?;
    let task = Task::take()?;
    let mut linger = linger_t { is_complete: false, is_yielded: false, error: 0, continuation: task.cast() };
    // SAFETY: the task is ours and idle; the function and its argument are the caller's promise.
    unsafe { Task::prepare(task, function, argument, 0) };
    run(&mut linger, budget_us);
    Ok(linger)
}

/// Runs the handle's task, and records what became of it.
fn run(linger: &mut linger_t, budget_us: u64) {
    let task: *mut Task = linger.continuation.cast();
    if budget_us == 0 {
        return;
    }
    // SAFETY: a handle that is neither complete nor failed has a task of its own, prepared or stopped.
    let stop = unsafe {
        match (*task).state {
            State::Prepared | State::Stopped(Stop::Paused | Stop::Preempted) => Task::run(task, budget_us),
            _ => {
                linger.error = libc::EINVAL;
                return;
            }
        }
    };
    match stop {
        Ok(Stop::Completed) => {
            linger.is_complete = true;
            linger.is_yielded = false;
            linger.continuation = null_mut();
            // SAFETY: the function has completed; the handle has forgotten the task.
            unsafe { Task::release(task) };
        }
        Ok(Stop::Ended) => {
            linger.error = libc::ECANCELED;
            linger.continuation = null_mut();
            // SAFETY: the task is not used again; C's contract is that of reclaim.
            unsafe { Task::reclaim(task) };
        }
        Ok(stop) => linger.is_yielded = stop == Stop::Paused,
        Err(error) => linger.error = error.errno(),
    }
}

/// Our own code, entered from C: preemption deferred, starting libset, and no panic gets out.
fn bracketed<T>(body: impl FnOnce() -> T) -> T {
    struct AbortGuard;
    impl Drop for AbortGuard {
        fn drop(&mut self) {
            std::process::abort();
        }
    }
    // SAFETY: left below, on the same TCB.
    let table = unsafe { gotcha::libgotcha_enter() };
    let guard = AbortGuard;
    let result = body();
    std::mem::forget(guard);
    // SAFETY: undoes enter.
    unsafe { gotcha::libgotcha_leave(table) };
    result
}

/// Calls `function(argument)` for at most `us` microseconds: see libinger.h.
///
/// # Safety
///
/// The function may be called with the argument, on any kernel thread that resumes it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn linger_launch(function: Option<task::Function>, us: u64, argument: *mut c_void) -> linger_t {
    let Some(function) = function else {
        return FAILED(libc::EINVAL);
    };
    bracketed(|| try_launch(function, us, argument).unwrap_or_else(|error| FAILED(error.errno())))
}

/// Lets an unfinished function go on for at most `us` microseconds: see libinger.h.
///
/// # Safety
///
/// `linger` is null or points to a handle that `launch` returned and no other thread uses now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn linger_resume(linger: *mut linger_t, us: u64) {
    // SAFETY: the caller's promise.
    let Some(linger) = (unsafe { linger.as_mut() }) else { return };
    if linger.is_complete || linger.continuation.is_null() {
        return;
    }
    linger.error = 0;
    bracketed(|| run(linger, us));
}

/// Cancels an unfinished function: see libinger.h.
///
/// # Safety
///
/// As for [`linger_resume`]; and nothing outside points into the function's frames or thread-locals.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn linger_cancel(linger: *mut linger_t) {
    // SAFETY: the caller's promise.
    let Some(linger) = (unsafe { linger.as_mut() }) else { return };
    let task: *mut Task = linger.continuation.cast();
    if task.is_null() {
        return;
    }
    linger.continuation = null_mut();
    linger.is_yielded = false;
    linger.error = libc::ECANCELED;
    // SAFETY: the handle's own task, which it has forgotten; the caller's promise.
    bracketed(|| unsafe {
        match (*task).state {
            State::Prepared => Task::release(task),
            _ => Task::reclaim(task),
        }
    });
}

/// Stops the calling preemptible function; outside one it is POSIX pause(2): see libinger.h.
#[unsafe(no_mangle)]
pub extern "C" fn linger_pause() -> c_int {
    bracketed(|| {
        if in_function() {
            // SAFETY: a function is running on this kernel thread, and this is its code.
            unsafe { Task::stop_current(Stop::Paused) };
            0
        } else {
            // SAFETY: waits for a signal.
            unsafe { libc::pause() }
        }
    })
}

/// Defers preemption until the matching [`linger_undefer`]: see libinger.h.
#[unsafe(no_mangle)]
pub extern "C" fn linger_defer() {
    preempt::defer();
}

/// Ends the innermost [`linger_defer`]: see libinger.h.
#[unsafe(no_mangle)]
pub extern "C" fn linger_undefer() {
    preempt::undefer();
}

/// How many functions can be unfinished at the same time: see libinger.h.
#[unsafe(no_mangle)]
pub extern "C" fn linger_concurrency_limit() -> usize {
    crate::concurrency_limit()
}

/// [`linger_launch`] by its historic name.
///
/// # Safety
///
/// As for [`linger_launch`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn launch(function: Option<task::Function>, us: u64, argument: *mut c_void) -> linger_t {
    // SAFETY: the caller's promise.
    unsafe { linger_launch(function, us, argument) }
}

/// [`linger_resume`] by its historic name.
///
/// # Safety
///
/// As for [`linger_resume`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn resume(linger: *mut linger_t, us: u64) {
    // SAFETY: the caller's promise.
    unsafe { linger_resume(linger, us) }
}

/// [`linger_cancel`] by its historic name.
///
/// # Safety
///
/// As for [`linger_cancel`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cancel(linger: *mut linger_t) {
    // SAFETY: the caller's promise.
    unsafe { linger_cancel(linger) }
}
