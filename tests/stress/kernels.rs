//! Computations that keep state wherever a preemption could lose it, in registers that a compiler would
//! not keep alive for long enough.
//!
//! Each carries every bit of its state from one round to the next, and none of them contracts: a bit that
//! is lost once shows in the result.

use std::arch::global_asm;

/// What a computation of one kind has left behind, as 64-bit words.
pub(crate) type Words<const N: usize> = [u64; N];

unsafe extern "C" {
    fn stress_registers(rounds: u64, state: *mut Words<31>);
    fn stress_vectors(rounds: u64, state: *mut Words<64>);
    fn stress_x87(rounds: u64, state: *mut Words<16>);
    fn stress_direction(rounds: u64, last: *const u8, length: u64) -> u64;
    fn stress_rounding(rounds: u64, state: *mut Words<3>);
    fn stress_vfork(status: i32) -> libc::pid_t;
}

/// All general registers but rsp, the carry flag, and all of the red zone.
pub(crate) fn registers(rounds: u64) -> Words<31> {
    let mut state = [0; 31];
    // SAFETY: follows the C calling convention; the state is valid for writes and of the right size.
    unsafe { stress_registers(rounds, &mut state) };
    state
}

/// All sixteen ymm registers. Needs AVX2.
pub(crate) fn vectors(rounds: u64) -> Words<64> {
    assert!(std::is_x86_feature_detected!("avx2"));
    let mut state = [0; 64];
    // SAFETY: as for `registers`; the processor has AVX2.
    unsafe { stress_vectors(rounds, &mut state) };
    state
}

/// Seven x87 registers, computing with 53 bits and rounding towards zero.
pub(crate) fn x87(rounds: u64) -> Words<16> {
    let mut state = [0; 16];
    // SAFETY: as for `registers`; the control word is put back.
    unsafe { stress_x87(rounds, &mut state) };
    state
}

/// Reads `bytes` backwards, with the direction flag set.
pub(crate) fn direction(rounds: u64, bytes: &[u8]) -> u64 {
    let Some(last) = bytes.last() else { return 0 };
    // SAFETY: as for `registers`; reads `bytes` only, and clears the flag.
    unsafe { stress_direction(rounds, last, bytes.len() as u64) }
}

/// Scalar SSE arithmetic, rounding towards zero.
pub(crate) fn rounding(rounds: u64) -> Words<3> {
    let mut state = [0; 3];
    // SAFETY: as for `registers`; mxcsr is put back.
    unsafe { stress_rounding(rounds, &mut state) };
    state
}

/// vfork(), with a child that calls `_exit(status)`; its process ID, or -1.
///
/// In assembly, because the compiler does not know that the call returns twice.
pub(crate) fn vfork(status: i32) -> libc::pid_t {
    // SAFETY: the child uses the stack below this frame only, and does not return.
    unsafe { stress_vfork(status) }
}

/// The control bits of mxcsr and of the x87 control word: rounding, precision, masked exceptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Modes {
    mxcsr: u32,
    x87: u16,
}

/// Flags of exceptions that have occurred; not a mode.
const MXCSR_FLAGS: u32 = 0x3f;

impl Modes {
    /// What a process starts with.
    pub(crate) const DEFAULT: Modes = Modes { mxcsr: 0x1f80, x87: 0x37f };
    /// Rounds downwards; x87 with 53 bits.
    pub(crate) const DOWN: Modes = Modes { mxcsr: 0x3f80, x87: 0x67f };
    /// Rounds upwards; x87 with 24 bits; denormals are zero.
    pub(crate) const UP: Modes = Modes { mxcsr: 0xdfc0, x87: 0x87f };

    pub(crate) fn current() -> Modes {
        let (mut mxcsr, mut x87) = (0u32, 0u16);
        // SAFETY: writes the two words.
        unsafe {
            std::arch::asm!(
                "stmxcsr dword ptr [{mxcsr}]", "fnstcw word ptr [{x87}]",
                mxcsr = in(reg) &mut mxcsr, x87 = in(reg) &mut x87, options(nostack, preserves_flags)
            );
        }
        Modes { mxcsr: mxcsr & !MXCSR_FLAGS, x87 }
    }

    /// # Safety
    ///
    /// Until the default is back, no floating-point arithmetic of Rust's is done.
    pub(crate) unsafe fn set(self) {
        // SAFETY: reads the two words, whose bits are all defined.
        unsafe {
            std::arch::asm!(
                "ldmxcsr dword ptr [{mxcsr}]", "fldcw word ptr [{x87}]",
                mxcsr = in(reg) &self.mxcsr, x87 = in(reg) &self.x87, options(nostack, preserves_flags)
            );
        }
    }
}

global_asm!(
    r#"
	.pushsection .text.stress,"ax",@progbits

.macro STRESS_FUNCTION name
	.globl	\name
	.type	\name, @function
	.balign	32
\name:
.endm

/* void stress_registers(rounds, state[31]) */
.macro STRESS_MIX register, neighbour, slot
	adc	%\neighbour, %\register
	rcl	$\slot, %\register
	adc	%\register, -8*\slot(%rsp)
.endm

STRESS_FUNCTION stress_registers
	.irp	register, rbp, rbx, r12, r13, r14, r15, rsi
	push	%\register
	.endr
	mov	%rdi, -128(%rsp)			/* rounds */
	movabs	$0x9e3779b97f4a7c15, %rax
	.irp	register, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15
	rol	$5, %rax
	mov	%rax, %\register
	.endr
	.irp	slot, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	rol	$3, %rax
	mov	%rax, -8*\slot(%rsp)
	.endr
	clc
1:
	STRESS_MIX rax, rbx, 1
	STRESS_MIX rbx, rcx, 2
	STRESS_MIX rcx, rdx, 3
	STRESS_MIX rdx, rsi, 4
	STRESS_MIX rsi, rdi, 5
	STRESS_MIX rdi, rbp, 6
	STRESS_MIX rbp, r8, 7
	STRESS_MIX r8, r9, 8
	STRESS_MIX r9, r10, 9
	STRESS_MIX r10, r11, 10
	STRESS_MIX r11, r12, 11
	STRESS_MIX r12, r13, 12
	STRESS_MIX r13, r14, 13
	STRESS_MIX r14, r15, 14
	STRESS_MIX r15, rax, 15
	decq	-128(%rsp)				/* leaves the carry flag as it is */
	jnz	1b
	xchg	%rsi, (%rsp)				/* rsi = state */
	.set	stress_offset, 0
	.irp	register, rax, rbx, rcx, rdx, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15
	mov	%\register, stress_offset(%rsi)
	.set	stress_offset, stress_offset + 8
	.endr
	sbb	%rax, %rax
	mov	%rax, stress_offset(%rsi)		/* carry */
	.irp	slot, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15	/* 0: what rsi held */
	.set	stress_offset, stress_offset + 8
	mov	-8*\slot(%rsp), %rax
	mov	%rax, stress_offset(%rsi)
	.endr
	.irp	register, rsi, r15, r14, r13, r12, rbx, rbp
	pop	%\register
	.endr
	ret

/* void stress_vectors(rounds, state[64]) */
.macro STRESS_VMIX register, neighbour
	vpaddq	%ymm\neighbour, %ymm\register, %ymm\register
	vpermq	$0x39, %ymm\register, %ymm\register	/* across both halves */
	vpshufd	$0x93, %ymm\neighbour, %ymm\neighbour
	vpxor	%ymm\register, %ymm\neighbour, %ymm\neighbour
.endm

STRESS_FUNCTION stress_vectors
	movabs	$0x9e3779b97f4a7c15, %rax
	vmovq	%rax, %xmm0
	vpbroadcastq %xmm0, %ymm0
	.irp	register, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	vpsllq	$\register, %ymm0, %ymm\register
	.endr
1:
	STRESS_VMIX 0, 1
	STRESS_VMIX 1, 2
	STRESS_VMIX 2, 3
	STRESS_VMIX 3, 4
	STRESS_VMIX 4, 5
	STRESS_VMIX 5, 6
	STRESS_VMIX 6, 7
	STRESS_VMIX 7, 8
	STRESS_VMIX 8, 9
	STRESS_VMIX 9, 10
	STRESS_VMIX 10, 11
	STRESS_VMIX 11, 12
	STRESS_VMIX 12, 13
	STRESS_VMIX 13, 14
	STRESS_VMIX 14, 15
	STRESS_VMIX 15, 0
	dec	%rdi
	jnz	1b
	.irp	register, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	vmovdqu	%ymm\register, 32*\register(%rsi)
	.endr
	vzeroupper
	ret

/* void stress_x87(rounds, state[16])
 *
 * Seven numbers go through x = r x (1 - x), which is chaotic: one bit rounded otherwise is soon a
 * wholly different number. */
STRESS_FUNCTION stress_x87
	fnstcw	-16(%rsp)
	movw	$0x0e7f, -14(%rsp)			/* 53 bits, towards zero */
	fldcw	-14(%rsp)
	movl	$10, -20(%rsp)
	.irp	number, 1, 2, 3, 4, 5, 6, 7
	movl	$\number, -24(%rsp)
	fildl	-24(%rsp)
	fidivl	-20(%rsp)
	.endr
1:
	.irp	register, 1, 2, 3, 4, 5, 6, 6
	fld1
	fsub	%st(1), %st
	fmulp	%st, %st(1)
	fmuls	stress_r(%rip)
	fxch	%st(\register)
	.endr
	dec	%rdi
	jnz	1b
	.irp	number, 0, 1, 2, 3, 4, 5, 6
	fstpt	16*\number(%rsi)
	.endr
	fnstcw	16*7(%rsi)
	fldcw	-16(%rsp)
	ret

	.balign	4
stress_r:
	.float	3.9375

/* u64 stress_direction(rounds, last, length) */
STRESS_FUNCTION stress_direction
	mov	%rsi, %r8
	mov	%rdx, %r10
	xor	%r9d, %r9d
1:
	mov	%r8, %rsi
	mov	%r10, %rcx
	std
2:
	lodsb						/* rsi goes down */
	rol	$5, %r9
	movzbl	%al, %eax
	add	%rax, %r9
	dec	%rcx
	jnz	2b
	cld
	dec	%rdi
	jnz	1b
	mov	%r9, %rax
	ret

/* void stress_rounding(rounds, state[3]): as stress_x87, in doubles */
STRESS_FUNCTION stress_rounding
	stmxcsr	-8(%rsp)
	movl	$0x7f80, -4(%rsp)			/* towards zero */
	ldmxcsr	-4(%rsp)
	mov	$1, %eax
	cvtsi2sd %eax, %xmm4
	mov	$10, %eax
	cvtsi2sd %eax, %xmm0
	movapd	%xmm4, %xmm1
	divsd	%xmm0, %xmm1
	movapd	%xmm1, %xmm2
	addsd	%xmm1, %xmm2
	cvtss2sd stress_r(%rip), %xmm3
1:
	.irp	register, 1, 2
	movapd	%xmm4, %xmm0
	subsd	%xmm\register, %xmm0
	mulsd	%xmm0, %xmm\register
	mulsd	%xmm3, %xmm\register
	.endr
	dec	%rdi
	jnz	1b
	movq	%xmm1, (%rsi)
	movq	%xmm2, 8(%rsi)
	stmxcsr	16(%rsi)
	andl	$~0x3f, 16(%rsi)
	ldmxcsr	-8(%rsp)
	ret

/* pid_t stress_vfork(status) */
STRESS_FUNCTION stress_vfork
	push	%rbx
	mov	%edi, %ebx
	call	*vfork@GOTPCREL(%rip)
	test	%eax, %eax
	jnz	1f
	mov	%ebx, %edi
	call	*_exit@GOTPCREL(%rip)
	ud2
1:
	pop	%rbx
	ret

	.popsection
	.purgem	STRESS_FUNCTION
	.purgem	STRESS_MIX
	.purgem	STRESS_VMIX
"#,
    options(att_syntax)
);
