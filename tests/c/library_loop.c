/* A function that spends all its time in a function of the C library that is chosen at run time (an
 * ifunc) is preempted like any other: it runs in the libset's copy. */
#include "check.h"

#include <string.h>

static volatile unsigned long calls;
static volatile size_t length;          /* a length that nobody wants is not computed */

static void measure_for_ever(void *text) {
	for (;; calls++)
		length = strlen(*(char *volatile *) &text);
}

int main(void) {
	enum { SIZE = 64 << 20, BUDGET_US = 1000 };
	char *text = malloc(SIZE);
	CHECK(text);
	memset(text, 'x', SIZE - 1);
	text[SIZE - 1] = 0;
	linger_t linger = launch(measure_for_ever, BUDGET_US, text);
	CHECK(!linger.is_complete && !linger.error);
	/* A call takes longer than a slice. If it ran in base, where it may not be preempted, each slice would end with
	 * one, however long that takes. */
	int within_a_call = 0;
	for (int i = 0; i < 100; i++) {
		unsigned long before = calls;
		resume(&linger, BUDGET_US);
		within_a_call += calls == before;
	}
	CHECK(within_a_call > 10);
	cancel(&linger);
	free(text);
	return 0;
}
