/* Threads that the C library starts for a function, and waits for threads. */
#include "check.h"

#include <aio.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <syslog.h>
#include <threads.h>

static char bytes[4096];
static struct aiocb request;

static void read_and_pause(void *unused) {
	(void) unused;
	request = (struct aiocb) { .aio_fildes = open("/dev/zero", O_RDONLY), .aio_buf = bytes, .aio_nbytes = sizeof bytes };
	aio_read(&request);
	const struct aiocb *const list[] = { &request };
	while (aio_suspend(list, 1, NULL) || aio_error(&request))
		;
	pause();
}

static void exits(void *unused) {
	(void) unused;
	thrd_exit(0);
}

static volatile bool released;

static void *waits(void *value) {
	while (!released)
		usleep(1000);
	return value;
}

static void joins(void *result) {
	pthread_t thread;
	pthread_create(&thread, NULL, waits, result);
	void *value = NULL;
	*(int *) result = !pthread_join(thread, &value) && value == result;
}

static void logs(void *unused) {
	(void) unused;
	syslog(LOG_INFO, "%d %d %d %d %d %d %.1f %s", 1, 2, 3, 4, 5, 6, 7.5, "eight");
}

int main(void) {
	linger_t linger = launch(exits, NO_LIMIT, NULL);
	CHECK(linger.error == ECANCELED);

	int joined = 0;
	linger = launch(joins, 10000, &joined);
	CHECK(!linger.is_complete && linger.error == 0);
	released = true;
	finish(&linger, 10000);
	CHECK(joined);

	openlog("ident", LOG_PERROR, LOG_USER);
	int pipe_ends[2], saved = dup(STDERR_FILENO);
	char line[100] = "";
	CHECK(!pipe(pipe_ends) && dup2(pipe_ends[1], STDERR_FILENO) >= 0);
	linger = launch(logs, NO_LIMIT, NULL);
	CHECK(dup2(saved, STDERR_FILENO) >= 0 && read(pipe_ends[0], line, sizeof line - 1) > 0);
	CHECK(!strcmp(line, "ident: 1 2 3 4 5 6 7.5 eight\n"));

	/* the helper thread ends a second after its last request: nothing that a roll back has undone counts it */
	linger = launch(read_and_pause, NO_LIMIT, NULL);
	CHECK(linger.is_yielded && aio_return(&request) == sizeof bytes);
	cancel(&linger);
	for (int i = 0; i < 5; i++)
		usleep(500000);
	return 7;
}
