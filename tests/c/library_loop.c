/* A function that spends all its time in a function of the C library that is chosen at run time (an
 * ifunc) is preempted like any other: it runs in the libset's copy. */
#include "check.h"

#include <string.h>

static void measure_for_ever(void *text) {
	while (strlen(*(char *volatile *) &text))
		;
}

int main(void) {
	enum { SIZE = 64 << 20, BUDGET_US = 1000 };
	char *text = malloc(SIZE);
	CHECK(text);
	memset(text, 'x', SIZE - 1);
	text[SIZE - 1] = 0;
	linger_t linger = launch(measure_for_ever, BUDGET_US, text);
	CHECK(!linger.is_complete && !linger.error);
	uint64_t longest = 0;
	for (int i = 0; i < 100; i++) {
		uint64_t begin = now_us();
		resume(&linger, BUDGET_US);
		uint64_t took = now_us() - begin;
		if (took > longest)
			longest = took;
	}
	/* if it ran in base, where it may not be preempted, this would be hundreds of milliseconds */
	CHECK(longest < 100000);
	cancel(&linger);
	free(text);
	return 0;
}
