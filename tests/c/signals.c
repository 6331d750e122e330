/* The program's own signals, timers and waits, with functions launched meanwhile. */
#include "check.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>

static volatile sig_atomic_t alarms;

static void count_alarm(int number) {
	CHECK(number == SIGALRM);
	alarms++;
}

static volatile int stops;

/* Both timers go on beside each other, however little of their time this process is given. */
static void await_alarms(void *unused) {
	(void) unused;
	while (alarms < 6 || stops < 3)
		;
}

static void set_timer(long us, long interval_us) {
	struct itimerval timer = { { 0, interval_us }, { 0, us } };
	CHECK(!setitimer(ITIMER_REAL, &timer, NULL));
}

/* A handler that was there before the first launch. */
static void own_timer(void) {
	CHECK(signal(SIGALRM, count_alarm) == SIG_DFL);
	set_timer(5000, 5000);
	linger_t linger = launch(await_alarms, 700, NULL);
	for (; !linger.is_complete; stops++) {
		CHECK(linger.error == 0 && !linger.is_yielded);
		resume(&linger, 700);
	}
	set_timer(0, 0);
	struct sigaction action;
	CHECK(!sigaction(SIGALRM, NULL, &action) && action.sa_handler == count_alarm);
}

static void nop(void *unused) {
	(void) unused;
}

static void waits_outside(void) {
	/* done at once: the library's timer expires later, when there is nothing to time */
	CHECK(launch(nop, 5000, NULL).is_complete);
	uint64_t start = now_us();
	CHECK(usleep(30000) == 0 && now_us() - start >= 30000);

	/* POSIX pause() outside of functions: for the program's signals alone */
	CHECK(launch(nop, 5000, NULL).is_complete);
	alarms = 0;
	start = now_us();
	set_timer(40000, 0);
	errno = 0;
	CHECK(pause() == -1 && errno == EINTR);
	CHECK(alarms == 1 && now_us() - start >= 39000);
}

static void one_second(void) {
	alarms = 0;
	CHECK(alarm(1) == 0);
	linger_t linger = launch(spin, 1000, NULL);
	for (uint64_t start = now_us(); alarms == 0 && now_us() - start < 3000000;)
		resume(&linger, 1000);
	CHECK(alarms == 1 && linger.error == 0);
	cancel(&linger);
}

static volatile sig_atomic_t inside_alarms;

static void count_inside(int number) {
	CHECK(number == SIGALRM);
	inside_alarms++;
}

static void uses_alarm(void *unused) {
	(void) unused;
	struct sigaction action, old;
	memset(&action, 0, sizeof action);
	action.sa_handler = count_inside;
	CHECK(!sigaction(SIGALRM, &action, &old) && old.sa_handler == count_alarm);
	CHECK(!raise(SIGALRM) && inside_alarms == 1);
	CHECK(!kill(getpid(), SIGALRM));
	spin_us(1000);
	CHECK(inside_alarms == 2);
	CHECK(!sigaction(SIGALRM, &old, &action) && action.sa_handler == count_inside);
}

/* Stopped meanwhile, it leaves the signal to its launcher, which does not block it. */
static void blocks_alarm(void *slices) {
	sigset_t set, old;
	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	CHECK(!sigprocmask(SIG_BLOCK, &set, &old) && !sigismember(&old, SIGALRM));
	int before = alarms;
	CHECK(!raise(SIGALRM));
	spin_us(3000);
	CHECK(alarms == before || *(int *) slices);
	CHECK(!sigprocmask(SIG_SETMASK, NULL, &set) && sigismember(&set, SIGALRM));
	CHECK(!sigprocmask(SIG_SETMASK, &old, NULL));
	spin_us(1000);
	CHECK(alarms == before + 1);
}

static void *volatile page;
static volatile sig_atomic_t faults;

static void repair(int number, siginfo_t *info, void *context) {
	(void) context;
	CHECK(number == SIGSEGV && info->si_addr == page);
	faults++;
	CHECK(!mprotect(page, 4096, PROT_READ | PROT_WRITE));
}

static void touch(void *unused) {
	(void) unused;
	for (int i = 0; i < 20; i++) {
		CHECK(!mprotect(page, 4096, PROT_NONE));
		*(volatile char *) page = 1;
		spin_us(50);
	}
}

static sigjmp_buf before_fault;

static void jump_back(int number) {
	(void) number;
	siglongjmp(before_fault, 1);
}

static volatile int recovered;

static void recover(void *unused) {
	(void) unused;
	for (int i = 0; i < 10; i++) {
		if (!sigsetjmp(before_fault, 1)) {
			*(volatile char *) page = 1;
			CHECK(0);
		}
		recovered++;
		spin_us(100);
	}
}

static void fault_handlers(void) {
	page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(page != MAP_FAILED);
	struct sigaction action, old;
	memset(&action, 0, sizeof action);
	action.sa_sigaction = repair;
	action.sa_flags = SA_SIGINFO;
	CHECK(!sigaction(SIGSEGV, &action, &old));
	touch(NULL);
	CHECK(faults == 20);
	linger_t linger = launch(touch, 100, NULL);
	CHECK(linger.error == 0);
	finish(&linger, 100);
	CHECK(faults == 40);

	CHECK(!mprotect(page, 4096, PROT_NONE));
	CHECK(signal(SIGSEGV, jump_back) != SIG_ERR);
	recover(NULL);
	linger = launch(recover, 100, NULL);
	CHECK(linger.error == 0);
	finish(&linger, 100);
	CHECK(recovered == 20);
	CHECK(signal(SIGSEGV, SIG_DFL) == jump_back);
}

static void fault(void *unused) {
	(void) unused;
	*(volatile char *) page = 1;
}

static int status_of(pid_t child) {
	int status;
	CHECK(child > 0 && waitpid(child, &status, 0) == child);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* What would end the process still does. */
static void default_dispositions(void) {
	pid_t child = fork();
	if (!child) {
		signal(SIGALRM, SIG_DFL);
		set_timer(3000, 0);
		linger_t linger = launch(spin, 500000, NULL);
		_exit(linger.is_complete);
	}
	CHECK(status_of(child) == -SIGALRM);
	child = fork();
	if (!child) {
		(void) launch(fault, NO_LIMIT, NULL);
		_exit(0);
	}
	CHECK(status_of(child) == -SIGSEGV);
	child = fork();
	if (!child) {
		CHECK(signal(SIGALRM, SIG_IGN) != SIG_ERR);
		set_timer(3000, 0);
		linger_t linger = launch(spin, 10000, NULL);
		CHECK(!linger.is_complete && linger.error == 0);
		cancel(&linger);
		_exit(11);
	}
	CHECK(status_of(child) == 11);
}

/* Launched with every signal blocked: timeouts come, the program's signals do not. */
static void all_blocked(void) {
	sigset_t all, old;
	sigfillset(&all);
	CHECK(!sigprocmask(SIG_BLOCK, &all, &old));
	int before = alarms;
	CHECK(!raise(SIGALRM));
	linger_t linger = launch(spin, 5000, NULL);
	CHECK(!linger.is_complete && linger.error == 0 && alarms == before);
	cancel(&linger);
	sigset_t pending;
	CHECK(!sigpending(&pending) && sigismember(&pending, SIGALRM));
	CHECK(!sigprocmask(SIG_SETMASK, &old, NULL));
	CHECK(alarms == before + 1);
}

/* An alternate stack is the kernel thread's to the kernel; what a function sets is the function's, wherever it
 * goes on. */
static char function_stack[64 << 10], inner_stack[64 << 10];
static char *volatile handled_on;

static void note_stack(int number) {
	(void) number;
	handled_on = __builtin_frame_address(0);
}

static void set_stack(char *memory) {
	stack_t stack;
	memset(&stack, 0, sizeof stack);
	stack.ss_sp = memory;
	stack.ss_size = sizeof function_stack;
	CHECK(!sigaltstack(&stack, NULL));
}

static int is_handled_on(char *memory) {
	linger_defer();
	CHECK(!raise(SIGUSR1));
	char *address = handled_on;
	linger_undefer();
	return address >= memory && address < memory + sizeof function_stack;
}

static void use_inner_stack(void *unused) {
	(void) unused;
	set_stack(inner_stack);
	for (int i = 0; i < 50; i++) {
		CHECK(is_handled_on(inner_stack));
		spin_us(50);
	}
}

static void use_own_stack(void *unused) {
	(void) unused;
	set_stack(function_stack);
	for (int i = 0; i < 50; i++) {
		CHECK(is_handled_on(function_stack));
		spin_us(50);
	}
	linger_t inner = launch(use_inner_stack, 300, NULL);
	while (!inner.is_complete) {
		CHECK(is_handled_on(function_stack));
		resume(&inner, 300);
	}
	CHECK(is_handled_on(function_stack));
}

static stack_t current_stack(void) {
	stack_t stack;
	CHECK(!sigaltstack(NULL, &stack));
	return stack;
}

static void *resume_elsewhere(void *linger) {
	resume((linger_t *) linger, 100);
	stack_t before = current_stack();
	resume((linger_t *) linger, 100);
	stack_t after = current_stack();
	CHECK(before.ss_sp == after.ss_sp && before.ss_flags == after.ss_flags);
	return NULL;
}

static void alternate_stacks(void) {
	struct sigaction action;
	memset(&action, 0, sizeof action);
	action.sa_handler = note_stack;
	action.sa_flags = SA_ONSTACK;
	CHECK(!sigaction(SIGUSR1, &action, NULL));
	stack_t before = current_stack();
	linger_t linger = launch(use_own_stack, 100, NULL);
	while (!linger.is_complete) {
		pthread_t thread;
		CHECK(!pthread_create(&thread, NULL, resume_elsewhere, &linger) && !pthread_join(thread, NULL));
		resume(&linger, 100);
		stack_t now = current_stack();
		CHECK(now.ss_sp == before.ss_sp && now.ss_flags == before.ss_flags);
	}
	linger = launch(use_own_stack, 100, NULL);
	cancel(&linger);
	CHECK(launch(use_own_stack, NO_LIMIT, NULL).is_complete);
	stack_t after = current_stack();
	CHECK(after.ss_sp == before.ss_sp && after.ss_flags == before.ss_flags);
}

int main(void) {
	own_timer();
	waits_outside();
	one_second();
	CHECK(launch(uses_alarm, NO_LIMIT, NULL).is_complete);
	inside_alarms = 0;
	linger_t linger = launch(uses_alarm, 100, NULL);
	finish(&linger, 100);
	int slices = 0;
	CHECK(launch(blocks_alarm, NO_LIMIT, &slices).is_complete);
	slices = 1;
	linger = launch(blocks_alarm, 200, &slices);
	finish(&linger, 200);
	all_blocked();
	fault_handlers();
	alternate_stacks();
	default_dispositions();
	return 0;
}
