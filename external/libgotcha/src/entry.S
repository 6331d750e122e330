/* Where the kernel enters handlers, and where it comes back from a call that opens a descriptor.
 *
 * Another signal can come before a handler's first instruction. A function that was preempted there would keep the
 * signal that the handler is for in its stopped frames: until it is resumed, or for good. So preemption is deferred
 * from the first instruction that can do so, and not begun in front of it: libgotcha_is_shared_code() knows the
 * addresses.
 *
 * What a signal finds that comes to the preemption signal's handler: the context of the code below is in rdx until it is
 * in the thread's `interrupted`, whose value before is the fourth argument. */
#include "thunk.h"

	.hidden	libgotcha_tls, gotcha_deliver_deferred, gotcha_signal_deferred

	.text

.macro ENTRY name, handler, notes=0
	.globl	\name
	.hidden	\name
	.type	\name, @function
	.balign	16
\name:
	.cfi_startproc
	mov	libgotcha_tls@gottpoff(%rip), %rax
	incl	%fs:THREAD_DEFER(%rax)
	.if \notes
	mov	%fs:THREAD_INTERRUPTED(%rax), %rcx
	mov	%rdx, %fs:THREAD_INTERRUPTED(%rax)
	.endif
	jmp	\handler
	.cfi_endproc
	.size	\name, . - \name
.endm

	.globl	gotcha_entries, gotcha_entries_end
	.hidden	gotcha_entries, gotcha_entries_end
gotcha_entries:
	ENTRY	gotcha_deliver, gotcha_deliver_deferred
	ENTRY	gotcha_signal_entry, gotcha_signal_deferred, notes=1
gotcha_entries_end:

/* long gotcha_system_call(long number, long a, long b, long c, long d): the kernel keeps r9, whose value no call of
 * so few arguments reads. libgotcha_is_shared_code() knows the address at which it has returned. */
	.globl	gotcha_system_call, gotcha_system_call_made
	.hidden	gotcha_system_call, gotcha_system_call_made
	.type	gotcha_system_call, @function
	.balign	16
gotcha_system_call:
	.cfi_startproc
	mov	%rdi, %rax
	mov	%rsi, %rdi
	mov	%rdx, %rsi
	mov	%rcx, %rdx
	mov	%r8, %r10
	mov	libgotcha_tls@gottpoff(%rip), %r9
	syscall
gotcha_system_call_made:
	incl	%fs:THREAD_DEFER(%r9)
	ret
	.cfi_endproc
	.size	gotcha_system_call, . - gotcha_system_call

	.section .note.GNU-stack, "", @progbits
