//! POSIX locks between a function and its launcher, which share a kernel thread, and across migration: each
//! is an owner of its own, as two threads are.

mod support;

use inger::{Linger, launch, pause, resume};
use libc::{EBUSY, EDEADLK, EINVAL, EOWNERDEAD, EPERM, ETIMEDOUT, c_int};
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};
use support::{compute, finish, slots};

const PRIO_INHERIT: c_int = 1;
const NONE: c_int = 0;

unsafe extern "C" {
    fn pthread_mutexattr_setprotocol(attributes: *mut libc::pthread_mutexattr_t, protocol: c_int) -> c_int;
    fn pthread_mutex_clocklock(
        mutex: *mut libc::pthread_mutex_t,
        clock: libc::clockid_t,
        deadline: *const libc::timespec,
    ) -> c_int;
    fn pthread_rwlock_timedwrlock(lock: *mut libc::pthread_rwlock_t, deadline: *const libc::timespec) -> c_int;
}

struct Mutex(Box<UnsafeCell<libc::pthread_mutex_t>>);
// SAFETY: a mutex is for threads to share.
unsafe impl Sync for Mutex {}

impl Mutex {
    fn new(kind: c_int, robust: bool, protocol: c_int) -> Self {
        let mut attributes = MaybeUninit::uninit();
        let mutex = Mutex(Box::new(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER)));
        let robust = if robust { libc::PTHREAD_MUTEX_ROBUST } else { libc::PTHREAD_MUTEX_STALLED };
        // SAFETY: the attributes are initialised before they are used, and the mutex stays where it is.
        unsafe {
            assert_eq!(libc::pthread_mutexattr_init(attributes.as_mut_ptr()), 0);
            assert_eq!(libc::pthread_mutexattr_settype(attributes.as_mut_ptr(), kind), 0);
            assert_eq!(libc::pthread_mutexattr_setrobust(attributes.as_mut_ptr(), robust), 0);
            assert_eq!(pthread_mutexattr_setprotocol(attributes.as_mut_ptr(), protocol), 0);
            assert_eq!(libc::pthread_mutex_init(mutex.0.get(), attributes.as_ptr()), 0);
        }
        mutex
    }

    // SAFETY of all: the mutex is initialised and stays where it is.
    fn lock(&self) -> c_int {
        // SAFETY: see above.
        unsafe { libc::pthread_mutex_lock(self.0.get()) }
    }
    fn try_lock(&self) -> c_int {
        // SAFETY: see above.
        unsafe { libc::pthread_mutex_trylock(self.0.get()) }
    }
    fn unlock(&self) -> c_int {
        // SAFETY: see above.
        unsafe { libc::pthread_mutex_unlock(self.0.get()) }
    }
    fn lock_for(&self, time: Duration) -> c_int {
        self.lock_until(&after(libc::CLOCK_REALTIME, time))
    }
    fn lock_until(&self, deadline: &libc::timespec) -> c_int {
        // SAFETY: see above.
        unsafe { libc::pthread_mutex_timedlock(self.0.get(), deadline) }
    }
    fn lock_by_clock_for(&self, clock: libc::clockid_t, time: Duration) -> c_int {
        let deadline = after(clock, time);
        // SAFETY: see above.
        unsafe { pthread_mutex_clocklock(self.0.get(), clock, &deadline) }
    }
    fn make_consistent(&self) -> c_int {
        // SAFETY: see above.
        unsafe { libc::pthread_mutex_consistent(self.0.get()) }
    }
}

fn after(clock: libc::clockid_t, time: Duration) -> libc::timespec {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is valid for writes.
    unsafe { libc::clock_gettime(clock, &mut now) };
    let ns = now.tv_nsec + i64::from(time.subsec_nanos());
    libc::timespec { tv_sec: now.tv_sec + time.as_secs() as i64 + ns / 1_000_000_000, tv_nsec: ns % 1_000_000_000 }
}

struct Condition(UnsafeCell<libc::pthread_cond_t>);
// SAFETY: a condition is for threads to share.
unsafe impl Sync for Condition {}

impl Condition {
    fn wait(&self, mutex: &Mutex) -> c_int {
        // SAFETY: both are initialised, and stay where they are.
        unsafe { libc::pthread_cond_wait(self.0.get(), mutex.0.get()) }
    }
    fn wait_until(&self, mutex: &Mutex, deadline: &libc::timespec) -> c_int {
        // SAFETY: as above.
        unsafe { libc::pthread_cond_timedwait(self.0.get(), mutex.0.get(), deadline) }
    }
    fn broadcast(&self) -> c_int {
        // SAFETY: as above.
        unsafe { libc::pthread_cond_broadcast(self.0.get()) }
    }
}

struct ReadWriteLock(Box<UnsafeCell<libc::pthread_rwlock_t>>);
// SAFETY: a lock is for threads to share.
unsafe impl Sync for ReadWriteLock {}

impl ReadWriteLock {
    fn write_for(&self, time: Duration) -> c_int {
        let deadline = after(libc::CLOCK_REALTIME, time);
        // SAFETY: the lock is initialised, and stays where it is.
        unsafe { pthread_rwlock_timedwrlock(self.0.get(), &deadline) }
    }
    fn call(&self, function: unsafe extern "C" fn(*mut libc::pthread_rwlock_t) -> c_int) -> c_int {
        // SAFETY: the lock is initialised, and stays where it is.
        unsafe { function(self.0.get()) }
    }
}

/// Ordinary kinds: a function may be stopped while it holds one.
fn ordinary() -> [Mutex; 4] {
    [
        Mutex::new(libc::PTHREAD_MUTEX_NORMAL, false, NONE),
        Mutex::new(libc::PTHREAD_MUTEX_RECURSIVE, false, NONE),
        Mutex::new(libc::PTHREAD_MUTEX_ERRORCHECK, false, NONE),
        Mutex::new(libc::PTHREAD_MUTEX_ADAPTIVE_NP, false, NONE),
    ]
}

/// Those that belong to kernel threads: a function is not stopped while it holds one.
fn kernel_owned() -> Vec<Mutex> {
    let kinds = [libc::PTHREAD_MUTEX_NORMAL, libc::PTHREAD_MUTEX_RECURSIVE, libc::PTHREAD_MUTEX_ERRORCHECK];
    let variants = [(true, NONE), (false, PRIO_INHERIT), (true, PRIO_INHERIT)];
    kinds.iter().flat_map(|kind| variants.map(|(robust, protocol)| Mutex::new(*kind, robust, protocol))).collect()
}

const MOMENT: Duration = Duration::from_millis(3);

#[test]
fn a_functions_mutex_is_busy_for_its_launcher() {
    let _slots = slots(1);
    for mutex in ordinary() {
        let mut linger = launch(
            || {
                assert_eq!(mutex.lock(), 0);
                pause();
                mutex.unlock()
            },
            u64::MAX,
        )
        .unwrap();
        assert_eq!(mutex.try_lock(), EBUSY);
        let start = Instant::now();
        assert_eq!(mutex.lock_for(MOMENT), ETIMEDOUT);
        assert!(start.elapsed() >= MOMENT);
        assert_eq!(mutex.lock_by_clock_for(libc::CLOCK_MONOTONIC, MOMENT), ETIMEDOUT);
        resume(&mut linger, u64::MAX).unwrap();
        assert_eq!(linger.completion(), Some(0));
        assert_eq!(mutex.lock(), 0);
        assert_eq!(mutex.unlock(), 0);
    }
}

#[test]
fn a_launchers_mutex_is_busy_for_its_functions() {
    let _slots = slots(1);
    for mutex in ordinary().into_iter().chain(kernel_owned()) {
        assert_eq!(mutex.lock(), 0);
        let inside = launch(|| (mutex.try_lock(), mutex.lock_for(MOMENT), mutex.try_lock()), u64::MAX);
        assert_eq!(inside.unwrap().completion(), Some((EBUSY, ETIMEDOUT, EBUSY)));
        // A function that waits for it is stopped in time, and gets it when it is free.
        let start = Instant::now();
        let linger = launch(|| (mutex.lock(), mutex.unlock()), 2_000).unwrap();
        assert!(linger.is_continuation() && start.elapsed() >= Duration::from_millis(2));
        assert_eq!(mutex.unlock(), 0);
        assert_eq!(finish(linger, 2_000).0, (0, 0));
    }
}

#[test]
fn recursive_ones_nest_on_each_side_alone() {
    let _slots = slots(1);
    let mut mutexes = vec![Mutex::new(libc::PTHREAD_MUTEX_RECURSIVE, false, NONE)];
    mutexes.extend(
        [(true, NONE), (false, PRIO_INHERIT)]
            .map(|(robust, protocol)| Mutex::new(libc::PTHREAD_MUTEX_RECURSIVE, robust, protocol)),
    );
    for mutex in mutexes {
        assert_eq!((mutex.lock(), mutex.lock()), (0, 0));
        let nest = || (mutex.lock(), mutex.try_lock(), mutex.lock(), mutex.unlock(), mutex.unlock(), mutex.unlock());
        assert_eq!(launch(|| mutex.try_lock(), u64::MAX).unwrap().completion(), Some(EBUSY));
        assert_eq!((mutex.unlock(), mutex.unlock()), (0, 0));
        assert_eq!(launch(nest, u64::MAX).unwrap().completion(), Some((0, 0, 0, 0, 0, 0)));
        assert_eq!((mutex.try_lock(), mutex.unlock()), (0, 0));
    }
}

#[test]
fn mistakes_are_told_to_whom_they_belong() {
    let _slots = slots(1);
    let mut mutexes = vec![Mutex::new(libc::PTHREAD_MUTEX_ERRORCHECK, false, NONE)];
    mutexes.extend(
        [(true, NONE), (false, PRIO_INHERIT), (true, PRIO_INHERIT)]
            .map(|(robust, protocol)| Mutex::new(libc::PTHREAD_MUTEX_ERRORCHECK, robust, protocol)),
    );
    for mutex in mutexes {
        let inside =
            launch(|| (mutex.unlock(), mutex.lock(), mutex.lock(), mutex.try_lock(), mutex.unlock()), u64::MAX);
        assert_eq!(inside.unwrap().completion(), Some((EPERM, 0, EDEADLK, EBUSY, 0)));
        assert_eq!((mutex.lock(), mutex.lock()), (0, EDEADLK));
        // Neither the owner's mistake nor a way to unlock another's.
        let inside = launch(|| (mutex.lock_for(MOMENT), mutex.unlock()), u64::MAX);
        assert_eq!(inside.unwrap().completion(), Some((ETIMEDOUT, EPERM)));
        assert_eq!(mutex.unlock(), 0);
        let bad = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000_000 };
        assert_eq!(mutex.lock(), 0);
        let inside = launch(|| mutex.lock_until(&bad), u64::MAX);
        assert_eq!(inside.unwrap().completion(), Some(EINVAL));
        assert_eq!(mutex.unlock(), 0);
    }
}

#[test]
fn an_owner_stays_one_across_migration() {
    let _slots = slots(1);
    for mutex in ordinary() {
        let mut linger = launch(
            || {
                assert_eq!(mutex.lock(), 0);
                pause();
                // Still its own, on another kernel thread: recursive ones nest.
                let nested = mutex.try_lock() == 0 && mutex.unlock() == 0;
                (nested, mutex.unlock())
            },
            u64::MAX,
        )
        .unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                assert_eq!(mutex.try_lock(), EBUSY);
                resume(&mut linger, u64::MAX).unwrap();
                assert_eq!((mutex.try_lock(), mutex.unlock()), (0, 0));
            });
        });
        assert_eq!(linger.completion().map(|(_, unlocked)| unlocked), Some(0));
        assert_eq!((mutex.lock(), mutex.unlock()), (0, 0));
    }
}

#[test]
fn read_write_locks() {
    let _slots = slots(1);
    let lock = ReadWriteLock(Box::new(UnsafeCell::new(libc::PTHREAD_RWLOCK_INITIALIZER)));
    let unlock = libc::pthread_rwlock_unlock;
    let linger = launch(
        || {
            assert_eq!(lock.call(libc::pthread_rwlock_wrlock), 0);
            pause();
            let again = lock.call(libc::pthread_rwlock_wrlock);
            (again, lock.call(unlock))
        },
        u64::MAX,
    )
    .unwrap();
    assert_eq!(lock.call(libc::pthread_rwlock_tryrdlock), EBUSY);
    assert_eq!(lock.write_for(MOMENT), ETIMEDOUT, "held by somebody else, not by this thread");
    // Unlocked by its owner, on another kernel thread.
    assert_eq!(thread::scope(|scope| scope.spawn(|| finish(linger, u64::MAX).0).join().unwrap()), (EDEADLK, 0));
    assert_eq!((lock.call(libc::pthread_rwlock_wrlock), lock.call(unlock)), (0, 0));
    // The launcher writes.
    assert_eq!(lock.call(libc::pthread_rwlock_wrlock), 0);
    let inside = launch(|| (lock.call(libc::pthread_rwlock_tryrdlock), lock.write_for(MOMENT)), u64::MAX);
    assert_eq!(inside.unwrap().completion(), Some((EBUSY, ETIMEDOUT)));
    assert_eq!(lock.call(unlock), 0);
    // Both read.
    assert_eq!(lock.call(libc::pthread_rwlock_rdlock), 0);
    let inside = launch(|| (lock.call(libc::pthread_rwlock_rdlock), lock.call(unlock)), u64::MAX);
    assert_eq!(inside.unwrap().completion(), Some((0, 0)));
    assert_eq!(lock.call(unlock), 0);
}

/// Each of two threads runs now one, now the other of two functions, which take two mutexes in the same order.
#[test]
fn two_threads_resume_each_others_functions() {
    let _slots = slots(2);
    for (first, second) in ordinary().into_iter().zip(ordinary()) {
        let count = Count(UnsafeCell::new(0));
        let work = || {
            for _ in 0..100 {
                assert_eq!((first.lock(), second.lock()), (0, 0));
                compute(Duration::from_micros(5));
                // SAFETY: under the mutexes.
                unsafe { count.add_one() };
                assert_eq!((second.unlock(), first.unlock()), (0, 0));
            }
        };
        let functions = [(); 2].map(|()| std::sync::Mutex::new(launch(work, 0).unwrap()));
        thread::scope(|scope| {
            for own in 0..2 {
                let functions = &functions;
                scope.spawn(move || {
                    let mut turn = own;
                    while functions.iter().any(|function| function.lock().unwrap().is_continuation()) {
                        resume(&mut functions[turn % 2].lock().unwrap(), 40).unwrap();
                        turn += 1;
                    }
                });
            }
        });
        drop(functions);
        assert_eq!(count.0.into_inner(), 200);
    }
}

/// Each holds what the other wants: their threads get back in time, and can do something else.
#[test]
fn a_deadlock_of_two_functions_is_theirs_alone() {
    let _slots = slots(3);
    for (first, second) in ordinary().into_iter().zip(ordinary()) {
        let take = |own: &Mutex, other: &Mutex| {
            assert_eq!(own.lock(), 0);
            pause();
            assert_eq!((other.lock(), other.unlock(), own.unlock()), (0, 0, 0));
        };
        let mut one = launch(|| take(&first, &second), u64::MAX).unwrap();
        let mut other = launch(|| take(&second, &first), u64::MAX).unwrap();
        thread::scope(|scope| {
            for function in [&mut one, &mut other] {
                scope.spawn(|| {
                    let start = Instant::now();
                    resume(function, 2_000).unwrap();
                    assert!(function.is_continuation() && !function.yielded() && start.elapsed() >= MOMENT * 2 / 3);
                    assert_eq!(launch(|| 7, u64::MAX).unwrap().completion(), Some(7));
                });
            }
        });
        // As with threads, what they hold stays locked.
        drop((one, other));
        assert_eq!((first.try_lock(), second.try_lock()), (EBUSY, EBUSY));
    }
}

/// Whenever the launcher looks the mutex is free; the function is stopped right after it has unlocked.
#[test]
fn robust_and_priority_mutexes_are_not_held_while_stopped() {
    let _slots = slots(1);
    for mutex in kernel_owned() {
        let (rounds, inside) = (AtomicUsize::new(0), AtomicBool::new(false));
        let work = || {
            for _ in 0..300 {
                assert_eq!(mutex.lock(), 0);
                inside.store(true, Relaxed);
                compute(Duration::from_micros(30));
                inside.store(false, Relaxed);
                assert_eq!(mutex.unlock(), 0);
                rounds.fetch_add(1, Relaxed);
            }
        };
        let mut linger: Linger<'_, ()> = launch(work, 20).unwrap();
        let mut stops = 0;
        while linger.is_continuation() {
            assert!(!inside.load(Relaxed), "stopped while it held it");
            assert_eq!((mutex.try_lock(), mutex.unlock()), (0, 0));
            // From one kernel thread to another and back.
            if stops % 8 == 0 {
                thread::scope(|scope| {
                    scope.spawn(|| {
                        resume(&mut linger, 20).unwrap();
                    });
                });
            } else {
                resume(&mut linger, 20).unwrap();
            }
            stops += 1;
        }
        assert_eq!(rounds.load(Relaxed), 300);
        assert!(stops > 20, "only {stops} stops");
    }
}

/// A count that only a mutex makes right.
struct Count(UnsafeCell<u64>);
// SAFETY: used under a mutex.
unsafe impl Sync for Count {}

impl Count {
    unsafe fn add_one(&self) {
        // SAFETY: the caller holds the mutex.
        unsafe { *self.0.get() += 1 }
    }
}

#[test]
fn robust_and_priority_mutexes_between_several_threads() {
    let _slots = slots(4);
    for mutex in kernel_owned() {
        let count = Count(UnsafeCell::new(0));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let work = || {
                        for _ in 0..200 {
                            assert_eq!(mutex.lock(), 0);
                            // SAFETY: under the mutex.
                            unsafe { count.add_one() };
                            assert_eq!(mutex.unlock(), 0);
                        }
                    };
                    finish(launch(work, 50).unwrap(), 50);
                });
            }
        });
        assert_eq!(count.0.into_inner(), 600);
    }
}

#[test]
fn a_dead_owner_is_noticed() {
    let _slots = slots(1);
    for protocol in [NONE, PRIO_INHERIT] {
        let mutex = Mutex::new(libc::PTHREAD_MUTEX_NORMAL, true, protocol);
        thread::scope(|scope| scope.spawn(|| assert_eq!(mutex.lock(), 0)).join().unwrap());
        let inside = launch(|| (mutex.lock(), mutex.make_consistent(), mutex.unlock()), u64::MAX);
        assert_eq!(inside.unwrap().completion(), Some((EOWNERDEAD, 0, 0)));
        assert_eq!((mutex.lock(), mutex.unlock()), (0, 0));
        // The owner was a function: it belongs to its kernel thread, and is found dead with that.
        thread::scope(|scope| {
            scope
                .spawn(|| assert_eq!(launch(|| mutex.lock(), u64::MAX).unwrap().completion(), Some(0)))
                .join()
                .unwrap();
        });
        assert_eq!((mutex.lock(), mutex.make_consistent(), mutex.unlock()), (EOWNERDEAD, 0, 0));
        // What that function held is not what the next one on its stack holds.
        assert_eq!(
            launch(|| (mutex.unlock(), mutex.lock(), mutex.unlock()), u64::MAX).unwrap().completion(),
            Some((EPERM, 0, 0))
        );
    }
}

/// Conditions used with such mutexes.
#[test]
fn conditions() {
    let _slots = slots(1);
    for mutex in ordinary().into_iter().chain(kernel_owned()) {
        let condition = Condition(UnsafeCell::new(libc::PTHREAD_COND_INITIALIZER));
        let turn = AtomicUsize::new(0);
        let take_turns = |mine: usize| {
            for _ in 0..20 {
                assert_eq!(mutex.lock(), 0);
                while turn.load(Relaxed) % 2 != mine {
                    assert_eq!(condition.wait(&mutex), 0);
                }
                turn.fetch_add(1, Relaxed);
                assert_eq!(condition.broadcast(), 0);
                assert_eq!(mutex.unlock(), 0);
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| take_turns(1));
            finish(launch(|| take_turns(0), 100).unwrap(), 100);
        });
        assert_eq!(turn.load(Relaxed), 40);
        // Nobody signals: the function is stopped in its wait, in time, and its launcher can have the mutex.
        let work = || {
            assert_eq!(mutex.lock(), 0);
            while turn.load(Relaxed) == 40 {
                assert_eq!(condition.wait(&mutex), 0);
            }
            mutex.unlock()
        };
        let linger = launch(work, 5_000).unwrap();
        assert!(linger.is_continuation());
        assert_eq!(mutex.lock_for(Duration::from_secs(5)), 0);
        turn.store(0, Relaxed);
        assert_eq!((condition.broadcast(), mutex.unlock()), (0, 0));
        assert_eq!(finish(linger, 5_000).0, 0);
        // And with a limit of its own.
        let timed = || {
            assert_eq!(mutex.lock(), 0);
            let start = Instant::now();
            let deadline = after(libc::CLOCK_REALTIME, MOMENT);
            let result = loop {
                match condition.wait_until(&mutex, &deadline) {
                    0 => {}
                    error => break error,
                }
            };
            (result, start.elapsed() >= MOMENT, mutex.unlock())
        };
        assert_eq!(finish(launch(timed, 200).unwrap(), 200).0, (ETIMEDOUT, true, 0));
    }
}
