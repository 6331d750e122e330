//! What the processor and the kernel charge for what our operations consist of: none of these can take less.

use crate::worker::{Measure, batch, singles};
use libsignal::{Action, Clock, Disposition, Flags, Signal, SignalSet, Timer, gettid, now_ns, set_action};
use libtimetravel::raw::{self, Context};
use libtimetravel::{Stack, ThreadPointerMethod, thread_pointer_method};
use std::arch::asm;
use std::ffi::{c_int, c_void};
use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// The measure of that name, if there is one.
pub(crate) fn find(name: &str, parameter: u64) -> Option<Result<Measure, String>> {
    Some(match name {
        "thread-pointer" => set_thread_pointer_twice(),
        "control-words" => Ok(store_control_words_twice()),
        "clock" => Ok(batch(|| {
            black_box(Instant::now());
            Ok(())
        })),
        "enter" => enter_and_complete(),
        "reenter" => reenter_and_leave(),
        "arm" => arm(),
        "alarm" => wait_for_alarm(parameter),
        _ => return None,
    })
}

/// What a switch there and back does, by whatever way the processor and the kernel allow.
fn set_thread_pointer_twice() -> Result<Measure, String> {
    let own = raw::thread_pointer();
    if thread_pointer_method() == ThreadPointerMethod::ArchPrctl {
        return Ok(batch(move || {
            for _ in 0..2 {
                // SAFETY: sets what is set already (arch_prctl(2), ARCH_SET_FS).
                unsafe { libc::syscall(libc::SYS_arch_prctl, 0x1002, own) };
            }
            Ok(())
        }));
    }
    Ok(batch(move || {
        // SAFETY: sets what is set already; the instruction is allowed, as libtimetravel has found. It is used at once, as
        // after a switch.
        unsafe {
            asm!("wrfsbase {own}", "mov {used}, fs:[0]", own = in(reg) own, used = out(reg) _);
            asm!("wrfsbase {own}", "mov {used}, fs:[0]", own = in(reg) own, used = out(reg) _);
        }
        Ok(())
    }))
}

fn store_control_words_twice() -> Measure {
    batch(|| {
        let mut words = [0_u32; 2];
        for _ in 0..2 {
            // SAFETY: stores the two words, and looks at them.
            unsafe {
                asm!(
                    "stmxcsr [{words}]", "fnstcw [{words} + 4]", "mov {seen:e}, [{words}]",
                    words = in(reg) &mut words, seen = out(reg) _,
                );
            }
        }
        Ok(())
    })
}

/// The two contexts of one function, and its stack.
struct Switch {
    host: Context,
    function: Context,
    stack: Stack,
}

impl Switch {
    fn new() -> Result<Box<Self>, String> {
        let stack = Stack::new(64 << 10).map_err(|error| error.to_string())?;
        let own = raw::thread_pointer();
        Ok(Box::new(Switch { host: Context::new(own), function: Context::new(own), stack }))
    }

    /// # Safety
    ///
    /// The switch outlives the function, and is not entered before that has completed.
    unsafe fn enter(&mut self, entry: raw::Entry) {
        let (top, own) = (self.stack.top(), (&raw mut *self).cast());
        // SAFETY: the caller's promise.
        unsafe { raw::enter(&mut self.host, &mut self.function, top, entry, own) };
    }
}

fn enter_and_complete() -> Result<Measure, String> {
    unsafe extern "C" fn complete(switch: *mut c_void) -> *mut Context {
        // SAFETY: Switch::enter's.
        unsafe { &raw mut (*switch.cast::<Switch>()).host }
    }
    let mut switch = Switch::new()?;
    Ok(batch(move || {
        // SAFETY: it completes at once.
        unsafe { switch.enter(complete) };
        Ok(())
    }))
}

fn reenter_and_leave() -> Result<Measure, String> {
    unsafe extern "C" fn leave_for_ever(switch: *mut c_void) -> *mut Context {
        let switch: *mut Switch = switch.cast();
        loop {
            // SAFETY: Switch::enter's.
            unsafe { raw::leave(&raw mut (*switch).function, &raw mut (*switch).host, 1) };
        }
    }
    let mut switch = Switch::new()?;
    // SAFETY: as the measure lives, so does it.
    unsafe { switch.enter(leave_for_ever) };
    Ok(batch(move || {
        // SAFETY: it has left.
        unsafe { raw::reenter(&mut switch.host, &mut switch.function) };
        Ok(())
    }))
}

const ALARM: Signal = Signal::ALRM;

fn timer() -> Result<Timer, String> {
    Timer::new(Clock::Monotonic, ALARM, gettid(), 0).map_err(|errno| format!("timer_create: error {}", errno.0))
}

fn arm() -> Result<Measure, String> {
    let timer = timer()?;
    Ok(singles(move || {
        let start = Instant::now();
        arm_at(&timer, now_ns(Clock::Monotonic) + 1_000_000)?;
        let elapsed = start.elapsed();
        let _ = timer.disarm();
        Ok(elapsed.as_nanos() as f64)
    }))
}

fn arm_at(timer: &Timer, expiry_ns: u64) -> Result<(), String> {
    timer.arm_at(expiry_ns).map_err(|errno| format!("timer_settime: error {}", errno.0))
}

/// How late the signal of a timer is, in a thread that does nothing but wait for it.
fn wait_for_alarm(delay_us: u64) -> Result<Measure, String> {
    static ARRIVED_NS: AtomicU64 = AtomicU64::new(0);
    unsafe extern "C" fn note(_signal: c_int, _info: *mut libc::siginfo_t, _context: *mut c_void) {
        ARRIVED_NS.store(now_ns(Clock::Monotonic), Relaxed);
    }
    let timer = timer()?;
    let disposition = Disposition::Handler(note);
    let action = Action { disposition, flags: Flags::NODEFER.union(Flags::RESTART), mask: SignalSet::empty() };
    // SAFETY: the handler stores a number.
    unsafe { set_action(ALARM, &action) }.map_err(|errno| format!("sigaction: error {}", errno.0))?;
    Ok(singles(move || {
        ARRIVED_NS.store(0, Relaxed);
        let expiry_ns = now_ns(Clock::Monotonic) + delay_us * 1000;
        arm_at(&timer, expiry_ns)?;
        while ARRIVED_NS.load(Relaxed) == 0 {
            spin_loop();
        }
        Ok(ARRIVED_NS.load(Relaxed) as f64 - expiry_ns as f64)
    }))
}
