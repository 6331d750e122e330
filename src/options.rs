//! Launches that ask for more than [`launch`](crate::launch) does.

use crate::error::Error;
use crate::linger::{BracketGuard, Continuation, Linger, budget_us};
use crate::task::{self, SMALLEST_STACK_BYTES, Settings, Task};
use std::ffi::CString;
use std::time::Duration;

/// How a function is to be launched: its stack, and the clock that its budgets are measured by.
///
/// # Examples
///
/// ```
/// use inger::{Clock, Options};
///
/// let options = Options::new().stack_size(16 << 20).clock(Clock::ThreadCpuTime);
/// let deep = options.launch(|| [1_u8; 8 << 20].iter().map(|&byte| u64::from(byte)).sum::<u64>(), u64::MAX)?;
/// assert_eq!(deep.completion(), Some(8 << 20));
/// # Ok::<(), inger::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Options(Settings);

/// What a function's budgets are measured by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Clock {
    /// Elapsed time: CLOCK_MONOTONIC.
    #[default]
    Monotonic,
    /// The processor time of the kernel thread that runs the function: CLOCK_THREAD_CPUTIME_ID.
    ThreadCpuTime,
}

impl Options {
    /// What [`launch`](crate::launch) does.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the function a stack of at least `size_bytes`; it is used again for later functions.
    ///
    /// Memory is taken as it is touched. For all functions: [`set_stack_size`](crate::set_stack_size).
    ///
    /// # Units
    ///
    /// Bytes, rounded up to whole pages; at least 64 KiB.
    pub fn stack_size(mut self, size_bytes: usize) -> Self {
        self.0.stack_size_bytes = Some(size_bytes.max(SMALLEST_STACK_BYTES));
        self
    }

    /// Measures the function's budgets by `clock`, those of its resumes and of [`Linger::cancel_within`] included.
    ///
    /// By [`Clock::ThreadCpuTime`] the time does not count in which the function sleeps or waits, or the kernel runs
    /// other threads. It is never cut short. A function that sleeps with little of its budget left is looked at every 50 µs,
    /// and these looks do count, a few microseconds each.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.0.counts_cpu_time = clock == Clock::ThreadCpuTime;
        self
    }

    /// Frees what the function has allocated and not freed, when it is cancelled: dropped in mid-run,
    /// [reclaimed](Linger::reclaim), or cancelled with the function around it.
    ///
    /// Otherwise a cancelled function leaks that. What counts is what it asks the C library's `malloc` and its like for
    /// itself, in Rust through the system's allocator ([`std::alloc::System`], the default), or libraries in its name.
    /// Blocks that others free, at whatever time, are not its any more. A function that returns, or is unwound from
    /// [`pause`](crate::pause), keeps what it has not freed: its result. If a function that has this option launches
    /// others, these count for themselves; what they return is its.
    ///
    /// Not counted are what threads of its own allocate, what libraries do that are [shared](share_library), what goes
    /// through [`Alloc`](crate::Alloc), and what its captures held before it began.
    ///
    /// Calls of `malloc` and `free` in such functions take some 25 ns more each, and while one of them has a block, calls of
    /// `free` anywhere a few. The child of a fork that comes while another thread does so forgets whose blocks are whose, and
    /// frees none of those that were allocated before.
    ///
    /// # Errors
    ///
    /// Of the launch: [`Error::Unsupported`] if the process has another `malloc` than the C library's.
    ///
    /// # Safety
    ///
    /// If the function is cancelled, nothing uses what it had allocated from then on. That is, it has not put a pointer to
    /// it where others look later: into what it has borrowed, a channel, a static. Statics of libraries are its own, and
    /// do not count; those of the program do, of its crates, and of Rust's standard library: what is initialised when it is
    /// first used is used before (the streams behind `println!` are, by this call). Nor does anybody free its blocks past
    /// interception: by a pointer to `free` that was stored before the first launch.
    ///
    /// Two caches of the process must not be filled by it. Rust's standard library keeps what it has read of debug information:
    /// so the function makes no text of a [`Backtrace`](std::backtrace::Backtrace), nor panics where `RUST_BACKTRACE` is set.
    /// And the unwinder (libgcc_s) keeps what it has sorted of frames that were registered while the program runs, by
    /// `__register_frame`, as compilers to memory do: so the function registers none, and is not the first to unwind, nor to unwind
    /// through them, after others have registered some.
    ///
    /// # Examples
    ///
    /// ```
    /// use inger::Options;
    /// use std::time::Duration;
    ///
    /// let greedy = || {
    ///     let mut numbers = vec![1_u64; 1 << 20];
    ///     loop {
    ///         numbers.rotate_left(1);
    ///     }
    /// };
    /// // SAFETY: the function shares nothing.
    /// let options = unsafe { Options::new().reclaim_heap() };
    /// for _ in 0..100 {
    ///     // 8 MiB each, which are freed.
    ///     assert!(options.timeout::<(), _>(Duration::from_millis(1), greedy).is_err());
    /// }
    /// ```
    pub unsafe fn reclaim_heap(mut self) -> Self {
        // They allocate when they are first asked for.
        let _ = (std::io::stdin(), std::io::stdout());
        self.0.tracks |= gotcha::LIBGOTCHA_TRACKS_HEAP;
        self.0.is_reclaimed = true;
        self
    }

    /// Closes the descriptors that the function has opened and not closed, when it is cancelled.
    ///
    /// As for [`Options::reclaim_heap`]. What counts are those that it gets from `open`, `openat`, `creat`, `socket`,
    /// `socketpair`, `accept`, `pipe`, `dup`, `fcntl`, `eventfd`, `epoll_create`, `timerfd_create`, `signalfd`,
    /// `inotify_init`, `memfd_create`, `mkstemp`, `opendir` and their variants: in Rust files, folders, sockets, pipes, and copies of
    /// such. Streams of the C library are closed in any case, with the descriptors that they were made of (`fdopen`). Not
    /// counted are others that the C library opens for itself, those that arrive in messages, and those whose number was chosen
    /// (`dup2`).
    ///
    /// Opening one of these takes a system call more.
    ///
    /// # Safety
    ///
    /// If the function is cancelled, nothing uses these descriptors from then on, and nobody but the function has closed any
    /// of them, by `close`, `closedir` or with the stream that it was made; otherwise the number may be another's. What closes
    /// some in passing must not: `close_range`, `closefrom`, or `dup2` to the number of one.
    ///
    /// # Examples
    ///
    /// ```
    /// use inger::{Options, pause};
    /// use std::fs::File;
    ///
    /// let open = || {
    ///     let file = File::open("/dev/null");
    ///     loop {
    ///         std::hint::black_box(&file);
    ///     }
    /// };
    /// // SAFETY: the function shares nothing.
    /// let options = unsafe { Options::new().reclaim_heap().close_descriptors() };
    /// // Else as many descriptors would be open.
    /// (0..2_000).for_each(|_| drop(options.launch::<(), _>(open, 20)));
    /// ```
    pub unsafe fn close_descriptors(mut self) -> Self {
        self.0.tracks |= gotcha::LIBGOTCHA_TRACKS_DESCRIPTORS;
        self.0.is_reclaimed = true;
        self
    }

    /// The same as [`launch`](crate::launch) with these options.
    ///
    /// # Errors
    ///
    /// As [`launch`](crate::launch); [`Error::Os`] if there is no memory for the stack.
    ///
    /// # Panics
    ///
    /// A panic of the function goes on in the caller.
    pub fn launch<'a, T, F>(&self, function: F, budget_us: u64) -> Result<Linger<'a, T>, Error>
    where
        T: Send + 'a,
        F: FnOnce() -> T + Send + 'a,
    {
        let bracket = BracketGuard::enter();
        task::init()?;
        let task = Task::take_for(&self.0)?;
        // SAFETY: the task is ours and idle; then it is prepared.
        let continuation = unsafe {
            let continuation = Continuation::prepare(task, function);
            Task::apply(task, &self.0);
            continuation
        };
        continuation.start(budget_us, bracket)
    }

    /// The same as [`timeout`](crate::timeout) with these options.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`] if the time was up, or the function called [`pause`](crate::pause); else as
    /// [`Options::launch`].
    ///
    /// # Panics
    ///
    /// A panic of the function goes on in the caller.
    ///
    /// # Cancellation
    ///
    /// As by dropping a [`Linger`].
    pub fn timeout<'a, T, F>(&self, limit: Duration, function: F) -> Result<T, Error>
    where
        T: Send + 'a,
        F: FnOnce() -> T + Send + 'a,
    {
        self.launch(function, budget_us(limit))?.completion().ok_or(Error::TimedOut)
    }
}

/// Shares the library of the file name `name` with all functions: it is not copied for them.
///
/// Every call of it runs in the one original, unpreempted. This is for libraries that are configured once, or whose objects
/// cross between functions and their launchers; it does what the environment variable `LIBGOTCHA_SHARED` does, and adds to
/// that. A name that no library has is ignored.
///
/// # Errors
///
/// [`Error::TooLate`] after the first launch, or [`concurrency_limit`](crate::concurrency_limit): it holds for the whole
/// process. [`Error::Os`] with `EINVAL` for a name with a NUL in it, and `ENOMEM` for more than 64 names.
///
/// # Examples
///
/// ```
/// inger::share_library("libsqlite3.so.0")?;
/// inger::launch(|| (), 1_000)?;
/// assert!(inger::share_library("libz.so.1").is_err());
/// # Ok::<(), inger::Error>(())
/// ```
pub fn share_library(name: &str) -> Result<(), Error> {
    let failed = |errno| Error::Os { operation: "sharing a library", errno };
    let name = CString::new(name).map_err(|_| failed(libc::EINVAL))?;
    let _bracket = BracketGuard::enter();
    gotcha::share(&name).map_err(|error| match error.errno {
        libc::EBUSY => Error::TooLate { cause: error.cause },
        errno => failed(errno),
    })
}
