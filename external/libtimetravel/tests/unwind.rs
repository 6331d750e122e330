//! Where a suspended function stands, as seen from outside: each frame, to its base, whatever unwinders need to know there.
#![cfg(not(miri))]

mod common;

use common::{SUSPENDED, Task};
use libtimetravel::raw;
use libtimetravel::unwind::{Frame, Registers, walk};
use std::cell::RefCell;
use std::ffi::c_void;

// void with_frame_by_rbx(callback rdi, arg rsi): calls callback(arg) from a frame that is found by rbx alone.
// void fault_with_frame_by_r10(): executes an instruction that there is none, in a frame that is found by r10 alone,
// which calls do not preserve.
std::arch::global_asm!(
    r#"
	.text
	.type	with_frame_by_rbx, @function
with_frame_by_rbx:
	.cfi_startproc
	push	%rbx
	.cfi_adjust_cfa_offset 8
	.cfi_offset %rbx, -16
	mov	%rsp, %rbx
	.cfi_def_cfa_register %rbx
	sub	$200, %rsp
	and	$-64, %rsp
	mov	%rdi, %rax
	mov	%rsi, %rdi
	call	*%rax
	mov	%rbx, %rsp
	.cfi_def_cfa_register %rsp
	pop	%rbx
	.cfi_adjust_cfa_offset -8
	ret
	.cfi_endproc
	.size	with_frame_by_rbx, . - with_frame_by_rbx

	.type	fault_with_frame_by_r10, @function
fault_with_frame_by_r10:
	.cfi_startproc
	lea	8(%rsp), %r10
	.cfi_def_cfa %r10, 0
	sub	$200, %rsp
	and	$-64, %rsp
	ud2
	.cfi_endproc
	.size	fault_with_frame_by_r10, . - fault_with_frame_by_r10
"#,
    options(att_syntax)
);

unsafe extern "C" {
    fn with_frame_by_rbx(callback: unsafe extern "C" fn(*mut c_void), arg: *mut c_void);
    fn fault_with_frame_by_r10();
}

fn frames(registers: &Registers) -> Vec<Frame> {
    let mut frames = Vec::new();
    // SAFETY: the tests' executions are suspended.
    unsafe { walk(registers, |frame| frames.push(frame)) };
    frames
}

/// The functions are there, in this order.
#[track_caller]
fn assert_functions(frames: &[Frame], functions: &[usize]) {
    let mut rest = frames.iter();
    for function in functions {
        assert!(rest.any(|frame| frame.function == *function), "no {function:#x} in its place in {frames:#x?}");
    }
}

unsafe extern "C" fn suspend(task: *mut c_void) {
    // SAFETY: the bodies pass their task.
    unsafe { &mut *task.cast::<Task>() }.suspend();
    std::hint::black_box(());
}

fn body(task: &mut Task) {
    // SAFETY: suspend takes a task.
    unsafe { with_frame_by_rbx(suspend, (&raw mut *task).cast()) };
    std::hint::black_box(());
}

#[test]
fn of_a_suspended_function() {
    let mut task = Task::new(0, body);
    assert_eq!(task.enter(), SUSPENDED);
    // SAFETY: it is suspended.
    let frames = frames(&unsafe { Registers::suspended(&task.func) });
    assert_functions(&frames, &[suspend as *const () as usize, with_frame_by_rbx as *const () as usize]);
    // To its base, and no further.
    let is_base = |frame: &Frame| raw::function_base().contains(&frame.instruction);
    assert_eq!(frames.iter().position(is_base), Some(frames.len() - 1), "{frames:#x?}");
    task.reenter();
}

thread_local!(static INTERRUPTED: RefCell<Vec<Frame>> = const { RefCell::new(Vec::new()) });

unsafe extern "C" fn handler(_signal: libc::c_int, _info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel's frame.
    let uc = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let registers = Registers::interrupted(uc);
    assert_eq!(registers.instruction(), uc.uc_mcontext.gregs[libc::REG_RIP as usize] as usize);
    INTERRUPTED.set(frames(&registers));
    // Back to its caller.
    uc.uc_mcontext.gregs[libc::REG_RSP as usize] = uc.uc_mcontext.gregs[libc::REG_R10 as usize];
    // SAFETY: the return address lies below where the frame begins.
    let caller = unsafe { (uc.uc_mcontext.gregs[libc::REG_R10 as usize] as *const i64).sub(1).read() };
    uc.uc_mcontext.gregs[libc::REG_RIP as usize] = caller;
}

#[inline(never)]
extern "C" fn faulting() {
    // SAFETY: the handler lets it return.
    unsafe { fault_with_frame_by_r10() };
    std::hint::black_box(());
}

#[test]
fn of_interrupted_code() {
    // SAFETY: zeroes are a sigaction; the handler fits its flags.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut()), 0);
    }
    faulting();
    let frames = INTERRUPTED.take();
    assert_eq!(frames[0].function, fault_with_frame_by_r10 as *const () as usize);
    assert_functions(&frames, &[faulting as *const () as usize]);
    assert!(frames.len() > 5, "the thread's own: {frames:#x?}");
}

/// Who has just been called stands where it begins, and its return address on top of its stack.
#[test]
fn of_a_callee_s_first_instruction() {
    // SAFETY: zeroes are a ucontext_t.
    let mut uc: libc::ucontext_t = unsafe { std::mem::zeroed() };
    let stack = [0x1234_usize, 0];
    uc.uc_mcontext.gregs[libc::REG_RSP as usize] = stack.as_ptr() as i64;
    // SAFETY: the stack is as said.
    let caller = unsafe { Registers::interrupted(&uc).of_caller() };
    assert_eq!(caller.instruction(), 0x1233);
}
