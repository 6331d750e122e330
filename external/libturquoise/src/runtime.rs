//! What a program sees: the runtime, and who is in it.

use crate::driver::Driver;
use crate::join::{Join, JoinHandle};
use crate::parking;
use crate::scheduler::{Scheduler, Stats, Worker};
use crate::task::{self, Task};
use inger::Error;
use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How a [`Runtime`] is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Kernel threads that run tasks: at least 1. By default, as many as there are processors.
    pub threads: usize,
    /// How long a task runs before others have their turn; rounded down to whole microseconds, 1 at least. By default 1 ms.
    pub quantum: Duration,
    /// Most tasks that are being polled, or stopped in the middle of that, at a time: each has a libset and a stack. At least 1.
    /// By default, no limit but what the system grants.
    pub max_started: usize,
    /// How long dropping the runtime waits for tasks, as [`Runtime::shutdown`] does. By default a second.
    pub grace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            threads: thread::available_parallelism().map_or(1, usize::from),
            quantum: Duration::from_millis(1),
            max_started: usize::MAX,
            grace: Duration::from_secs(1),
        }
    }
}

/// An executor of preemptive tasks, with its kernel threads.
///
/// Dropping it shuts it down, with [`Config::grace`]; inside one of its own tasks, or one of its runtime of tokio's, without waiting.
pub struct Runtime {
    handle: Handle,
    workers: Vec<thread::JoinHandle<()>>,
    is_ended: bool,
}

/// Spawns tasks on a [`Runtime`], from anywhere.
#[derive(Clone)]
pub struct Handle(Arc<Scheduler>);

impl Runtime {
    /// Starts the kernel threads.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if this process cannot run preemptible functions; [`Error::TooManyLibsets`] if fewer than two are
    /// left, as it takes one for itself; [`Error::Os`].
    ///
    /// # Examples
    ///
    /// See [the crate](crate).
    pub fn new(config: Config) -> Result<Self, Error> {
        let failed = |operation| {
            move |error: std::io::Error| Error::Os { operation, errno: error.raw_os_error().unwrap_or_default() }
        };
        let config = Config { threads: config.threads.max(1), max_started: config.max_started.max(1), ..config };
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let tokio = tokio.map_err(failed("starting tokio"))?;
        let handle = tokio.handle().clone();
        let driver = Driver::start(tokio)?;
        // Tasks that never start would wait without a word.
        if let Err(error) = inger::launch(|| (), u64::MAX) {
            driver.end();
            return Err(error);
        }
        let (scheduler, queues) = Scheduler::new(config, handle, driver);
        let mut runtime = Runtime { handle: Handle(Arc::new(scheduler)), workers: Vec::new(), is_ended: false };
        for (index, queue) in queues.into_iter().enumerate() {
            let worker = Worker::new(Arc::clone(&runtime.handle.0), index, queue);
            let thread = thread::Builder::new().name(format!("turquoise-{index}")).spawn(move || worker.run());
            runtime.workers.push(thread.map_err(failed("starting a thread"))?);
        }
        Ok(runtime)
    }

    /// What spawns tasks here from elsewhere.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The same as [`Handle::spawn`].
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.handle.spawn(future)
    }

    /// The same as [`Handle::spawn_fn`].
    pub fn spawn_fn<T: Send + 'static>(&self, function: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        self.handle.spawn_fn(function)
    }

    /// Polls `future` on the calling thread until it is ready, while the workers run the tasks.
    ///
    /// It is not preempted, and may borrow. What it spawns with [`spawn`] goes to this runtime; tokio's sockets and timers work.
    ///
    /// # Examples
    ///
    /// ```
    /// let runtime = turquoise::Runtime::new(turquoise::Config::default())?;
    /// let words = ["one", "two"];
    /// let count = runtime.block_on(async { turquoise::spawn(async { 1 }).await.unwrap() + words.len() });
    /// assert_eq!(count, 3);
    /// # Ok::<(), turquoise::Error>(())
    /// ```
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let _entered = Entered::new(&self.handle.0, None);
        let _tokio = self.handle.0.tokio.enter();
        parking::block_on(future, None).expect("it waits for ever")
    }

    /// What this runtime has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.handle.0.stats()
    }

    /// Ends the runtime: cancels all tasks, as [`JoinHandle::cancel`] does, and waits until they are over. Those that still
    /// compute when `grace` is over are stopped where they are, as by [`JoinHandle::abandon`]. Returns how many these are.
    ///
    /// Tasks that destructors spawn meanwhile are cancelled before they start. A task that is in a call which cannot be
    /// interrupted is waited for.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let runtime = turquoise::Runtime::new(turquoise::Config::default())?;
    /// let sleeper = runtime.spawn(async { tokio::time::sleep(Duration::from_secs(100)).await });
    /// assert_eq!(runtime.shutdown(Duration::from_secs(10)), 0);
    /// assert!(sleeper.join().is_err());
    /// # Ok::<(), turquoise::Error>(())
    /// ```
    pub fn shutdown(mut self, grace: Duration) -> u64 {
        self.end(grace)
    }

    fn end(&mut self, grace: Duration) -> u64 {
        if std::mem::replace(&mut self.is_ended, true) {
            return 0;
        }
        let scheduler = &self.handle.0;
        let is_task = current(|context| Arc::ptr_eq(&context.scheduler, scheduler) && context.task.is_some());
        let is_inside = is_task == Some(true) || scheduler.is_driver();
        scheduler.close(thread::current());
        scheduler.unfinished().iter().for_each(Task::cancel);
        let abandoned = scheduler.stats().abandoned;
        if !is_inside {
            let end = Instant::now().checked_add(grace);
            while !scheduler.is_empty() {
                match end.map(|end| end.saturating_duration_since(Instant::now())) {
                    None => thread::park(),
                    Some(left) if !left.is_zero() => thread::park_timeout(left),
                    Some(_) => break,
                }
            }
            scheduler.unfinished().iter().for_each(Task::abandon);
            while !scheduler.is_empty() {
                thread::park();
            }
        }
        scheduler.end();
        if !is_inside {
            self.workers.drain(..).for_each(|worker| drop(worker.join()));
        }
        self.stats().abandoned - abandoned
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let grace = self.handle.0.config.grace;
        self.end(grace);
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.handle.fmt(formatter)
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Runtime").field("config", &self.0.config).field("stats", &self.0.stats()).finish()
    }
}

impl Handle {
    /// Runs `future` as a task.
    ///
    /// If the runtime is being shut down, the task is cancelled at once.
    ///
    /// # Examples
    ///
    /// ```
    /// let runtime = turquoise::Runtime::new(turquoise::Config::default())?;
    /// let answer = runtime.handle().spawn(async { 6 * 7 });
    /// assert_eq!(runtime.block_on(answer).unwrap(), 42);
    /// # Ok::<(), turquoise::Error>(())
    /// ```
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.spawn_weighted(1, future)
    }

    /// Runs a closure as a task: in one poll, with a libset all the time.
    ///
    /// # Examples
    ///
    /// See [`JoinHandle::join`].
    pub fn spawn_fn<T: Send + 'static>(&self, function: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        self.spawn(async { function() })
    }

    /// Runs `future` as a task whose quantum is `weight` times as long as others', at least once: among tasks that compute, it gets
    /// so many times as much.
    ///
    /// # Examples
    ///
    /// ```
    /// let runtime = turquoise::Runtime::new(turquoise::Config::default())?;
    /// let important = runtime.handle().spawn_weighted(4, async { (0..1_000_000_u64).sum::<u64>() });
    /// assert_eq!(important.join().unwrap(), 499_999_500_000);
    /// # Ok::<(), turquoise::Error>(())
    /// ```
    pub fn spawn_weighted<F>(&self, weight: u32, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let join = Arc::new(Join::new());
        let outcome = Arc::clone(&join);
        let work = Box::pin(async move {
            let output = future.await;
            outcome.finish(Ok(output));
        });
        let quantum_us = self.0.quantum_us.saturating_mul(weight.max(1).into());
        let failing: Arc<Join<F::Output>> = Arc::clone(&join);
        let task = Arc::new(Task::new(Arc::clone(&self.0), failing, work, quantum_us));
        if !self.0.adopt(&task) {
            task.refuse();
        }
        JoinHandle::new(join, task)
    }
}

// ---------------------------------------------------------------------------------- who is current

thread_local! {
    /// Inside a task, and in `block_on`. A function has its own thread-locals: this is never another task's.
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

#[derive(Clone)]
struct Current {
    scheduler: Arc<Scheduler>,
    task: Option<Arc<Task>>,
}

fn current<R>(look: impl FnOnce(&Current) -> R) -> Option<R> {
    CURRENT.with_borrow(|current| current.as_ref().map(look))
}

pub(crate) fn current_task() -> Option<Arc<Task>> {
    current(|current| current.task.clone()).flatten()
}

/// Until it is dropped, tasks are spawned here.
pub(crate) struct Entered(Option<Current>);

impl Entered {
    pub(crate) fn new(scheduler: &Arc<Scheduler>, task: Option<&Arc<Task>>) -> Self {
        let current = Current { scheduler: Arc::clone(scheduler), task: task.cloned() };
        Entered(CURRENT.replace(Some(current)))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        drop(CURRENT.replace(self.0.take()));
    }
}

fn handle() -> Handle {
    Handle(current(|current| Arc::clone(&current.scheduler)).expect("called in a task, or in Runtime::block_on"))
}

/// Runs `future` as a task of the runtime that the caller is in.
///
/// # Panics
///
/// If that is none: outside of tasks and [`Runtime::block_on`].
///
/// # Examples
///
/// See [`Runtime::block_on`].
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    handle().spawn(future)
}

/// Runs a closure as a task of the runtime that the caller is in.
///
/// # Panics
///
/// As [`spawn`].
///
/// # Examples
///
/// ```
/// let runtime = turquoise::Runtime::new(turquoise::Config::default())?;
/// let length = runtime.block_on(async { turquoise::spawn_fn(|| "text".len()).await.unwrap() });
/// assert_eq!(length, 4);
/// # Ok::<(), turquoise::Error>(())
/// ```
pub fn spawn_fn<T: Send + 'static>(function: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    handle().spawn_fn(function)
}

/// Lets other tasks have their turn, from a future or a closure.
///
/// Does not need an `await`: the task is stopped as if its quantum were over. Outside of tasks it is
/// [`std::thread::yield_now`].
///
/// # Cancellation
///
/// A task that is cancelled is unwound from here.
///
/// # Examples
///
/// See [`JoinHandle::join_timeout`].
pub fn yield_now() {
    task::yield_now();
}
