/* Jumps and contexts: within a function, out of its handlers, and onto stacks that it has made itself. */
/* A handler that jumps has to find its function on the processor. */
#define LAUNCHER_BLOCKS_SIGNALS
#include "behaviour.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>

static jmp_buf deep;

static void descend(int depth);
/* the compiler sees that a recursion has no other end than the jump, and warns */
static void (*volatile descend_further)(int) = descend;

static void descend(int depth) {
	char room[256];
	__asm__ volatile("" :: "r" (room) : "memory");
	if (depth)
		descend_further(depth - 1);
	else
		longjmp(deep, 5);
	__asm__ volatile("" ::: "memory");
}

static void long_jumps(void) {
	volatile int jumps = 0;
	for (volatile int i = 0; i < 500; i++) {
		int result = setjmp(deep);
		if (!result)
			descend(i % 100);
		CHECK(result == 5);
		jumps++;
	}
	note("%d\n", jumps);
}

static void masks_of_jumps(void) {
	sigset_t set, now;
	CHECK(!sigemptyset(&set) && !sigaddset(&set, SIGUSR1));
	for (volatile int i = 0; i < 200; i++) {
		volatile int saves = i % 2;
		sigjmp_buf place;
		if (!sigsetjmp(place, saves)) {
			CHECK(!sigprocmask(SIG_BLOCK, &set, NULL));
			siglongjmp(place, 1);
		}
		CHECK(!sigprocmask(SIG_SETMASK, NULL, &now) && sigismember(&now, SIGUSR1) == !saves);
		CHECK(!sigprocmask(SIG_UNBLOCK, &set, NULL));
	}
}

static sigjmp_buf out_of_handler;
static volatile sig_atomic_t can_jump;

static void jump_out(int number) {
	if (can_jump)
		siglongjmp(out_of_handler, number);
}

/* A program's own time limit, as of 1990. */
static void jumps_out_of_timers(void) {
	struct sigaction action = { .sa_handler = jump_out };
	CHECK(!sigaction(SIGALRM, &action, NULL) && !sigaction(SIGVTALRM, &action, NULL));
	for (volatile int i = 0; i < 20; i++) {
		volatile int which = i % 2 ? ITIMER_REAL : ITIMER_VIRTUAL;
		struct itimerval time = { { 0, 0 }, { 0, 2000 } };
		int number = sigsetjmp(out_of_handler, 1);
		if (!number) {
			can_jump = 1;
			CHECK(!setitimer(which, &time, NULL));
			for (;;)
				;
		}
		can_jump = 0;
		CHECK(number == (i % 2 ? SIGALRM : SIGVTALRM));
	}
	CHECK(signal(SIGALRM, SIG_DFL) == jump_out && signal(SIGVTALRM, SIG_DFL) == jump_out);
}

/* ------------------------------------------------------------------ ucontext */

enum { STACK_BYTES = 1 << 16 };
static ucontext_t main_context, contexts[3];
static int turns[3], starting;

static void take_turns(void) {
	int own = starting++;
	char text[64];
	for (int i = 0; i < 100; i++) {
		snprintf(text, sizeof text, "%d of %d", i, own);
		spin_us(10);
		turns[own]++;
		CHECK(!swapcontext(&contexts[own], &contexts[(own + 1) % 3]));
		int number, who;
		CHECK(sscanf(text, "%d of %d", &number, &who) == 2 && number == i && who == own);
	}
}

static void coroutines(void) {
	char *stacks = (char *) mmap(NULL, 3 * STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(stacks != MAP_FAILED);
	for (int i = 0; i < 3; i++) {
		turns[i] = 0;
		CHECK(!getcontext(&contexts[i]));
		contexts[i].uc_stack.ss_sp = stacks + i * STACK_BYTES;
		contexts[i].uc_stack.ss_size = STACK_BYTES;
		contexts[i].uc_link = &main_context;
		makecontext(&contexts[i], take_turns, 0);
	}
	starting = 0;
	CHECK(!swapcontext(&main_context, &contexts[0]));
	note("%d %d %d\n", turns[0], turns[1], turns[2]);
	CHECK(!munmap(stacks, 3 * STACK_BYTES));
}

static void contexts_again(void) {
	volatile int rounds = 0;
	ucontext_t here;
	CHECK(!getcontext(&here));
	spin_us(20);
	if (++rounds < 200)
		setcontext(&here);
	note("%d\n", rounds);
}

const struct behaviour behaviours[] = {
	BEHAVIOUR(long_jumps),
	BEHAVIOUR(masks_of_jumps),
	BEHAVIOUR(jumps_out_of_timers),
	BEHAVIOUR(coroutines),
	BEHAVIOUR(contexts_again),
	{ NULL, NULL },
};
