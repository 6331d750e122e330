/* The child of a fork changes its libsets' pristine state: its parent's is its own. */
#include "../c/check.h"

#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

enum { COUNT = 4 };

static void look(void *expected) {
	CHECK(MB_CUR_MAX == *(size_t *) expected);
	CHECK(mblen("\xc3\xa9", 2) == (*(size_t *) expected > 1 ? 2 : -1));
	pause();
	CHECK(MB_CUR_MAX == *(size_t *) expected);
}

/* In all libsets at once; cancelled, and then to the end. */
static void look_in_all(size_t expected) {
	linger_t lingers[COUNT];
	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < COUNT; i++) {
			lingers[i] = launch(look, NO_LIMIT, &expected);
			CHECK(lingers[i].is_yielded);
		}
		for (int i = 0; i < COUNT; i++) {
			if (round == 0)
				cancel(&lingers[i]);
			else
				resume(&lingers[i], NO_LIMIT);
			CHECK(round == 0 || lingers[i].is_complete);
		}
	}
}

static void wait_here(void *unused) {
	(void) unused;
	pause();
}

int main(void) {
	/* made, and hardly used */
	linger_t lingers[COUNT];
	for (int i = 0; i < COUNT; i++)
		lingers[i] = launch(wait_here, NO_LIMIT, NULL);
	for (int i = 0; i < COUNT; i++)
		resume(&lingers[i], NO_LIMIT);
	pid_t child = fork();
	if (!child) {
		CHECK(setlocale(LC_ALL, "C.UTF-8"));
		look_in_all(6);
		_exit(0);
	}
	int status;
	CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && !WEXITSTATUS(status));
	look_in_all(1);
	return 0;
}
