/* A library with state: what its constructor allocates, and statics of its own. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static char *block;
static int counter;

__attribute__((constructor)) static void construct(void) {
	block = malloc(100);
	strcpy(block, "constructed");
}

char *constructed_block(void);
void constructed_replace(void);
int constructed_count(void);

char *constructed_block(void) {
	return block;
}

void constructed_replace(void) {
	char *replacement = malloc(200);
	strcpy(replacement, block);
	strcat(replacement, ", replaced");
	free(block);
	block = realloc(replacement, 300);
}

int constructed_count(void) {
	return ++counter;
}

#include <signal.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* Takes signals of the process, as a library may: they come in a millisecond. */
static volatile int handled;
static void handle(int signal) {
	(void) signal;
	handled++;
}
int constructed_take_signals(void);
int constructed_take_signals(void) {
	struct itimerval soon = { { 0, 1000 }, { 0, 1000 } };
	struct itimerspec later = { { 0, 1000000 }, { 0, 1000000 } };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
	timer_t timer;
	return signal(SIGPROF, handle) == SIG_ERR || signal(SIGVTALRM, handle) == SIG_ERR || signal(SIGUSR1, handle) == SIG_ERR
		|| signal(SIGUSR2, handle) == SIG_ERR || signal(SIGALRM, handle) == SIG_ERR || setitimer(ITIMER_PROF, &soon, NULL)
		|| timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &later, NULL);
}
void constructed_alarm(int by_ualarm);
void constructed_alarm(int by_ualarm) {
	if (by_ualarm)
		ualarm(20000, 0);
	else
		alarm(1);
}

#include <pthread.h>

int constructed_make_key(void);
int constructed_make_key(void) {
	pthread_key_t key;
	return pthread_key_create(&key, NULL);
}

/* The image of a thread-local is relocated like other data. In static storage, whenever the library is opened. */
static __thread struct {
	int number, *counter;
} local __attribute__((tls_model("initial-exec"))) = { 7, &counter };

int constructed_local_is_new(void);
int constructed_local_is_new(void) {
	bool is_new = local.number == 7 && local.counter == &counter;
	local.number = 8;
	return is_new;
}
