/* Calls of a library named in LIBGOTCHA_SHARED, from inside libsets and outside. Exit status 0, or the line of the
 * first failure on standard error. Built twice: with LIBRARY it is that library. */
#ifdef LIBRARY

static int count;

int library_count(void) {
	return ++count;
}

long library_call(long (*function)(long), long argument) {
	return function(argument) + 1;
}

#else
#include <libgotcha.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECK(condition) \
	do { \
		if (!(condition)) { \
			dprintf(2, "shared.c:%d: %s (%s)\n", __LINE__, #condition, libgotcha_error()); \
			_exit(1); \
		} \
	} while (0)

int library_count(void);
long library_call(long (*)(long), long);

static libgotcha_group_t one;

static int hooked;
static libgotcha_group_t hook_group;
static void hook(void) {
	hooked++;
	hook_group = libgotcha_group_thread_get();
}

/* It is in the starting libset, on behalf of another. */
static long call_back(long argument) {
	CHECK(libgotcha_group_thread_get() == LIBGOTCHA_GROUP_SHARED && libgotcha_group_caller() == one);
	CHECK(hooked == 0);
	free(malloc(10));
	CHECK(hooked == 0);
	return argument + library_count();
}

static void check_hook(void) {
	int before = library_count();
	libgotcha_shared_hook(hook);
	library_count();
	CHECK(hooked == 0);
	libgotcha_group_thread_set(one);
	CHECK(library_call(call_back, 100) == 100 + before + 2 + 1);
	CHECK(hooked == 1 && hook_group == one && libgotcha_group_thread_get() == one);
	library_count();
	CHECK(hooked == 2);
	libgotcha_group_thread_set(LIBGOTCHA_GROUP_SHARED);
	CHECK(library_count() == before + 4 && hooked == 2);
	libgotcha_shared_hook(NULL);
}

/* A callback that goes back to a libset makes calls inside calls. */
static long nest(long depth) {
	if (!depth)
		return 0;
	libgotcha_group_t previous = libgotcha_group_thread_set(one);
	long result = library_call(nest, depth - 1);
	CHECK(libgotcha_group_thread_get() == one);
	libgotcha_group_thread_set(previous);
	return result;
}

/* Each thread has calls of its own, which end with it. */
static void *nest_in_thread(void *unused) {
	CHECK(nest(50) == 50);
	return unused;
}

int main(int argc, char **argv) {
	CHECK(libgotcha_init() == 0);
	one = libgotcha_group_new();
	CHECK(one > 0);
	/* the library has no copy */
	CHECK(libgotcha_group_symbol(one, "library_count") == libgotcha_group_symbol(LIBGOTCHA_GROUP_SHARED, "library_count"));
	CHECK(nest(argc > 1 ? atoi(argv[1]) : 60) == 60);
	check_hook();
	for (int i = 0; i < 100; i++) {
		pthread_t thread;
		CHECK(!pthread_create(&thread, NULL, nest_in_thread, NULL) && !pthread_join(thread, NULL));
	}
	return 0;
}
#endif
