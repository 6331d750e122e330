//! The outcome of a task, and who waits for it.

use crate::task::Task;
use crate::{Guarded, parking, quietly};
use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Why a task has no result.
#[non_exhaustive]
pub enum JoinError {
    /// It has panicked, with this.
    Panicked(Box<dyn Any + Send>),
    /// It was cancelled, or its runtime was shut down.
    Cancelled,
    /// It could not run: functions cannot be launched any more, or it has ended its thread.
    Failed(inger::Error),
}

impl JoinError {
    /// Lets the task's panic go on here.
    ///
    /// # Panics
    ///
    /// Always.
    pub fn resume_panic(self) -> ! {
        match self {
            JoinError::Panicked(panic) => std::panic::resume_unwind(panic),
            error => panic!("{error}"),
        }
    }
}

impl fmt::Debug for JoinError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JoinError::Panicked(_) => formatter.write_str("Panicked(..)"),
            JoinError::Cancelled => formatter.write_str("Cancelled"),
            JoinError::Failed(error) => formatter.debug_tuple("Failed").field(error).finish(),
        }
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JoinError::Panicked(panic) => {
                let text = panic.downcast_ref::<&str>().copied();
                let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
                write!(formatter, "the task has panicked: {}", text.unwrap_or("(no text)"))
            }
            JoinError::Cancelled => formatter.write_str("the task was cancelled"),
            JoinError::Failed(error) => write!(formatter, "the task could not run: {error}"),
        }
    }
}

impl std::error::Error for JoinError {}

/// Where a task leaves its outcome.
pub(crate) struct Join<T>(Guarded<State<T>>);

struct State<T> {
    outcome: Option<Result<T, JoinError>>,
    /// Until it has been woken. Counted, since to clone a waker is to call a program's code.
    waker: Option<Arc<Waker>>,
    /// The handle was dropped.
    is_detached: bool,
}

/// A [`Join`] of whatever type.
pub(crate) trait Fail: Send + Sync {
    /// Leaves an error, unless there is an outcome already.
    ///
    /// Context: as [`Join::finish`].
    fn fail(&self, error: JoinError);
}

impl<T> Join<T> {
    pub(crate) fn new() -> Self {
        Join(Guarded::new(State { outcome: None, waker: None, is_detached: false }))
    }

    /// A function that is stopped for good in here is followed by another one, which comes here again. If it was stopped while
    /// it woke, the second one wakes instead; if that is stopped too, nobody does.
    ///
    /// Context: inside a function, so that whatever is woken or dropped may wait for what other functions hold.
    pub(crate) fn finish(&self, outcome: Result<T, JoinError>) {
        let (unwanted, waker) = self.0.with(|state| {
            if state.is_detached || state.outcome.is_some() {
                return (Some(outcome), state.waker.take());
            }
            state.outcome = Some(outcome);
            (None, state.waker.clone())
        });
        if let Some(waker) = &waker {
            quietly(|| waker.wake_by_ref());
        }
        let woken = self.0.with(|state| state.waker.take());
        quietly(|| drop(unwanted));
        quietly(|| drop(waker));
        quietly(|| drop(woken));
    }
}

impl<T: Send> Fail for Join<T> {
    fn fail(&self, error: JoinError) {
        self.finish(Err(error));
    }
}

/// Waits for a task, as a future or with [`JoinHandle::join`], or cancels it.
///
/// Dropping it lets the task go on; its result is dropped then.
///
/// # Panics
///
/// When it is polled after it was ready.
#[must_use = "dropping it detaches the task: `drop` says so"]
pub struct JoinHandle<T> {
    join: Arc<Join<T>>,
    task: Arc<Task>,
}

impl<T> JoinHandle<T> {
    pub(crate) fn new(join: Arc<Join<T>>, task: Arc<Task>) -> Self {
        JoinHandle { join, task }
    }

    /// Waits until the task is over, on this thread.
    ///
    /// Inside a task it keeps a libset meanwhile: better to await the handle there.
    ///
    /// # Errors
    ///
    /// [`JoinError`] if there is no result.
    ///
    /// # Examples
    ///
    /// ```
    /// let runtime = turquoise::Runtime::new(turquoise::Config::default())?;
    /// assert_eq!(runtime.spawn_fn(|| 6 * 7).join().unwrap(), 42);
    /// # Ok::<(), turquoise::Error>(())
    /// ```
    pub fn join(self) -> Result<T, JoinError> {
        parking::block_on(self, None).unwrap_or(Err(JoinError::Cancelled))
    }

    /// Waits for at most `limit` until the task is over; None: it is not. It goes on then, unless it is cancelled.
    ///
    /// In a task: `tokio::time::timeout(limit, handle)`.
    ///
    /// # Panics
    ///
    /// If the result was taken before.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let runtime = turquoise::Runtime::new(turquoise::Config::default())?;
    /// let mut endless = runtime.spawn_fn(|| loop { turquoise::yield_now() });
    /// assert!(endless.join_timeout(Duration::from_millis(5)).is_none());
    /// endless.cancel();
    /// assert!(endless.join().is_err());
    /// # Ok::<(), turquoise::Error>(())
    /// ```
    pub fn join_timeout(&mut self, limit: Duration) -> Option<Result<T, JoinError>> {
        parking::block_on(self, Instant::now().checked_add(limit))
    }

    /// Cancels the task once it waits for something, or calls [`yield_now`](crate::yield_now).
    ///
    /// The future is dropped then, or the closure unwound, inside a function: destructors run. If it comes to its end before
    /// that, there is a result all the same.
    pub fn cancel(&self) {
        self.task.cancel();
    }

    /// Cancels the task, and stops it where it is if its quantum is over before it waits for something.
    ///
    /// What it has on its stack then is leaked, and locks that it holds stay taken: for tasks that are known to hold
    /// none that matter, or where nothing else helps.
    pub fn abandon(&self) {
        self.task.abandon();
    }

    /// Is the task over? Then joining does not wait.
    pub fn is_finished(&self) -> bool {
        self.join.0.with(|state| state.outcome.is_some())
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut waker = Some(Arc::new(context.waker().clone()));
        let outcome = self.join.0.with(|state| {
            assert!(!state.is_detached, "a JoinHandle is polled after it was ready");
            std::mem::swap(&mut state.waker, &mut waker);
            let outcome = state.outcome.take();
            state.is_detached = outcome.is_some();
            outcome
        });
        // The one before, dropped without the lock.
        drop(waker);
        outcome.map_or(Poll::Pending, Poll::Ready)
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        let unwanted = self.join.0.with(|state| {
            state.is_detached = true;
            (state.outcome.take(), state.waker.take())
        });
        drop(unwanted);
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("JoinHandle").field("is_finished", &self.is_finished()).finish()
    }
}
