/* What constructors and destructors of libraries do stays in the libset; argv[1] says which check. Linked with
 * constructed_library.c. */
#include "check.h"

#include <stdint.h>
#include <string.h>
#include <sys/wait.h>

int grow(void);
void take_lock(void);
void register_exit(int *);

static int exits, expected_exits;

static void nothing(void *unused) {
	(void) unused;
}

static void grow_and_pause(void *kept) {
	*(int *) kept = grow();
	pause();
}

static void lock_and_pause(void *unused) {
	(void) unused;
	take_lock();
	pause();
}

static void registers(void *unused) {
	(void) unused;
	register_exit(&exits);
}

static void register_and_pause(void *unused) {
	registers(unused);
	pause();
}

static void check_exits(void) {
	CHECK(exits == expected_exits);
}

/* Blocks of constructors are rolled back, of whatever size. */
static void blocks(void) {
	for (int i = 0; i < 5; i++) {
		int kept = 0;
		linger_t linger = launch(grow_and_pause, NO_LIMIT, &kept);
		CHECK(linger.is_yielded && kept);
		cancel(&linger);
	}
}

/* A fork does not wait for a lock that a paused function holds in its own copy. */
static void forks(void) {
	linger_t linger = launch(lock_and_pause, NO_LIMIT, NULL);
	CHECK(linger.is_yielded);
	pid_t child = fork();
	if (!child)
		_exit(0);
	int status;
	CHECK(waitpid(child, &status, 0) == child && status == 0);
}

/* A cancelled function's exit handler is forgotten, a completed one's is run once. */
static void exit_handlers(void) {
	linger_t linger = launch(register_and_pause, NO_LIMIT, NULL);
	CHECK(linger.is_yielded);
	cancel(&linger);
	linger = launch(registers, NO_LIMIT, NULL);
	CHECK(linger.is_complete);
	expected_exits = 1;
}

/* Run after those of the libsets, because it is registered before there are any. */
int main(int argc, char *argv[]) {
	CHECK(argc == 2 && !atexit(check_exits));
	linger_t linger = launch(nothing, NO_LIMIT, NULL);
	CHECK(linger.is_complete);
	if (!strcmp(argv[1], "blocks"))
		blocks();
	else if (!strcmp(argv[1], "forks"))
		forks();
	else if (!strcmp(argv[1], "exits"))
		exit_handlers();
	else
		CHECK(!strcmp(argv[1], "end"));
	return 0;
}
