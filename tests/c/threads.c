/* Kernel threads: functions resumed by others, launched by many, that start and end threads. */
#include "check.h"

#include <pthread.h>
#include <string.h>

static void work(void *result) {
	unsigned long hash = 5381;
	for (unsigned long i = 0; i < 4000000; i++) {
		hash = hash * 33 + (i & 0xff);
		__asm__ volatile("" : "+r" (hash));
	}
	*(unsigned long *) result = hash;
}

static void *resume_once(void *linger) {
	resume((linger_t *) linger, 500);
	return NULL;
}

/* Each slice on a new kernel thread. */
static void migration(void) {
	unsigned long expected, result = 0;
	work(&expected);
	linger_t linger = launch(work, 500, &result);
	int threads = 0;
	while (!linger.is_complete && threads < 100000) {
		CHECK(linger.error == 0);
		pthread_t thread;
		CHECK(!pthread_create(&thread, NULL, resume_once, &linger));
		CHECK(!pthread_join(thread, NULL));
		threads++;
	}
	CHECK(linger.is_complete && result == expected && threads >= 2);
}

static void *launch_for_others(void *linger) {
	static unsigned long result;
	*(linger_t *) linger = launch(work, 200, &result);
	return &result;
}

/* The launching thread is gone when it is resumed. */
static void inheritance(void) {
	unsigned long expected;
	work(&expected);
	linger_t linger;
	pthread_t thread;
	void *result;
	CHECK(!pthread_create(&thread, NULL, launch_for_others, &linger) && !pthread_join(thread, &result));
	CHECK(!linger.is_complete && linger.error == 0);
	finish(&linger, 1000);
	CHECK(*(unsigned long *) result == expected);
}

static void *slice_many(void *unused) {
	unsigned long expected;
	work(&expected);
	for (int i = 0; i < 10; i++) {
		unsigned long result = 0;
		linger_t linger = launch(work, 300, &result);
		CHECK(linger.error == 0);
		finish(&linger, 300);
		CHECK(result == expected);
		linger = launch(spin, 300, NULL);
		CHECK(!linger.is_complete && linger.error == 0);
		cancel(&linger);
	}
	return unused;
}

static void many(void) {
	pthread_t threads[4];
	for (int i = 0; i < 4; i++)
		CHECK(!pthread_create(&threads[i], NULL, slice_many, NULL));
	for (int i = 0; i < 4; i++)
		CHECK(!pthread_join(threads[i], NULL));
}

static void ends_thread(void *reached) {
	*(int *) reached = 1;
	pthread_exit(NULL);
}

static void ends_thread_later(void *reached) {
	pause();
	ends_thread(reached);
}

static void thread_exit_inside(void) {
	int reached = 0;
	linger_t linger = launch(ends_thread, NO_LIMIT, &reached);
	CHECK(reached && !linger.is_complete && linger.error == ECANCELED && !linger.continuation);
	CHECK(*linger_error());
	resume(&linger, 1000);
	CHECK(linger.error == ECANCELED);
	reached = 0;
	linger = launch(ends_thread_later, NO_LIMIT, &reached);
	CHECK(linger.is_yielded);
	resume(&linger, NO_LIMIT);
	CHECK(reached && linger.error == ECANCELED && !linger.is_yielded);
	cancel(&linger);
	/* what it held is free for others */
	for (int i = 0; i < 40; i++)
		CHECK(launch(ends_thread, NO_LIMIT, &reached).error == ECANCELED);
}

static void *square(void *number) {
	*(long *) number *= *(long *) number;
	return number;
}

static void starts_thread(void *number) {
	pthread_t thread;
	void *result;
	CHECK(!pthread_create(&thread, NULL, square, number));
	CHECK(!pthread_join(thread, &result));
	CHECK(result == number);
}

static void thread_started_inside(void) {
	long number = 12;
	linger_t linger = launch(starts_thread, 2000, &number);
	CHECK(linger.error == 0);
	finish(&linger, 2000);
	CHECK(number == 144);
}

static __thread int local = 1;

static void increment_local(void *seen) {
	pause();
	*(int *) seen = ++local;
}

static void thread_locals(void) {
	local = 10;
	int seen = 0;
	linger_t linger = launch(increment_local, NO_LIMIT, &seen);
	local = 20;
	resume(&linger, NO_LIMIT);
	CHECK(linger.is_complete && seen == 2 && local == 20);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static long protected;

static void lock_many(void *unused) {
	(void) unused;
	for (int i = 0; i < 200000; i++) {
		linger_defer();
		pthread_mutex_lock(&mutex);
		protected++;
		pthread_mutex_unlock(&mutex);
		linger_undefer();
	}
}

/* A lock that the launcher takes too. */
static void deferred_lock(void) {
	linger_t linger = launch(lock_many, 50, NULL);
	CHECK(linger.error == 0);
	long launchers = 0;
	while (!linger.is_complete) {
		pthread_mutex_lock(&mutex);
		protected++;
		launchers++;
		pthread_mutex_unlock(&mutex);
		resume(&linger, 50);
		CHECK(linger.error == 0);
	}
	CHECK(launchers > 1 && protected == 200000 + launchers);
}

/* The C library tells every thread of a change, by a signal, and waits for its answer: also of those that run
 * functions, in their own code and in calls that are carried out elsewhere. */
static _Atomic int stop, rounds;

static void allocate_for_long(void *unused) {
	(void) unused;
	while (!stop) {
		free(malloc(100));
		free(getenv("no such variable"));
		rounds++;
	}
}

static void *launch_for_long(void *unused) {
	linger_t linger = launch(allocate_for_long, 100, NULL);
	finish(&linger, 100);
	return unused;
}

static void change_of_identity(void) {
	pthread_t threads[2];
	stop = rounds = 0;
	for (int i = 0; i < 2; i++)
		CHECK(!pthread_create(&threads[i], NULL, launch_for_long, NULL));
	while (!rounds)
		;
	for (int i = 0; i < 200; i++)
		CHECK(!setgid(getgid()));
	stop = 1;
	for (int i = 0; i < 2; i++)
		CHECK(!pthread_join(threads[i], NULL));
}

/* A thread that is cancelled while it runs a function: the function is not, and goes on to its end. */
static _Atomic int running, is_cancelled;
static int is_asynchronous;

static void pass_cancellation_points(void *ended) {
	running = 1;
	while (!is_cancelled)
		;
	for (int i = 0; i < 3; i++) {
		usleep(100);
		pthread_testcancel();
	}
	*(int *) ended = 1;
}

static void *be_cancelled(void *ended) {
	if (is_asynchronous)
		CHECK(!pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL));
	linger_t linger = launch(pass_cancellation_points, 1000, ended);
	finish(&linger, 1000);
	*(int *) ended = 2;
	pthread_testcancel();
	return NULL;
}

static void cancelled_thread(void) {
	for (is_asynchronous = 0; is_asynchronous < 2; is_asynchronous++) {
		int ended = running = is_cancelled = 0;
		pthread_t thread;
		void *result;
		CHECK(!pthread_create(&thread, NULL, be_cancelled, &ended));
		while (!running)
			;
		CHECK(!pthread_cancel(thread));
		is_cancelled = 1;
		CHECK(!pthread_join(thread, &result) && result == PTHREAD_CANCELED && ended == 2);
	}
}

static void nop(void *unused) {
	(void) unused;
}

/* The library's own work is not cancelled halfway: here that of the first launch, which takes locks and opens files. */
static void *start_cancelled(void *unused) {
	CHECK(!pthread_cancel(pthread_self()));
	CHECK(launch(nop, 1000, NULL).is_complete);
	pthread_testcancel();
	return unused;
}

static void cancelled_start(void) {
	pthread_t thread;
	void *result;
	CHECK(!pthread_create(&thread, NULL, start_cancelled, NULL));
	CHECK(!pthread_join(thread, &result) && result == PTHREAD_CANCELED);
}

int main(void) {
	cancelled_start();
	thread_exit_inside();
	migration();
	inheritance();
	many();
	thread_started_inside();
	thread_locals();
	deferred_lock();
	change_of_identity();
	cancelled_thread();
	return 0;
}
