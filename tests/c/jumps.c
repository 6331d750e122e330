/* Jumps within functions, out of the program's handlers, and out of a function. */
#include "check.h"

#include <setjmp.h>
#include <signal.h>
#include <string.h>

static jmp_buf launcher;
static sigjmp_buf fault;

static void on_fault(int signal) {
	(void) signal;
	siglongjmp(fault, 1);
}

static void jump_about(void *jumps) {
	jmp_buf here;
	volatile int count = 0;
	setjmp(here);
	if (count++ < 1000)
		longjmp(here, count);
	*(int *) jumps = count;
}

/* The handler was installed outside, so it runs on the caller's TCB; the jump comes back here. */
static void fault_often(void *faults) {
	for (volatile int i = 0; i < 100; i++)
		if (!sigsetjmp(fault, 1))
			*(volatile int *) NULL = 1;
		else
			++*(int *) faults;
	spin(NULL);
}

static void install_and_fault(void *faults) {
	signal(SIGSEGV, on_fault);
	fault_often(faults);
}

static void jump_out(void *unused) {
	(void) unused;
	longjmp(launcher, 1);
}

static void faults_leave_preemption_open(void (*function)(void *)) {
	int faults = 0;
	linger_t linger = launch(function, 50000, &faults);
	CHECK(!linger.is_complete && !linger.error);
	while (faults < 100)
		resume(&linger, 50000);
	/* it spins by now: that this returns is what is tested */
	resume(&linger, 1000);
	CHECK(faults == 100 && !linger.is_complete);
	cancel(&linger);
}

/* The C library's own cleanup handlers: a list in struct pthread, of nodes on the stack. */
struct cleanup {
	void (*routine)(void *);
	void *argument;
	int type;
	struct cleanup *previous;
};
void _pthread_cleanup_push(struct cleanup *, void (*)(void *), void *);

static int cleanups;
static void clean_up(void *unused) {
	(void) unused;
	cleanups++;
}

static void stop_within_cleanup(void *unused) {
	(void) unused;
	char room[4096];
	struct cleanup cleanup;
	__asm__ volatile("" :: "r" (room) : "memory");
	_pthread_cleanup_push(&cleanup, clean_up, NULL);
	pause();
}

static void jump_over(void *target) {
	char room[16384];
	__asm__ volatile("" :: "r" (room) : "memory");
	longjmp(target, 1);
}

static void jump_up(void *jumps) {
	jmp_buf here;
	if (!setjmp(here))
		jump_over(here);
	++*(int *) jumps;
}

/* longjmp() runs the handlers between the jump and its target: a cancelled function's are not among them. */
static void cancelled_cleanup_is_forgotten(void) {
	for (int i = 0; i < 100; i++) {
		linger_t linger = launch(stop_within_cleanup, NO_LIMIT, NULL);
		CHECK(linger.is_yielded);
		cancel(&linger);
		int jumps = 0;
		linger = launch(jump_up, NO_LIMIT, &jumps);
		CHECK(linger.is_complete && jumps == 1);
	}
	CHECK(cleanups == 0);
}

int main(int argc, char **argv) {
	if (argc > 1 && !strcmp(argv[1], "out")) {
		if (!setjmp(launcher))
			launch(jump_out, NO_LIMIT, NULL);
		return 0;
	}
	int jumps = 0;
	linger_t linger = launch(jump_about, NO_LIMIT, &jumps);
	CHECK(linger.is_complete && jumps == 1001);
	struct sigaction none = { .sa_handler = SIG_DFL }, action = { .sa_handler = on_fault };
	sigaction(SIGSEGV, &action, NULL);
	faults_leave_preemption_open(fault_often);
	sigaction(SIGSEGV, &none, NULL);
	faults_leave_preemption_open(install_and_fault);
	cancelled_cleanup_is_forgotten();
	/* and outside */
	volatile int faults = 0;
	sigaction(SIGSEGV, &action, NULL);
	for (volatile int i = 0; i < 100; i++)
		if (!sigsetjmp(fault, 1))
			*(volatile int *) NULL = 1;
		else
			faults++;
	CHECK(faults == 100);
	linger = launch(spin, 1000, NULL);
	CHECK(!linger.is_complete);
	cancel(&linger);
	return 0;
}
