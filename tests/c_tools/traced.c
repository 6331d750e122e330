/* For strace: slices that are shorter than a system call takes under it. */
#include "../c/check.h"

#include <signal.h>

static void compute_and_sleep(void *unused) {
	(void) unused;
	/* a mask of its own, which takes system calls to leave and to install */
	sigset_t mask;
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	CHECK(!sigprocmask(SIG_BLOCK, &mask, NULL));
	for (int i = 0; i < 20; i++) {
		for (volatile int j = 0; j < 10000; j++)
			;
		CHECK(!usleep(10));
	}
}

int main(void) {
	linger_t linger = launch(compute_and_sleep, 20, NULL);
	CHECK(finish(&linger, 20) > 0);
	return 0;
}
