/* What other threads change while the first launch starts the library is not lost: it is the program's, and the signal
 * that preempts stays the library's. Each start is a process's. */
#include "check.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

enum { PROCESSES = 60 };

static const int numbers[] = { SIGALRM, SIGUSR1 };
static volatile sig_atomic_t handled;
static volatile int is_ready, is_started;

static void handle(int number) {
	handled = number;
}

static void handle_otherwise(int number) {
	handled = -number;
}

/* Each change finds the one before, but for a call that the start has overtaken: it may find the library's own. */
static void *change(void *unused) {
	static void (*const handlers[])(int) = { handle, handle_otherwise };
	for (unsigned long i = 0; !is_started; i++) {
		for (int j = 0; j < 2; j++) {
			void (*before)(int) = signal(numbers[j], handlers[i % 2]);
			CHECK(before != SIG_ERR && before != handlers[i % 2] && (before != SIG_DFL || i == 0));
		}
		is_ready = 1;
	}
	for (int j = 0; j < 2; j++)
		CHECK(signal(numbers[j], handle) != SIG_ERR);
	return unused;
}

static void nothing(void *unused) {
	(void) unused;
}

static void start(void) {
	pthread_t thread;
	CHECK(!pthread_create(&thread, NULL, change, NULL));
	while (!is_ready)
		;
	CHECK(launch(nothing, NO_LIMIT, NULL).is_complete);
	is_started = 1;
	CHECK(!pthread_join(thread, NULL));

	linger_t linger = launch(spin, 1000, NULL);
	CHECK(!linger.is_complete && linger.error == 0 && handled == 0);
	cancel(&linger);
	for (int j = 0; j < 2; j++)
		CHECK(!kill(getpid(), numbers[j]) && handled == numbers[j]);
}

int main(void) {
	for (int i = 0; i < PROCESSES; i++) {
		pid_t child = fork();
		CHECK(child >= 0);
		if (!child) {
			start();
			_exit(0);
		}
		int status;
		CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
	}
	return 0;
}
