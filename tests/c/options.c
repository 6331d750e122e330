/* linger_launch_with(), and libraries that are shared by a call. */
#include "check.h"
#include "shared.h"

#include <pthread.h>
#include <string.h>

static linger_t launch_with(linger_options_t options, void (*function)(void *), uint64_t us, void *argument) {
	options.size_bytes = sizeof options;
	return linger_launch_with(&options, function, us, argument);
}

static void use_stack(void *size) {
	volatile char memory[*(size_t *) size];
	for (size_t i = 0; i < sizeof memory; i += 1000)
		memory[i] = 1;
}

static void nap(void *us) {
	usleep(*(unsigned *) us);
}

static void check_stacks(void) {
	size_t size = 10 << 20;
	linger_t linger = launch_with((linger_options_t) { .stack_size_bytes = size + (64 << 10) }, use_stack, NO_LIMIT, &size);
	CHECK(linger.is_complete);
	linger = launch_with((linger_options_t) { .stack_size_bytes = 1l << 60 }, use_stack, NO_LIMIT, &size);
	CHECK(linger.error == ENOMEM && !linger.continuation);
}

static void check_clock(void) {
	unsigned us = 100000;
	linger_t linger = launch_with((linger_options_t) { .counts_cpu_time = true }, nap, 50000, &us);
	CHECK(linger.is_complete);
	linger = launch_with((linger_options_t) { .counts_cpu_time = true }, spin, 5000, NULL);
	CHECK(!linger.is_complete && !linger.error);
	cancel(&linger);
}

/* Who waits for a lock lets its holder go on until it has released it, and no longer: it takes it again at once. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static volatile unsigned long taken;
static void hold_lock(void *unused) {
	(void) unused;
	for (;;) {
		pthread_mutex_lock(&mutex);
		taken++;
		spin_us(500);
		pthread_mutex_unlock(&mutex);
	}
}
static void check_donation(void) {
	linger_t linger = launch_with((linger_options_t) { .counts_cpu_time = true }, hold_lock, 10000, NULL);
	CHECK(!linger.is_complete && !linger.error);
	unsigned long before = taken;
	CHECK(!pthread_mutex_lock(&mutex) && taken - before <= 1);
	pthread_mutex_unlock(&mutex);
	cancel(&linger);
}

static void check_mistakes(void) {
	CHECK(linger_launch_with(NULL, NULL, 1, NULL).error == EINVAL);
	unsigned us = 1;
	CHECK(linger_launch_with(NULL, nap, NO_LIMIT, &us).is_complete);
	linger_options_t none = { 0 };
	CHECK(linger_launch_with(&none, nap, NO_LIMIT, &us).error == EINVAL);
	/* another version's, longer and shorter */
	struct {
		linger_options_t options;
		long later;
	} long_one = { { .size_bytes = sizeof long_one }, 0 };
	CHECK(linger_launch_with(&long_one.options, nap, NO_LIMIT, &us).is_complete);
	long_one.later = 1;
	CHECK(linger_launch_with(&long_one.options, nap, NO_LIMIT, &us).error == EINVAL);
	/* what is for later versions, and what is no flag's value */
	for (size_t i = 0; i < sizeof long_one.options.reserved; i++) {
		linger_options_t asks = { .size_bytes = sizeof asks };
		asks.reserved[i] = 1;
		CHECK(linger_launch_with(&asks, nap, NO_LIMIT, &us).error == EINVAL && *linger_error());
	}
	linger_options_t two = { .size_bytes = sizeof two };
	memset(&two.tracks_heap, 2, 1);
	CHECK(linger_launch_with(&two, nap, NO_LIMIT, &us).error == EINVAL);
	size_t short_one = sizeof short_one;
	CHECK(linger_launch_with((linger_options_t *) &short_one, nap, NO_LIMIT, &us).is_complete);
}

static void count(void *before) {
	CHECK(shared_count() == *(int *) before + 1);
}

int main(void) {
	CHECK(linger_share_library(NULL) == EINVAL);
	CHECK(linger_share_library("libshared_library.c.so") == 0);
	int before = shared_count();
	linger_t linger = launch(count, NO_LIMIT, &before);
	CHECK(linger.is_complete && shared_count() == before + 2);
	CHECK(linger_share_library("libm.so.6") == EBUSY && strstr(linger_error(), "too late"));
	check_stacks();
	check_clock();
	check_donation();
	check_mistakes();
	return 0;
}
