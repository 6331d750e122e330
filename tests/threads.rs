//! Several kernel threads: continuations that move between them, and functions that start some.

mod support;

use inger::{Linger, launch, pause, resume};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Barrier, Condvar, Mutex, mpsc};
use std::thread;
use std::time::Duration;
use support::{compute, compute_for_ever, finish, slots};

fn assert_send<T: Send>(value: T) -> T {
    value
}

#[test]
fn resumed_by_another_thread() {
    let _slots = slots(1);
    let mut value = 1;
    let linger = launch(
        || {
            pause();
            value += 1;
            pause();
            value += 1;
        },
        u64::MAX,
    )
    .unwrap();
    let mut linger = assert_send(linger);
    thread::scope(|scope| {
        scope.spawn(|| assert!(resume(&mut linger, u64::MAX).unwrap().yielded()));
    });
    assert!(resume(&mut linger, u64::MAX).unwrap().is_completion());
    drop(linger);
    assert_eq!(value, 3);
}

#[test]
fn started_by_another_thread() {
    let _slots = slots(1);
    let linger = launch(|| "moved", 0).unwrap();
    assert_eq!(thread::spawn(|| finish(linger, 1_000_000).0).join().unwrap(), "moved");
}

#[test]
fn dropped_by_another_thread() {
    let _slots = slots(2);
    for _ in 0..20 {
        let preempted = launch(compute_for_ever, 50).unwrap();
        let paused = launch(pause, u64::MAX).unwrap();
        thread::spawn(move || {
            drop(preempted);
            // SAFETY: nothing outside points into the function.
            unsafe { paused.reclaim() };
        })
        .join()
        .unwrap();
    }
    assert!(launch(|| (), u64::MAX).unwrap().is_completion());
}

fn run_and_pass_on<'a, T: Send>(
    mut linger: Linger<'a, T>,
    to: &mpsc::Sender<Linger<'a, T>>,
    result: &Mutex<Option<T>>,
) -> bool {
    resume(&mut linger, 30).unwrap();
    if linger.is_continuation() {
        return to.send(linger).is_ok();
    }
    *result.lock().unwrap() = linger.completion();
    false
}

/// Its thread-locals, its stack and what it computes stay as they are, wherever it goes on.
#[test]
fn back_and_forth_many_times() {
    thread_local!(static LOCAL: std::cell::Cell<u64> = const { std::cell::Cell::new(0) });
    let _slots = slots(1);
    let rounds = AtomicUsize::new(0);
    let linger = launch(
        || {
            let mut sum = 0_u64;
            let mut floating = 1.0_f64;
            for number in 0..4_000_000_u64 {
                LOCAL.set(LOCAL.get() + number);
                sum = sum.wrapping_mul(31) ^ number;
                floating = floating * 1.000_000_1 + 1e-9;
                if number % 10_000 == 0 {
                    // The heap, from changing kernel threads.
                    sum ^= std::hint::black_box(vec![number; 100]).iter().sum::<u64>();
                }
            }
            (LOCAL.get(), sum, floating)
        },
        0,
    )
    .unwrap();
    let expected = {
        let (mut local, mut sum, mut floating) = (0, 0_u64, 1.0_f64);
        for number in 0..4_000_000_u64 {
            local += number;
            sum = sum.wrapping_mul(31) ^ number;
            floating = floating * 1.000_000_1 + 1e-9;
            if number % 10_000 == 0 {
                sum ^= 100 * number;
            }
        }
        (local, sum, floating)
    };
    let result = Mutex::new(None);
    let (there, from_here) = mpsc::channel();
    let (back, from_there) = mpsc::channel();
    thread::scope(|scope| {
        let (result, rounds) = (&result, &rounds);
        // Each side ends when the other has dropped its sender, which it does at the end.
        let pass = move |linger: Option<_>, from: mpsc::Receiver<_>, to: mpsc::Sender<_>| {
            for linger in linger.into_iter().chain(from) {
                rounds.fetch_add(1, Relaxed);
                if !run_and_pass_on(linger, &to, result) {
                    break;
                }
            }
        };
        scope.spawn(move || pass(None, from_here, back));
        pass(Some(linger), from_there, there);
    });
    assert_eq!(result.into_inner().unwrap(), Some(expected));
    assert!(rounds.load(Relaxed) > 20, "only {} rounds", rounds.load(Relaxed));
}

/// More threads than libsets are no error in itself: only unfinished functions hold one.
#[test]
fn many_threads_launch_at_the_same_time() {
    let _slots = slots(8);
    let barrier = Barrier::new(8);
    let total = AtomicUsize::new(0);
    thread::scope(|scope| {
        for index in 0..8_usize {
            let (barrier, total) = (&barrier, &total);
            scope.spawn(move || {
                barrier.wait();
                for round in 0..300 {
                    let linger = launch(
                        || {
                            total.fetch_add(1, Relaxed);
                            let text = format!("{index} {round}");
                            if round % 10 == 0 {
                                compute(Duration::from_micros(300));
                            }
                            text
                        },
                        if round % 10 == 0 { 100 } else { u64::MAX },
                    );
                    assert_eq!(finish(linger.unwrap(), 100).0, format!("{index} {round}"));
                }
            });
        }
    });
    assert_eq!(total.load(Relaxed), 8 * 300);
}

/// A thread that has launched ends; what it launched is resumed elsewhere. New threads, new timers.
#[test]
fn threads_come_and_go() {
    let _slots = slots(2);
    for number in 0..100 {
        let linger = thread::spawn(move || {
            let work = move || {
                compute(Duration::from_micros(400));
                number
            };
            launch(work, 100).unwrap()
        })
        .join()
        .unwrap();
        assert_eq!(thread::spawn(move || finish(linger, 150).0).join().unwrap(), number);
    }
}

/// The timer of a thread expires before, while and after the thread gives it up.
#[test]
fn a_thread_ends_while_its_timer_expires() {
    let _slots = slots(2);
    thread::scope(|scope| {
        for half in 0..2_u64 {
            scope.spawn(move || {
                for round in 0..2_000 {
                    let thread = thread::spawn(move || {
                        // Back long before the expiry, which comes while the thread computes or ends.
                        let budget_us = 10 + (round * 7 + half) % 90;
                        assert_eq!(finish(launch(|| round, budget_us).unwrap(), u64::MAX).0, round);
                        compute(Duration::from_micros(round * 13 % 100));
                    });
                    thread.join().unwrap();
                }
            });
        }
    });
    assert!(launch(compute_for_ever, 500).unwrap().is_continuation());
}

#[test]
fn a_function_spawns_threads() {
    let _slots = slots(1);
    for slice_us in [u64::MAX, 100] {
        let linger = launch(
            || {
                let handles: Vec<_> = (0..4).map(|number| thread::spawn(move || format!("thread {number}"))).collect();
                handles.into_iter().map(|handle| handle.join().unwrap()).collect::<Vec<_>>()
            },
            slice_us,
        );
        let (names, _) = finish(linger.unwrap(), slice_us);
        assert_eq!(names, ["thread 0", "thread 1", "thread 2", "thread 3"]);
    }
}

#[test]
fn a_function_uses_scoped_threads() {
    let _slots = slots(1);
    for slice_us in [u64::MAX, 100] {
        let numbers: Vec<u64> = (0..1000).collect();
        let linger = launch(
            || {
                let (low, high) = numbers.split_at(500);
                thread::scope(|scope| {
                    let low = scope.spawn(|| low.iter().sum::<u64>());
                    let high = scope.spawn(|| high.iter().sum::<u64>());
                    (low.join().unwrap(), high.join().unwrap())
                })
            },
            slice_us,
        );
        assert_eq!(finish(linger.unwrap(), slice_us).0, (124_750, 374_750));
    }
}

#[test]
fn a_panic_in_a_thread_of_a_function_is_joined() {
    let _slots = slots(1);
    let work = || thread::Builder::new().spawn(|| std::panic::resume_unwind(Box::new(5))).unwrap().join();
    let payload = launch(work, u64::MAX).unwrap().completion().unwrap().unwrap_err();
    assert_eq!(payload.downcast_ref(), Some(&5));
}

/// Threads that a function started may launch themselves.
#[test]
fn a_thread_of_a_function_launches() {
    let _slots = slots(3);
    let work = || {
        let thread = thread::spawn(|| {
            let linger = launch(compute_for_ever, 300).unwrap();
            assert!(linger.is_continuation());
            launch(|| 5, u64::MAX).unwrap().completion()
        });
        thread.join().unwrap()
    };
    assert_eq!(launch(work, u64::MAX).unwrap().completion(), Some(Some(5)));
}

#[test]
fn a_mutex_between_functions_on_several_threads() {
    let _slots = slots(4);
    let count = Mutex::new(0_u64);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let linger = launch(
                    || {
                        for _ in 0..20_000 {
                            *count.lock().unwrap() += 1;
                        }
                    },
                    50,
                );
                finish(linger.unwrap(), 50);
            });
        }
    });
    assert_eq!(count.into_inner().unwrap(), 80_000);
}

#[test]
fn a_condition_between_a_function_and_a_thread() {
    let _slots = slots(1);
    let (turn, changed) = (Mutex::new(0_u32), Condvar::new());
    let take_turns = |mine: u32| {
        for _ in 0..200 {
            let mut turn = changed.wait_while(turn.lock().unwrap(), |turn| *turn % 2 != mine).unwrap();
            *turn += 1;
            changed.notify_all();
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| take_turns(1));
        // Waits preempted all the time neither end early nor miss their wake-up.
        finish(launch(|| take_turns(0), 60).unwrap(), 60);
    });
    assert_eq!(turn.into_inner().unwrap(), 400);
}

#[test]
fn a_timed_wait_inside_is_not_cut_short() {
    let _slots = slots(1);
    let (flag, changed) = (Mutex::new(()), Condvar::new());
    let work = || {
        let start = std::time::Instant::now();
        let (_guard, result) =
            changed.wait_timeout_while(flag.lock().unwrap(), Duration::from_millis(20), |()| true).unwrap();
        (result.timed_out(), start.elapsed())
    };
    let ((timed_out, elapsed), slices) = finish(launch(work, 100).unwrap(), 100);
    assert!(timed_out && elapsed >= Duration::from_millis(20), "{elapsed:?}");
    assert!(slices > 2, "only {slices} slices");
}

#[test]
fn channels_between_functions_and_threads() {
    let _slots = slots(2);
    let (to_inside, inside) = mpsc::sync_channel::<String>(3);
    let (to_outside, outside) = mpsc::channel::<usize>();
    thread::scope(|scope| {
        scope.spawn(move || {
            for number in 0..2_000 {
                to_inside.send("x".repeat(number % 50)).unwrap();
            }
        });
        let sum = scope.spawn(move || outside.iter().sum::<usize>());
        let work = move || {
            for text in inside {
                to_outside.send(text.len()).unwrap();
            }
        };
        finish(launch(work, 80).unwrap(), 80);
        assert_eq!(sum.join().unwrap(), 2_000 / 50 * (49 * 50 / 2));
    });
}

#[test]
fn a_flag_set_by_another_thread_is_seen_inside() {
    let _slots = slots(1);
    let flag = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(5));
            flag.store(true, Relaxed);
        });
        let work = || {
            while !flag.load(Relaxed) {
                thread::yield_now();
            }
        };
        assert!(launch(work, u64::MAX).unwrap().is_completion());
    });
}
