//! Preemptible functions as futures, under the executors of `futures` and of tokio.

mod support;

use futures::executor::block_on;
use futures::future::{join, join_all};
use inger::future::{PreemptiveFuture, poll_fn, poll_fns, preemptive, unpreempted};
use inger::{Error, pause};
use std::future::poll_fn as poll_context;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use support::{compute, compute_for_ever, slots};
use tokio::runtime::{Builder, Runtime};

const QUANTUM: Duration = Duration::from_micros(100);

/// Counts how often it was used.
#[derive(Default)]
struct CountingWaker(AtomicUsize);

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

fn waker() -> (Arc<CountingWaker>, Waker) {
    let counting = Arc::new(CountingWaker::default());
    (Arc::clone(&counting), counting.into())
}

/// Polls until the future is done, or waits and was not woken.
fn poll_while_woken<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    let (counting, waker) = waker();
    loop {
        let poll = Pin::new(&mut *future).poll(&mut Context::from_waker(&waker));
        if poll.is_ready() || counting.0.swap(0, Relaxed) == 0 {
            return poll;
        }
    }
}

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

fn two_threads() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap()
}

#[test]
fn a_timeout_wakes() {
    let _slots = slots(1);
    let mut future = PreemptiveFuture::new(|| compute(Duration::from_millis(3)), QUANTUM);
    let (counting, waker) = waker();
    let mut polls = 0;
    while Pin::new(&mut future).poll(&mut Context::from_waker(&waker)).is_pending() {
        polls += 1;
        assert_eq!(counting.0.load(Relaxed), polls);
    }
    assert!(polls > 1);
    assert_eq!(counting.0.load(Relaxed), polls);
}

#[test]
fn a_pause_of_a_plain_function_wakes() {
    let _slots = slots(1);
    let mut future = PreemptiveFuture::new(|| (0..3).for_each(|_| pause()), Duration::MAX);
    let (counting, waker) = waker();
    for polls in 1..=3 {
        assert!(Pin::new(&mut future).poll(&mut Context::from_waker(&waker)).is_pending());
        assert_eq!(counting.0.load(Relaxed), polls);
    }
    assert_eq!(poll_while_woken(&mut future), Poll::Ready(Ok(())));
}

#[test]
fn a_yield_leaves_waking_to_what_it_waits_for() {
    let _slots = slots(1);
    let ready = AtomicUsize::new(0);
    let step = || if ready.load(Relaxed) == 2 { Poll::Ready("done") } else { Poll::Pending };
    let mut future = poll_fn(step, u64::MAX);
    for number in 0..=2 {
        let poll = poll_while_woken(&mut future);
        assert_eq!(poll, if number == 2 { Poll::Ready(Ok("done")) } else { Poll::Pending });
        ready.fetch_add(1, Relaxed);
    }
}

/// A future that is woken in one quantum and finds in a later one that it has to wait, is polled again: the task has
/// heard of it only when it would have been polled anyway.
#[test]
fn a_wake_up_between_quanta_is_kept() {
    let _slots = slots(2);
    let mut is_woken = false;
    let future = poll_context(|context| {
        if is_woken {
            return Poll::Ready(());
        }
        is_woken = true;
        context.waker().wake_by_ref();
        compute(Duration::from_millis(3));
        Poll::Pending
    });
    assert_eq!(poll_while_woken(&mut preemptive(future, QUANTUM)), Poll::Ready(Ok(())));

    // A plain function has nothing that would tell.
    let mut calls = 0;
    let fun = || {
        compute(Duration::from_millis(3));
        calls += 1;
        if calls == 3 { Poll::Ready(()) } else { Poll::Pending }
    };
    assert_eq!(poll_while_woken(&mut poll_fn(fun, 100)), Poll::Ready(Ok(())));
}

/// A future that is preempted without having been woken waits, whatever it has computed before.
#[test]
fn preemption_alone_does_not_repeat_a_poll() {
    let _slots = slots(1);
    let polls = AtomicUsize::new(0);
    let future = poll_context(|_| {
        polls.fetch_add(1, Relaxed);
        compute(Duration::from_millis(3));
        Poll::<()>::Pending
    });
    let mut future = preemptive(future, QUANTUM);
    assert!(poll_while_woken(&mut future).is_pending());
    assert_eq!(polls.load(Relaxed), 1);
}

/// What `poll` returned last is called inside, once, before each `fun`; outside and inside are told apart by their
/// thread-locals.
#[test]
fn something_to_carry_inside() {
    thread_local!(static PLACE: std::cell::Cell<usize> = const { std::cell::Cell::new(0) });
    let _slots = slots(1);
    PLACE.set(1);
    let (runs, carried) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let carry = || {
        let (place, run) = (PLACE.get(), runs.fetch_add(1, Relaxed) + 1);
        let carried = &carried;
        move || {
            PLACE.set(place * 1000 + run);
            carried.store(run, Relaxed);
        }
    };
    let mut rounds = 0;
    let fun = || {
        let run = carried.load(Relaxed);
        // Longer than a quantum: there are runs in between.
        compute(Duration::from_millis(3));
        assert!(runs.load(Relaxed) > run);
        assert_eq!((PLACE.get(), carried.load(Relaxed)), (1000 + run, run));
        rounds += 1;
        if rounds == 3 { Poll::Ready(run) } else { Poll::Pending }
    };
    let mut future = poll_fns(carry, fun, 100);
    let Poll::Ready(Ok(last)) = poll_while_woken(&mut future) else { panic!("it is not done") };
    assert!((3..runs.load(Relaxed)).contains(&last));
    assert_eq!(PLACE.get(), 1);
}

/// Two computations on one thread, each in many turns.
#[test]
fn computations_take_turns() {
    let _slots = slots(2);
    let turns = Mutex::new(Vec::new());
    let work = |number: usize| {
        let turns = &turns;
        move || {
            for _ in 0..50 {
                compute(Duration::from_micros(100));
                inger::no_preempt(|| turns.lock().unwrap().push(number));
            }
            number
        }
    };
    let (zero, one) = (PreemptiveFuture::new(work(0), QUANTUM), PreemptiveFuture::new(work(1), QUANTUM));
    assert_eq!(block_on(join(zero, one)), (Ok(0), Ok(1)));
    let turns = turns.into_inner().unwrap();
    assert_eq!(turns.len(), 100);
    assert!(turns.windows(2).filter(|pair| pair[0] != pair[1]).count() > 5, "{turns:?}");
}

/// A task that computes does not keep another one on the same thread from its work.
#[test]
fn on_one_thread_of_tokio() {
    let _slots = slots(2);
    one_thread().block_on(async {
        let ticks = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&ticks);
        let ticker = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                ticks.fetch_add(1, Relaxed);
            }
        });
        let until_ten = move || {
            while seen.load(Relaxed) < 10 {
                std::hint::spin_loop();
            }
        };
        tokio::spawn(PreemptiveFuture::new(until_ten, QUANTUM)).await.unwrap().unwrap();
        ticker.abort();
    });
}

/// Futures that wait for others and for time, between computations, and go from one thread to the other.
#[test]
fn on_two_threads_of_tokio() {
    let _slots = slots(8);
    two_threads().block_on(async {
        for _ in 0..20 {
            let tasks = (0..4_usize).map(|number| {
                let (sender, receiver) = tokio::sync::oneshot::channel();
                let receives = preemptive(
                    async move {
                        let mut sum = unpreempted(receiver).await.unwrap();
                        for _ in 0..5 {
                            compute(Duration::from_micros(200));
                            unpreempted(tokio::task::yield_now()).await;
                            sum += 1;
                        }
                        sum
                    },
                    QUANTUM,
                );
                let sends = preemptive(
                    async move {
                        compute(Duration::from_micros(500));
                        inger::no_preempt(|| sender.send(number)).unwrap();
                    },
                    QUANTUM,
                );
                (tokio::spawn(receives), tokio::spawn(sends))
            });
            for (number, (receives, sends)) in tasks.collect::<Vec<_>>().into_iter().enumerate() {
                assert_eq!(receives.await.unwrap(), Ok(number + 5));
                sends.await.unwrap().unwrap();
            }
        }
    });
}

#[test]
fn a_time_limit_ends_a_loop() {
    let _slots = slots(1);
    one_thread().block_on(async {
        let limit = Duration::from_millis(5);
        let endless = PreemptiveFuture::new(compute_for_ever, QUANTUM);
        assert!(tokio::time::timeout(limit, endless).await.is_err());
        let ends = PreemptiveFuture::new(|| 7, QUANTUM);
        assert_eq!(tokio::time::timeout(Duration::from_secs(100), ends).await.unwrap(), Ok(7));
    });
}

/// Dropped while it waits it runs its destructors.
#[test]
fn dropped_while_it_waits() {
    let _slots = slots(1);
    let kept = Arc::new(());
    for _ in 0..100 {
        let inside = Arc::clone(&kept);
        let mut future = preemptive(
            async move {
                let _inside = inside;
                std::future::pending::<()>().await;
            },
            QUANTUM,
        );
        assert!(poll_while_woken(&mut future).is_pending());
        assert_eq!(Arc::strong_count(&kept), 2);
        drop(future);
        assert_eq!(Arc::strong_count(&kept), 1);
    }
    // And before it starts.
    let inside = Arc::clone(&kept);
    drop(PreemptiveFuture::new(move || drop(inside), QUANTUM));
    assert_eq!(Arc::strong_count(&kept), 1);
}

/// A future that was polled for one task and finds itself in another one leaves the waker of that.
#[test]
fn the_last_task_is_woken() {
    struct ComputesAndWaits<'a> {
        left: Mutex<&'a mut Option<Waker>>,
        polls: &'a AtomicUsize,
    }
    impl Future for ComputesAndWaits<'_> {
        type Output = ();
        fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
            let waker = context.waker().clone();
            // Meanwhile the other task polls.
            compute(Duration::from_millis(5));
            self.polls.fetch_add(1, Relaxed);
            **self.left.lock().unwrap() = Some(waker);
            Poll::Pending
        }
    }
    let _slots = slots(1);
    let (mut left, polls) = (None, AtomicUsize::new(0));
    let future = ComputesAndWaits { left: Mutex::new(&mut left), polls: &polls };
    let mut future = preemptive(future, QUANTUM);
    let (first, first_waker) = waker();
    assert!(Pin::new(&mut future).poll(&mut Context::from_waker(&first_waker)).is_pending());
    assert_eq!((first.0.swap(0, Relaxed), polls.load(Relaxed)), (1, 0), "it was stopped while it computed");
    let (last, last_waker) = waker();
    while {
        assert!(Pin::new(&mut future).poll(&mut Context::from_waker(&last_waker)).is_pending());
        last.0.swap(0, Relaxed) != 0
    } {}
    assert_eq!(polls.load(Relaxed), 2, "once more, with the last task's waker");
    drop(future);
    left.unwrap().wake();
    assert_eq!((first.0.load(Relaxed), last.0.load(Relaxed)), (0, 1));
}

#[test]
fn a_panic_goes_on_in_the_task() {
    let _slots = slots(1);
    let panics = || std::panic::resume_unwind(Box::new(5));
    one_thread().block_on(async {
        let error = tokio::spawn(PreemptiveFuture::<()>::new(panics, QUANTUM)).await.unwrap_err();
        assert_eq!(*error.into_panic().downcast::<i32>().unwrap(), 5);
    });
}

#[test]
fn polled_after_its_end() {
    let _slots = slots(1);
    let mut future = pin!(PreemptiveFuture::new(|| 1, QUANTUM));
    assert_eq!(block_on(&mut future), Ok(1));
    assert!(catch_unwind(AssertUnwindSafe(|| block_on(&mut future))).is_err());
}

#[test]
fn an_error_is_the_output() {
    let _slots = slots(1);
    let ends_its_thread = || {
        // SAFETY: its frames hold nothing that needs to be dropped.
        unsafe { libc::pthread_exit(std::ptr::null_mut()) }
    };
    assert_eq!(block_on(PreemptiveFuture::<()>::new(ends_its_thread, QUANTUM)), Err(Error::Ended));
}

#[test]
fn many_in_turn() {
    let _slots = slots(8);
    for _ in 0..100 {
        let squares = (0..8_u64).map(|number| preemptive(async move { number * number }, QUANTUM));
        let squares: Result<Vec<_>, _> = block_on(join_all(squares)).into_iter().collect();
        assert_eq!(squares.unwrap().iter().sum::<u64>(), 140);
    }
}

/// With the feature `tokio`.
#[cfg(feature = "tokio")]
#[test]
fn the_runtime_is_known_inside() {
    let _slots = slots(1);
    for runtime in [one_thread(), two_threads()] {
        runtime.block_on(async {
            let work = async {
                let sleeps = unpreempted(async { tokio::time::sleep(Duration::from_millis(1)).await });
                sleeps.await;
                compute(Duration::from_millis(1));
                let spawned = inger::no_preempt(|| tokio::spawn(async { 7 }));
                unpreempted(spawned).await.unwrap()
            };
            assert_eq!(tokio::spawn(preemptive(work, QUANTUM)).await.unwrap(), Ok(7));
        });
    }
}
