/* Policy under valgrind, and there alone. The C library's string functions read past the end of what they are given, as
 * far as a vector goes, and memcheck reports that of any code that it does not know to be theirs; it puts functions of
 * its own in their place, but in a library's first copy in the process only. So libsets call base's. That nothing
 * is preempted in these is of no account beside what valgrind takes.
 *
 * They are what the C library defines by indirect functions. */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>

struct rows gotcha_rows_valgrind;

/* valgrind.h, VALGRIND_DO_CLIENT_REQUEST: nothing happens elsewhere. */
static bool is_under_valgrind(void) {
	enum { RUNNING_ON_VALGRIND = 0x1001 };
	uint64_t request[6] = { RUNNING_ON_VALGRIND }, answer = 0;
	__asm__ volatile("rolq $3, %%rdi; rolq $13, %%rdi; rolq $61, %%rdi; rolq $51, %%rdi; xchgq %%rbx, %%rbx"
		: "+d" (answer) : "a" (request) : "cc", "memory");
	return answer;
}

int gotcha_valgrind_init(void) {
	if (!is_under_valgrind())
		return 0;
	size_t length = gotcha_object_symbols_len(gotcha_libc);
	struct row *rows = calloc(length, sizeof *rows);
	if (!rows)
		return gotcha_fail(ENOMEM, "no memory for the policy under valgrind");
	gotcha_rows_valgrind.first = rows;
	for (size_t i = 1; i < length; i++)
		if (ELF64_ST_TYPE(gotcha_libc->symbols[i].st_info) == STT_GNU_IFUNC)
			rows[gotcha_rows_valgrind.length++].name = gotcha_libc->strings + gotcha_libc->symbols[i].st_name;
	return 0;
}
