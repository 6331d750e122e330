//! Locks of Rust's standard library, which is part of the executable and so is everybody's: functions that are
//! preempted while they hold them, thousands of times, beside others that want them.
//!
//! A function that waits is preempted like any other, so whoever holds the lock goes on. A launcher that waits is not:
//! it tries, or its functions hold the lock unpreempted.

mod support;

use inger::{Linger, launch, no_preempt};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex, Once, OnceLock, RwLock};
use std::time::Duration;
use support::{compute, slots, take_turns, watched};

const SLICE_US: u64 = 50;
const FUNCTIONS: usize = 4;

#[test]
fn mutexes_and_read_write_locks() {
    watched("mutexes_and_read_write_locks", || {
        let _slots = slots(FUNCTIONS);
        const ROUNDS: usize = 500;
        let (mutex, lock) = (Mutex::new(0), RwLock::new((0, 0)));
        let work = || {
            for round in 0..ROUNDS {
                let mut count = mutex.lock().unwrap();
                let before = *count;
                compute(Duration::from_micros(30));
                *count = before + 1;
                drop(count);
                if round % 4 == 0 {
                    let mut pair = lock.write().unwrap();
                    pair.0 += 1;
                    compute(Duration::from_micros(30));
                    pair.1 += 1;
                } else {
                    let pair = lock.read().unwrap();
                    compute(Duration::from_micros(10));
                    assert_eq!(pair.0, pair.1);
                }
            }
        };
        let mut functions: [_; FUNCTIONS] = std::array::from_fn(|_| launch(work, 0).unwrap());
        let (mut held, mut taken) = (0, 0);
        // So does a thread, which may wait.
        let preemptions = std::thread::scope(|scope| {
            scope.spawn(work);
            take_turns(&mut functions, SLICE_US, || match mutex.try_lock() {
                Ok(mut count) => {
                    *count += 1;
                    taken += 1;
                }
                Err(_) => held += 1,
            })
        });
        assert_eq!(*mutex.lock().unwrap(), (FUNCTIONS + 1) * ROUNDS + taken);
        assert_eq!(*lock.read().unwrap(), ((FUNCTIONS + 1) * ROUNDS / 4, (FUNCTIONS + 1) * ROUNDS / 4));
        assert!(preemptions > 1000 && held > 500, "{preemptions} preemptions, {held} with the mutex held");
    });
}

/// Stopped in the middle of the initialisation, while others wait for its end.
#[test]
fn initialisation() {
    watched("initialisation", || {
        let _slots = slots(FUNCTIONS);
        static LAZY: LazyLock<usize> = LazyLock::new(|| {
            compute(Duration::from_millis(2));
            7
        });
        let mut preemptions = 0;
        for round in 0..60 {
            let (once, cell, ran) = (Once::new(), OnceLock::new(), AtomicUsize::new(0));
            let work = || {
                once.call_once(|| {
                    compute(Duration::from_millis(1));
                    ran.fetch_add(1, Relaxed);
                });
                let value: &usize = cell.get_or_init(|| {
                    compute(Duration::from_millis(1));
                    ran.fetch_add(1, Relaxed);
                    round
                });
                *value + *LAZY
            };
            let mut functions: [_; FUNCTIONS] = std::array::from_fn(|_| launch(work, 0).unwrap());
            preemptions += take_turns(&mut functions, SLICE_US, || ());
            assert!(functions.map(|function| function.completion()) == [Some(round + 7); FUNCTIONS]);
            assert_eq!(ran.load(Relaxed), 2);
            assert!(once.is_completed() && cell.get() == Some(&round));
        }
        assert!(preemptions > 2000, "only {preemptions}");
    });
}

const LINES: usize = 1500;
/// However fast the machine prints, three functions' lines take a thousand slices.
const BETWEEN_LINES: Duration = Duration::from_micros(20);

fn assert_whole(text: &str, names: &[&str]) {
    for name in names {
        let lines = text.lines().filter_map(|line| line.strip_prefix(&format!("{name} ")));
        let expected = (0..LINES).map(|number| format!("{number} {}", "words ".repeat(12).trim_end()));
        assert!(lines.eq(expected), "lines of {name} are lost, torn or out of order");
    }
}

fn line(name: &str, number: usize) -> String {
    format!("{name} {number} {}", "words ".repeat(12).trim_end())
}

/// Three functions and a thread; their launcher does not print while they are unfinished.
#[test]
fn lines_of_functions() {
    let text = watched("lines_of_functions", || {
        let _slots = slots(3);
        let print = |name: &'static str| {
            move || {
                for number in 0..LINES {
                    compute(BETWEEN_LINES);
                    println!("{}", line(name, number));
                    eprintln!("{}", line(name, number));
                }
            }
        };
        println!();
        let mut functions = ["one", "two", "three"].map(|name| launch(print(name), 0).unwrap());
        let thread = std::thread::spawn(print("thread"));
        let preemptions = take_turns(&mut functions, SLICE_US, || ());
        thread.join().unwrap();
        assert!(preemptions > 500, "only {preemptions}");
    });
    if !text.is_empty() {
        let (stdout, stderr) = text.split_at(text.rfind("test result").expect("the harness's last line"));
        assert_whole(stdout, &["one", "two", "three", "thread"]);
        assert_whole(stderr, &["one", "two", "three", "thread"]);
    }
}

/// The launcher prints too: its functions hold the stream's lock unpreempted.
#[test]
fn lines_of_functions_and_launcher() {
    let text = watched("lines_of_functions_and_launcher", || {
        let _slots = slots(3);
        let print = |name: &'static str| {
            move || {
                for number in 0..LINES {
                    compute(BETWEEN_LINES);
                    let line = line(name, number);
                    no_preempt(|| println!("{line}"));
                }
            }
        };
        println!();
        let mut functions = ["one", "two", "three"].map(|name| launch(print(name), 0).unwrap());
        let mut number = 0;
        let preemptions = take_turns(&mut functions, SLICE_US, || {
            if number < LINES {
                println!("{}", line("launcher", number));
                number += 1;
            }
        });
        for number in number..LINES {
            println!("{}", line("launcher", number));
        }
        assert!(preemptions > 500, "only {preemptions}");
    });
    if !text.is_empty() {
        assert_whole(&text, &["one", "two", "three", "launcher"]);
    }
}

/// Cancelled at any moment, functions hold neither what they held unpreempted nor the heap.
#[test]
fn cancels() {
    let text = watched("cancels", || {
        let _slots = slots(1);
        static COUNT: Mutex<usize> = Mutex::new(0);
        let mut before = 0;
        for round in 0..10_000 {
            let work = move || {
                loop {
                    if round % 2 == 0 {
                        no_preempt(|| {
                            eprintln!("line");
                            *COUNT.lock().unwrap() += 1;
                        });
                    } else {
                        drop(vec![vec![0_u8; 100 + round], vec![1; 7]]);
                    }
                }
            };
            let linger: Linger<'_, ()> = launch(work, 20 + round as u64 % 40).unwrap();
            assert!(linger.is_continuation());
            // SAFETY: nothing outside points into the function.
            unsafe { linger.reclaim() };
            let now = *COUNT.lock().unwrap();
            assert!(now >= before);
            before = now;
            drop(vec![0_u8; 1000]);
        }
        assert!(before > 5000, "only {before} lines");
        println!("still printing");
    });
    assert!(text.is_empty() || text.contains("still printing"));
}
