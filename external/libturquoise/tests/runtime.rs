//! What the runtime promises: turns, outcomes, cancellation, its end.

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Wake, Waker};
use std::time::Duration;
use support::{all_finish, compute, compute_for_ever, runtime, watched};
use turquoise::{Config, JoinError, JoinHandle, Runtime, spawn, spawn_fn, yield_now};

const LONG: Duration = Duration::from_secs(100);

/// Lets tasks compute until that is enough; how many steps each has done, and who did each step, where that changes.
fn turns(weights: &[u32], threads: usize, is_enough: fn(&[usize], &[usize]) -> bool) -> (Vec<usize>, Vec<usize>) {
    let runtime = runtime(threads, Duration::from_micros(500));
    let progress = Arc::new(Mutex::new((vec![0; weights.len()], Vec::new())));
    // All or none: while some of them are being spawned, others do not get ahead.
    let begun = Arc::new(AtomicBool::new(false));
    let (sender, over) = mpsc::channel();
    for (index, weight) in weights.iter().enumerate() {
        let (progress, begun, sender) = (Arc::clone(&progress), Arc::clone(&begun), sender.clone());
        drop(runtime.handle().spawn_weighted(*weight, async move {
            while !begun.load(Relaxed) {
                yield_now();
            }
            loop {
                compute(Duration::from_micros(20));
                let is_over = inger::no_preempt(|| {
                    let (counts, order) = &mut *progress.lock().unwrap();
                    counts[index] += 1;
                    if order.last() != Some(&index) {
                        order.push(index);
                    }
                    is_enough(counts, order)
                });
                if is_over {
                    sender.send(()).unwrap();
                    std::future::pending::<()>().await;
                }
            }
        }));
    }
    begun.store(true, Relaxed);
    over.recv().unwrap();
    assert_eq!(runtime.shutdown(LONG), 0);
    progress.lock().unwrap().clone()
}

/// Before one has had a few turns, each other has had one, however long they last.
#[test]
fn tasks_that_compute_take_turns() {
    const TASKS: usize = 5;
    // With two threads, two at a time change places with each step.
    for (threads, window) in [(1, 3 * TASKS), (2, 500)] {
        let (_, order) = turns(&[1; TASKS], threads, |_, order| order.len() >= 1500);
        for turns in order.chunks_exact(window) {
            assert!((0..TASKS).all(|task| turns.contains(&task)), "{threads} threads: {turns:?}");
        }
    }
}

#[test]
fn weights() {
    let (counts, _) = turns(&[1, 8, 1], 1, |counts, _| counts.iter().all(|count| *count >= 2000));
    assert!(2 * counts[0] < counts[1] && 2 * counts[2] < counts[1], "{counts:?}");
}

/// One that was spawned later is done while the others compute.
#[test]
fn short_ones_pass_long_ones() {
    let runtime = runtime(1, Duration::from_micros(200));
    let long: Vec<_> = (0..10).map(|_| runtime.spawn_fn(compute_for_ever)).collect();
    for number in 0..50 {
        assert_eq!(runtime.spawn(async move { number }).join().unwrap(), number);
    }
    assert!(runtime.stats().preemptions > 5 && long.iter().all(|task| !task.is_finished()));
    assert_eq!(runtime.shutdown(Duration::ZERO), 10);
}

/// In a system call too.
#[test]
fn what_blocks_gives_way() {
    watched(|| {
        let runtime = runtime(1, Duration::from_millis(1));
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let reads = runtime.spawn_fn(move || {
            let mut byte = [0];
            ours.read_exact(&mut byte).unwrap();
            byte[0]
        });
        while runtime.stats().preemptions == 0 {
            std::thread::yield_now();
        }
        runtime.spawn_fn(move || theirs.write_all(&[7]).unwrap()).join().unwrap();
        assert_eq!(reads.join().unwrap(), 7);
    });
}

/// Of a worker that is busy, others take what it has taken for later.
#[test]
fn stealing() {
    watched(|| {
        let runtime = runtime(2, LONG);
        let (release, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let occupy = || {
            let gate = Arc::clone(&gate);
            runtime.spawn_fn(move || inger::no_preempt(|| gate.lock().unwrap().recv().unwrap()))
        };
        // Both are busy: with the lock, and waiting for it.
        let busy = [occupy(), occupy()];
        while runtime.stats().started < 2 {
            std::thread::yield_now();
        }
        // The first to be free takes half of these, and keeps itself busy with one of them until all the others are done.
        const COUNT: usize = 64;
        let done = Arc::new(AtomicUsize::new(0));
        let waits = {
            let done = Arc::clone(&done);
            runtime.spawn_fn(move || {
                while done.load(Relaxed) < COUNT {
                    std::hint::spin_loop();
                }
            })
        };
        for _ in 0..COUNT {
            let done = Arc::clone(&done);
            drop(runtime.spawn_fn(move || {
                done.fetch_add(1, Relaxed);
            }));
        }
        release.send(()).unwrap();
        release.send(()).unwrap();
        busy.into_iter().for_each(|task| task.join().unwrap());
        waits.join().unwrap();
        assert!(runtime.stats().stolen > 0, "{runtime:?}");
        assert_eq!(runtime.stats().preemptions, 0);
    });
}

#[test]
fn twenty_thousand_tasks() {
    watched(|| {
        const COUNT: usize = 20_000;
        let runtime = runtime(2, Duration::from_micros(200));
        let semaphore = Arc::new(tokio::sync::Semaphore::new(0));
        let tasks: Vec<_> = (0..COUNT)
            .map(|number| {
                let semaphore = Arc::clone(&semaphore);
                runtime.spawn(async move {
                    semaphore.acquire().await.unwrap().forget();
                    (0..number % 1000).map(std::hint::black_box).sum::<usize>()
                })
            })
            .collect();
        while runtime.stats().polls < COUNT as u64 || runtime.stats().started > 0 {
            std::thread::yield_now();
        }
        let stats = runtime.stats();
        assert_eq!((stats.tasks, stats.started), (COUNT, 0), "those that wait hold no libset");
        let libsets = inger::stats().libsets_made;
        semaphore.add_permits(COUNT);
        let sum: usize = runtime.block_on(async {
            let mut sum = 0;
            for task in tasks {
                sum += task.await.unwrap();
            }
            sum
        });
        let expected: usize = (0..COUNT).map(|number| (0..number % 1000).sum::<usize>()).sum();
        assert_eq!(sum, expected);
        all_finish(&runtime);
        assert!(libsets < 1000, "{libsets} libsets were made");
    });
}

#[test]
fn tasks_spawn_tasks_and_wait_for_them() {
    watched(|| {
        fn fibonacci(number: u64) -> std::pin::Pin<Box<dyn Future<Output = u64> + Send>> {
            Box::pin(async move {
                if number < 2 {
                    return number;
                }
                let other = spawn(fibonacci(number - 1));
                fibonacci(number - 2).await + other.await.unwrap()
            })
        }
        let runtime = runtime(2, Duration::from_micros(20));
        assert_eq!(runtime.block_on(fibonacci(16)), 987);
        assert_eq!(runtime.spawn(fibonacci(16)).join().unwrap(), 987);
        // As a thread would, with a libset all the time.
        let nested = runtime.spawn_fn(|| spawn_fn(|| spawn_fn(|| 7).join().unwrap()).join().unwrap());
        assert_eq!(nested.join().unwrap(), 7);
    });
}

// ---------------------------------------------------------------------------------- outcomes

struct OnDrop(Arc<AtomicUsize>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

fn counter() -> (Arc<AtomicUsize>, impl Fn() -> OnDrop) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    (count, move || OnDrop(Arc::clone(&counted)))
}

#[test]
fn a_panic_reaches_who_joins() {
    let runtime = runtime(1, Duration::from_millis(1));
    let (dropped, guard) = counter();
    let guard = guard();
    let panics = runtime.spawn(async move {
        let _guard = guard;
        tokio::time::sleep(Duration::from_millis(1)).await;
        compute(Duration::from_millis(3));
        std::panic::resume_unwind(Box::new(7))
    });
    let error: JoinError = panics.join().map(|(): ()| ()).unwrap_err();
    assert_eq!(dropped.load(Relaxed), 1);
    let panic = catch_unwind(AssertUnwindSafe(|| error.resume_panic())).unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&7));
    // And the worker goes on.
    assert_eq!(runtime.spawn_fn(|| 1).join().unwrap(), 1);
}

#[test]
fn a_task_that_ends_its_thread() {
    let runtime = runtime(1, Duration::from_millis(1));
    let ends = runtime.spawn_fn(support::end_thread);
    assert!(matches!(ends.join(), Err(JoinError::Failed(inger::Error::Ended))));
    assert_eq!(runtime.spawn_fn(|| 1).join().unwrap(), 1);
    all_finish(&runtime);
    assert_eq!(runtime.stats().started, 0);
}

/// A result that nobody asks for is dropped inside, and one whose destructor panics disturbs nobody.
#[test]
fn detached() {
    watched(|| {
        struct Panics(#[expect(dead_code, reason = "it is dropped")] OnDrop);
        impl Drop for Panics {
            fn drop(&mut self) {
                std::panic::resume_unwind(Box::new("as expected"));
            }
        }
        let runtime = runtime(1, Duration::from_millis(1));
        let (dropped, guard) = counter();
        let (result, panics) = (guard(), Panics(guard()));
        // Not before their handles are dropped.
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let (open, opened) = (Arc::clone(&gate), Arc::clone(&gate));
        drop(runtime.spawn(async move {
            let _permit = open.acquire().await;
            result
        }));
        drop(runtime.spawn(async move {
            let _permit = opened.acquire().await;
            panics
        }));
        gate.add_permits(2);
        all_finish(&runtime);
        assert_eq!(dropped.load(Relaxed), 2);
    });
}

/// Its first wake panics, or is endless.
struct BadWaker {
    is_endless: bool,
    wakes: AtomicUsize,
}

impl BadWaker {
    /// In whose name `task` is polled once, while it is not ready.
    fn of<T>(task: &mut JoinHandle<T>, is_endless: bool) -> Arc<Self> {
        let bad = Arc::new(BadWaker { is_endless, wakes: AtomicUsize::new(0) });
        let waker = Waker::from(Arc::clone(&bad));
        assert!(Pin::new(task).poll(&mut Context::from_waker(&waker)).is_pending());
        bad
    }

    fn wait(&self, wakes: usize) {
        while self.wakes.load(Relaxed) < wakes {
            std::thread::yield_now();
        }
    }
}

impl Wake for BadWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.wakes.fetch_add(1, Relaxed) == 0 {
            if self.is_endless {
                compute_for_ever();
            }
            resume_unwind(Box::new("as expected"));
        }
    }
}

/// Wakers and what a panic has with it are a program's: if they panic, the worker goes on.
#[test]
fn what_panics_when_a_task_is_over() {
    watched(|| {
        struct Panics;
        impl Drop for Panics {
            fn drop(&mut self) {
                resume_unwind(Box::new("as expected"));
            }
        }
        let runtime = runtime(1, LONG);
        let mut waits = runtime.spawn(std::future::pending::<()>());
        let waker = BadWaker::of(&mut waits, false);
        waits.cancel();
        waker.wait(1);
        assert!(matches!(waits.join(), Err(JoinError::Cancelled)));
        // Abandoned, it has panicked before it was stopped.
        let (begun, is_told) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (begins, tells) = (Arc::clone(&begun), Arc::clone(&is_told));
        let panics = runtime.spawn_fn(move || {
            begins.store(true, Relaxed);
            while !tells.load(Relaxed) {
                std::hint::spin_loop();
            }
            resume_unwind(Box::new(Panics));
        });
        while !begun.load(Relaxed) {
            std::thread::yield_now();
        }
        panics.abandon();
        is_told.store(true, Relaxed);
        assert!(matches!(panics.join(), Err::<(), _>(JoinError::Cancelled)));
        assert_eq!(runtime.spawn_fn(|| 1).join().unwrap(), 1);
    });
}

/// A task that is stopped for good while it wakes who waits for it: he is woken all the same.
#[test]
fn abandoned_while_it_wakes() {
    watched(|| {
        let runtime = runtime(1, Duration::from_micros(100));
        // With a result.
        let (open, gate) = tokio::sync::oneshot::channel();
        let mut ends = runtime.spawn(gate);
        let waker = BadWaker::of(&mut ends, true);
        open.send(7).unwrap();
        waker.wait(1);
        ends.abandon();
        waker.wait(2);
        assert_eq!(ends.join().unwrap(), Ok(7));
        all_finish(&runtime);
        assert_eq!(runtime.stats().abandoned, 1);
        // Without: it is stopped twice, and counts once.
        let mut endless = runtime.spawn_fn(compute_for_ever);
        let waker = BadWaker::of(&mut endless, true);
        while runtime.stats().started == 0 {
            std::thread::yield_now();
        }
        endless.abandon();
        waker.wait(2);
        assert!(matches!(endless.join(), Err(JoinError::Cancelled)));
        all_finish(&runtime);
        assert_eq!(runtime.stats().abandoned, 2);
    });
}

#[test]
fn timeouts() {
    let runtime = runtime(1, Duration::from_millis(1));
    let (release, gate) = tokio::sync::oneshot::channel();
    let mut task = runtime.spawn(gate);
    assert!(task.join_timeout(Duration::from_millis(5)).is_none());
    release.send(7).unwrap();
    assert_eq!(task.join_timeout(LONG).unwrap().unwrap(), Ok(7));
    runtime.block_on(async {
        let endless = spawn_fn(compute_for_ever);
        assert!(tokio::time::timeout(Duration::from_millis(5), endless).await.is_err());
    });
    assert_eq!(runtime.shutdown(Duration::ZERO), 1);
}

// ---------------------------------------------------------------------------------- cancellation

#[test]
fn cancelled_while_it_waits() {
    let runtime = runtime(1, Duration::from_millis(1));
    let (dropped, guard) = counter();
    for _ in 0..100 {
        let guard = guard();
        let waits = runtime.spawn(async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        });
        waits.cancel();
        assert!(matches!(waits.join(), Err(JoinError::Cancelled)));
    }
    assert_eq!(dropped.load(Relaxed), 100);
}

#[test]
fn cancelled_while_it_computes() {
    watched(|| {
        let runtime = runtime(1, Duration::from_micros(100));
        let (dropped, guard) = counter();
        let (ours, theirs) = (guard(), guard());
        let begun = Arc::new(AtomicBool::new(false));
        let wait = || {
            while !begun.swap(false, Relaxed) {
                std::thread::yield_now();
            }
        };
        // It comes to its next wait.
        let begins = Arc::clone(&begun);
        let computes = runtime.spawn(async move {
            let _guard = ours;
            begins.store(true, Relaxed);
            compute(Duration::from_millis(5));
            std::future::pending::<()>().await;
        });
        wait();
        computes.cancel();
        assert!(matches!(computes.join(), Err(JoinError::Cancelled)));
        // It yields.
        let begins = Arc::clone(&begun);
        let yields = runtime.spawn_fn(move || {
            let _guard = theirs;
            begins.store(true, Relaxed);
            loop {
                yield_now();
            }
        });
        wait();
        yields.cancel();
        assert!(matches!(yields.join(), Err::<(), _>(JoinError::Cancelled)));
        assert_eq!(dropped.load(Relaxed), 2);
        // It does neither.
        let begins = Arc::clone(&begun);
        let kept = guard();
        let mut endless = runtime.spawn_fn(move || {
            let _kept = kept;
            begins.store(true, Relaxed);
            compute_for_ever();
        });
        wait();
        endless.cancel();
        assert!(endless.join_timeout(Duration::from_millis(5)).is_none());
        endless.abandon();
        assert!(matches!(endless.join(), Err(JoinError::Cancelled)));
        all_finish(&runtime);
        assert_eq!((dropped.load(Relaxed), runtime.stats().started), (2, 0));
        // One that came to its end all the same.
        let ends = runtime.spawn_fn(|| compute(Duration::from_millis(1)));
        ends.cancel();
        let _ = ends.join();
    });
}

// ---------------------------------------------------------------------------------- the end

#[test]
fn shutdown_runs_destructors() {
    watched(|| {
        const COUNT: usize = 300;
        for threads in [1, 2] {
            let runtime = runtime(threads, Duration::from_micros(100));
            let (dropped, guard) = counter();
            let (sender, receiver) = mpsc::channel();
            for number in 0..COUNT {
                let (guard, begins) = (guard(), sender.clone());
                let begin = move || {
                    begins.send(()).unwrap();
                    guard
                };
                drop(match number % 3 {
                    0 => runtime.spawn(async {
                        let _guard = begin();
                        std::future::pending::<()>().await;
                    }),
                    1 => runtime.spawn(async {
                        let _guard = begin();
                        loop {
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                    }),
                    _ => runtime.spawn_fn(|| {
                        let guard = begin();
                        while Arc::strong_count(&guard.0) > 0 {
                            compute(Duration::from_micros(50));
                            yield_now();
                        }
                    }),
                });
            }
            (0..COUNT).for_each(|_| receiver.recv().unwrap());
            assert_eq!(runtime.shutdown(LONG), 0);
            assert_eq!(dropped.load(Relaxed), COUNT);
        }
    });
}

#[test]
fn shutdown_stops_what_does_not_end() {
    watched(|| {
        let runtime = runtime(2, Duration::from_micros(100));
        let handle = runtime.handle();
        let (sender, receiver) = mpsc::channel();
        let endless: Vec<_> = (0..8)
            .map(|_| {
                let sender = sender.clone();
                runtime.spawn_fn(move || {
                    sender.send(()).unwrap();
                    compute_for_ever();
                })
            })
            .collect();
        (0..8).for_each(|_| receiver.recv().unwrap());
        let waits = runtime.spawn(std::future::pending::<()>());
        assert_eq!(runtime.shutdown(Duration::from_millis(10)), 8);
        for task in endless {
            assert!(matches!(task.join(), Err(JoinError::Cancelled)));
        }
        assert!(matches!(waits.join(), Err(JoinError::Cancelled)));
        let (dropped, guard) = counter();
        let guard = guard();
        assert!(matches!(handle.spawn_fn(move || drop(guard)).join(), Err(JoinError::Cancelled)));
        assert_eq!(dropped.load(Relaxed), 1);
    });
}

#[test]
fn dropped_inside_one_of_its_tasks() {
    watched(|| {
        let runtime = runtime(2, Duration::from_millis(1));
        let handle = runtime.handle();
        let (sender, receiver) = mpsc::channel();
        let task = handle.spawn(async move {
            drop(runtime);
            sender.send(()).unwrap();
        });
        receiver.recv().unwrap();
        let _ = task.join();
    });
}

/// Such a task runs on a worker, which has to go on for the runtime to end.
#[test]
fn dropped_inside_a_task_of_tokio() {
    watched(|| {
        for threads in [1, 2] {
            let runtime = runtime(threads, Duration::from_millis(1));
            let waits = runtime.spawn(std::future::pending::<()>());
            let (dropped, guard) = counter();
            let (handle, guard) = (runtime.handle(), guard());
            let outer = handle.spawn(async {
                drop(tokio::spawn(async move {
                    let _guard = guard;
                    drop(runtime);
                    std::future::pending::<()>().await;
                }));
            });
            let _ = outer.join();
            assert!(matches!(waits.join(), Err(JoinError::Cancelled)));
            // The last worker drops it with tokio's runtime.
            while dropped.load(Relaxed) == 0 {
                std::thread::yield_now();
            }
        }
    });
}

/// Who has nothing to do sleeps.
#[test]
fn idle_workers_sleep() {
    let runtime = runtime(2, Duration::from_millis(1));
    runtime.spawn(async { tokio::time::sleep(Duration::from_millis(1)).await }).join().unwrap();
    all_finish(&runtime);
    std::thread::sleep(Duration::from_millis(20));
    let parked = runtime.stats().parked;
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(runtime.stats().parked, parked);
    assert!(parked < 20, "{parked}");
}

#[test]
fn configurations() {
    let config = Config { threads: 0, quantum: Duration::ZERO, max_started: 0, ..Config::default() };
    let runtime = Runtime::new(config).unwrap();
    assert_eq!(runtime.spawn(async { 1 }).join().unwrap(), 1);
    assert!(catch_unwind(|| drop(spawn(async {}))).is_err(), "there is no current runtime here");
    yield_now();
}
