/* Policy of threads: those that a function starts are real threads of the process, which run its
 * libset; keys are the process's, those that a libset's code makes are undone with the libset. */
#include "internal.h"
#include "forward.h"

#include <aio.h>
#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define HOSTED_FUNCTIONS(X) \
	X(pthread_tryjoin_np) X(pthread_detach) X(pthread_setattr_default_np) X(pthread_getattr_default_np) X(pthread_setconcurrency) \
	X(thrd_detach) \
	AIO_FUNCTIONS(X) X(mq_notify) X(getaddrinfo_a) X(gai_error) X(gai_cancel)
/* The C library works on these with threads that it starts and keeps, and counts: they belong to base, which
 * outlives a roll back. */
#define AIO_FUNCTIONS(X) \
	X(aio_read) X(aio_read64) X(aio_write) X(aio_write64) X(aio_fsync) X(aio_fsync64) X(aio_error) X(aio_error64) \
	X(aio_return) X(aio_return64) X(aio_cancel) X(aio_cancel64)
/* base's own function, as it is: it works on the calling TCB alone, for an instant */
#define PLAIN_FUNCTIONS(X) X(pthread_getspecific) X(pthread_setspecific) X(tss_get) X(tss_set)
/* these hand the TCB's tid to the kernel, which knows only kernel threads' */
#define REAL_TID_FUNCTIONS(X) \
	X(pthread_getattr_np) X(pthread_setaffinity_np) X(pthread_getaffinity_np) X(pthread_setschedparam) \
	X(pthread_getschedparam) X(pthread_setschedprio) X(pthread_setname_np) X(pthread_getname_np) \
	X(pthread_getcpuclockid)

enum {
#define X(name) INDEX_##name,
	HOSTED_FUNCTIONS(X) PLAIN_FUNCTIONS(X) REAL_TID_FUNCTIONS(X)
#undef X
	INDEX_pthread_create, INDEX_thrd_create, INDEX_pthread_exit, INDEX_pthread_cancel, INDEX_pthread_key_create, INDEX_tss_create,
	INDEX_pthread_key_delete, INDEX_tss_delete, INDEX_thread_atexit, INDEX_thrd_exit, INDEX_pthread_join,
	INDEX_pthread_timedjoin_np, INDEX_pthread_clockjoin_np, INDEX_thrd_join, INDEX_lio_listio, INDEX_lio_listio64, INDEX_gai_suspend,
	INDEX_timer_create, INDEX_timer_delete,
};
static struct row rows[];

int (*gotcha_base_thread_atexit)(void (*)(void *), void *, void *);

#define X(name) FORWARD_HOSTED(name, rows[INDEX_##name].base)
HOSTED_FUNCTIONS(X)
X(pthread_cancel)
#undef X

/* Preemption deferred, the virtual TCB carries the kernel thread's tid for the length of the call. */
#define X(name) \
	static long real_tid_##name(SIX_PARAMETERS) { \
		struct shared_guard guard; \
		shared_enter(&guard); \
		errno_in(); \
		int *tid = (int *) (thread_pointer() + gotcha_layout.tid), saved = *tid; \
		if (THIS.is_virtual) \
			*tid = *(int *) (THIS.host + gotcha_layout.tid); \
		long result = ((forwarded *) rows[INDEX_##name].base)(SIX_ARGUMENTS); \
		*tid = saved; \
		errno_out(); \
		shared_leave(&guard); \
		return result; \
	}
REAL_TID_FUNCTIONS(X)
#undef X

/* ------------------------------------------------------------------ starting threads */

struct start {
	void *(*function)(void *);
	void *argument;
	struct libset *set;
};

/* Context: a new kernel thread, base libset. */
static void *run_thread(void *closure) {
	struct start start = *(struct start *) closure;
	gotcha_base_free(closure);
	gotcha_tcb_start_thread(start.set);
	start.set->ctype_init();
	THIS.set = start.set;
	compiler_barrier();
	THIS.table = start.set->table;
	void *result = start.function(start.argument);
	THIS.table = libgotcha_starting_table;
	compiler_barrier();
	THIS.set = NULL;
	return result;
}

/* The count drops when the thread is gone, also by pthread_exit() or a cancellation. */
static pthread_key_t thread_key;

/* Other keys' destructors are the libset's code: the count drops in the last round of destructors. The round
 * is kept in the low bits of the datum. */
static void thread_gone(void *datum) {
	uintptr_t round = (uintptr_t) datum % PTHREAD_DESTRUCTOR_ITERATIONS;
	if (round + 1 < PTHREAD_DESTRUCTOR_ITERATIONS)
		pthread_setspecific(thread_key, (char *) datum + 1);
	else
		((struct libset *) ((uintptr_t) datum - round))->live_threads--;
}

/* Only the forking thread lives in the child. */
static void threads_forked(void) {
	uintptr_t datum = (uintptr_t) pthread_getspecific(thread_key);
	struct libset *own = (struct libset *) (datum - datum % PTHREAD_DESTRUCTOR_ITERATIONS);
	for (size_t i = 0; i < gotcha_libsets_len(); i++)
		gotcha_libset(i + 1)->live_threads = gotcha_libset(i + 1) == own;
}

static int base_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*function)(void *), void *argument) {
	return ((int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *)) rows[INDEX_pthread_create].base)
		(thread, attributes, function, argument);
}

static int create(pthread_t *thread, const pthread_attr_t *attributes, void *(*function)(void *), void *argument) {
	bool entered = gotcha_inherited_mask_enter();
	int error = base_create(thread, attributes, function, argument);
	gotcha_inherited_mask_leave(entered);
	return error;
}

static void *start_thread(void *closure) {
	pthread_setspecific(thread_key, ((struct start *) closure)->set);
	return run_thread(closure);
}

static int threads_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*function)(void *), void *argument) {
	struct libset *set = in_libset() ? THIS.set : NULL;
	if (!THIS.is_virtual && !set)
		return create(thread, attributes, function, argument);
	bool entered = gotcha_inherited_mask_enter();
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	int error = EAGAIN;
	struct start *start = set ? gotcha_base_malloc(sizeof *start) : NULL;
	if (!set) {
		error = base_create(thread, attributes, function, argument);
	} else if (start) {
		*start = (struct start) { function, argument, set };
		set->live_threads++;
		error = base_create(thread, attributes, start_thread, start);
		if (error) {
			set->live_threads--;
			gotcha_base_free(start);
		}
	}
	gotcha_hosted_leave(&guard);
	gotcha_inherited_mask_leave(entered);
	return error;
}

/* C11: the function returns an int, which threads.h's own conversion carries in a pointer. */
static int threads_thrd_create(pthread_t *thread, int (*function)(void *), void *argument) {
	int error = threads_create(thread, NULL, (void *(*)(void *)) (void *) function, argument);
	return error == 0 ? 0 : error == ENOMEM ? 3 /* thrd_nomem */ : 2 /* thrd_error */;
}

/* Ending "the thread" inside a function ends the function; its kernel thread is the caller's. */
static void threads_exit(void *value) {
	if (THIS.is_virtual && gotcha_callbacks.leave_function)
		gotcha_callbacks.leave_function(0);
	((void (*)(void *)) rows[INDEX_pthread_exit].base)(value);
}

static void threads_thrd_exit(int result) {
	threads_exit((void *) (intptr_t) result);
}

/* What a function takes for its thread is no thread that could be unwound: a function that cancels itself ends at
 * once, and others cannot cancel it. */
static int threads_cancel(pthread_t thread) {
	if (THIS.is_virtual && thread == thread_pointer())
		threads_exit(PTHREAD_CANCELED);
	if (*(int *) (thread + gotcha_layout.tid) >= FIRST_VIRTUAL_TID)
		return ESRCH;
	return hosted_pthread_cancel(thread, 0, 0, 0, 0, 0);
}

/* ------------------------------------------------------------------ waiting for threads */

/* The row's wrapper: a function sleeps preemptibly. */
static int (*sleep_for)(clockid_t, int, const struct timespec *, struct timespec *);

/* Base's own waits cannot be given up halfway: these look, and sleep in between, for longer and longer. */
void gotcha_nap(long *duration_ns) {
	enum { SHORTEST_NS = 20000, LONGEST_NS = 1000000 };
	*duration_ns = *duration_ns ? 2 * *duration_ns : SHORTEST_NS;
	if (*duration_ns > LONGEST_NS)
		*duration_ns = LONGEST_NS;
	struct timespec duration = { 0, *duration_ns };
	sleep_for(CLOCK_MONOTONIC, 0, &duration, NULL);
}

bool gotcha_has_passed(clockid_t clock, const struct timespec *deadline) {
	struct shared_guard guard;
	shared_enter(&guard);
	struct timespec now;
	clock_gettime(clock, &now);
	shared_leave(&guard);
	return now.tv_sec > deadline->tv_sec || (now.tv_sec == deadline->tv_sec && now.tv_nsec >= deadline->tv_nsec);
}

/* `deadline` NULL: none. */
static int threads_clockjoin(pthread_t thread, void **value, clockid_t clock, const struct timespec *deadline) {
	if (thread == thread_pointer())
		return EDEADLK;
	if (deadline && (deadline->tv_nsec < 0 || deadline->tv_nsec >= 1000000000))
		return EINVAL;
	for (long duration_ns = 0;; gotcha_nap(&duration_ns)) {
		int error = hosted_pthread_tryjoin_np((long) thread, (long) value, 0, 0, 0, 0);
		if (error != EBUSY)
			return error;
		if (deadline && gotcha_has_passed(clock, deadline))
			return ETIMEDOUT;
	}
}
static int threads_join(pthread_t thread, void **value) {
	return threads_clockjoin(thread, value, CLOCK_MONOTONIC, NULL);
}
static int threads_timedjoin(pthread_t thread, void **value, const struct timespec *deadline) {
	return threads_clockjoin(thread, value, CLOCK_REALTIME, deadline);
}
static int threads_thrd_join(pthread_t thread, int *result) {
	void *value;
	int error = threads_join(thread, &value);
	if (!error && result)
		*result = (intptr_t) value;
	return error ? 2 /* thrd_error */ : 0;
}

/* A wait for base's helper threads. */
struct patience {
	uint64_t program_signals;
	bool is_limited;
	struct timespec deadline;
	long nap_ns;
};

static void patience_begin(struct patience *patience, const struct timespec *timeout) {
	*patience = (struct patience) { .program_signals = THIS.program_signals, .is_limited = timeout };
	if (!timeout)
		return;
	struct shared_guard guard;
	shared_enter(&guard);
	clock_gettime(CLOCK_MONOTONIC, &patience->deadline);
	shared_leave(&guard);
	patience->deadline.tv_nsec += timeout->tv_nsec;
	patience->deadline.tv_sec += timeout->tv_sec + patience->deadline.tv_nsec / 1000000000;
	patience->deadline.tv_nsec %= 1000000000;
}

/* Sleeps for a while. EINTR, EAGAIN: the wait is over. */
static int patience_nap(struct patience *patience) {
	if (THIS.program_signals != patience->program_signals)
		return EINTR;
	if (patience->is_limited && gotcha_has_passed(CLOCK_MONOTONIC, &patience->deadline))
		return EAGAIN;
	gotcha_nap(&patience->nap_ns);
	return 0;
}

static int request_state(const struct aiocb *request) {
	return ((int (*)(const struct aiocb *)) rows[INDEX_aio_error].base)(request);
}

static bool is_one_done(const struct aiocb *const list[], int length) {
	bool is_waiting = false;
	for (int i = 0; i < length; i++) {
		if (!list[i])
			continue;
		is_waiting = true;
		if (request_state(list[i]) != EINPROGRESS)
			return true;
	}
	return !is_waiting;
}

int gotcha_aio_suspend(const struct aiocb *const list[], int length, const struct timespec *timeout) {
	struct patience patience;
	patience_begin(&patience, timeout);
	int error = 0;
	while (!error && !is_one_done(list, length))
		error = patience_nap(&patience);
	return fail(error);
}

/* Is it done? If so, and it failed, says so. */
static bool are_all_done(struct aiocb *const list[], int length, int *error) {
	for (int i = 0; i < length; i++) {
		if (!list[i] || list[i]->aio_lio_opcode == LIO_NOP)
			continue;
		int state = request_state(list[i]);
		if (state == EINPROGRESS)
			return false;
		if (state)
			*error = EIO;
	}
	return true;
}

static int threads_lio_listio(int mode, struct aiocb *const list[], int length, struct sigevent *event) {
	forwarded *base = rows[INDEX_lio_listio].base;
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	long result = base(mode == LIO_WAIT ? LIO_NOWAIT : mode, (long) list, length, mode == LIO_WAIT ? 0 : (long) event, 0, 0);
	int error = result ? *gotcha_base_errno() : 0;
	gotcha_hosted_leave(&guard);
	/* refused as a whole, or nothing to wait for */
	if (mode != LIO_WAIT || error == EINVAL)
		return result;
	struct patience patience;
	patience_begin(&patience, NULL);
	while (!are_all_done(list, length, &error)) {
		int interrupted = patience_nap(&patience);
		if (interrupted)
			return fail(interrupted);
	}
	return fail(error);
}

static int threads_gai_suspend(const struct gaicb *const list[], int length, const struct timespec *timeout) {
	int (*state_of)(const struct gaicb *) = (int (*)(const struct gaicb *)) rows[INDEX_gai_error].base;
	struct patience patience;
	patience_begin(&patience, timeout);
	for (;;) {
		bool is_waiting = false;
		for (int i = 0; i < length; i++) {
			if (list[i] && state_of(list[i]) != EAI_INPROGRESS)
				return 0;
			is_waiting |= list[i] != NULL;
		}
		if (!is_waiting)
			return EAI_ALLDONE;
		int error = patience_nap(&patience);
		if (error)
			return error == EINTR ? EAI_INTR : EAI_AGAIN;
	}
}

/* ------------------------------------------------------------------ timers */

/* The C library's helper thread for them is base's. What code of the executable makes stays. */
struct timer_registration {
	struct timer_registration *next;
	timer_t timer;
	bool is_deleted;        /* its number may be another timer's */
};

static void register_timer(struct libset *set, timer_t timer) {
	struct timer_registration *made = gotcha_base_malloc(sizeof *made);
	if (!made)
		return;
	*made = (struct timer_registration) { set->timers, timer, false };
	while (!__atomic_compare_exchange_n((struct timer_registration **) &set->timers, &made->next, made, true, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
		;
}

static int threads_timer_create(clockid_t clock, struct sigevent *event, timer_t *timer) {
	const void *caller = __builtin_return_address(0);
	struct libset *set = THIS.set;
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	int result = ((int (*)(clockid_t, struct sigevent *, timer_t *)) rows[INDEX_timer_create].base)(clock, event, timer);
	if (!result && set && !gotcha_is_loading() && gotcha_is_copy(set, (uintptr_t) caller))
		register_timer(set, *timer);
	gotcha_hosted_leave(&guard);
	return result;
}

static int threads_timer_delete(timer_t timer) {
	struct libset *set = THIS.set;
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	for (struct timer_registration *at = set ? set->timers : NULL; at; at = at->next)
		at->is_deleted |= at->timer == timer;
	int result = ((int (*)(timer_t)) rows[INDEX_timer_delete].base)(timer);
	gotcha_hosted_leave(&guard);
	return result;
}

void gotcha_timers_roll_back(struct libset *set) {
	for (struct timer_registration *next, *at = set->timers; at; at = next) {
		next = at->next;
		if (!at->is_deleted)
			timer_delete(at->timer);
		gotcha_base_free(at);
	}
	set->timers = NULL;
}

/* ------------------------------------------------------------------ keys */

/* Keys that the executable's code made live in its statics, which are not rolled back: only what code
 * inside the libset made is undone. What its constructors made is part of its pristine state. */
static int threads_key_create(pthread_key_t *key, void (*destructor)(void *)) {
	uintptr_t caller = (uintptr_t) __builtin_return_address(0);
	struct shared_guard guard;
	shared_enter(&guard);
	int error = ((int (*)(pthread_key_t *, void (*)(void *))) rows[INDEX_pthread_key_create].base)(key, destructor);
	struct libset *set = THIS.set;
	if (!error && !gotcha_is_loading() && gotcha_is_copy(set, caller))
		set->keys[*key / 64] |= 1ull << *key % 64;
	shared_leave(&guard);
	return error;
}

/* The key may be somebody else's from then on. */
static int threads_key_delete(pthread_key_t key) {
	struct shared_guard guard;
	shared_enter(&guard);
	if (THIS.set && key < PTHREAD_KEYS_MAX)
		THIS.set->keys[key / 64] &= ~(1ull << key % 64);
	int error = ((int (*)(pthread_key_t)) rows[INDEX_pthread_key_delete].base)(key);
	shared_leave(&guard);
	return error;
}
static void threads_tss_delete(pthread_key_t key) {
	threads_key_delete(key);
}

int gotcha_threads_init(void) {
	gotcha_base_thread_atexit = rows[INDEX_thread_atexit].base;
	void *base_sleep = gotcha_libc_symbol("clock_nanosleep");
	const struct row *sleeping = gotcha_policy_find(base_sleep);
	*(void **) &sleep_for = sleeping ? sleeping->wrapper : base_sleep;
	_Static_assert(PTHREAD_KEYS_MAX <= 8 * sizeof ((struct libset *) NULL)->keys, "a bit for each key");
	int error = pthread_key_create(&thread_key, thread_gone);
	if (!error)
		error = pthread_atfork(NULL, NULL, threads_forked);
	return error ? gotcha_fail(error, "no key or no memory to follow threads") : 0;
}

static struct row rows[] = {
#define X(name) [INDEX_##name] = { #name, hosted_##name },
	HOSTED_FUNCTIONS(X)
#undef X
#define X(name) [INDEX_##name] = { #name, NULL },
	PLAIN_FUNCTIONS(X)
#undef X
#define X(name) [INDEX_##name] = { #name, real_tid_##name },
	REAL_TID_FUNCTIONS(X)
#undef X
	[INDEX_pthread_create] = { "pthread_create", threads_create, true },
	[INDEX_thrd_create] = { "thrd_create", threads_thrd_create },
	[INDEX_pthread_exit] = { "pthread_exit", threads_exit },
	[INDEX_pthread_cancel] = { "pthread_cancel", threads_cancel, true },
	[INDEX_pthread_key_create] = { "pthread_key_create", threads_key_create },
	[INDEX_tss_create] = { "tss_create", threads_key_create },
	[INDEX_pthread_key_delete] = { "pthread_key_delete", threads_key_delete },
	[INDEX_tss_delete] = { "tss_delete", threads_tss_delete },
	[INDEX_thrd_exit] = { "thrd_exit", threads_thrd_exit },
	[INDEX_pthread_join] = { "pthread_join", threads_join },
	[INDEX_pthread_timedjoin_np] = { "pthread_timedjoin_np", threads_timedjoin },
	[INDEX_pthread_clockjoin_np] = { "pthread_clockjoin_np", threads_clockjoin },
	/* these wait in base too: called again after an interruption of ours, the first would repeat its requests */
	[INDEX_lio_listio] = { "lio_listio", threads_lio_listio, true },
	[INDEX_lio_listio64] = { "lio_listio64", threads_lio_listio, true },
	[INDEX_gai_suspend] = { "gai_suspend", threads_gai_suspend, true },
	[INDEX_timer_create] = { "timer_create", threads_timer_create },
	[INDEX_timer_delete] = { "timer_delete", threads_timer_delete },
	[INDEX_thrd_join] = { "thrd_join", threads_thrd_join },
	[INDEX_thread_atexit] = { "__cxa_thread_atexit_impl", gotcha_thread_atexit },
};
struct rows gotcha_rows_threads = { rows, lengthof(rows) };
