/* What the test programs share. Exit status: 0 all right, 1 a check failed. */
#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <libinger.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* fprintf() could be what is tested. */
#define CHECK(condition) \
	do { \
		if (!(condition)) { \
			dprintf(STDERR_FILENO, "%s:%d: not so: %s (errno %d, \"%s\")\n", __FILE__, __LINE__, #condition, \
				errno, linger_error()); \
			_exit(1); \
		} \
	} while (0)

#define NO_LIMIT UINT64_MAX

static inline uint64_t now_us(void) {
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t) now.tv_sec * 1000000 + (uint64_t) now.tv_nsec / 1000;
}

/* Never returns. */
static inline void spin(void *unused) {
	(void) unused;
	for (volatile unsigned long count = 0;; count++)
		;
}

/* Takes that long. */
static inline void spin_us(uint64_t us) {
	for (uint64_t end = now_us() + us; now_us() < end;)
		;
}

/* Resumes until it has completed; returns how often it was preempted on the way. */
static inline unsigned long finish(linger_t *linger, uint64_t us) {
	unsigned long preemptions = 0;
	while (!linger->is_complete) {
		resume(linger, us);
		CHECK(linger->error == 0);
		preemptions += !linger->is_complete && !linger->is_yielded;
	}
	return preemptions;
}

#endif
