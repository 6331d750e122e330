//! Time: the clock, and each kernel thread's one-shot timer.
//!
//! The timer is lazy: a launch compares its deadline with the time at which the timer is going to
//! expire anyway, and arms it only if that is later. An early expiry arms it again, one with nothing
//! to time lapses. Nothing ticks, and nothing is armed while the thread is idle.

use libsignal::{Clock, Errno, Signal, Timer};
use std::sync::atomic::{AtomicI64, AtomicPtr, AtomicU64, Ordering::Relaxed};

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

/// A deadline less than this far away is not anticipated: the timer is programmed for the deadline itself.
/// Otherwise the time it takes to program it would eat the slice, and the function make no progress.
const SHORTEST_ANTICIPATED_NS: u64 = 200_000;
/// A timer that should have expired this long ago has: its signal was lost, or is blocked for long.
const LONGEST_DELAY_NS: u64 = 100_000;
/// No interrupt takes longer than this to arrive, unless the machine was busy with something else.
const LONGEST_LEAD_NS: i64 = 50_000;

/// So that the first few expiries are enough to get near.
const FIRST_GAIN: i64 = 24;

/// One kernel thread's timer. Used by that thread only, its signal handler included.
pub(crate) struct Alarm {
    /// None: there is none to be had, and functions run unpreempted.
    timer: Option<Timer>,
    /// When it is going to expire; NEVER: not armed.
    armed_ns: AtomicU64,
    /// How long before a deadline to let it expire: a low quantile of the latency seen, so that a
    /// handler that comes early by little can wait for the deadline instead of coming late.
    lead_ns: AtomicI64,
    /// How much `lead_ns` is moved by, in multiples of what is right in the long run: less with each expiry.
    gain: AtomicI64,
}

impl Alarm {
    pub(crate) fn new(signal: Signal, tid: i32, cookie: usize) -> Result<Self, Errno> {
        let timer = Timer::new(Clock::Monotonic, signal, tid, cookie)?;
        let (armed_ns, lead_ns) = (AtomicU64::new(NEVER), AtomicI64::new(0));
        Ok(Alarm { timer: Some(timer), armed_ns, lead_ns, gain: AtomicI64::new(FIRST_GAIN) })
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

    /// Arms it for `deadline_ns`; NEVER leaves it as it is.
    pub(crate) fn arm(&self, now_ns: u64, deadline_ns: u64) {
        if deadline_ns == NEVER {
            return;
        }
        self.armed_ns.store(deadline_ns, Relaxed);
        let delay_ns = deadline_ns.saturating_sub(now_ns);
        let lead_ns = self.lead_ns.load(Relaxed) as u64;
        let early_ns = if delay_ns < SHORTEST_ANTICIPATED_NS { 0 } else { lead_ns.min(delay_ns / 4) };
        if let Some(timer) = &self.timer {
            // A timer of this thread on CLOCK_MONOTONIC cannot fail to arm.
            let _ = timer.arm_in((delay_ns - early_ns).max(1));
        }
    }

    /// Disarms it. Before the signal is blocked in the kernel: an expiry that became pending there would be seen
    /// by the program, and swallow its own signal of the same number, as ordinary signals do not queue.
    pub(crate) fn disarm(&self) {
        self.armed_ns.store(NEVER, Relaxed);
        if let Some(timer) = &self.timer {
            // A timer of this thread cannot fail to disarm.
            let _ = timer.disarm();
        }
    }

    /// It has expired, at `now_ns`: notes how late, and that it is not armed.
    pub(crate) fn expired(&self, now_ns: u64) {
        let armed_ns = self.armed_ns.load(Relaxed);
        if armed_ns == NEVER {
            return;
        }
        self.armed_ns.store(NEVER, Relaxed);
        // Stochastic approximation of a quantile: many small steps up when late, a larger one down when
        // early, so that about one in eight comes early and has to wait.
        let lead_ns = self.lead_ns.load(Relaxed);
        let step_ns = match now_ns.saturating_sub(armed_ns) {
            0 => -400,
            late_ns if late_ns > lead_ns as u64 => 100,
            _ => 50,
        };
        let gain = self.gain.load(Relaxed);
        self.gain.store((gain * 7 / 8).max(1), Relaxed);
        self.lead_ns.store((lead_ns + gain * step_ns).clamp(0, LONGEST_LEAD_NS), Relaxed);
    }
}
