# A library with state, and with an address in its text.
	.text
	.globl late
	.type late, @function
late:
	lea count(%rip), %rcx
	incl (%rcx)
	mov (%rcx), %eax
	ret
address:
	.quad late
	.local count
	.comm count, 4, 4
	.section .note.GNU-stack, "", @progbits
