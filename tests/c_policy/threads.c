/* Threads that a function starts are the process's and run its libset; keys are the process's; calls that
 * name the thread to the kernel name the kernel thread. */
#include "policy.h"

#include <aio.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <threads.h>

int constructed_count(void);
int constructed_make_key(void);

/* ------------------------------------------------------------------ starting, joining */

static void *count_in_thread(void *unused) {
	(void) unused;
	return (void *) (intptr_t) constructed_count();
}
static int count_in_c11_thread(void *unused) {
	(void) unused;
	return constructed_count();
}
static void start_inside(void *unused) {
	(void) unused;
	int before = constructed_count();
	pthread_t thread;
	void *result;
	REQUIRE(!pthread_create(&thread, NULL, count_in_thread, NULL) && !pthread_join(thread, &result));
	REQUIRE((intptr_t) result == before + 1, (intptr_t) result);
}
static void check_create(void) {
	constructed_count();
	constructed_count();
	ROUNDS(20000)
		inside(start_inside, NULL);
}
static void start_c11_inside(void *unused) {
	(void) unused;
	int before = constructed_count(), result;
	thrd_t thread;
	REQUIRE(thrd_create(&thread, count_in_c11_thread, NULL) == thrd_success && thrd_join(thread, &result) == thrd_success);
	REQUIRE(result == before + 1, result);
}
static void check_thrd_create(void) {
	constructed_count();
	constructed_count();
	ROUNDS(20000)
		inside(start_c11_inside, NULL);
}

static void leave(void *unused) {
	(void) unused;
	pthread_exit(NULL);
}
static void check_exit(void) {
	for (int i = 0; i < 20; i++) {
		linger_t linger = linger_launch(leave, UINT64_MAX, NULL);
		REQUIRE(!linger.is_complete && linger.error == ECANCELED, linger.error);
		inside(nothing, NULL);
	}
}

static void leave_c11(void *unused) {
	(void) unused;
	thrd_exit(0);
}
static void check_thrd_exit(void) {
	for (int i = 0; i < 20; i++) {
		linger_t linger = linger_launch(leave_c11, UINT64_MAX, NULL);
		REQUIRE(!linger.is_complete && linger.error == ECANCELED, linger.error);
		inside(nothing, NULL);
	}
}

static void *spin_for_ever(void *unused) {
	(void) unused;
	for (;;)
		pthread_testcancel();
}
static void cancel_inside(void *thread) {
	REQUIRE(!pthread_cancel(*(pthread_t *) thread));
	void *result;
	REQUIRE(!pthread_join(*(pthread_t *) thread, &result) && result == PTHREAD_CANCELED);
}
/* A function is no thread that can be unwound: cancelled by itself it ends, and others cannot. */
static pthread_t seen_inside;
static void cancel_itself(void *unused) {
	(void) unused;
	pthread_cancel(pthread_self());
	for (;;)
		pthread_testcancel();
}
static void show_itself(void *unused) {
	(void) unused;
	seen_inside = pthread_self();
	linger_pause();
	usleep(100);
	pthread_testcancel();
}
static void check_cancel(void) {
	pthread_t thread;
	REQUIRE(!pthread_create(&thread, NULL, spin_for_ever, NULL));
	inside(cancel_inside, &thread);
	for (int i = 0; i < 20; i++) {
		linger_t linger = linger_launch(cancel_itself, UINT64_MAX, NULL);
		REQUIRE(!linger.is_complete && linger.error == ECANCELED, linger.error);
	}
	linger_t linger = linger_launch(show_itself, UINT64_MAX, NULL);
	REQUIRE(linger.is_yielded && pthread_cancel(seen_inside) == ESRCH);
	linger_resume(&linger, UINT64_MAX);
	REQUIRE(linger.is_complete);
}

static void *return_soon(void *unused) {
	usleep(2000);
	return unused;
}
#define JOINS(name, ...) \
	static void join_##name(void *closure) { \
		pthread_t thread = *(pthread_t *) closure; \
		void *result = NULL; \
		(void) result; \
		__VA_ARGS__; \
	} \
	static void check_##name(void) { \
		pthread_t thread; \
		REQUIRE(!pthread_create(&thread, NULL, return_soon, &thread)); \
		inside(join_##name, &thread); \
	}
static struct timespec later(clockid_t clock) {
	struct timespec at;
	clock_gettime(clock, &at);
	at.tv_sec += 5;
	return at;
}
JOINS(join, REQUIRE(!pthread_join(thread, &result) && result == closure))
JOINS(tryjoin, int error; while ((error = pthread_tryjoin_np(thread, &result)) == EBUSY); REQUIRE(!error && result == closure))
JOINS(timedjoin, struct timespec at = later(CLOCK_REALTIME); REQUIRE(!pthread_timedjoin_np(thread, &result, &at)))
JOINS(clockjoin, struct timespec at = later(CLOCK_MONOTONIC); REQUIRE(!pthread_clockjoin_np(thread, &result, CLOCK_MONOTONIC, &at)))
JOINS(detach, REQUIRE(!pthread_detach(thread)))
JOINS(thrd_detach, REQUIRE(thrd_detach(thread) == thrd_success))

static void set_defaults(void *unused) {
	(void) unused;
	pthread_attr_t attributes;
	REQUIRE(!pthread_getattr_default_np(&attributes));
	REQUIRE(!pthread_attr_setstacksize(&attributes, 1 << 20));
	REQUIRE(!pthread_setattr_default_np(&attributes));
}
static void check_defaults(void) {
	pthread_attr_t attributes;
	pthread_getattr_default_np(&attributes);
	pthread_attr_setstacksize(&attributes, 3 << 20);
	pthread_setattr_default_np(&attributes);
	inside(set_defaults, NULL);
	size_t size;
	REQUIRE(!pthread_getattr_default_np(&attributes) && !pthread_attr_getstacksize(&attributes, &size));
	REQUIRE(size == 1 << 20, size);
}
static void get_defaults(void *unused) {
	(void) unused;
	pthread_attr_t attributes;
	size_t size;
	REQUIRE(!pthread_getattr_default_np(&attributes) && !pthread_attr_getstacksize(&attributes, &size));
	REQUIRE(size == 3 << 20, size);
}
static void check_get_defaults(void) {
	pthread_attr_t attributes;
	pthread_getattr_default_np(&attributes);
	pthread_attr_setstacksize(&attributes, 3 << 20);
	pthread_setattr_default_np(&attributes);
	inside(get_defaults, NULL);
}
static void set_concurrency(void *unused) {
	(void) unused;
	REQUIRE(!pthread_setconcurrency(3));
}
static void check_concurrency(void) {
	inside(set_concurrency, NULL);
	REQUIRE(pthread_getconcurrency() == 3);
}

/* ------------------------------------------------------------------ the C library's own threads */

/* One queue of requests per process: what a function has put into it is known outside, and the other
 * way round. The descriptor is an empty pipe's, so that requests stay where they are. */
static struct aiocb blocked, request, *request_list[] = { &request };
static char byte;
static int waited_pipe[2];
static int request_file(void) {
	static int ends[2];
	if (!ends[0])
		REQUIRE(!pipe(ends));
	return ends[0];
}
static void make_request(struct aiocb *to, int operation) {
	*to = (struct aiocb) { .aio_fildes = request_file(), .aio_buf = &byte, .aio_nbytes = 1, .aio_lio_opcode = operation };
}
#define REQUESTS(name, operation, call) \
	static void request_##name(void *unused) { \
		(void) unused; \
		make_request(&request, operation); \
		REQUIRE(!(call), errno); \
	} \
	static void check_##name(void) { \
		make_request(&blocked, LIO_READ); \
		REQUIRE(!aio_read(&blocked)); \
		inside(request_##name, NULL); \
		int state = aio_cancel(request_file(), &request); \
		REQUIRE(state == AIO_CANCELED, state); \
		REQUIRE(aio_error(&request) == ECANCELED && aio_return(&request) == -1); \
	}
REQUESTS(aio_read, LIO_READ, aio_read(&request))
REQUESTS(aio_write, LIO_WRITE, aio_write(&request))
REQUESTS(aio_fsync, LIO_NOP, aio_fsync(O_SYNC, &request))
REQUESTS(lio_listio, LIO_READ, lio_listio(LIO_NOWAIT, request_list, 1, NULL))
/* Waits that a preemption does not end, and that do not put one off; inside and outside. */
static int written;
static void write_later(void) {
	if (preemptions == 20)
		written = write(waited_pipe[1], "x", 1) == 1;
}
static void list_and_wait(void *unused) {
	(void) unused;
	request = (struct aiocb) { .aio_fildes = waited_pipe[0], .aio_buf = &byte, .aio_nbytes = 1, .aio_lio_opcode = LIO_READ };
	byte = 0;
	REQUIRE(!lio_listio(LIO_WAIT, request_list, 1, NULL), errno);
	REQUIRE(byte == 'x' && aio_return(&request) == 1);
	struct aiocb bad = { .aio_fildes = -1, .aio_lio_opcode = LIO_READ }, *list[] = { &bad, NULL };
	REQUIRE(lio_listio(LIO_WAIT, list, 2, NULL) == -1 && errno == EIO, errno);
}
static void *write_from_thread(void *unused) {
	usleep(20000);
	REQUIRE(write(waited_pipe[1], "x", 1) == 1);
	return unused;
}
static void check_lio_wait(void) {
	REQUIRE(!pipe(waited_pipe));
	if (sliced) {
		inside_with(list_and_wait, NULL, write_later);
		REQUIRE(written);
	}
	pthread_t thread;
	REQUIRE(!pthread_create(&thread, NULL, write_from_thread, NULL));
	/* its expiry comes later, when there is nothing to time */
	REQUIRE(linger_launch(nothing, 5000, NULL).is_complete);
	list_and_wait(NULL);
	REQUIRE(!pthread_join(thread, NULL));
}
static void cancel_request(void *unused) {
	(void) unused;
	int state = aio_cancel(request_file(), &request);
	REQUIRE(state == AIO_CANCELED, state);
	REQUIRE(aio_error(&request) == ECANCELED && aio_return(&request) == -1);
}
static void check_aio_cancel(void) {
	make_request(&blocked, LIO_READ);
	make_request(&request, LIO_READ);
	REQUIRE(!aio_read(&blocked) && !aio_read(&request));
	inside(cancel_request, NULL);
}

/* The notification comes though the function is over, and its libset was rolled back. */
static atomic_int notified;
static volatile bool armed;
static void notify(union sigval value) {
	notified += value.sival_int;
}
static void start_timer(void *unused) {
	(void) unused;
	struct sigevent event = { .sigev_notify = SIGEV_THREAD, .sigev_notify_function = notify, .sigev_value.sival_int = 1 };
	timer_t timer;
	REQUIRE(!timer_create(CLOCK_MONOTONIC, &event, &timer), errno);
	struct itimerspec soon = { .it_value.tv_nsec = 2000000 };
	REQUIRE(!timer_settime(timer, 0, &soon, NULL), errno);
	armed = true;
	for (;;)
		;
}
static void check_timer_create(void) {
	for (int i = 1; i <= 20; i++) {
		armed = false;
		linger_t linger = linger_launch(start_timer, sliced ? 50 : 1000, NULL);
		while (!armed)
			linger_resume(&linger, 50);
		REQUIRE(!linger.is_complete && !linger.error, linger.error);
		linger_cancel(&linger);
		for (int j = 0; j < 1000 && notified < i; j++)
			usleep(1000);
		REQUIRE(notified == i, notified);
	}
}
static timer_t shared_timer;
static void delete_timer(void *unused) {
	(void) unused;
	REQUIRE(!timer_delete(shared_timer), errno);
}
static void check_timer_delete(void) {
	struct sigevent event = { .sigev_notify = SIGEV_THREAD, .sigev_notify_function = notify };
	REQUIRE(!timer_create(CLOCK_MONOTONIC, &event, &shared_timer));
	inside(delete_timer, NULL);
	struct itimerspec none = { 0 };
	REQUIRE(timer_settime(shared_timer, 0, &none, NULL) == -1 && errno == EINVAL, errno);
}

/* ------------------------------------------------------------------ the kernel thread's name */

#define NAMES(name, ...) \
	static void name_##name(void *unused) { \
		(void) unused; \
		pthread_t self = pthread_self(); \
		ROUNDS(5000) { \
			__VA_ARGS__; \
		} \
	} \
	static void check_##name(void) { \
		inside(name_##name, NULL); \
	}
NAMES(getattr_np, pthread_attr_t a; void *stack; size_t size; char here; REQUIRE(!pthread_getattr_np(self, &a));
	REQUIRE(!pthread_attr_getstack(&a, &stack, &size)); REQUIRE(&here >= (char *) stack && &here < (char *) stack + size);
	pthread_attr_destroy(&a))
NAMES(getaffinity_np, cpu_set_t set; REQUIRE(!pthread_getaffinity_np(self, sizeof set, &set)))
NAMES(setaffinity_np, cpu_set_t set; REQUIRE(!sched_getaffinity(0, sizeof set, &set) && !pthread_setaffinity_np(self, sizeof set, &set)))
NAMES(getschedparam, int policy; struct sched_param p; REQUIRE(!pthread_getschedparam(self, &policy, &p) && policy == SCHED_OTHER))
NAMES(setschedparam, struct sched_param p = { 0 }; REQUIRE(!pthread_setschedparam(self, SCHED_OTHER, &p)))
NAMES(setschedprio, REQUIRE(!pthread_setschedprio(self, 0)))
NAMES(setname_np, char text[16]; REQUIRE(!pthread_setname_np(self, "a-name") && !prctl(PR_GET_NAME, text) && !strcmp(text, "a-name")))
NAMES(getname_np, char text[16]; REQUIRE(!prctl(PR_SET_NAME, "b-name") && !pthread_getname_np(self, text, sizeof text) && !strcmp(text, "b-name")))
NAMES(getcpuclockid, clockid_t clock; struct timespec t; REQUIRE(!pthread_getcpuclockid(self, &clock) && !clock_gettime(clock, &t)))
static volatile sig_atomic_t signals, value;
static void on_signal(int signal, siginfo_t *info, void *context) {
	(void) signal;
	(void) context;
	signals++;
	value = info->si_value.sival_int;
}
static void handle(void) {
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO };
	sigaction(SIGUSR1, &action, NULL);
}
NAMES(kill, int before = signals; REQUIRE(!pthread_kill(self, SIGUSR1) && signals == before + 1))
NAMES(sigqueue, int before = signals; union sigval v = { 7 }; REQUIRE(!pthread_sigqueue(self, SIGUSR1, v) && signals == before + 1 && value == 7))
static void check_kill_handled(void) {
	handle();
	check_kill();
}
static void check_sigqueue_handled(void) {
	handle();
	check_sigqueue();
}

/* ------------------------------------------------------------------ keys */

static pthread_key_t outside_keys[8];
static int destroyed;
static void destroy(void *value) {
	destroyed += value == outside_keys;
}
static void make_keys(void) {
	for (int i = 0; i < 8; i++)
		REQUIRE(!pthread_key_create(&outside_keys[i], destroy));
}
static void make_inside(void *unused) {
	(void) unused;
	pthread_key_t key;
	REQUIRE(!pthread_key_create(&key, NULL));
	for (int i = 0; i < 8; i++)
		REQUIRE(key != outside_keys[i]);
}
static void check_key_create(void) {
	make_keys();
	inside(make_inside, NULL);
}
static void make_tss_inside(void *unused) {
	(void) unused;
	tss_t key;
	REQUIRE(tss_create(&key, NULL) == thrd_success);
	for (int i = 0; i < 8; i++)
		REQUIRE(key != outside_keys[i]);
}
static void check_tss_create(void) {
	make_keys();
	inside(make_tss_inside, NULL);
}
static void use_key(void *unused) {
	(void) unused;
	pthread_key_t key = outside_keys[3];
	REQUIRE(!pthread_getspecific(key));
	REQUIRE(!pthread_setspecific(key, outside_keys));
	REQUIRE(pthread_getspecific(key) == outside_keys);
}
static void check_specific(void) {
	make_keys();
	REQUIRE(!pthread_setspecific(outside_keys[3], &destroyed));
	inside(use_key, NULL);
	REQUIRE(pthread_getspecific(outside_keys[3]) == &destroyed);
	REQUIRE(destroyed == 1, destroyed);
}
static void use_tss(void *unused) {
	(void) unused;
	REQUIRE(!tss_get(outside_keys[3]));
	REQUIRE(tss_set(outside_keys[3], outside_keys) == thrd_success);
	REQUIRE(tss_get(outside_keys[3]) == outside_keys);
}
static void check_tss(void) {
	make_keys();
	REQUIRE(!pthread_setspecific(outside_keys[3], &destroyed));
	inside(use_tss, NULL);
	REQUIRE(pthread_getspecific(outside_keys[3]) == &destroyed && destroyed == 1, destroyed);
}
static void delete_inside(void *unused) {
	(void) unused;
	REQUIRE(!pthread_key_delete(outside_keys[2]));
}
static void check_key_delete(void) {
	make_keys();
	inside(delete_inside, NULL);
	REQUIRE(pthread_setspecific(outside_keys[2], &destroyed) == EINVAL);
}
static void delete_tss_inside(void *unused) {
	(void) unused;
	tss_delete(outside_keys[2]);
}
static void check_tss_delete(void) {
	make_keys();
	inside(delete_tss_inside, NULL);
	REQUIRE(pthread_setspecific(outside_keys[2], &destroyed) == EINVAL);
}
/* What a libset's code has made is undone with it: there are 1024 keys. */
static void make_key_for_ever(void *unused) {
	(void) unused;
	for (int i = 0; i < 200; i++)
		REQUIRE(!constructed_make_key());
	for (;;)
		;
}
static void check_undo(void) {
	for (int i = 0; i < 200; i++) {
		linger_t linger = linger_launch(make_key_for_ever, 200, NULL);
		REQUIRE(!linger.error, linger.error);
		linger_cancel(&linger);
	}
}

/* What it has deleted may be somebody else's. */
static void make_and_delete(void *unused) {
	(void) unused;
	pthread_key_t next;
	REQUIRE(!pthread_key_create(&next, NULL) && !pthread_key_delete(next));
	REQUIRE(!constructed_make_key() && !pthread_key_delete(next));
	linger_pause();
}
static void check_deleted(void) {
	linger_t linger = linger_launch(make_and_delete, UINT64_MAX, NULL);
	REQUIRE(linger.is_yielded);
	make_keys();
	linger_cancel(&linger);
	for (int i = 0; i < 8; i++)
		REQUIRE(!pthread_setspecific(outside_keys[i], &destroyed), i);
}

int __cxa_thread_atexit_impl(void (*)(void *), void *, void *);
static void at_end(void *unused) {
	(void) unused;
	destroyed++;
}
extern void *__dso_handle;
static void register_end(void *unused) {
	REQUIRE(!__cxa_thread_atexit_impl(at_end, unused, &__dso_handle) && !destroyed);
}
static void check_thread_atexit(void) {
	inside(register_end, NULL);
	REQUIRE(destroyed == 1, destroyed);
	inside(nothing, NULL);
	REQUIRE(destroyed == 1, destroyed);
}

const struct check checks[] = {
	{ "create", "pthread_create", check_create },
	{ "thrd_create", "thrd_create", check_thrd_create },
	{ "exit", "pthread_exit", check_exit },
	{ "thrd_exit", "thrd_exit", check_thrd_exit },
	{ "aio_read", "aio_read", check_aio_read },
	{ "aio_write", "aio_write", check_aio_write },
	{ "aio_fsync", "aio_fsync", check_aio_fsync },
	{ "lio_listio", "lio_listio", check_lio_listio },
	{ "lio_wait", "-", check_lio_wait },
	{ "aio_cancel", "aio_cancel", check_aio_cancel },
	{ "timer_create", "timer_create", check_timer_create },
	{ "timer_delete", "timer_delete", check_timer_delete },
	{ "cancel", "pthread_cancel", check_cancel },
	{ "join", "pthread_join", check_join },
	{ "tryjoin", "pthread_tryjoin_np", check_tryjoin },
	{ "timedjoin", "pthread_timedjoin_np", check_timedjoin },
	{ "clockjoin", "pthread_clockjoin_np", check_clockjoin },
	{ "detach", "pthread_detach", check_detach },
	{ "thrd_detach", "thrd_detach", check_thrd_detach },
	{ "defaults", "pthread_setattr_default_np", check_defaults },
	{ "get_defaults", "pthread_getattr_default_np", check_get_defaults },
	{ "concurrency", "pthread_setconcurrency", check_concurrency },
	{ "getattr_np", "pthread_getattr_np", check_getattr_np },
	{ "getaffinity_np", "pthread_getaffinity_np", check_getaffinity_np },
	{ "setaffinity_np", "pthread_setaffinity_np", check_setaffinity_np },
	{ "getschedparam", "pthread_getschedparam", check_getschedparam },
	{ "setschedparam", "pthread_setschedparam", check_setschedparam },
	{ "setschedprio", "pthread_setschedprio", check_setschedprio },
	{ "setname_np", "pthread_setname_np", check_setname_np },
	{ "getname_np", "pthread_getname_np", check_getname_np },
	{ "getcpuclockid", "pthread_getcpuclockid", check_getcpuclockid },
	{ "kill", "-", check_kill_handled },
	{ "sigqueue", "pthread_sigqueue", check_sigqueue_handled },
	{ "key_create", "pthread_key_create", check_key_create },
	{ "tss_create", "tss_create", check_tss_create },
	{ "specific", "pthread_getspecific,pthread_setspecific", check_specific },
	{ "tss", "tss_get,tss_set", check_tss },
	{ "key_delete", "pthread_key_delete", check_key_delete },
	{ "tss_delete", "tss_delete", check_tss_delete },
	{ "undo", "keys", check_undo },
	{ "deleted", "-", check_deleted },
	{ "thread_atexit", "__cxa_thread_atexit_impl", check_thread_atexit },
	{ NULL, NULL, NULL },
};
