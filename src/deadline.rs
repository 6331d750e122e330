//! Time: the clock, and each kernel thread's one-shot timer.
//!
//! The timer is lazy: a launch compares its deadline with the time at which the timer is going to
//! expire anyway, and arms it only if that is later. An early expiry arms it again, one with nothing
//! to time lapses. Nothing ticks, and nothing is armed while the thread is idle.

use libsignal::{Clock, Errno, Signal, Timer};
use std::sync::atomic::{
    AtomicI64, AtomicPtr, AtomicU64,
    Ordering::{Relaxed, SeqCst},
    compiler_fence,
};

/// A deadline that does not come; also "not armed".
pub(crate) const NEVER: u64 = u64::MAX;

/// The C library's `clock_gettime`, past interception. It reads the vdso's clock: no system call where
/// the kernel's clock source allows.
static CLOCK_GETTIME: AtomicPtr<libc::c_void> = AtomicPtr::new(std::ptr::null_mut());

/// Binds the clock; before the first use of [`now_ns`].
pub(crate) fn init() {
    // SAFETY: the name is a C string; called after gotcha::init().
    let function = unsafe { gotcha::libgotcha_base(c"clock_gettime".as_ptr()) };
    CLOCK_GETTIME.store(function.cast(), Relaxed);
}

/// CLOCK_MONOTONIC, in ns.
///
/// Context: any stack and TCB, preemption deferred; calls nothing that is intercepted.
#[inline]
pub(crate) fn now_ns() -> u64 {
    read_ns(libc::CLOCK_MONOTONIC)
}

/// The processor time that this kernel thread has used, in ns. A system call.
///
/// Context: as above.
pub(crate) fn cpu_time_ns() -> u64 {
    read_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

#[inline]
fn read_ns(clock: libc::clockid_t) -> u64 {
    type ClockGettime = unsafe extern "C" fn(libc::clockid_t, *mut libc::timespec) -> libc::c_int;
    let function = CLOCK_GETTIME.load(Relaxed);
    debug_assert!(!function.is_null());
    // SAFETY: init() stored the address of clock_gettime, whose type this is.
    let clock_gettime: ClockGettime = unsafe { std::mem::transmute(function) };
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes; the clocks exist, so the call cannot fail.
    unsafe { clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The deadline that is `budget_us` from `now_ns`.
pub(crate) fn deadline_after(now_ns: u64, budget_us: u64) -> u64 {
    if budget_us == u64::MAX { NEVER } else { now_ns.saturating_add(budget_us.saturating_mul(1000)) }
}

/// A deadline less than this far away is not anticipated: the timer is programmed for the deadline itself. And the time that
/// programming takes, which can be more than a short slice, is not the function's; of longer ones it is part.
pub(crate) const SHORTEST_ANTICIPATED_NS: u64 = 50_000;
/// A timer that should have expired this long ago has: its signal was lost, or is blocked for long.
const LONGEST_DELAY_NS: u64 = 100_000;
/// No interrupt takes longer than this to arrive, and no system call to be made, unless the machine was busy with
/// something else.
const LONGEST_LATENCY_NS: i64 = 50_000;

/// One kernel thread's timer. Used by that thread only, its signal handler included.
pub(crate) struct Alarm {
    /// None: there is none to be had, and functions run unpreempted.
    timer: Option<Timer>,
    /// The deadline that it is armed for; NEVER: not armed, or not known.
    armed_ns: AtomicU64,
    /// Counts what happens to it: handlers arm it too, in the middle of what others do to it.
    changes: AtomicU64,
    /// When the kernel is to let it expire. That is before the deadline, by what interrupts take to arrive, so that a handler that
    /// comes early by little can wait for the deadline instead of coming late.
    expiry_ns: AtomicU64,
    /// From the expiry to the handler.
    latency_ns: Quantile,
    /// What it takes to arm it. A timer that expires in the system call by which it is armed interrupts nobody.
    arming_ns: Quantile,
}

/// A low quantile of what it is shown, by stochastic approximation: one in four is less.
#[derive(Default)]
struct Quantile {
    estimate_ns: AtomicI64,
    shown: AtomicI64,
}

impl Quantile {
    const STEP_NS: i64 = 50;
    /// The first steps are longer, so that a few get near.
    const FIRST_STEPS: i64 = 64;

    fn show(&self, reading_ns: u64) {
        let estimate_ns = self.estimate_ns.load(Relaxed);
        let shown = self.shown.load(Relaxed);
        self.shown.store(shown + 1, Relaxed);
        let step_ns = Self::STEP_NS * (Self::FIRST_STEPS >> (shown / 8).min(6)).max(1);
        let change_ns = if reading_ns > estimate_ns as u64 { step_ns } else { -3 * step_ns };
        self.estimate_ns.store((estimate_ns + change_ns).clamp(0, LONGEST_LATENCY_NS), Relaxed);
    }

    fn get_ns(&self) -> u64 {
        self.estimate_ns.load(Relaxed) as u64
    }
}

impl Alarm {
    pub(crate) fn new(signal: Signal, tid: i32, cookie: usize) -> Result<Self, Errno> {
        let timer = Timer::new(Clock::Monotonic, signal, tid, cookie)?;
        let (latency_ns, arming_ns) = (Quantile::default(), Quantile::default());
        Ok(Alarm {
            timer: Some(timer),
            armed_ns: AtomicU64::new(NEVER),
            changes: AtomicU64::new(0),
            expiry_ns: AtomicU64::new(0),
            latency_ns,
            arming_ns,
        })
    }

    /// After a fork the child has no timers: gives up the parent's, and takes a new one if it can.
    pub(crate) fn renew(&mut self, signal: Signal, tid: i32, cookie: usize) {
        if let Some(timer) = self.timer.take() {
            timer.forget();
        }
        self.armed_ns.store(NEVER, Relaxed);
        self.timer = Timer::new(Clock::Monotonic, signal, tid, cookie).ok();
    }

    /// Is it going to expire in time for `deadline_ns`? What should have expired and has not is not trusted.
    #[inline]
    pub(crate) fn covers(&self, now_ns: u64, deadline_ns: u64) -> bool {
        let armed_ns = self.armed_ns.load(Relaxed);
        deadline_ns == NEVER || (armed_ns <= deadline_ns && now_ns < armed_ns.saturating_add(LONGEST_DELAY_NS))
    }

    /// Arms it for `deadline_ns`; NEVER leaves it as it is. Returns what time it is then.
    pub(crate) fn arm(&self, now_ns: u64, deadline_ns: u64) -> u64 {
        if deadline_ns == NEVER {
            return now_ns;
        }
        let delay_ns = deadline_ns.saturating_sub(now_ns);
        let early_ns = if delay_ns < SHORTEST_ANTICIPATED_NS { 0 } else { self.latency_ns.get_ns().min(delay_ns / 4) };
        // Half as long again: most calls take longer than a low quantile.
        let expiry_ns = (deadline_ns - early_ns).max(now_ns + self.arming_ns.get_ns() * 3 / 2);
        let change = self.begin_change();
        self.expiry_ns.store(expiry_ns, Relaxed);
        if let Some(timer) = &self.timer {
            // A timer of this thread on CLOCK_MONOTONIC cannot fail to arm.
            let _ = timer.arm_at(expiry_ns);
        }
        // Not before: what was launched on top of this would rely on it. If something was, the timer may be armed for that.
        self.armed_ns.store(deadline_ns, Relaxed);
        compiler_fence(SeqCst);
        if self.changes.load(Relaxed) != change {
            self.armed_ns.store(NEVER, Relaxed);
        }
        let after_ns = self::now_ns();
        self.arming_ns.show(after_ns - now_ns);
        after_ns
    }

    /// Disarms it. Before the signal is blocked in the kernel: an expiry that became pending there would be seen
    /// by the program, and swallow its own signal of the same number, as ordinary signals do not queue.
    pub(crate) fn disarm(&self) {
        self.begin_change();
        if let Some(timer) = &self.timer {
            // A timer of this thread cannot fail to disarm.
            let _ = timer.disarm();
        }
        // What was launched on top of this may have armed it.
        self.armed_ns.store(NEVER, Relaxed);
    }

    /// From here on it is not known to be armed. Returns what `changes` stays if nothing comes in between.
    fn begin_change(&self) -> u64 {
        let change = self.changes.load(Relaxed) + 1;
        self.changes.store(change, Relaxed);
        self.armed_ns.store(NEVER, Relaxed);
        compiler_fence(SeqCst);
        change
    }

    /// It has expired, at `now_ns`: notes how late, and that it is not armed.
    pub(crate) fn expired(&self, now_ns: u64) {
        let is_known = self.armed_ns.load(Relaxed) != NEVER;
        self.begin_change();
        if is_known {
            self.latency_ns.show(now_ns.saturating_sub(self.expiry_ns.load(Relaxed)));
        }
    }
}
