/* The process ends: argv[1] says how. Paused and preempted functions, and unwritten output, are there
 * each time. The test knows what to expect. */
#include "check.h"

#include <pthread.h>
#include <signal.h>

static void write_then_pause(void *unused) {
	(void) unused;
	printf("paused ");
	pause();
}

static void at_exit(void) {
	printf("handler ");
}

static void print(void *text) {
	printf("%s ", (char *) text);
}

/* Also on top of a function that exits. */
static void launch_at_exit(void) {
	CHECK(launch(print, NO_LIMIT, "launched").is_complete);
	linger_t linger = launch(spin, 300, NULL);
	CHECK(!linger.is_complete && linger.error == 0);
	resume(&linger, 300);
	CHECK(!linger.is_complete && linger.error == 0);
	cancel(&linger);
}

static void exit_inside(void *unused) {
	(void) unused;
	printf("inside ");
	exit(7);
}

static void exit_after_pause(void *unused) {
	pause();
	exit_inside(unused);
}

static void register_and_return(void *unused) {
	(void) unused;
	atexit(at_exit);
}

static void quick_exit_inside(void *unused) {
	(void) unused;
	_exit(7);
}

static void *exit_on_thread(void *linger) {
	resume((linger_t *) linger, NO_LIMIT);
	return NULL;
}

static void abort_inside(void *unused) {
	(void) unused;
	abort();
}

int main(int argc, char *argv[]) {
	CHECK(argc == 2);
	linger_t paused = launch(write_then_pause, NO_LIMIT, NULL), preempted = launch(spin, 1000, NULL);
	CHECK(paused.is_yielded && !preempted.is_complete && preempted.error == 0);
	printf("outside ");
	switch (*argv[1]) {
	case 'r':       /* return from main */
		atexit(at_exit);
		return 7;
	case 'e':       /* exit() in a function */
		atexit(at_exit);
		(void) launch(exit_inside, NO_LIMIT, NULL);
		break;
	case 'l':       /* exit() in a function, on a kernel thread that did not launch it */
		atexit(at_exit);
		{
			linger_t linger = launch(exit_after_pause, NO_LIMIT, NULL);
			pthread_t thread;
			CHECK(linger.is_yielded && !pthread_create(&thread, NULL, exit_on_thread, &linger));
			pthread_join(thread, NULL);
		}
		break;
	case 'h':       /* a handler that a function has registered */
		CHECK(launch(register_and_return, NO_LIMIT, NULL).is_complete);
		return 7;
	case 'x':       /* a handler that launches */
		atexit(launch_at_exit);
		return 7;
	case 'y':       /* a handler that launches, after exit() in a function */
		atexit(launch_at_exit);
		(void) launch(exit_inside, NO_LIMIT, NULL);
		break;
	case 'q':       /* _exit() in a function: nothing is written */
		(void) launch(quick_exit_inside, NO_LIMIT, NULL);
		break;
	case 'a':       /* abort() in a function */
		(void) launch(abort_inside, NO_LIMIT, NULL);
		break;
	case 'p':       /* the main thread ends first */
		atexit(at_exit);
		pthread_exit(NULL);
	}
	return 1;
}
