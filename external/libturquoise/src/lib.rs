//! Runs futures and closures as preemptive tasks: one that computes gives way to others, without an `await`.
//!
//! A [`Runtime`] has some kernel threads, its *workers*. Each poll of a task runs inside a preemptible function of
//! [`inger`]. If it is not over after a *quantum*, it is stopped where it is, in the middle of a C library if need be,
//! and goes to the back of a run queue.
//!
//! # Examples
//!
//! ```
//! use std::time::Duration;
//! use turquoise::{Config, Runtime};
//!
//! let runtime = Runtime::new(Config { threads: 1, ..Config::default() })?;
//! let endless = runtime.spawn_fn(|| loop { std::hint::spin_loop() });
//! let sum = runtime.spawn(async {
//!     tokio::time::sleep(Duration::from_millis(1)).await;
//!     (1..=1000).sum::<u32>()
//! });
//! assert_eq!(sum.join().unwrap(), 500_500);
//!
//! // It never looks at anything: it is stopped where it is, once the grace is over.
//! drop(endless);
//! assert_eq!(runtime.shutdown(Duration::from_millis(10)), 1);
//! # Ok::<(), turquoise::Error>(())
//! ```
//!
//! # Scheduling
//!
//! There are two queues that all workers share, and one of each worker.
//!
//! - A task that was spawned or woken is *ready*. It goes to the back of a shared queue, from which workers take them, several
//!   at a time if it is long, into queues of their own; who has none steals from others (`crossbeam-deque`).
//! - A task that was preempted goes to the back of a second shared queue, of *stopped* tasks: so they take turns, whichever
//!   worker runs them, and compute equally much.
//!
//! Ready tasks come first, since most of them are short, and a stopped one has had its quantum. But after every few of
//! them a stopped one has its turn. A task's weight multiplies its quantum.
//!
//! tokio's scheduler does not serve: its workers poll sockets and timers outside of tasks, under locks which a stopped task
//! may hold; it has one queue, and no weights.
//!
//! A quantum is elapsed time: a task that blocks, in a system call or for a lock, gives way, too.
//!
//! Workers serve sockets and timers: those that compute every now and then, when a quantum is over; of those that
//! have nothing to do, one waits for events, and the others sleep.
//!
//! # Libsets
//!
//! Each poll is a launch of its own, some tens of nanoseconds. A task has a libset from the beginning of a poll to its end, also
//! while it is stopped in between; but none before it is polled, or while it waits: its state is on the heap. So any
//! number of tasks can wait. What does not survive from one poll to the next is thread-locals and the state of libraries (`strtok`,
//! `rand`), which a future cannot rely on under other executors either. A closure ([`spawn_fn`]) is one poll.
//!
//! The runtime has one more for itself. If there is none left, or [`Config::max_started`] tasks have one, ready tasks wait until one is over. Nothing fails;
//! but tasks that never end can take them all. How many there are, [`inger::concurrency_limit`] says: thousands at most, and about
//! ten, for all runtimes together, where the dynamic linker makes the copies (`LIBGOTCHA_LOADER=dlmopen`).
//!
//! # Locks
//!
//! What a task holds where it is stopped stays taken. Other tasks that want it are stopped as they wait for it, in their
//! turn, until the holder has gone on; that goes for locks of tokio's, too, since everything that is not this crate's runs inside
//! functions: polls, closures, destructors, other executors' wakers, and tokio's own driver. The crate's own locks are held
//! unpreempted and nothing else is called meanwhile, so workers do not wait for stopped tasks.
//!
//! A wait for such a lock inside [`inger::no_preempt`] lets the tasks that this worker has stopped go on meanwhile: they are
//! [`donatable`](inger::Linger::donatable). It is slow, and better done without.
//!
//! # tokio
//!
//! Inside tasks, and in [`Runtime::block_on`], a runtime of tokio's is the current one: its sockets, timers and channels
//! work as they are. What is spawned with `tokio::spawn` runs with what serves the sockets, which it delays if it
//! computes: [`spawn`] is for that. At the end of the runtime it is dropped there; what takes longer than a second for that is
//! stopped where it is. A thread that `spawn_blocking` starts from inside a task keeps the libset it was started in,
//! which is never used again: better started outside. `block_in_place` does not work.
//!
//! # Cancellation
//!
//! [`JoinHandle::cancel`] drops a future once it waits for something, inside a function; a closure is unwound from
//! [`yield_now`]. What never gets there can be stopped where it is: [`JoinHandle::abandon`], [`Runtime::shutdown`] after
//! its grace. That leaks what it has, as dropping an [`inger::Linger`] does, and leaves locks taken which it holds. If one of
//! these is of tokio's sockets or timers, other tasks may wait for these in vain; what needs neither goes on.
//!
//! # Limits
//!
//! Those of [`inger`]; the statics of the executable are shared among tasks as among threads.

#![forbid(unsafe_code)]

mod driver;
mod join;
mod parking;
mod runtime;
mod scheduler;
mod task;

pub use inger::Error;
pub use join::{JoinError, JoinHandle};
pub use runtime::{Config, Handle, Runtime, spawn, spawn_fn, yield_now};
pub use scheduler::Stats;

use std::sync::Mutex;

/// What the executor's own code shares with code inside functions. Held unpreempted, so that no stopped function has it,
/// and workers never wait for one.
#[derive(Default)]
struct Guarded<T>(Mutex<T>);

impl<T> Guarded<T> {
    fn new(value: T) -> Self {
        Guarded(Mutex::new(value))
    }

    /// `section` calls nothing that is not this crate's, drops included: that might wait for what a stopped function has.
    fn with<R>(&self, section: impl FnOnce(&mut T) -> R) -> R {
        inger::no_preempt(|| section(&mut self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())))
    }
}

/// Runs what belongs to a program, a destructor or a waker, which may panic: nobody is there to be told.
fn quietly(run: impl FnOnce()) {
    if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
        std::mem::forget(panic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// However long it takes: nobody is stopped with the lock.
    #[test]
    fn sections_are_not_preempted() {
        let guarded = Guarded::new(0);
        let section = |value: &mut u32| {
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_millis(2) {
                std::hint::spin_loop();
            }
            *value += 1;
        };
        for round in 1..10 {
            let mut linger = inger::launch(|| guarded.with(section), 100).unwrap();
            while linger.is_continuation() {
                // Before the section or after it.
                assert!(guarded.0.try_lock().is_ok());
                inger::resume(&mut linger, 100).unwrap();
            }
            assert_eq!(*guarded.0.try_lock().unwrap(), round);
        }
    }
}

/// The README's example, as a documentation test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
