/* The program's handlers on top of functions: on the alternate stack, with masks, launching, pausing; and
 * signals that come from elsewhere while a function runs. */
#include "check.h"

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>

static char alternate[1 << 16];

static void handle(int number, void (*handler)(int), int flags, const sigset_t *mask) {
	struct sigaction action;
	memset(&action, 0, sizeof action);
	action.sa_handler = handler;
	action.sa_flags = flags;
	if (mask)
		action.sa_mask = *mask;
	CHECK(!sigaction(number, &action, NULL));
}

static void finish_unpaused(linger_t *linger, uint64_t us) {
	for (; !linger->is_complete; resume(linger, us))
		CHECK(linger->error == 0 && !linger->is_yielded);
}

/* ------------------------------------------------------------------ what handlers do */

static volatile sig_atomic_t handled, alarms, others;
static volatile int is_on_stack;

static void count(int number) {
	if (number == SIGALRM)
		alarms++;
	else
		others++;
}

static void nothing(void *unused) {
	(void) unused;
}

static void note(void) {
	char here;
	is_on_stack = &here >= alternate && &here < alternate + sizeof alternate;
	handled++;
}

/* Longer than a slice, so that the expiry is pending when the handler returns. */
static void compute_long(int number) {
	(void) number;
	note();
	spin_us(handled % 3 * 60);
}

/* A handler of the program is not the function: it waits for a signal, and not for an expiry of the library's. */
static void wait_for_signal(int number) {
	(void) number;
	note();
	int before = alarms;
	struct itimerval often = { { 0, 2000 }, { 0, 2000 } }, never = { { 0, 0 }, { 0, 0 } };
	CHECK(!setitimer(ITIMER_REAL, &often, NULL));
	CHECK(pause() == -1 && errno == EINTR && alarms > before);
	CHECK(!setitimer(ITIMER_REAL, &never, NULL));
}

/* Of a handler that the function has installed the frame is the kernel's too: it is not stopped in. */
static void call_pause(int number) {
	(void) number;
	note();
	CHECK(pause() == 0);
}

static void launch_some(int number) {
	(void) number;
	note();
	CHECK(launch(nothing, NO_LIMIT, NULL).is_complete);
	linger_t linger = launch(spin, 50, NULL);
	CHECK(!linger.is_complete && !linger.is_yielded && linger.error == 0);
	resume(&linger, 50);
	CHECK(!linger.is_complete && linger.error == 0);
	cancel(&linger);
}

static struct {
	void (*handler)(int);
	int times;
	int flags;
	bool inside;
} installed;

static void install(void) {
	handle(SIGUSR1, installed.handler, installed.flags, NULL);
}

static void raise_often(void *unused) {
	(void) unused;
	int sum = 0;
	if (installed.inside)
		install();
	for (int i = 0; i < installed.times; i++) {
		int before = handled;
		CHECK(!raise(SIGUSR1) && handled == before + 1 && is_on_stack == (installed.flags == SA_ONSTACK));
		char *block = malloc(100 + i);
		memset(block, i, 100);
		sum += block[99] == (char) i;
		free(block);
	}
	CHECK(sum == installed.times);
}

static void raise_in_functions(void) {
	static const struct {
		void (*handler)(int);
		int times;
		bool outside, inside;
	} all[] = {
		{ compute_long, 60, true, true },
		{ wait_for_signal, 10, true, false },
		{ call_pause, 60, false, true },
		{ launch_some, 60, true, true },
	};
	handle(SIGALRM, count, 0, NULL);
	for (int i = 0; i < 4; i++)
		for (int variant = 0; variant < 4; variant++) {
			bool inside = variant / 2;
			if (!(inside ? all[i].inside : all[i].outside))
				continue;
			installed.handler = all[i].handler;
			installed.times = all[i].times;
			installed.inside = inside;
			installed.flags = variant % 2 ? SA_ONSTACK : 0;
			if (!inside)
				install();
			CHECK(launch(raise_often, NO_LIMIT, NULL).is_complete);
			linger_t linger = launch(raise_often, 60, NULL);
			finish_unpaused(&linger, 60);
		}
}

/* ------------------------------------------------------------------ masks */

static sigset_t set_of(int first, int second) {
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, first);
	sigaddset(&set, second);
	return set;
}

static unsigned blocked(void) {
	sigset_t set;
	CHECK(!sigprocmask(SIG_BLOCK, NULL, &set));
	return sigismember(&set, SIGALRM) | sigismember(&set, SIGUSR1) << 1 | sigismember(&set, SIGUSR2) << 2;
}

static volatile unsigned blocked_in_handler;
static volatile sig_atomic_t depth;

/* Sends itself what its mask blocks: that comes when it has returned. */
static void send_masked(int number) {
	blocked_in_handler = blocked();
	CHECK(++depth == 1);
	int alarms_before = alarms, others_before = others;
	if (number == SIGUSR1)
		CHECK(!raise(SIGALRM));
	CHECK(!raise(SIGUSR2) && alarms == alarms_before && others == others_before);
	spin_us(30);
	CHECK(alarms == alarms_before && others == others_before);
	depth--;
}

static void masked_by_another(void *unused) {
	(void) unused;
	for (int i = 0; i < 50; i++) {
		unsigned before = blocked();
		int alarms_before = alarms, others_before = others;
		CHECK(!raise(SIGUSR1) && blocked_in_handler == 7);
		CHECK(alarms == alarms_before + 1 && others == others_before + 1 && blocked() == before);
	}
}

/* Of the signal that is the library's own: its handler is the program's none the less, mask and all. */
static volatile sig_atomic_t sent_again;
static void send_itself(int number) {
	alarms++;
	blocked_in_handler = blocked();
	CHECK(++depth == 1 && number == SIGALRM);
	if (!sent_again) {
		sent_again = 1;
		int before = alarms;
		CHECK(!raise(SIGALRM) && !raise(SIGUSR2) && alarms == before);
		spin_us(30);
		CHECK(alarms == before);
	}
	depth--;
}

static void masked_by_itself(void *unused) {
	(void) unused;
	for (int i = 0; i < 50; i++) {
		unsigned before = blocked();
		int alarms_before = alarms, others_before = others;
		sent_again = 0;
		CHECK(!raise(SIGALRM) && blocked_in_handler == 5);
		CHECK(alarms == alarms_before + 2 && others == others_before + 1 && blocked() == before);
	}
}

static void nest(int number) {
	(void) number;
	if (++alarms % 2)
		CHECK(!raise(SIGALRM) && alarms % 2 == 0);
}

static void not_masked(void *unused) {
	(void) unused;
	for (int i = 0; i < 50; i++) {
		alarms = 0;
		CHECK(!raise(SIGALRM) && alarms == 2 && blocked() == 0);
	}
}

/* A signal that arrives when the mask is opened does not take the timer with it. */
static void open_mask(void *unused) {
	(void) unused;
	sigset_t alarm = set_of(SIGALRM, SIGALRM);
	CHECK(!sigprocmask(SIG_BLOCK, &alarm, NULL));
	int before = alarms;
	linger_defer();
	CHECK(!raise(SIGALRM) && alarms == before);
	linger_undefer();
	CHECK(!sigprocmask(SIG_UNBLOCK, &alarm, NULL) && alarms == before + 1);
	spin(NULL);
}

static void mask_and_spin(int number) {
	(void) number;
	CHECK(!raise(SIGALRM));
}
static void raise_and_spin(void *unused) {
	CHECK(!raise(SIGUSR1));
	spin(unused);
}

static void stay_preemptible(void) {
	handle(SIGALRM, count, 0, NULL);
	for (int i = 0; i < 20; i++) {
		linger_t linger = launch(open_mask, 20000, NULL);
		CHECK(!linger.is_complete && linger.error == 0);
		cancel(&linger);
	}
	sigset_t alarm = set_of(SIGALRM, SIGALRM);
	handle(SIGUSR1, mask_and_spin, 0, &alarm);
	for (int i = 0; i < 20; i++) {
		int before = alarms;
		linger_t linger = launch(raise_and_spin, 20000, NULL);
		CHECK(!linger.is_complete && linger.error == 0 && alarms == before + 1);
		cancel(&linger);
	}
}

static void outside_and_inside(void (*function)(void *)) {
	function(NULL);
	CHECK(launch(function, NO_LIMIT, NULL).is_complete);
	CHECK(blocked() == 0);
	linger_t linger = launch(function, 40, NULL);
	finish_unpaused(&linger, 40);
	CHECK(blocked() == 0);
	function(NULL);
}

static void install_masks(void *unused) {
	(void) unused;
	sigset_t both = set_of(SIGALRM, SIGUSR2);
	handle(SIGUSR1, send_masked, 0, &both);
	handle(SIGALRM, count, 0, NULL);
	handle(SIGUSR2, count, 0, NULL);
}

static void install_and_send(void *unused) {
	install_masks(NULL);
	masked_by_another(unused);
}

static void masks(void) {
	install_masks(NULL);
	outside_and_inside(masked_by_another);
	/* installed in the function's libset, and run there */
	linger_t linger = launch(install_and_send, 100, NULL);
	finish_unpaused(&linger, 100);
	CHECK(blocked() == 0);
	install_masks(NULL);

	sigset_t other = set_of(SIGUSR2, SIGUSR2);
	handle(SIGALRM, send_itself, 0, &other);
	outside_and_inside(masked_by_itself);
	handle(SIGALRM, nest, SA_NODEFER, NULL);
	outside_and_inside(not_masked);
}

/* ------------------------------------------------------------------ sent by another thread */

static pthread_t target;
static pid_t target_tid;
static volatile sig_atomic_t received, all_sent;
static sem_t arrived;

static void receive(int number) {
	(void) number;
	received++;
	CHECK(!sem_post(&arrived));
}

static void await_all(void *unused) {
	unsigned long sum = 0, rounds = 0;
	(void) unused;
	while (!all_sent) {
		void *block = malloc(1 + rounds++ % 500);
		sum += block != NULL;
		free(block);
	}
	CHECK(sum == rounds);
}

/* Ordinary signals of one number do not queue: each waits for the one before, and lets the target have the
 * processor meanwhile. */
static void *send_all(void *unused) {
	for (int i = 0; i < 1200; i++) {
		int before = received;
		switch (i % 5) {
		case 0:
			CHECK(!pthread_kill(target, SIGUSR1));
			break;
		case 2:
			CHECK(!pthread_kill(target, SIGALRM));
			break;
		case 1:
			CHECK(!syscall(SYS_tgkill, getpid(), target_tid, SIGUSR1));
			break;
		default:
			CHECK(!kill(getpid(), i % 5 == 3 ? SIGUSR1 : SIGALRM));
		}
		while (sem_wait(&arrived))
			CHECK(errno == EINTR);
		CHECK(received == before + 1);
		for (volatile int left = i * 377 % 50000; left > 0; left--)
			;
	}
	all_sent = 1;
	return unused;
}

static void sent_by_another_thread(void) {
	handle(SIGUSR1, receive, 0, NULL);
	handle(SIGALRM, receive, 0, NULL);
	CHECK(!sem_init(&arrived, 0, 0));
	target = pthread_self();
	target_tid = syscall(SYS_gettid);
	pthread_t sender;
	/* the sender's mask: what is sent to the process is the target's */
	sigset_t both = set_of(SIGUSR1, SIGALRM), old;
	CHECK(!pthread_sigmask(SIG_BLOCK, &both, &old));
	CHECK(!pthread_create(&sender, NULL, send_all, NULL));
	CHECK(!pthread_sigmask(SIG_SETMASK, &old, NULL));
	linger_t linger = launch(await_all, 50, NULL);
	CHECK(finish(&linger, 50) > 10);
	CHECK(!pthread_join(sender, NULL));
}

int main(void) {
	stack_t stack = { .ss_sp = alternate, .ss_size = sizeof alternate };
	CHECK(!sigaltstack(&stack, NULL));
	raise_in_functions();
	masks();
	stay_preemptible();
	sent_by_another_thread();
	return 0;
}
