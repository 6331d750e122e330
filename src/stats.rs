//! What the library has done so far, counted by each kernel thread on its own.

use crate::task;
use crate::thread;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Buckets of [`Stats::overshoot`].
pub(crate) const BUCKETS: usize = 24;

/// What the library has done in this process so far; see [`stats`].
///
/// # Examples
///
/// ```
/// inger::launch(|| (), 1_000)?;
/// let stats = inger::stats();
/// assert!(stats.launches >= 1 && stats.completions >= 1);
/// # Ok::<(), inger::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Functions that have started.
    pub launches: u64,
    /// Functions that have returned, or panicked.
    pub completions: u64,
    /// How often a function has stopped by itself, in [`pause`](crate::pause).
    pub pauses: u64,
    /// How often a function was stopped because its time was up.
    pub preemptions: u64,
    /// Expiries that came where the function could not be stopped: it was, or was to be, a moment later.
    pub deferred: u64,
    /// Slices of the time of a thread that waited for a lock.
    pub donations: u64,
    /// Signals of the program's with the number of the library's own, which were handed on.
    pub forwarded_signals: u64,
    /// Functions that were cancelled in mid-run, and those that ended with them.
    pub cancellations: u64,
    /// Functions among these whose stack and thread-locals are never used again: see [`Linger`](crate::Linger).
    pub abandoned: u64,
    /// Libsets that were made.
    pub libsets_made: u64,
    /// Libsets that hold an unfinished function now.
    pub libsets_in_use: u64,
    /// Libsets that are never used again, because threads that were started in them have outlived their function.
    pub libsets_retired: u64,
    /// How late preemptions were: the number of those that came less than 2<sup>i</sup> µs, and not less than half of that, after
    /// their deadline; the last is for all that came later. Includes how long the timer takes, the kernel, other threads that
    /// it ran, and sections in which preemption was deferred.
    pub overshoot: [u64; BUCKETS],
}

/// What one kernel thread counts. A handler may count in between, and a count be lost.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) launches: Count,
    pub(crate) completions: Count,
    pub(crate) pauses: Count,
    pub(crate) preemptions: Count,
    pub(crate) deferred: Count,
    pub(crate) donations: Count,
    pub(crate) forwarded_signals: Count,
    overshoot: [Count; BUCKETS],
}

/// Written by one thread, read by all.
#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    #[inline]
    pub(crate) fn add_one(&self) {
        self.0.store(self.0.load(Relaxed) + 1, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Counters {
    pub(crate) fn count_overshoot(&self, ns: u64) {
        let us = ns / 1000;
        let bucket = (u64::BITS - us.leading_zeros()) as usize;
        self.overshoot[bucket.min(BUCKETS - 1)].add_one();
    }
}

/// Tells what the library has done in this process so far.
///
/// Adds up what the kernel threads have counted, those that have ended included; threads that are at work meanwhile
/// are counted up to about now. Takes a few microseconds, and a lock that launches take when they find no idle libset.
#[must_use]
pub fn stats() -> Stats {
    let _bracket = crate::linger::BracketGuard::enter();
    let mut stats = Stats::default();
    for counters in thread::counters() {
        stats.launches += counters.launches.get();
        stats.completions += counters.completions.get();
        stats.pauses += counters.pauses.get();
        stats.preemptions += counters.preemptions.get();
        stats.deferred += counters.deferred.get();
        stats.donations += counters.donations.get();
        stats.forwarded_signals += counters.forwarded_signals.get();
        for (sum, count) in stats.overshoot.iter_mut().zip(&counters.overshoot) {
            *sum += count.get();
        }
    }
    task::add_stats(&mut stats);
    stats
}
