//! All code that decides about preemption: the signal handler, and the points at which a deferred
//! preemption is made up for.
//!
//! Preemption is deferred while the current TCB's `defer` is not 0, which it never is on a kernel thread's
//! own. Our own code runs deferred throughout; so a handler that finds `defer` at 0 has interrupted the
//! function's own code, or the few instructions in [`raw::return_window`].

use crate::deadline;
use crate::lock_wait;
use crate::task::{self, Stop, Task};
use crate::thread::{self, Foreign, HELD_SIGNALS, PREEMPTION_SIGNAL, Thread};
use gotcha::libgotcha_callbacks;
use libc::{c_int, c_void, siginfo_t, ucontext_t};
use libsignal::SignalSet;
use libtimetravel::raw::{self, Gate, Return};
use std::cell::UnsafeCell;
use std::ffi::CStr;
use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Tells the layer below which signal is ours; before it looks at the program's dispositions.
///
/// Switches use a system call for the thread pointer if the environment asks for it, as the layer below does.
pub(crate) fn reserve_signal() {
    // SAFETY: reads the auxiliary vector.
    let privileged = unsafe { libc::getauxval(libc::AT_SECURE) } != 0;
    if !privileged && std::env::var_os("LIBGOTCHA_NOFSGSBASE").is_some() {
        libtimetravel::use_arch_prctl();
    }
    // SAFETY: only stores the number.
    unsafe { gotcha::libgotcha_set_preemption_signal(PREEMPTION_SIGNAL.number()) };
}

/// Tells the layer below what to call, a fork included; before it starts.
pub(crate) fn set_callbacks() {
    let callbacks = libgotcha_callbacks {
        take_pending: Some(take_pending),
        forking: Some(before_fork),
        fork_done: Some(after_fork),
        forked: Some(in_fork_child),
        mask_changed: Some(note_mask),
        signal_unblocked: Some(release_held),
        landing: Some(landing),
        leave_function: Some(end_function),
        silence: Some(silence),
        signal: Some(on_signal),
        take_own_signal: Some(take_own_signal),
        take_held: Some(take_held),
        send: Some(thread::send),
        postpone: Some(postpone),
        expiries_lost: Some(thread::wake_all),
        kernel_tid: Some(thread::kernel_tid),
        is_stack_end: Some(is_stack_end),
        donate: Some(donate),
        give_back: Some(give_back),
        waits_long: Some(report_wait),
        fault: Some(report_overflow),
    };
    // SAFETY: the callbacks are written for the contexts that they are called in.
    unsafe { gotcha::libgotcha_set_callbacks(&callbacks) };
}

/// With `LIBGOTCHA_TRACE=signals`, a line on standard error: what happened, and a number with its unit.
///
/// Context: any, handlers included.
pub(crate) fn trace(event: &CStr, number: u64, unit: &CStr) {
    // SAFETY: the strings end.
    unsafe { gotcha::libgotcha_trace_signal(event.as_ptr(), number as i64, unit.as_ptr()) };
}

// ---------------------------------------------------------------------------------- the gate

/// The gate of the current TCB: `defer` and `pending` of its state.
fn gate() -> *mut Gate {
    const {
        let defer = std::mem::offset_of!(gotcha::libgotcha_thread, defer);
        assert!(std::mem::offset_of!(gotcha::libgotcha_thread, pending) == defer + std::mem::offset_of!(Gate, pending));
    }
    // SAFETY: the state of the current TCB is always there; the layouts agree.
    unsafe { (&raw mut (*gotcha::this()).defer).cast() }
}

/// Lets the function that has just been entered be preempted.
pub(crate) fn open() {
    undefer_once();
}

/// From here on the function that ends is not preempted, whatever it left deferred.
///
/// Context: a function's stack and TCB, its libset. Afterwards: the starting libset.
pub(crate) fn close() {
    // SAFETY: the state of the current TCB; the bracket is never left, the function has ended.
    unsafe {
        gotcha::enter();
        (*gate()).defer = 1;
    }
}

/// Defers preemption; nests.
#[inline]
pub(crate) fn defer() {
    // SAFETY: the state of the current TCB is always there. Volatile: a handler reads it.
    unsafe {
        let state = gotcha::this();
        let defer = &raw mut (*state).defer;
        defer.write_volatile(defer.read_volatile() + 1);
        (*state).sections += 1;
    }
    std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
}

/// Ends the innermost [`defer`], and makes up for a preemption that it put off. Without one it does nothing.
#[inline]
pub(crate) fn undefer() {
    // SAFETY: as in defer.
    unsafe {
        let sections = &raw mut (*gotcha::this()).sections;
        if *sections != 0 {
            *sections -= 1;
            undefer_once();
        }
    }
}

#[inline]
fn undefer_once() {
    std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
    // SAFETY: as in defer.
    unsafe {
        let gate = gate();
        let defer = &raw mut (*gate).defer;
        defer.write_volatile(defer.read_volatile() - 1);
        if defer.read_volatile() == 0 && (&raw const (*gate).pending).read_volatile() != 0 {
            gotcha::libgotcha_take_pending();
        }
    }
}

/// A preemption was put off and can now be made up for.
///
/// Context: a function's stack, TCB and libset, preemption open. May come back on another kernel thread.
pub(crate) unsafe extern "C" fn take_pending() {
    // SAFETY: called on a function's TCB: with preemption open the owner is this kernel thread and a
    // function is running. The bracket is undone by hand, because leaving it would call this again.
    unsafe {
        let mut resumed = false;
        loop {
            let table = gotcha::enter();
            (*gotcha::this()).pending = 0;
            let now_ns = deadline::now_ns();
            if is_due(Thread::current(), now_ns, resumed) {
                // It got here.
                (*Thread::current()).patience.forget();
                Task::stop_deferred(Thread::current(), now_ns);
                resumed = true;
            }
            let state = gotcha::this();
            (&raw mut (*state).table).write_volatile(table);
            std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
            let defer = &raw mut (*state).defer;
            defer.write_volatile(defer.read_volatile() - 1);
            if (&raw const (*state).pending).read_volatile() == 0 {
                break;
            }
        }
    }
}

/// Is the function to be stopped, now that it can be? If not, sees to it that the timer will tell.
///
/// A function that was `resumed` and has not run yet runs for a moment even if its deadline has passed
/// meanwhile: with slices shorter than an interrupt it would never get anywhere.
unsafe fn is_due(thread: *mut Thread, now_ns: u64, resumed: bool) -> bool {
    // SAFETY: take_pending and return_to_function pass this kernel thread, with preemption deferred.
    let (thread, deadline_ns) = unsafe { (&*thread, Task::extend(thread, now_ns)) };
    let is_over = now_ns >= deadline_ns;
    if is_over && !resumed {
        return true;
    }
    let look_at_ns = if is_over { now_ns + thread.patience.take_ns() } else { deadline_ns };
    if !thread.is_armed_for(now_ns, look_at_ns) {
        thread.arm(now_ns, look_at_ns);
    }
    false
}

// ---------------------------------------------------------------------------------- the handler

/// How soon to look again where an interruption cannot be used, or the function has yet to run. Never "as soon as
/// possible": the signal is not masked in its handler, and frames would pile up.
///
/// Twice as long each time until the function gets on: where system calls are slow, under a tracer, the timer may expire
/// again before the handler has returned, and so on for ever.
#[derive(Default)]
pub(crate) struct Patience {
    tries: AtomicU32,
    /// Where the function stood when it was last let go on late.
    registers: UnsafeCell<[i64; REGISTERS]>,
}

/// The general ones, the instruction pointer and flags: the first of `gregset_t`.
const REGISTERS: usize = libc::REG_EFL as usize + 1;

const SHORTEST_WAIT_NS: u64 = 20_000;
const MOST_DOUBLINGS: u32 = 6;

impl Patience {
    fn take_ns(&self) -> u64 {
        let tries = self.tries.load(Relaxed);
        self.tries.store((tries + 1).min(MOST_DOUBLINGS), Relaxed);
        SHORTEST_WAIT_NS << tries
    }

    /// Context: the handler of the kernel thread that it belongs to, preemption deferred.
    unsafe fn note(&self, uc: *const ucontext_t) {
        if self.tries.load(Relaxed) != 0 {
            // SAFETY: the kernel's frame; nobody else uses the copy.
            unsafe { self.registers.get().write(registers(uc)) };
        }
    }

    /// Context: as above. A function that has done nothing looks the same, and so does one that spins: it gets turns
    /// that are longer, up to 1.3 ms, if it is resumed for less than it takes to resume it.
    unsafe fn forget_if_it_got_on(&self, uc: *const ucontext_t) {
        // SAFETY: as above.
        if self.tries.load(Relaxed) != 0 && unsafe { self.registers.get().read() != registers(uc) } {
            self.forget();
        }
    }

    /// The function got on.
    fn forget(&self) {
        self.tries.store(0, Relaxed);
    }
}

unsafe fn registers(uc: *const ucontext_t) -> [i64; REGISTERS] {
    // SAFETY: the caller's: the kernel's frame.
    let all = unsafe { &(*uc).uc_mcontext.gregs };
    std::array::from_fn(|index| all[index])
}

/// A handler that comes early by less than this waits; otherwise it arms the timer again.
const LONGEST_WAIT_NS: u64 = 3_000;

/// What to do with an expiry that interrupted a function.
enum Verdict {
    Preempt,
    /// Not now: arm the timer for then.
    LookAgainAt(u64),
}

/// May the interrupted code be preempted here and now?
///
/// The conditions, besides that the signal is our timer's and that preemption is not deferred:
///  1. It is not just being resumed: to preempt it there would pile up signal frames.
///  2. The deadline has passed. One that is very near is waited for. Who counts processor time has used it.
///  3. The code is not the dynamic linker's or base's copy of a library, reached through a pointer that
///     the program stored before interception: it may hold the process's locks.
///  4. It is not on the kernel thread's alternate signal stack, which cannot be left occupied.
///
/// Rejected: looking at the instruction itself, or at the frames above. The libset makes every other
/// point safe.
unsafe fn judge(thread: *mut Thread, uc: *const ucontext_t, now_ns: u64) -> Verdict {
    // SAFETY: the kernel's frame; the thread is this one.
    let (pc, sp, stack, deadline_ns) = unsafe {
        let registers = &(*uc).uc_mcontext.gregs;
        let deadline_ns = (*thread).deadline_ns.load(Relaxed);
        (
            registers[libc::REG_RIP as usize] as usize,
            registers[libc::REG_RSP as usize] as usize,
            (*uc).uc_stack,
            deadline_ns,
        )
    };
    // SAFETY: the thread is this one.
    let look_again = || Verdict::LookAgainAt(now_ns + unsafe { (*thread).patience.take_ns() });
    if raw::return_window().contains(&pc) {
        return look_again();
    }
    if now_ns < deadline_ns {
        if deadline_ns - now_ns > LONGEST_WAIT_NS {
            return Verdict::LookAgainAt(deadline_ns);
        }
        while deadline::now_ns() < deadline_ns {
            std::hint::spin_loop();
        }
    }
    let now_ns = now_ns.max(deadline_ns);
    // SAFETY: the thread is this one, and runs a function.
    let deadline_ns = unsafe { Task::extend(thread, now_ns) };
    if now_ns < deadline_ns {
        return Verdict::LookAgainAt(deadline_ns);
    }
    // SAFETY: compares addresses only.
    if unsafe { gotcha::libgotcha_is_shared_code(pc) } {
        return look_again();
    }
    let alternate = stack.ss_flags & libc::SS_DISABLE == 0;
    if alternate && sp.wrapping_sub(stack.ss_sp as usize) < stack.ss_size {
        return look_again();
    }
    Verdict::Preempt
}

/// Whose is a preemption signal?
enum Origin {
    /// This kernel thread's alarm.
    Alarm,
    /// An alarm that is gone: a kernel thread that ends has given it up.
    FormerAlarm,
    Program,
}

unsafe fn origin(info: *const siginfo_t, thread: *const Thread) -> Origin {
    // SAFETY: the kernel has filled the structure; with SI_TIMER it has a value.
    let cookie = unsafe {
        if (*info).si_code != libc::SI_TIMER {
            return Origin::Program;
        }
        (*info).si_value().sival_ptr as usize
    };
    match cookie {
        cookie if !thread::is_cookie(cookie) => Origin::Program,
        cookie if !thread.is_null() && cookie == thread::cookie(thread) => Origin::Alarm,
        _ => Origin::FormerAlarm,
    }
}

/// The handler of the preemption signal, entered with preemption deferred once more.
///
/// Context: any stack, TCB and libset; allocates nothing, takes no lock, calls nothing that is
/// intercepted. If it interrupted a function's own code it may switch away, and come back on another
/// kernel thread.
unsafe extern "C" fn on_signal(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let uc: *mut ucontext_t = context.cast();
    // SAFETY: the arguments are the kernel's; the state of the current TCB is always there.
    unsafe {
        let state = gotcha::this();
        let defer = &raw mut (*state).defer;
        let outer_defer = defer.read_volatile() - 1;
        let deferred = outer_defer != 0;
        if deferred {
            defer.write_volatile(outer_defer);
        }
        std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
        // Read only now: before, a nested signal might have moved this function to another kernel thread.
        let thread = Thread::current();
        if let Some(sent) = thread.as_ref().and_then(Thread::take_sent) {
            on_foreign_signal(signal, sent, uc, thread);
        }
        let mut resumed = false;
        match origin(info, thread) {
            Origin::Program => {
                let is_to_thread = (*info).si_code == libc::SI_TKILL;
                on_foreign_signal(signal, Foreign { info: *info, is_to_thread }, uc, thread);
            }
            Origin::FormerAlarm => (*state).own_signals += 1,
            Origin::Alarm => {
                (*state).own_signals += 1;
                let now_ns = deadline::now_ns();
                (*thread).note_expired(now_ns);
                if deferred {
                    note_expiry(thread, now_ns);
                } else {
                    resumed = on_expiry(thread, uc, now_ns);
                }
            }
        }
        if !deferred {
            return_to_function(uc, resumed);
        }
    }
}

/// Our timer, at a moment at which preemption is deferred, or nothing runs.
unsafe fn note_expiry(thread: *mut Thread, now_ns: u64) {
    // SAFETY: the thread is this one.
    unsafe {
        let deadline_ns = (*thread).deadline_ns.load(Relaxed);
        let current = (*thread).current.load(Relaxed);
        if now_ns < deadline_ns {
            (*thread).arm(now_ns, deadline_ns);
        } else if !current.is_null() {
            trace(c"expiry: preemption is deferred, after the deadline by", (now_ns - deadline_ns) / 1000, c" us");
            (*thread).counters().deferred.add_one();
            Task::set_pending(current);
        }
    }
}

/// Our timer, in a function's own code. Returns whether that was stopped, and is now resumed.
#[inline(always)]
unsafe fn on_expiry(thread: *mut Thread, uc: *mut ucontext_t, now_ns: u64) -> bool {
    // SAFETY: the frame is the kernel's; the thread is this one; preemption was open, so a function runs.
    unsafe {
        match judge(thread, uc, now_ns) {
            Verdict::LookAgainAt(at_ns) => {
                trace(c"expiry: not here or not yet, again in", (at_ns - now_ns) / 1000, c" us");
                (*thread).arm(now_ns, at_ns);
                false
            }
            Verdict::Preempt => {
                (*thread).patience.forget_if_it_got_on(uc);
                leave_from_handler(thread, uc);
                true
            }
        }
    }
}

/// The signal mask that the interrupted code ran with.
unsafe fn frame_mask(uc: *const ucontext_t) -> SignalSet {
    // SAFETY: the kernel's frame; its mask is 64 bits at the start of the field.
    SignalSet::from_bits(unsafe { (&raw const (*uc).uc_sigmask).cast::<u64>().read() })
}

unsafe fn set_frame_mask(uc: *mut ucontext_t, bits: u64) {
    // SAFETY: as in frame_mask.
    unsafe { (&raw mut (*uc).uc_sigmask).cast::<u64>().write(bits) };
}

/// Does the interrupted function have a mask of its own? It may also have got one behind our back, by a system
/// call, and differ from the mask in force around it.
unsafe fn has_own_mask(thread: *mut Thread, uc: *const ucontext_t, mask_around: SignalSet) -> bool {
    // SAFETY: on_expiry's context: a function is running on this thread.
    unsafe { Task::has_own_mask((*thread).current.load(Relaxed)) || frame_mask(uc) != mask_around }
}

/// Stops the function from within its signal handler; returns when it is resumed.
#[inline]
unsafe fn leave_from_handler(thread: *mut Thread, uc: *mut ucontext_t) {
    // SAFETY: on_expiry's context.
    unsafe {
        let now_ns = deadline::now_ns();
        let task = Task::expired(thread, now_ns);
        let launcher_mask = Task::launcher_mask(task, thread);
        let own_mask = has_own_mask(thread, uc, launcher_mask);
        if own_mask {
            libsignal::set_thread_mask(&launcher_mask);
        }
        Task::stop_expired(task, thread, now_ns, uc);
        if !own_mask {
            // It goes on with the mask of whoever resumes it.
            set_frame_mask(uc, Task::launcher_mask(task, Thread::current()).bits());
        }
    }
}

/// Leaves the handler for the function's own code.
unsafe fn return_to_function(uc: *mut ucontext_t, mut resumed: bool) {
    // SAFETY: on_signal's context: the frame is the kernel's and below us on this stack, preemption is
    // deferred by us, and nothing on the stack in between needs to be dropped.
    unsafe {
        let repeats_call = gotcha::libgotcha_repeats_call(uc.cast());
        let (mut opens_mask, mut was_stopped) = (false, false);
        loop {
            was_stopped |= resumed;
            let thread = Thread::current();
            if (*thread).mask_is_blocked.load(Relaxed) {
                (*thread).mask_is_blocked.store(false, Relaxed);
                let mut mask = frame_mask(uc);
                mask.remove(PREEMPTION_SIGNAL);
                set_frame_mask(uc, mask.bits());
                opens_mask = true;
            }
            let thread_mask = SignalSet::from_bits((*thread).mask.load(Relaxed));
            let by_kernel = repeats_call || opens_mask || has_own_mask(thread, uc, thread_mask);
            if by_kernel && was_stopped {
                // The kernel will install the frame's alternate stack; this may be another kernel thread, with another one.
                if let Ok(stack) = libsignal::alternate_stack() {
                    (*uc).uc_stack = stack;
                }
            }
            // The frame is ours no longer: from here on a handler finds the function's own code, or comes too early; too
            // early for a call that is repeated would be too late for the one that was made.
            let saved_mask = repeats_call.then(|| libsignal::set_thread_mask(&SignalSet::full()));
            (&raw mut (*gotcha::this()).interrupted).write_volatile(std::ptr::null_mut());
            raw::return_from_signal(uc, gate(), if by_kernel { Return::Sigreturn } else { Return::Fast });
            (&raw mut (*gotcha::this()).interrupted).write_volatile(uc.cast());
            if let Some(mask) = saved_mask {
                libsignal::set_thread_mask(&mask);
            }
            // A preemption became pending while the gate was closed.
            (*gotcha::this()).pending = 0;
            let now_ns = deadline::now_ns();
            if is_due(Thread::current(), now_ns, resumed) {
                resumed = on_expiry(Thread::current(), uc, now_ns);
            } else {
                (*Thread::current()).patience.note(uc);
            }
        }
    }
}

// ---------------------------------------------------------------------------------- the program's own signals

/// A signal of the same number that is not our timer's goes to the program, unless it has it blocked.
unsafe fn on_foreign_signal(signal: c_int, mut foreign: Foreign, uc: *mut ucontext_t, thread: *mut Thread) {
    // SAFETY: on_signal's context and arguments.
    unsafe {
        if let Some(thread) = thread.as_ref() {
            thread.counters().forwarded_signals.add_one();
        }
        trace(c"the program's: signal", signal as u64, c"");
        if gotcha::libgotcha_forward_signal(signal, &mut foreign.info, uc.cast()) || thread.is_null() {
            return;
        }
        trace(c"the program's, held because it is blocked: signal", signal as u64, c"");
        if (*thread).current.load(Relaxed).is_null() {
            // Blocked in the kernel too, once the handler returns, and pending there again.
            (*thread).quieten();
            set_frame_mask(uc, frame_mask(uc).union(&SignalSet::single(PREEMPTION_SIGNAL)).bits());
            let blocked = SignalSet::single(PREEMPTION_SIGNAL);
            libsignal::block(&blocked);
            (*thread).mask_is_blocked.store(true, Relaxed);
            requeue(&foreign);
        } else {
            // Another one may arrive in this handler.
            let saved = libsignal::block(&SignalSet::single(PREEMPTION_SIGNAL));
            let held = &mut *(*thread).held.get();
            // Ordinary signals of one number do not queue: more than a few need not be kept.
            if held.len() < HELD_SIGNALS {
                held.push(foreign);
            }
            libsignal::set_thread_mask(&saved);
        }
    }
}

/// Makes a signal of the program pending again, which another thread may be waiting for unless it was sent to
/// this one.
///
/// Context: the signal is blocked.
unsafe fn requeue(foreign: &Foreign) {
    // SAFETY: the signal is as it has arrived. It cannot fail: what has just been taken leaves room.
    unsafe {
        let _ = if foreign.is_to_thread {
            libsignal::requeue_to_thread(libsignal::getpid(), libsignal::gettid(), PREEMPTION_SIGNAL, &foreign.info)
        } else {
            libsignal::requeue_to_process(PREEMPTION_SIGNAL, &foreign.info)
        };
    }
}

/// What arrived while the program had it blocked becomes pending, for the code that goes on now: it
/// arrives at once unless that code has it blocked too.
///
/// # Safety
///
/// `thread` is this kernel thread; the current TCB is the one whose code goes on, with preemption deferred.
pub(crate) unsafe fn requeue_held(thread: *mut Thread) {
    // SAFETY: the caller's promise; with the signal blocked no handler uses the list.
    unsafe {
        let signal = SignalSet::single(PREEMPTION_SIGNAL);
        let stays_blocked = (*thread).current.load(Relaxed).is_null() && (*gotcha::this()).signal_blocked != 0;
        if stays_blocked {
            (*thread).quieten();
        } else {
            silence_alarm(thread);
        }
        libsignal::block(&signal);
        for foreign in (*(*thread).held.get()).drain(..) {
            requeue(&foreign);
        }
        if stays_blocked {
            (*thread).mask_is_blocked.store(true, Relaxed);
        } else {
            // A function's timer needs the signal: if the function has it blocked, it is held again.
            libsignal::unblock(&signal);
        }
    }
}

// ---------------------------------------------------------------------------------- callbacks

/// No expiry of ours is to be pending now: see libgotcha_callbacks. With a function running it is made up for
/// when preemption is no longer deferred.
///
/// Context: any TCB, preemption deferred.
unsafe extern "C" fn silence() {
    let thread = Thread::current();
    if !thread.is_null() {
        // SAFETY: this kernel thread's record.
        unsafe { silence_alarm(thread) };
    }
}

unsafe fn silence_alarm(thread: *mut Thread) {
    // SAFETY: the callers' promise: this kernel thread's record and chain.
    unsafe {
        (*thread).disarm();
        let current = (*thread).current.load(Relaxed);
        if !current.is_null() {
            Task::set_pending(current);
        }
    }
}

/// The program waited for the preemption signal, and got this one. If it is ours, it is taken as in the handler, and
/// the program gets what it was sent.
///
/// Context: a TCB of a kernel thread that launches, preemption deferred, the signal blocked.
unsafe extern "C" fn take_own_signal(info: *mut siginfo_t) -> bool {
    let thread = Thread::current();
    // SAFETY: the caller passes a siginfo_t that the kernel filled; the thread is this one.
    unsafe {
        match origin(info, thread) {
            Origin::Program => {
                (*thread).ring_again();
                return false;
            }
            Origin::FormerAlarm => {}
            Origin::Alarm => {
                let now_ns = deadline::now_ns();
                (*thread).note_expired(now_ns);
                note_expiry(thread, now_ns);
            }
        }
        match (*thread).take_sent() {
            Some(sent) => *info = sent.info,
            None => return true,
        }
    }
    false
}

/// See libgotcha_callbacks. Context: a TCB of a kernel thread that launches; to take one, the signal blocked.
unsafe extern "C" fn take_held(info: *mut siginfo_t) -> bool {
    // SAFETY: this kernel thread's record; with the signal blocked no handler uses the list.
    unsafe {
        let held = (*Thread::current()).held.get();
        let is_held = !(*held).is_empty();
        if is_held && !info.is_null() {
            *info = (*held).remove(0).info;
        }
        is_held
    }
}

/// A preemption has become due, in a frame that cannot be stopped in: the timer finds a better one.
///
/// Context: a function's TCB, preemption deferred.
unsafe extern "C" fn postpone() {
    let thread = Thread::current();
    let now_ns = deadline::now_ns();
    // SAFETY: a function's TCB names the kernel thread that runs it.
    let (thread, deadline_ns) = unsafe { (&*thread, (*thread).deadline_ns.load(Relaxed)) };
    let look_at_ns = deadline_ns.max(now_ns + SHORTEST_WAIT_NS);
    if !thread.is_armed_for(now_ns, look_at_ns) {
        thread.arm(now_ns, look_at_ns);
    }
}

/// Is this a handler of the program?
pub(crate) fn in_handler() -> bool {
    // SAFETY: the state of the current TCB is always there.
    unsafe { (*gotcha::this()).handlers != 0 }
}

/// The program has changed this kernel thread's mask, outside functions. What a handler changes ends with it.
unsafe extern "C" fn note_mask() {
    let thread = Thread::current();
    // SAFETY: this kernel thread's record.
    unsafe {
        if thread.is_null() || in_handler() || !(*thread).current.load(Relaxed).is_null() {
            return;
        }
        Thread::learn_mask(thread);
        if (*gotcha::this()).signal_blocked != 0 {
            (*thread).quieten();
        }
    }
}

/// Where does a longjmp to `sp` land? A stack that is neither the innermost function's, nor that of anything
/// around it, is one that the function has made itself.
///
/// Context: any TCB, preemption deferred.
unsafe extern "C" fn landing(sp: usize, thread_pointer: *mut usize) -> gotcha::libgotcha_landing {
    let thread = Thread::current();
    // SAFETY: this kernel thread's record and its chain; the caller's pointer is valid for writes.
    unsafe {
        let task = if thread.is_null() { std::ptr::null_mut() } else { (*thread).current.load(Relaxed) };
        if task.is_null() {
            if !thread.is_null() {
                // siglongjmp() sets the mask, and longjmp() out of a handler leaves the handler's.
                (*thread).mask_is_unknown.store(true, Relaxed);
            }
            return gotcha::LIBGOTCHA_LANDS_OUTSIDE;
        }
        let leaves = !Task::holds(task, sp) && (Task::holds_around(task, sp) || Thread::holds(thread, sp));
        if leaves {
            return gotcha::LIBGOTCHA_LEAVES_FUNCTION;
        }
        *thread_pointer = Task::thread_pointer(task);
        gotcha::LIBGOTCHA_LANDS_IN_FUNCTION
    }
}

/// A function has opened its mask for the preemption signal.
unsafe extern "C" fn release_held() {
    let thread = Thread::current();
    // SAFETY: called on a function's TCB, with preemption deferred: the thread is this one.
    unsafe {
        while !(*(*thread).held.get()).is_empty() {
            requeue_held(thread);
        }
    }
}

/// Context: any.
unsafe extern "C" fn is_stack_end(pc: usize) -> bool {
    raw::function_base().contains(&pc)
}

/// Context: the TCB of whoever waits for a lock, bracketed.
unsafe extern "C" fn donate(tid: i32) -> bool {
    Task::donate(tid)
}

/// What runs on donated time has released a lock: its slice ends here.
///
/// Context: a function's TCB, preemption deferred.
unsafe extern "C" fn give_back() {
    // SAFETY: a function's TCB names the kernel thread that runs it.
    unsafe { Task::give_back(Thread::current()) };
}

/// Context: as a handler of the program, in the call that waits.
unsafe extern "C" fn report_wait(tid: i32) {
    lock_wait::report(tid);
}

/// `pthread_exit` inside a function: it ends, and its launcher is told. Does not return.
unsafe extern "C" fn end_function(_reason: c_int) -> bool {
    // SAFETY: called on a function's TCB; a stopped function that is never resumed.
    unsafe {
        gotcha::enter();
        Task::stop_current(Stop::Ended);
    }
    std::process::abort()
}

/// Nothing is donated until after the fork: whoever waits for a lock in another handler of it has the pool's.
unsafe extern "C" fn before_fork() {
    // SAFETY: the state of the current TCB is always there. Volatile: a handler reads it.
    unsafe {
        let defer = &raw mut (*gate()).defer;
        defer.write_volatile(defer.read_volatile() + 1);
    }
    task::lock_pool();
}

unsafe extern "C" fn after_fork() {
    task::unlock_pool();
    undefer_once();
}

/// In the child of a fork: timers are not inherited, and the thread has another tid.
unsafe extern "C" fn in_fork_child() {
    if task::unlock_pool_in_child() {
        undefer_once();
    }
    thread::forget_all();
    let thread = Thread::current();
    if thread.is_null() {
        return;
    }
    // SAFETY: this kernel thread's record, on its own TCB.
    unsafe {
        Thread::renew_alarm(thread);
        Task::begin_cpu_time_anew(thread);
        let deadline_ns = (*thread).deadline_ns.load(Relaxed);
        (*thread).arm(deadline::now_ns(), deadline_ns);
    }
}

/// A fault: is it a function's stack overflow? If so, says so and ends the process.
///
/// Context: the alternate signal stack, any TCB.
unsafe extern "C" fn report_overflow(_signal: c_int, info: *mut siginfo_t, _context: *mut c_void) {
    let thread = Thread::current();
    if thread.is_null() {
        return;
    }
    // SAFETY: the kernel's siginfo_t of a fault; this kernel thread's record.
    let Some(overflow) = (unsafe { Task::overflowed(thread, (*info).si_addr() as usize) }) else {
        return;
    };
    // SAFETY: on the way to abort: whatever is interrupted never goes on.
    unsafe {
        gotcha::enter();
        let mut symbol: libc::Dl_info = std::mem::zeroed();
        let known = libc::dladdr(overflow.function as *const c_void, &mut symbol) != 0 && !symbol.dli_sname.is_null();
        let name = if known { std::ffi::CStr::from_ptr(symbol.dli_sname).to_str() } else { Ok("a function") };
        let mut line = [0u8; 512];
        let mut rest = &mut line[..];
        // What does not fit is left out.
        let _ = writeln!(
            rest,
            "inger: stack overflow in a preemptible function: {} ({:#x}), whose stack has {} KiB",
            name.unwrap_or("a function"),
            overflow.function,
            overflow.size_bytes / 1024
        );
        let rest_len = rest.len();
        let length = line.len() - rest_len;
        libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), length);
        libc::abort()
    }
}
