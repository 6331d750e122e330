/* Compiled in each order with <unistd.h>, as C and as C++, with every warning an error. */
#ifdef UNISTD_FIRST
#include <unistd.h>
#endif
#include <libinger.h>
#include <libinger.h>
#ifndef UNISTD_FIRST
#include <unistd.h>
#endif

#include <stddef.h>

#ifndef __cplusplus
#include <stdalign.h>
#include <assert.h>
#endif

static_assert(sizeof(linger_t) == 16 && alignof(linger_t) == 8, "the layout is promised");
static_assert(offsetof(linger_t, is_complete) == 0 && offsetof(linger_t, is_yielded) == 1, "the layout is promised");
static_assert(offsetof(linger_t, error) == 4 && offsetof(linger_t, continuation) == 8, "the layout is promised");

static void yield(void *steps) {
	++*(int *) steps;
	pause();
	++*(int *) steps;
}

/* Is pause() the library's? Exit status: how far the function got before it stopped. */
int main(void) {
	int steps = 0;
	linger_t linger = launch(yield, 50000, &steps);
	return steps + 10 * linger.is_yielded;
}
