//! The C interface. `include/libinger.h` is generated from this file, comments included; the rest of the
//! header's text is in `cbindgen.toml`.

use crate::backtrace::Backtrace;
use crate::error::Error;
use crate::linger::in_function;
use crate::lock_wait::LockWait;
use crate::preempt;
use crate::stats::BUCKETS;
use crate::task::{self, Generation, SMALLEST_STACK_BYTES, Settings, State, Stop, Task};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io::Write;
use std::mem::{align_of, offset_of, size_of};
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

/// A preemptible function: finished, stopped, or failed.
///
/// It belongs to whoever launched it, may be moved and stored, but a copy and the original must not both
/// be used. One kernel thread uses it at a time; it need not always be the same. A handle that is
/// neither complete nor cancelled holds memory and a set of libraries until it is.
///
/// A handle that is all zero has no function: resuming it fails with EINVAL, cancelling it does nothing.
#[repr(C, align(8))]
#[derive(Debug)]
pub struct linger_t {
    /// The function has returned.
    pub is_complete: bool,
    /// The function stopped last by itself, by pause(); not because its time was up.
    pub is_yielded: bool,
    /// 0, or the errno value of what went wrong in the last call with this handle:
    /// - EAGAIN: as many functions are unfinished as this process can have; see linger_concurrency_limit().
    /// - EINVAL: the function is null, the handle has none, or it is running now.
    /// - ENOMEM: there is no memory for another function.
    /// - ECANCELED: the function was cancelled, maybe with the one that had launched it, or ended its thread
    ///   (pthread_exit()) instead of returning.
    /// - ENOSYS: this process cannot run preemptible functions; linger_error() says why.
    /// - Others: the system refused a timer or the like, and linger_error() says what.
    pub error: c_int,
    /// The library's own; null if there is nothing to resume or to cancel.
    pub continuation: *mut c_void,
}

// The header promises this layout, to compilers of other languages too.
const _: () = {
    assert!(size_of::<linger_t>() == 16 && align_of::<linger_t>() == 8);
    assert!(offset_of!(linger_t, is_yielded) == 1 && offset_of!(linger_t, error) == 4);
    assert!(offset_of!(linger_t, continuation) == 8);
};

impl linger_t {
    fn failed(error: c_int) -> Self {
        linger_t { is_complete: false, is_yielded: false, error, continuation: null_mut() }
    }
}

// ---------------------------------------------------------------------------------- launch, resume, cancel

/// Calls `function(argument)` on the calling kernel thread, for at most `us` microseconds.
///
/// Returns when the function has returned, has called pause(), or its time is up. `us` 0 prepares the
/// function without running it; UINT64_MAX sets no limit. To the function it looks as if it ran
/// on a thread of its own: errno, thread-locals and the state of every shared library are its own;
/// heap, files, environment and the program's own variables are the process's. It may launch others.
///
/// # Errors
///
/// In the handle's `error`; then nothing has run, unless `error` is ECANCELED.
///
/// # Safety
///
/// `function` may be called with `argument`, now and on any kernel thread that resumes it; what the
/// argument points to stays valid until the handle is complete or cancelled. The function leaves by
/// returning or by pthread_exit(): no longjmp() and no C++ exception goes beyond it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn linger_launch(
    function: Option<unsafe extern "C" fn(*mut c_void)>,
    us: u64,
    argument: *mut c_void,
) -> linger_t {
    bracketed(|| match function {
        None => linger_t::failed(fail(libc::EINVAL, "the function is null")),
        Some(function) => {
            try_launch(None, function, us, argument).unwrap_or_else(|error| linger_t::failed(report(&error)))
        }
    })
}

/// How a function is to be launched: see linger_launch_with(). All zero but for the size: as linger_launch() does.
#[repr(C)]
#[derive(Debug)]
pub struct linger_options_t {
    /// sizeof(linger_options_t). What a later version adds to the end is zero for programs that do not know it.
    pub size_bytes: usize,
    /// The function's stack has at least that many bytes, rounded up to whole pages; at least 64 KiB. 0: the usual 2 MiB.
    pub stack_size_bytes: usize,
    /// Budgets, those of its resumes included, are the processor time of the kernel thread that runs it
    /// (CLOCK_THREAD_CPUTIME_ID), not elapsed time: sleeping and waiting do not count.
    pub counts_cpu_time: bool,
    /// What the function allocates is noted, for linger_cancel_reclaim().
    pub tracks_heap: bool,
    /// So are the descriptors that it opens.
    pub tracks_descriptors: bool,
    /// For later versions: zero.
    pub reserved: [u8; 5],
}

// No padding, which would hold anything.
const _: () = {
    assert!(size_of::<linger_options_t>() == 24 && offset_of!(linger_options_t, counts_cpu_time) == 16);
    assert!(offset_of!(linger_options_t, reserved) == 19);
};

/// The same as linger_launch(), with these options; null: without.
///
/// # Errors
///
/// As linger_launch(). EINVAL too if the options' size is none, or they ask for what this version does not know, by a byte that
/// is to be zero; ENOSYS if `tracks_heap` is asked for and the process has another malloc() than the C library's.
///
/// # Safety
///
/// As for linger_launch(); and `options` points to a structure of its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn linger_launch_with(
    options: *const linger_options_t,
    function: Option<unsafe extern "C" fn(*mut c_void)>,
    us: u64,
    argument: *mut c_void,
) -> linger_t {
    bracketed(|| {
        let Some(function) = function else {
            return linger_t::failed(fail(libc::EINVAL, "the function is null"));
        };
        // SAFETY: the caller's promise.
        let launched = match unsafe { read_options(options) } {
            Ok(settings) => try_launch(settings.as_ref(), function, us, argument),
            Err(cause) => return linger_t::failed(fail(libc::EINVAL, cause)),
        };
        launched.unwrap_or_else(|error| linger_t::failed(report(&error)))
    })
}

/// # Safety
///
/// `options` is null, or points to a structure of the size that it says.
unsafe fn read_options(options: *const linger_options_t) -> Result<Option<Settings>, &'static str> {
    if options.is_null() {
        return Ok(None);
    }
    let (flags, reserved) = (offset_of!(linger_options_t, counts_cpu_time), offset_of!(linger_options_t, reserved));
    // SAFETY: the caller's promise; the size is always there. Zeroes are options.
    let options = unsafe {
        let size_bytes = (*options).size_bytes;
        if size_bytes < size_of::<usize>() {
            return Err("the options' size is not set");
        }
        let bytes = options.cast::<u8>();
        // Flags are 0 or 1, what lies behind them is 0.
        if (flags..size_bytes).any(|at| *bytes.add(at) > u8::from(at < reserved)) {
            return Err("the options ask for what this version does not know");
        }
        let mut read = std::mem::zeroed::<linger_options_t>();
        std::ptr::copy_nonoverlapping(bytes, (&raw mut read).cast(), size_bytes.min(size_of_val(&read)));
        read
    };
    let stack_size_bytes = Some(options.stack_size_bytes).filter(|&size| size != 0);
    Ok(Some(Settings {
        stack_size_bytes: stack_size_bytes.map(|size| size.max(SMALLEST_STACK_BYTES)),
        counts_cpu_time: options.counts_cpu_time,
        tracks: (u32::from(options.tracks_heap) * gotcha::LIBGOTCHA_TRACKS_HEAP)
            | (u32::from(options.tracks_descriptors) * gotcha::LIBGOTCHA_TRACKS_DESCRIPTORS),
        is_reclaimed: false,
    }))
}

/// Lets an unfinished function go on, on the calling kernel thread, for at most `us` microseconds.
///
/// Returns when the function has returned, has called pause(), or its time is up. The time is
/// counted anew. Does nothing if `linger` is null or complete, or `us` is 0; UINT64_MAX sets no limit.
///
/// # Errors
///
/// In the handle's `error`. A function that could not be resumed is still there unless `error` is
/// ECANCELED.
///
/// # Safety
///
/// `linger` is null, or points to a handle that no other kernel thread uses now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn linger_resume(linger: *mut linger_t, us: u64) {
    // SAFETY: the caller's promise.
    let Some(linger) = (unsafe { linger.as_mut() }) else { return };
    if linger.is_complete {
        return;
    }
    if !linger.continuation.is_null() {
        linger.error = 0;
        bracketed(|| run(linger, us));
    } else if linger.error == 0 {
        linger.error = bracketed(|| fail(libc::EINVAL, "the handle has no function"));
    }
}

/// Cancels an unfinished function: it never goes on, and its stack, thread-locals and libraries are used
/// again for other functions. So are those of the functions that were running inside it when it stopped, and of
/// others that it had launched, or had been the last to resume, and not finished: they are cancelled with it. Handles of
/// these that lie elsewhere say so when they are used next, by ECANCELED.
///
/// Afterwards the handle's `error` is ECANCELED. Does nothing if `linger` is null, complete, or has no
/// function. What the function had allocated and not freed is leaked (but see linger_cancel_reclaim()), as are
/// descriptors that it had open (but for those of its stdio streams, which are closed, unwritten contents lost). If it holds
/// mutexes or read-write locks it goes on before, for up to a millisecond, until it has released them; what it holds then stays
/// taken, and who waits for that for a second is told on standard error. See linger_defer().
///
/// # Safety
///
/// As for linger_resume(). And nothing outside uses, from now on, what lies on the function's stack or
/// in its thread-locals: what it has given to other threads, and what it has entered into lists that
/// live on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn linger_cancel(linger: *mut linger_t) {
    // SAFETY: the caller's promise.
    unsafe { cancel_with(linger, false) };
}

/// The same as linger_cancel(), and frees what the function had allocated and not freed, if it was launched with
/// `tracks_heap`, and closes what it had opened and not closed, with `tracks_descriptors`; so it does for those that are
/// cancelled with it.
///
/// What counts is what the function has asked malloc() and its like for, itself or libraries in its name (strdup(), regcomp(),
/// operator new), and nobody has freed yet. Not counted are what threads of its own allocate, and what
/// libraries do that are shared. What functions that it has launched return is its. The child of a fork that comes while
/// another thread allocates in such a function frees nothing that was allocated before.
///
/// Descriptors count that it gets from open(), openat(), creat(), socket(), socketpair(), accept(), pipe(), dup(), fcntl(),
/// eventfd(), epoll_create(), timerfd_create(), signalfd(), inotify_init(), memfd_create(), mkstemp(), opendir() and their
/// variants. Streams are closed in any case, with the descriptors that they were made of (fdopen()); what else the C library
/// opens for itself is not.
///
/// # Safety
///
/// As for linger_cancel(). And nothing outside uses what the function had allocated, from now on: it has not put a pointer to
/// it where others look later. Nobody has freed it by a pointer to free() that was stored before the first launch.
/// The function has registered no frames for unwinding (__register_frame(), which compilers to memory call), and was not the
/// first to unwind, nor to unwind through them, after others had registered some: libgcc_s keeps what it has sorted. Nor has it
/// called Rust code that makes text of a backtrace, or panics with RUST_BACKTRACE set: Rust's standard library keeps what it has
/// read.
/// Nothing outside uses its descriptors, and nobody but the function has closed any of them, by close(), closedir() or with
/// the stream that it was made: not by close_range(), closefrom(), or dup2() to the number of one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn linger_cancel_reclaim(linger: *mut linger_t) {
    // SAFETY: the caller's promise.
    unsafe { cancel_with(linger, true) };
}

/// # Safety
///
/// That of linger_cancel(), or, if it `reclaims`, of linger_cancel_reclaim().
unsafe fn cancel_with(linger: *mut linger_t, reclaims: bool) {
    // SAFETY: the caller's promise.
    let Some(linger) = (unsafe { linger.as_mut() }) else { return };
    if linger.continuation.is_null() {
        return;
    }
    // SAFETY: the handle's own task, which the handle forgets where it is given up; the caller's promise.
    bracketed(|| unsafe {
        let Some(task) = claim(linger) else { return };
        Task::release_locks(task);
        (*task).is_reclaimed |= reclaims;
        match (*task).state {
            State::Prepared => Task::release(task),
            State::Stopped(Stop::Completed) => Task::reclaim_completed(task),
            State::Stopped(_) => Task::reclaim(task),
            _ => {
                linger.error = fail(libc::EINVAL, NOT_STOPPED);
                return;
            }
        }
        linger.continuation = null_mut();
        linger.is_yielded = false;
        linger.error = libc::ECANCELED;
    });
}

/// The handle's task, if its function has not been cancelled since; else that is recorded.
///
/// Context: bracketed.
fn claim(linger: &mut linger_t) -> Option<*mut Task> {
    let task = task_of(linger.continuation);
    // SAFETY: the pointer came from `mark`.
    let is_ours = unsafe { Task::claim(task, |generation| mark(task, generation) == linger.continuation) };
    if !is_ours {
        linger.continuation = null_mut();
        linger.is_yielded = false;
        linger.error = fail(libc::ECANCELED, STALE);
    }
    is_ours.then_some(task)
}

/// What a user's pointer leaves free: the high bits, and by a task's alignment the low ones. They take as much of
/// the generation as fits.
const HIGH_SHIFT: u32 = 48;
const LOW_BITS: u32 = align_of::<Task>().trailing_zeros();

fn mark(task: *mut Task, generation: Generation) -> *mut c_void {
    let (low, high) = (generation as usize % (1 << LOW_BITS), generation as usize >> LOW_BITS);
    task.map_addr(|address| address | low | high << HIGH_SHIFT).cast()
}

fn task_of(continuation: *mut c_void) -> *mut Task {
    continuation.map_addr(|address| address & ((1 << HIGH_SHIFT) - (1 << LOW_BITS))).cast()
}

const STALE: &str = "the function was cancelled, with the one that had launched it or through a copy of the handle";
const NOT_STOPPED: &str = "the function is running, or the handle is a copy of one that was used since";

fn try_launch(
    settings: Option<&Settings>,
    function: task::Function,
    budget_us: u64,
    argument: *mut c_void,
) -> Result<linger_t, Error> {
    task::init()?;
    let task = settings.map_or_else(Task::take, Task::take_for)?;
    // SAFETY: the task is ours and idle; the function and its argument are the caller's promise.
    let continuation = unsafe {
        Task::prepare(task, function, argument, 0);
        (*task).is_donatable = true;
        if let Some(settings) = settings {
            Task::apply(task, settings);
        }
        mark(task, Task::generation(task))
    };
    let mut linger = linger_t { is_complete: false, is_yielded: false, error: 0, continuation };
    if budget_us == 0 {
        // SAFETY: the task is ours, and prepared.
        unsafe { Task::keep(task) };
    }
    run(&mut linger, budget_us);
    Ok(linger)
}

/// Runs the handle's task, and records what became of it.
///
/// Context: bracketed.
fn run(linger: &mut linger_t, budget_us: u64) {
    if budget_us == 0 {
        return;
    }
    let Some(task) = claim(linger) else { return };
    // SAFETY: a handle that is neither complete nor failed has a task of its own, prepared or stopped.
    let stop = unsafe {
        match (*task).state {
            State::Prepared | State::Stopped(_) => Task::go_on(task, budget_us),
            _ => {
                linger.error = fail(libc::EINVAL, NOT_STOPPED);
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
            linger.is_yielded = false;
            linger.error = report(&Error::Ended);
            linger.continuation = null_mut();
            // SAFETY: the task is not used again; C's contract is that of reclaim.
            unsafe { Task::reclaim(task) };
        }
        Ok(stop) => {
            linger.is_yielded = stop == Stop::Paused;
            // SAFETY: the handle's task, and stopped.
            unsafe { Task::keep(task) };
        }
        Err(error) => {
            linger.error = report(&error);
            // SAFETY: the handle's task, as it was.
            unsafe { Task::keep(task) };
        }
    }
}

// ---------------------------------------------------------------------------------- inside a function

/// Stops the preemptible function that calls it; its launcher goes on, and may resume it.
///
/// Returns 0 when it has been resumed. Outside a preemptible function it is POSIX pause(2): waits for a
/// signal's handler, and returns -1 with errno EINTR.
#[unsafe(no_mangle)]
pub extern "C" fn linger_pause() -> c_int {
    bracketed(|| {
        if in_function() {
            // SAFETY: a function is running on this kernel thread, and this is its code.
            unsafe { Task::stop_current(Stop::Paused) };
            0
        } else {
            // SAFETY: waits for a signal.
            unsafe { gotcha::libgotcha_pause() }
        }
    })
}

/// Defers preemption of the calling function: a timeout that comes meanwhile takes effect in the
/// matching linger_undefer(). Nests; takes a few ns. Outside a preemptible function it does nothing.
///
/// For code that is to be done before the launcher goes on, or before a cancel: a launcher that waits for a lock which the
/// function holds lets it go on only if it was preempted there, and a cancelled one has a millisecond to
/// release what it holds.
#[unsafe(no_mangle)]
pub extern "C" fn linger_defer() {
    preempt::defer();
}

/// Ends the innermost linger_defer().
#[unsafe(no_mangle)]
pub extern "C" fn linger_undefer() {
    preempt::undefer();
}

// ---------------------------------------------------------------------------------- the process

/// Shares the library of the file name `name` with all functions: every call of it runs in the one original, unpreempted.
///
/// To be called before the first launch. For libraries that are configured once, or whose objects cross between
/// functions and their launchers; it does what the environment variable LIBGOTCHA_SHARED does, and adds to that. A name
/// that no library has is ignored.
///
/// # Errors
///
/// Returns 0, or: EBUSY after the first launch; EINVAL if `name` is null; ENOMEM for more than 64 names.
///
/// # Safety
///
/// `name` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn linger_share_library(name: *const c_char) -> c_int {
    bracketed(|| {
        if name.is_null() {
            return fail(libc::EINVAL, "the library's name is null");
        }
        // SAFETY: the caller's promise.
        let shared = gotcha::share(unsafe { CStr::from_ptr(name) });
        shared.map_or_else(|error| fail(error.errno, &error.cause), |()| 0)
    })
}

// ---------------------------------------------------------------------------------- information

/// How many functions can be unfinished at the same time, in the whole process.
///
/// An upper bound until the limit has been met once: what the system grants is known only then.
#[unsafe(no_mangle)]
pub extern "C" fn linger_concurrency_limit() -> usize {
    bracketed(crate::concurrency_limit)
}

/// What the library has done in this process so far: see linger_stats().
#[repr(C)]
#[derive(Debug)]
pub struct linger_stats_t {
    /// Functions that have started.
    pub launches: u64,
    /// Functions that have returned.
    pub completions: u64,
    /// How often a function has stopped by itself, in pause().
    pub pauses: u64,
    /// How often a function was stopped because its time was up.
    pub preemptions: u64,
    /// Expiries that came where the function could not be stopped: it was, or was to be, a moment later.
    pub deferred: u64,
    /// Slices of the time of a thread that waited for a lock.
    pub donations: u64,
    /// Signals of the program's with the number of the library's own, SIGALRM, which were handed on.
    pub forwarded_signals: u64,
    /// Functions that were cancelled in mid-run, and those that ended with them.
    pub cancellations: u64,
    /// Functions of Rust programs among these whose stack is never used again.
    pub abandoned: u64,
    /// Sets of copies of libraries: made, ...
    pub libsets_made: u64,
    /// ...that hold an unfinished function now, ...
    pub libsets_in_use: u64,
    /// ...and that are never used again, because threads that were started in them have outlived their function.
    pub libsets_retired: u64,
    /// How late preemptions were: entry i counts those that came less than 2^i us, and not less than half of that, after
    /// their deadline; the last one all that came later.
    pub overshoot: [u64; 24],
}

const _: () = assert!(BUCKETS == 24 && size_of::<linger_stats_t>() == 36 * 8);

/// Tells what the library has done in this process so far, all kernel threads together.
///
/// Writes `size_bytes` bytes, sizeof(linger_stats_t): what a later version adds to the end is left out for programs that do
/// not know it, and is zero for those that know more than the library.
///
/// # Safety
///
/// `stats` points to that many bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn linger_stats(stats: *mut linger_stats_t, size_bytes: usize) {
    let now = crate::stats();
    let now = linger_stats_t {
        launches: now.launches,
        completions: now.completions,
        pauses: now.pauses,
        preemptions: now.preemptions,
        deferred: now.deferred,
        donations: now.donations,
        forwarded_signals: now.forwarded_signals,
        cancellations: now.cancellations,
        abandoned: now.abandoned,
        libsets_made: now.libsets_made,
        libsets_in_use: now.libsets_in_use,
        libsets_retired: now.libsets_retired,
        overshoot: now.overshoot,
    };
    // SAFETY: the caller's promise; the structure is that long.
    unsafe {
        std::ptr::write_bytes(stats.cast::<u8>(), 0, size_bytes);
        std::ptr::copy_nonoverlapping((&raw const now).cast(), stats.cast::<u8>(), size_bytes.min(size_of_val(&now)));
    }
}

/// Writes where an unfinished function stands to the file descriptor `fd`: a line for each call that has
/// not returned, innermost first, to the base of the function's stack.
///
/// Each line has a function's name, and the source file and line, or where these are not known the library
/// and the address in it, as addr2line(1) takes it. Lines, and names of functions that are not exported,
/// come from debug information: the file's own, or what is installed below /usr/lib/debug. Reading that
/// takes milliseconds, or a tenth of a second; a function that makes this call is not preempted meanwhile, but is
/// while it writes.
///
/// Returns 0, or an errno value: EINVAL if the handle has no function that has started and not returned, or
/// it is running now; ECANCELED if it was cancelled with the one that had launched it; or why writing failed.
///
/// # Safety
///
/// As for linger_resume().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn linger_backtrace(linger: *mut linger_t, fd: c_int) -> c_int {
    // SAFETY: the caller's promise.
    let linger = unsafe { linger.as_mut() }.filter(|linger| !linger.continuation.is_null());
    match bracketed(|| backtrace_of(linger)) {
        Ok(text) => {
            // A cancel meanwhile leaks the text.
            let written = write_all(fd, text.as_bytes());
            bracketed(|| {
                drop(text);
                let failed = |errno| report(&Error::Os { operation: "writing a backtrace", errno });
                written.map_or_else(failed, |()| 0)
            })
        }
        Err(error) => error,
    }
}

/// Context: bracketed.
fn backtrace_of(linger: Option<&mut linger_t>) -> Result<String, c_int> {
    let Some(linger) = linger else { return Err(fail(libc::EINVAL, "the handle has no unfinished function")) };
    let Some(task) = claim(linger) else { return Err(linger.error) };
    // SAFETY: the handle's own task.
    let (state, backtrace) = unsafe {
        let state = (*task).state;
        let stands = matches!(state, State::Stopped(Stop::Paused | Stop::Preempted));
        let backtrace = stands.then(|| Backtrace::capture(task));
        if stands || state == State::Prepared {
            Task::keep(task);
        }
        (state, backtrace)
    };
    match (backtrace, state) {
        (Some(backtrace), _) => Ok(backtrace.to_string()),
        (None, State::Prepared) => Err(fail(libc::EINVAL, "the function has not started")),
        (None, State::Stopped(_)) => Err(fail(libc::EINVAL, "the function has returned")),
        (None, _) => Err(fail(libc::EINVAL, NOT_STOPPED)),
    }
}

/// Context: as the program called, so that a function can be stopped in it: it may wait for a reader.
fn write_all(fd: c_int, mut text: &[u8]) -> Result<(), c_int> {
    while !text.is_empty() {
        // SAFETY: the bytes are valid.
        match unsafe { gotcha::libgotcha_write(fd, text.as_ptr().cast(), text.len()) } {
            // No progress, and no reason.
            0 => return Err(libc::EIO),
            written @ 1.. => text = &text[written as usize..],
            error => match -error as c_int {
                libc::EINTR => {}
                error => return Err(error),
            },
        }
    }
    Ok(())
}

/// Has `hook` called when a thread that launches functions has waited for a lock for a second, which one of
/// them may hold that does not go on meanwhile: it has paused, another kernel thread has its handle, or it
/// was cancelled. NULL: as at the program's start, a line on standard error says so.
///
/// `message` says in a sentence who waits for whom, and lasts for the call. That goes for waits without a
/// deadline for mutexes, read-write locks and spin locks, and for other languages' locks that are made of futexes;
/// for pthread_once() only while functions are run on for it. Of those that do not tell who holds them the hook is
/// told whenever some function is unfinished or has been cancelled; the line is written once, if functions have been
/// cancelled.
///
/// The hook runs on the thread that waits, in the call that waits, as a signal handler of the program would:
/// it is not preempted, pause() does nothing in it, and the thread goes on waiting when it has returned. It
/// is to take no lock that the thread may hold or wait for. To write to a descriptor or to abort is safe.
#[unsafe(no_mangle)]
pub extern "C" fn linger_set_lock_wait_hook(hook: Option<extern "C" fn(message: *const c_char)>) {
    static HOOK: AtomicPtr<()> = AtomicPtr::new(null_mut());
    fn call(wait: &LockWait) {
        let mut message = [0_u8; 256];
        let last = message.len() - 1;
        // What does not fit is left out.
        let _ = write!(&mut message[..last], "{wait}");
        let hook = HOOK.load(Relaxed);
        if !hook.is_null() {
            // SAFETY: what is stored below.
            let hook = unsafe { std::mem::transmute::<*mut (), extern "C" fn(*const c_char)>(hook) };
            hook(message.as_ptr().cast());
        }
    }
    HOOK.store(hook.map_or(null_mut(), |hook| hook as *mut ()), Relaxed);
    crate::set_lock_wait_hook(hook.is_some().then_some(call));
}

/// The cause of the calling thread's last failed call, as a sentence; "" if none has failed.
///
/// The string is valid until the next failed call of this thread. Inside a preemptible function:
/// of that function's calls.
#[unsafe(no_mangle)]
pub extern "C" fn linger_error() -> *const c_char {
    bracketed(|| {
        let Some(key) = cause_key() else { return c"".as_ptr() };
        // SAFETY: the key exists.
        let cause: *const c_char = unsafe { libc::pthread_getspecific(key) }.cast();
        if cause.is_null() { c"".as_ptr() } else { cause }
    })
}

/// A key of the C library, not a `thread_local!`: this library's thread-locals take static storage, of
/// which a program that opens it with dlopen() has little left.
fn cause_key() -> Option<libc::pthread_key_t> {
    unsafe extern "C" fn free(cause: *mut c_void) {
        // At a function's end this runs as code of the function, preemptible.
        // SAFETY: what fail() stored, and the last use of it.
        bracketed(|| drop(unsafe { CString::from_raw(cause.cast()) }));
    }
    static KEY: OnceLock<Option<libc::pthread_key_t>> = OnceLock::new();
    *KEY.get_or_init(|| {
        let mut key = 0;
        // SAFETY: `key` is valid for writes, and the destructor takes what fail() stores.
        (unsafe { libc::pthread_key_create(&mut key, Some(free)) } == 0).then_some(key)
    })
}

/// Keeps the cause for `linger_error`, and returns `errno`.
///
/// Context: bracketed.
fn fail(errno: c_int, cause: &str) -> c_int {
    // A cause that names a file could hold anything but NUL: the C library's strings are where it comes from.
    if let (Some(key), Ok(cause)) = (cause_key(), CString::new(cause)) {
        let cause = cause.into_raw();
        // SAFETY: the key exists; its values came from CString::into_raw, and the old one is not used again.
        unsafe {
            let old: *mut c_char = libc::pthread_getspecific(key).cast();
            if libc::pthread_setspecific(key, cause.cast()) != 0 {
                drop(CString::from_raw(cause));
            } else if !old.is_null() {
                drop(CString::from_raw(old));
            }
        }
    }
    errno
}

fn report(error: &Error) -> c_int {
    fail(error.errno(), &error.to_string())
}

/// Our own code, entered from C: preemption deferred, starting libset. A panic ends the process where it
/// would leave the `extern "C"` function.
fn bracketed<T>(body: impl FnOnce() -> T) -> T {
    // SAFETY: left below, on the same TCB.
    let table = unsafe { gotcha::enter() };
    let result = body();
    // SAFETY: undoes enter.
    unsafe { gotcha::leave(table) };
    result
}

// ---------------------------------------------------------------------------------- historic names

/// linger_launch() by its historic name.
///
/// # Safety
///
/// As for linger_launch().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn launch(
    function: Option<unsafe extern "C" fn(*mut c_void)>,
    us: u64,
    argument: *mut c_void,
) -> linger_t {
    // SAFETY: the caller's promise.
    unsafe { linger_launch(function, us, argument) }
}

/// linger_resume() by its historic name.
///
/// # Safety
///
/// As for linger_resume().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn resume(linger: *mut linger_t, us: u64) {
    // SAFETY: the caller's promise.
    unsafe { linger_resume(linger, us) }
}

/// linger_cancel() by its historic name.
///
/// # Safety
///
/// As for linger_cancel().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cancel(linger: *mut linger_t) {
    // SAFETY: the caller's promise.
    unsafe { linger_cancel(linger) }
}
