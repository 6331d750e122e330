//! One preemptible function: its state machine, and the chain of functions that run inside each other.
//!
//! A task owns a libset, a thread control block (TCB) and a stack, which are pooled together: a task that
//! has ended is used again for the next launch.
//!
//! A running function may launch others; they form a chain, from the innermost, `Thread::current`,
//! through `parent` to the outermost, whose parent is null. When the deadline of one of them passes, the
//! outermost such function is stopped, with everything inside it: its `context` is then the innermost
//! one's point, and resuming it goes on there.

use crate::deadline::{self, NEVER, SHORTEST_ANTICIPATED_NS};
use crate::error::{ErrnoGuard, Error};
use crate::preempt;
use crate::stats::Stats;
use crate::thread::{self, PREEMPTION_SIGNAL, Thread};
use gotcha::{libgotcha_tcb, libgotcha_thread};
use libc::ucontext_t;
use libsignal::SignalSet;
#[cfg(feature = "backtrace")]
use libtimetravel::unwind::{self, Frame, Registers};
use libtimetravel::{Context, Stack, raw};
use std::cell::UnsafeCell;
use std::ffi::{c_int, c_long, c_void};
use std::ptr::{null, null_mut};
use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
    compiler_fence, fence,
};
use std::sync::{Mutex, MutexGuard};

mod cpu_time;
mod settings;
pub(crate) use settings::{SMALLEST_STACK_BYTES, Settings};

/// Why `run` came back; the code of a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Stop {
    Completed = raw::COMPLETED,
    /// It called `pause`.
    Paused = 1,
    /// Its deadline passed.
    Preempted = 2,
    /// It ended its thread; it cannot be resumed.
    Ended = 3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Has a function, and has not run.
    Prepared,
    Running,
    /// Can be resumed.
    Stopped(Stop),
    /// Has no function.
    Idle,
}

/// Counts the functions that a task has had: tells a handle from one of an earlier function of the same task.
pub(crate) type Generation = u64;

pub(crate) type Function = unsafe extern "C" fn(*mut c_void);

/// # Invariants
///
/// - While `state` is `Running`: `host` is the context of the `run` call that it will return to, and the
///   state of its TCB names the kernel thread that runs it.
/// - While `Stopped`: `innermost` is the function that goes on when it is resumed, itself or one inside
///   it, and `context` is where.
/// - While not `Running`, its TCB's `defer` is not 0.
/// - `keeper` is not null while it is one of those that this keeps, and not `Running` but on donated time. Both change
///   under the pool's lock, with one exception: `keeper` is null where nobody but the handle's owner can know of the task.
/// - `donor` is not null while it runs on donated time, and changes under the pool's lock. Nobody else takes it then.
///
/// Never freed, so that a handle that has outlived its function can be told by the generation. The alignment leaves
/// room for part of that in the C interface's pointers.
#[repr(align(64))]
pub(crate) struct Task {
    context: Context,
    host: *mut Context,
    /// The signal mask of its launcher, if that is a function with a mask of its own.
    launcher_own_mask: Option<SignalSet>,
    parent: *mut Task,
    /// Its launcher must not be stopped: deadlines further out wait until the launcher is left.
    is_barrier: bool,
    /// While it is stopped: it has called `pause`, from where it may be unwound.
    can_unwind: bool,
    /// It is to unwind at its next `pause`.
    is_cancelled: bool,
    /// It has returned, and its thread-locals are being destroyed.
    is_ending: bool,
    /// When it is cancelled, what it has allocated or opened is given back, if that was noted.
    pub(crate) is_reclaimed: bool,
    innermost: *mut Task,
    /// While it is stopped: the frame of the handler that it has stopped in; null: in none.
    interrupted: *const ucontext_t,
    pub(crate) state: State,
    /// Its own, absolute.
    deadline_ns: u64,
    /// The earliest of its own and those of the functions around it.
    effective_ns: u64,
    /// Budgets are the processor time of the kernel thread that runs it, not elapsed time: see `cpu_time.rs`...
    counts_cpu_time: bool,
    /// ...of which it has this much left when a function around it is stopped...
    cpu_rest_ns: u64,
    /// ...and may run until then. 0: until `deadline_ns`. As long as it has not, `deadline_ns` is the earliest that it can be.
    cpu_deadline_ns: u64,
    /// When it stopped with others inside it: the clocks of the functions inside it stand still until it goes on.
    stopped_ns: u64,
    function: Option<Function>,
    argument: *mut c_void,
    generation: AtomicU64,
    /// Who holds its handle, as far as we know: ran it last.
    keeper: AtomicPtr<Keeper>,
    /// The unfinished functions whose handles it holds.
    kept: Keeper,
    next: *mut Task,
    /// While it is stopped in mid-run, a thread that waits for a lock may let it go on.
    pub(crate) is_donatable: bool,
    /// It runs on time that somebody has donated, who waits for a lock or cancels it.
    is_donated: bool,
    /// The kernel thread that waits meanwhile.
    donor: *mut Thread,
    /// It has paused on donated time, of which whoever has its handle does not know.
    is_unreported: bool,
    stack_top: *mut u8,
    group: c_long,
    tcb: libgotcha_tcb,
    tls: *mut libgotcha_thread,
    pub(crate) stack: Stack,
}

/// The unfinished functions that somebody keeps, a function or a kernel thread: the first, and the others are linked by
/// `next`.
#[derive(Default)]
pub(crate) struct Keeper(AtomicPtr<Task>);

/// Reserved for each function; memory is used as it is touched.
/// Of the stacks that are made from now on.
pub(crate) static STACK_SIZE_BYTES: AtomicUsize = AtomicUsize::new(2 << 20);
/// Arguments and results larger than this do not go onto the function's stack.
/// They are moved to and from there by way of frames on it, and it may be as small as stacks get.
pub(crate) const LARGEST_PAYLOAD_BYTES: usize = SMALLEST_STACK_BYTES / 8;
/// How many functions may be abandoned: each keeps a few pages for good.
const MOST_ABANDONED: usize = 10_000;

static ABANDONED: AtomicUsize = AtomicUsize::new(0);
/// Functions that were cancelled in mid-run.
static CANCELLED: AtomicUsize = AtomicUsize::new(0);
/// Libsets that were made, and those of them that are never used again.
static MADE: AtomicUsize = AtomicUsize::new(0);
static RETIRED: AtomicUsize = AtomicUsize::new(0);

/// What is not counted by each kernel thread on its own.
///
/// Context: bracketed.
pub(crate) fn add_stats(stats: &mut Stats) {
    stats.cancellations = CANCELLED.load(Relaxed) as u64;
    stats.abandoned = ABANDONED.load(Relaxed) as u64;
    stats.libsets_made = MADE.load(Relaxed) as u64;
    stats.libsets_retired = RETIRED.load(Relaxed) as u64;
    stats.libsets_in_use = pool().count_unfinished() as u64;
}

static POOL: Mutex<Pool> = Mutex::new(Pool { idle: Vec::new(), all: Vec::new() });

struct Pool {
    /// Tasks without a function: those that are in no [`Slot`].
    idle: Vec<*mut Task>,
    /// All but those that were abandoned.
    all: Vec<*mut Task>,
}
// SAFETY: an idle task belongs to whoever takes it out of the pool; nothing in it is bound to a kernel thread. Of the
// others only the number is read that locks know them by.
unsafe impl Send for Pool {}

impl Pool {
    fn count_unfinished(&self) -> usize {
        let in_slots = thread::slots().filter(|slot| !slot.task.load(Relaxed).is_null()).count();
        self.all.len().saturating_sub(self.idle.len() + in_slots)
    }
}

fn pool() -> MutexGuard<'static, Pool> {
    // Waiting for a lock of the standard library can leave an error number.
    POOL.try_lock().unwrap_or_else(|_| {
        let _errno = ErrnoGuard::new();
        POOL.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    })
}

/// A kernel thread's own idle task, so that a steady thread takes and gives back without the pool's lock, and without the
/// bus's. Under the pool's lock another thread may take it out, which makes up for the barriers that the owner leaves out.
#[derive(Default)]
pub(crate) struct Slot {
    task: AtomicPtr<Task>,
    /// The owner is looking at `task`, and nobody else may: no other thread, nor a handler on top of it.
    is_in_use: AtomicBool,
    /// Another thread is looking at it, and the owner may not.
    is_closed: AtomicBool,
}

impl Slot {
    /// What `action` returns, unless it cannot be done now.
    ///
    /// Context: the owner's, preemption deferred.
    #[inline]
    fn use_it<T>(&self, action: impl FnOnce(&AtomicPtr<Task>) -> Option<T>) -> Option<T> {
        if self.is_in_use.load(Relaxed) {
            return None;
        }
        self.is_in_use.store(true, Relaxed);
        if HAS_BARRIER.load(Relaxed) {
            // The processor may still store later than it loads, but not later than `rob_all`'s barrier.
            compiler_fence(SeqCst);
        } else {
            fence(SeqCst);
        }
        let result = if self.is_closed.load(Acquire) { None } else { action(&self.task) };
        self.is_in_use.store(false, Release);
        result
    }

    #[inline]
    fn take(&self) -> Option<*mut Task> {
        self.use_it(|slot| {
            let task = slot.load(Relaxed);
            (!task.is_null()).then(|| {
                slot.store(null_mut(), Relaxed);
                task
            })
        })
    }

    /// Returns whether there was room.
    #[inline]
    fn give(&self, task: *mut Task) -> bool {
        self.use_it(|slot| slot.load(Relaxed).is_null().then(|| slot.store(task, Release))).is_some()
    }

    /// Before it has an owner: the last one may be gone in the middle of using it. Whoever has closed it opens it himself.
    pub(crate) fn reset(&self) {
        self.is_in_use.store(false, Release);
    }

    /// In the child of a fork, where whoever has closed it is gone.
    pub(crate) fn open(&self) {
        self.is_closed.store(false, Release);
    }

    /// The owner ends.
    ///
    /// Context: the owner's, outside functions.
    pub(crate) fn empty(&self) {
        if let Some(task) = self.take() {
            pool().idle.push(task);
        }
    }

    /// Takes the idle tasks of others, all of them, because it takes a barrier in all threads: 10 µs or so, and the first time some
    /// milliseconds. An owner who uses his slot at that moment keeps what he has.
    fn rob_all(pool: &mut Pool) {
        let slots = || thread::slots().filter(|slot| !slot.task.load(Relaxed).is_null());
        slots().for_each(|slot| slot.is_closed.store(true, Relaxed));
        if barrier_everywhere() {
            // After the barrier either the owner has seen that the slot is closed, or it is seen here that he uses it. He may
            // have taken the task before.
            for slot in thread::slots().filter(|slot| slot.is_closed.load(Relaxed) && !slot.is_in_use.load(Acquire)) {
                let task = slot.task.swap(null_mut(), Acquire);
                if !task.is_null() {
                    pool.idle.push(task);
                }
            }
        }
        thread::slots().for_each(Slot::open);
    }
}

/// The kernel can make all threads of the process pass a memory barrier. Where it cannot, each makes its own.
static HAS_BARRIER: AtomicBool = AtomicBool::new(false);

fn membarrier(command: c_int) -> libc::c_long {
    // SAFETY: takes numbers only.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) }
}

/// Before the first launch: a sandbox may forbid to ask.
fn look_for_barrier() {
    let commands = membarrier(libc::MEMBARRIER_CMD_QUERY);
    let wanted = libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED | libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED;
    HAS_BARRIER.store(commands >= 0 && commands & c_long::from(wanted) == c_long::from(wanted), Relaxed);
}

/// A memory barrier in every thread of the process that uses its slot. False: the kernel refuses.
///
/// Context: bracketed.
///
/// # Source
///
/// membarrier(2)
fn barrier_everywhere() -> bool {
    if !HAS_BARRIER.load(Relaxed) {
        fence(SeqCst);
        return true;
    }
    let pass = || membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED) == 0;
    pass() || (membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0 && pass())
}

/// The pool's lock while a thread forks, so that the child finds the pool whole. Used under that lock.
struct ForkGuard(UnsafeCell<Option<MutexGuard<'static, Pool>>>);
// SAFETY: only the thread that holds the pool's lock uses the cell.
unsafe impl Sync for ForkGuard {}
static FORK_GUARD: ForkGuard = ForkGuard(UnsafeCell::new(None));

/// Before a fork.
pub(crate) fn lock_pool() {
    let guard = pool();
    // SAFETY: this thread holds the lock.
    unsafe { *FORK_GUARD.0.get() = Some(guard) };
}

/// After a fork, in the parent, on the thread that called [`lock_pool`].
pub(crate) fn unlock_pool() {
    // SAFETY: this thread holds the lock, until the guard is dropped.
    let guard = unsafe { (*FORK_GUARD.0.get()).take() };
    drop(guard);
}

/// The same, in the child: what other kernel threads were running there, which are gone, never goes on. After a `_Fork()`
/// nobody has locked the pool, or somebody who is gone: it is left alone.
pub(crate) fn unlock_pool_in_child() -> bool {
    // SAFETY: this thread is the only one.
    let guard = unsafe { (*FORK_GUARD.0.get()).take() };
    if let Some(pool) = &guard {
        Task::forget_donated(pool);
    }
    guard.is_some()
}

// ---------------------------------------------------------------------------------- life

impl Task {
    fn make() -> Result<*mut Task, Error> {
        let _errno = ErrnoGuard::new();
        let group = gotcha::group_new()?;
        MADE.fetch_add(1, Relaxed);
        let task = Task::with_group(group);
        if task.is_err() {
            // SAFETY: the libset was just taken, and nothing runs in it.
            unsafe { gotcha::libgotcha_group_free(group) };
        }
        task
    }

    fn with_group(group: c_long) -> Result<*mut Task, Error> {
        let stack = Task::make_stack(STACK_SIZE_BYTES.load(Relaxed))?;
        // SAFETY: the stack lives as long as the task, which has the TCB.
        let tcb = unsafe { libgotcha_tcb::new(group, stack.bottom(), stack.size_bytes()) }?;
        // SAFETY: the TCB was just made.
        let tls = unsafe { gotcha::libgotcha_tcb_state(tcb.thread_pointer) };
        let task = Box::into_raw(Box::new(Task {
            context: Context::new(tcb.thread_pointer),
            host: null_mut(),
            launcher_own_mask: None,
            parent: null_mut(),
            is_barrier: false,
            can_unwind: false,
            is_cancelled: false,
            is_ending: false,
            is_reclaimed: false,
            innermost: null_mut(),
            interrupted: null(),
            state: State::Idle,
            deadline_ns: NEVER,
            effective_ns: NEVER,
            counts_cpu_time: false,
            cpu_rest_ns: 0,
            cpu_deadline_ns: 0,
            stopped_ns: 0,
            function: None,
            argument: null_mut(),
            generation: AtomicU64::new(0),
            keeper: AtomicPtr::new(null_mut()),
            kept: Keeper::default(),
            next: null_mut(),
            is_donatable: false,
            is_donated: false,
            donor: null_mut(),
            is_unreported: false,
            stack_top: stack.top(),
            group,
            tcb,
            tls,
            stack,
        }));
        pool().all.push(task);
        Ok(task)
    }

    /// Takes an idle task, making one if there is none.
    ///
    /// Context: bracketed (preemption deferred, starting libset).
    pub(crate) fn take() -> Result<*mut Task, Error> {
        let count = ABANDONED.load(Relaxed);
        if count >= MOST_ABANDONED {
            return Err(Error::TooManyAbandoned { count });
        }
        // SAFETY: this kernel thread's record.
        match unsafe { Thread::current().as_ref() }.and_then(|thread| thread.slot().take()) {
            Some(task) => Ok(task),
            None => Task::take_slowly(),
        }
    }

    #[cold]
    fn take_slowly() -> Result<*mut Task, Error> {
        let idle = pool().idle.pop();
        if let Some(task) = idle {
            return Ok(task);
        }
        Task::make().or_else(|error| {
            let _errno = ErrnoGuard::new();
            let mut pool = pool();
            Slot::rob_all(&mut pool);
            pool.idle.pop().ok_or(error)
        })
    }

    /// Gives an idle task what to run. `reserved_bytes` at the top of its stack are not the function's.
    ///
    /// # Safety
    ///
    /// `task` is idle and the caller's. `function(argument)` may run on any kernel thread.
    pub(crate) unsafe fn prepare(task: *mut Task, function: Function, argument: *mut c_void, reserved_bytes: usize) {
        // SAFETY: the caller's promise: nobody else uses the task.
        unsafe {
            let copy = gotcha::libgotcha_group_prepare((*task).group, function as *mut c_void);
            // The libset's copy of a library's function, if it is one, has the same type.
            (*task).function = Some(std::mem::transmute::<*mut c_void, Function>(copy));
            (*task).argument = argument;
            (*task).stack_top = (*task).stack.top().sub(reserved_bytes);
            (*task).innermost = task;
            (*task).generation.store((*task).generation.load(Relaxed) + 1, Release);
            (*task).state = State::Prepared;
            (*task).is_cancelled = false;
            (*task).is_ending = false;
            (*task).is_donatable = false;
            (*task).is_donated = false;
            (*task).is_unreported = false;
            (*task).counts_cpu_time = false;
            (*task).is_reclaimed = false;
            (*task).context.thread_pointer = (*task).tcb.thread_pointer;
            gotcha::libgotcha_tcb_refresh(&mut (*task).tcb);
        }
    }

    /// Gives back a task whose function has completed, or has never run.
    ///
    /// # Safety
    ///
    /// `task` is the caller's, and its function is not in mid-run.
    pub(crate) unsafe fn release(task: *mut Task) {
        // SAFETY: the caller's promise.
        unsafe {
            (*task).state = State::Idle;
            (*task).kept.let_go();
        }
        // SAFETY: this kernel thread's record.
        if !unsafe { Thread::current().as_ref() }.is_some_and(|thread| thread.slot().give(task)) {
            pool().idle.push(task);
        }
    }

    /// The same as [`Task::release`], for a function that has been cancelled, and has completed on account of that: for
    /// later ones its libset is as new.
    ///
    /// # Safety
    ///
    /// `task` is the caller's, and its function has completed.
    pub(crate) unsafe fn reclaim_completed(task: *mut Task) {
        let _errno = ErrnoGuard::new();
        // SAFETY: the caller's promise.
        unsafe {
            (*task).kept.let_go();
            Task::reclaim_one(task);
        }
    }

    /// Do threads that code of the libsets of the task, and of what would end with it, has started still run?
    ///
    /// Context: bracketed.
    ///
    /// # Safety
    ///
    /// `task` is the caller's, and not running.
    pub(crate) unsafe fn has_threads(task: *mut Task) -> bool {
        unsafe fn any(task: *mut Task) -> bool {
            // SAFETY: has_threads's promise, for the task and those that are linked to it, which the lock keeps.
            unsafe {
                let mut inner = (*task).innermost;
                loop {
                    let mut kept = (*inner).kept.0.load(Relaxed);
                    while !kept.is_null() {
                        if any(kept) {
                            return true;
                        }
                        kept = (*kept).next;
                    }
                    if gotcha::libgotcha_group_threads((*inner).group) != 0 {
                        return true;
                    }
                    if inner == task {
                        return false;
                    }
                    inner = (*inner).parent;
                }
            }
        }
        let _lock = pool();
        // SAFETY: the caller's promise.
        unsafe { any(task) }
    }

    /// The calls that have not returned, innermost first, to the base of the task's stack.
    ///
    /// Context: bracketed.
    ///
    /// # Safety
    ///
    /// `task` is the caller's, and stopped in mid-run.
    #[cfg(feature = "backtrace")]
    pub(crate) unsafe fn frames(task: *mut Task) -> Vec<Frame> {
        let mut frames = Vec::new();
        // SAFETY: the caller's promise: the tasks of the chain are stopped with this one. Each but the innermost is in the
        // call of `run` that waits for the one inside, and so is the other's host.
        unsafe {
            let mut inner = (*task).innermost;
            let interrupted = (*task).interrupted;
            let mut registers = if interrupted.is_null() {
                Registers::suspended(&(*task).context)
            } else {
                // What the handler does is of no interest, and of no frame where calls are sent on.
                let registers = Registers::interrupted(&*interrupted);
                let is_frameless = gotcha::libgotcha_is_trampoline(registers.instruction());
                if is_frameless { registers.of_caller() } else { registers }
            };
            loop {
                unwind::walk(&registers, |frame| frames.push(frame));
                if inner == task {
                    return frames;
                }
                registers = Registers::suspended(&*(*inner).host);
                inner = (*inner).parent;
            }
        }
    }

    /// Ends a function in mid-run, those inside it and those whose handles they hold, and uses everything again.
    ///
    /// # Safety
    ///
    /// `task` is the caller's and not running, and nothing outside points into its frames, thread-locals or
    /// captures, or into theirs.
    pub(crate) unsafe fn reclaim(task: *mut Task) {
        let _errno = ErrnoGuard::new();
        // SAFETY: the caller's promise.
        unsafe { Task::end(task, Task::reclaim_one) };
    }

    /// The innermost first.
    unsafe fn end(task: *mut Task, end_one: unsafe fn(*mut Task)) {
        // SAFETY: reclaim's and abandon's contracts: the tasks of the chain are stopped with this one, and what
        // they keep is stopped too.
        unsafe {
            let mut inner = (*task).innermost;
            loop {
                let parent = (*inner).parent;
                (*inner).is_reclaimed |= (*task).is_reclaimed;
                while let Some(kept) = (*inner).kept.take() {
                    (*kept).is_reclaimed |= (*task).is_reclaimed;
                    Task::end(kept, end_one);
                }
                Task::settle_resources(inner);
                CANCELLED.fetch_add(1, Relaxed);
                // From here on handles are stale.
                (*inner).generation.fetch_add(1, Release);
                end_one(inner);
                if inner == task {
                    break;
                }
                inner = parent;
            }
        }
    }

    unsafe fn reclaim_one(task: *mut Task) {
        // SAFETY: reclaim's contract, for this task.
        unsafe {
            if gotcha::libgotcha_group_renew((*task).group) {
                gotcha::libgotcha_tcb_roll_back(&mut (*task).tcb);
                Task::release(task);
            } else {
                // Threads that it started live on in its libset, which goes with the task.
                RETIRED.fetch_add(1, Relaxed);
                pool().all.retain(|other| *other != task);
            }
        }
    }

    /// Ends a function in mid-run without touching its stack, thread-locals and captures, which may be
    /// pointed at from elsewhere: they are never used again. Its libset is.
    ///
    /// # Safety
    ///
    /// `task` is the caller's, and not running.
    pub(crate) unsafe fn abandon(task: *mut Task) {
        let _errno = ErrnoGuard::new();
        // SAFETY: the caller's promise; the libset's state is nobody's but the function's.
        unsafe { Task::end(task, Task::abandon_one) };
    }

    unsafe fn abandon_one(task: *mut Task) {
        ABANDONED.fetch_add(1, Relaxed);
        pool().all.retain(|other| *other != task);
        // SAFETY: abandon's contract, for this task.
        unsafe {
            if !gotcha::libgotcha_group_renew((*task).group) {
                RETIRED.fetch_add(1, Relaxed);
                return;
            }
            match Task::with_group((*task).group) {
                Ok(fresh) => Task::release(fresh),
                Err(_) => gotcha::libgotcha_group_free((*task).group),
            }
        }
    }
}

// ---------------------------------------------------------------------------------- handles

/// A function's handle lies with whoever ran it last. If that is a function too, and is cancelled, its frames are gone,
/// and nobody could resume or cancel the inner one: so it ends with it. A handle that was put elsewhere
/// in the meantime is stale then, which its generation tells.
impl Task {
    /// # Safety
    ///
    /// `task` is a task, of whatever function.
    #[inline]
    pub(crate) unsafe fn generation(task: *mut Task) -> Generation {
        // SAFETY: the caller's promise: tasks are never freed.
        unsafe { (*task).generation.load(Acquire) }
    }

    /// The function that calls this, if one does, keeps the handle of an unfinished one. Handlers of the program
    /// and others on top of a function are not that function. A kernel thread keeps those that it may let go on while it
    /// waits.
    ///
    /// Context: bracketed.
    ///
    /// # Safety
    ///
    /// `task` is the caller's, and prepared or stopped.
    pub(crate) unsafe fn keep(task: *mut Task) {
        let thread = Thread::current();
        if thread.is_null() {
            return;
        }
        // SAFETY: the caller's promise; the thread is this one.
        unsafe {
            let launcher = (*thread).current.load(Relaxed);
            let keeper = if launcher.is_null() {
                if !(*task).is_donatable || (*task).state != State::Stopped(Stop::Preempted) {
                    return;
                }
                &(*thread).kept
            } else if (*launcher).tls == gotcha::this() {
                &(*launcher).kept
            } else {
                return;
            };
            let _lock = pool();
            keeper.link(task);
        }
    }

    /// Makes a handle's task the caller's, if it still is the function that `is_mine` knows. It is nobody's to end
    /// or to let go on from then on.
    ///
    /// Context: bracketed.
    ///
    /// # Safety
    ///
    /// `task` is a task, of whatever function.
    #[inline]
    pub(crate) unsafe fn claim(task: *mut Task, is_mine: impl Fn(Generation) -> bool) -> bool {
        // SAFETY: the caller's promise: tasks are never freed. Who ends a kept task changes the generation first.
        unsafe {
            if (*task).keeper.load(Acquire).is_null() {
                return is_mine(Task::generation(task));
            }
            Task::claim_kept(task, is_mine)
        }
    }

    unsafe fn claim_kept(task: *mut Task, is_mine: impl Fn(Generation) -> bool) -> bool {
        loop {
            let lock = pool();
            // SAFETY: as in claim.
            unsafe {
                if !is_mine(Task::generation(task)) {
                    return false;
                }
                if (*task).donor.is_null() {
                    if !(*task).keeper.load(Relaxed).is_null() {
                        Task::unlink(task);
                    }
                    return true;
                }
                if (*task).donor == Thread::current() {
                    // A handler of the program, on top of the function: what is running is nobody's to take.
                    return false;
                }
            }
            drop(lock);
            // Not a mere yield: who has donated may have a lower priority.
            std::thread::sleep(std::time::Duration::from_micros(20));
        }
    }

    /// What state it is in, if it still is the function that `is_mine` knows.
    ///
    /// Context: bracketed.
    ///
    /// # Safety
    ///
    /// `task` is a task, of whatever function.
    pub(crate) unsafe fn look(task: *mut Task, is_mine: impl Fn(Generation) -> bool) -> Option<State> {
        // SAFETY: the caller's promise. Under the lock nobody else ends it.
        unsafe {
            let _lock = (!(*task).keeper.load(Acquire).is_null()).then(pool);
            is_mine(Task::generation(task)).then(|| (*task).state)
        }
    }

    /// Context: under the pool's lock.
    unsafe fn unlink(task: *mut Task) {
        // SAFETY: the callers': a task that has a keeper is among those that it keeps.
        unsafe {
            let first = &(*(*task).keeper.load(Relaxed)).0;
            if first.load(Relaxed) == task {
                first.store((*task).next, Relaxed);
            } else {
                let mut before = first.load(Relaxed);
                while (*before).next != task {
                    before = (*before).next;
                }
                (*before).next = (*task).next;
            }
            (*task).keeper.store(null_mut(), Release);
        }
    }
}

impl Keeper {
    /// Context: under the pool's lock.
    unsafe fn link(&self, task: *mut Task) {
        // SAFETY: keep's: the task is the caller's, and nobody keeps it.
        unsafe {
            (*task).next = self.0.load(Relaxed);
            self.0.store(task, Relaxed);
            (*task).keeper.store((&raw const *self).cast_mut(), Release);
        }
    }

    /// Takes over one of them, whose handles become stale.
    unsafe fn take(&self) -> Option<*mut Task> {
        let _lock = pool();
        // SAFETY: end's: the keeper is the caller's.
        unsafe {
            let kept = self.0.load(Relaxed);
            if kept.is_null() {
                return None;
            }
            (*kept).generation.fetch_add(1, Release);
            Task::unlink(kept);
            Some(kept)
        }
    }

    /// From here on they are whoever's has their handles.
    ///
    /// # Safety
    ///
    /// The keeper is the caller's.
    pub(crate) unsafe fn let_go(&self) {
        if !self.0.load(Relaxed).is_null() {
            // SAFETY: the caller's promise.
            unsafe { self.let_go_of_some() };
        }
    }

    #[cold]
    unsafe fn let_go_of_some(&self) {
        let _lock = pool();
        while !self.0.load(Relaxed).is_null() {
            // SAFETY: let_go's, and the list's.
            unsafe { Task::unlink(self.0.load(Relaxed)) };
        }
    }
}

// ---------------------------------------------------------------------------------- donated time

/// A kernel thread that is about to wait for a lock lets functions go on that were stopped in mid-run and may hold it:
/// those whose handles it has itself, or the functions that it is running.
impl Task {
    /// Lets one go on for a moment, until it releases a lock at most: the one whose TCB has that tid, or, if 0, the next
    /// in turn. False: there is none.
    ///
    /// Context: bracketed, on the TCB of whoever waits, with preemption deferred once more: then this is a launch that cannot
    /// be stopped.
    pub(crate) fn donate(tid: i32) -> bool {
        let _errno = ErrnoGuard::new();
        let thread = Thread::current();
        // SAFETY: the thread is this one. A task that is found is stopped, and nobody takes it while it has a donor.
        unsafe {
            let Some(task) = Task::find_donatable(thread, tid) else { return false };
            (*thread).counters().donations.add_one();
            (*task).is_unreported = Task::run_donated(task, DONATED_US) == Ok(Stop::Paused);
            // It stays with its keeper, however it has stopped: whoever claims it looks.
            let _lock = pool();
            (*task).donor = null_mut();
        }
        true
    }

    unsafe fn run_donated(task: *mut Task, budget_us: u64) -> Result<Stop, Error> {
        // SAFETY: the callers': the task is stopped, and theirs. It may run functions inside, which stop with it.
        unsafe {
            let innermost = (*task).innermost;
            (*(*innermost).tls).is_donated = 1;
            (*task).is_donated = true;
            let stop = Task::run(task, budget_us);
            (*task).is_donated = false;
            (*(*innermost).tls).is_donated = 0;
            stop
        }
    }

    /// The running function has released a lock: the slice of the one around it that runs on donated time ends.
    ///
    /// Context: a function's TCB, preemption deferred.
    ///
    /// # Safety
    ///
    /// `thread` is this kernel thread, and a function is running on it.
    pub(crate) unsafe fn give_back(thread: *mut Thread) {
        // SAFETY: the caller's promise: the chain is this thread's.
        unsafe {
            let innermost = (*thread).current.load(Relaxed);
            let mut task = innermost;
            while !task.is_null() && !(*task).is_donated {
                task = Task::stopper(task);
            }
            if !task.is_null() {
                (*task).deadline_ns = 0;
                (*thread).deadline_ns.store(0, Relaxed);
                Task::set_pending(innermost);
            }
        }
    }

    fn forget_donated(pool: &Pool) {
        for task in &pool.all {
            // SAFETY: tasks are never freed. Whoever has a donor is kept.
            unsafe {
                if !(**task).donor.is_null() && (**task).donor != Thread::current() {
                    (**task).generation.fetch_add(1, Release);
                    (**task).donor = null_mut();
                    Task::unlink(*task);
                }
            }
        }
    }

    /// The one that is known by that tid; 0: of all, the one that has been waiting longest.
    unsafe fn find_donatable(thread: *mut Thread, tid: i32) -> Option<*mut Task> {
        let _lock = pool();
        // SAFETY: donate's: the thread is this one, and so is the chain that it runs. What is kept changes under the
        // lock.
        unsafe {
            let mut running = (*thread).current.load(Relaxed);
            if !running.is_null() && (*running).tls != gotcha::this() {
                // Code on top of a function, which may hold locks of ours or of the dynamic linker's.
                return None;
            }
            let mut found: Option<*mut Task> = None;
            loop {
                let keeper = if running.is_null() { &(*thread).kept } else { &(*running).kept };
                let mut task = keeper.0.load(Relaxed);
                while !task.is_null() {
                    let can_go_on = (*task).is_donatable
                        && (*task).donor.is_null()
                        && (*task).state == State::Stopped(Stop::Preempted);
                    let is_wanted = tid == 0 || Task::is_known_as(task, tid);
                    if can_go_on && is_wanted && found.is_none_or(|found| (*task).stopped_ns < (*found).stopped_ns) {
                        found = Some(task);
                    }
                    task = (*task).next;
                }
                if running.is_null() {
                    break;
                }
                running = (*running).parent;
            }
            if let Some(task) = found {
                (*task).donor = thread;
            }
            found
        }
    }

    /// Is that the tid of the task's TCB, or of a function's inside it?
    unsafe fn is_known_as(task: *mut Task, tid: i32) -> bool {
        // SAFETY: find_donatable's: the task is stopped, with those inside it.
        unsafe {
            let mut inner = (*task).innermost;
            loop {
                if gotcha::libgotcha_tcb_tid(&(*inner).tcb) == tid {
                    return true;
                }
                if inner == task {
                    return false;
                }
                inner = (*inner).parent;
            }
        }
    }

    /// A function that is going to be cancelled in mid-run goes on until it holds no lock of the program's that we know of,
    /// or has had [`GRACE_SLICES`].
    ///
    /// Context: bracketed.
    ///
    /// # Safety
    ///
    /// `task` is the caller's, and what it has borrowed is still there.
    pub(crate) unsafe fn release_locks(task: *mut Task) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut slices = 0;
            while (*task).state == State::Stopped(Stop::Preempted)
                && Task::holds_locks(task)
                && slices < GRACE_SLICES
                && Task::run_donated(task, DONATED_US).is_ok()
            {
                slices += 1;
            }
        }
    }

    #[inline]
    unsafe fn holds_locks(task: *mut Task) -> bool {
        // SAFETY: release_locks's.
        unsafe {
            let mut inner = (*task).innermost;
            loop {
                if (*(*inner).tls).locks_held != 0 {
                    return true;
                }
                if inner == task {
                    return false;
                }
                inner = (*inner).parent;
            }
        }
    }
}

/// Does a function live whose TCB has that tid? And how many are unfinished, and have been cancelled in mid-run.
///
/// Context: bracketed.
pub(crate) fn look_for(tid: i32) -> (bool, usize, usize) {
    let pool = pool();
    // SAFETY: tasks are never freed.
    let is_known_as = |task: &*mut Task| unsafe { gotcha::libgotcha_tcb_tid(&(**task).tcb) } == tid;
    (tid != 0 && pool.all.iter().any(is_known_as), pool.count_unfinished(), CANCELLED.load(Relaxed))
}

/// A slice of donated time.
const DONATED_US: u64 = 50;
/// How long a function that is cancelled may take to release its locks: 1 ms. Counted, because on a busy machine time passes
/// while the kernel runs other threads.
const GRACE_SLICES: u32 = 20;

// ---------------------------------------------------------------------------------- running

impl Task {
    /// Runs a prepared or stopped task until it completes or stops, for at most `budget_us`.
    ///
    /// Context: the launcher's stack and TCB, bracketed. After it has come back the kernel thread may be
    /// another one, if the launcher is itself a function.
    ///
    /// # Safety
    ///
    /// `task` is the caller's, `Prepared` or `Stopped`, but not ended.
    pub(crate) unsafe fn run(task: *mut Task, budget_us: u64) -> Result<Stop, Error> {
        let thread = Thread::get()?;
        let mut host = Context::new(raw::thread_pointer());
        // SAFETY: the caller's promise.
        let fresh = unsafe { (*task).state } == State::Prepared;
        // SAFETY: the caller's promise about the task; the thread is this one; `host` outlives the
        // switch, because this frame waits for it.
        let code = unsafe {
            if fresh {
                // Known of a kernel thread since it was made.
                (*(*task).tls).signal_blocked = (*gotcha::this()).signal_blocked;
            }
            (*task).host = &mut host;
            (*task).parent = (*thread).current.load(Relaxed);
            (*task).is_barrier = Task::is_launched_unstoppably((*task).parent);
            if (*task).parent.is_null() && (*thread).mask_is_unknown.load(Relaxed) {
                Thread::learn_mask(thread);
                // What a handler of the program sees is not for long.
                (*thread).mask_is_unknown.store(preempt::in_handler(), Relaxed);
            }
            let own_mask = preempt::in_handler() || Task::has_own_mask((*task).parent);
            (*task).launcher_own_mask = own_mask.then(libsignal::thread_mask);
            (*task).state = State::Running;
            Task::adopt(task, thread);
            if (*task).innermost != task || (*(*task).tls).stack_is_own != 0 {
                Task::install_stacks((*task).innermost, task);
            }
            Task::set_deadlines(task, thread, budget_us);
            if fresh {
                raw::enter(&mut host, &mut (*task).context, (*task).stack_top, body, task.cast())
            } else {
                raw::reenter(&mut host, &mut (*task).context)
            }
        };
        // SAFETY: as before; `current()` is read afresh.
        unsafe {
            if code == raw::COMPLETED {
                // Also if it was stopped before with others inside.
                (*task).innermost = task;
            }
            Task::put_stacks_aside((*task).innermost, task);
            let thread = Thread::current();
            Task::disown(task, thread);
            let counters = (*thread).counters();
            if fresh {
                counters.launches.add_one();
            }
            let (stop, count) = match code {
                raw::COMPLETED => (Stop::Completed, &counters.completions),
                code if code == Stop::Paused as usize => (Stop::Paused, &counters.pauses),
                code if code == Stop::Preempted as usize => (Stop::Preempted, &counters.preemptions),
                _ => (Stop::Ended, &counters.completions),
            };
            count.add_one();
            (*task).state = State::Stopped(stop);
            Ok(stop)
        }
    }

    /// The same, of a task that may have come to its end on donated time, or to a pause, which is told now.
    ///
    /// # Safety
    ///
    /// As for run, but it may have ended.
    #[inline]
    pub(crate) unsafe fn go_on(task: *mut Task, budget_us: u64) -> Result<Stop, Error> {
        // SAFETY: the caller's promise.
        match unsafe { (*task).state } {
            State::Stopped(stop @ (Stop::Completed | Stop::Ended)) => Ok(stop),
            // SAFETY: the caller's promise.
            State::Stopped(Stop::Paused) if unsafe { std::mem::take(&mut (*task).is_unreported) } => Ok(Stop::Paused),
            // SAFETY: the caller's promise.
            _ => unsafe { Task::run(task, budget_us) },
        }
    }

    /// Is this a launch from code on top of a running function that cannot be stopped with it? That is code on
    /// another TCB, such as a handler of the program, an exit handler or a constructor; or the function's own
    /// where it has deferred its preemption by more than our bracket.
    unsafe fn is_launched_unstoppably(parent: *mut Task) -> bool {
        let state = gotcha::this();
        // SAFETY: run's contract: a parent is running on this kernel thread.
        !parent.is_null() && unsafe { state != (*parent).tls || (*state).defer != 1 }
    }

    /// The function around the task whose deadline stops the task too.
    unsafe fn stopper(task: *mut Task) -> *mut Task {
        // SAFETY: the callers': the task's chain is this thread's.
        unsafe { if (*task).is_barrier { null_mut() } else { (*task).parent } }
    }

    /// The kernel thread takes over the task and those inside it.
    unsafe fn adopt(task: *mut Task, thread: *mut Thread) {
        // SAFETY: run's contract: the whole chain is stopped, and ours.
        unsafe {
            let mut inner = (*task).innermost;
            loop {
                let tls = (*inner).tls;
                (*tls).owner = thread.cast();
                (*tls).host = (*thread).thread_pointer;
                (*tls).pending = 0;
                if inner == task {
                    break;
                }
                inner = (*inner).parent;
            }
            // A handler that finds the functions current finds them owned...
            compiler_fence(SeqCst);
            (*thread).current.store((*task).innermost, Relaxed);
            (*thread).wake_up();
        }
    }

    /// Alternate signal stacks that functions of the chain have set are in force while they run, the innermost
    /// one's in the end.
    unsafe fn install_stacks(inner: *mut Task, task: *mut Task) {
        // SAFETY: run's contract.
        unsafe {
            if inner != task {
                Task::install_stacks((*inner).parent, task);
            }
            if (*(*inner).tls).stack_is_own != 0 {
                gotcha::libgotcha_tcb_exchange_stack((*inner).tls, true);
            }
        }
    }

    unsafe fn put_stacks_aside(mut inner: *mut Task, task: *mut Task) {
        // SAFETY: run's contract.
        unsafe {
            loop {
                if (*(*inner).tls).stack_is_own != 0 {
                    gotcha::libgotcha_tcb_exchange_stack((*inner).tls, false);
                }
                if inner == task {
                    break;
                }
                inner = (*inner).parent;
            }
        }
    }

    unsafe fn set_deadlines(task: *mut Task, thread: *mut Thread, budget_us: u64) {
        // SAFETY: run's contract.
        unsafe {
            let innermost = (*task).innermost;
            let stopper = Task::stopper(task);
            let is_unlimited = budget_us == u64::MAX && (stopper.is_null() || (*stopper).effective_ns == NEVER);
            if is_unlimited && innermost == task {
                (*task).deadline_ns = NEVER;
                (*task).effective_ns = NEVER;
                (*thread).deadline_ns.store(NEVER, Relaxed);
                return;
            }
            let now_ns = deadline::now_ns();
            Task::settle(task, now_ns, budget_us);
            (*thread).deadline_ns.store((*innermost).effective_ns, Relaxed);
            // ...and one that comes after the look at the timer finds the deadline.
            compiler_fence(SeqCst);
            if !(*thread).is_armed_for(now_ns, (*innermost).effective_ns) {
                let armed_ns = (*thread).arm(now_ns, (*innermost).effective_ns);
                if (*innermost).effective_ns.saturating_sub(now_ns) < SHORTEST_ANTICIPATED_NS {
                    Task::settle(task, armed_ns, budget_us);
                    (*thread).deadline_ns.store((*innermost).effective_ns, Relaxed);
                }
            }
        }
    }

    unsafe fn settle(task: *mut Task, now_ns: u64, budget_us: u64) {
        // SAFETY: run's contract; parents of the chain are running functions of this thread.
        unsafe {
            (*task).deadline_ns = deadline::deadline_after(now_ns, budget_us);
            if (*task).counts_cpu_time {
                Task::settle_cpu_time(task, budget_us);
            }
            let paused_ns = now_ns.saturating_sub((*task).stopped_ns);
            (*task).stopped_ns = now_ns;
            Task::settle_chain((*task).innermost, task, paused_ns);
        }
    }

    unsafe fn settle_chain(inner: *mut Task, task: *mut Task, paused_ns: u64) {
        // SAFETY: run's contract.
        unsafe {
            if inner != task {
                Task::settle_chain((*inner).parent, task, paused_ns);
                if (*inner).deadline_ns != NEVER {
                    (*inner).deadline_ns = (*inner).deadline_ns.saturating_add(paused_ns);
                }
                if (*inner).counts_cpu_time {
                    Task::go_on_with_cpu_time(inner);
                }
            }
            let stopper = Task::stopper(inner);
            let outer_ns = if stopper.is_null() { NEVER } else { (*stopper).effective_ns };
            (*inner).effective_ns = (*inner).deadline_ns.min(outer_ns);
        }
    }

    /// The kernel thread goes on with what launched the task.
    unsafe fn disown(task: *mut Task, thread: *mut Thread) {
        // SAFETY: run's contract.
        unsafe {
            let parent = (*task).parent;
            (*thread).current.store(parent, Relaxed);
            let effective_ns = if parent.is_null() { NEVER } else { (*parent).effective_ns };
            (*thread).deadline_ns.store(effective_ns, Relaxed);
            let tls = (*task).tls;
            if !parent.is_null() {
                // An expiry that the function did not notice may have been meant for its launcher.
                (*(*parent).tls).pending = 1;
            } else if (*gotcha::this()).signal_blocked != 0 {
                (*thread).quieten();
            }
            if (*tls).mask_changed != 0 {
                libsignal::set_thread_mask(&Task::launcher_mask(task, thread));
            }
            if !(*(*thread).held.get()).is_empty() {
                preempt::requeue_held(thread);
            }
        }
    }

    /// The outermost function of the chain whose deadline has passed, else the innermost. Those beyond a launch
    /// that cannot be stopped have to wait.
    ///
    /// # Safety
    ///
    /// `thread` is this kernel thread, and a function is running on it.
    pub(crate) unsafe fn expired(thread: *mut Thread, now_ns: u64) -> *mut Task {
        // SAFETY: the caller's promise: the chain is this thread's.
        unsafe {
            let innermost = (*thread).current.load(Relaxed);
            let mut outermost = innermost;
            let mut task = innermost;
            while !task.is_null() {
                if Task::is_over(task, now_ns) {
                    outermost = task;
                }
                task = Task::stopper(task);
            }
            outermost
        }
    }

    /// Stops a function whose deadline has passed, with those inside it; returns when it is resumed. In the preemption signal's
    /// handler: of the code that was `interrupted`; else null.
    ///
    /// Context: a function's stack and TCB, preemption deferred.
    ///
    /// # Safety
    ///
    /// `thread` is this kernel thread, and `task` is running on it.
    #[inline]
    pub(crate) unsafe fn stop_expired(
        task: *mut Task,
        thread: *mut Thread,
        now_ns: u64,
        interrupted: *const ucontext_t,
    ) {
        // SAFETY: the caller's promise: the chain is this thread's.
        unsafe {
            if (*task).deadline_ns != 0 {
                let late_ns = now_ns.saturating_sub((*task).deadline_ns);
                (*thread).counters().count_overshoot(late_ns);
                preempt::trace(c"preempted, after the deadline by", late_ns / 1000, c" us");
            }
            (*task).stopped_ns = now_ns;
            let innermost = (*thread).current.load(Relaxed);
            Task::note_cpu_time(innermost, task);
            (*task).interrupted = interrupted;
            Task::stop(task, innermost, Stop::Preempted);
        }
    }

    /// Stops the innermost function; returns when it is resumed. In a handler of the program, whose frame belongs
    /// to the kernel thread, a function does not pause.
    ///
    /// Context: a function's stack and TCB, bracketed.
    ///
    /// # Safety
    ///
    /// A function is running on this kernel thread.
    #[inline]
    pub(crate) unsafe fn stop_current(reason: Stop) {
        let thread = Thread::current();
        // SAFETY: the caller's promise.
        unsafe {
            let task = (*thread).current.load(Relaxed);
            if preempt::in_handler() {
                if reason == Stop::Paused {
                    return;
                }
                // The mask is the handler's.
                (*(*task).tls).mask_changed = 1;
            }
            (*task).interrupted = null();
            Task::without_own_mask(task, thread, || Task::stop(task, task, reason));
        }
    }

    /// The function calls `pause`. Returns whether it is now to unwind from there, which it cannot while it is
    /// `unwinding` already, in a handler of the program, or when it has returned.
    ///
    /// Context: a function's stack and TCB, bracketed.
    ///
    /// # Safety
    ///
    /// A function is running on this kernel thread.
    #[inline]
    pub(crate) unsafe fn pause_current(unwinding: bool) -> bool {
        // SAFETY: the caller's promise; the function moves between kernel threads, its task does not change.
        unsafe {
            let task = (*Thread::current()).current.load(Relaxed);
            let can_unwind = !unwinding && !preempt::in_handler() && !(*task).is_ending;
            if !(*task).is_cancelled {
                (*task).can_unwind = can_unwind;
                Task::stop_current(Stop::Paused);
                (*task).can_unwind = false;
            }
            (*task).is_cancelled && can_unwind
        }
    }

    /// The function is to unwind at its next `pause`. Returns whether that is where it has stopped.
    ///
    /// # Safety
    ///
    /// `task` is the caller's, and stopped.
    pub(crate) unsafe fn set_cancelled(task: *mut Task) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            (*task).is_cancelled = true;
            (*task).is_unreported = false;
            (*task).can_unwind
        }
    }

    /// Stops what has expired, where preemption was deferred; returns when it is resumed.
    ///
    /// Context: a function's stack and TCB, bracketed.
    ///
    /// # Safety
    ///
    /// `thread` is this kernel thread, and a function is running on it.
    pub(crate) unsafe fn stop_deferred(thread: *mut Thread, now_ns: u64) {
        // SAFETY: the caller's promise.
        unsafe {
            let task = Task::expired(thread, now_ns);
            Task::without_own_mask(task, thread, || Task::stop_expired(task, thread, now_ns, null()));
        }
    }

    /// Outside of a handler, a mask that the function has changed is put away by hand while it is stopped.
    #[inline]
    unsafe fn without_own_mask(task: *mut Task, thread: *mut Thread, stop: impl FnOnce()) {
        // SAFETY: the callers' promise: the chain is running on this thread.
        unsafe {
            let own = Task::has_own_mask((*thread).current.load(Relaxed));
            let own_mask = own.then(|| libsignal::set_thread_mask(&Task::launcher_mask(task, thread)));
            stop();
            let thread = Thread::current();
            if let Some(mut own_mask) = own_mask {
                own_mask.remove(PREEMPTION_SIGNAL);
                (*thread).mask_is_blocked.store(false, Relaxed);
                libsignal::set_thread_mask(&own_mask);
            } else {
                Thread::open_mask(thread);
            }
        }
    }

    #[inline]
    unsafe fn stop(task: *mut Task, innermost: *mut Task, reason: Stop) {
        // SAFETY: stop_expired and stop_current pass a chain of this thread; its host waits in run.
        unsafe {
            (*task).innermost = innermost;
            (*task).context.thread_pointer = raw::thread_pointer();
            raw::leave(&mut (*task).context, (*task).host, reason as usize);
        }
    }

    /// Does the function, or one around it, have a signal mask of its own? Others run with that of the kernel
    /// thread that they are on. Null: no function.
    ///
    /// # Safety
    ///
    /// `task` is running on this kernel thread, or is null.
    pub(crate) unsafe fn has_own_mask(mut task: *mut Task) -> bool {
        // SAFETY: the caller's promise: the chain is this thread's.
        unsafe {
            while !task.is_null() && (*(*task).tls).mask_changed == 0 {
                task = (*task).parent;
            }
        }
        !task.is_null()
    }

    /// The signal mask that goes back into force when the function stops.
    ///
    /// # Safety
    ///
    /// `thread` is this kernel thread, and `task` is running on it, or has just stopped.
    pub(crate) unsafe fn launcher_mask(mut task: *mut Task, thread: *mut Thread) -> SignalSet {
        // SAFETY: the caller's promise: the chain is this thread's.
        unsafe {
            while !task.is_null() {
                if let Some(mask) = (*task).launcher_own_mask {
                    return mask;
                }
                task = (*task).parent;
            }
            SignalSet::from_bits((*thread).mask.load(Relaxed))
        }
    }

    /// A preemption was put off: it is due when the task lets itself be preempted again.
    ///
    /// # Safety
    ///
    /// `task` is running on this kernel thread.
    pub(crate) unsafe fn set_pending(task: *mut Task) {
        // SAFETY: the caller's promise; volatile: this is a handler.
        unsafe { (&raw mut (*(*task).tls).pending).write_volatile(1) };
    }

    /// Is `address` on the task's stack?
    ///
    /// # Safety
    ///
    /// `task` is running on this kernel thread; so for the two below.
    pub(crate) unsafe fn holds(task: *mut Task, address: usize) -> bool {
        // SAFETY: the caller's promise.
        let (bottom, top) = unsafe { ((*task).stack.bottom() as usize, (*task).stack.top() as usize) };
        (bottom..=top).contains(&address)
    }

    /// Is it on the stack of a function around the task?
    pub(crate) unsafe fn holds_around(task: *mut Task, address: usize) -> bool {
        // SAFETY: the caller's promise: the chain is this thread's.
        unsafe {
            let parent = (*task).parent;
            !parent.is_null() && (Task::holds(parent, address) || Task::holds_around(parent, address))
        }
    }

    pub(crate) unsafe fn thread_pointer(task: *mut Task) -> usize {
        // SAFETY: the caller's promise.
        unsafe { (*task).tcb.thread_pointer }
    }

    /// The task whose guard page `address` is in, among those running on `thread`.
    ///
    /// # Safety
    ///
    /// `thread` is this kernel thread.
    pub(crate) unsafe fn overflowed(thread: *mut Thread, address: usize) -> Option<Overflow> {
        // SAFETY: the caller's promise: the chain is this thread's.
        unsafe {
            let mut task = (*thread).current.load(Relaxed);
            while !task.is_null() {
                let bottom = (*task).stack.bottom() as usize;
                if address < bottom && address >= bottom - 4096 {
                    let function = (*task).function.map_or(0, |function| function as usize);
                    return Some(Overflow { function, size_bytes: (*task).stack.size_bytes() });
                }
                task = (*task).parent;
            }
            None
        }
    }
}

pub(crate) struct Overflow {
    pub(crate) function: usize,
    pub(crate) size_bytes: usize,
}

/// The base of a function's stack.
///
/// Context: the function's stack and TCB, in its libset; preemption deferred at both ends.
unsafe extern "C" fn body(task: *mut c_void) -> *mut Context {
    let task: *mut Task = task.cast();
    // SAFETY: enter was given this task, which stays while it runs. The function pointer and its argument
    // belong together (prepare's contract).
    unsafe {
        Thread::open_mask(Thread::current());
        preempt::open();
        if let Some(function) = (*task).function {
            function((*task).argument);
        }
        (*task).is_ending = true;
        gotcha::libgotcha_tcb_finish();
        preempt::close();
        gotcha::libgotcha_group_finish((*task).group);
        if (*(*task).tls).tracked != 0 {
            Task::hand_over(task);
        }
        (*task).host
    }
}

// ---------------------------------------------------------------------------------- process

/// Starts the library. Every launch goes through here.
#[inline]
pub(crate) fn init() -> Result<(), Error> {
    static STARTED: AtomicBool = AtomicBool::new(false);
    if !STARTED.load(Acquire) {
        let _errno = ErrnoGuard::new();
        start()?;
        STARTED.store(true, Release);
    }
    Ok(())
}

/// Several threads may do this at a time, as each step bears being repeated. The lock is in
/// `gotcha::init`, where a fork respects it: the child of one that came while another thread held a lock
/// of ours would wait for ever.
fn start() -> Result<(), Error> {
    preempt::reserve_signal();
    preempt::set_callbacks();
    gotcha::init()?;
    deadline::init();
    look_for_barrier();
    Ok(())
}
