/* A control library that counts, by libset, the calls which are carried out in the starting libset: the
 * allocator's, the environment's and the like. And a program that uses it.
 *
 *	cargo build -p libgotcha
 *	cc -Iinclude examples/count_calls.c target/debug/build/gotcha-*\/out/libgotcha.a -o count_calls
 *
 * Only libgotcha.h is used. The work runs on the kernel thread's own stack and thread control block: it is
 * not interrupted, and its libset is changed before and after. */
#include <libgotcha.h>

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ the control library */

enum { MOST_LIBSETS = 64 };
static atomic_ulong calls[MOST_LIBSETS];

static void count_call(void) {
	libgotcha_group_t caller = libgotcha_group_caller();
	if (caller >= 0 && caller < MOST_LIBSETS)
		calls[caller]++;
}

/* Runs `work(argument)` in `libset`; returns how many of its calls left that libset. */
static unsigned long count_calls(libgotcha_group_t libset, void (*work)(void *), void *argument) {
	unsigned long before = calls[libset];
	libgotcha_group_t previous = libgotcha_group_thread_set(libset);
	work(argument);
	libgotcha_group_thread_set(previous);
	return calls[libset] - before;
}

/* ------------------------------------------------------------------ the program */

static void allocate(void *times) {
	for (int i = 0; i < *(int *) times; i++)
		free(malloc(100));
}

/* Stays in the libset: each has a state of its own for strtok(). */
static void split(void *unused) {
	(void) unused;
	char text[] = "one two three";
	int words = 0;
	for (char *word = strtok(text, " "); word; word = strtok(NULL, " "))
		words++;
	if (words != 3)
		exit(1);
}

int main(void) {
	libgotcha_group_t first = libgotcha_group_new(), second = libgotcha_group_new();
	if (first == LIBGOTCHA_GROUP_ERROR || second == LIBGOTCHA_GROUP_ERROR) {
		fprintf(stderr, "no libset: %s\n", libgotcha_error());
		return 1;
	}
	libgotcha_shared_hook(count_call);
	int ten = 10, thousand = 1000;
	unsigned long by_first = count_calls(first, allocate, &ten), by_second = count_calls(second, allocate, &thousand);
	unsigned long by_split = count_calls(first, split, NULL);
	unsigned long by_base = calls[LIBGOTCHA_GROUP_SHARED];
	libgotcha_shared_hook(NULL);
	printf("libset %ld: %lu calls, libset %ld: %lu calls; strtok: %lu, base: %lu\n", first, by_first, second, by_second,
		by_split, by_base);
	return 0;
}
