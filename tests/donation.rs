//! Locks of Rust's standard library that functions hold where they are stopped, and that their launcher then waits for: it
//! lets the functions go on that it may. And what it leaves alone.

mod support;

use inger::{Linger, LockHolder, LockWait, launch, pause, resume};
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, LazyLock, Mutex, Once, RwLock, mpsc};
use std::time::{Duration, Instant};
use support::{child, compute, is_child, output, slots, take_turns, watched};

const SLICE_US: u64 = 50;
const FUNCTIONS: usize = 3;

#[test]
fn mutexes_and_read_write_locks() {
    watched("mutexes_and_read_write_locks", || {
        let _slots = slots(FUNCTIONS);
        const ROUNDS: usize = 500;
        static MUTEX: Mutex<usize> = Mutex::new(0);
        static LOCK: RwLock<(usize, usize)> = RwLock::new((0, 0));
        let work = || {
            for round in 0..ROUNDS {
                let mut count = MUTEX.lock().unwrap();
                let before = *count;
                compute(Duration::from_micros(30));
                *count = before + 1;
                drop(count);
                if round % 4 == 0 {
                    let mut pair = LOCK.write().unwrap();
                    pair.0 += 1;
                    compute(Duration::from_micros(30));
                    pair.1 += 1;
                } else {
                    let pair = LOCK.read().unwrap();
                    compute(Duration::from_micros(10));
                    assert_eq!(pair.0, pair.1);
                }
            }
        };
        let mut functions: [_; FUNCTIONS] = std::array::from_fn(|_| launch(work, 0).unwrap().donatable());
        let (mut held, mut taken) = (0, 0);
        let preemptions = take_turns(&mut functions, SLICE_US, || {
            held += usize::from(MUTEX.try_lock().is_err() || LOCK.try_write().is_err());
            *MUTEX.lock().unwrap() += 1;
            let pair = *LOCK.read().unwrap();
            assert_eq!(pair.0, pair.1);
            let mut pair = LOCK.write().unwrap();
            *pair = (pair.0 + 1, pair.1 + 1);
            taken += 1;
        });
        assert_eq!(*MUTEX.lock().unwrap(), FUNCTIONS * ROUNDS + taken);
        assert_eq!(*LOCK.read().unwrap(), (FUNCTIONS * ROUNDS / 4 + taken, FUNCTIONS * ROUNDS / 4 + taken));
        assert!(preemptions > 300 && held > 200, "{preemptions} preemptions, {held} with a lock held");
    });
}

#[test]
fn initialisation() {
    watched("initialisation", || {
        let _slots = slots(1);
        let mut held = 0;
        for _ in 0..100 {
            let once: &'static Once = Box::leak(Box::new(Once::new()));
            let started: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
            let initialise = move || {
                started.store(true, Relaxed);
                compute(Duration::from_micros(300));
            };
            let function = launch(move || once.call_once(initialise), SLICE_US).unwrap().donatable();
            held += usize::from(started.load(Relaxed) && !once.is_completed());
            once.call_once(|| ());
            assert!(once.is_completed());
            drop(function);
        }
        static LAZY: LazyLock<usize> = LazyLock::new(|| {
            compute(Duration::from_millis(2));
            7
        });
        let function = launch(|| *LAZY, SLICE_US).unwrap().donatable();
        assert_eq!(*LAZY, 7);
        drop(function);
        assert!(held > 50, "only {held}");
    });
}

const LINES: usize = 1500;
const BETWEEN_LINES: Duration = Duration::from_micros(20);

fn line(name: &str, number: usize) -> String {
    format!("{name} {number} {}", "words ".repeat(12).trim_end())
}

/// Three functions print, and their launcher, each as it likes.
#[test]
fn lines_of_functions_and_launcher() {
    let text = watched("lines_of_functions_and_launcher", || {
        let _slots = slots(FUNCTIONS);
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
        let mut functions = ["one", "two", "three"].map(|name| launch(print(name), 0).unwrap().donatable());
        let mut number = 0;
        let preemptions = take_turns(&mut functions, SLICE_US, || {
            if number < LINES {
                println!("{}", line("launcher", number));
                eprintln!("{}", line("launcher", number));
                number += 1;
            }
        });
        for number in number..LINES {
            println!("{}", line("launcher", number));
            eprintln!("{}", line("launcher", number));
        }
        assert!(preemptions > 500, "only {preemptions}");
    });
    if !text.is_empty() {
        let (stdout, stderr) = text.split_at(text.rfind("test result").expect("the harness's last line"));
        for (text, name) in
            [stdout, stderr].into_iter().flat_map(|text| ["one", "two", "three", "launcher"].map(|name| (text, name)))
        {
            let lines = text.lines().filter_map(|line| line.strip_prefix(&format!("{name} ")));
            let expected = (0..LINES).map(|number| format!("{number} {}", "words ".repeat(12).trim_end()));
            assert!(lines.eq(expected), "lines of {name} are lost, torn or out of order");
        }
    }
}

/// Waits for something else than a lock, and functions of which nobody knows whether they may go on.
#[test]
fn what_is_left_alone() {
    watched("what_is_left_alone", || {
        let _slots = slots(2);
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = || {
            loop {
                COUNT.fetch_add(1, Relaxed);
            }
        };
        let is_left_alone = |what: &str, wait: &dyn Fn()| {
            let before = COUNT.load(Relaxed);
            wait();
            assert_eq!(COUNT.load(Relaxed), before, "{what}");
        };
        let soon = Duration::from_millis(5);
        let donatable: Linger<'static, ()> = launch(count, 200).unwrap().donatable();
        /// Before a read-write lock's counter lies its state; before a condition, whatever the program has there.
        #[repr(C)]
        struct Preceded(u32, Condvar);
        for word in [0, 1, 1 << 31, 0x8000_5555, 0xf7a3_1240, 0xffff_fff0, 0x7fff_ffff] {
            is_left_alone(&format!("a condition after {word:#x}"), &|| {
                let (mutex, condition) = (Mutex::new(()), Preceded(word, Condvar::new()));
                drop(condition.1.wait_timeout(mutex.lock().unwrap(), soon).unwrap());
                assert_eq!(std::hint::black_box(condition.0), word);
            });
        }
        is_left_alone("a channel", &|| assert!(mpsc::channel::<()>().1.recv_timeout(soon).is_err()));
        is_left_alone("a parked thread", &|| std::thread::park_timeout(soon));
        is_left_alone("a joined thread", &|| std::thread::spawn(move || std::thread::sleep(soon)).join().unwrap());
        is_left_alone("sleep", &|| std::thread::sleep(soon));
        // SAFETY: nothing outside points into the function.
        unsafe { donatable.reclaim() };

        // What a waiter for a mutex does, but not for ever.
        let contended = &|| {
            let (word, time) = (AtomicU32::new(2), libc::timespec { tv_sec: 0, tv_nsec: 5_000_000 });
            // SAFETY: the word and the time are there while it waits.
            let result = unsafe {
                libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, 2, &time)
            };
            assert_eq!((result, std::io::Error::last_os_error().raw_os_error()), (-1, Some(libc::ETIMEDOUT)));
        };
        let plain: Linger<'_, ()> = launch(count, 200).unwrap();
        is_left_alone("what is not donatable", contended);
        // SAFETY: nothing outside points into the function.
        unsafe { plain.reclaim() };
        std::mem::forget(launch::<(), _>(count, 200).unwrap());
        is_left_alone("what was forgotten", contended);
        let paused = launch(
            || {
                pause();
                COUNT.fetch_add(1, Relaxed);
            },
            u64::MAX,
        );
        let paused = paused.unwrap().donatable();
        is_left_alone("what has paused", contended);
        drop(paused);
        let prepared = launch(|| COUNT.fetch_add(1, Relaxed), 0).unwrap().donatable();
        is_left_alone("what has not started", contended);
        drop(prepared);

        let donatable: Linger<'static, ()> = launch(count, 200).unwrap().donatable();
        let before = COUNT.load(Relaxed);
        let begin = Instant::now();
        contended();
        assert!(COUNT.load(Relaxed) > before && begin.elapsed() >= soon, "that is how the others would go on");
        // SAFETY: nothing outside points into the function.
        unsafe { donatable.reclaim() };
    });
}

/// A wait during which all functions return that can.
fn wait_for_a_lock() {
    let (word, time) = (AtomicU32::new(2), libc::timespec { tv_sec: 0, tv_nsec: 20_000_000 });
    // SAFETY: the word and the time are there while it waits.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, 2, &time) };
}

/// What ended on donated time: whoever has the handle hears of it when he uses it.
#[test]
fn ends_on_donated_time() {
    watched("ends_on_donated_time", || {
        let _slots = slots(1);
        static DROPPED: AtomicUsize = AtomicUsize::new(0);
        struct Counted(u32);
        impl Drop for Counted {
            fn drop(&mut self) {
                DROPPED.fetch_add(1, Relaxed);
            }
        }
        let work = || {
            compute(Duration::from_micros(300));
            Counted(7)
        };
        let stopped = || {
            let linger = launch(work, SLICE_US).unwrap().donatable();
            assert!(linger.is_continuation());
            wait_for_a_lock();
            assert!(linger.is_continuation() && !linger.yielded());
            linger
        };
        let mut linger = stopped();
        assert_eq!(DROPPED.load(Relaxed), 0);
        assert_eq!(resume(&mut linger, 1).unwrap().is_completion().then_some(()), Some(()));
        assert_eq!(linger.completion().map(|counted| counted.0), Some(7));
        assert_eq!(DROPPED.load(Relaxed), 1);
        drop(stopped());
        assert_eq!(DROPPED.load(Relaxed), 2);
        // SAFETY: nothing outside points into the function.
        unsafe { stopped().reclaim() };
        assert_eq!(DROPPED.load(Relaxed), 3);
        assert_eq!(stopped().cancel_within(Duration::from_secs(1)).map(|counted| counted.0), Some(7));
        assert_eq!(DROPPED.load(Relaxed), 4);

        let panics = || {
            compute(Duration::from_micros(300));
            panic!("as expected");
        };
        let mut linger: Linger<'_, ()> = launch(panics, SLICE_US).unwrap().donatable();
        wait_for_a_lock();
        // It prints first, and may still be at it.
        let all = AssertUnwindSafe(|| while resume(&mut linger, u64::MAX).unwrap().is_continuation() {});
        let panic = catch_unwind(all).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"as expected"));

        let pauses = || {
            compute(Duration::from_micros(300));
            pause();
            7
        };
        let mut linger = launch(pauses, SLICE_US).unwrap().donatable();
        wait_for_a_lock();
        assert!(linger.yielded());
        // Who resumes it is told first, as if it had paused just now.
        assert!(resume(&mut linger, u64::MAX).unwrap().yielded());
        assert!(resume(&mut linger, u64::MAX).unwrap().is_completion());
        let linger = launch(pauses, SLICE_US).unwrap().donatable();
        wait_for_a_lock();
        assert!(linger.yielded());
        // Unwound from there.
        let abandoned = inger::stats().abandoned;
        drop(linger);
        assert_eq!(inger::stats().abandoned, abandoned);
    });
}

/// A handle that another kernel thread uses while the one that had stopped the function waits for a lock.
#[test]
fn handles_move_between_threads() {
    watched("handles_move_between_threads", || {
        let _slots = slots(2);
        static MUTEX: Mutex<u64> = Mutex::new(0);
        const ROUNDS: u64 = 100_000;
        let work = || {
            for _ in 0..ROUNDS {
                *MUTEX.lock().unwrap() += 1;
            }
        };
        let lock_often = || {
            for _ in 0..ROUNDS {
                *MUTEX.lock().unwrap() += 1;
            }
        };
        let (mut sum, mut moves) = (0, 0);
        for _ in 0..5 {
            let (sender, receiver) = mpsc::channel::<Linger<'static, ()>>();
            let (back, returned) = mpsc::channel();
            let other = std::thread::spawn(move || {
                for mut linger in receiver {
                    resume(&mut linger, SLICE_US).unwrap();
                    *MUTEX.lock().unwrap() += 0;
                    back.send(linger).unwrap();
                }
            });
            let mut lingers = [0, 1].map(|_| Some(launch(work, SLICE_US).unwrap().donatable()));
            while lingers.iter().flatten().any(Linger::is_continuation) {
                for linger in &mut lingers {
                    sender.send(linger.take().unwrap()).unwrap();
                    // The other one is this thread's now, and that one may be held.
                    *MUTEX.lock().unwrap() += 0;
                    let mut back = returned.recv().unwrap();
                    resume(&mut back, SLICE_US).unwrap();
                    *linger = Some(back);
                    moves += 1;
                }
            }
            drop(sender);
            other.join().unwrap();
            lock_often();
            sum += 3 * ROUNDS;
            assert_eq!(*MUTEX.lock().unwrap(), sum);
        }
        assert!(moves > 20, "only {moves}");
    });
}

/// The child of a fork has a handle, but not the kernel thread that was letting the function go on.
#[test]
fn fork_meanwhile() {
    watched("fork_meanwhile", || {
        let _slots = slots(1);
        static LINGER: Mutex<Option<Linger<'static, ()>>> = Mutex::new(None);
        static TURNS: AtomicU64 = AtomicU64::new(0);
        let count = || {
            loop {
                TURNS.fetch_add(1, Relaxed);
            }
        };
        let waiter = std::thread::spawn(move || {
            *LINGER.lock().unwrap() = Some(launch(count, 100).unwrap().donatable());
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_millis(1500) {
                wait_for_a_lock();
            }
        });
        let (mut cancelled, mut resumed) = (0, 0);
        while !waiter.is_finished() {
            let before = TURNS.load(Relaxed);
            while TURNS.load(Relaxed) == before && !waiter.is_finished() {}
            // SAFETY: the child of a process with threads: it resumes the function, and ends.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let mut linger = LINGER.try_lock().ok().and_then(|mut linger| linger.take());
                let status = match linger.as_mut().map(|linger| resume(linger, 100).map(|_| ())) {
                    None => 3,
                    Some(Ok(())) => 0,
                    Some(Err(inger::Error::Cancelled)) => 1,
                    Some(Err(_)) => 2,
                };
                // SAFETY: ends the process.
                unsafe { libc::_exit(status) };
            }
            let mut status = 0;
            // SAFETY: waits for the child.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            // 3: not launched yet
            assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) != 2, "{status}");
            resumed += usize::from(libc::WEXITSTATUS(status) == 0);
            cancelled += usize::from(libc::WEXITSTATUS(status) == 1);
        }
        waiter.join().unwrap();
        assert!(cancelled > 5, "{cancelled} while it was going on, {resumed} between");
        // SAFETY: nothing outside points into the function.
        unsafe { LINGER.lock().unwrap().take().expect("it was put there").reclaim() };
    });
}

/// Who waits for a lock that a paused function holds is told of by the hook, in the call that waits, while others can do
/// something about it.
#[test]
fn long_waits_are_told() {
    static TOLD: Mutex<Vec<LockWait>> = Mutex::new(Vec::new());
    static WAITER: AtomicU64 = AtomicU64::new(0);
    fn hook(wait: &LockWait) {
        // It neither stops nor waits for itself; it may allocate.
        pause();
        assert_eq!(WAITER.load(Relaxed), u64::try_from(wait.thread).unwrap());
        TOLD.lock().unwrap().push(*wait);
    }
    /// Of the C library's.
    struct Raw<T>(UnsafeCell<T>);
    // SAFETY: locks are for several threads.
    unsafe impl<T> Sync for Raw<T> {}
    static MUTEX: Raw<libc::pthread_mutex_t> = Raw(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER));
    static READ_WRITE: Raw<libc::pthread_rwlock_t> = Raw(UnsafeCell::new(libc::PTHREAD_RWLOCK_INITIALIZER));
    static OF_RUST: Mutex<()> = Mutex::new(());
    let hold_mutex: fn(fn()) = |meanwhile| {
        // SAFETY: the lock is initialised, and never moved.
        assert_eq!(unsafe { libc::pthread_mutex_lock(MUTEX.0.get()) }, 0);
        meanwhile();
        // SAFETY: as above.
        assert_eq!(unsafe { libc::pthread_mutex_unlock(MUTEX.0.get()) }, 0);
    };
    let write: fn(fn()) = |meanwhile| {
        // SAFETY: as above.
        assert_eq!(unsafe { libc::pthread_rwlock_wrlock(READ_WRITE.0.get()) }, 0);
        meanwhile();
        // SAFETY: as above.
        assert_eq!(unsafe { libc::pthread_rwlock_unlock(READ_WRITE.0.get()) }, 0);
    };
    let read: fn(fn()) = |meanwhile| {
        // SAFETY: as above.
        assert_eq!(unsafe { libc::pthread_rwlock_rdlock(READ_WRITE.0.get()) }, 0);
        meanwhile();
        // SAFETY: as above.
        assert_eq!(unsafe { libc::pthread_rwlock_unlock(READ_WRITE.0.get()) }, 0);
    };
    static SPIN: Raw<libc::pthread_spinlock_t> = Raw(UnsafeCell::new(0));
    // SAFETY: nobody uses it yet.
    assert_eq!(unsafe { libc::pthread_spin_init(SPIN.0.get(), libc::PTHREAD_PROCESS_PRIVATE) }, 0);
    let spin: fn(fn()) = |meanwhile| {
        // SAFETY: as above.
        assert_eq!(unsafe { libc::pthread_spin_lock(SPIN.0.get()) }, 0);
        meanwhile();
        // SAFETY: as above.
        assert_eq!(unsafe { libc::pthread_spin_unlock(SPIN.0.get()) }, 0);
    };
    let hold_lock_of_rust: fn(fn()) = |meanwhile| {
        let _guard = OF_RUST.lock().unwrap();
        meanwhile();
    };
    watched("long_waits_are_told", || {
        inger::set_lock_wait_hook(Some(hook));
        for (held, wanted, holder) in [
            (hold_mutex, hold_mutex, LockHolder::Unfinished),
            (write, write, LockHolder::Unfinished),
            (write, read, LockHolder::Unfinished),
            (read, write, LockHolder::Unknown),
            (spin, spin, LockHolder::Unknown),
            (hold_lock_of_rust, hold_lock_of_rust, LockHolder::Unknown),
        ] {
            TOLD.lock().unwrap().clear();
            let (sender, receiver) = mpsc::channel();
            let waiter = std::thread::spawn(move || {
                sender.send(launch(move || held(pause), u64::MAX).unwrap()).unwrap();
                // SAFETY: asks the kernel.
                WAITER.store(unsafe { libc::gettid() } as u64, Relaxed);
                wanted(|| ());
            });
            let mut linger = receiver.recv().unwrap();
            assert!(linger.yielded());
            while TOLD.lock().unwrap().is_empty() {
                std::thread::sleep(Duration::from_millis(10));
            }
            resume(&mut linger, u64::MAX).unwrap();
            waiter.join().unwrap();
            let told = TOLD.lock().unwrap();
            assert_eq!((told.len(), told[0].holder, told[0].cancelled), (1, holder, 0), "{told:?}");
            assert!(told[0].unfinished >= 1 && told[0].to_string().contains("has waited for a second"), "{told:?}");
        }
    });
}

/// Cancelled while it holds the stream's lock, a function holds it for ever; whoever waits is told.
#[test]
fn cancelled_while_it_prints() {
    if is_child("cancelled_while_it_prints") {
        std::thread::spawn(|| {
            std::thread::sleep(Duration::from_secs(4));
            // SAFETY: ends the process.
            unsafe { libc::_exit(0) }
        });
        for round in 0..10_000 {
            let print = || {
                loop {
                    println!("line of a function");
                }
            };
            let linger: Linger<'_, ()> = launch(print, 20 + round % 40).unwrap();
            // SAFETY: nothing outside points into the function.
            unsafe { linger.reclaim() };
            println!("line of the launcher");
        }
        return;
    }
    let output = output(&mut child("cancelled_while_it_prints"));
    assert!(output.status.success(), "{output:?}");
    let lines = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let has_all = lines.lines().filter(|line| *line == "line of the launcher").count() == 10_000;
    let is_told = errors.contains(" has waited for a second for a lock that may be held by one of the ");
    assert!(has_all || is_told, "{errors}");
}
