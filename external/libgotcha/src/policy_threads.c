/* Policy of threads: those that a function starts are real threads of the process, which run its
 * libset; keys are the process's, those that a libset's code makes are undone with the libset. */
#include "internal.h"
#include "forward.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HOSTED_FUNCTIONS(X) \
	X(pthread_join) X(pthread_tryjoin_np) X(pthread_timedjoin_np) X(pthread_clockjoin_np) X(pthread_detach) \
	X(pthread_cancel) X(pthread_setattr_default_np) X(pthread_getattr_default_np) X(pthread_setconcurrency) \
	X(thrd_join) X(thrd_detach)
/* base's own function, as it is: it works on the calling TCB alone, for an instant */
#define PLAIN_FUNCTIONS(X) X(pthread_getspecific) X(pthread_setspecific) X(tss_get) X(tss_set)
/* these hand the TCB's tid to the kernel, which knows only kernel threads' */
#define REAL_TID_FUNCTIONS(X) \
	X(pthread_getattr_np) X(pthread_setaffinity_np) X(pthread_getaffinity_np) X(pthread_setschedparam) \
	X(pthread_getschedparam) X(pthread_setschedprio) X(pthread_setname_np) X(pthread_getname_np) \
	X(pthread_getcpuclockid) X(pthread_kill) X(pthread_sigqueue)

enum {
#define X(name) INDEX_##name,
	HOSTED_FUNCTIONS(X) PLAIN_FUNCTIONS(X) REAL_TID_FUNCTIONS(X)
#undef X
	INDEX_pthread_create, INDEX_thrd_create, INDEX_pthread_exit, INDEX_pthread_key_create, INDEX_tss_create,
	INDEX_pthread_key_delete, INDEX_tss_delete, INDEX_thread_atexit,
};
static struct row rows[];

int (*gotcha_base_thread_atexit)(void (*)(void *), void *, void *);

#define X(name) FORWARD_HOSTED(name, rows[INDEX_##name].base)
HOSTED_FUNCTIONS(X)
X(pthread_key_delete)
X(tss_delete)
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
	start.set->ctype_init();
	THIS.set = start.set;
	compiler_barrier();
	THIS.table = start.set->table;
	void *result = start.function(start.argument);
	THIS.table = gotcha_starting_table;
	compiler_barrier();
	THIS.set = NULL;
	return result;
}

/* The count drops when the thread is gone, also by pthread_exit() or a cancellation. */
static pthread_key_t thread_key;

static void thread_gone(void *set) {
	((struct libset *) set)->live_threads--;
}

static void *start_thread(void *closure) {
	pthread_setspecific(thread_key, ((struct start *) closure)->set);
	return run_thread(closure);
}

static int threads_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*function)(void *), void *argument) {
	struct libset *set = THIS.set;
	if (!set)
		return ((int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *)) rows[INDEX_pthread_create].base)
			(thread, attributes, function, argument);
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	int error = EAGAIN;
	struct start *start = gotcha_base_malloc(sizeof *start);
	if (start) {
		*start = (struct start) { function, argument, set };
		set->live_threads++;
		error = ((int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *)) rows[INDEX_pthread_create].base)
			(thread, attributes, start_thread, start);
		if (error) {
			set->live_threads--;
			gotcha_base_free(start);
		}
	}
	gotcha_hosted_leave(&guard);
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

/* ------------------------------------------------------------------ keys */

/* Keys that the executable's code made live in its statics, which are not rolled back: only what
 * code inside the libset made is undone. */
static bool is_libset_code(const struct libset *set, uintptr_t address) {
	for (size_t i = 0; set && i < set->copies_len; i++)
		if (set->copies[i].base && address - (set->copies[i].base - gotcha_objects[i].base) - gotcha_objects[i].start
				< gotcha_objects[i].end - gotcha_objects[i].start)
			return true;
	return false;
}

static int threads_key_create(pthread_key_t *key, void (*destructor)(void *)) {
	uintptr_t caller = (uintptr_t) __builtin_return_address(0);
	struct shared_guard guard;
	shared_enter(&guard);
	int error = ((int (*)(pthread_key_t *, void (*)(void *))) rows[INDEX_pthread_key_create].base)(key, destructor);
	struct libset *set = THIS.set;
	if (!error && is_libset_code(set, caller) && set->keys_len < lengthof(set->keys))
		set->keys[set->keys_len++] = *key;
	shared_leave(&guard);
	return error;
}

int gotcha_threads_init(void) {
	gotcha_base_thread_atexit = rows[INDEX_thread_atexit].base;
	int error = pthread_key_create(&thread_key, thread_gone);
	return error ? gotcha_fail(error, "pthread_key_create: no key left") : 0;
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
	[INDEX_pthread_create] = { "pthread_create", threads_create },
	[INDEX_thrd_create] = { "thrd_create", threads_thrd_create },
	[INDEX_pthread_exit] = { "pthread_exit", threads_exit },
	[INDEX_pthread_key_create] = { "pthread_key_create", threads_key_create },
	[INDEX_tss_create] = { "tss_create", threads_key_create },
	[INDEX_pthread_key_delete] = { "pthread_key_delete", hosted_pthread_key_delete },
	[INDEX_tss_delete] = { "tss_delete", hosted_tss_delete },
	[INDEX_thread_atexit] = { "__cxa_thread_atexit_impl", gotcha_thread_atexit },
};
struct rows gotcha_rows_threads = { rows, lengthof(rows) };
