/* Calls of shared functions from inside a libset.
 *
 * For a function of a library that is shared the libsets' tables hold the address of an entry,
 * `mov $slot, %r11d; jmp *gotcha_thunk` (intercept.c). The thunk opens a bracket, calls base's function and closes
 * the bracket. The function finds registers and stack as its caller left them, so it may have any parameters;
 * hence the return address cannot stay on the stack, where the thunk's own takes its place. It is kept in a
 * *call*, an element of this TCB's stack of calls. rbx, which functions preserve, points to the call meanwhile:
 * so unwinders find it too.
 *
 *     caller's stack                  call <- rbx
 *   +--------------------+          +------------------+
 *   | stack arguments    |          | return address   |
 *   +--------------------+ <- CFA   | caller's rbx     |
 *   | thunk's address    |          | stack pointer    |----> the CFA
 *   +--------------------+          | caller's table   |
 *     function's frames             | caller's libset  |
 *                                   +------------------+ <- calls_end, unless more are under way
 *
 * Preemption is deferred from `incl` to `decl` of THREAD_DEFER. A handler of the program may run at any
 * instruction and make such calls too: so a call is reserved before it is written to, and is given up after
 * it was last read. */
#include "thunk.h"

	.hidden	libgotcha_tls, gotcha_shared_table, gotcha_shared_hook, gotcha_base_errno_offset, gotcha_vector_state_bytes
	.hidden	gotcha_calls_make, gotcha_calls_skip, gotcha_thunk_personality, libgotcha_run_hook, libgotcha_take_pending
	.hidden	gotcha_trace_row, gotcha_trace_slot, gotcha_traced_targets

	.text

.macro FUNCTION name
	.globl	\name
	.hidden	\name
	.type	\name, @function
	.balign	16
\name:
.endm

.macro PUSHED register
	push	%\register
	.cfi_adjust_cfa_offset 8
.endm

.macro POPPED register
	pop	%\register
	.cfi_adjust_cfa_offset -8
.endm

/* Calls a C function. Preserves all registers but r11 and flags. */
.macro CALL_PRESERVING function
	lea	\function(%rip), %r11
	call	preserving
.endm

/* Closes the bracket of the call that rbx points to, whose return address is back on the stack. Clobbers rcx, rsi,
 * rdi, r11 and flags; all else may be results. */
.macro CLOSE
	mov	libgotcha_tls@gottpoff(%rip), %rcx
	mov	CALL_SET(%rbx), %rsi
	mov	%rsi, %fs:THREAD_SET(%rcx)
	test	%rsi, %rsi
	jz	.Lno_set\@
	mov	gotcha_base_errno_offset(%rip), %rdi
	mov	SET_ERRNO_OFFSET(%rsi), %rsi
	mov	%fs:(%rdi), %edi
	mov	%edi, %fs:(%rsi)
.Lno_set\@:
	lea	CALL_SIZE(%rbx), %rsi
	cmp	%fs:THREAD_CALLS_END(%rcx), %rsi
	jne	.Lskip\@
.Lskipped\@:
	mov	%rbx, %rdi
	mov	CALL_TABLE(%rdi), %rsi
	mov	CALL_RBX(%rdi), %rbx
	.cfi_same_value %rbx
	mov	%rsi, %fs:THREAD_TABLE(%rcx)
	mov	%rdi, %fs:THREAD_CALLS_END(%rcx)
	cmpq	$0, gotcha_shared_hook(%rip)
	jne	.Lhook\@
.Lhooked\@:
	decl	%fs:THREAD_DEFER(%rcx)
	jnz	.Lclosed\@
	cmpb	$0, %fs:THREAD_PENDING(%rcx)
	je	.Lclosed\@
	CALL_PRESERVING libgotcha_take_pending
	jmp	.Lclosed\@
.Lhook\@:
	CALL_PRESERVING libgotcha_run_hook
	jmp	.Lhooked\@
.Lskip\@:
	.cfi_escape 0x10, 3, 2, 0x73, CALL_RBX
	mov	%rbx, %rdi
	CALL_PRESERVING gotcha_calls_skip
	jmp	.Lskipped\@
.Lclosed\@:
	.cfi_same_value %rbx
.endm

/* in: r11 = slot; everything else belongs to the call */
FUNCTION gotcha_thunk
	.cfi_startproc
	.cfi_personality 0x1b, gotcha_thunk_personality		/* DW_EH_PE_pcrel | DW_EH_PE_sdata4 */
	PUSHED	rbx
	.cfi_rel_offset %rbx, 0
	PUSHED	rax
	PUSHED	r10
	mov	libgotcha_tls@gottpoff(%rip), %rax
	incl	%fs:THREAD_DEFER(%rax)
.Lreserve:
	mov	%fs:THREAD_CALLS_END(%rax), %r10
	cmp	%fs:THREAD_CALLS_LIMIT(%rax), %r10
	jae	.Lmake
	addq	$CALL_SIZE, %fs:THREAD_CALLS_END(%rax)
	mov	24(%rsp), %rbx
	mov	%rbx, CALL_RETURN_ADDRESS(%r10)
	mov	16(%rsp), %rbx
	mov	%rbx, CALL_RBX(%r10)
	lea	32(%rsp), %rbx
	mov	%rbx, CALL_STACK_POINTER(%r10)
	mov	%fs:THREAD_TABLE(%rax), %rbx
	mov	%rbx, CALL_TABLE(%r10)
	lea	gotcha_shared_table(%rip), %rbx
	mov	%rbx, %fs:THREAD_TABLE(%rax)
	mov	(%rbx,%r11,8), %r11			/* base's function */
	mov	%r10, %rbx
	mov	%fs:THREAD_SET(%rax), %rax
	mov	%rax, CALL_SET(%rbx)
	test	%rax, %rax
	jz	.Lno_set
	mov	SET_ERRNO_OFFSET(%rax), %rax
	mov	gotcha_base_errno_offset(%rip), %r10
	mov	%fs:(%rax), %eax
	mov	%eax, %fs:(%r10)
.Lno_set:
	POPPED	r10
	POPPED	rax
	/* return address and rbx are in the call: DW_CFA_expression, DW_OP_breg3 */
	.cfi_escape 0x10, 16, 2, 0x73, CALL_RETURN_ADDRESS
	.cfi_escape 0x10, 3, 2, 0x73, CALL_RBX
	lea	16(%rsp), %rsp
	.cfi_adjust_cfa_offset -16
	call	*%r11
	.globl	gotcha_thunk_returned
	.hidden	gotcha_thunk_returned
gotcha_thunk_returned:
	push	CALL_RETURN_ADDRESS(%rbx)
	.cfi_adjust_cfa_offset 8
	.cfi_offset %rip, -8
	CLOSE
	ret

.Lmake:
	.cfi_def_cfa %rsp, 32
	.cfi_offset %rip, -8
	.cfi_offset %rbx, -16
	PUSHED	r11
	CALL_PRESERVING gotcha_calls_make
	POPPED	r11
	jmp	.Lreserve
	.cfi_endproc
	.size	gotcha_thunk, . - gotcha_thunk

/* The call at hand is told to a C function by its number. */
.macro TELL function
	PUSHED	r11
	PUSHED	rdi
	mov	%r11, %rdi
	CALL_PRESERVING \function
	POPPED	rdi
	POPPED	r11
.endm

/* LIBGOTCHA_TRACE=calls: what entries jump to then.  in: r11 = number; everything else belongs to the call */
FUNCTION gotcha_trace_row_thunk
	.cfi_startproc
	TELL	gotcha_trace_row
	PUSHED	rax
	lea	gotcha_traced_targets(%rip), %rax
	mov	(%rax,%r11,8), %r11
	POPPED	rax
	jmp	*%r11
	.cfi_endproc
	.size	gotcha_trace_row_thunk, . - gotcha_trace_row_thunk

FUNCTION gotcha_trace_slot_thunk
	.cfi_startproc
	TELL	gotcha_trace_slot
	jmp	gotcha_thunk
	.cfi_endproc
	.size	gotcha_trace_slot_thunk, . - gotcha_trace_slot_thunk

/* Where an exception that leaves a shared function comes to: closes the bracket, and lets it go on from the caller.
 *
 *   in:   rax = exception, rdx = _Unwind_Resume; rbx and rsp as at gotcha_thunk_returned */
FUNCTION gotcha_thunk_unwind
	.cfi_startproc
	.cfi_def_cfa %rsp, 0
	.cfi_escape 0x10, 16, 2, 0x73, CALL_RETURN_ADDRESS
	.cfi_escape 0x10, 3, 2, 0x73, CALL_RBX
	push	CALL_RETURN_ADDRESS(%rbx)
	.cfi_adjust_cfa_offset 8
	.cfi_offset %rip, -8
	CLOSE
	mov	%rax, %rdi
	jmp	*%rdx
	.cfi_endproc
	.size	gotcha_thunk_unwind, . - gotcha_thunk_unwind

/* Calls the C function at r11, whatever the alignment of the stack; preserves all registers that hold
 * arguments or results, x87's stack included, which the function finds empty. Clobbers r11 and flags. */
	.type	preserving, @function
	.balign	16
preserving:
	.cfi_startproc
	PUSHED	rbp
	.cfi_rel_offset %rbp, 0
	mov	%rsp, %rbp
	.cfi_def_cfa_register %rbp
	.irp	register, rax, rcx, rdx, rsi, rdi, r8, r9, r10
	push	%\register
	.endr
	mov	gotcha_vector_state_bytes(%rip), %rcx
	sub	%rcx, %rsp
	and	$-64, %rsp
	cmp	$FXSAVE_SIZE, %rcx
	je	.Lfxsave
	.irp	word, 0, 8, 16, 24, 32, 40, 48, 56
	movq	$0, FXSAVE_SIZE + \word(%rsp)
	.endr
	mov	$VECTOR_COMPONENTS, %eax
	xor	%edx, %edx
	xsave64	(%rsp)
	emms
	call	*%r11
	mov	$VECTOR_COMPONENTS, %eax
	xor	%edx, %edx
	xrstor64 (%rsp)
	jmp	.Lrestored
.Lfxsave:
	fxsave64 (%rsp)
	emms
	call	*%r11
	fxrstor64 (%rsp)
.Lrestored:
	lea	-8*8(%rbp), %rsp
	.irp	register, r10, r9, r8, rdi, rsi, rdx, rcx, rax
	pop	%\register
	.endr
	pop	%rbp
	.cfi_def_cfa %rsp, 8
	.cfi_same_value %rbp
	ret
	.cfi_endproc
	.size	preserving, . - preserving

	.section .note.GNU-stack, "", @progbits
