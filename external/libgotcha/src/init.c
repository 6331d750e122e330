/* Start, the crossings between libsets, and the control library's interface. */
#include "internal.h"

#include <dlfcn.h>
#include <errno.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ------------------------------------------------------------------ crossings */

/* Not inlined, because the address is another one on the other TCB. */
static __attribute__((noinline)) int exchange_errno(int error) {
	int before = *gotcha_base_errno();
	*gotcha_base_errno() = error;
	return before;
}

/* Context: any. Afterwards: table base, thread pointer the kernel thread's own, preemption deferred
 * on both TCBs; the stack is unchanged. A signal handler that comes now finds a kernel thread's TCB,
 * whose `defer` is never 0. errno is carried over and back, and the host's is as it was afterwards. */
__attribute__((noinline)) void gotcha_hosted_enter(struct hosted_guard *guard) {
	shared_enter(&guard->shared);
	errno_in();
	guard->virtual_tcb = 0;
	if (THIS.is_virtual) {
		guard->virtual_tcb = thread_pointer();
		int error = *gotcha_base_errno();
		gotcha_set_thread_pointer(THIS.host);
		guard->host_errno = exchange_errno(error);
	}
}

__attribute__((noinline)) void gotcha_hosted_leave(struct hosted_guard *guard) {
	if (guard->virtual_tcb) {
		int error = exchange_errno(guard->host_errno);
		gotcha_set_thread_pointer(guard->virtual_tcb);
		*gotcha_base_errno() = error;
	}
	errno_out();
	shared_leave(&guard->shared);
}

/* Not inlined, as above. */
static __attribute__((noinline)) uintptr_t host_of_this(void) {
	return THIS.host;
}

static __attribute__((noinline)) void set_table(void **table) {
	THIS.table = table;
}

/* Not inlined, as above. The host has not called it, and finds its errno as it was. */
static __attribute__((noinline)) void run_on_host(void (*function)(void *), void *argument) {
	int *error = gotcha_base_errno(), before = *error;
	function(argument);
	*error = before;
}

/* hosted_enter() and hosted_leave(), but for the caller's errno, which is left alone. */
void libgotcha_run_hosted(void (*function)(void *), void *argument) {
	struct shared_guard guard;
	shared_enter(&guard);
	if (THIS.is_virtual) {
		uintptr_t virtual_tcb = thread_pointer();
		gotcha_set_thread_pointer(THIS.host);
		run_on_host(function, argument);
		gotcha_set_thread_pointer(virtual_tcb);
	} else {
		function(argument);
	}
	shared_leave(&guard);
}

struct callback {
	const struct hosted_guard *guard;
	gotcha_phdr_visitor *visit;
	void *closure;
};

static int call_back(struct dl_phdr_info *info, size_t size, void *closure) {
	const struct callback *callback = closure;
	const struct hosted_guard *guard = callback->guard;
	if (guard->virtual_tcb)
		gotcha_set_thread_pointer(guard->virtual_tcb);
	set_table(guard->shared.table);
	int result = callback->visit(info, size, callback->closure);
	set_table(libgotcha_starting_table);
	if (guard->virtual_tcb)
		gotcha_set_thread_pointer(host_of_this());
	return result;
}

/* What is called back is the caller's code: its thread-locals and its libset are those that it has anywhere else. It is
 * not preempted, since its callers rely on ld.so's lock around it (unwinders keep a cache of what they find). */
int gotcha_iterate_phdr(int (*iterate)(gotcha_phdr_visitor *, void *), gotcha_phdr_visitor *visit, void *closure) {
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	int result = iterate(call_back, &(struct callback) { &guard, visit, closure });
	gotcha_hosted_leave(&guard);
	return result;
}

void (*gotcha_shared_hook)(void);

void libgotcha_shared_hook(void (*hook)(void)) {
	gotcha_shared_hook = hook;
}

/* Context: a libset's, with preemption still deferred. Calls that the hook itself makes do not run it. */
void libgotcha_run_hook(void) {
	void (*hook)(void) = gotcha_shared_hook;
	if (!hook || THIS.hooked)
		return;
	THIS.hooked = 1;
	hook();
	THIS.hooked = 0;
}

void libgotcha_take_pending(void) {
	THIS.pending = 0;
	if (gotcha_callbacks.take_pending)
		gotcha_callbacks.take_pending();
}

void libgotcha_set_callbacks(const struct libgotcha_callbacks *callbacks) {
	gotcha_callbacks = *callbacks;
}

bool libgotcha_is_shared_code(uintptr_t pc) {
	if (pc - (uintptr_t) gotcha_entries < (uintptr_t) (gotcha_entries_end - gotcha_entries))
		return true;
	if (pc == (uintptr_t) gotcha_system_call_made && !gotcha_part_is_off("made"))
		return true;
#ifdef GOTCHA_TESTING
	if (gotcha_backstop_is_off)
		return false;
#endif
	struct object *object = gotcha_object_at(pc);
	return object && (object->kind == OBJECT_LOADER || object->kind == OBJECT_REPLICATED || object->kind == OBJECT_SHARED);
}

/* Base's write() is base's code, which is not preempted. */
long libgotcha_write(int descriptor, const void *bytes, size_t length) {
	return raw_syscall(SYS_write, descriptor, (long) bytes, (long) length, 0);
}

void *libgotcha_base(const char *name) {
	return gotcha_libc_symbol(name);
}

/* ------------------------------------------------------------------ one runtime per process */

/* Interception by two copies of this code would send calls in circles. The first one leaves a mark
 * that the others find: a page of memory with a name. */
static const char mark[] = "libgotcha-runtime-1";

static int claim_process(void) {
	FILE *maps = fopen("/proc/self/maps", "re");
	if (!maps)
		return gotcha_fail(errno, "cannot read /proc/self/maps: %s", strerror(errno));
	char line[4096];
	bool found = false;
	while (!found && fgets(line, sizeof line, maps))
		found = strstr(line, mark) != NULL;
	fclose(maps);
	if (found)
		return gotcha_fail(EBUSY, "another copy of this library is at work in the process");
	int file = memfd_create(mark, MFD_CLOEXEC);
	void *page = file < 0 || ftruncate(file, PAGE_SIZE) ? MAP_FAILED : mmap(NULL, PAGE_SIZE, PROT_READ, MAP_SHARED, file, 0);
	int error = errno;
	if (file >= 0)
		close(file);
	return page == MAP_FAILED ? gotcha_fail(error, "memory file: %s", strerror(error)) : 0;
}

/* ------------------------------------------------------------------ start */

static pthread_mutex_t start_lock = PTHREAD_MUTEX_INITIALIZER;

/* The child of a fork is to find whole what other threads were changing. A start that another
 * thread is in the middle of is waited for, and none begins. */
static void before_fork(void) {
	pthread_mutex_lock(&start_lock);
	if (gotcha_callbacks.forking)
		gotcha_callbacks.forking();
	gotcha_lock();
}

static void after_fork(void) {
	gotcha_unlock();
	if (gotcha_callbacks.fork_done)
		gotcha_callbacks.fork_done();
	pthread_mutex_unlock(&start_lock);
}

static void in_fork_child(void) {
	gotcha_lock_reset();
	gotcha_signals_forked();
	if (gotcha_callbacks.forked)
		gotcha_callbacks.forked();
	pthread_mutex_unlock(&start_lock);
}

/* When the library is loaded, not when it starts: a fork that had begun before would not call them. */
static bool forks_handled;
__attribute__((constructor)) static void handle_forks(void) {
	forks_handled = !pthread_atfork(before_fork, after_fork, in_fork_child);
}

/* What functions have written to streams that they left open reaches the files at the process's end,
 * as it would without libsets. */
static void flush_all(void) {
	for (size_t i = 0; i < gotcha_libsets_len(); i++)
		gotcha_streams_flush(gotcha_libset(i + 1), true);
}

/* The first unwinding loads and caches what it needs, under a lock: here, in base, so that it does
 * not happen while a function may be preempted. */
static int first_frame(void *context, void *closure) {
	(void) context;
	(void) closure;
	return 5;       /* _URC_END_OF_STACK */
}

static void warm_unwinder(void) {
	int (*unwind)(int (*)(void *, void *), void *);
	*(void **) &unwind = dlsym(RTLD_DEFAULT, "_Unwind_Backtrace");
	if (unwind)
		unwind(first_frame, NULL);
}

/* Where the default engine cannot make copies, by what it knows of the C library or because of one of the program's
 * libraries, the other may. Errors of the system are neither's fault: those are reported. */
static int prepare_engine(void) {
	int error = gotcha_engine->prepare();
	bool is_unable = error == -ENOEXEC || error == -ENOSYS;
	if (!is_unable || gotcha_config.engine_is_chosen)
		return error;
	gotcha_engine_refusal = strdup(libgotcha_error());
	if (!gotcha_engine_refusal)
		return error;
	gotcha_engine = &gotcha_engine_dlmopen;
	gotcha_objects_classify();
	if ((error = gotcha_policy_bind()) || (error = gotcha_engine->prepare()))
		return error;
	if (gotcha_config.trace_libsets)
		gotcha_trace("libsets", "by dlmopen, at most %zu: %s", gotcha_engine->limit(), gotcha_engine_refusal);
	return 0;
}

/* Other threads of the program run meanwhile. What they can change is taken over last, once the wrappers tell of
 * each further change. */
static int start(void) {
	int error;
	gotcha_signals_forked();
	if ((error = gotcha_config_init()) || (error = claim_process()) || (error = gotcha_objects_refresh())
	 || (error = gotcha_glibc_init()) || (error = gotcha_policy_bind()) || (error = gotcha_loader_shadow_init())
	 || (error = gotcha_trampolines_init()) || (error = gotcha_calls_init()) || (error = gotcha_threads_init()))
		return error;
	gotcha_base_malloc = gotcha_rows_heap.first[0].base;
	gotcha_base_free = gotcha_base_symbol("free");
	warm_unwinder();
	if ((error = prepare_engine()))
		return error;
	if (!forks_handled || atexit(flush_all))
		return gotcha_fail(ENOMEM, "no memory to register for forks and the process's end");
	if ((error = gotcha_intercept_objects()) || (error = gotcha_signals_init())
	 || (error = gotcha_objects_refresh()) || (error = gotcha_intercept_objects()))
		return error;
	const char *locale = setlocale(LC_ALL, NULL);
	if (locale && strcmp(locale, "C"))
		gotcha_locale_generation++;
	return 0;
}

static _Atomic int started;
static int start_result;

int libgotcha_init(void) {
	if (started)
		return start_result;
	int cancelability;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancelability);
	pthread_mutex_lock(&start_lock);
	if (!started) {
		start_result = start();
		started = 1;
	}
	pthread_mutex_unlock(&start_lock);
	pthread_setcancelstate(cancelability, NULL);
	return start_result;
}

int libgotcha_share(const char *name) {
	int error = -EBUSY;
	/* a function calls this after the start only, and must not wait for a lock */
	if (!started) {
		pthread_mutex_lock(&start_lock);
		if (!started)
			error = gotcha_config_share(name);
		pthread_mutex_unlock(&start_lock);
	}
	return error == -EBUSY ? gotcha_fail(EBUSY, "too late to share %s: libraries may have been copied", name) : error;
}
