//! Threads that wait without computing: workers for tasks, and anybody for a future.

use crate::Guarded;
use crate::driver::Driver;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst, fence};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

/// Workers that have found nothing to do.
pub(crate) struct Parking {
    idle: Guarded<Idle>,
    /// How many, read without the lock.
    count: AtomicUsize,
    driver: Arc<Driver>,
}

#[derive(Default)]
struct Idle {
    threads: Vec<Thread>,
    /// One waits in the driver.
    in_driver: bool,
}

enum Sleeper {
    Thread(Thread),
    InDriver,
}

impl Idle {
    fn take(&mut self, is_driver_first: bool) -> Option<Sleeper> {
        if self.in_driver && (is_driver_first || self.threads.is_empty()) {
            self.in_driver = false;
            return Some(Sleeper::InDriver);
        }
        self.threads.pop().map(Sleeper::Thread)
    }
}

impl Parking {
    pub(crate) fn new(driver: Arc<Driver>) -> Self {
        Parking { idle: Guarded::default(), count: AtomicUsize::new(0), driver }
    }

    fn change<R>(&self, change: impl FnOnce(&mut Idle) -> R) -> R {
        self.idle.with(|idle| {
            let result = change(idle);
            self.count.store(idle.threads.len() + usize::from(idle.in_driver), Relaxed);
            result
        })
    }

    /// Sleeps until somebody calls [`Parking::wake_one`], and serves sockets and timers meanwhile if nobody else does; not
    /// at all if there is something to do.
    ///
    /// Context: a worker's own code.
    pub(crate) fn park(&self, has_work: impl Fn() -> bool) {
        // Either this sees what has just been pushed, or whoever has pushed it sees the count.
        let is_needed = || {
            fence(SeqCst);
            has_work()
        };
        if let Some(mut function) = self.driver.take() {
            if self.driver.rests(&mut function) {
                self.change(|idle| idle.in_driver = true);
                let sleeps = !is_needed();
                if sleeps {
                    self.driver.wait(&mut function);
                }
                // It may have left by itself, or because of a recall that comes late. Who is woken next is one who sleeps.
                let is_recalled = !self.change(|idle| std::mem::take(&mut idle.in_driver));
                if is_recalled && !sleeps {
                    // For something that it may not take now.
                    self.wake_one();
                }
            }
            self.driver.put(function);
            return;
        }
        let own = thread::current();
        self.change(|idle| idle.threads.push(own.clone()));
        if is_needed() || self.driver.is_free() {
            let entry = self.change(|idle| {
                let index = idle.threads.iter().position(|thread| thread.id() == own.id());
                index.map(|index| idle.threads.swap_remove(index))
            });
            if entry.is_none() {
                self.wake_one();
            }
            return;
        }
        while self.idle.with(|idle| idle.threads.iter().any(|thread| thread.id() == own.id())) {
            thread::park();
        }
    }

    /// After something was pushed, or may be taken now; after the driver was left.
    ///
    /// Who runs in the driver recalls its own worker, which is awake already.
    ///
    /// Context: any.
    pub(crate) fn wake_one(&self) {
        fence(SeqCst);
        if self.count.load(Relaxed) > 0 {
            self.wake(self.driver.is_inside());
        }
    }

    /// In one step: whoever is taken from the list, and not woken, sleeps for ever.
    fn wake(&self, is_driver_first: bool) -> bool {
        inger::no_preempt(|| {
            match self.change(|idle| idle.take(is_driver_first)) {
                Some(Sleeper::Thread(thread)) => thread.unpark(),
                Some(Sleeper::InDriver) => self.driver.recall(),
                None => return false,
            }
            true
        })
    }

    pub(crate) fn wake_all(&self) {
        while self.wake(false) {}
    }
}

/// Wakes a thread. Has no lock: the thread may be a function, and be stopped anywhere.
struct Signal {
    thread: Thread,
    is_given: AtomicBool,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_given.store(true, SeqCst);
        self.thread.unpark();
    }
}

/// Polls `future` on this thread until it is ready, or until `end`.
pub(crate) fn block_on<F: Future>(future: F, end: Option<Instant>) -> Option<F::Output> {
    let signal = Arc::new(Signal { thread: thread::current(), is_given: AtomicBool::new(true) });
    let waker = Waker::from(Arc::clone(&signal));
    let mut future = pin!(future);
    loop {
        if signal.is_given.swap(false, SeqCst) {
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Some(output);
            }
            continue;
        }
        match end.map(|end| end.saturating_duration_since(Instant::now())) {
            None => thread::park(),
            Some(left) if left.is_zero() => return None,
            Some(left) => thread::park_timeout(left),
        }
    }
}
