//! Preemptible functions as futures: computations that give way to other tasks without cooperating.
//!
//! Each poll of a [`PreemptiveFuture`] launches or resumes its function for one *quantum*. If that is over, the
//! future wakes its own task: it is ready to go on, after others had their turn. If the function has stopped by itself,
//! because what it waits for was not ready, it leaves waking to that. A wake-up that came between two quanta, while the
//! function was on its way to stopping, is not lost: it is then run once more.
//!
//! A function is started, and takes a libset, at the first poll. Dropping the future cancels it, as dropping a
//! [`Linger`] does: while it waits it is unwound, so that its destructors run.
//!
//! # Locks
//!
//! A lock that a stopped function holds stays taken, and other tasks of the same kernel thread may want it. That
//! includes those inside executors: what belongs to the executor (its timers, sockets, channels, `spawn`) is to be used
//! unpreempted: [`unpreempted`] does that for a future, [`no_preempt`] for a call. The waker that
//! [`preemptive`] hands on takes care of itself.
//!
//! # Thread-locals
//!
//! A function has its own, also those of the executable, in which executors keep which one of them is the current one.
//! With the feature `tokio`, the runtime that polls a [`PreemptiveFuture`] first is the current one inside, too. For
//! others [`poll_fns`] can carry something across.
//!
//! # Source
//!
//! The names are those of libinger 2020; section 5 of "Lightweight Preemptible Functions" (USENIX ATC 2020).

use crate::linger::budget_us;
use crate::{Error, Linger, launch, no_preempt, pause, resume};
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Release};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

/// A function that runs in quanta, and gives way to other tasks in between.
///
/// Its output is the function's result, or the error of [`launch`]. A panic of the function goes on in
/// whoever polls the future.
///
/// # Panics
///
/// When it is polled after it has completed.
///
/// # Cancellation
///
/// By dropping it, as by dropping a [`Linger`].
#[must_use = "futures do nothing unless they are polled"]
pub struct PreemptiveFuture<'a, T> {
    function: Function<'a, T>,
    quantum_us: u64,
    /// Called outside before each run.
    prepare: Option<Prepare<'a>>,
    when_paused: WhenPaused,
    /// It was stopped in the middle since it paused last.
    was_preempted: bool,
}

/// Who wakes the task of a function that has paused.
enum WhenPaused {
    /// We do: there is nobody else.
    Wake,
    /// What it waits for, unless a wake-up may have been taken for ours while the function was still running: one that
    /// comes between two quanta leaves no trace.
    WakeIfPreempted,
    /// What it waits for, and itself.
    Wait,
}

type Prepare<'a> = Box<dyn FnMut(&Waker) + Send + 'a>;

enum Function<'a, T> {
    Unstarted(Box<dyn FnOnce() -> T + Send + 'a>),
    Started(Linger<'a, T>),
    /// It has completed.
    Gone,
}

impl<'a, T: Send + 'a> PreemptiveFuture<'a, T> {
    /// A plain function, in quanta of `quantum`, rounded up to whole microseconds, 1 at least.
    ///
    /// If it calls [`pause`], it gives way to other tasks just the same.
    ///
    /// # Examples
    ///
    /// ```
    /// use inger::future::PreemptiveFuture;
    /// use std::time::Duration;
    ///
    /// let quantum = Duration::from_micros(100);
    /// let sums = (0..4).map(|start: u64| PreemptiveFuture::new(move || (start..1_000_000).sum::<u64>(), quantum));
    /// let sums: Vec<_> = futures::executor::block_on(futures::future::join_all(sums));
    /// assert_eq!(sums[1], Ok(499_999_500_000));
    /// ```
    pub fn new(function: impl FnOnce() -> T + Send + 'a, quantum: Duration) -> Self {
        PreemptiveFuture {
            function: Function::Unstarted(Box::new(function)),
            quantum_us: budget_us(quantum).max(1),
            prepare: None,
            when_paused: WhenPaused::Wake,
            was_preempted: false,
        }
    }

    fn run(&mut self) -> Result<Linger<'a, T>, Error> {
        match std::mem::replace(&mut self.function, Function::Gone) {
            Function::Unstarted(function) => launch(function, self.quantum_us),
            Function::Started(mut linger) => {
                resume(&mut linger, self.quantum_us)?;
                Ok(linger)
            }
            Function::Gone => panic!("a PreemptiveFuture is polled after it has completed"),
        }
    }
}

// Nothing in it is pinned: its function lies on a stack of its own.
impl<T> Unpin for PreemptiveFuture<'_, T> {}

impl<'a, T: Send + 'a> Future for PreemptiveFuture<'a, T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(prepare) = &mut self.prepare {
            prepare(context.waker());
        }
        let linger = self.run()?;
        let is_preempted = !linger.yielded();
        match linger {
            Linger::Completion(result) => Poll::Ready(Ok(result)),
            linger => {
                self.function = Function::Started(linger);
                let was_preempted = std::mem::replace(&mut self.was_preempted, is_preempted);
                let wakes = match self.when_paused {
                    WhenPaused::Wake => true,
                    WhenPaused::WakeIfPreempted => is_preempted || was_preempted,
                    WhenPaused::Wait => is_preempted,
                };
                if wakes {
                    context.waker().wake_by_ref();
                }
                Poll::Pending
            }
        }
    }
}

impl<T> std::fmt::Debug for PreemptiveFuture<'_, T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match &self.function {
            Function::Unstarted(_) => "Unstarted",
            Function::Started(_) => "Started",
            Function::Gone => "Completed",
        };
        formatter.debug_struct("PreemptiveFuture").field("function", &state).field("us", &self.quantum_us).finish()
    }
}

/// A future of what `fun` returns as [`Poll::Ready`], preempted after `us` microseconds of each poll.
///
/// `fun` is called at the first poll, and again at the first poll after each time that it has returned
/// [`Poll::Pending`]: it has to see to it that the task is woken. If it was preempted before it returned
/// [`Poll::Pending`], it is called again without that, since the wake-up may have come meanwhile: what computes for
/// longer than `us` before it finds that it has to wait is better a future under [`preemptive`].
///
/// # Examples
///
/// ```
/// use std::task::Poll;
///
/// let mut left = 3;
/// let countdown = inger::future::poll_fn(
///     || {
///         left -= 1;
///         if left == 0 { Poll::Ready("done") } else { Poll::Pending }
///     },
///     1_000,
/// );
/// let mut countdown = Box::pin(countdown);
/// futures::executor::block_on(async {
///     assert_eq!(futures::poll!(&mut countdown), Poll::Pending);
///     assert_eq!(futures::poll!(&mut countdown), Poll::Pending);
///     assert_eq!(futures::poll!(&mut countdown), Poll::Ready(Ok("done")));
/// });
/// ```
pub fn poll_fn<'a, T: Send + 'a>(fun: impl FnMut() -> Poll<T> + Send + 'a, us: u64) -> PreemptiveFuture<'a, T> {
    poll_fns(|| || (), fun, us)
}

/// The same as [`poll_fn`], with something to carry inside.
///
/// Before each run `poll` is called outside, by whoever polls the future. What it returned last is called inside before
/// `fun` is; a function that was stopped in the middle of `fun` first goes on there.
///
/// # Examples
///
/// ```
/// use inger::future::poll_fns;
/// use std::cell::Cell;
/// use std::task::Poll;
///
/// thread_local!(static NAME: Cell<&'static str> = const { Cell::new("") });
///
/// NAME.set("of the caller");
/// let carry = || {
///     let name = NAME.get();
///     move || NAME.set(name)
/// };
/// let future = poll_fns(carry, || Poll::Ready(NAME.get()), 1_000);
/// assert_eq!(futures::executor::block_on(future), Ok("of the caller"));
/// ```
pub fn poll_fns<'a, T, I>(
    mut poll: impl FnMut() -> I + Send + 'a,
    mut fun: impl FnMut() -> Poll<T> + Send + 'a,
    us: u64,
) -> PreemptiveFuture<'a, T>
where
    T: Send + 'a,
    I: FnOnce() + Send + 'a,
{
    let outside = Arc::new(Mutex::new(None::<I>));
    let inside = Arc::clone(&outside);
    PreemptiveFuture {
        function: Function::Unstarted(Box::new(move || {
            loop {
                if let Some(first) = no_preempt(|| lock(&inside).take()) {
                    first();
                }
                if let Poll::Ready(result) = fun() {
                    return result;
                }
                pause();
            }
        })),
        quantum_us: us.max(1),
        prepare: Some(Box::new(move |_| {
            let first = poll();
            // What was not called is dropped without the lock.
            let _unused = lock(&outside).replace(first);
        })),
        when_paused: WhenPaused::WakeIfPreempted,
        was_preempted: false,
    }
}

/// Polls `future` inside a preemptible function, which is preempted after each `quantum`, rounded up to whole
/// microseconds, 1 at least.
///
/// `future` is polled when it was woken, as by any executor, and a poll that takes longer than the quantum gives way
/// to other tasks. What it awaits of an executor's is to be [`unpreempted`].
///
/// With the feature `tokio`, the current runtime at the first poll is entered inside.
///
/// # Examples
///
/// ```
/// use futures::channel::oneshot;
/// use inger::future::{preemptive, unpreempted};
/// use std::time::Duration;
///
/// let (sender, receiver) = oneshot::channel();
/// let work = preemptive(async { unpreempted(receiver).await.map(|limit| (0..limit).sum::<u64>()) }, Duration::from_millis(1));
/// let send = async { sender.send(1_000_000) };
/// let (sum, _) = futures::executor::block_on(futures::future::join(work, send));
/// assert_eq!(sum, Ok(Ok(499_999_500_000)));
/// ```
pub fn preemptive<'a, F>(future: F, quantum: Duration) -> PreemptiveFuture<'a, F::Output>
where
    F: Future + Send + 'a,
    F::Output: Send,
{
    let outside = Arc::new(Outside::default());
    let inside = Arc::clone(&outside);
    PreemptiveFuture {
        function: Function::Unstarted(Box::new(move || inside.run(future))),
        quantum_us: budget_us(quantum).max(1),
        prepare: Some(Box::new(move |waker| outside.set(waker))),
        when_paused: WhenPaused::Wait,
        was_preempted: false,
    }
}

/// What [`preemptive`] hands in. Inside, its locks are held unpreempted only.
#[derive(Default)]
struct Outside {
    waker: Mutex<Option<Arc<InnerWaker>>>,
    /// The future was woken since its last poll began. The task may have slept, and been polled, since then.
    is_woken: Arc<AtomicBool>,
    #[cfg(feature = "tokio")]
    runtime: std::sync::OnceLock<Option<tokio::runtime::Handle>>,
}

impl Outside {
    /// Context: outside, before each run.
    fn set(&self, waker: &Waker) {
        let mut current = lock(&self.waker);
        if !current.as_ref().is_some_and(|current| current.wakes_as(waker)) {
            let (waker, is_woken) = (Some(waker.clone()), Arc::clone(&self.is_woken));
            *current = Some(Arc::new(InnerWaker { waker, is_woken }));
        }
        #[cfg(feature = "tokio")]
        self.runtime.get_or_init(|| tokio::runtime::Handle::try_current().ok());
    }

    /// Context: inside.
    fn current(&self) -> Option<Arc<InnerWaker>> {
        no_preempt(|| lock(&self.waker).clone())
    }

    /// Context: inside.
    fn run<F: Future>(&self, future: F) -> F::Output {
        #[cfg(feature = "tokio")]
        let _runtime = self.runtime.get().and_then(Option::as_ref).map(tokio::runtime::Handle::enter);
        let mut future = pin!(future);
        loop {
            self.is_woken.store(false, Release);
            let current = self.current();
            let waker = current.clone().map_or_else(|| Waker::noop().clone(), Waker::from);
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return output;
            }
            // If another task has polled us meanwhile, the future is to know that one's waker. If it was woken, in
            // an earlier quantum, then that was all that the task heard of it: it hears it again. Neither can happen
            // between the look and the pause without another poll.
            no_preempt(|| {
                if self.current().as_ref().map(Arc::as_ptr) != current.as_ref().map(Arc::as_ptr) {
                    return;
                }
                if self.is_woken.swap(false, AcqRel) {
                    waker.wake_by_ref();
                }
                pause();
            });
        }
    }
}

/// The waker that a future inside a function sees: the executor's, used unpreempted, since that takes the executor's
/// locks.
struct InnerWaker {
    /// None: it has been dropped.
    waker: Option<Waker>,
    is_woken: Arc<AtomicBool>,
}

impl InnerWaker {
    fn wakes_as(&self, waker: &Waker) -> bool {
        self.waker.as_ref().is_some_and(|own| own.will_wake(waker))
    }
}

impl Wake for InnerWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_woken.store(true, Release);
        if let Some(waker) = &self.waker {
            no_preempt(|| waker.wake_by_ref());
        }
    }
}

impl Drop for InnerWaker {
    fn drop(&mut self) {
        let waker = self.waker.take();
        no_preempt(|| drop(waker));
    }
}

/// Polls a future without preemption: for what belongs to an executor, inside [`preemptive`].
///
/// Elsewhere it does nothing.
///
/// # Examples
///
/// See [`preemptive`].
pub fn unpreempted<F: Future>(future: F) -> Unpreempted<F> {
    Unpreempted { future: Some(Box::pin(future)) }
}

/// A future that is polled, and dropped, without preemption; made by [`unpreempted`].
#[must_use = "futures do nothing unless they are polled"]
#[derive(Debug)]
pub struct Unpreempted<F> {
    /// None: it has completed.
    future: Option<Pin<Box<F>>>,
}

impl<F: Future> Future for Unpreempted<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let future = self.future.as_mut().expect("an Unpreempted is polled after it has completed");
        let output = ready!(no_preempt(|| future.as_mut().poll(context)));
        let completed = self.future.take();
        no_preempt(|| drop(completed));
        Poll::Ready(output)
    }
}

impl<F> Drop for Unpreempted<F> {
    fn drop(&mut self) {
        let future = self.future.take();
        no_preempt(|| drop(future));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
