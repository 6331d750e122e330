//! The public types, and the only generic code but for `future`: it packs what depends on types, and hands the rest on.

#[cfg(feature = "backtrace")]
use crate::backtrace::Backtrace;
use crate::error::Error;
use crate::preempt;
use crate::task::{self, Generation, LARGEST_PAYLOAD_BYTES, SMALLEST_STACK_BYTES, State, Stop, Task};
use crate::thread::Thread;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::NonNull;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

/// A preemptible function: finished, or where it stopped.
///
/// # Cancellation
///
/// Dropping a [`Linger::Continuation`] cancels the function. How depends on where it is:
///
/// - It has not started: its captures are dropped.
/// - It has stopped by itself, in [`pause`]: it is unwound from there, as by a panic, so that its destructors run, and
///   nothing leaks. (A function that catches this and goes on is unwound anew at its next `pause`, which may be never:
///   to limit that, see [`Linger::cancel_within`].) Frames that cannot unwind, such as an `extern "C"` function
///   that calls `pause`, abort the process, as at a panic. Where panics abort, and in `pause`s of C's
///   interface, nothing is unwound.
/// - It was stopped somewhere else: it never goes on. Its stack,
///   thread-locals and captures are *abandoned*, which means leaked: something outside may still point at
///   them, as when a thread ends without running its destructors. So is the heap memory that it
///   holds. If the function has started threads that still run, dropping waits for their end, since they
///   may use what the function has borrowed. Its libset is rolled back and used again.
///
/// Unfinished functions that it had launched, or had been the last to resume, are cancelled with it, unless it has
/// returned or was unwound: resuming one of them afterwards, through a handle that the function had put elsewhere, fails with
/// [`Error::Cancelled`].
///
/// After 10,000 abandoned functions launching fails with
/// [`Error::TooManyAbandoned`]; see [`Linger::reclaim`].
#[derive(Debug)]
#[must_use = "dropping it cancels the function"]
pub enum Linger<'a, T> {
    /// The function has returned this.
    Completion(T),
    /// The function has not returned; [`resume`] lets it go on.
    Continuation(Continuation<'a, T>),
    /// The function has panicked or ended its thread, and its outcome was reported.
    Poison,
}

/// Where a preemptible function stopped.
///
/// It is not bound to a kernel thread: another one can resume it.
pub struct Continuation<'a, T> {
    task: NonNull<Task>,
    generation: Generation,
    /// Where the function's outcome will be.
    outcome: NonNull<Outcome<T>>,
    /// Drops the function and frees what `outcome` points to, before the function has run.
    discard: unsafe fn(*mut c_void),
    /// Frees what `outcome` points to, after the outcome was taken.
    free: unsafe fn(*mut c_void),
    captures: PhantomData<&'a mut ()>,
    result: PhantomData<T>,
}

// SAFETY: the function was Send when it was launched and so is what it returns (launch's bounds); the
// task is nobody else's, and not bound to a kernel thread.
unsafe impl<T: Send> Send for Continuation<'_, T> {}
// SAFETY: a shared reference lets one read the state that the last stop left, which nobody changes.
unsafe impl<T: Send> Sync for Continuation<'_, T> {}

type Outcome<T> = MaybeUninit<thread::Result<T>>;

/// What a function needs and leaves. The outcome comes first, so that its address does not depend on `F`.
#[repr(C)]
struct Payload<F, T> {
    outcome: Outcome<T>,
    function: MaybeUninit<F>,
}

/// Runs the function.
///
/// Context: the function's stack and TCB, its libset, preemption open.
unsafe extern "C" fn call<F: FnOnce() -> T, T>(payload: *mut c_void) {
    let payload: *mut Payload<F, T> = payload.cast();
    // SAFETY: prepared with a payload of this type, whose function is moved out here, once.
    unsafe {
        let function = (*payload).function.assume_init_read();
        (*payload).outcome.write(catch_unwind(AssertUnwindSafe(function)));
    }
}

unsafe fn discard_in_place<F, T>(payload: *mut c_void) {
    // SAFETY: the function was not moved out (Continuation::discard's meaning).
    unsafe { (*payload.cast::<Payload<F, T>>()).function.assume_init_drop() }
}

unsafe fn discard_boxed<F, T>(payload: *mut c_void) {
    // SAFETY: as above, and the payload came from Box::into_raw.
    unsafe {
        let mut payload = Box::from_raw(payload.cast::<Payload<F, T>>());
        payload.function.assume_init_drop();
    }
}

unsafe fn free_boxed<F, T>(payload: *mut c_void) {
    // SAFETY: the payload came from Box::into_raw.
    drop(unsafe { Box::from_raw(payload.cast::<Payload<F, T>>()) });
}

unsafe fn free_in_place(_payload: *mut c_void) {}

/// Our own code: preemption deferred, calls go to the starting libset.
pub(crate) struct BracketGuard(*mut *mut c_void);

impl BracketGuard {
    #[inline]
    pub(crate) fn enter() -> Self {
        // SAFETY: left by Drop, on the same TCB.
        BracketGuard(unsafe { gotcha::enter() })
    }
}

impl Drop for BracketGuard {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: undoes enter.
        unsafe { gotcha::leave(self.0) }
    }
}

/// Runs `function` on the calling kernel thread for at most `budget_us` microseconds.
///
/// Returns when the function has returned, has called [`pause`], or its time is up, whichever comes first.
/// A budget of 0 prepares the function without running it; `u64::MAX` sets no limit. Closures may capture
/// by reference.
///
/// To the function it looks as if it ran on a thread of its own: thread-locals are fresh, and run their
/// destructors when it returns. Arguments, heap, files, environment and process are the caller's. See
/// the crate's documentation.
///
/// # Errors
///
/// [`Error::TooManyLibsets`] if all libsets hold unfinished functions; [`Error::Unsupported`] on a system
/// that the library does not know; [`Error::Os`]; [`Error::Ended`] if the function ended its thread.
///
/// # Panics
///
/// A panic of the function goes on in the caller.
///
/// # Soundness
///
/// `F` and `T` are `Send` because the function has its own thread-locals, and may be resumed by another
/// kernel thread. The continuation keeps the captures' borrows alive: a function that is dropped never runs
/// again, and the drop waits for the threads that it has started. What this cannot see: a continuation that is
/// leaked (`mem::forget`) while threads started inside use borrowed captures, and work that the function has
/// handed to a thread pool made outside it. A function that lends its captures to other threads must not
/// be leaked or dropped while they use them.
///
/// # Examples
///
/// ```
/// use inger::{Linger, launch};
///
/// let words = ["lightweight", "preemptible", "functions"];
/// match launch(|| words.concat().len(), 1_000_000)? {
///     Linger::Completion(length) => assert_eq!(length, 31),
///     _ => println!("not done within a second"),
/// }
/// # Ok::<(), inger::Error>(())
/// ```
///
/// Source: section 2 of "Lightweight Preemptible Functions" (USENIX ATC 2020).
pub fn launch<'a, T, F>(function: F, budget_us: u64) -> Result<Linger<'a, T>, Error>
where
    T: Send + 'a,
    F: FnOnce() -> T + Send + 'a,
{
    let bracket = BracketGuard::enter();
    task::init()?;
    let task = Task::take()?;
    // SAFETY: the task is ours and idle.
    unsafe { Continuation::prepare(task, function) }.start(budget_us, bracket)
}

/// Lets an unfinished function go on for at most `budget_us` microseconds.
///
/// Returns when it has returned, has called [`pause`], or its time is up. Does nothing if it has
/// completed, or if the budget is 0. `u64::MAX` sets no limit.
///
/// The budget is elapsed time, not processor time (unless it was launched by [`Options::clock`](crate::Options::clock)). It begins once the timer is set, just before the function goes on; on a
/// busy machine it passes while the kernel runs other threads. A function that was preempted runs for another moment (20
/// µs, elapsed too) if its time is up before it could. One that starts, or goes on after [`pause`], can be stopped
/// before its first instruction, but not twice in a row. No part of a slice is promised beyond that.
///
/// # Errors
///
/// [`Error::Ended`] if the function ended its thread, and [`Error::Cancelled`] if it was cancelled with the one that had
/// launched it, which leave [`Linger::Poison`]; [`Error::Os`] if this kernel thread cannot get a timer.
///
/// # Panics
///
/// A panic of the function goes on in the caller, and leaves [`Linger::Poison`].
///
/// # Examples
///
/// ```
/// use inger::{launch, pause, resume};
///
/// let mut linger = launch(|| { pause(); 7 }, u64::MAX)?;
/// assert!(linger.yielded());
/// assert!(resume(&mut linger, u64::MAX)?.is_completion());
/// # Ok::<(), inger::Error>(())
/// ```
pub fn resume<'l, 'a, T: Send>(linger: &'l mut Linger<'a, T>, budget_us: u64) -> Result<&'l mut Linger<'a, T>, Error> {
    let Linger::Continuation(continuation) = linger else { return Ok(linger) };
    if budget_us == 0 {
        return Ok(linger);
    }
    let bracket = BracketGuard::enter();
    // What can fail, and leaves the function as it is.
    Thread::get()?;
    // SAFETY: the task is this continuation's, once it is claimed.
    let ran = if continuation.claim() { unsafe { continuation.run(budget_us) } } else { Err(Error::Cancelled) };
    if ran == Ok(false) {
        return Ok(linger);
    }
    // Poison stays behind if the function panics.
    let Linger::Continuation(continuation) = std::mem::replace(linger, Linger::Poison) else { unreachable!() };
    if let Err(error) = ran {
        // What is dropped is the caller's code, and may wait for threads.
        drop(bracket);
        drop(continuation);
        return Err(error);
    }
    // SAFETY: the function has completed.
    *linger = Linger::Completion(unsafe { ManuallyDrop::new(continuation).complete() });
    Ok(linger)
}

/// What a function's frames are unwound by when it is cancelled where it has called [`pause`].
struct Unwinding;

impl<'a, T> Continuation<'a, T> {
    /// Gives an idle task the function.
    ///
    /// Context: bracketed.
    ///
    /// # Safety
    ///
    /// `task` is idle and the caller's.
    #[inline]
    pub(crate) unsafe fn prepare<F>(task: *mut Task, function: F) -> Self
    where
        T: Send + 'a,
        F: FnOnce() -> T + Send + 'a,
    {
        let size_bytes = size_of::<Payload<F, T>>().next_multiple_of(64);
        let fits = size_bytes <= LARGEST_PAYLOAD_BYTES && align_of::<Payload<F, T>>() <= 64;
        // SAFETY: the caller's promise. In place, the payload lies at the top of the task's stack, below which the
        // function's frames begin.
        unsafe {
            let payload: *mut Payload<F, T> = if fits {
                let top = (*task).stack.top();
                top.sub(size_bytes).map_addr(|address| address & !63).cast()
            } else {
                Box::into_raw(Box::<Payload<F, T>>::new_uninit()).cast()
            };
            (&raw mut (*payload).function).write(MaybeUninit::new(function));
            let reserved_bytes = if fits { size_bytes + 64 } else { 0 };
            Task::prepare(task, call::<F, T>, payload.cast(), reserved_bytes);
            Continuation {
                task: NonNull::new_unchecked(task),
                generation: Task::generation(task),
                outcome: NonNull::new_unchecked(payload).cast(),
                discard: if fits { discard_in_place::<F, T> } else { discard_boxed::<F, T> },
                free: if fits { free_in_place } else { free_boxed::<F, T> },
                captures: PhantomData,
                result: PhantomData,
            }
        }
    }

    /// Runs the function for the first time, unless the budget is 0.
    ///
    /// Context: bracketed, by what it is given.
    #[inline(always)]
    pub(crate) fn start(self, budget_us: u64, bracket: BracketGuard) -> Result<Linger<'a, T>, Error> {
        if budget_us == 0 {
            // SAFETY: the task is this continuation's, and prepared.
            unsafe { Task::keep(self.task.as_ptr()) };
            return Ok(Linger::Continuation(self));
        }
        // What can be dropped on the way lies in memory, from where the result would be copied, faster than it has got there.
        let mut continuation = ManuallyDrop::new(self);
        // SAFETY: the task is this continuation's, and prepared; then it has completed.
        unsafe {
            match continuation.run(budget_us) {
                Ok(true) => Ok(Linger::Completion(continuation.complete())),
                Ok(false) => Ok(Linger::Continuation(ManuallyDrop::into_inner(continuation))),
                Err(error) => {
                    // What is dropped is the caller's code, and may wait for threads.
                    drop(bracket);
                    drop(ManuallyDrop::into_inner(continuation));
                    Err(error)
                }
            }
        }
    }

    /// Its result, or the function's panic.
    ///
    /// Context: bracketed.
    ///
    /// # Safety
    ///
    /// The function has completed. The continuation is not used again, nor dropped.
    #[inline]
    unsafe fn complete(&mut self) -> T {
        // SAFETY: the caller's promise.
        unsafe { self.take_outcome(Task::release) }.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Runs the function until it completes, or stops. Returns whether it has completed.
    ///
    /// Context: bracketed.
    ///
    /// # Safety
    ///
    /// The task is this continuation's, prepared or stopped.
    #[inline]
    unsafe fn run(&mut self, budget_us: u64) -> Result<bool, Error> {
        let task = self.task.as_ptr();
        // SAFETY: the caller's promise.
        unsafe {
            match Task::go_on(task, budget_us)? {
                Stop::Paused | Stop::Preempted => {
                    Task::keep(task);
                    Ok(false)
                }
                Stop::Ended => Err(Error::Ended),
                Stop::Completed => Ok(true),
            }
        }
    }

    /// Moves out what the function has left, and gives the task back in the way given.
    ///
    /// Context: bracketed.
    ///
    /// # Safety
    ///
    /// The function has completed. The continuation is not used again, nor dropped.
    #[inline]
    unsafe fn take_outcome(&mut self, give_back: unsafe fn(*mut Task)) -> thread::Result<T> {
        // SAFETY: the caller's promise: it has written its outcome.
        unsafe {
            let outcome = self.outcome.as_ref().assume_init_read();
            (self.free)(self.outcome.as_ptr().cast());
            give_back(self.task.as_ptr());
            outcome
        }
    }

    /// Runs the destructors of a function that has stopped in [`pause`], until it has ended. Returns whether it has.
    fn unwind(&mut self) -> bool {
        // Where panics abort, nothing unwinds.
        if cfg!(not(panic = "unwind")) {
            return false;
        }
        let outcome = {
            let _bracket = BracketGuard::enter();
            if Thread::get().is_err() || !self.claim() {
                return false;
            }
            let task = self.task.as_ptr();
            // SAFETY: the task is this continuation's, and stopped; it is not used if it has completed.
            unsafe {
                if !Task::set_cancelled(task) {
                    // Who is cancelled meanwhile is not to leave it to nobody.
                    Task::keep(task);
                    return false;
                }
                if self.run(u64::MAX) != Ok(true) {
                    return false;
                }
                self.take_outcome(Task::reclaim_completed)
            }
        };
        // A result that nobody asks for; or a panic, which was reported, unless it is ours.
        drop(outcome);
        true
    }

    /// Makes the task this continuation's alone. False: the function was cancelled with its launcher, and nothing
    /// is left of it.
    ///
    /// Context: bracketed.
    fn claim(&self) -> bool {
        // SAFETY: the task that the continuation was made with.
        unsafe { Task::claim(self.task.as_ptr(), |generation| generation == self.generation) }
    }

    /// The state in which the function is going to be cancelled, which nobody changes from then on; None: as above.
    fn settle(&self) -> Option<State> {
        let _bracket = BracketGuard::enter();
        let task = self.task.as_ptr();
        // SAFETY: the task is this continuation's once it is claimed. What it has borrowed is there.
        unsafe {
            if !self.claim() {
                return None;
            }
            Task::release_locks(task);
            let state = (*task).state;
            if let State::Prepared | State::Stopped(Stop::Paused | Stop::Preempted) = state {
                // Who is cancelled meanwhile is not to leave it to nobody.
                Task::keep(task);
            }
            Some(state)
        }
    }

    /// The task's state; None: as above.
    fn state(&self) -> Option<State> {
        let _bracket = BracketGuard::enter();
        // SAFETY: the task that the continuation was made with.
        unsafe { Task::look(self.task.as_ptr(), |generation| generation == self.generation) }
    }

    /// Drops the function, which is the caller's code and may panic, and gives the task back.
    ///
    /// # Safety
    ///
    /// The function has not started, and the continuation is not used again.
    unsafe fn discard_unstarted(&mut self) {
        struct ReleaseGuard(*mut Task);
        impl Drop for ReleaseGuard {
            fn drop(&mut self) {
                let _bracket = BracketGuard::enter();
                // SAFETY: discard_unstarted's promise: the task is the continuation's, and has not run.
                unsafe { Task::release(self.0) };
            }
        }
        let _release = ReleaseGuard(self.task.as_ptr());
        // SAFETY: the caller's promise.
        unsafe { (self.discard)(self.outcome.as_ptr().cast()) };
    }

    /// Waits until the threads that the function has started are gone: they may use what it has borrowed.
    ///
    /// Context: not bracketed, so that inside another function the wait can be preempted.
    fn wait_for_threads(&self) {
        let has_threads = || {
            let _bracket = BracketGuard::enter();
            // SAFETY: the task is this continuation's, and stopped.
            let waits = self.claim() && unsafe { Task::has_threads(self.task.as_ptr()) };
            if waits {
                // SAFETY: as above. Who is cancelled while he waits is not to leave it to nobody.
                unsafe { Task::keep(self.task.as_ptr()) };
            }
            waits
        };
        while has_threads() {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl<T> Drop for Continuation<'_, T> {
    fn drop(&mut self) {
        match self.settle() {
            None => return,
            // On donated time.
            Some(State::Stopped(Stop::Completed)) => {}
            Some(State::Prepared) => {
                let is_ours = {
                    let _bracket = BracketGuard::enter();
                    self.claim()
                };
                if is_ours {
                    // SAFETY: it has not started, and this is the last use.
                    unsafe { self.discard_unstarted() };
                }
                return;
            }
            Some(State::Stopped(Stop::Paused)) if self.unwind() => return,
            Some(_) => self.wait_for_threads(),
        }
        let outcome = {
            let _bracket = BracketGuard::enter();
            let task = self.task.as_ptr();
            if !self.claim() {
                return;
            }
            // SAFETY: the task is this continuation's, not running, and not used again. It is abandoned, so that
            // whatever points into it stays valid; unless it has come to its end.
            unsafe {
                if (*task).state == State::Stopped(Stop::Completed) {
                    Some(self.take_outcome(Task::release))
                } else {
                    Task::abandon(task);
                    None
                }
            }
        };
        // A result that nobody asks for; a panic was reported.
        drop(outcome);
    }
}

impl<T> std::fmt::Debug for Continuation<'_, T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Continuation").field("state", &self.state()).finish()
    }
}

impl<'a, T> Linger<'a, T> {
    /// Has the function returned?
    pub fn is_completion(&self) -> bool {
        matches!(self, Linger::Completion(_))
    }

    /// Can the function go on?
    pub fn is_continuation(&self) -> bool {
        matches!(self, Linger::Continuation(_))
    }

    /// Did the function stop last because it called [`pause`]?
    pub fn yielded(&self) -> bool {
        let Linger::Continuation(continuation) = self else { return false };
        continuation.state() == Some(State::Stopped(Stop::Paused))
    }

    /// The same as [`resume`] with a budget of `limit`, rounded up to whole microseconds.
    ///
    /// # Errors
    ///
    /// As [`resume`].
    ///
    /// # Panics
    ///
    /// As [`resume`].
    ///
    /// # Examples
    ///
    /// ```
    /// use inger::{launch, pause};
    /// use std::time::Duration;
    ///
    /// let mut linger = launch(|| { pause(); 7 }, u64::MAX)?;
    /// assert!(linger.resume_for(Duration::from_secs(1))?.is_completion());
    /// # Ok::<(), inger::Error>(())
    /// ```
    pub fn resume_for(&mut self, limit: Duration) -> Result<&mut Self, Error>
    where
        T: Send,
    {
        resume(self, budget_us(limit))
    }

    /// Cancels the function, but lets it go on for at most `limit` before, until it calls [`pause`], from where it is
    /// unwound: its destructors run. Returns its result if it returned instead.
    ///
    /// What reaches no `pause` within `limit` is cancelled where it is, as by dropping; so is what is unwound, and has not
    /// come to its end by then. A function that had not started is dropped.
    ///
    /// # Panics
    ///
    /// A panic of the function goes on in the caller.
    ///
    /// # Examples
    ///
    /// ```
    /// use inger::{launch, pause};
    /// use std::time::Duration;
    ///
    /// struct Guard<'a>(&'a mut bool);
    /// impl Drop for Guard<'_> {
    ///     fn drop(&mut self) {
    ///         *self.0 = true;
    ///     }
    /// }
    ///
    /// let mut is_tidy = false;
    /// let guard = Guard(&mut is_tidy);
    /// let linger = launch(
    ///     || {
    ///         let _guard = guard;
    ///         loop {
    ///             (0..10_000_000).for_each(|number| drop(std::hint::black_box(number)));
    ///             pause();
    ///         }
    ///     },
    ///     10,
    /// )?;
    /// assert_eq!(linger.cancel_within(Duration::from_secs(100)), None::<()>);
    /// assert!(is_tidy);
    /// # Ok::<(), inger::Error>(())
    /// ```
    pub fn cancel_within(self, limit: Duration) -> Option<T>
    where
        T: Send,
    {
        let continuation = match self {
            Linger::Completion(result) => return Some(result),
            Linger::Continuation(continuation) => continuation,
            Linger::Poison => return None,
        };
        if continuation.state() == Some(State::Prepared) {
            return None;
        }
        let mut continuation = ManuallyDrop::new(continuation);
        let outcome = {
            let _bracket = BracketGuard::enter();
            let goes_on = !limit.is_zero() && Thread::get().is_ok() && continuation.claim();
            // SAFETY: then the task is this continuation's, and stopped. Once it has completed, the continuation is
            // not used again, nor dropped.
            unsafe {
                if goes_on {
                    Task::set_cancelled(continuation.task.as_ptr());
                }
                (goes_on && continuation.run(budget_us(limit)) == Ok(true))
                    .then(|| continuation.take_outcome(Task::reclaim_completed))
            }
        };
        match outcome {
            Some(Ok(result)) => Some(result),
            Some(Err(panic)) if panic.is::<Unwinding>() => None,
            Some(Err(panic)) => resume_unwind(panic),
            None => {
                drop(ManuallyDrop::into_inner(continuation));
                None
            }
        }
    }

    /// The function's result, if it has returned.
    pub fn completion(self) -> Option<T> {
        match self {
            Linger::Completion(result) => Some(result),
            _ => None,
        }
    }

    /// Lets a thread that waits for a lock run the function on, if that was stopped and may hold the lock.
    ///
    /// A function is stopped anywhere, also where it holds a lock that its launcher takes next: of `println!`, a
    /// [`Mutex`](std::sync::Mutex), an initialisation. Nobody would be left to resume it. With this, the launcher
    /// runs it on while it waits, in slices of 50 µs, until it has released the lock. For a mutex of the C library that is the
    /// function that holds it. Who holds a lock of Rust's is not known: while a thread waits for one, all such functions go
    /// on in turn whose handles it has, or the function has that waits; so they do while it waits in `parking_lot`
    /// for whatever reason, after a second in [`park`](std::thread::park), channels and joins, and now and then in a
    /// [`Condvar`](std::sync::Condvar).
    ///
    /// A function may come to its end that way; [`resume`] says so. One that calls [`pause`] waits for its launcher then:
    /// [`resume`] returns at once, as if it had paused just now.
    ///
    /// For functions that borrow nothing: of others nobody knows, once their `Linger` is leaked, whether what they have
    /// borrowed is still there. Functions that are launched through the C interface are all treated like that.
    ///
    /// # Examples
    ///
    /// ```
    /// use inger::launch;
    /// use std::sync::Mutex;
    ///
    /// static COUNT: Mutex<u64> = Mutex::new(0);
    ///
    /// let linger = launch(|| (0..100).for_each(|_| (0..1_000).for_each(|_| *COUNT.lock().unwrap() += 1)), 20)?.donatable();
    /// // Wherever it was stopped:
    /// let count = *COUNT.lock().unwrap();
    /// assert!(count <= 100_000);
    /// # drop(linger);
    /// # Ok::<(), inger::Error>(())
    /// ```
    pub fn donatable(self) -> Self
    where
        'a: 'static,
    {
        if let Linger::Continuation(continuation) = &self {
            let _bracket = BracketGuard::enter();
            if continuation.claim() {
                let task = continuation.task.as_ptr();
                // SAFETY: the task is this continuation's, and stopped.
                unsafe {
                    (*task).is_donatable = true;
                    if matches!((*task).state, State::Prepared | State::Stopped(Stop::Paused | Stop::Preempted)) {
                        Task::keep(task);
                    }
                }
            }
        }
        self
    }

    /// Tells where the function stands now, if it was started and has not returned: in [`pause`], or where it was preempted.
    ///
    /// Frames in libraries' copies have the names that they have in the libraries. With debug information there are also
    /// files and lines, and the names of functions that libraries do not export. Only addresses are noted here; their
    /// names are looked up later, see [`Backtrace`]. Needs the feature `backtrace`, which is on by default.
    ///
    /// # Examples
    ///
    /// ```
    /// use inger::{launch, pause};
    ///
    /// #[inline(never)]
    /// fn work() -> u32 {
    ///     pause();
    ///     7
    /// }
    ///
    /// let mut linger = launch(work, u64::MAX)?;
    /// let backtrace = linger.backtrace().expect("it has not returned");
    /// println!("{backtrace}");
    /// let is_work = |name: &str| name.contains("work");
    /// assert!(backtrace.frames().iter().any(|frame| frame.name().is_some_and(is_work)));
    /// # Ok::<(), inger::Error>(())
    /// ```
    #[cfg(feature = "backtrace")]
    pub fn backtrace(&mut self) -> Option<Backtrace> {
        let Linger::Continuation(continuation) = self else { return None };
        let _bracket = BracketGuard::enter();
        if !continuation.claim() {
            return None;
        }
        let task = continuation.task.as_ptr();
        // SAFETY: the task is this continuation's once it is claimed.
        unsafe {
            let state = (*task).state;
            let backtrace =
                matches!(state, State::Stopped(Stop::Paused | Stop::Preempted)).then(|| Backtrace::capture(task));
            if backtrace.is_some() || state == State::Prepared {
                Task::keep(task);
            }
            backtrace
        }
    }

    /// The same, as a type that does not name the function: it never does here. For source compatibility.
    pub fn erase(self) -> Self {
        self
    }

    /// Cancels the function and uses its stack, thread-locals and libset again.
    ///
    /// Unlike dropping, this leaks nothing but what the function had on the heap and the
    /// descriptors that it had open, and not even these if it was launched so:
    /// [`Options::reclaim_heap`](crate::Options::reclaim_heap). A function that had not started is dropped.
    ///
    /// # Safety
    ///
    /// Nothing outside points into the function's frames, thread-locals or captures, or into those of functions that
    /// are cancelled with it: no scoped thread that
    /// it started still runs, no intrusive list or pinned future that others know lies on its stack.
    ///
    /// # Examples
    ///
    /// ```
    /// let linger = inger::launch::<(), _>(|| loop { std::hint::spin_loop() }, 1_000)?;
    /// // SAFETY: the loop has shared nothing.
    /// unsafe { linger.reclaim() };
    /// # Ok::<(), inger::Error>(())
    /// ```
    pub unsafe fn reclaim(self) {
        let Linger::Continuation(continuation) = self else { return };
        let mut continuation = ManuallyDrop::new(continuation);
        let outcome = {
            let _bracket = BracketGuard::enter();
            let task = continuation.task.as_ptr();
            if !continuation.claim() {
                return;
            }
            // SAFETY: the task is this continuation's and not used again; the caller's promise.
            unsafe {
                Task::release_locks(task);
                match (*task).state {
                    State::Prepared => None,
                    State::Stopped(Stop::Completed) => Some(Some(continuation.take_outcome(Task::reclaim_completed))),
                    _ => {
                        Task::reclaim(task);
                        (continuation.free)(continuation.outcome.as_ptr().cast());
                        Some(None)
                    }
                }
            }
        };
        if outcome.is_some() {
            // With what it returned, if it came to its end after all.
            return;
        }
        // SAFETY: as above, and it has not started.
        unsafe { continuation.discard_unstarted() };
    }
}

/// Stops the preemptible function that calls it, as if its time were up.
///
/// Its launcher goes on, and may [`resume`] it. Outside a preemptible function it does nothing.
// Inlined, with all that it calls on the way to the switch: each frame that the function returns through
// after it was resumed, and its launcher after that, would be mispredicted.
#[inline(always)]
pub fn pause() {
    let is_cancelled = {
        let unwinding = thread::panicking();
        let _bracket = BracketGuard::enter();
        // SAFETY: a function is running on this kernel thread, and this is its code.
        in_function() && unsafe { Task::pause_current(unwinding) }
    };
    if is_cancelled {
        resume_unwind(Box::new(Unwinding));
    }
}

/// Is this the code of a preemptible function?
#[inline]
pub(crate) fn in_function() -> bool {
    // SAFETY: the state of the current TCB is always there.
    unsafe { (*gotcha::this()).is_virtual != 0 }
}

/// Runs `function` for at most `limit`, and cancels it if it has not returned by then.
///
/// # Errors
///
/// [`Error::TimedOut`] if the time was up, or the function called [`pause`]; else as [`launch`].
///
/// # Panics
///
/// A panic of the function goes on in the caller.
///
/// # Cancellation
///
/// As by dropping a [`Linger`].
///
/// # Examples
///
/// ```
/// use inger::{Error, timeout};
/// use std::time::{Duration, Instant};
///
/// assert_eq!(timeout(Duration::from_secs(10), || 6 * 7), Ok(42));
/// assert_eq!(timeout(Duration::from_millis(2), || loop { std::hint::spin_loop() }), Err::<(), _>(Error::TimedOut));
/// ```
pub fn timeout<'a, T, F>(limit: Duration, function: F) -> Result<T, Error>
where
    T: Send + 'a,
    F: FnOnce() -> T + Send + 'a,
{
    launch(function, budget_us(limit))?.completion().ok_or(Error::TimedOut)
}

/// Runs `function` until `end` at most, and cancels it if it has not returned by then.
///
/// The same as [`timeout`] with the time that is left; if there is none, the function does not run.
///
/// # Errors
///
/// As [`timeout`].
///
/// # Panics
///
/// A panic of the function goes on in the caller.
///
/// # Cancellation
///
/// As by dropping a [`Linger`].
///
/// # Examples
///
/// Two steps that have 10 ms together:
///
/// ```
/// use inger::{Error, deadline};
/// use std::time::{Duration, Instant};
///
/// let end = Instant::now() + Duration::from_millis(10);
/// let size = deadline(end, || 6 * 7).unwrap_or(0);
/// assert_eq!(deadline(end, || loop { std::hint::black_box(size); }), Err::<(), _>(Error::TimedOut));
/// assert_eq!(deadline(end, || size), Err(Error::TimedOut));
/// ```
pub fn deadline<'a, T, F>(end: Instant, function: F) -> Result<T, Error>
where
    T: Send + 'a,
    F: FnOnce() -> T + Send + 'a,
{
    timeout(end.saturating_duration_since(Instant::now()), function)
}

/// In whole microseconds, rounded up: never early. What is too long for that is no limit.
pub(crate) fn budget_us(limit: Duration) -> u64 {
    u64::try_from(limit.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX)
}

/// Runs `section` without preemption: a timeout that comes meanwhile takes effect right after it.
///
/// For code that takes a lock which the caller of [`launch`] takes too. Nests; costs a few ns. Outside a
/// preemptible function it just runs the section.
///
/// # Examples
///
/// ```
/// use std::sync::Mutex;
///
/// let log = Mutex::new(Vec::new());
/// inger::launch(|| inger::no_preempt(|| log.lock().unwrap().push("inside")), 1_000)?;
/// log.lock().unwrap().push("outside");
/// # Ok::<(), inger::Error>(())
/// ```
pub fn no_preempt<T>(section: impl FnOnce() -> T) -> T {
    struct DeferGuard;
    impl Drop for DeferGuard {
        fn drop(&mut self) {
            preempt::undefer();
        }
    }
    preempt::defer();
    let _guard = DeferGuard;
    section()
}

/// How many functions can be unfinished at the same time.
///
/// An upper bound until the limit has been met once: what the system grants is known only then.
///
/// 0 if this process cannot run any; the first launch says why.
pub fn concurrency_limit() -> usize {
    let _bracket = BracketGuard::enter();
    // Not by the layer below alone: it would start without knowing of us.
    if task::init().is_err() {
        return 0;
    }
    // SAFETY: may be called at any time.
    unsafe { gotcha::libgotcha_group_limit() }
}

/// Sets how large the stacks are that are made from now on, where it is 2 MiB otherwise.
///
/// Stacks are used again, so this is for the time before the first launch; [`Options::stack_size`](crate::Options::stack_size)
/// is for one function. What is not used of a stack costs addresses
/// only. A function that does not need that much does not find out; one that needs more ends the process.
///
/// # Units
///
/// Bytes, rounded up to whole pages; at least 64 KiB.
pub fn set_stack_size(size_bytes: usize) {
    task::STACK_SIZE_BYTES.store(size_bytes.max(SMALLEST_STACK_BYTES), Relaxed);
}

/// The clock that budgets are measured by: CLOCK_MONOTONIC, in ns.
pub fn nsnow() -> u64 {
    libsignal::now_ns(libsignal::Clock::Monotonic)
}
