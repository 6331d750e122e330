//! One task: its future between polls, and where it is.

use crate::join::{Fail, JoinError};
use crate::runtime::{self, Entered};
use crate::scheduler::Scheduler;
use crate::{Guarded, quietly};
use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};

/// A future that has seen to its result.
type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A future or closure that the runtime runs.
///
/// # Invariants
///
/// - `future` is None while a function has it, and for ever once it is dropped.
/// - A task is in a queue of ready ones if and only if `state` is `QUEUED`; in the hands of one worker, or in the queue of
///   stopped ones, if it is `RUNNING` or `WOKEN`.
/// - It is in its scheduler's list until it has finished.
/// - Whoever makes it wait or run reads `state` in the same step that writes it, and so does every wake, also one that changes
///   nothing: so the poll that comes next sees what was written before the wake.
pub(crate) struct Task {
    pub(crate) scheduler: Arc<Scheduler>,
    join: Arc<dyn Fail>,
    future: Guarded<Option<Work>>,
    state: AtomicU8,
    is_cancelled: AtomicBool,
    is_abandoned: AtomicBool,
    /// It is counted among those that were stopped for good.
    is_counted: AtomicBool,
    /// Its quantum, in µs.
    pub(crate) quantum_us: u64,
    /// Its place in the scheduler's list.
    pub(crate) key: AtomicUsize,
    /// Why it was lost, if not by being cancelled.
    failure: Guarded<Option<JoinError>>,
}

/// Waits to be woken.
const WAITING: u8 = 0;
/// Waits to be polled.
const QUEUED: u8 = 1;
/// Is being polled, or stopped in the middle of that.
const RUNNING: u8 = 2;
/// The same, and was woken meanwhile.
const WOKEN: u8 = 3;
const FINISHED: u8 = 4;

/// What a poll has come to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Polled {
    Waits,
    Finished,
}

/// What closures are unwound by.
struct Unwinding;

impl Task {
    /// Queued, though in no queue yet.
    pub(crate) fn new(scheduler: Arc<Scheduler>, join: Arc<dyn Fail>, future: Work, quantum_us: u64) -> Self {
        Task {
            scheduler,
            join,
            future: Guarded::new(Some(future)),
            state: AtomicU8::new(QUEUED),
            is_cancelled: AtomicBool::new(false),
            is_abandoned: AtomicBool::new(false),
            is_counted: AtomicBool::new(false),
            quantum_us,
            key: AtomicUsize::new(0),
            failure: Guarded::new(None),
        }
    }

    pub(crate) fn cancel(self: &Arc<Self>) {
        self.is_cancelled.store(true, Relaxed);
        self.wake_by_ref();
    }

    pub(crate) fn abandon(self: &Arc<Self>) {
        self.is_abandoned.store(true, Relaxed);
        self.cancel();
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Relaxed)
    }

    /// Takes the future away from a task that never ran, and never will.
    pub(crate) fn refuse(&self) {
        let future = self.future.with(Option::take);
        self.state.store(FINISHED, Relaxed);
        quietly(|| drop(future));
        self.join.fail(JoinError::Cancelled);
    }

    // ------------------------------------------------------------------ a worker's own code

    pub(crate) fn begin(&self) {
        self.state.swap(RUNNING, AcqRel);
    }

    /// Makes it queued again; the caller puts it into a queue.
    pub(crate) fn requeue(&self) {
        self.state.swap(QUEUED, AcqRel);
    }

    /// It waits, unless it was woken: then it is queued, and the caller puts it into a queue.
    #[must_use]
    pub(crate) fn wait(&self) -> bool {
        let is_woken = self.state.compare_exchange(RUNNING, WAITING, AcqRel, Acquire).is_err();
        if is_woken {
            self.requeue();
        }
        !is_woken
    }

    pub(crate) fn finish(&self) {
        self.state.store(FINISHED, Relaxed);
    }

    /// Its function is gone, and the future with it: the next poll says so to whoever waits.
    pub(crate) fn lose(&self, error: Option<inger::Error>) {
        self.is_cancelled.store(true, Relaxed);
        self.failure.with(|failure| *failure = error.map(JoinError::Failed));
    }

    /// Was it not counted among those that were stopped for good? It is now.
    pub(crate) fn is_to_be_counted(&self) -> bool {
        !self.is_counted.swap(true, Relaxed)
    }

    /// No function can be launched for it: there is nowhere that its future could be dropped.
    pub(crate) fn give_up(&self, error: inger::Error) {
        std::mem::forget(self.future.with(Option::take));
        self.join.fail(JoinError::Failed(error));
    }

    // ------------------------------------------------------------------ inside its function

    /// Polls the future once, or drops it if it is cancelled.
    pub(crate) fn poll(self: &Arc<Self>) -> Polled {
        let _entered = Entered::new(&self.scheduler, Some(self));
        let _tokio = self.scheduler.tokio.enter();
        let Some(mut future) = self.future.with(Option::take) else {
            let failure = self.failure.with(Option::take);
            self.join.fail(failure.unwrap_or(JoinError::Cancelled));
            return Polled::Finished;
        };
        if !self.is_cancelled.load(Relaxed) {
            let waker = Waker::from(Arc::clone(self));
            match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut Context::from_waker(&waker)))) {
                Ok(Poll::Pending) => {}
                Ok(Poll::Ready(())) => return self.end(future, None),
                Err(panic) => return self.end(future, Some(self.of_panic(panic))),
            }
        }
        if self.is_cancelled.load(Relaxed) {
            return self.end(future, Some(JoinError::Cancelled));
        }
        self.future.with(|place| *place = Some(future));
        Polled::Waits
    }

    fn end(&self, future: Work, error: Option<JoinError>) -> Polled {
        quietly(|| drop(future));
        if let Some(error) = error {
            self.join.fail(error);
        }
        Polled::Finished
    }

    /// Ours, or what its function is unwound by because it was stopped for good.
    fn of_panic(&self, panic: Box<dyn Any + Send>) -> JoinError {
        if panic.is::<Unwinding>() || self.is_abandoned() {
            quietly(|| drop(panic));
            return JoinError::Cancelled;
        }
        JoinError::Panicked(panic)
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    /// Context: any, also inside other tasks' functions: queues have no locks, but are not to be left in the middle.
    fn wake_by_ref(self: &Arc<Self>) {
        inger::no_preempt(|| {
            let wake = |state| {
                Some(match state {
                    WAITING => QUEUED,
                    RUNNING => WOKEN,
                    // Written all the same: see `Task`.
                    state => state,
                })
            };
            if self.state.fetch_update(AcqRel, Acquire, wake) == Ok(WAITING) {
                self.scheduler.push_ready(Arc::clone(self));
            }
        });
    }
}

/// See [`yield_now`](crate::yield_now).
pub(crate) fn yield_now() {
    let Some(task) = runtime::current_task() else {
        std::thread::yield_now();
        return;
    };
    inger::pause();
    if task.is_cancelled.load(Relaxed) && !std::thread::panicking() {
        drop(task);
        resume_unwind(Box::new(Unwinding));
    }
}
