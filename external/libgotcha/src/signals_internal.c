/* Signals that the C library keeps to itself: pthread_cancel() sends one, and setuid() and the like send another
 * to every thread, because to the kernel each has an identity of its own. Their handlers act on the current TCB,
 * but the thread that is meant is the kernel's: so the kernel is given a handler that goes there first. */
#include "internal.h"

#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>

/* internal-signals.h: SIGCANCEL, then SIGSETXID; programs' real-time signals begin at SIGRTMIN. */
enum { SIGNAL_CANCEL = __SIGRTMIN, MOST = 8 };

typedef void handler(int, siginfo_t *, void *);
static handler *originals[MOST];

/* Context: any, preemption deferred. */
static void act_on_host(int signal, siginfo_t *info, void *context) {
	/* base's errno may hold the result of an interrupted shared call */
	int interrupted_errno = *gotcha_base_errno();
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	if (signal == SIGNAL_CANCEL) {
		/* An asynchronous cancellation would unwind a function's stack as if it were the thread's, or our own
		 * code halfway: the thread's next cancellation point is early enough. A handler that looks whether
		 * the interrupted code was one (since 2.41) finds that it was not. */
		static ucontext_t nowhere;
		pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, NULL);
		context = &nowhere;
	}
	originals[signal - __SIGRTMIN](signal, info, context);
	gotcha_hosted_leave(&guard);
	*gotcha_base_errno() = interrupted_errno;
}

/* What the kernel calls, with the preemption signal blocked: who sent the signal may be waiting for an answer, which
 * a function that is stopped would not give. Context: any. */
static void deliver_internal(int signal, siginfo_t *info, void *context) {
	bool is_ours = THIS.is_virtual || THIS.defer > 1;
	if (!is_ours) {
		originals[signal - __SIGRTMIN](signal, info, context);
		return;
	}
	deferred_enter();
	act_on_host(signal, info, context);
	gotcha_set_defer(THIS.defer - 1);
}

/* The C library installs the handlers when they are first needed: of setuid() with the second thread, and of
 * pthread_cancel() at the first call, which a thread that cannot be cancelled makes here. Where there is no
 * unwinder, on which pthread_cancel() insists, nobody calls it. */
void gotcha_internal_signals_install(void) {
	if (!gotcha_base_symbol("_Unwind_ForcedUnwind"))
		return;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
	pthread_cancel(pthread_self());
}

/* As the kernel has it; sigaction() refuses these signals. */
struct kernel_action {
	handler *function;
	unsigned long flags;
	void *restorer;
	uint64_t mask;
};

static long kernel_sigaction(int signal, const struct kernel_action *action, struct kernel_action *old) {
	return raw_syscall(SYS_rt_sigaction, signal, (long) action, (long) old, sizeof action->mask);
}

/* Context: base, after the probe thread. */
int gotcha_internal_signals_init(void) {
	for (int signal = __SIGRTMIN; signal < SIGRTMIN && signal - __SIGRTMIN < MOST; signal++) {
		struct kernel_action action;
		if (kernel_sigaction(signal, NULL, &action) || !(action.flags & SA_SIGINFO))
			continue;
		originals[signal - __SIGRTMIN] = action.function;
		action.function = deliver_internal;
		if (gotcha_preemption_signal)
			action.mask |= 1ull << (gotcha_preemption_signal - 1);
		long result = kernel_sigaction(signal, &action, NULL);
		if (result)
			return gotcha_fail(-result, "rt_sigaction of signal %d, which is the C library's own", signal);
	}
	return 0;
}
