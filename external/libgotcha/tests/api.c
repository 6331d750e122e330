/* The public interface, libgotcha.h, call by call. Exit status 0, or the line of the first failure on
 * standard error. */
#include <libgotcha.h>

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECK(condition) \
	do { \
		if (!(condition)) { \
			dprintf(2, "api.c:%d: %s (%s)\n", __LINE__, #condition, libgotcha_error()); \
			_exit(1); \
		} \
	} while (0)

static int hooked, inside_hook;
static libgotcha_group_t hook_group, hook_next;
/* It makes calls of its own, which do not call it again. */
static void hook(void) {
	CHECK(!inside_hook);
	inside_hook = 1;
	hooked++;
	hook_group = libgotcha_group_caller();
	hook_next = libgotcha_group_thread_get();
	free(malloc(10));
	inside_hook = 0;
}

static void *call_in_thread(void *group) {
	CHECK(libgotcha_group_thread_get() == LIBGOTCHA_GROUP_SHARED);
	libgotcha_group_thread_set(*(libgotcha_group_t *) group);
	free(malloc(10));
	libgotcha_group_thread_set(LIBGOTCHA_GROUP_SHARED);
	return NULL;
}

static void check_hook(libgotcha_group_t group) {
	libgotcha_shared_hook(hook);
	free(malloc(10));
	CHECK(hooked == 0);
	libgotcha_group_thread_set(group);
	free(malloc(10));
	CHECK(hooked == 2 && hook_group == group && hook_next == group);
	libgotcha_group_thread_set(LIBGOTCHA_GROUP_SHARED);
	/* the hook is the process's, not the thread's that installed it */
	pthread_t thread;
	CHECK(!pthread_create(&thread, NULL, call_in_thread, &group) && !pthread_join(thread, NULL));
	CHECK(hooked == 4);
	libgotcha_shared_hook(NULL);
	libgotcha_group_thread_set(group);
	free(malloc(10));
	libgotcha_group_thread_set(LIBGOTCHA_GROUP_SHARED);
	CHECK(hooked == 4);
}

static int draw_in(libgotcha_group_t group) {
	libgotcha_group_t previous = libgotcha_group_thread_set(group);
	int drawn = rand();
	CHECK(libgotcha_group_thread_set(previous) == group);
	return drawn;
}

static void check_renewal(libgotcha_group_t group) {
	int first = draw_in(group), second = draw_in(group);
	CHECK(first != second);
	CHECK(libgotcha_group_renew(group));
	CHECK(draw_in(group) == first && draw_in(group) == second);
	/* base's is another state */
	srand(77);
	int base = rand();
	srand(77);
	draw_in(group);
	CHECK(rand() == base);
}

static void check_symbols(libgotcha_group_t one, libgotcha_group_t other) {
	void *in_base = libgotcha_group_symbol(LIBGOTCHA_GROUP_SHARED, "rand");
	void *in_one = libgotcha_group_symbol(one, "rand"), *in_other = libgotcha_group_symbol(other, "rand");
	CHECK(in_base && in_one && in_other && in_one != in_other && in_one != in_base);
	CHECK(in_base == libgotcha_dlsym(RTLD_DEFAULT, "rand"));
	/* one address for the program: neither of them */
	CHECK((void *) rand != in_one && dlsym(RTLD_DEFAULT, "rand") == (void *) rand);
	CHECK(libgotcha_group_symbol_from(one, "rand", "libc.so.6") == in_one);
	CHECK(libgotcha_group_symbol(one, "no_such_symbol") == NULL);
	CHECK(libgotcha_group_symbol_from(one, "rand", "libno.so") == NULL);
	CHECK(libgotcha_group_symbol(99, "rand") == NULL && libgotcha_group_symbol(-5, "rand") == NULL);
	/* data */
	const char *const *name = libgotcha_group_symbol(one, "program_invocation_short_name");
	CHECK(name && name != libgotcha_group_symbol(LIBGOTCHA_GROUP_SHARED, "program_invocation_short_name"));
}

static void check_signals(void) {
	struct sigaction action;
	sigset_t mask;
	CHECK(!libgotcha_sigaction(SIGUSR1, NULL, &action) && action.sa_handler == SIG_DFL);
	CHECK(!libgotcha_pthread_sigmask(SIG_BLOCK, NULL, &mask));
}

int main(void) {
	CHECK(!strcmp(libgotcha_error(), ""));
	CHECK(libgotcha_group_thread_get() == LIBGOTCHA_GROUP_SHARED);
	CHECK(libgotcha_init() == 0 && libgotcha_init() == 0);
	CHECK(libgotcha_group_limit() == 3);
	libgotcha_group_t one = libgotcha_group_new(), two = libgotcha_group_new(), three = libgotcha_group_new();
	CHECK(one > 0 && two > 0 && three > 0 && one != two && two != three);
	/* LIBGOTCHA_NUMGROUPS=3 */
	CHECK(libgotcha_group_new() == LIBGOTCHA_GROUP_ERROR && strstr(libgotcha_error(), "3"));
	libgotcha_group_free(two);
	CHECK(libgotcha_group_new() == two);

	CHECK(libgotcha_group_thread_set(99) == LIBGOTCHA_GROUP_ERROR && libgotcha_group_thread_set(-7) == LIBGOTCHA_GROUP_ERROR);
	CHECK(libgotcha_group_thread_get() == LIBGOTCHA_GROUP_SHARED);
	CHECK(libgotcha_group_thread_set(one) == LIBGOTCHA_GROUP_SHARED);
	CHECK(libgotcha_group_thread_get() == one && libgotcha_group_caller() == one);
	CHECK(libgotcha_group_thread_set(two) == one && libgotcha_group_thread_set(LIBGOTCHA_GROUP_SHARED) == two);
	CHECK(libgotcha_group_caller() == LIBGOTCHA_GROUP_SHARED);

	CHECK(!libgotcha_group_renew(LIBGOTCHA_GROUP_SHARED) && !libgotcha_group_renew(99) && !libgotcha_group_renew(-1));
	check_renewal(one);
	check_symbols(one, two);
	check_hook(two);
	check_signals();
	return 0;
}
