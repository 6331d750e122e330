/* Pointers that the program stored before the first launch lead past interception, into base's copies:
 * their code runs inside functions, and is not preempted there. */
#include "policy.h"

#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>

static void *(*volatile stored_malloc)(size_t);
static void (*volatile stored_free)(void *);
static int (*volatile stored_close)(int);
static int (*volatile stored_open)(const char *, int, ...);

/* Before main(), as a plugin's table would be filled; looked up, so that the linker has no part in it. */
__attribute__((constructor)) static void store(void) {
	/* one arena: a function and its launcher want the same lock */
	mallopt(M_ARENA_MAX, 1);
	*(void **) &stored_malloc = dlsym(RTLD_DEFAULT, "malloc");
	*(void **) &stored_free = dlsym(RTLD_DEFAULT, "free");
	*(void **) &stored_close = dlsym(RTLD_DEFAULT, "close");
	*(void **) &stored_open = dlsym(RTLD_DEFAULT, "open");
}

enum { HELD = 16, PREEMPTIONS = 100000 };
static volatile unsigned long rounds;

static void use_stored(void *unused) {
	(void) unused;
	void *held[HELD] = { NULL };
	for (unsigned long i = 0;; i++) {
		size_t j = i % HELD;
		stored_free(held[j]);
		held[j] = stored_malloc(1 + i * 7919 % 4000);
		REQUIRE(held[j]);
		*(volatile char *) held[j] = (char) i;
		if (i % 64 == 0) {
			int file = stored_open("/dev/null", O_RDONLY);
			REQUIRE(file >= 0 && !stored_close(file));
		}
		/* code that may be preempted */
		for (volatile int own = 0; own < 200; own++)
			;
		rounds++;
	}
}

/* Slow is not stuck. */
static void *watch(void *unused) {
	for (unsigned long seen = ~0ul; seen != preemptions; sleep(3))
		seen = preemptions;
	die("stuck after %lu preemptions", preemptions);
	return unused;
}

static void check_stored(void) {
	pthread_t watcher;
	REQUIRE(!pthread_create(&watcher, NULL, watch, NULL));
	REQUIRE(dlsym(RTLD_DEFAULT, "malloc") != (void *) stored_malloc);
	linger_t linger = linger_launch(use_stored, 20, NULL);
	void *held[HELD] = { NULL };
	for (preemptions = 0; preemptions < PREEMPTIONS; preemptions++) {
		REQUIRE(!linger.is_complete && !linger.error, linger.error);
		linger_resume(&linger, 20);
		/* the heap is whole, and its locks are free, between any two slices */
		size_t j = preemptions % HELD;
		free(held[j]);
		held[j] = malloc(1 + preemptions * 7919 % 4000);
		REQUIRE(held[j]);
		*(volatile char *) held[j] = 1;
	}
	REQUIRE(rounds > PREEMPTIONS, rounds);
	linger_cancel(&linger);
}

const struct check checks[] = {
	{ "stored", "backstop", check_stored },
	{ NULL, NULL, NULL },
};
