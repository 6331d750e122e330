//! What a raw switch preserves, on both sides.
#![cfg(not(miri))]

mod common;

use common::{SUSPENDED, Task};
use libtimetravel::raw::COMPLETED;
use std::ffi::c_void;

// usize call_with_registers(callback rdi, arg rsi, seed rdx): calls callback(arg) with seed + 1 .. seed + 6
// in the callee-saved registers; returns how many of them changed, plus 100 if the stack pointer did, plus
// 1000 if the direction flag is set. The red zone of the caller's caller is not its to keep; that of a frame
// above the call is checked by the signal tests.
std::arch::global_asm!(
    r#"
	.text
	.type	call_with_registers, @function
call_with_registers:
	push	%rbp
	push	%rbx
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	sub	$24, %rsp
	mov	%rdx, (%rsp)
	mov	%rsp, 8(%rsp)
	lea	1(%rdx), %rbx
	lea	2(%rdx), %rbp
	lea	3(%rdx), %r12
	lea	4(%rdx), %r13
	lea	5(%rdx), %r14
	lea	6(%rdx), %r15
	mov	%rdi, %rax
	mov	%rsi, %rdi
	call	*%rax
	xor	%eax, %eax
	mov	(%rsp), %rdx
	.irp	register, rbx, rbp, r12, r13, r14, r15
	inc	%rdx
	cmp	%\register, %rdx
	je	1f
	inc	%eax
1:
	.endr
	cmp	%rsp, 8(%rsp)
	je	1f
	add	$100, %eax
1:
	pushf
	pop	%rdx
	test	$0x400, %edx
	jz	1f
	add	$1000, %eax
1:
	add	$24, %rsp
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbx
	pop	%rbp
	ret
	.size	call_with_registers, . - call_with_registers
"#,
    options(att_syntax)
);

unsafe extern "C" {
    fn call_with_registers(callback: unsafe extern "C" fn(*mut c_void), arg: *mut c_void, seed: usize) -> usize;
}

unsafe extern "C" fn enter(task: *mut c_void) {
    // SAFETY: `checked` passes a task.
    assert_eq!(unsafe { &mut *task.cast::<Task>() }.enter(), SUSPENDED);
}

unsafe extern "C" fn reenter(task: *mut c_void) {
    // SAFETY: as above.
    unsafe { &mut *task.cast::<Task>() }.reenter();
}

unsafe extern "C" fn suspend(task: *mut c_void) {
    // SAFETY: as above.
    unsafe { &mut *task.cast::<Task>() }.suspend();
}

fn checked(callback: unsafe extern "C" fn(*mut c_void), task: &mut Task, seed: usize) {
    // SAFETY: the callbacks take a task.
    assert_eq!(unsafe { call_with_registers(callback, (&raw mut *task).cast(), seed) }, 0);
}

#[test]
fn callee_saved_registers_survive_on_both_sides() {
    let mut task = Task::new(0, |task| {
        for seed in 1..=1000 {
            checked(suspend, task, seed << 32);
        }
    });
    checked(enter, &mut task, 1 << 20);
    for seed in 2..=1001 {
        checked(reenter, &mut task, seed << 20);
    }
}

/// Alignment that the ABI asks for: movaps to the frame faults otherwise.
#[test]
fn stack_is_aligned_in_the_entry() {
    #[repr(align(16))]
    struct Aligned([u8; 64]);
    let mut task = Task::new(0, |_| {
        let local = std::hint::black_box(Aligned([3; 64]));
        assert_eq!((&raw const local).addr() % 16, 0);
        assert_eq!(local.0, [3; 64]);
        let text = format!("{:.3}", std::hint::black_box(2.0_f64).sqrt());
        assert_eq!(text, "1.414");
    });
    assert_eq!(task.enter(), COMPLETED);
}

#[test]
fn suspended_by_one_kernel_thread_continued_by_another() {
    let mut task = Task::new(0, |task| {
        let local = std::hint::black_box([17_u64; 100]);
        for _ in 0..10 {
            task.suspend();
        }
        assert_eq!(std::hint::black_box(local), [17; 100]);
    });
    assert_eq!(task.enter(), SUSPENDED);
    for _ in 0..9 {
        task = std::thread::spawn(move || {
            assert_eq!(task.reenter(), SUSPENDED);
            task
        })
        .join()
        .unwrap();
    }
    // The last host is on another kernel thread than the one that entered.
    std::thread::spawn(move || assert_eq!(task.reenter(), COMPLETED)).join().unwrap();
}

#[test]
fn nested_functions_are_suspended_together() {
    use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
    static OUTER: AtomicPtr<Task> = AtomicPtr::new(std::ptr::null_mut());
    static STEPS: AtomicUsize = AtomicUsize::new(0);
    let mut outer = Task::new(0, |_| {
        let mut inner = Task::new(0, |_| {
            STEPS.fetch_add(1, Ordering::Relaxed);
            // SAFETY: the test keeps `outer` alive, and touches it only while this is suspended.
            unsafe { &mut *OUTER.load(Ordering::Relaxed) }.suspend();
            STEPS.fetch_add(10, Ordering::Relaxed);
        });
        assert_eq!(inner.enter(), COMPLETED);
        STEPS.fetch_add(100, Ordering::Relaxed);
    });
    OUTER.store(&raw mut *outer, Ordering::Relaxed);
    assert_eq!(outer.enter(), SUSPENDED);
    assert_eq!(STEPS.load(Ordering::Relaxed), 1);
    assert_eq!(outer.reenter(), COMPLETED);
    assert_eq!(STEPS.load(Ordering::Relaxed), 111);
}
