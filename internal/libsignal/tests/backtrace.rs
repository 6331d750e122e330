//! A backtrace taken in a handler passes through the restorer and reaches `main`.
//!
//! The signal comes from the very first instruction of a function. Only if the unwinder has
//! recognised the signal frame does it look that address up as it is; otherwise it takes it for a
//! return address, and looks in front of it, where another function ends.

use libsignal::{Action, Disposition, Flags, Signal, SignalSet, set_action};
use std::arch::global_asm;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::SeqCst};

global_asm!(
    ".text",
    ".p2align 4",
    "fault_at_once:", // at this point rsp points to the return address
    ".cfi_startproc",
    "ud2",
    "ret",
    ".cfi_endproc",
);

unsafe extern "C" {
    fn fault_at_once();

    fn _Unwind_Backtrace(step: Step, frames: *mut c_void) -> c_int;
    fn _Unwind_GetIPInfo(context: *mut c_void, before_instruction: *mut c_int) -> *mut c_void;
    fn _Unwind_FindEnclosingFunction(address: *mut c_void) -> *mut c_void;
}

type Step = extern "C" fn(context: *mut c_void, frames: *mut c_void) -> c_int;

const UD2_SIZE_BYTES: i64 = 2;

static FRAMES: [AtomicPtr<c_void>; 64] = [const { AtomicPtr::new(ptr::null_mut()) }; 64];
static FRAME_COUNT: AtomicUsize = AtomicUsize::new(0);
static INTERRUPTED: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut()); // by a signal, says libgcc

/// Records the function that a frame belongs to.
extern "C" fn step(context: *mut c_void, _: *mut c_void) -> c_int {
    let mut before_instruction = 0;
    // SAFETY: libgcc passes its own context, and the address is one of a frame.
    let function = unsafe {
        let address = _Unwind_GetIPInfo(context, &mut before_instruction);
        // libgcc looks in front of the address that it is given, as for a return address.
        _Unwind_FindEnclosingFunction(address.wrapping_byte_add(before_instruction as usize))
    };
    if before_instruction != 0 {
        INTERRUPTED.store(function, SeqCst);
    }
    if let Some(frame) = FRAMES.get(FRAME_COUNT.fetch_add(1, SeqCst)) {
        frame.store(function, SeqCst);
    }
    0 // go on
}

unsafe extern "C" fn backtrace(_: i32, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the interrupted code is `fault_at_once`, which holds no lock. The kernel passes a
    // live ucontext_t, and behind the ud2 comes the ret.
    unsafe {
        _Unwind_Backtrace(step, ptr::null_mut());
        let context = context.cast::<libc::ucontext_t>();
        (*context).uc_mcontext.gregs[libc::REG_RIP as usize] += UD2_SIZE_BYTES;
    }
}

fn main() {
    let action =
        Action { disposition: Disposition::Handler(backtrace), flags: Flags::empty(), mask: SignalSet::empty() };
    // SAFETY: the handler takes only the signal that `fault_at_once` raises; see there.
    unsafe {
        set_action(Signal::ILL, &action).unwrap();
        fault_at_once();
    }

    let count = FRAME_COUNT.load(SeqCst);
    let frames: Vec<_> = FRAMES.iter().take(count).map(|frame| frame.load(SeqCst)).collect();
    let position = |function: *const ()| frames.iter().position(|&frame| ptr::addr_eq(frame, function));
    let handler = position(backtrace as *const ()).expect("the backtrace starts in the handler");
    let fault = position(fault_at_once as *const ()).expect("it passes through the restorer");
    let main = position(main as *const ()).expect("it reaches main");
    assert!(handler < fault && fault < main, "{handler} {fault} {main}");
    assert!(ptr::addr_eq(INTERRUPTED.load(SeqCst), fault_at_once as *const ()));
    println!("backtrace through the restorer: {count} frames, main is number {main}");
}
