//! tokio's sockets and timers, served by whichever worker has the time.
//!
//! tokio's driver takes locks that tasks take too, and a stopped task may hold. So it runs where they run, in a function:
//! one that has to wait for a stopped task is stopped itself, and the worker goes on with others. It is a function that
//! never ends, around a runtime of tokio's for one thread, and pauses when it is not needed.

use crate::Guarded;
use inger::{Error, Linger, launch, pause, resume};
use std::cell::Cell;
use std::future::poll_fn;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::task::{Poll, Waker};
use std::thread;
use tokio::runtime::Runtime;

pub(crate) type Function = Linger<'static, ()>;

/// # Invariants
///
/// `function` is there if and only if no worker has it, and it has not ended; then, and only then, `is_free`.
#[derive(Default)]
pub(crate) struct Driver {
    function: Guarded<Option<Function>>,
    /// The same, without the lock.
    is_free: AtomicBool,
    /// What it is to do when it goes on after a pause.
    order: AtomicU8,
    /// A worker that waits in it is to come back.
    is_recalled: AtomicBool,
    waker: OnceLock<Waker>,
    /// When somebody has looked last, in ns.
    looked_ns: AtomicU64,
}

/// Do what there is to do.
const LOOK: u8 = 0;
/// Do what there is to do, until recalled.
const WAIT: u8 = 1;
const END: u8 = 2;

/// So often at most somebody who has other things to do looks for events.
const LOOK_EVERY_NS: u64 = 50_000;

// The function may not get to where it pauses: it runs tokio's tasks, which may compute, and takes locks, which tasks may
// have that were stopped for good. So nobody waits for it longer than that.

/// A worker for what the function is in the middle of: tasks may be ready meanwhile.
const TURN_US: u64 = 1_000;
/// A worker for events, before it looks whether it was recalled.
const WAIT_US: u64 = 1_000_000;
/// The last worker for the runtime's destructor.
const END_NS: u64 = 1_000_000_000;

thread_local!(static INSIDE: Cell<*const Driver> = const { Cell::new(ptr::null()) });

impl Driver {
    pub(crate) fn start(runtime: Runtime) -> Result<Arc<Self>, Error> {
        let driver = Arc::new(Driver::default());
        let inside = Arc::clone(&driver);
        let function = launch(move || inside.serve(runtime), u64::MAX)?.donatable();
        driver.put(function);
        Ok(driver)
    }

    /// Context: its function.
    fn serve(&self, runtime: Runtime) {
        INSIDE.set(self);
        runtime.block_on(async {
            poll_fn(|context| {
                self.waker.get_or_init(|| context.waker().clone());
                Poll::Ready(())
            })
            .await;
            loop {
                pause();
                match self.order.load(Relaxed) {
                    // Looks for events before it goes on.
                    LOOK => tokio::task::yield_now().await,
                    WAIT => poll_fn(|_| if self.is_recalled() { Poll::Ready(()) } else { Poll::Pending }).await,
                    _ => break,
                }
            }
        });
        // Those that `spawn_blocking` has started go on.
        runtime.shutdown_background();
    }

    // ------------------------------------------------------------------ a worker's own code

    fn is_recalled(&self) -> bool {
        self.is_recalled.load(SeqCst)
    }

    pub(crate) fn is_free(&self) -> bool {
        self.is_free.load(SeqCst)
    }

    /// Its function, if no worker has it.
    pub(crate) fn take(&self) -> Option<Function> {
        self.function.with(|function| {
            self.is_free.store(false, SeqCst);
            function.take()
        })
    }

    pub(crate) fn put(&self, function: Function) {
        if !function.is_continuation() {
            // A task of tokio's has ended its thread.
            return;
        }
        self.looked_ns.store(inger::nsnow(), Relaxed);
        self.function.with(|place| {
            *place = Some(function);
            self.is_free.store(true, SeqCst);
        });
    }

    /// Looks for events, for `quantum_us` at most, if nobody else does, or has just now.
    pub(crate) fn look(&self, quantum_us: u64) {
        if !self.is_free() || inger::nsnow().saturating_sub(self.looked_ns.load(Relaxed)) < LOOK_EVERY_NS {
            return;
        }
        let Some(mut function) = self.take() else { return };
        self.order.store(LOOK, Relaxed);
        // If it is stopped it goes on the next time.
        let _ = resume(&mut function, quantum_us.min(TURN_US));
        self.put(function);
    }

    /// Lets it do what it was stopped in. Does it rest then, so that it may wait?
    pub(crate) fn rests(&self, function: &mut Function) -> bool {
        self.is_recalled.store(false, SeqCst);
        self.order.store(LOOK, Relaxed);
        function.yielded() || (resume(function, TURN_US).is_ok() && function.yielded())
    }

    /// Waits for events, until recalled. It has rested.
    pub(crate) fn wait(&self, function: &mut Function) {
        self.order.store(WAIT, Relaxed);
        // It may have paused on donated time, which a resume only tells.
        while !self.is_recalled() && function.is_continuation() && resume(function, WAIT_US).is_ok() {}
    }

    /// Makes it drop the runtime, or stops it for good. No worker has it.
    pub(crate) fn end(&self) {
        let Some(mut function) = self.take() else { return };
        self.order.store(END, Relaxed);
        let end = inger::nsnow() + END_NS;
        while function.is_continuation() {
            let left_us = end.saturating_sub(inger::nsnow()) / 1_000;
            if left_us == 0 {
                // To drop it is to wait for threads that were started in it.
                let _ = thread::Builder::new().spawn(move || drop(function));
                return;
            }
            if resume(&mut function, left_us).is_err() {
                return;
            }
        }
    }

    // ------------------------------------------------------------------ anybody's

    /// Is this its function, or a task of tokio's that runs in it?
    pub(crate) fn is_inside(&self) -> bool {
        ptr::eq(INSIDE.get(), self)
    }

    /// Makes [`Driver::wait`] return.
    ///
    /// Context: unpreempted. Nothing that tokio does then takes a lock.
    pub(crate) fn recall(&self) {
        self.is_recalled.store(true, SeqCst);
        self.waker.get().inspect(|waker| waker.wake_by_ref());
    }
}
