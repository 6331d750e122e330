//! Sockets, timers and locks of tokio's in tasks that are preempted all the time; wake-ups under preemption.

mod support;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::Context;
use std::time::{Duration, Instant};
use support::{all_finish, compute, compute_for_ever, end_thread, endless_waker, runtime, watched};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use turquoise::{Runtime, spawn, yield_now};

/// Shorter than what a task does between two waits.
const SHORT: Duration = Duration::from_micros(10);

#[test]
fn sockets() {
    watched(|| {
        const CONNECTIONS: u64 = 40;
        const MESSAGES: u64 = 50;
        let runtime = runtime(2, SHORT);
        let sum = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = spawn(async move {
                for _ in 0..CONNECTIONS {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    drop(spawn(async move {
                        while let Ok(number) = stream.read_u64().await {
                            compute(Duration::from_micros(number % 30));
                            stream.write_u64(number * number).await.unwrap();
                        }
                    }));
                }
            });
            let clients: Vec<_> = (0..CONNECTIONS)
                .map(|client| {
                    spawn(async move {
                        let mut stream = TcpStream::connect(address).await.unwrap();
                        for number in 0..MESSAGES {
                            stream.write_u64(client + number).await.unwrap();
                            assert_eq!(stream.read_u64().await.unwrap(), (client + number).pow(2));
                        }
                        MESSAGES
                    })
                })
                .collect();
            let mut sum = 0;
            for client in clients {
                sum += client.await.unwrap();
            }
            server.await.unwrap();
            sum
        });
        assert_eq!(sum, CONNECTIONS * MESSAGES);
        assert!(runtime.stats().preemptions > 500, "{runtime:?}");
    });
}

#[test]
fn timers() {
    watched(|| {
        let runtime = runtime(2, SHORT);
        let tasks: Vec<_> = (0..100_u64)
            .map(|number| {
                runtime.spawn(async move {
                    for round in 0..30 {
                        let (begin, time) = (Instant::now(), Duration::from_millis((number + round) % 4));
                        tokio::time::sleep(time).await;
                        assert!(begin.elapsed() >= time);
                        compute(Duration::from_micros(20));
                        let late = tokio::time::timeout(Duration::from_millis(1), std::future::pending::<()>());
                        assert!(late.await.is_err());
                    }
                })
            })
            .collect();
        tasks.into_iter().for_each(|task| task.join().unwrap());
        assert!(runtime.stats().preemptions > 100, "{runtime:?}");
    });
}

/// What tokio runs itself.
#[test]
fn tasks_and_threads_of_tokio() {
    watched(|| {
        let runtime = runtime(2, SHORT);
        let tasks: Vec<_> = (0..50_u64)
            .map(|number| {
                runtime.spawn(async move {
                    let square = tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        number * number
                    });
                    let blocks = tokio::task::spawn_blocking(move || {
                        std::thread::sleep(Duration::from_millis(1));
                        compute(SHORT);
                        number
                    });
                    square.await.unwrap() + blocks.await.unwrap()
                })
            })
            .collect();
        for (number, task) in (0..).zip(tasks) {
            assert_eq!(task.join().unwrap(), number * number + number);
        }
    });
}

/// Nobody has nothing to do.
#[test]
fn timers_while_workers_compute() {
    watched(|| {
        let runtime = runtime(1, Duration::from_micros(200));
        drop(runtime.spawn_fn(compute_for_ever));
        let sleeps = runtime.spawn(async {
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        sleeps.join().unwrap();
        assert_eq!(runtime.shutdown(Duration::ZERO), 1);
    });
}

/// The worker that waits for events goes on with the first one, which takes it for ever: another one takes its place.
#[test]
fn timers_while_one_worker_computes() {
    watched(|| {
        for _ in 0..10 {
            let runtime = runtime(2, Duration::from_secs(1000));
            let is_over = Arc::new(AtomicBool::new(false));
            let others = Arc::clone(&is_over);
            let computes = runtime.spawn(async move {
                tokio::time::sleep(Duration::from_millis(2)).await;
                while !others.load(Relaxed) {
                    std::hint::spin_loop();
                }
            });
            let sleeps = runtime.spawn(async move {
                for _ in 0..5 {
                    tokio::time::sleep(Duration::from_millis(15)).await;
                }
                is_over.store(true, Relaxed);
            });
            sleeps.join().unwrap();
            computes.join().unwrap();
        }
    });
}

/// Tasks wake each other with quanta so short that they are stopped in the middle of it, in their channels' locks too.
#[test]
fn wakes_under_preemption() {
    watched(|| {
        const TASKS: usize = 20;
        const ROUNDS: u64 = 1000;
        let runtime = runtime(2, Duration::from_micros(3));
        let before = inger::stats().preemptions;
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..TASKS).map(|_| tokio::sync::mpsc::channel::<u64>(2)).unzip();
        let shared = Arc::new(tokio::sync::Mutex::new(0));
        let plain = Arc::new(std::sync::Mutex::new(0));
        let tasks: Vec<_> = receivers
            .into_iter()
            .enumerate()
            .map(|(index, mut receiver)| {
                let next = senders[(index + 1) % TASKS].clone();
                let (shared, plain) = (Arc::clone(&shared), Arc::clone(&plain));
                runtime.spawn(async move {
                    let mut sum = 0;
                    for round in 0..ROUNDS {
                        next.send(round).await.unwrap();
                        sum += receiver.recv().await.unwrap();
                        *shared.lock().await += 1;
                        *plain.lock().unwrap() += 1;
                    }
                    sum
                })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.join().unwrap(), ROUNDS * (ROUNDS - 1) / 2);
        }
        let total = TASKS as u64 * ROUNDS;
        assert_eq!((*shared.blocking_lock(), *plain.lock().unwrap()), (total, total));
        let preemptions = inger::stats().preemptions - before;
        assert!(preemptions > 1000, "only {preemptions}");
    });
}

/// Tasks that are spawned, joined and cancelled by tasks that are preempted, and by threads outside.
#[test]
fn spawns_under_preemption() {
    watched(|| {
        let runtime = runtime(2, Duration::from_micros(3));
        let ended = Arc::new(AtomicU64::new(0));
        let spawners: Vec<_> = (0..4)
            .map(|_| {
                let ended = Arc::clone(&ended);
                runtime.spawn(async move {
                    for round in 0..500 {
                        let inner = spawn(async move {
                            if round % 3 == 0 {
                                std::future::pending::<()>().await;
                            }
                            yield_now();
                            tokio::task::yield_now().await;
                        });
                        if round % 3 == 0 {
                            inner.cancel();
                        }
                        assert_eq!(inner.await.is_err(), round % 3 == 0);
                        ended.fetch_add(1, Relaxed);
                    }
                })
            })
            .collect();
        for _ in 0..200 {
            assert_eq!(runtime.spawn(async { 7 }).join().unwrap(), 7);
        }
        spawners.into_iter().for_each(|task| task.join().unwrap());
        assert_eq!(ended.load(Relaxed), 2000);
        all_finish(&runtime);
        assert!(runtime.stats().preemptions > 200, "{runtime:?}");
    });
}

/// Who waits unpreempted for what a stopped task holds lets it go on.
#[test]
fn waits_that_are_not_preempted() {
    watched(|| {
        let runtime = runtime(1, Duration::from_micros(100));
        let lock = Arc::new(std::sync::Mutex::new(0));
        let tasks: Vec<_> = (0..4)
            .map(|number| {
                let lock = Arc::clone(&lock);
                runtime.spawn_fn(move || {
                    for _ in 0..50 {
                        let section = || {
                            let mut count = lock.lock().unwrap();
                            compute(Duration::from_micros(60));
                            *count += 1;
                        };
                        if number % 2 == 0 { inger::no_preempt(section) } else { section() }
                    }
                })
            })
            .collect();
        tasks.into_iter().for_each(|task| task.join().unwrap());
        assert_eq!(*lock.lock().unwrap(), 200);
    });
}

/// Tasks take a lock all the time, as does the thread that waits for them, and others outside.
#[test]
fn a_lock_of_the_standard_library() {
    watched(|| {
        let runtime = runtime(2, SHORT);
        let count = Arc::new(std::sync::Mutex::new(0_u64));
        let add = |count: Arc<std::sync::Mutex<u64>>| {
            move || {
                for _ in 0..20_000 {
                    *count.lock().unwrap() += 1;
                }
            }
        };
        let tasks: Vec<_> = (0..6).map(|_| runtime.spawn_fn(add(Arc::clone(&count)))).collect();
        let thread = std::thread::spawn(add(Arc::clone(&count)));
        add(Arc::clone(&count))();
        thread.join().unwrap();
        tasks.into_iter().for_each(|task| task.join().unwrap());
        assert_eq!(*count.lock().unwrap(), 8 * 20_000);
        assert!(runtime.stats().preemptions > 100, "{runtime:?}");
    });
}

/// Neither workers nor the end of the runtime wait for it, nor for the threads that it has started.
#[test]
fn a_task_of_tokio_that_never_waits() {
    watched(|| {
        let runtime = runtime(1, Duration::from_millis(1));
        let (begins, begun) = std::sync::mpsc::channel();
        let outer = runtime.spawn(async {
            drop(tokio::spawn(async move {
                drop(tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_secs(10_000))));
                begins.send(()).unwrap();
                compute_for_ever();
            }));
        });
        outer.join().unwrap();
        begun.recv().unwrap();
        works(&runtime);
        assert_eq!(runtime.shutdown(Duration::from_secs(1000)), 0);
    });
}

/// The worker finds things to do after it had none.
fn works(runtime: &Runtime) {
    for number in 0..10 {
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(runtime.spawn_fn(move || number).join().unwrap(), number);
    }
}

/// What serves the sockets comes to want a lock that a task has taken with it: neither workers nor the end wait for it.
#[test]
fn a_lock_of_tokio_is_lost() {
    watched(|| {
        let runtime = runtime(1, Duration::from_millis(1));
        let (begins, begun) = std::sync::mpsc::channel();
        let (sends, addresses) = std::sync::mpsc::channel();
        let reads = runtime.spawn(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            sends.send(listener.local_addr().unwrap()).unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            // Its first event, that it can be written, is over then.
            tokio::time::sleep(Duration::from_millis(5)).await;
            let waker = endless_waker(begins);
            // There is nothing to read, which tokio does not know before it has tried. Its lock of the socket is held while the
            // waker is cloned.
            assert!(stream.try_read(&mut [0]).is_err());
            let _ = stream.poll_read_ready(&mut Context::from_waker(&waker));
        });
        let mut peer = std::net::TcpStream::connect(addresses.recv().unwrap()).unwrap();
        begun.recv().unwrap();
        reads.abandon();
        assert!(reads.join().is_err());
        // Most likely the worker waits for events by then.
        std::thread::sleep(Duration::from_millis(20));
        peer.write_all(&[7]).unwrap();
        works(&runtime);
        assert_eq!(runtime.shutdown(Duration::from_secs(1000)), 0);
    });
}

/// A task of tokio's that ends its thread takes sockets and timers with it; the rest goes on.
#[test]
fn a_task_of_tokio_that_ends_its_thread() {
    watched(|| {
        let runtime = runtime(2, Duration::from_millis(1));
        let outer = runtime.spawn(async { drop(tokio::spawn(async { end_thread() })) });
        outer.join().unwrap();
        works(&runtime);
        assert_eq!(runtime.shutdown(Duration::from_secs(1000)), 0);
    });
}
