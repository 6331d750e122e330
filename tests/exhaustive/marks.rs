//! What scenarios say to the tracer, and code whose registers are known.
//!
//! A mark is a breakpoint instruction and a no-op whose displacement says what is meant, so that it
//! needs no register and no memory.

use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// What a mark says; the displacement of the no-op behind it.
pub(crate) const HELLO: u8 = 1; // rdi: address of the Hello
pub(crate) const START: u8 = 2; // step from here on
pub(crate) const EXPIRE: u8 = 3; // let the timer expire here
pub(crate) const EXPIRE_START: u8 = 4; // both

/// What the tracer needs to know of the process.
#[repr(C)]
pub(crate) struct Hello {
    /// The code that `exhaustive_branch` names.
    pub(crate) branch: usize,
    /// Stepping ends when the program counter is one of these.
    pub(crate) ends: [usize; 3],
    /// What the timer puts into its signals.
    pub(crate) cookie: usize,
    /// Where to store how soon a branch's timer is to expire; 0: not armed.
    pub(crate) delay_ns: usize,
    /// Shared memory for what went wrong, a C string.
    pub(crate) report: usize,
}

pub(crate) const REPORT_SIZE: usize = 1024;

/// Set once the function has been preempted as often as the scenario wants.
#[unsafe(export_name = "exhaustive_go")]
pub(crate) static GO: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" {
    pub(crate) safe fn exhaustive_hello(hello: *const Hello);
    pub(crate) safe fn exhaustive_start();
    pub(crate) safe fn exhaustive_end();
    pub(crate) safe fn exhaustive_expire();
    pub(crate) safe fn exhaustive_expire_start();
    pub(crate) fn exhaustive_checked(
        function: unsafe extern "C" fn(*mut c_void),
        argument: *mut c_void,
        mxcsr: u32,
        x87: u32,
    ) -> u32;
    pub(crate) safe fn exhaustive_registers_step();
    pub(crate) safe fn exhaustive_registers_resume();
    pub(crate) safe fn exhaustive_registers_handler();
    pub(crate) fn exhaustive_torn(first: *mut u32, second: *mut u32);
    safe static exhaustive_branch: [u8; 0];
    safe static exhaustive_delay_ns: AtomicU64;
    safe static exhaustive_registers_step_end: [u8; 0];
    safe static exhaustive_registers_resume_end: [u8; 0];
}

/// The addresses that [`Hello`] wants, and the cookie for the branches' own timers.
pub(crate) fn hello(cookie: usize, report: usize) -> Hello {
    // SAFETY: the word is the assembly's, and nobody reads it before the first branch.
    unsafe {
        unsafe extern "C" {
            static mut exhaustive_cookie: usize;
        }
        exhaustive_cookie = cookie;
    }
    Hello {
        branch: exhaustive_branch.as_ptr().addr(),
        ends: [
            exhaustive_end as *const () as usize,
            exhaustive_registers_step_end.as_ptr().addr(),
            exhaustive_registers_resume_end.as_ptr().addr(),
        ],
        cookie,
        delay_ns: (&raw const exhaustive_delay_ns).addr(),
        report,
    }
}

/// The tracer sends a signal of the program instead of an expiry.
pub(crate) fn is_program_signal() -> bool {
    exhaustive_delay_ns.load(Relaxed) != 0
}

/// Calls `function` with known values in the registers that a call preserves, and the given rounding
/// modes; panics if they have changed when it returns.
pub(crate) fn checked<F: FnOnce()>(side: Side, function: F) {
    unsafe extern "C" fn call<F: FnOnce()>(function: *mut c_void) {
        // SAFETY: the argument that checked() passes, taken once.
        let function = unsafe { (*function.cast::<Option<F>>()).take() };
        if let Some(function) = function {
            function();
        }
    }
    // mxcsr: all exceptions masked; rounding up or towards zero. x87: the same, other precisions.
    let (mxcsr, x87) = match side {
        Side::Host => (0x5f80, 0x0b7f),
        Side::Function => (0x7f80, 0x0e7f),
    };
    let mut function = Some(function);
    // SAFETY: `call` gets what it wants; the code does not compute with floating-point numbers.
    let changed = unsafe { exhaustive_checked(call::<F>, (&raw mut function).cast(), mxcsr, x87) };
    assert_eq!(changed, 0, "registers changed: bits 0-5 rbx rbp r12-r15, 6 direction flag, 7 mxcsr, 8 x87");
}

/// Whose rounding modes.
pub(crate) enum Side {
    Host,
    Function,
}

std::arch::global_asm!(
    r#"
	.pushsection .text.exhaustive,"ax",@progbits

.macro EX_FUNCTION name
	.globl	\name
	.type	\name, @function
	.balign	16
\name:
.endm

/* What a call preserves. */
.macro EX_PUSH
	.irp register, rbp,rbx,r12,r13,r14,r15
	push	%\register
	.endr
.endm
.macro EX_POP
	.irp register, r15,r14,r13,r12,rbx,rbp
	pop	%\register
	.endr
.endm

/* nopl kind(%rax) */
.macro EX_MARK kind
	int3
	.byte	0x0f, 0x1f, 0x40, \kind
.endm

EX_FUNCTION exhaustive_hello
	EX_MARK	{HELLO}
	ret
EX_FUNCTION exhaustive_start
	EX_MARK	{START}
	ret
EX_FUNCTION exhaustive_end
	ret
EX_FUNCTION exhaustive_expire
	EX_MARK	{EXPIRE}
	ret
EX_FUNCTION exhaustive_expire_start
	EX_MARK	{EXPIRE_START}
	ret

/* The tracer sends the process here to split it in two; it restores all registers afterwards.
 * The parent arrives at the breakpoint with the branch's pid in rax. The branch, a child of the
 * tracer and traced, arrives there with the number of its timer in rax: timers are not inherited,
 * so it makes itself one like the one that it lost, armed if exhaustive_delay_ns is not 0. The stack, whichever it is, is not touched. */
EX_FUNCTION exhaustive_branch
	mov	${SYS_CLONE}, %eax
	mov	${CLONE_FLAGS}, %edi
	xor	%esi, %esi
	xor	%edx, %edx
	xor	%r10d, %r10d
	xor	%r8d, %r8d
	syscall
	test	%rax, %rax
	jnz	1f
	mov	${SYS_GETTID}, %eax
	syscall
	mov	%eax, exhaustive_tid(%rip)
	mov	${SYS_TIMER_CREATE}, %eax
	mov	${CLOCK_MONOTONIC}, %edi
	lea	exhaustive_cookie(%rip), %rsi
	lea	exhaustive_timer(%rip), %rdx
	syscall
	test	%rax, %rax
	jnz	1f
	mov	${SYS_TIMER_SETTIME}, %eax
	mov	exhaustive_timer(%rip), %edi
	xor	%esi, %esi
	lea	exhaustive_setting(%rip), %rdx
	xor	%r10d, %r10d
	syscall
	test	%rax, %rax
	jnz	1f
	mov	exhaustive_timer(%rip), %eax
1:	int3
	ud2

/* u32 exhaustive_checked(function, argument, mxcsr, x87) */
EX_FUNCTION exhaustive_checked
	EX_PUSH
	sub	$24, %rsp
	stmxcsr	(%rsp)
	fnstcw	4(%rsp)
	mov	%edx, 8(%rsp)
	mov	%ecx, 12(%rsp)
	ldmxcsr	8(%rsp)
	fldcw	12(%rsp)
	mov	%rdi, %rax
	mov	%rsi, %rdi
	mov	exhaustive_patterns+0*8(%rip), %rbx
	mov	exhaustive_patterns+1*8(%rip), %rbp
	mov	exhaustive_patterns+2*8(%rip), %r12
	mov	exhaustive_patterns+3*8(%rip), %r13
	mov	exhaustive_patterns+4*8(%rip), %r14
	mov	exhaustive_patterns+5*8(%rip), %r15
	call	*%rax
	pushfq
	pop	%rcx
	xor	%eax, %eax
.macro EX_EXPECT register, index
	cmp	exhaustive_patterns+\index*8(%rip), %\register
	je	.Lex\@
	or	$(1 << \index), %eax
.Lex\@:
.endm
	EX_EXPECT rbx, 0
	EX_EXPECT rbp, 1
	EX_EXPECT r12, 2
	EX_EXPECT r13, 3
	EX_EXPECT r14, 4
	EX_EXPECT r15, 5
	test	$0x400, %ecx
	jz	1f
	or	$(1 << 6), %eax
1:	stmxcsr	16(%rsp)
	mov	16(%rsp), %ecx
	xor	8(%rsp), %ecx
	test	$0xffc0, %ecx
	jz	2f
	or	$(1 << 7), %eax
2:	fnstcw	16(%rsp)
	mov	16(%rsp), %cx
	cmp	%cx, 12(%rsp)
	je	3f
	or	$(1 << 8), %eax
3:	cld
	ldmxcsr	(%rsp)
	fldcw	4(%rsp)
	add	$24, %rsp
	EX_POP
	ret

/* Values in all registers and in the red zone; then a mark; then waits until it has been preempted, and
 * looks at them all again. A difference is an illegal instruction: there is no register left to say which. */
.macro EX_COMPARE register, index
	cmp	exhaustive_patterns+\index*8(%rip), %\register
	jne	9f
.endm
.macro EX_REGISTERS name, at, end
EX_FUNCTION \name
	EX_PUSH
	fld1
	fldpi
	.irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
	movups	exhaustive_patterns+\n*8(%rip), %xmm\n
	.endr
	mov	$-128, %rcx
1:	mov	%rcx, (%rsp,%rcx)
	add	$8, %rcx
	jnz	1b
	mov	exhaustive_patterns+0*8(%rip), %rax
	mov	exhaustive_patterns+1*8(%rip), %rbx
	mov	exhaustive_patterns+2*8(%rip), %rcx
	mov	exhaustive_patterns+3*8(%rip), %rdx
	mov	exhaustive_patterns+4*8(%rip), %rsi
	mov	exhaustive_patterns+5*8(%rip), %rdi
	mov	exhaustive_patterns+6*8(%rip), %rbp
	.irp n, 8,9,10,11,12,13,14,15
	mov	exhaustive_patterns+\n*8(%rip), %r\n
	.endr
	std
	stc
	\at
	.globl	\end
\end:
	nop
	jnc	9f
2:	cmpl	$0, exhaustive_go(%rip)
	je	2b
	EX_COMPARE rax, 0
	EX_COMPARE rbx, 1
	EX_COMPARE rcx, 2
	EX_COMPARE rdx, 3
	EX_COMPARE rsi, 4
	EX_COMPARE rdi, 5
	EX_COMPARE rbp, 6
	.irp n, 8,9,10,11,12,13,14,15
	EX_COMPARE r\n, \n
	.endr
	mov	$-128, %rcx
3:	cmp	%rcx, (%rsp,%rcx)
	jne	9f
	add	$8, %rcx
	jnz	3b
	pushfq
	pop	%rax
	cld
	test	$0x400, %eax
	jz	9f
	.irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
	movq	%xmm\n, %rax
	EX_COMPARE rax, \n
	psrldq	$8, %xmm\n
	movq	%xmm\n, %rax
	cmp	exhaustive_patterns+\n*8+8(%rip), %rax
	jne	9f
	.endr
	fldpi
	fcompp				/* st0 == st1? pops both */
	fnstsw	%ax
	and	$0x4500, %eax
	cmp	$0x4000, %eax
	jne	9f
	fld1
	fcompp
	fnstsw	%ax
	and	$0x4500, %eax
	cmp	$0x4000, %eax
	jne	9f
	EX_POP
	ret
9:	ud2
.endm
	EX_REGISTERS exhaustive_registers_step, "", exhaustive_registers_step_end
	EX_REGISTERS exhaustive_registers_resume, "EX_MARK {EXPIRE}", exhaustive_registers_resume_end
	EX_REGISTERS exhaustive_registers_handler, "EX_MARK {EXPIRE_START}", exhaustive_registers_handler_end

/* Two words that should change at once, and do not: in front of four instructions they differ. */
EX_FUNCTION exhaustive_torn
	incl	(%rdi)
	nop
	nop
	nop
	incl	(%rsi)
	ret
	.popsection

	.pushsection .data.exhaustive,"aw",@progbits
	.balign	8
	.globl	exhaustive_cookie
exhaustive_cookie:			/* struct sigevent: sigev_value, _signo, _notify, _notify_thread_id */
	.quad	0
	.long	{SIGALRM}
	.long	{SIGEV_THREAD_ID}
exhaustive_tid:
	.skip	48
exhaustive_timer:
	.long	0
	.balign	8
exhaustive_setting:			/* struct itimerspec */
	.quad	0, 0, 0
	.globl	exhaustive_delay_ns
exhaustive_delay_ns:
	.quad	0
exhaustive_patterns:
	.irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17
	.quad	0x0123456789abcdef * \n
	.endr
	.popsection
	.purgem	EX_FUNCTION
	.purgem	EX_PUSH
	.purgem	EX_POP
	.purgem	EX_MARK
	.purgem	EX_EXPECT
	.purgem	EX_COMPARE
	.purgem	EX_REGISTERS
"#,
    HELLO = const HELLO,
    START = const START,
    EXPIRE = const EXPIRE,
    EXPIRE_START = const EXPIRE_START,
    SYS_CLONE = const libc::SYS_clone,
    SYS_GETTID = const libc::SYS_gettid,
    SYS_TIMER_CREATE = const libc::SYS_timer_create,
    SYS_TIMER_SETTIME = const libc::SYS_timer_settime,
    CLOCK_MONOTONIC = const libc::CLOCK_MONOTONIC,
    CLONE_FLAGS = const libc::CLONE_PARENT | libc::CLONE_PTRACE | libc::SIGCHLD,
    SIGALRM = const libc::SIGALRM,
    SIGEV_THREAD_ID = const libc::SIGEV_THREAD_ID,
    options(att_syntax)
);
