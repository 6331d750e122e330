//! Every operation works while the thread pointer designates memory that libc did not set up, and
//! leaves that memory alone.

use libsignal::{
    Action, Clock, Disposition, Errno, Flags, MaskGuard, Signal, SignalSet, Timer, action, alternate_stack, block,
    getpid, gettid, is_timer_expiry, now_ns, requeue_to_thread, send_to_thread, set_action, set_alternate_stack,
    set_thread_mask, thread_mask, unblock,
};
use std::arch::asm;
use std::mem;

const ARCH_SET_FS: usize = 0x1002;
const ARCH_GET_FS: usize = 0x1003;
const POISON: u8 = 0xa5;

/// Makes the system call `arch_prctl`.
///
/// # Safety
/// As for the operation.
#[inline(always)]
unsafe fn arch_prctl(operation: usize, argument: usize) {
    // SAFETY: the caller answers for the operation; the registers are those of a system call.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") libc::SYS_arch_prctl => _,
            in("rdi") operation,
            in("rsi") argument,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
}

unsafe extern "C" fn nothing(_: i32, _: *mut libc::siginfo_t, _: *mut std::ffi::c_void) {}

/// What the operations returned, to be looked at with the right thread pointer.
#[derive(Default)]
struct Results {
    numbers: (i32, i32),
    masks: [SignalSet; 4],
    action: Option<Result<Action, Errno>>,
    action_error: Option<Result<Action, Errno>>,
    send_error: Option<Result<(), Errno>>,
    requeue_error: Option<Result<(), Errno>>,
    timer_error: Option<Errno>,
    timer: bool,
    remaining_ns: u64,
    is_expiry: bool,
    stack_flags: i32,
    now_ns: u64,
}

/// Calls every operation of the crate, in a way that works and in one that fails.
#[inline(never)]
fn operate(results: &mut Results, info: &libc::siginfo_t) {
    let guard = MaskGuard::block_all();
    let usr1 = SignalSet::single(Signal::USR1);
    let (pid, tid) = (getpid(), gettid());
    results.numbers = (pid, tid);
    results.masks = [thread_mask(), unblock(&usr1), block(&usr1), set_thread_mask(&usr1)];

    let new = Action { disposition: Disposition::Handler(nothing), flags: Flags::RESTART, mask: usr1 };
    // SAFETY: the handler does nothing.
    unsafe {
        let _ = set_action(Signal::USR2, &new);
        results.action_error = Some(set_action(Signal::KILL, &new));
    }
    results.action = Some(action(Signal::USR2));

    results.send_error = Some(send_to_thread(pid, i32::MAX, Signal::USR1));
    // SAFETY: nobody receives it.
    results.requeue_error = Some(unsafe { requeue_to_thread(pid, i32::MAX, Signal::USR1, info) });
    results.is_expiry = is_timer_expiry(info, 1);

    results.timer_error = Timer::new(Clock::Monotonic, Signal::ALRM, i32::MAX, 0).err();
    if let Ok(timer) = Timer::new(Clock::Monotonic, Signal::ALRM, tid, 0) {
        results.timer = timer.arm_in(1 << 40).is_ok();
        results.remaining_ns = timer.remaining_ns();
        let at = timer.arm_at(u64::MAX).is_ok();
        results.timer &= at && timer.disarm().is_ok() && timer.overrun() == 0;
    }
    if let Ok(stack) = alternate_stack() {
        // SAFETY: it is the stack in place.
        results.stack_flags = unsafe { set_alternate_stack(&stack) }.map_or(-1, |stack| stack.ss_flags);
    }
    results.now_ns = now_ns(Clock::Monotonic);
    drop(guard);
}

#[test]
fn no_operation_uses_thread_local_storage() {
    let mut memory = vec![POISON; 64 << 10];
    let middle = memory.as_mut_ptr().wrapping_add(32 << 10);
    let mut results = Results::default();
    // SAFETY: a `siginfo_t` is integers and pointers.
    let info: libc::siginfo_t = unsafe { mem::zeroed() };
    let mask_before = thread_mask();

    // SAFETY: all signals are blocked, so that no handler sees the foreign thread pointer; in
    // between runs only this crate's code, which is what is tested, and the pointer is put back.
    unsafe {
        let guard = MaskGuard::block_all();
        let mut saved = 0usize;
        arch_prctl(ARCH_GET_FS, (&raw mut saved).addr());
        arch_prctl(ARCH_SET_FS, middle.addr());
        operate(&mut results, &info);
        arch_prctl(ARCH_SET_FS, saved);
        drop(guard);
    }

    assert!(memory.iter().all(|&byte| byte == POISON), "something wrote through the pointer");
    assert_eq!(thread_mask(), mask_before);
    // SAFETY: both calls take no argument.
    let numbers = unsafe { (libc::getpid(), libc::gettid()) };
    assert_eq!(results.numbers, numbers);
    assert!(results.masks[0].contains(Signal::USR1) && !results.masks[2].contains(Signal::USR1));
    let installed = results.action.unwrap().unwrap();
    assert_eq!(installed.disposition, Disposition::Handler(nothing));
    assert_eq!(results.action_error, Some(Err(Errno(libc::EINVAL))));
    assert_eq!(results.send_error, Some(Err(Errno(libc::ESRCH))));
    assert!(results.requeue_error.unwrap().is_err());
    assert_eq!(results.timer_error, Some(Errno(libc::EINVAL)));
    assert!(results.timer && results.remaining_ns > 1 << 39 && results.now_ns > 0);
    assert!(!results.is_expiry);
    assert_ne!(results.stack_flags, -1);
}
