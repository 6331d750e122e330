//! What the library keeps for each kernel thread that has launched a function.

use crate::deadline::{Alarm, NEVER};
use crate::error::{ErrnoGuard, Error};
use crate::preempt::{self, Patience};
use crate::stats::Counters;
use crate::task::{Keeper, Slot, Task};
use libsignal::{Signal, SignalSet};
use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicBool, AtomicI32, AtomicPtr, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
    compiler_fence,
};

/// The signal that preempts.
pub(crate) const PREEMPTION_SIGNAL: Signal = Signal::ALRM;

/// Signals of the program that arrived while it had them blocked and a function was running.
pub(crate) const HELD_SIGNALS: usize = 8;

/// A kernel thread. Used by that thread only, its signal handlers included: hence the atomics, which
/// are there for the handlers' sake, and all relaxed.
pub(crate) struct Thread {
    /// Its own thread pointer.
    pub(crate) thread_pointer: usize,
    /// Its own stack.
    stack: Range<usize>,
    /// The innermost function that runs on it; null: none.
    pub(crate) current: AtomicPtr<Task>,
    /// The earliest deadline of `current` and the functions around it.
    pub(crate) deadline_ns: AtomicU64,
    /// Its signal mask outside functions, without the preemption signal.
    pub(crate) mask: AtomicU64,
    /// `mask` may have changed behind our back, or was asked for in a handler of the program.
    pub(crate) mask_is_unknown: AtomicBool,
    /// The preemption signal is blocked in the kernel: the program has it blocked, and one is pending.
    pub(crate) mask_is_blocked: AtomicBool,
    alarm: UnsafeCell<Option<Alarm>>,
    /// Its processor time when that was last looked at.
    pub(crate) cpu_time_seen_ns: AtomicU64,
    pub(crate) patience: Patience,
    entry: &'static Entry,
    pub(crate) held: UnsafeCell<Vec<Foreign>>,
    /// Functions that it has stopped, outside functions, and may let go on while it waits for a lock.
    pub(crate) kept: Keeper,
    /// Its alternate signal stack, if that is ours.
    _alternate_stack: Option<AlternateStack>,
}

/// A preemption signal that is the program's.
#[derive(Clone, Copy)]
pub(crate) struct Foreign {
    pub(crate) info: libc::siginfo_t,
    /// It was sent to this kernel thread alone, as far as we can tell: the kernel does not say.
    pub(crate) is_to_thread: bool,
}

/// Marks what our timers' signals carry: no address begins with these 16 bits.
const COOKIE_MARK: usize = 0x1e6e;

/// What the signals of a kernel thread's timer carry.
pub(crate) fn cookie(thread: *const Thread) -> usize {
    COOKIE_MARK << 48 | thread as usize
}

/// Is it what some timer of ours carries, also of a kernel thread that has given its up?
pub(crate) fn is_cookie(value: usize) -> bool {
    value >> 48 == COOKIE_MARK
}

impl Thread {
    /// The kernel thread that runs this code now, or null if it has never launched.
    ///
    /// Read afresh at each call: a function may have moved to another kernel thread since the last.
    /// Context: preemption deferred, or a kernel thread's own TCB.
    #[inline]
    pub(crate) fn current() -> *mut Thread {
        // SAFETY: the state of the current TCB is always there.
        unsafe { (*gotcha::this()).owner.cast() }
    }

    /// The same; made now if this kernel thread launches for the first time.
    #[inline]
    pub(crate) fn get() -> Result<*mut Thread, Error> {
        let thread = Thread::current();
        if thread.is_null() { Thread::make() } else { Ok(thread) }
    }

    #[cold]
    fn make() -> Result<*mut Thread, Error> {
        let _errno = ErrnoGuard::new();
        let key = *exit_key()?;
        let entry = Entry::claim();
        let made = Thread::make_with(entry, key);
        if made.is_err() {
            entry.tid.store(0, Release);
        }
        made
    }

    fn make_with(entry: &'static Entry, key: libc::pthread_key_t) -> Result<*mut Thread, Error> {
        let mask = libsignal::thread_mask();
        let mut open = mask;
        open.remove(PREEMPTION_SIGNAL);
        let thread = Box::into_raw(Box::new(Thread {
            thread_pointer: libtimetravel::raw::thread_pointer(),
            stack: own_stack(),
            current: AtomicPtr::new(null_mut()),
            deadline_ns: AtomicU64::new(NEVER),
            mask: AtomicU64::new(open.bits()),
            mask_is_unknown: AtomicBool::new(preempt::in_handler()),
            mask_is_blocked: AtomicBool::new(false),
            alarm: UnsafeCell::new(None),
            cpu_time_seen_ns: AtomicU64::new(0),
            patience: Patience::default(),
            entry,
            held: UnsafeCell::new(Vec::with_capacity(HELD_SIGNALS)),
            kept: Keeper::default(),
            _alternate_stack: AlternateStack::provide()?,
        }));
        // SAFETY: just made, and nobody else has it yet.
        if let Err(error) = unsafe { Thread::set_up(thread, key) } {
            // SAFETY: as before; and it was not handed out.
            drop(unsafe { Box::from_raw(thread) });
            return Err(error);
        }
        // SAFETY: the state of the current TCB, this kernel thread's own.
        unsafe {
            let state = gotcha::this();
            (*state).signal_blocked = mask.contains(PREEMPTION_SIGNAL).into();
            (&raw mut (*state).owner).write_volatile(thread.cast());
        }
        entry.publish(libsignal::gettid(), cookie(thread), mask.contains(PREEMPTION_SIGNAL));
        // The kernel's mask stays open for the preemption signal from here on; that the program has
        // blocked it is remembered, and what arrives is held.
        libsignal::unblock(&SignalSet::single(PREEMPTION_SIGNAL));
        Ok(thread)
    }

    /// What can fail; nothing is left behind if it does.
    unsafe fn set_up(thread: *mut Thread, key: libc::pthread_key_t) -> Result<(), Error> {
        // SAFETY: make()'s: the thread is valid, and nobody else's.
        unsafe {
            let alarm = Alarm::new(PREEMPTION_SIGNAL, libsignal::gettid(), cookie(thread))
                .map_err(|errno| Error::Os { operation: "timer_create", errno: errno.0 })?;
            *(*thread).alarm.get() = Some(alarm);
            match libc::pthread_setspecific(key, thread.cast()) {
                0 => Ok(()),
                errno => Err(Error::Os { operation: "pthread_setspecific", errno }),
            }
        }
    }

    /// Is `address` on the kernel thread's own stack?
    ///
    /// Context: any TCB, preemption deferred.
    ///
    /// # Safety
    ///
    /// `thread` is this kernel thread.
    pub(crate) unsafe fn holds(thread: *mut Thread, address: usize) -> bool {
        // SAFETY: the caller's promise.
        unsafe { (*thread).stack.contains(&address) }
    }

    /// In the child of a fork, on the kernel thread's own TCB: it has no timer, and another tid.
    ///
    /// # Safety
    ///
    /// `thread` is this kernel thread, and no handler uses its alarm meanwhile.
    pub(crate) unsafe fn renew_alarm(thread: *mut Thread) {
        // SAFETY: the caller's promise; set by make().
        let alarm = unsafe { (*(*thread).alarm.get()).as_mut().unwrap_unchecked() };
        alarm.renew(PREEMPTION_SIGNAL, libsignal::gettid(), cookie(thread));
        // SAFETY: the caller's promise.
        let entry = unsafe { (*thread).entry };
        entry.publish(libsignal::gettid(), cookie(thread), entry.is_quiet.load(Relaxed));
    }

    #[inline]
    fn own_alarm(&self) -> &Alarm {
        // SAFETY: set by make(), and changed only in the child of a fork, outside handlers.
        unsafe { (*self.alarm.get()).as_ref().unwrap_unchecked() }
    }

    /// Asks the kernel for the thread's mask: a handler may change that between a look and a note of it.
    ///
    /// # Safety
    ///
    /// `thread` is this kernel thread.
    pub(crate) unsafe fn learn_mask(thread: *mut Thread) {
        let lock = SignalsGuard::new();
        let mut mask = lock.mask();
        // SAFETY: the caller's promise.
        unsafe {
            (*thread).mask_is_blocked.store(mask.contains(PREEMPTION_SIGNAL), Relaxed);
            mask.remove(PREEMPTION_SIGNAL);
            (*thread).mask.store(mask.bits(), Relaxed);
        }
    }

    /// A function goes on, which needs the timer. On its own TCB: whether what is pending goes to the program at once
    /// depends on what the function has blocked, and not on what its launcher has.
    ///
    /// # Safety
    ///
    /// As for learn_mask, of a thread whose current function's TCB is the current one, with preemption deferred.
    pub(crate) unsafe fn open_mask(thread: *mut Thread) {
        // SAFETY: the caller's promise.
        let mask_is_blocked = unsafe { &(*thread).mask_is_blocked };
        if mask_is_blocked.load(Relaxed) {
            mask_is_blocked.store(false, Relaxed);
            libsignal::unblock(&SignalSet::single(PREEMPTION_SIGNAL));
        }
    }

    /// Context: this kernel thread.
    #[inline]
    pub(crate) fn slot(&self) -> &'static Slot {
        &self.entry.slot
    }

    /// Context: this kernel thread.
    #[inline]
    pub(crate) fn counters(&self) -> &'static Counters {
        &self.entry.counters
    }

    /// Is the timer going to expire in time for `deadline_ns`?
    #[inline]
    pub(crate) fn is_armed_for(&self, now_ns: u64, deadline_ns: u64) -> bool {
        self.own_alarm().covers(now_ns, deadline_ns)
    }

    /// Arms the timer for `deadline_ns`; NEVER leaves it as it is. Returns what time it is then.
    pub(crate) fn arm(&self, now_ns: u64, deadline_ns: u64) -> u64 {
        let after_ns = self.own_alarm().arm(now_ns, deadline_ns);
        self.entry.ring_again();
        after_ns
    }

    pub(crate) fn disarm(&self) {
        self.own_alarm().disarm();
        self.entry.ring_again();
    }

    /// The timer has expired, at `now_ns`.
    pub(crate) fn note_expired(&self, now_ns: u64) {
        self.own_alarm().expired(now_ns);
    }

    /// No function runs, and until one is launched again no expiry is to be seen: the program has the signal blocked,
    /// and may be reading a signalfd, or asking what is pending.
    pub(crate) fn quieten(&self) {
        if !self.entry.is_quiet.load(Relaxed) {
            self.disarm();
            self.entry.set_quiet(true);
        }
    }

    /// Functions are going to run: the timer is needed.
    #[inline]
    pub(crate) fn wake_up(&self) {
        self.entry.set_quiet(false);
    }

    /// The program's signal that [`send`] has taken over, if it has not been taken out yet.
    #[inline]
    pub(crate) fn take_sent(&self) -> Option<Foreign> {
        if self.entry.is_sent.load(SeqCst) { self.entry.take_sent() } else { None }
    }

    /// The same, where one may have been swallowed by a signal that was pending, and has now been taken.
    pub(crate) fn ring_again(&self) {
        self.entry.ring_again();
    }
}

/// The stack of the kernel thread that runs this code. The first thread's, which grows, as far as it may grow.
///
/// Asked for when a kernel thread first launches, because asking allocates, and later it may be a handler that asks.
fn own_stack() -> Range<usize> {
    let (mut bottom, mut size_bytes) = (null_mut(), 0);
    // SAFETY: the attributes are valid from getattr to destroy.
    unsafe {
        let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
        if libc::pthread_getattr_np(libc::pthread_self(), &mut attributes) == 0 {
            libc::pthread_attr_getstack(&attributes, &mut bottom, &mut size_bytes);
            libc::pthread_attr_destroy(&mut attributes);
        }
    }
    bottom as usize..bottom as usize + size_bytes
}

/// What others know of a kernel thread that launches functions. Entries are never freed, but used again, so that the
/// list can be walked at any time.
///
/// The kernel drops a SIGALRM that is sent to a thread where an expiry is pending. So one that the program sends is noted
/// here, as the kernel would note that it is pending, and the thread is *rung*: sent what an expiry looks like. That is
/// dropped only if some SIGALRM is pending; and whichever arrives, the handler looks here.
///
/// A thread that is quiet has no expiry pending: the program's signals go there as they are. All but `is_sent`'s
/// reading is done under the lock of signals.
struct Entry {
    /// 0: nobody's; -1: going to be somebody's.
    tid: AtomicI32,
    cookie: AtomicUsize,
    is_quiet: AtomicBool,
    /// The program has sent this thread a signal...
    is_sent: AtomicBool,
    /// ...and this is it.
    sent: UnsafeCell<libc::siginfo_t>,
    /// What this kernel thread has done, and those that had the entry before.
    counters: Counters,
    /// Its idle task; or one of a thread that is gone, for whoever comes next.
    slot: Slot,
    next: *mut Entry,
}
static ENTRIES: AtomicPtr<Entry> = AtomicPtr::new(null_mut());

/// All there are.
fn entries() -> impl Iterator<Item = &'static Entry> {
    // SAFETY: entries are never freed, and `next` is not written once an entry is in the list.
    let at = |entry: *mut Entry| unsafe { entry.as_ref() };
    std::iter::successors(at(ENTRIES.load(Acquire)), move |entry| at(entry.next))
}

/// What each kernel thread has counted, those that have ended included.
pub(crate) fn counters() -> impl Iterator<Item = &'static Counters> {
    entries().map(|entry| &entry.counters)
}

/// Each kernel thread's idle task.
pub(crate) fn slots() -> impl Iterator<Item = &'static Slot> {
    entries().map(|entry| &entry.slot)
}

/// The lock of signals, with all of them blocked.
pub(crate) struct SignalsGuard(u64);

impl SignalsGuard {
    /// Context: any, for a few instructions.
    pub(crate) fn new() -> Self {
        // SAFETY: released when the guard is dropped.
        SignalsGuard(unsafe { gotcha::libgotcha_signals_lock() })
    }

    /// The thread's mask, which is in force again afterwards.
    pub(crate) fn mask(&self) -> SignalSet {
        SignalSet::from_bits(self.0)
    }
}

impl Drop for SignalsGuard {
    fn drop(&mut self) {
        // SAFETY: locked by new(), which returned the mask.
        unsafe { gotcha::libgotcha_signals_unlock(self.0) };
    }
}

impl Entry {
    /// One for this kernel thread; [`Entry::publish`] fills it in.
    fn claim() -> &'static Entry {
        if let Some(free) = entries().find(|entry| entry.tid.compare_exchange(0, -1, Acquire, Relaxed).is_ok()) {
            free.slot.reset();
            return free;
        }
        // SAFETY: zeroes are a siginfo_t.
        let no_signal = unsafe { std::mem::zeroed() };
        let new = Box::leak(Box::new(Entry {
            tid: AtomicI32::new(-1),
            cookie: AtomicUsize::new(0),
            is_quiet: AtomicBool::new(false),
            is_sent: AtomicBool::new(false),
            sent: UnsafeCell::new(no_signal),
            counters: Counters::default(),
            slot: Slot::default(),
            next: null_mut(),
        })) as *mut Entry;
        let mut first = ENTRIES.load(Relaxed);
        loop {
            // SAFETY: just made, and in no list until the exchange succeeds.
            unsafe { (*new).next = first };
            match ENTRIES.compare_exchange_weak(first, new, Release, Relaxed) {
                // SAFETY: never freed.
                Ok(_) => return unsafe { &*new },
                Err(other) => first = other,
            }
        }
    }

    /// Its timer is not armed yet.
    fn publish(&self, tid: i32, cookie: usize, is_quiet: bool) {
        let _lock = SignalsGuard::new();
        // One that has ended behind the C library's back.
        entries().filter(|entry| entry.tid.load(Relaxed) == tid).for_each(|entry| entry.tid.store(0, Relaxed));
        self.cookie.store(cookie, Relaxed);
        self.is_quiet.store(is_quiet, Relaxed);
        self.is_sent.store(false, Relaxed);
        self.tid.store(tid, Release);
    }

    /// From here on signals are sent plainly. What was taken over has arrived.
    ///
    /// Context: its kernel thread, which is quiet.
    fn withdraw(&self) {
        let _lock = SignalsGuard::new();
        // It is another thread's if a handler has launched meanwhile, and got another one.
        if self.tid.load(Relaxed) == libsignal::gettid() {
            self.tid.store(0, Release);
        }
    }

    /// Context: its kernel thread. To be quiet: with the timer disarmed; afterwards what was taken over has arrived.
    #[inline]
    fn set_quiet(&self, quiet: bool) {
        if self.is_quiet.load(Relaxed) != quiet {
            let _lock = SignalsGuard::new();
            self.is_quiet.store(quiet, Relaxed);
        }
    }

    #[cold]
    fn take_sent(&self) -> Option<Foreign> {
        let _lock = SignalsGuard::new();
        // SAFETY: under the lock.
        self.is_sent.swap(false, Relaxed).then(|| Foreign { info: unsafe { *self.sent.get() }, is_to_thread: true })
    }

    /// Makes the thread look at its deadline and at what it was sent. Not to one that has ended meanwhile; or it is known
    /// there as nobody's.
    fn ring(&self) {
        let info = expiry(self.cookie.load(Relaxed));
        let tid = self.tid.load(Acquire);
        if tid > 0 {
            // SAFETY: as our timer would send it.
            let _ = unsafe { libsignal::requeue_to_thread(libsignal::getpid(), tid, PREEMPTION_SIGNAL, &info) };
        }
    }

    /// On its kernel thread, where a pending expiry has gone without the handler: newer kernels drop those of a timer
    /// that is set again. A ring that was not sent because of it is made up for.
    #[inline]
    fn ring_again(&self) {
        if self.is_sent.load(SeqCst) {
            self.ring();
        }
    }
}

/// The program sends `info` to a kernel thread: takes it over if that may have an expiry pending.
///
/// Context: any, under the lock of signals.
pub(crate) unsafe extern "C" fn send(tid: i32, info: *const libc::siginfo_t) -> bool {
    let Some(entry) = entries().find(|entry| tid > 0 && entry.tid.load(Acquire) == tid) else {
        return false;
    };
    if entry.is_quiet.load(Relaxed) {
        return false;
    }
    if !entry.is_sent.load(Relaxed) {
        // SAFETY: under the lock; the caller's signal.
        unsafe { *entry.sent.get() = *info };
    }
    entry.is_sent.store(true, SeqCst);
    entry.ring();
    true
}

/// The kernel's number of a thread, which may have ended: 0.
///
/// Context: any.
pub(crate) unsafe extern "C" fn kernel_tid(owner: *const c_void) -> i32 {
    let _lock = SignalsGuard::new();
    let mut living = entries().filter(|entry| entry.tid.load(Relaxed) > 0);
    let found = living.find(|entry| entry.cookie.load(Relaxed) == cookie(owner.cast()));
    found.map_or(0, |entry| entry.tid.load(Relaxed))
}

/// What a signal of our timer carries.
fn expiry(cookie: usize) -> libc::siginfo_t {
    /// sigaction(2), with si_timerid and si_overrun of 0; si_value is at the same place as for sigqueue(3).
    #[repr(C)]
    struct Queued {
        head: [c_int; 4],
        sender: [c_int; 2],
        value: usize,
    }
    // SAFETY: zeroes are a siginfo_t; the fields lie within it.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        info.si_signo = PREEMPTION_SIGNAL.number();
        info.si_code = libc::SI_TIMER;
        (*(&raw mut info).cast::<Queued>()).value = cookie;
        info
    }
}

/// In the child of a fork the other threads are gone, and nothing is pending.
pub(crate) fn forget_all() {
    let own = Thread::current();
    for entry in entries() {
        entry.tid.store(0, Relaxed);
        entry.slot.open();
        // SAFETY: this kernel thread's record. A handler that forks may be on top of its use of the slot.
        if own.is_null() || !std::ptr::eq(unsafe { (*own).entry }, entry) {
            entry.slot.reset();
        }
    }
}

/// Makes every kernel thread that launches functions look at its deadline, as if its timer had expired.
///
/// Context: any.
pub(crate) unsafe extern "C" fn wake_all() {
    entries().for_each(Entry::ring);
}

/// A kernel thread ends: its timer goes; functions that it has launched live on.
unsafe extern "C" fn on_exit(thread: *mut libc::c_void) {
    // SAFETY: the state of the current TCB, the kernel thread's own; the value that make() set, and the last
    // use of it.
    unsafe {
        let state = gotcha::this();
        let entry = (*thread.cast::<Thread>()).entry;
        (*thread.cast::<Thread>()).quieten();
        if (*state).signal_blocked != 0 {
            libsignal::block(&SignalSet::single(PREEMPTION_SIGNAL));
        }
        entry.slot.empty();
        // A handler uses the record no more. An expiry that is still to come is known by its cookie.
        (&raw mut (*state).owner).write_volatile(null_mut());
        compiler_fence(SeqCst);
        (*thread.cast::<Thread>()).kept.let_go();
        drop(Box::from_raw(thread.cast::<Thread>()));
        entry.withdraw();
    }
}

fn exit_key() -> Result<&'static libc::pthread_key_t, Error> {
    static KEY: OnceLock<Result<libc::pthread_key_t, i32>> = OnceLock::new();
    let made = KEY.get_or_init(|| {
        let mut key = 0;
        // SAFETY: `key` is valid for writes, and the destructor takes what make() stores.
        match unsafe { libc::pthread_key_create(&mut key, Some(on_exit)) } {
            0 => Ok(key),
            errno => Err(errno),
        }
    });
    made.as_ref().map_err(|errno| Error::Os { operation: "pthread_key_create", errno: *errno })
}

/// Memory for the calling kernel thread's alternate signal stack; disabled when it is dropped, there.
struct AlternateStack(Vec<u8>);

impl AlternateStack {
    /// A fault in a function whose stack has overflowed is reported from an alternate stack. Threads of
    /// Rust's standard library have one; others get one.
    fn provide() -> Result<Option<Self>, Error> {
        let to_error = |errno: libsignal::Errno| Error::Os { operation: "sigaltstack", errno: errno.0 };
        if libsignal::alternate_stack().map_err(to_error)?.ss_flags & libc::SS_DISABLE == 0 {
            return Ok(None);
        }
        // SAFETY: reads the auxiliary vector.
        let minimum = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) } as usize;
        let mut memory = vec![0; minimum + (64 << 10)];
        let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: memory.len() };
        // SAFETY: the memory lives as long as the guard, which disables the stack before it goes.
        unsafe { libsignal::set_alternate_stack(&stack) }.map_err(to_error)?;
        Ok(Some(AlternateStack(memory)))
    }
}

impl Drop for AlternateStack {
    fn drop(&mut self) {
        // The program may have set another one since.
        if libsignal::alternate_stack().is_ok_and(|stack| stack.ss_sp == self.0.as_mut_ptr().cast()) {
            let disabled = libc::stack_t { ss_sp: null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
            // SAFETY: no handler runs on it now: this code does not.
            let _ = unsafe { libsignal::set_alternate_stack(&disabled) };
        }
    }
}
