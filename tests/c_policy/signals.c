/* The preemption signal is the library's, whatever the program does with its own SIGALRM; the program's
 * handlers run; waiting for signals works. */
#include "policy.h"

#include <pthread.h>
#include <signal.h>

sighandler_t sysv_signal(int, sighandler_t);

static volatile sig_atomic_t handled;
static void count(int signal) {
	(void) signal;
	handled++;
}

static void stay_preemptible(void (*function)(void *)) {
	for (int i = 0; i < 3; i++) {
		linger_t linger = linger_launch(function, 3000, NULL);
		REQUIRE(!linger.is_complete && !linger.error, linger.error);
		linger_cancel(&linger);
	}
}

/* ------------------------------------------------------------------ dispositions of SIGALRM */

#define DISPOSES(name, ...) \
	static void dispose_##name(void *unused) { \
		(void) unused; \
		__VA_ARGS__; \
	} \
	static void dispose_and_wait_##name(void *unused) { \
		dispose_##name(unused); \
		for (;;) \
			; \
	} \
	static void check_##name(void) { \
		alarm(0); \
		stay_preemptible(dispose_and_wait_##name); \
		inside(dispose_##name, NULL); \
		dispose_##name(NULL); \
		stay_preemptible(dispose_and_wait_##name); \
	}
DISPOSES(sigaction, struct sigaction a = { .sa_handler = count }, b; REQUIRE(!sigaction(SIGALRM, &a, NULL) && !sigaction(SIGALRM, NULL, &b));
	REQUIRE(b.sa_handler == count); int before = handled; raise(SIGALRM); REQUIRE(handled == before + 1))
DISPOSES(signal, REQUIRE(signal(SIGALRM, count) != SIG_ERR && signal(SIGALRM, count) == count); int before = handled; raise(SIGALRM); REQUIRE(handled == before + 1))
DISPOSES(sysv_signal, REQUIRE(sysv_signal(SIGALRM, count) != SIG_ERR); int before = handled; raise(SIGALRM); REQUIRE(handled == before + 1))
DISPOSES(sigset, REQUIRE(sigset(SIGALRM, count) != SIG_ERR); int before = handled; raise(SIGALRM); REQUIRE(handled == before + 1))
DISPOSES(sigignore, REQUIRE(!sigignore(SIGALRM)); raise(SIGALRM))
DISPOSES(siginterrupt, signal(SIGALRM, count); REQUIRE(!siginterrupt(SIGALRM, 1)); struct sigaction b; sigaction(SIGALRM, NULL, &b); REQUIRE(!(b.sa_flags & SA_RESTART)))

/* ------------------------------------------------------------------ masks */

static sigset_t all, alarms;
static bool is_blocked(void) {
	sigset_t now;
	pthread_sigmask(SIG_BLOCK, NULL, &now);
	return sigismember(&now, SIGALRM);
}
#define MASKS(name, block, open) \
	static void mask_##name(void *unused) { \
		(void) unused; \
		block; \
		REQUIRE(is_blocked()); \
	} \
	static void mask_and_wait_##name(void *unused) { \
		mask_##name(unused); \
		for (;;) \
			; \
	} \
	static void mask_and_open_##name(void *unused) { \
		signal(SIGALRM, count); \
		mask_##name(unused); \
		/* were it stopped in between, its launcher, which blocks nothing, would get the signal */ \
		linger_defer(); \
		int before = handled; \
		raise(SIGALRM); \
		int unhandled = handled == before; \
		linger_undefer(); \
		REQUIRE(unhandled); \
		open; \
		REQUIRE(!is_blocked()); \
	} \
	static void check_##name(void) { \
		alarm(0); \
		sigfillset(&all); \
		sigemptyset(&alarms); \
		sigaddset(&alarms, SIGALRM); \
		stay_preemptible(mask_and_wait_##name); \
		inside(mask_and_open_##name, NULL); \
		REQUIRE(!is_blocked()); \
		mask_##name(NULL); \
		stay_preemptible(mask_and_wait_##name); \
	}
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
MASKS(pthread_sigmask, REQUIRE(!pthread_sigmask(SIG_BLOCK, &all, NULL)), REQUIRE(!pthread_sigmask(SIG_UNBLOCK, &alarms, NULL)))
MASKS(sigprocmask, REQUIRE(!sigprocmask(SIG_SETMASK, &all, NULL)), REQUIRE(!sigprocmask(SIG_UNBLOCK, &all, NULL)))
MASKS(sighold, REQUIRE(!sighold(SIGALRM)), REQUIRE(!sigrelse(SIGALRM)))
MASKS(sigset_hold, sigset(SIGALRM, SIG_HOLD), REQUIRE(!sigrelse(SIGALRM)))
MASKS(sigblock, sigblock(sigmask(SIGALRM)), sigsetmask(0))
MASKS(sigsetmask, sigsetmask(sigmask(SIGALRM) | sigmask(SIGUSR1)), sigsetmask(0))

/* ------------------------------------------------------------------ waiting */

static sigset_t usr1;
static void start_sender(void) {
	signal(SIGUSR1, count);
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	sigprocmask(SIG_BLOCK, &usr1, NULL);
	pid_t target = getpid();
	if (!fork()) {
		usleep(5000);
		kill(target, SIGUSR1);
		_exit(0);
	}
}
#define WAITS(name, ...) \
	static void wait_##name(void *unused) { \
		(void) unused; \
		__VA_ARGS__; \
	} \
	static void check_##name(void) { \
		start_sender(); \
		inside(wait_##name, NULL); \
		start_sender(); \
		wait_##name(NULL); \
	}
WAITS(sigsuspend, sigset_t none; sigfillset(&none); sigdelset(&none, SIGUSR1); sigdelset(&none, SIGALRM); int before = handled; REQUIRE(sigsuspend(&none) == -1 && errno == EINTR && handled == before + 1))
WAITS(sigwait, int signal = 0; REQUIRE(!sigwait(&usr1, &signal) && signal == SIGUSR1))
WAITS(sigwaitinfo, siginfo_t info; REQUIRE(sigwaitinfo(&usr1, &info) == SIGUSR1))
WAITS(sigtimedwait, siginfo_t info; struct timespec limit = { 5, 0 }; REQUIRE(sigtimedwait(&usr1, &info, &limit) == SIGUSR1))

/* The preemption signal that has come while it is blocked is pending, and found without waiting. */
static void find_pending(void *unused) {
	(void) unused;
	siginfo_t info;
	struct timespec zero = { 0, 0 };
	sigset_t alrm, pending;
	sigemptyset(&alrm);
	sigaddset(&alrm, SIGALRM);
	REQUIRE(!sigprocmask(SIG_BLOCK, &alrm, NULL));
	for (int i = 0; i < 1000; i++) {
		REQUIRE(!sigpending(&pending) && !sigismember(&pending, SIGALRM));
		REQUIRE(sigtimedwait(&alrm, &info, &zero) == -1 && errno == EAGAIN);
		REQUIRE(!(i & 1 ? raise(SIGALRM) : kill(getpid(), SIGALRM)));
		REQUIRE(!sigpending(&pending) && sigismember(&pending, SIGALRM));
		switch (i % 3) {
		case 0:
			REQUIRE(sigtimedwait(&alrm, &info, &zero) == SIGALRM && info.si_pid == getpid(), i);
			break;
		case 1:
			REQUIRE(sigwaitinfo(&alrm, &info) == SIGALRM && info.si_pid == getpid(), i);
			break;
		case 2: {
			int signal = 0;
			REQUIRE(!sigwait(&alrm, &signal) && signal == SIGALRM, i);
		}
		}
	}
	REQUIRE(!sigprocmask(SIG_UNBLOCK, &alrm, NULL));
}
static void check_sigpending(void) {
	/* outside too: what is sent to the process may arrive there, between two slices */
	sigset_t alrm;
	sigemptyset(&alrm);
	sigaddset(&alrm, SIGALRM);
	REQUIRE(!sigprocmask(SIG_BLOCK, &alrm, NULL));
	inside(find_pending, NULL);
	find_pending(NULL);
}

/* ------------------------------------------------------------------ sending */

/* An expiry that is pending in the target does not swallow what the program sends. */
static pthread_t target;
static pid_t target_tid;
static bool by_tgkill;
static volatile sig_atomic_t all_sent;
static void *send_all(void *unused) {
	for (int i = 0; i < 300; i++) {
		int before = handled;
		REQUIRE(!(by_tgkill ? tgkill(getpid(), target_tid, SIGALRM) : pthread_kill(target, SIGALRM)));
		while (handled == before)
			;
		REQUIRE(handled == before + 1);
	}
	all_sent = 1;
	return unused;
}
static void await_all(void *unused) {
	(void) unused;
	while (!all_sent)
		;
}
static void check_pthread_kill(void) {
	alarm(0);
	signal(SIGALRM, count);
	target = pthread_self();
	target_tid = gettid();
	pthread_t sender;
	REQUIRE(!pthread_create(&sender, NULL, send_all, NULL));
	inside(await_all, NULL);
	REQUIRE(!pthread_join(sender, NULL));
}
static void check_tgkill(void) {
	by_tgkill = true;
	check_pthread_kill();
}

/* To what a function takes for its thread: wherever that runs. */
static volatile sig_atomic_t is_told;
static void await(int error, int before) {
	REQUIRE(!error, error);
	while (handled == before)
		;
	REQUIRE(handled == before + 1);
}
static void *send_to_function(void *unused) {
	while (!is_told)
		;
	for (int i = 0; i < 100; i++) {
		int signal = i % 2 ? SIGALRM : SIGUSR1, before = handled;
		await(pthread_kill(target, signal), before);
		await(pthread_sigqueue(target, signal, (union sigval) { .sival_int = i }), before + 1);
	}
	REQUIRE(!pthread_kill(target, 0) && pthread_kill(target, 99) == EINVAL && pthread_kill(target, 32) == EINVAL);
	all_sent = 1;
	return unused;
}
static void tell_and_await_all(void *unused) {
	target = pthread_self();
	is_told = 1;
	await_all(unused);
}
static void check_sent_to_function(void) {
	alarm(0);
	signal(SIGALRM, count);
	signal(SIGUSR1, count);
	pthread_t sender;
	REQUIRE(!pthread_create(&sender, NULL, send_to_function, NULL));
	inside(tell_and_await_all, NULL);
	REQUIRE(!pthread_join(sender, NULL));
}

/* ------------------------------------------------------------------ a handler runs in the libset that installed it */

int constructed_count(void);
static int counted;
static void count_in_handler(int signal) {
	(void) signal;
	counted = constructed_count();
}
static void raise_inside(void *unused) {
	(void) unused;
	int before = constructed_count();
	raise(SIGUSR1);
	/* the handler is the program's: it counted in base */
	REQUIRE(counted == 4 && constructed_count() == before + 1, counted);
	signal(SIGUSR2, count_in_handler);
	before = constructed_count();
	raise(SIGUSR2);
	REQUIRE(counted == before + 1, counted);
}
static void check_handlers(void) {
	for (int i = 0; i < 3; i++)
		constructed_count();
	signal(SIGUSR1, count_in_handler);
	inside(raise_inside, NULL);
}

/* ------------------------------------------------------------------ what a libset takes is given back */

int constructed_take_signals(void);
void constructed_alarm(int by_ualarm);
static bool by_ualarm;
static void take_signals(void *unused) {
	(void) unused;
	REQUIRE(!constructed_take_signals());
	constructed_alarm(by_ualarm);
	linger_pause();
}
/* The timers, left alone, would end the process by their signals' default actions. */
static void check_given_back(void) {
	signal(SIGUSR2, count);
	signal(SIGALRM, SIG_DFL);
	linger_t linger = linger_launch(take_signals, UINT64_MAX, NULL);
	REQUIRE(linger.is_yielded);
	linger_cancel(&linger);
	REQUIRE(signal(SIGUSR1, SIG_DFL) == SIG_DFL && signal(SIGPROF, SIG_DFL) == SIG_DFL && signal(SIGALRM, SIG_DFL) == SIG_DFL);
	raise(SIGUSR2);
	REQUIRE(handled == 1, handled);
	for (uint64_t end = now_us() + (by_ualarm ? 40000 : 1200000); now_us() < end; )
		;
	alarm(20);
}
static void check_ualarm(void) {
	by_ualarm = true;
	check_given_back();
}

/* ------------------------------------------------------------------ the alternate stack */

static char stack_memory[64 << 10];
static void set_stack(void *unused) {
	(void) unused;
	stack_t stack = { .ss_sp = stack_memory, .ss_size = sizeof stack_memory };
	REQUIRE(!sigaltstack(&stack, NULL));
	linger_pause();
	REQUIRE(!sigaltstack(NULL, &stack) && stack.ss_sp == stack_memory);
	REQUIRE(sigaltstack(&(stack_t) { .ss_size = 1 }, NULL) == -1 && errno == ENOMEM);
}
static void check_sigaltstack(void) {
	stack_t before, after;
	REQUIRE(!sigaltstack(NULL, &before));
	linger_t linger = linger_launch(set_stack, UINT64_MAX, NULL);
	REQUIRE(linger.is_yielded && !sigaltstack(NULL, &after) && after.ss_sp == before.ss_sp);
	linger_resume(&linger, UINT64_MAX);
	REQUIRE(linger.is_complete && !sigaltstack(NULL, &after) && after.ss_sp == before.ss_sp);
}

#define SAME(name) { #name, #name, check_##name }
const struct check checks[] = {
	SAME(sigaction), SAME(signal), { "sysv_signal", "__sysv_signal", check_sysv_signal }, SAME(sigset), SAME(sigignore), SAME(siginterrupt),
	SAME(pthread_sigmask), SAME(sigprocmask), { "sighold", "sighold,sigrelse", check_sighold }, { "sigset_hold", "sigset", check_sigset_hold },
	SAME(sigblock), SAME(sigsetmask),
	SAME(sigsuspend), { "sigpending", "sigpending,sigtimedwait,sigwaitinfo", check_sigpending }, SAME(sigwait), SAME(sigwaitinfo), SAME(sigtimedwait),
	SAME(pthread_kill), SAME(tgkill), { "sent_to_function", "pthread_kill,pthread_sigqueue", check_sent_to_function },
	{ "handlers", "signal", check_handlers },
	SAME(sigaltstack), { "given_back", "setitimer,alarm", check_given_back }, SAME(ualarm),
	{ NULL, NULL, NULL },
};
