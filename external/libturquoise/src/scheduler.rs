//! Queues, and the workers that take tasks from them.

use crate::Guarded;
use crate::driver::Driver;
use crate::parking::Parking;
use crate::runtime::Config;
use crate::task::{Polled, Task};
use crossbeam_deque::{Injector, Steal, Stealer, Worker as Queue};
use inger::{Error, Linger, launch, resume};
use slab::Slab;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::thread::Thread;
use std::time::Duration;

/// What all workers share.
pub(crate) struct Scheduler {
    pub(crate) config: Config,
    /// The configured quantum.
    pub(crate) quantum_us: u64,
    /// What tasks find as their current runtime of tokio's.
    pub(crate) tokio: tokio::runtime::Handle,
    /// Tasks that were spawned, or woken.
    ready: Injector<Arc<Task>>,
    /// Tasks that were preempted, or have yielded.
    stopped: Injector<Stopped>,
    /// Of each worker's own queue of ready tasks.
    stealers: Vec<Stealer<Arc<Task>>>,
    parking: Parking,
    driver: Arc<Driver>,
    /// Workers that have not ended.
    workers: AtomicUsize,
    tasks: Guarded<Tasks>,
    is_ending: AtomicBool,
    /// Functions that there are: running, or stopped.
    started: AtomicUsize,
    /// How many functions have ended.
    ended: AtomicU64,
    /// What `ended` was when there was no libset left: until it changes there is none.
    starved_at: AtomicU64,
    counters: Counters,
}

/// All unfinished tasks.
struct Tasks {
    all: Slab<Arc<Task>>,
    /// No more are taken. Whoever this is waits for the end of those that are left.
    closer: Option<Thread>,
}

/// A task in the middle of a poll.
struct Stopped {
    task: Arc<Task>,
    linger: Linger<'static, Polled>,
}

#[derive(Default)]
struct Counters {
    polls: AtomicU64,
    preemptions: AtomicU64,
    stolen: AtomicU64,
    parked: AtomicU64,
    waits_for_libsets: AtomicU64,
    abandoned: AtomicU64,
}

/// What a runtime has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Tasks that are not finished now.
    pub tasks: usize,
    /// Those of them that are being polled, or stopped in the middle of that: each holds a libset.
    pub started: usize,
    /// How often a task was polled.
    pub polls: u64,
    /// How often a task was stopped in the middle of a poll, because its quantum was over or it has yielded.
    pub preemptions: u64,
    /// How often a worker took a task from the queue of another.
    pub stolen: u64,
    /// How often a worker went to sleep.
    pub parked: u64,
    /// How often a task was put back because there was no libset left.
    pub waits_for_libsets: u64,
    /// How many tasks were stopped for good where they were.
    pub abandoned: u64,
}

const NEVER: u64 = u64::MAX;

impl Scheduler {
    /// Also the workers' queues.
    pub(crate) fn new(
        config: Config,
        tokio: tokio::runtime::Handle,
        driver: Arc<Driver>,
    ) -> (Self, Vec<Queue<Arc<Task>>>) {
        let queues: Vec<_> = (0..config.threads).map(|_| Queue::new_fifo()).collect();
        let quantum_us = u64::try_from(config.quantum.as_micros()).unwrap_or(u64::MAX).max(1);
        let scheduler = Scheduler {
            config,
            quantum_us,
            tokio,
            ready: Injector::new(),
            stopped: Injector::new(),
            stealers: queues.iter().map(Queue::stealer).collect(),
            parking: Parking::new(Arc::clone(&driver)),
            driver,
            workers: AtomicUsize::new(0),
            tasks: Guarded::new(Tasks { all: Slab::new(), closer: None }),
            is_ending: AtomicBool::new(false),
            started: AtomicUsize::new(0),
            ended: AtomicU64::new(0),
            starved_at: AtomicU64::new(NEVER),
            counters: Counters::default(),
        };
        (scheduler, queues)
    }

    /// Takes a new task, unless the runtime is being shut down.
    ///
    /// Context: any.
    pub(crate) fn adopt(&self, task: &Arc<Task>) -> bool {
        inger::no_preempt(|| {
            let is_taken = self.tasks.with(|tasks| {
                let is_open = tasks.closer.is_none();
                if is_open {
                    task.key.store(tasks.all.insert(Arc::clone(task)), Relaxed);
                    // Not later: once the list is closed, workers end when they find nothing.
                    self.ready.push(Arc::clone(task));
                }
                is_open
            });
            if is_taken {
                self.parking.wake_one();
            }
            is_taken
        })
    }

    /// Context: unpreempted. The task is queued.
    pub(crate) fn push_ready(&self, task: Arc<Task>) {
        self.ready.push(task);
        self.parking.wake_one();
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            tasks: self.tasks.with(|tasks| tasks.all.len()),
            started: self.started.load(Relaxed),
            polls: self.counters.polls.load(Relaxed),
            preemptions: self.counters.preemptions.load(Relaxed),
            stolen: self.counters.stolen.load(Relaxed),
            parked: self.counters.parked.load(Relaxed),
            waits_for_libsets: self.counters.waits_for_libsets.load(Relaxed),
            abandoned: self.counters.abandoned.load(Relaxed),
        }
    }

    /// Does the caller run with what serves sockets and timers?
    pub(crate) fn is_driver(&self) -> bool {
        self.driver.is_inside()
    }

    // ------------------------------------------------------------------ the end

    /// Takes no more tasks. `closer` is woken when there is none left.
    pub(crate) fn close(&self, closer: Thread) {
        self.tasks.with(|tasks| tasks.closer = Some(closer));
    }

    pub(crate) fn unfinished(&self) -> Vec<Arc<Task>> {
        self.tasks.with(|tasks| tasks.all.iter().map(|(_, task)| Arc::clone(task)).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tasks.with(|tasks| tasks.all.is_empty())
    }

    /// Lets the workers end.
    pub(crate) fn end(&self) {
        self.is_ending.store(true, SeqCst);
        self.parking.wake_all();
    }

    // ------------------------------------------------------------------ how many functions there are

    /// The right to launch one more, which is to be given back.
    fn may_start(&self) -> bool {
        self.starved_at.load(SeqCst) != self.ended.load(SeqCst)
            && self.started.fetch_update(SeqCst, SeqCst, |n| (n < self.config.max_started).then_some(n + 1)).is_ok()
    }

    /// A function has ended, and its libset is free; or it was not launched after all.
    fn has_ended(&self) {
        // In this order: see `starve`.
        self.started.fetch_sub(1, SeqCst);
        self.may_be_free();
    }

    /// There may be a libset again.
    fn may_be_free(&self) {
        self.ended.fetch_add(1, SeqCst);
        if self.has_work() {
            self.parking.wake_one();
        }
    }

    /// There was no libset for one more function, when `ended` had been read. The next one that ends leaves its own; one
    /// that is counted in `started` has yet to change `ended`, be it here, where the last one does.
    fn starve(&self, ended: u64) {
        self.counters.waits_for_libsets.fetch_add(1, Relaxed);
        if self.started.fetch_sub(1, SeqCst) > 1 {
            self.starved_at.store(ended, SeqCst);
        } else {
            // They are with others than our tasks, who do not say when they are done.
            std::thread::sleep(Duration::from_millis(1));
            self.may_be_free();
        }
    }

    fn has_work(&self) -> bool {
        if self.is_ending.load(SeqCst) || !self.stopped.is_empty() {
            return true;
        }
        let may_start = self.starved_at.load(SeqCst) != self.ended.load(SeqCst)
            && self.started.load(SeqCst) < self.config.max_started;
        may_start && (!self.ready.is_empty() || self.stealers.iter().any(|stealer| !stealer.is_empty()))
    }
}

/// A stopped task has its turn after so many ready ones.
const READY_IN_A_ROW: u32 = 4;

/// A worker takes this part of what it would have to take of all ready tasks. In its own queue they wait for this worker, which
/// may be long if it is not running; so it takes one by one unless there are many.
const SHARES: usize = 4;
const MOST_AT_A_TIME: usize = 32;

/// One kernel thread that runs tasks.
pub(crate) struct Worker {
    scheduler: Arc<Scheduler>,
    index: usize,
    own: Queue<Arc<Task>>,
    /// Ready tasks since the last stopped one.
    in_a_row: u32,
}

enum Turn {
    /// With the right to start.
    Ready(Arc<Task>),
    Stopped(Stopped),
}

impl Worker {
    pub(crate) fn new(scheduler: Arc<Scheduler>, index: usize, own: Queue<Arc<Task>>) -> Self {
        scheduler.workers.fetch_add(1, SeqCst);
        Worker { scheduler, index, own, in_a_row: 0 }
    }

    pub(crate) fn run(mut self) {
        loop {
            self.scheduler.driver.look(self.scheduler.quantum_us);
            // Read before, so that it finds all that was queued before the end.
            let is_ending = self.scheduler.is_ending.load(SeqCst);
            let turn = self.next();
            if turn.is_some() && self.scheduler.driver.is_free() {
                // Somebody else is to wait for events meanwhile.
                self.scheduler.parking.wake_one();
            }
            match turn {
                Some(Turn::Ready(task)) => self.poll(task),
                Some(Turn::Stopped(stopped)) => self.go_on(stopped),
                None if is_ending => break,
                None => {
                    self.scheduler.counters.parked.fetch_add(1, Relaxed);
                    self.scheduler.parking.park(|| self.scheduler.has_work());
                }
            }
        }
    }

    fn next(&mut self) -> Option<Turn> {
        let is_stopped_next = self.in_a_row >= READY_IN_A_ROW;
        self.in_a_row += 1;
        if is_stopped_next {
            self.in_a_row = 0;
            if let Some(stopped) = self.next_stopped() {
                return Some(stopped);
            }
        }
        if self.scheduler.may_start() {
            if let Some(task) = self.next_ready() {
                return Some(Turn::Ready(task));
            }
            self.scheduler.has_ended();
        }
        self.in_a_row = 0;
        self.next_stopped()
    }

    fn next_stopped(&self) -> Option<Turn> {
        insist(|| self.scheduler.stopped.steal()).map(Turn::Stopped)
    }

    fn next_ready(&self) -> Option<Arc<Task>> {
        let scheduler = &self.scheduler;
        let count = (scheduler.ready.len() / (SHARES * scheduler.stealers.len())).clamp(1, MOST_AT_A_TIME);
        let shared = || insist(|| scheduler.ready.steal_batch_with_limit_and_pop(&self.own, count));
        self.own.pop().or_else(shared).or_else(|| {
            let count = scheduler.stealers.len();
            let others = (1..count).map(|distance| &scheduler.stealers[(self.index + distance) % count]);
            let task = others.map(|stealer| insist(|| stealer.steal_batch_and_pop(&self.own))).find_map(|task| task);
            if task.is_some() {
                scheduler.counters.stolen.fetch_add(1, Relaxed);
            }
            task
        })
    }

    fn poll(&self, task: Arc<Task>) {
        let scheduler = &self.scheduler;
        scheduler.counters.polls.fetch_add(1, Relaxed);
        let ended = scheduler.ended.load(SeqCst);
        task.begin();
        let inside = Arc::clone(&task);
        match launch(move || inside.poll(), task.quantum_us) {
            Ok(linger) => self.after(task, linger),
            Err(Error::TooManyLibsets { .. }) => {
                task.requeue();
                scheduler.ready.push(task);
                scheduler.starve(ended);
            }
            Err(error @ Error::Ended) => self.lost(task, Some(error)),
            Err(error) => {
                scheduler.has_ended();
                task.give_up(error);
                self.finished(&task);
            }
        }
    }

    fn go_on(&self, Stopped { task, mut linger }: Stopped) {
        if task.is_abandoned() {
            // One more quantum, if it may get to its end that way.
            let polled = linger.cancel_within(Duration::from_micros(task.quantum_us));
            match polled {
                Some(polled) => self.over(task, polled),
                None => {
                    if task.is_to_be_counted() {
                        self.scheduler.counters.abandoned.fetch_add(1, Relaxed);
                    }
                    self.lost(task, None);
                }
            }
            return;
        }
        match resume(&mut linger, task.quantum_us).map(drop) {
            Ok(()) => self.after(task, linger),
            Err(error) => self.lost(task, Some(error)),
        }
    }

    fn after(&self, task: Arc<Task>, linger: Linger<'static, Polled>) {
        match linger {
            Linger::Completion(polled) => self.over(task, polled),
            linger => {
                self.scheduler.counters.preemptions.fetch_add(1, Relaxed);
                self.scheduler.stopped.push(Stopped { task, linger: linger.donatable() });
            }
        }
    }

    /// A poll is over.
    fn over(&self, task: Arc<Task>, polled: Polled) {
        self.scheduler.has_ended();
        if polled == Polled::Finished {
            self.finished(&task);
        } else if !task.wait() {
            self.scheduler.push_ready(task);
        }
    }

    /// The function is gone in the middle of a poll.
    fn lost(&self, task: Arc<Task>, error: Option<Error>) {
        self.scheduler.has_ended();
        task.lose(error);
        task.requeue();
        self.scheduler.push_ready(task);
    }

    fn finished(&self, task: &Arc<Task>) {
        task.finish();
        let (listed, closer) = self.scheduler.tasks.with(|tasks| {
            let listed = tasks.all.try_remove(task.key.load(Relaxed));
            (listed, tasks.closer.clone().filter(|_| tasks.all.is_empty()))
        });
        drop(listed);
        closer.inspect(Thread::unpark);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.scheduler.workers.fetch_sub(1, SeqCst) == 1 {
            self.scheduler.driver.end();
        }
    }
}

fn insist<T>(mut steal: impl FnMut() -> Steal<T>) -> Option<T> {
    loop {
        match steal() {
            Steal::Success(value) => return Some(value),
            Steal::Empty => return None,
            Steal::Retry => {}
        }
    }
}
