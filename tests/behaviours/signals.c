/* Signals and timers of the program itself: none is lost, none comes twice, none comes to the wrong handler, and
 * masks, alternate stacks and waits are what they were set to. */
#define LAUNCHER_BLOCKS_SIGNALS
#include "behaviour.h"

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/time.h>

static volatile sig_atomic_t count, last, value;

static void handle(int number) {
	last = number;
	count++;
}

static void handle_with_value(int number, siginfo_t *info, void *context) {
	(void) context;
	value = info->si_value.sival_int;
	handle(number);
}

static void install(int number, void (*handler)(int)) {
	struct sigaction action = { .sa_handler = handler, .sa_flags = SA_RESTART };
	CHECK(!sigaction(number, &action, NULL));
	count = 0;
}

static void install_with_value(int number, int flags) {
	struct sigaction action = { .sa_flags = SA_SIGINFO | flags };
	action.sa_sigaction = handle_with_value;
	CHECK(!sigaction(number, &action, NULL));
	count = 0;
}

static void remove_handler(int number) {
	CHECK(signal(number, SIG_DFL) != SIG_ERR);
}

static sigset_t set_of(int number, int other) {
	sigset_t set;
	CHECK(!sigemptyset(&set) && !sigaddset(&set, number) && !sigaddset(&set, other));
	return set;
}

/* ------------------------------------------------------------------ timers */

static void interval_timer(int which, int number) {
	install(number, handle);
	struct itimerval time = { { 0, 3000 }, { 0, 3000 } }, none = { { 0, 0 }, { 0, 0 } }, old;
	CHECK(!setitimer(which, &time, NULL));
	while (count < 4)
		;
	CHECK(last == number);
	CHECK(!setitimer(which, &none, &old) && old.it_interval.tv_usec == 3000);
	CHECK(!getitimer(which, &old) && old.it_value.tv_sec == 0 && old.it_value.tv_usec == 0);
	int before = count;
	spin_us(5000);
	CHECK(count <= before + 1);
	remove_handler(number);
}

static void real_timer(void) {
	interval_timer(ITIMER_REAL, SIGALRM);
}

static void virtual_timer(void) {
	interval_timer(ITIMER_VIRTUAL, SIGVTALRM);
}

static void profiling_timer(void) {
	interval_timer(ITIMER_PROF, SIGPROF);
}

static void alarm_clock(void) {
	install(SIGALRM, handle);
	CHECK(alarm(100) == 0);
	CHECK(alarm(1) > 50);
	uint64_t start = now_us();
	CHECK(sleep(10) > 0 && count == 1 && last == SIGALRM && now_us() - start >= 990000);
	CHECK(ualarm(2000, 0) == 0);
	while (count < 2)
		;
	CHECK(alarm(0) == 0);
	remove_handler(SIGALRM);
}

static void posix_timer_signals(void) {
	install_with_value(SIGRTMIN + 1, SA_RESTART);
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 1 };
	event.sigev_value.sival_int = 4711;
	timer_t timer;
	struct itimerspec time = { { 0, 2000000 }, { 0, 2000000 } }, left;
	CHECK(!timer_create(CLOCK_MONOTONIC, &event, &timer) && !timer_settime(timer, 0, &time, NULL));
	while (count < 4)
		;
	CHECK(value == 4711 && last == SIGRTMIN + 1 && timer_getoverrun(timer) >= 0);
	CHECK(!timer_gettime(timer, &left) && left.it_interval.tv_nsec == 2000000 && !timer_delete(timer));
	/* it may use the preemption signal as well */
	install_with_value(SIGALRM, SA_RESTART);
	event.sigev_signo = SIGALRM;
	event.sigev_value.sival_int = 42;
	CHECK(!timer_create(CLOCK_REALTIME, &event, &timer) && !timer_settime(timer, 0, &time, NULL));
	while (count < 4)
		;
	CHECK(value == 42 && last == SIGALRM && !timer_delete(timer));
	remove_handler(SIGALRM);
	remove_handler(SIGRTMIN + 1);
}

static _Atomic int notified;

static void notify(union sigval with) {
	CHECK(with.sival_int == 99);
	notified++;
}

static void posix_timer_threads(void) {
	struct sigevent event = { .sigev_notify = SIGEV_THREAD };
	event.sigev_value.sival_int = 99;
	event.sigev_notify_function = notify;
	timer_t timer;
	struct itimerspec time = { { 0, 2000000 }, { 0, 2000000 } };
	notified = 0;
	CHECK(!timer_create(CLOCK_MONOTONIC, &event, &timer) && !timer_settime(timer, 0, &time, NULL));
	while (notified < 3)
		sleep_us(1000);
	CHECK(!timer_delete(timer));
	sleep_us(5000);
}

/* ------------------------------------------------------------------ delivery */

static void sends_to_itself(void) {
	static const int numbers[] = { SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGALRM, SIGCHLD, SIGWINCH };
	for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
		int number = numbers[i];
		install(number, handle);
		for (int way = 0; way < 4; way++) {
			CHECK(!(way == 0 ? raise(number)
				: way == 1 ? kill(getpid(), number)
				: way == 2 ? pthread_kill(pthread_self(), number)
				: sigqueue(getpid(), number, (union sigval) { .sival_int = 1 })));
			/* no other thread has it open, but the function's kernel thread may get it a little later */
			while (count <= way)
				;
			CHECK(count == way + 1 && last == number);
		}
		note("%d %d\n", number, (int) count);
		remove_handler(number);
	}
}

static int order[64];

static void handle_in_order(int number, siginfo_t *info, void *context) {
	(void) context;
	if (count < 64)
		order[count] = number * 100 + info->si_value.sival_int;
	count++;
}

static void queued_signals(void) {
	struct sigaction action = { .sa_flags = SA_SIGINFO };
	action.sa_sigaction = handle_in_order;
	sigset_t both = set_of(SIGRTMIN + 2, SIGRTMIN + 3), old, pending;
	action.sa_mask = both;
	CHECK(!sigaction(SIGRTMIN + 2, &action, NULL) && !sigaction(SIGRTMIN + 3, &action, NULL));
	for (int round = 0; round < 20; round++) {
		count = 0;
		CHECK(!sigprocmask(SIG_BLOCK, &both, &old));
		for (int i = 0; i < 10; i++)
			CHECK(!pthread_sigqueue(pthread_self(), SIGRTMIN + 2 + i % 2, (union sigval) { .sival_int = i }));
		CHECK(!sigpending(&pending) && sigismember(&pending, SIGRTMIN + 2) && count == 0);
		CHECK(!sigprocmask(SIG_SETMASK, &old, NULL));
		CHECK(count == 10);
		for (int i = 0; i < 10; i++)
			CHECK(order[i] == (SIGRTMIN + 2 + i / 5) * 100 + i % 5 * 2 + i / 5);
	}
	remove_handler(SIGRTMIN + 2);
	remove_handler(SIGRTMIN + 3);
}

static volatile sig_atomic_t is_blocked_inside;

static void look_at_mask(int number) {
	sigset_t now;
	CHECK(!sigprocmask(SIG_SETMASK, NULL, &now));
	is_blocked_inside = sigismember(&now, number) * 10 + sigismember(&now, SIGUSR2);
	for (volatile int i = 0; i < 20000; i++)
		;
	count++;
}

static void flags_of_handlers(void) {
	struct sigaction action = { .sa_handler = look_at_mask };
	CHECK(!sigemptyset(&action.sa_mask) && !sigaddset(&action.sa_mask, SIGUSR2));
	for (int i = 0; i < 50; i++) {
		CHECK(!sigaction(SIGUSR1, &action, NULL) && !raise(SIGUSR1));
		CHECK(is_blocked_inside == 11);
		action.sa_flags = SA_NODEFER;
		CHECK(!sigaction(SIGUSR1, &action, NULL) && !raise(SIGUSR1));
		CHECK(is_blocked_inside == 1);
		action.sa_flags = SA_RESETHAND;
		CHECK(!sigaction(SIGUSR1, &action, NULL) && !raise(SIGUSR1));
		struct sigaction now;
		CHECK(!sigaction(SIGUSR1, NULL, &now) && now.sa_handler == SIG_DFL);
		action.sa_flags = 0;
		sigset_t mask;
		CHECK(!sigprocmask(SIG_SETMASK, NULL, &mask) && !sigismember(&mask, SIGUSR1) && !sigismember(&mask, SIGUSR2));
	}
}

static void children_report(void) {
	install(SIGCHLD, handle);
	for (int i = 0; i < 10; i++) {
		count = 0;
		pid_t child = fork();
		if (!child)
			_exit(i);
		while (count == 0)
			sleep_us(100);
		CHECK(status_of(child) == i);
	}
	/* none is kept */
	CHECK(signal(SIGCHLD, SIG_IGN) != SIG_ERR);
	pid_t child = fork();
	if (!child)
		_exit(0);
	CHECK(waitpid(child, NULL, 0) < 0 && errno == ECHILD);
	remove_handler(SIGCHLD);
}

static void interrupts_of_children(void) {
	/* whoever has started this program may ignore it */
	remove_handler(SIGINT);
	for (int i = 0; i < 4; i++) {
		int number = i == 0 ? SIGINT : i == 1 ? SIGALRM : i == 2 ? SIGTERM : SIGKILL;
		pid_t child = fork();
		if (!child)
			for (;;)
				pause();
		CHECK(!kill(child, SIGSTOP));
		int status;
		CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
		CHECK(!kill(child, SIGCONT) && waitpid(child, &status, WCONTINUED) == child && WIFCONTINUED(status));
		CHECK(!kill(child, number));
		note("%d\n", status_of(child));
	}
	/* the parent ignores what the child sends */
	CHECK(signal(SIGINT, SIG_IGN) != SIG_ERR);
	pid_t parent = getpid(), child = fork();
	if (!child)
		_exit(kill(parent, SIGINT) ? 1 : 0);
	CHECK(status_of(child) == 0);
	remove_handler(SIGINT);
	CHECK(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
	int ends[2];
	CHECK(!pipe(ends) && !close(ends[0]) && write(ends[1], "x", 1) < 0 && errno == EPIPE && !close(ends[1]));
	remove_handler(SIGPIPE);
}

/* ------------------------------------------------------------------ waiting for signals */

static pthread_t waiter;
static _Atomic int sends;

static void *send_signals(void *number) {
	for (int i = 0; i < sends; i++) {
		sleep_us(500);
		CHECK(!pthread_kill(waiter, (int) (long) number));
	}
	return NULL;
}

static pthread_t start_sender(int number, int times) {
	pthread_t sender;
	waiter = pthread_self();
	sends = times;
	CHECK(!pthread_create(&sender, NULL, send_signals, (void *) (long) number));
	return sender;
}

static void waits_by_sigwait(void) {
	sigset_t set = set_of(SIGRTMIN + 4, SIGUSR1), old;
	CHECK(!sigprocmask(SIG_BLOCK, &set, &old));
	/* realtime signals queue */
	pthread_t sender = start_sender(SIGRTMIN + 4, 20);
	for (int i = 0; i < 20; i++) {
		int number = 0;
		siginfo_t info;
		if (i % 2) {
			number = sigwaitinfo(&set, &info);
			CHECK(info.si_signo == number && info.si_pid == getpid());
		} else {
			CHECK(!sigwait(&set, &number));
		}
		CHECK(number == SIGRTMIN + 4);
	}
	CHECK(!pthread_join(sender, NULL));
	struct timespec limit = { 0, 10000000 };
	uint64_t start = now_us();
	CHECK(sigtimedwait(&set, NULL, &limit) < 0 && errno == EAGAIN && now_us() - start >= 10000);
	CHECK(!raise(SIGUSR1) && sigtimedwait(&set, NULL, &limit) == SIGUSR1);
	CHECK(!sigprocmask(SIG_SETMASK, &old, NULL));
}

static void waits_for_the_alarm(void) {
	sigset_t set = set_of(SIGALRM, SIGALRM), old;
	CHECK(!sigprocmask(SIG_BLOCK, &set, &old));
	for (int i = 0; i < 5; i++) {
		struct itimerval time = { { 0, 0 }, { 0, 3000 } };
		CHECK(!setitimer(ITIMER_REAL, &time, NULL));
		int number = 0;
		CHECK(!sigwait(&set, &number) && number == SIGALRM);
	}
	CHECK(!sigprocmask(SIG_SETMASK, &old, NULL));
}

static void suspend_for(int number) {
	install(number, handle);
	sigset_t set = set_of(number, number), old;
	CHECK(!sigprocmask(SIG_BLOCK, &set, &old));
	for (int i = 0; i < 10; i++) {
		count = 0;
		pthread_t sender = start_sender(number, 1);
		while (!count)
			CHECK(sigsuspend(&old) < 0 && errno == EINTR);
		CHECK(count == 1 && !pthread_join(sender, NULL));
	}
	/* it had come before */
	count = 0;
	CHECK(!raise(number) && count == 0);
	CHECK(sigsuspend(&old) < 0 && errno == EINTR && count == 1);
	CHECK(!sigprocmask(SIG_SETMASK, &old, NULL) && count == 1);
	/* pause(2): again and again, as one that comes before it is not waited for */
	pthread_t sender = start_sender(number, 1 << 30);
	CHECK(pause() < 0 && errno == EINTR && count > 1);
	sends = 0;
	CHECK(!pthread_join(sender, NULL));
	remove_handler(number);
}

static void waits_by_suspending(void) {
	suspend_for(SIGUSR1);
	suspend_for(SIGALRM);
}

static void waits_with_a_mask(void) {
	install(SIGUSR1, handle);
	sigset_t set = set_of(SIGUSR1, SIGUSR1), old;
	CHECK(!sigprocmask(SIG_BLOCK, &set, &old));
	for (int i = 0; i < 10; i++) {
		count = 0;
		pthread_t sender = start_sender(SIGUSR1, 1);
		struct timespec minute = { 60, 0 };
		CHECK(ppoll(NULL, 0, &minute, &old) < 0 && errno == EINTR && count == 1);
		CHECK(!pthread_join(sender, NULL));
	}
	CHECK(!sigprocmask(SIG_SETMASK, &old, NULL));
	remove_handler(SIGUSR1);
}

static void waits_by_descriptor(void) {
	sigset_t set = set_of(SIGUSR2, SIGUSR2), old;
	CHECK(!sigprocmask(SIG_BLOCK, &set, &old));
	int file = signalfd(-1, &set, 0);
	CHECK(file >= 0);
	for (int round = 0; round < 10; round++) {
		pthread_t sender = start_sender(SIGUSR2, 1);
		struct signalfd_siginfo info;
		CHECK(read(file, &info, sizeof info) == sizeof info && info.ssi_signo == SIGUSR2);
		CHECK(!pthread_join(sender, NULL));
		struct pollfd polled = { .fd = file, .events = POLLIN };
		CHECK(poll(&polled, 1, 0) == 0);
	}
	CHECK(!close(file) && !sigprocmask(SIG_SETMASK, &old, NULL));
}

/* ------------------------------------------------------------------ faults, stacks */

static char *page;

static void repair(int number, siginfo_t *info, void *context) {
	(void) number, (void) context;
	CHECK(info->si_addr == page + 5 && info->si_code == SEGV_ACCERR);
	count++;
	CHECK(!mprotect(page, 4096, PROT_READ | PROT_WRITE));
}

static sigjmp_buf recovery;

static void recover(int number) {
	last = number;
	count++;
	siglongjmp(recovery, 1);
}

static void faults(void) {
	page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(page != MAP_FAILED);
	struct sigaction action = { .sa_flags = SA_SIGINFO };
	action.sa_sigaction = repair;
	CHECK(!sigaction(SIGSEGV, &action, NULL));
	count = 0;
	for (int i = 0; i < 100; i++) {
		CHECK(!mprotect(page, 4096, PROT_NONE));
		((volatile char *) page)[5] = (char) i;
		CHECK(page[5] == (char) i);
	}
	CHECK(count == 100 && !munmap(page, 4096));
	remove_handler(SIGSEGV);
	install(SIGFPE, recover);
	volatile int zero = 0;
	for (volatile int i = 0; i < 100; i++)
		if (!sigsetjmp(recovery, 1))
			zero = 100 / zero;
	CHECK(count == 100 && last == SIGFPE);
	remove_handler(SIGFPE);
	install(SIGILL, recover);
	for (volatile int i = 0; i < 100; i++)
		if (!sigsetjmp(recovery, 1))
			__asm__ volatile("ud2");
	CHECK(count == 100 && last == SIGILL);
	remove_handler(SIGILL);
}

static char stack_memory[1 << 16];
static volatile sig_atomic_t is_on_stack;

static void look_where(int number) {
	stack_t now;
	CHECK(!sigaltstack(NULL, &now));
	char *here = (char *) __builtin_frame_address(0);
	is_on_stack = now.ss_flags == SS_ONSTACK && here >= stack_memory && here < stack_memory + sizeof stack_memory;
	for (volatile int i = 0; i < 30000; i++)
		;
	handle(number);
}

static void alternate_stack(void) {
	stack_t stack = { .ss_sp = stack_memory, .ss_size = sizeof stack_memory }, old, now;
	CHECK(!sigaltstack(&stack, &old));
	struct sigaction action = { .sa_handler = look_where, .sa_flags = SA_ONSTACK };
	CHECK(!sigaction(SIGUSR1, &action, NULL));
	count = 0;
	for (int i = 0; i < 50; i++) {
		is_on_stack = 0;
		CHECK(!raise(SIGUSR1) && is_on_stack);
		CHECK(!sigaltstack(NULL, &now) && now.ss_sp == stack_memory && now.ss_flags == 0);
		spin_us(20);
	}
	CHECK(count == 50 && !sigaltstack(&old, NULL));
	remove_handler(SIGUSR1);
}

const struct behaviour behaviours[] = {
	BEHAVIOUR(real_timer),
	BEHAVIOUR(virtual_timer),
	BEHAVIOUR(profiling_timer),
	BEHAVIOUR(alarm_clock),
	BEHAVIOUR(posix_timer_signals),
	BEHAVIOUR(posix_timer_threads),
	BEHAVIOUR(sends_to_itself),
	BEHAVIOUR(queued_signals),
	BEHAVIOUR(flags_of_handlers),
	BEHAVIOUR(children_report),
	BEHAVIOUR(interrupts_of_children),
	BEHAVIOUR(waits_by_sigwait),
	BEHAVIOUR(waits_for_the_alarm),
	BEHAVIOUR(waits_by_suspending),
	BEHAVIOUR(waits_with_a_mask),
	BEHAVIOUR(waits_by_descriptor),
	BEHAVIOUR(faults),
	BEHAVIOUR(alternate_stack),
	{ NULL, NULL },
};
