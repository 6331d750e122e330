# A library with state, and with addresses in its text, one of another library's function.
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
	.quad getppid
	.local count
	.comm count, 4, 4
	.section .note.GNU-stack, "", @progbits
