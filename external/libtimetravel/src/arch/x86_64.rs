//! The switch and the return from a signal handler, for x86-64 Linux (System V ABI).
//!
//! # A suspended execution
//!
//! Whoever switches away, launcher or function, leaves the same frame on its own stack, and
//! [`Context::sp`] points to it:
//!
//! ```text
//!  CFA = sp + 72 -> |                        |
//!                64 | return address         |  of the call to enter, reenter or leave
//!                56 | rbp                    |
//!                48 | rbx                    |
//!                40 | r12                    |
//!                32 | r13                    |
//!                24 | r14                    |
//!                16 | r15                    |
//!                 8 | scratch                |  for a mxcsr to be loaded
//!                 4 | x87 control word       |
//!        sp ->    0 | mxcsr                  |
//! ```
//!
//! # The base of a function's stack
//!
//! ```text
//!  stack_top, rounded down to 16 -> |                |
//!               link -> stack_top-8 | host's sp      |  as of the latest enter or reenter
//!        rsp of function_base -> -16 | control words  |  when the entry has returned
//!                                -24 | return address |  into function_base; from here on, the entry's frames
//! ```
//!
//! The unwinder finds the launcher through `link`: the frame of `function_base` has the CFA
//! `*link + 72`, which is that of the launcher's frame as drawn above. `reenter` stores its own
//! stack pointer there, so that a backtrace always leads to the *present* launcher.
//!
//! # Order of the two halves of a switch
//!
//! INVARIANT(thread pointer): when FS is the function's, rsp is the function's. On the way in, rsp
//! is switched before FS; on the way out, FS before rsp. In between, FS says "launcher".
//!
//! # Control words
//!
//! On arrival, the control bits of mxcsr and the x87 control word are set to those of the frame,
//! and the exception flags of mxcsr are the union of the frame's and the current ones. Both are
//! loaded only if that changes them: loading, and even storing them, takes longer than to compare.
//!
//! # No calls
//!
//! A processor predicts where a `ret` leads from the calls that it has seen. One call that is left by a
//! jump, or one return without its call, and it is wrong for all frames further out. So `reenter` and `leave`, of
//! which each leaves by the other's return address, are jumped to, with theirs in a register: see [`reenter`].
//! `enter` is called, because the completion of a function that was never suspended returns from it.

use crate::raw::{Context, Gate};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, Ordering};
use libc::ucontext_t;

/// Byte offset of a general register in the signal frame's `ucontext_t`.
const fn greg(index: libc::c_int) -> usize {
    offset_of!(ucontext_t, uc_mcontext.gregs) + 8 * index as usize
}

/// `arch_prctl` is to be used: also what holds before [`detect`] has run, since it always works.
const METHOD_ARCH_PRCTL: u8 = 0;
/// `wrfsbase` is to be used.
const METHOD_WRFSBASE: u8 = 1;
/// Linux, `arch/x86/include/uapi/asm/hwcap2.h`: the kernel lets programs use `wrfsbase`.
const HWCAP2_FSGSBASE: libc::c_ulong = 1 << 1;
/// Linux, `arch/x86/include/uapi/asm/prctl.h`.
const ARCH_SET_FS: i32 = 0x1002;
/// Linux, `arch/x86/include/uapi/asm/sigcontext.h`: the signal frame holds an XSAVE image.
const FP_XSTATE_MAGIC1: i32 = 0x4650_5853;
/// Same header: offset of `struct _fpx_sw_bytes` in the frame's FPU state.
const FPX_SW_BYTES: usize = 464;

unsafe extern "C" {
    /// One of the `METHOD_` constants; defined in the assembly below.
    safe static libtimetravel_thread_pointer_method: AtomicU8;
    pub(crate) fn libtimetravel_enter(
        host: *mut Context,
        func: *mut Context,
        stack_top: *mut u8,
        entry: crate::raw::Entry,
        arg: *mut core::ffi::c_void,
    ) -> usize;
    /// Not to be called: see [`reenter`] and [`leave`].
    fn libtimetravel_reenter();
    fn libtimetravel_leave();
    pub(crate) fn libtimetravel_return_from_signal(uc: *mut ucontext_t, gate: *mut Gate, how: u32);
    pub(crate) fn libtimetravel_call_from(
        registers: *const Registers,
        callee: unsafe extern "C" fn(*mut core::ffi::c_void),
        arg: *mut core::ffi::c_void,
    );
    safe static libtimetravel_call_from_end: [u8; 0];
    safe static libtimetravel_function_base: [u8; 0];
    safe static libtimetravel_function_base_end: [u8; 0];
    safe static libtimetravel_return_window_start: [u8; 0];
    safe static libtimetravel_return_window_end: [u8; 0];
}

/// # Safety
///
/// As for [`raw::reenter`](crate::raw::reenter).
#[inline]
pub(crate) unsafe fn reenter(host: *mut Context, func: *mut Context) -> usize {
    let code;
    // SAFETY: as after a call, all that the System V ABI lets a function change may have changed. What the routine
    // pushes lies below the stack pointer, where asm! without `nostack` keeps nothing.
    unsafe {
        core::arch::asm!(
            "lea rax, [rip + 2f]",
            "jmp {routine}",
            "2:",
            routine = sym libtimetravel_reenter,
            in("rdi") host,
            in("rsi") func,
            lateout("rax") code,
            clobber_abi("sysv64"),
        );
    }
    code
}

/// # Safety
///
/// As for [`raw::leave`](crate::raw::leave).
#[inline]
pub(crate) unsafe fn leave(func: *mut Context, host: *mut Context, code: usize) {
    // SAFETY: as in reenter.
    unsafe {
        core::arch::asm!(
            "lea rax, [rip + 2f]",
            "jmp {routine}",
            "2:",
            routine = sym libtimetravel_leave,
            in("rdi") func,
            in("rsi") host,
            in("rdx") code,
            clobber_abi("sysv64"),
        );
    }
}

/// Whether switches use `wrfsbase`.
pub(crate) fn uses_wrfsbase() -> bool {
    libtimetravel_thread_pointer_method.load(Ordering::Relaxed) == METHOD_WRFSBASE
}

/// Makes every later switch use the system call.
pub(crate) fn use_arch_prctl() {
    libtimetravel_thread_pointer_method.store(METHOD_ARCH_PRCTL, Ordering::Relaxed);
}

/// Runs when the object is loaded, from its `.init_array`.
extern "C" fn detect() {
    // SAFETY: getauxval has no preconditions.
    if unsafe { libc::getauxval(libc::AT_HWCAP2) } & HWCAP2_FSGSBASE != 0 {
        libtimetravel_thread_pointer_method.store(METHOD_WRFSBASE, Ordering::Relaxed);
    }
}

pub(crate) fn function_base() -> core::ops::Range<usize> {
    libtimetravel_function_base.as_ptr().addr()..libtimetravel_function_base_end.as_ptr().addr()
}

pub(crate) fn return_window() -> core::ops::Range<usize> {
    libtimetravel_return_window_start.as_ptr().addr()..libtimetravel_return_window_end.as_ptr().addr()
}

/// The code of `libtimetravel_call_from`.
pub(crate) fn call_from() -> core::ops::Range<usize> {
    libtimetravel_call_from as *const () as usize..libtimetravel_call_from_end.as_ptr().addr()
}

/// Registers by their DWARF numbers (psABI, figure 3.36): the general ones, and last the instruction pointer.
pub(crate) type Registers = [usize; 17];
pub(crate) const RSP: usize = 7;
pub(crate) const RIP: usize = 16;

/// Those of a suspended execution, once its switch has returned; others than the callee-saved are 0.
///
/// # Safety
///
/// `sp` points to the frame that a switch has built, which stays meanwhile.
pub(crate) unsafe fn suspended_registers(sp: *const u8) -> Registers {
    // SAFETY: the caller's promise; the layout is that drawn at the top.
    let word = |offset: usize| unsafe { sp.add(offset).cast::<usize>().read() };
    let mut registers = [0; 17];
    for (number, offset) in [(3, 48), (6, 56), (12, 40), (13, 32), (14, 24), (15, 16), (RIP, 64)] {
        registers[number] = word(offset);
    }
    registers[RSP] = sp.addr() + 72;
    registers
}

/// Those of code that a signal has interrupted.
pub(crate) fn interrupted_registers(uc: &ucontext_t) -> Registers {
    use libc::{REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15, REG_RIP};
    use libc::{REG_RAX, REG_RBP, REG_RBX, REG_RCX, REG_RDI, REG_RDX, REG_RSI, REG_RSP};
    let numbers = [
        REG_RAX, REG_RDX, REG_RCX, REG_RBX, REG_RSI, REG_RDI, REG_RBP, REG_RSP, REG_R8, REG_R9, REG_R10, REG_R11,
        REG_R12, REG_R13, REG_R14, REG_R15, REG_RIP,
    ];
    numbers.map(|number| uc.uc_mcontext.gregs[number as usize] as usize)
}

/// The thread pointer, from the word of the TCB that the psABI keeps it in.
pub(crate) fn thread_pointer() -> usize {
    let value: usize;
    // SAFETY: psABI, "Thread-Local Storage": %fs:0 holds the thread pointer itself.
    unsafe {
        core::arch::asm!("mov {}, fs:[0]", out(reg) value, options(nostack, preserves_flags, readonly, pure));
    }
    value
}

// The state of the method, and its detection when the object is loaded. In the same assembly as the
// switch, hence in the same object file: whoever links the switch gets the detection.
core::arch::global_asm!(
    r#"
	.pushsection .data.libtimetravel,"aw",@progbits
	.globl	libtimetravel_thread_pointer_method
	.hidden	libtimetravel_thread_pointer_method
	.type	libtimetravel_thread_pointer_method, @object
	.size	libtimetravel_thread_pointer_method, 1
libtimetravel_thread_pointer_method:
	.byte	{METHOD_ARCH_PRCTL}
	.popsection

	.pushsection .init_array,"aw",@init_array
	.balign	8
	.quad	{detect}
	.popsection

	.pushsection .text.libtimetravel,"ax",@progbits

.macro TT_FUNCTION name
	.globl	\name
	.hidden	\name
	.type	\name, @function
	.balign	32
\name:
.endm

.macro TT_PUSH register
	push	%\register
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %\register, 0
.endm

.macro TT_POP register
	pop	%\register
	.cfi_adjust_cfa_offset -8
	.cfi_restore %\register
.endm

/* The beginning of a routine that is jumped to, with its return address in rax. */
.macro TT_PUSH_RETURN_ADDRESS
	.cfi_def_cfa_offset 0
	.cfi_register %rip, %rax
	push	%rax
	.cfi_adjust_cfa_offset 8
	.cfi_offset %rip, -8
.endm

/* Its end: a jump to the return address on the stack. */
.macro TT_JUMP_BACK
	pop	%rcx
	.cfi_adjust_cfa_offset -8
	.cfi_register %rip, %rcx
	jmp	*%rcx
.endm

/* Build the frame of a suspended execution; rsp ends up pointing to it. */
.macro TT_SAVE
	TT_PUSH	rbp
	TT_PUSH	rbx
	TT_PUSH	r12
	TT_PUSH	r13
	TT_PUSH	r14
	TT_PUSH	r15
	sub	$16, %rsp
	.cfi_adjust_cfa_offset 16
	stmxcsr	(%rsp)
	fnstcw	4(%rsp)
.endm

/* The current control words, which have been stored at rsp: r8d = mxcsr, r9w = that of the x87. */
.macro TT_CURRENT_CONTROL_WORDS
	mov	(%rsp), %r8d
	movzwl	4(%rsp), %r9d
.endm

/* Undo it, where r8d and r9w are the current control words; rsp ends up pointing to the return address.
 * Clobbers rcx, flags. */
.macro TT_RESTORE
	mov	%r8d, %ecx
	and	$0x3f, %ecx		/* the exception flags raised so far, */
	or	(%rsp), %ecx		/* with the frame's flags and control bits */
	cmp	%r8d, %ecx
	je	.Ltt_mxcsr\@
	mov	%ecx, 8(%rsp)
	ldmxcsr	8(%rsp)
.Ltt_mxcsr\@:
	cmp	4(%rsp), %r9w
	je	.Ltt_x87\@
	fldcw	4(%rsp)
.Ltt_x87\@:
	add	$16, %rsp
	.cfi_adjust_cfa_offset -16
	TT_POP	r15
	TT_POP	r14
	TT_POP	r13
	TT_POP	r12
	TT_POP	rbx
	TT_POP	rbp
.endm

/* Install context->thread_pointer, unless it is 0.  Clobbers rax, r11, flags (rcx too: the system call). */
.macro TT_SET_THREAD_POINTER context
	mov	{CONTEXT_THREAD_POINTER}(%\context), %rax
	test	%rax, %rax
	jz	.Ltt_done\@
	cmpb	${METHOD_WRFSBASE}, libtimetravel_thread_pointer_method(%rip)
	jne	.Ltt_arch_prctl\@
	wrfsbase %rax
	jmp	.Ltt_done\@
.Ltt_arch_prctl\@:
	call	libtimetravel_arch_prctl
.Ltt_done\@:
.endm

/* arch_prctl(ARCH_SET_FS, rax), at the price of a system call.
 *
 *   in:   rax = thread pointer
 *   out:  all registers but rax, r11 and flags are preserved
 *
 * A refusal (an address outside of user space, or a system call filter) stops here: to go on with
 * another thread's TLS would be worse. */
TT_FUNCTION libtimetravel_arch_prctl
	.cfi_startproc
	TT_PUSH	rdi
	TT_PUSH	rsi
	TT_PUSH	rcx
	mov	%rax, %rsi
	mov	${ARCH_SET_FS}, %edi
	mov	${SYS_ARCH_PRCTL}, %eax
	syscall
	test	%rax, %rax
	jnz	.Ltt_refused
	TT_POP	rcx
	TT_POP	rsi
	TT_POP	rdi
	ret
.Ltt_refused:
	ud2
	.cfi_endproc
	.size	libtimetravel_arch_prctl, . - libtimetravel_arch_prctl

/* usize enter(host, func, stack_top, entry, arg)
 *
 *   in:   rdi = host, rsi = func, rdx = stack_top, rcx = entry, r8 = arg; rsp = launcher's stack
 *   out:  rax = COMPLETED, or the code of a leave; on the stack of the latest launcher
 *
 *     launcher's stack              function's stack
 *   +------------------+          +------------------+ <- stack_top
 *   | return address   |      .---| link: host's sp  | <- func->link
 *   | rbp rbx r12..r15 |      |   | control words    | <- rsp on function_base
 *   | scratch, x87     |      |   +------------------+
 *   | mxcsr            | <----'   | return address   |    by `call *entry`
 *   +------------------+ <- host->sp
 */
TT_FUNCTION libtimetravel_enter
	.cfi_startproc
	TT_SAVE
	mov	%rsp, {CONTEXT_SP}(%rdi)
	and	$-16, %rdx
	mov	%rsp, -8(%rdx)
	lea	-8(%rdx), %rax
	mov	%rax, {CONTEXT_LINK}(%rsi)
	mov	%rcx, %rdx
	mov	%r8, %rdi
	lea	-8(%rax), %rsp
	.cfi_endproc
	.size	libtimetravel_enter, . - libtimetravel_enter

/* The oldest frame of every function's stack.
 *
 *   in:   rsp = base of the function's stack, rsi = func, rdx = entry, rdi = arg
 *
 * Marked as a signal frame, because it continues on an unrelated stack: gdb takes an ordinary frame
 * whose caller has a lower address for a corrupt stack. */
	.globl	libtimetravel_function_base, libtimetravel_function_base_end
	.hidden	libtimetravel_function_base, libtimetravel_function_base_end
	.type	libtimetravel_function_base, @function
libtimetravel_function_base:
	.cfi_startproc
	.cfi_signal_frame
	.cfi_escape 0x0f, 5, 0x77, 8, 0x06, 0x23, 72	/* CFA = *(rsp + 8) + 72: DW_OP_breg7 8, deref, plus_uconst 72 */
	.cfi_offset %rbp, -16
	.cfi_offset %rbx, -24
	.cfi_offset %r12, -32
	.cfi_offset %r13, -40
	.cfi_offset %r14, -48
	.cfi_offset %r15, -56
	TT_SET_THREAD_POINTER rsi
	call	*%rdx
	mov	%rax, %rdx		/* rdx = host to go back to: maybe not the one that entered */
	stmxcsr	(%rsp)
	fnstcw	4(%rsp)
	TT_CURRENT_CONTROL_WORDS
	TT_SET_THREAD_POINTER rdx
	mov	{CONTEXT_SP}(%rdx), %rsp
	.cfi_def_cfa %rsp, 72
	TT_RESTORE
	xor	%eax, %eax
	ret				/* of the call to enter, unless the function was suspended: then merely a mispredicted one */
	.cfi_endproc
libtimetravel_function_base_end:
	.size	libtimetravel_function_base, . - libtimetravel_function_base

/* usize reenter(host, func)
 *
 *   in:   rax = return address, rdi = host, rsi = func (func->sp = the frame that leave built); rsp = launcher's stack
 *   out:  as for enter; meanwhile, leave returns on the function's stack
 *
 * From the switch of rsp on, the CFI describes the function's frame: its layout is the same. */
TT_FUNCTION libtimetravel_reenter
	.cfi_startproc
	TT_PUSH_RETURN_ADDRESS
	TT_SAVE
	TT_CURRENT_CONTROL_WORDS
	mov	%rsp, {CONTEXT_SP}(%rdi)
	mov	{CONTEXT_LINK}(%rsi), %rax
	test	%rax, %rax
	jz	.Ltt_no_link		/* func is not the context that enter was given */
	mov	%rsp, (%rax)
.Ltt_no_link:
	mov	{CONTEXT_SP}(%rsi), %rsp
	TT_SET_THREAD_POINTER rsi
	TT_RESTORE
	TT_JUMP_BACK
	.cfi_endproc
	.size	libtimetravel_reenter, . - libtimetravel_reenter

/* void leave(func, host, code)
 *
 *   in:   rax = return address, rdi = func, rsi = host (host->sp = the frame that enter or reenter built), rdx = code;
 *         rsp = function's stack
 *   out:  on the launcher's stack, rax = code, as the return value of enter or reenter */
TT_FUNCTION libtimetravel_leave
	.cfi_startproc
	TT_PUSH_RETURN_ADDRESS
	TT_SAVE
	TT_CURRENT_CONTROL_WORDS
	mov	%rsp, {CONTEXT_SP}(%rdi)
	TT_SET_THREAD_POINTER rsi
	mov	{CONTEXT_SP}(%rsi), %rsp
	TT_RESTORE
	mov	%rdx, %rax
	TT_JUMP_BACK
	.cfi_endproc
	.size	libtimetravel_leave, . - libtimetravel_leave

	.popsection
	.purgem	TT_FUNCTION
	.purgem	TT_PUSH
	.purgem	TT_POP
	.purgem	TT_PUSH_RETURN_ADDRESS
	.purgem	TT_JUMP_BACK
	.purgem	TT_SAVE
	.purgem	TT_CURRENT_CONTROL_WORDS
	.purgem	TT_RESTORE
	.purgem	TT_SET_THREAD_POINTER
"#,
    CONTEXT_SP = const offset_of!(Context, sp),
    CONTEXT_THREAD_POINTER = const offset_of!(Context, thread_pointer),
    CONTEXT_LINK = const offset_of!(Context, link),
    METHOD_ARCH_PRCTL = const METHOD_ARCH_PRCTL,
    METHOD_WRFSBASE = const METHOD_WRFSBASE,
    ARCH_SET_FS = const ARCH_SET_FS,
    SYS_ARCH_PRCTL = const libc::SYS_arch_prctl,
    detect = sym detect,
    options(att_syntax)
);

// The return from a signal handler. Independent of the assembly above: the two may come in any order.
core::arch::global_asm!(
    r#"
	.pushsection .text.libtimetravel,"ax",@progbits

/* void return_from_signal(uc, gate, how)
 *
 *   in:   rdi = uc, rsi = gate, edx = how (0 = Fast, 1 = Sigreturn); rsp = the handler's stack, below uc
 *   out:  returns only if gate->pending was found set; then gate->defer is 1
 *
 *     interrupted stack, downwards
 *   +----------------------+ <- T = interrupted rsp
 *   | red zone, 128 bytes  |
 *   +----------------------+ <- T - 128
 *   | rip                  |    \ written once the XSAVE image, which
 *   | flags                |    / may overlap them, has been loaded
 *   +----------------------+ <- T - 144: rsp for `popfq; ret $128`
 *   | XSAVE image, siginfo |
 *   | ucontext_t           |
 *   +----------------------+ <- uc: rsp while the image and the registers are loaded
 *   | handler's frames     |    not needed any more
 *
 * T - 144 is stored in uc's rsp beforehand, so that one instruction leaves the signal frame: a nested
 * signal, at any instruction, finds all that is still needed above its own red zone. */
	.globl	libtimetravel_return_from_signal
	.hidden	libtimetravel_return_from_signal
	.type	libtimetravel_return_from_signal, @function
	.balign	32
libtimetravel_return_from_signal:
	.cfi_startproc
	.globl	libtimetravel_return_window_start, libtimetravel_return_window_end
	.hidden	libtimetravel_return_window_start, libtimetravel_return_window_end
libtimetravel_return_window_start:
	movl	$0, {GATE_DEFER}(%rsi)
	cmpb	$0, {GATE_PENDING}(%rsi)
	je	.Ltt_continue
	movl	$1, {GATE_DEFER}(%rsi)
	ret
.Ltt_continue:
	mov	%rdi, %rsp
	.cfi_endproc
	.size	libtimetravel_return_from_signal, . - libtimetravel_return_from_signal

/* DW_CFA_expression: `register` (DWARF number) is saved at rsp + offset. */
.macro TT_SAVED_AT register, offset
	.cfi_escape 0x10, \register, 3, 0x77, ((\offset) & 0x7f) | 0x80, (\offset) >> 7
.endm

	.hidden	libtimetravel_continue_interrupted
	.type	libtimetravel_continue_interrupted, @function
libtimetravel_continue_interrupted:
	.cfi_startproc
	.cfi_signal_frame
	/* CFA = *(rsp + offset of uc's rsp) */
	.cfi_escape 0x0f, 4, 0x77, ({UC_RSP} & 0x7f) | 0x80, {UC_RSP} >> 7, 0x06
	TT_SAVED_AT 0, {UC_RAX}
	TT_SAVED_AT 1, {UC_RDX}
	TT_SAVED_AT 2, {UC_RCX}
	TT_SAVED_AT 3, {UC_RBX}
	TT_SAVED_AT 4, {UC_RSI}
	TT_SAVED_AT 5, {UC_RDI}
	TT_SAVED_AT 6, {UC_RBP}
	TT_SAVED_AT 8, {UC_R8}
	TT_SAVED_AT 9, {UC_R9}
	TT_SAVED_AT 10, {UC_R10}
	TT_SAVED_AT 11, {UC_R11}
	TT_SAVED_AT 12, {UC_R12}
	TT_SAVED_AT 13, {UC_R13}
	TT_SAVED_AT 14, {UC_R14}
	TT_SAVED_AT 15, {UC_R15}
	TT_SAVED_AT 16, {UC_RIP}
	test	%edx, %edx
	jnz	.Ltt_sigreturn
	mov	{UC_FPREGS}(%rsp), %rbx
	test	%rbx, %rbx
	jz	.Ltt_sigreturn
	cmpl	${FP_XSTATE_MAGIC1}, {SW_MAGIC1}(%rbx)
	jne	.Ltt_sigreturn
	mov	{SW_XFEATURES}(%rbx), %eax
	mov	{SW_XFEATURES} + 4(%rbx), %edx
	xrstor64 (%rbx)
	mov	{UC_RSP}(%rsp), %rcx
	mov	{UC_RIP}(%rsp), %rax
	mov	{UC_EFL}(%rsp), %rdx
	lea	-144(%rcx), %rcx
	mov	%rax, 8(%rcx)
	mov	%rdx, (%rcx)
	mov	%rcx, {UC_RSP}(%rsp)
	/* CFA = *(rsp + offset of uc's rsp) + 144 */
	.cfi_escape 0x0f, 7, 0x77, ({UC_RSP} & 0x7f) | 0x80, {UC_RSP} >> 7, 0x06, 0x23, 0x90, 0x01
	mov	{UC_R8}(%rsp), %r8
	mov	{UC_R9}(%rsp), %r9
	mov	{UC_R10}(%rsp), %r10
	mov	{UC_R11}(%rsp), %r11
	mov	{UC_R12}(%rsp), %r12
	mov	{UC_R13}(%rsp), %r13
	mov	{UC_R14}(%rsp), %r14
	mov	{UC_R15}(%rsp), %r15
	mov	{UC_RDI}(%rsp), %rdi
	mov	{UC_RSI}(%rsp), %rsi
	mov	{UC_RBP}(%rsp), %rbp
	mov	{UC_RBX}(%rsp), %rbx
	mov	{UC_RDX}(%rsp), %rdx
	mov	{UC_RAX}(%rsp), %rax
	mov	{UC_RCX}(%rsp), %rcx
	mov	{UC_RSP}(%rsp), %rsp
	.cfi_remember_state
	.cfi_def_cfa %rsp, 144
	.irp register, rax, rdx, rcx, rbx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15
	.cfi_same_value %\register
	.endr
	.cfi_offset %rip, -136
	popfq
	.cfi_adjust_cfa_offset -8
	ret	$128
	.cfi_restore_state

	/* rt_sigreturn wants rsp = uc */
.Ltt_sigreturn:
	.cfi_escape 0x0f, 4, 0x77, ({UC_RSP} & 0x7f) | 0x80, {UC_RSP} >> 7, 0x06
	mov	${SYS_RT_SIGRETURN}, %eax
	syscall
libtimetravel_return_window_end:
	ud2
	.cfi_endproc
	.size	libtimetravel_continue_interrupted, . - libtimetravel_continue_interrupted

	.popsection
	.purgem	TT_SAVED_AT
"#,
    GATE_DEFER = const offset_of!(Gate, defer),
    GATE_PENDING = const offset_of!(Gate, pending),
    UC_R8 = const greg(libc::REG_R8),
    UC_R9 = const greg(libc::REG_R9),
    UC_R10 = const greg(libc::REG_R10),
    UC_R11 = const greg(libc::REG_R11),
    UC_R12 = const greg(libc::REG_R12),
    UC_R13 = const greg(libc::REG_R13),
    UC_R14 = const greg(libc::REG_R14),
    UC_R15 = const greg(libc::REG_R15),
    UC_RDI = const greg(libc::REG_RDI),
    UC_RSI = const greg(libc::REG_RSI),
    UC_RBP = const greg(libc::REG_RBP),
    UC_RBX = const greg(libc::REG_RBX),
    UC_RDX = const greg(libc::REG_RDX),
    UC_RAX = const greg(libc::REG_RAX),
    UC_RCX = const greg(libc::REG_RCX),
    UC_RSP = const greg(libc::REG_RSP),
    UC_RIP = const greg(libc::REG_RIP),
    UC_EFL = const greg(libc::REG_EFL),
    UC_FPREGS = const offset_of!(ucontext_t, uc_mcontext.fpregs),
    SW_MAGIC1 = const FPX_SW_BYTES,
    SW_XFEATURES = const FPX_SW_BYTES + 8,
    FP_XSTATE_MAGIC1 = const FP_XSTATE_MAGIC1,
    SYS_RT_SIGRETURN = const libc::SYS_rt_sigreturn,
    options(att_syntax)
);

// A call from elsewhere, for unwinders.
core::arch::global_asm!(
    r#"
	.pushsection .text.libtimetravel,"ax",@progbits

/* void call_from(registers, callee, arg)
 *
 *   in:   rdi = registers (17 words, by DWARF numbers), rsi = callee, rdx = arg
 *
 * Calls callee(arg). To unwinders its caller's caller is the execution that has these registers, interrupted by a
 * signal: so its instruction pointer is taken as it is, and not for a return address. */
	.globl	libtimetravel_call_from, libtimetravel_call_from_end
	.hidden	libtimetravel_call_from, libtimetravel_call_from_end
	.type	libtimetravel_call_from, @function
	.balign	16
libtimetravel_call_from:
	.cfi_startproc
	.cfi_signal_frame
	push	%rdi
	.cfi_adjust_cfa_offset 8
	.cfi_remember_state
	/* CFA = registers[rsp]: DW_OP_breg7 0, deref, plus_uconst, deref */
	.cfi_escape 0x0f, 7, 0x77, 0, 0x06, 0x23, (8 * {RSP}) | 0x80, 0, 0x06
	/* each is saved at registers + 8 * its number: DW_CFA_expression */
	.irp number, 0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, {RIP}
	.cfi_escape 0x10, \number, 6, 0x77, 0, 0x06, 0x23, ((8 * \number) & 0x7f) | 0x80, (8 * \number) >> 7
	.endr
	mov	%rdx, %rdi
	call	*%rsi
	.cfi_restore_state
	pop	%rdi
	.cfi_adjust_cfa_offset -8
	ret
	.cfi_endproc
libtimetravel_call_from_end:
	.size	libtimetravel_call_from, . - libtimetravel_call_from

	.popsection
"#,
    RSP = const RSP,
    RIP = const RIP,
    options(att_syntax)
);
