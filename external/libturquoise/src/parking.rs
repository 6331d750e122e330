//! Threads that wait without computing: workers for tasks, and anybody for a future.

use crate::Guarded;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst, fence};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

/// Workers that have found nothing to do.
#[derive(Default)]
pub(crate) struct Parking {
    idle: Guarded<Vec<Thread>>,
    /// How many, read without the lock.
    count: AtomicUsize,
}

impl Parking {
    /// Sleeps until somebody calls [`Parking::wake_one`]; not at all if there is something to do.
    ///
    /// Context: a worker's own code.
    pub(crate) fn park(&self, has_work: impl Fn() -> bool) {
        let own = thread::current();
        self.idle.with(|idle| {
            idle.push(own.clone());
            self.count.store(idle.len(), Relaxed);
        });
        // Either this sees what has just been pushed, or whoever has pushed it sees the count.
        fence(SeqCst);
        if has_work() {
            self.leave(&own);
            return;
        }
        while self.idle.with(|idle| idle.iter().any(|thread| thread.id() == own.id())) {
            thread::park();
        }
    }

    fn leave(&self, own: &Thread) {
        let entry = self.idle.with(|idle| {
            let entry = idle.iter().position(|thread| thread.id() == own.id()).map(|index| idle.swap_remove(index));
            self.count.store(idle.len(), Relaxed);
            entry
        });
        if entry.is_none() {
            // Woken already, for something that it may not take now.
            self.wake_one();
        }
    }

    /// After something was pushed, or may be taken now.
    ///
    /// Context: any.
    pub(crate) fn wake_one(&self) {
        fence(SeqCst);
        if self.count.load(Relaxed) == 0 {
            return;
        }
        let thread = self.idle.with(|idle| {
            let thread = idle.pop();
            self.count.store(idle.len(), Relaxed);
            thread
        });
        thread.inspect(Thread::unpark);
    }

    pub(crate) fn wake_all(&self) {
        while self.idle.with(|idle| !idle.is_empty()) {
            self.wake_one();
        }
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
