//! Calls any function with a timeout, on the caller's own kernel thread.
//!
//! [`launch`] runs a function for at most so many microseconds. If it returns in time there is a
//! [`Linger::Completion`] with its result; if not, a [`Linger::Continuation`]: the function was stopped where it
//! was, in the middle of a C library if need be. [`resume`] lets it go on, dropping it cancels it. No thread is
//! started, and nothing of the function has to cooperate.
//!
//! x86-64 Linux with the GNU C library, 2.34 or later, as it is: no patch, no linker flag, no environment
//! variable. The C interface is in the module `ffi`.
//!
//! # Examples
//!
//! ```
//! use inger::{Error, launch, resume, timeout};
//! use std::time::Duration;
//!
//! let numbers: Vec<u64> = (1..=100_000).collect();
//!
//! // For 50 us; then something else; then on with it.
//! let mut sum = launch(|| numbers.iter().map(|number| number * number).sum::<u64>(), 50)?;
//! let mut slices = 1;
//! while sum.is_continuation() {
//!     resume(&mut sum, 50)?;
//!     slices += 1;
//! }
//! println!("done in {slices} slices");
//! assert_eq!(sum.completion(), Some(333_338_333_350_000));
//!
//! // In time, or not at all.
//! let answer = timeout(Duration::from_millis(5), || -> u64 { loop { std::hint::spin_loop() } });
//! assert_eq!(answer, Err(Error::TimedOut));
//! # Ok::<(), Error>(())
//! ```
//!
//! # How it works
//!
//!  1. The first launch rewrites the global offset tables of the program and its libraries: each call of a
//!     library's function goes through a trampoline, which jumps through the table of the current *libset*.
//!  2. A libset is a private copy of all shared libraries. Each unfinished function has one, so it can be stopped
//!     inside a library which others use meanwhile.
//!  3. It also has a stack and a thread control block, hence its own thread-locals, `errno` and identity as owner
//!     of locks. Setting one register, the thread pointer, switches all of them and the libset.
//!  4. A launch stores a deadline, programs the kernel thread's one-shot timer unless it will expire soon enough
//!     anyway, switches stacks, and calls. There is no system call on the fast path.
//!  5. The timer's signal (SIGALRM) interrupts the function; its handler switches to the launcher's stack.
//!  6. What must be one per process (heap, dynamic linker, threads, shared streams) goes to the original
//!     libraries, with preemption deferred until the call has returned.
//!  7. [`resume`] switches back into the handler, which restores the interrupted code's registers.
//!  8. A continuation is not bound to a kernel thread: any may resume it.
//!  9. At a cancel the libset's writable memory is copied back from a snapshot, and the libset used again.
//! 10. Functions may launch functions; the outermost one whose deadline has passed is stopped, with all inside it.
//!
//! # What is promised
//!
//! - To the function it looks as if it ran on a thread of its own: thread-locals are fresh at each launch, and
//!   are destroyed when it returns. For the rest it looks like a plain call: arguments, borrows, heap, files,
//!   environment, working directory, process.
//! - A timeout never comes early. The clock is CLOCK_MONOTONIC (or processor time: [`Options::clock`]), and stands still for functions inside a function
//!   that is stopped.
//! - A stopped function goes on as if nothing had been: registers, rounding mode, signal mask, `errno`; no system
//!   call of it fails and no sleep or wait is cut short on account of a preemption.
//! - A panic goes on in whoever launched or resumed the function.
//! - Any number of threads may launch at the same time. Processes may fork and exit, and threads end, with
//!   functions unfinished. The program's own signals work, SIGALRM and `alarm` included.
//! - After a cancel the libraries are, for later functions, as they were after loading.
//!
//! # What is not
//!
//! - **Shared with the caller** are the statics of the executable, those of Rust's standard library in it included,
//!   and all that pointers reach. Library state (`strtok`, `rand`, a locale set inside) belongs to the libset: it
//!   outlives a completed function only as a cache that some later function may find.
//! - **A lock** that a stopped function holds stays taken. Its launcher, wanting it, waits for itself: two on one
//!   kernel thread. That goes for `Mutex`, `println!` and the like too. Functions that borrow nothing can be made
//!   [`donatable`](Linger::donatable): then the launcher lets them go on meanwhile. For others use [`no_preempt`] around
//!   sections that take a lock which the launcher takes. A cancelled function has a millisecond to
//!   release what it holds of the C library's locks; others are never freed. [`set_lock_wait_hook`] tells of long waits.
//! - **An allocator** that is part of the executable (jemalloc, mimalloc) has locks and thread-locals as other code of the
//!   program has. Declare it as [`Alloc`]; the C library's needs nothing.
//! - **Library configuration** made outside (as by `curl_global_init`) is not seen inside, and objects made on one
//!   side and used on the other mix two copies of their library. Make them inside, or share the library:
//!   [`share_library`], `LIBGOTCHA_SHARED`.
//! - **A cancel leaks** what the function has on the heap, and its descriptors, unless it has stopped in [`pause`]:
//!   then it is unwound, and its destructors run. *Dropping* one that has not also leaks its stack,
//!   thread-locals and captures; after 10,000 such drops launching fails with [`Error::TooManyAbandoned`].
//!   [`Linger::reclaim`], which is unsafe, uses them again; [`Linger::cancel_within`] gives the function time to get to a
//!   `pause`. [`Options::reclaim_heap`] and [`Options::close_descriptors`], unsafe too, free the heap
//!   that cancelled functions have, and close their descriptors.
//! - **Not preempted** are functions that run in the original libraries: those listed above, those of libraries
//!   named in `LIBGOTCHA_SHARED`, and what is called through pointers that the program stored before its first
//!   launch. Timeouts take effect when they return.
//! - **Leaving otherwise than by returning**: `longjmp` out of a function ends the process with a message.
//!   `pthread_exit` ends the function, with [`Error::Ended`].
//!
//! # Limits
//!
//! - How many functions can be unfinished at a time: [`concurrency_limit`]; one more gets
//!   [`Error::TooManyLibsets`]. Thousands: a libset takes five of the mappings that the kernel grants a process
//!   (`vm.max_map_count`), and two for each library. Where the dynamic linker has to make the copies (see
//!   `LIBGOTCHA_LOADER` below), about 11, and 15 with `GLIBC_TUNABLES=glibc.rtld.nns=16`.
//! - A function's stack has 2 MiB, unless [`set_stack_size`] or [`Options::stack_size`] has said otherwise. Overflowing it ends the process with a
//!   message.
//! - Timeouts shorter than the time that an interrupt takes, a few microseconds and more in a virtual machine, come
//!   that much late: a function that is resumed makes progress first.
//! - Refused with [`Error::Unsupported`], which says what was found: other C libraries, static executables,
//!   sanitizers, active shadow stacks, a second copy of this library in the process.
//!
//! # Soundness
//!
//! A preemptible function is, to the type system, a scoped thread that runs while its launcher waits.
//!
//! - *Data races.* It runs only inside [`launch`] and [`resume`], which hold the kernel thread (and the
//!   [`Linger`] exclusively). While it is stopped it is in the middle of things, as a thread is: what it has borrowed
//!   mutably nobody else reaches, since the [`Linger`] keeps the borrow; what it shares must be `Sync`, because
//!   captures and result must be `Send`. They must, too, because it sees other thread-locals than its launcher does,
//!   and may go on on another kernel thread. `Send` suffices for that: code cannot tell the kernel thread but by
//!   thread-locals, which move with the function.
//! - *Borrows.* `Linger<'a, T>` cannot outlive what the function has captured. A function that is forgotten with
//!   `std::mem::forget` never runs again, so borrows that end after that are not used.
//! - *Ending it.* No destructor of a function runs that is cancelled elsewhere than in [`pause`], as if its thread had
//!   stopped for ever. Others may rely
//!   on its frames nevertheless: a pinned value on its stack, a node of an intrusive list, a scoped thread that borrows
//!   from it. So dropping never reuses that memory, and waits for threads which the function has started.
//!   [`Linger::reclaim`] does reuse it, and is unsafe.
//! - *Not covered.* Forgetting a [`Linger`] does not wait for threads that its function has started with
//!   `std::thread::scope`, and nothing knows of work that it has handed to a pool made outside. A function that
//!   lends its borrows to other threads must not be forgotten, or dropped, while they use them.
//!
//! # Environment
//!
//! Read at the first launch; ignored in a set-user-ID program. A value that makes no sense gets one line on standard
//! error, and is otherwise ignored.
//!
//! | variable | |
//! |---|---|
//! | `LIBGOTCHA_NUMGROUPS` | most libsets that may exist |
//! | `LIBGOTCHA_SHARED` | colon-separated file names of libraries that are not copied: every call of them runs in the one original, unpreempted |
//! | `LIBGOTCHA_SKIP` | colon-separated names of programs in which every launch fails, with nothing intercepted |
//! | `LIBGOTCHA_TRACE` | `libsets`: a line on standard error for each libset made or retired, and if the dynamic linker has to make them; `calls`: for each call from inside a function that the original libraries carry out, or a wrapper of this library's; `signals`: for each expiry that stops a function or cannot, and each signal of the program's of the same number; several with commas in between |
//! | `LIBGOTCHA_LOADER` | who makes the copies, and nobody else then: `clone` (this library), `dlmopen` (the dynamic linker); by default `clone`, and `dlmopen` where that cannot |
//! | `LIBGOTCHA_GDB` | `1`: debuggers are told of the `clone` engine's copies; they then read each library once for each |
//! | `LIBGOTCHA_NOFSGSBASE` | set: the thread pointer is set by a system call, even where an instruction could |
//!
//! # Source
//!
//! Boucher, Kalia, Andersen, Kaminsky: *Lightweight Preemptible Functions*, USENIX ATC 2020.

mod alloc;
#[cfg(feature = "backtrace")]
mod backtrace;
mod deadline;
mod error;
#[cfg(feature = "ffi")]
pub mod ffi;
pub mod future;
mod linger;
mod lock_wait;
mod options;
mod preempt;
mod stats;
mod task;
mod thread;

pub use alloc::Alloc;
#[cfg(feature = "backtrace")]
pub use backtrace::{Backtrace, Frame};
pub use error::Error;
pub use linger::{
    Continuation, Linger, concurrency_limit, deadline, launch, no_preempt, nsnow, pause, resume, set_stack_size,
    timeout,
};
pub use lock_wait::{LockHolder, LockWait, set_lock_wait_hook};
pub use options::{Clock, Options, share_library};
pub use stats::{Stats, stats};

/// The README's examples, as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
