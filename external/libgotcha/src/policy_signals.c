/* Policy of signals.
 *
 * The program's handlers run unpreempted: one installed outside functions runs in the starting
 * libset on the kernel thread's own TCB, one installed inside a function in that function's libset
 * while it is current. So the kernel is given gotcha_deliver() in place of each handler.
 *
 * The preemption signal is the control library's: the program's disposition of it is kept aside,
 * and on kernel threads that launch functions the program's blocking of it is only remembered. */
#include "internal.h"
#include "forward.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { SIGACTION, SIGNAL, SYSV_SIGNAL, SIGSET, SIGIGNORE, PTHREAD_SIGMASK, SIGPROCMASK, SIGHOLD, SIGRELSE, SIGBLOCK,
	SIGSETMASK, SIGSUSPEND, SIGPENDING, SIGWAIT, SIGWAITINFO, SIGTIMEDWAIT, SIGINTERRUPT, RAISE, PTHREAD_KILL, PTHREAD_SIGQUEUE, TGKILL, SIGALTSTACK, SETITIMER, ALARM, UALARM };
static struct row rows[];
#define BASE(index, type) ((__typeof__(type) *) rows[index].base)

int gotcha_preemption_signal;
struct libgotcha_callbacks gotcha_callbacks;

/* What the program believes is installed. */
struct disposition {
	struct sigaction action;
	struct libset *set;     /* installed by code of this libset */
	bool known;             /* else the kernel's answer is the program's */
	bool is_copys;          /* the handler is in that libset's copy of a library */
};
static struct disposition dispositions[NSIG];
/* What was there before handlers that are in copies: it counts again when those are rolled back. */
static struct disposition displaced[NSIG];

/* Held only with all signals blocked, for a few instructions: a handler never waits for itself. */
static _Atomic bool signals_locked;

static long raw_mask(int how, const uint64_t *mask, uint64_t *old) {
	return raw_syscall(SYS_rt_sigprocmask, how, (long) mask, (long) old, sizeof *mask);
}

uint64_t libgotcha_signals_lock(void) {
	uint64_t all = UINT64_MAX, saved;
	raw_mask(SIG_SETMASK, &all, &saved);
	while (signals_locked || __atomic_exchange_n(&signals_locked, true, __ATOMIC_ACQUIRE))
		__builtin_ia32_pause();
	return saved;
}

void libgotcha_signals_unlock(uint64_t saved) {
	__atomic_store_n(&signals_locked, false, __ATOMIC_RELEASE);
	raw_mask(SIG_SETMASK, &saved, NULL);
}

static uint64_t bit(int signal) {
	return signal ? 1ull << (signal - 1) : 0;
}

static bool is_fault(int signal) {
	return signal == SIGSEGV || signal == SIGBUS;
}

/* What comes of the instruction itself, which may not even be readable. */
static bool is_synchronous(int signal) {
	return is_fault(signal) || signal == SIGILL || signal == SIGFPE || signal == SIGTRAP;
}

static bool is_handler(const struct sigaction *action) {
	return action->sa_handler != SIG_DFL && action->sa_handler != SIG_IGN;
}

bool gotcha_program_action(int signal, struct sigaction *action) {
	uint64_t saved = libgotcha_signals_lock();
	bool known = dispositions[signal].known;
	*action = dispositions[signal].action;
	libgotcha_signals_unlock(saved);
	return known;
}

/* ------------------------------------------------------------------ delivery */

/* The disposition at the moment of delivery; with SA_RESETHAND it is used up. */
static struct disposition consume(int signal) {
	uint64_t saved = libgotcha_signals_lock();
	struct disposition disposition = dispositions[signal];
	if (disposition.action.sa_flags & SA_RESETHAND)
		dispositions[signal].action.sa_handler = SIG_DFL;
	libgotcha_signals_unlock(saved);
	return disposition;
}

static void call_handler(const struct sigaction *action, int signal, siginfo_t *info, void *context) {
	if (action->sa_flags & SA_SIGINFO)
		action->sa_sigaction(signal, info, context);
	else
		action->sa_handler(signal);
}

/* The default action, which only the kernel can carry out: with our handler out of the way. */
static void default_action(int signal, const siginfo_t *info) {
	struct sigaction action = { .sa_handler = SIG_DFL }, ours;
	libgotcha_sigaction(signal, &action, &ours);
	/* a fault will occur again when the instruction is tried again; others are sent again */
	if (is_fault(signal) && info->si_code > 0)
		return;
	uint64_t open = bit(signal), saved;
	syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), signal);
	raw_mask(SIG_UNBLOCK, &open, &saved);
	/* only a stop, or what is ignored by default, comes back here */
	raw_mask(SIG_SETMASK, &saved, NULL);
	libgotcha_sigaction(signal, &ours, NULL);
}

void gotcha_set_defer(uint32_t defer) {
	for (;;) {
		compiler_barrier();
		THIS.defer = defer;
		compiler_barrier();
		if (defer || !THIS.pending)
			return;
		THIS.defer = 1;
		compiler_barrier();
		THIS.pending = 0;
		if (gotcha_callbacks.postpone)
			gotcha_callbacks.postpone();
	}
}

static bool is_launching_thread(void) {
	return THIS.owner != NULL;
}

static uint64_t handler_mask(const struct sigaction *action, int signal) {
	uint64_t mask = *(const uint64_t *) &action->sa_mask;
	return action->sa_flags & SA_NODEFER ? mask : mask | bit(signal);
}

/* On the TCB on which the handler runs. Its changes of the mask end with it. The kernel has blocked what the
 * action says, but for the preemption signal, and nothing for that signal's own handler. */
static void call_counted(const struct sigaction *action, int signal, siginfo_t *info, void *context) {
	uint64_t preemption = bit(gotcha_preemption_signal), mask = handler_mask(action, signal);
	uint8_t signal_blocked = THIS.signal_blocked;
	if (!THIS.handlers++)
		THIS.blocked_before = signal_blocked;
	if (is_launching_thread()) {
		THIS.signal_blocked |= (mask & preemption) != 0;
		mask &= ~preemption;
	}
	if (signal == gotcha_preemption_signal || (mask & preemption))
		raw_mask(SIG_BLOCK, &mask, NULL);
	call_handler(action, signal, info, context);
	THIS.handlers--;
	THIS.signal_blocked = signal_blocked;
}

static void call_hosted(const struct disposition *disposition, int signal, siginfo_t *info, void *context) {
	/* base's errno may hold the result of an interrupted shared call */
	int interrupted_errno = *gotcha_base_errno();
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	int saved_errno = *gotcha_base_errno();
	if (disposition->action.sa_handler == SIG_DFL)
		default_action(signal, info);
	else
		call_counted(&disposition->action, signal, info, context);
	*gotcha_base_errno() = saved_errno;
	gotcha_hosted_leave(&guard);
	*gotcha_base_errno() = interrupted_errno;
}

/* Those that signal(7) says fail with EINTR; not those that do so whatever the handler's action says. */
static bool is_interruptible(const greg_t *registers) {
	enum { COMMANDS = FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME };
	int operation = registers[REG_RSI] & ~COMMANDS;
	switch (registers[REG_RAX]) {
	case SYS_read: case SYS_readv: case SYS_write: case SYS_writev: case SYS_open: case SYS_openat: case SYS_ioctl:
	case SYS_accept: case SYS_accept4: case SYS_connect: case SYS_recvfrom: case SYS_recvmsg: case SYS_recvmmsg:
	case SYS_sendto: case SYS_sendmsg: case SYS_sendmmsg: case SYS_wait4: case SYS_waitid: case SYS_flock:
	case SYS_mq_timedsend: case SYS_mq_timedreceive: case SYS_getrandom:
		return true;
	case SYS_fcntl:
		return registers[REG_RSI] == F_SETLKW || registers[REG_RSI] == F_OFD_SETLKW;
	case SYS_futex:
		return operation == FUTEX_WAIT || operation == FUTEX_WAIT_BITSET;
	default:
		return false;
	}
}

/* Does the code stand in front of the instruction of a call that handlers interrupt? */
bool libgotcha_repeats_call(const void *ucontext) {
	const greg_t *registers = ((const ucontext_t *) ucontext)->uc_mcontext.gregs;
	static const uint8_t instruction[] = { 0x0f, 0x05 };
	return is_interruptible(registers) && !memcmp((void *) registers[REG_RIP], instruction, sizeof instruction);
}

/* A handler without SA_RESTART makes the system call fail that it has interrupted. The kernel does not see to that where it
 * knows of our own handler only, the preemption signal's, nor where a preemption has interrupted the call before: then the
 * code stands in front of the call's instruction, to repeat it. Code that is only about to make the call looks the
 * same; for it the signal has come a moment later than it did. */
static bool interrupt_call_of(ucontext_t *context) {
	enum { INSTRUCTION_BYTES = 2 };
	if (!context || !libgotcha_repeats_call(context))
		return false;
	context->uc_mcontext.gregs[REG_RAX] = -EINTR;
	context->uc_mcontext.gregs[REG_RIP] += INSTRUCTION_BYTES;
	return true;
}

/* Where the preemption signal has come first, its handler is what this one has interrupted; the call is that of the code
 * below, which may be stopped before it goes on. The handler's last instructions, which load that code's registers, are not
 * interrupted where it repeats a call: all signals wait for the return, by the kernel. */
static void interrupt_call(ucontext_t *context) {
	const greg_t *registers = context->uc_mcontext.gregs;
	uintptr_t pc = registers[REG_RIP];
	bool is_at_entry = pc >= (uintptr_t) gotcha_signal_entry && pc < (uintptr_t) gotcha_entries_end;
	(void) (interrupt_call_of(context) || (is_at_entry && interrupt_call_of((ucontext_t *) registers[REG_RDX]))
		|| interrupt_call_of(THIS.interrupted));
}

/* Entered with preemption deferred once more, which ends here. A preemption is not made up for: a function stopped in this frame, which is the kernel's, would leave
 * its launcher the handler's mask, and perhaps its own frames on the alternate stack. */
static void run_handler(const struct disposition *disposition, int signal, siginfo_t *info, void *context) {
	if (disposition->set && THIS.set == disposition->set && THIS.is_virtual && in_libset())
		call_counted(&disposition->action, signal, info, context);
	else
		call_hosted(disposition, signal, info, context);
	if (is_handler(&disposition->action) && !(disposition->action.sa_flags & SA_RESTART) && !is_synchronous(signal))
		interrupt_call(context);
	THIS.program_signals++;
	/* one that is released arrives in this frame, and what comes meanwhile is released there in turn, not in frames on
	 * top of each other */
	if (is_launching_thread() && !THIS.signal_blocked && !THIS.releasing && gotcha_callbacks.signal_unblocked) {
		THIS.releasing = 1;
		gotcha_callbacks.signal_unblocked();
		THIS.releasing = 0;
	}
	gotcha_set_defer(THIS.defer - 1);
}

/* What the kernel calls, by way of gotcha_deliver (entry.S). Context: any: whatever the signal interrupted. */
void gotcha_deliver_deferred(int signal, siginfo_t *info, void *context) {
	if (is_fault(signal) && gotcha_callbacks.fault)
		gotcha_callbacks.fault(signal, info, context);
	struct disposition disposition = consume(signal);
	if (disposition.action.sa_handler == SIG_IGN)
		gotcha_set_defer(THIS.defer - 1);
	else
		run_handler(&disposition, signal, info, context);
}

/* `interrupted` is `context` already. */
void gotcha_signal_deferred(int signal, siginfo_t *info, void *context, void *outer) {
	bool repeats_call = libgotcha_repeats_call(context);
	if (outer && !repeats_call)
		THIS.interrupted = outer;
	gotcha_callbacks.signal(signal, info, context);
	/* with preemption deferred it comes back, on the same TCB, and returns by the kernel, which opens the mask again */
	if (repeats_call) {
		uint64_t all = UINT64_MAX;
		raw_mask(SIG_SETMASK, &all, NULL);
	}
	THIS.interrupted = outer;
}

bool libgotcha_forward_signal(int signal, siginfo_t *info, void *context) {
	if (THIS.signal_blocked)
		return false;
	struct disposition disposition = consume(signal);
	if (disposition.action.sa_handler == SIG_IGN)
		return true;
	uint64_t preemption = bit(signal), mask, now;
	raw_mask(SIG_BLOCK, NULL, &mask);
	deferred_enter();
	run_handler(&disposition, signal, info, context);
	/* another one that came meanwhile may wait in the kernel for the return from the caller's frame */
	raw_mask(SIG_BLOCK, NULL, &now);
	mask |= now & preemption;
	raw_mask(SIG_SETMASK, &mask, NULL);
	return true;
}

/* ------------------------------------------------------------------ dispositions */

static bool is_ours(const struct sigaction *action) {
	return action->sa_sigaction == gotcha_deliver || action->sa_sigaction == gotcha_signal_entry;
}

/* What to give the kernel for the program's action. A fault's handler is always ours, on the
 * alternate stack: it is how a function's stack overflow is told from a fault. That of the preemption signal, too.
 * RESTART: a preemption must not make the function's system calls fail. NODEFER and an empty mask: the handler is left
 * by a switch of stacks, which would leave the signal blocked. No ONSTACK: what is paused stays on the function's own
 * stack. */
static struct sigaction kernel_action(int signal, const struct sigaction *program) {
	if (signal == gotcha_preemption_signal)
		return (struct sigaction) { .sa_sigaction = gotcha_signal_entry, .sa_flags = SA_SIGINFO | SA_RESTART | SA_NODEFER };
	struct sigaction action = *program;
	if (is_handler(program) || (is_fault(signal) && program->sa_handler == SIG_DFL)) {
		action.sa_sigaction = gotcha_deliver;
		action.sa_flags = (action.sa_flags | SA_SIGINFO) & ~SA_RESETHAND;
	}
	if (is_fault(signal))
		action.sa_flags |= SA_ONSTACK;
	if (gotcha_preemption_signal)
		sigdelset(&action.sa_mask, gotcha_preemption_signal);
	return action;
}

/* The child of a vfork() has its own dispositions in the kernel, but shares the memory in which ours are
 * kept, with a parent that is waiting. */
static pid_t process;

static pid_t kernel_pid(void) {
	return raw_syscall(SYS_getpid, 0, 0, 0, 0);
}

static bool is_vfork_child(void) {
	return kernel_pid() != process;
}

void gotcha_signals_forked(void) {
	process = kernel_pid();
	/* another thread may have held it */
	signals_locked = false;
}

/* errno of whoever calls: the libset's, or base's. */
static int with_errno(int error) {
	if (!error)
		return 0;
	*gotcha_base_errno() = error;
	errno_out();
	return -1;
}

/* Ours is in the kernel only after the program's is known. */
static int program_action(int signal, struct sigaction *action) {
	int result = 0;
	while (!result && !gotcha_program_action(signal, action)) {
		result = libgotcha_sigaction(signal, NULL, action);
		if (!is_ours(action))
			break;
	}
	return result;
}

static int signals_sigaction(int signal, const struct sigaction *action, struct sigaction *old) {
	struct shared_guard guard;
	shared_enter(&guard);
	int result = 0;
	if (signal < 1 || signal >= NSIG || signal == SIGKILL || signal == SIGSTOP || is_vfork_child()) {
		result = BASE(SIGACTION, int(int, const struct sigaction *, struct sigaction *))(signal, action, old);
	} else {
		struct sigaction before = { 0 };
		result = program_action(signal, &before);
		/* ours can have been the answer to a call that had begun before interception */
		struct sigaction copy = action && !is_ours(action) ? *action : before;
		if (!result && action) {
			uint64_t saved = libgotcha_signals_lock();
			if (dispositions[signal].known)
				before = dispositions[signal].action;
			struct libset *set = is_libsets(guard.table) ? THIS.set : NULL;
			bool is_copys = is_handler(&copy) && gotcha_is_copy(set, (uintptr_t) copy.sa_handler);
			if (is_copys && !dispositions[signal].is_copys)
				displaced[signal] = (struct disposition) { before, dispositions[signal].set, true, false };
			if (is_copys)
				set->handles_signals = true;
			dispositions[signal] = (struct disposition) { copy, set, true, is_copys };
			struct sigaction kernel = kernel_action(signal, &copy), replaced;
			result = libgotcha_sigaction(signal, &kernel, &replaced);
			/* one that got there past us has been the program's */
			if (!result && is_handler(&replaced) && !is_ours(&replaced))
				before = replaced;
			libgotcha_signals_unlock(saved);
		}
		if (!result && old)
			*old = before;
	}
	if (result)
		errno_out();
	shared_leave(&guard);
	return result;
}

static struct libset *_Atomic itimer_owners[3];

/* A handler in a copy that is as new would find nothing that it knows; and a timer without it, which ends the process
 * by default, goes with it. What code of the executable has installed or set stays, as in a plain call. */
void gotcha_signals_roll_back(struct libset *set) {
	set->handles_signals = false;
	for (size_t i = 0; i < lengthof(itimer_owners); i++)
		if (itimer_owners[i] == set) {
			itimer_owners[i] = NULL;
			setitimer(i, &(struct itimerval) { 0 }, NULL);
		}
	for (int signal = 1; signal < NSIG; signal++) {
		uint64_t saved = libgotcha_signals_lock();
		struct disposition *disposition = &dispositions[signal];
		if (disposition->is_copys && disposition->set == set) {
			*disposition = displaced[signal];
			struct sigaction kernel = kernel_action(signal, &disposition->action);
			libgotcha_sigaction(signal, &kernel, NULL);
		}
		libgotcha_signals_unlock(saved);
	}
}

/* Interval timers are the process's; remembers whose code has set one last. Context: any. */
static void note_itimer(int which, const void *caller) {
	struct libset *set = in_libset() && gotcha_is_copy(THIS.set, (uintptr_t) caller) ? THIS.set : NULL;
	itimer_owners[which] = set;
	if (set)
		set->handles_signals = true;
}

static int signals_setitimer(int which, const struct itimerval *time, struct itimerval *old) {
	deferred_enter();
	long result = raw_syscall(SYS_setitimer, which, (long) time, (long) old, 0);
	if (!result && time)
		note_itimer(which, __builtin_return_address(0));
	deferred_leave();
	return with_errno(-result);
}

static unsigned signals_alarm(unsigned seconds) {
	deferred_enter();
	unsigned left = raw_syscall(SYS_alarm, seconds, 0, 0, 0);
	note_itimer(ITIMER_REAL, __builtin_return_address(0));
	deferred_leave();
	return left;
}

static useconds_t signals_ualarm(useconds_t us, useconds_t interval_us) {
	struct itimerval time = { { interval_us / 1000000, interval_us % 1000000 }, { us / 1000000, us % 1000000 } }, old;
	deferred_enter();
	long result = raw_syscall(SYS_setitimer, ITIMER_REAL, (long) &time, (long) &old, 0);
	if (!result)
		note_itimer(ITIMER_REAL, __builtin_return_address(0));
	deferred_leave();
	return result ? (useconds_t) with_errno(-result) : (useconds_t) (old.it_value.tv_sec * 1000000 + old.it_value.tv_usec);
}

int libgotcha_sigaction(int signal, const struct sigaction *action, struct sigaction *old) {
	return BASE(SIGACTION, int(int, const struct sigaction *, struct sigaction *))(signal, action, old);
}

static sighandler_t set_handler(int signal, sighandler_t handler, int flags) {
	struct sigaction action = { .sa_handler = handler, .sa_flags = flags }, old;
	return signals_sigaction(signal, &action, &old) ? SIG_ERR : old.sa_handler;
}

/* BSD semantics, which siginterrupt() alters; the C library keeps that set to itself. */
static uint64_t interrupting;

static sighandler_t signals_signal(int signal, sighandler_t handler) {
	return set_handler(signal, handler, interrupting & bit(signal) ? 0 : SA_RESTART);
}

static sighandler_t signals_sysv_signal(int signal, sighandler_t handler) {
	return set_handler(signal, handler, SA_RESETHAND | SA_NODEFER);
}

static int signals_sigignore(int signal) {
	return set_handler(signal, SIG_IGN, 0) == SIG_ERR ? -1 : 0;
}

static int signals_siginterrupt(int signal, int interrupt) {
	struct sigaction action;
	if (signals_sigaction(signal, NULL, &action))
		return -1;
	if (interrupt)
		action.sa_flags &= ~SA_RESTART;
	else
		action.sa_flags |= SA_RESTART;
	if (!is_vfork_child())
		interrupting = interrupt ? interrupting | bit(signal) : interrupting & ~bit(signal);
	return signals_sigaction(signal, &action, NULL);
}

/* ------------------------------------------------------------------ masks */

uint64_t gotcha_kernel_mask(const sigset_t *program_mask) {
	uint64_t mask = *(const uint64_t *) program_mask;
	return is_launching_thread() ? mask & ~bit(gotcha_preemption_signal) : mask;
}

/* The child of a vfork() that has last set its own mask. */
static pid_t mask_changer;

/* Context: any. The mask is changed by a bare system call: nothing here may be preempted halfway,
 * and nothing needs to be. Returns an errno value. */
int libgotcha_change_mask(int how, const sigset_t *set, sigset_t *old) {
	uint64_t preemption = is_launching_thread() ? bit(gotcha_preemption_signal) : 0;
	if (how != SIG_BLOCK && how != SIG_UNBLOCK && how != SIG_SETMASK && set)
		return EINVAL;
	deferred_enter();
	uint64_t before = 0, mask = set ? *(const uint64_t *) set : 0, kernel = mask;
	bool blocked_before = THIS.signal_blocked;
	if (preemption && set && is_vfork_child()) {
		mask_changer = kernel_pid();
		/* only the kernel's mask is its own, and no timer of ours signals it */
		long result = raw_mask(how, &mask, &before);
		if (old) {
			memset(old, 0, sizeof *old);
			*(uint64_t *) old = blocked_before ? before | preemption : before;
		}
		deferred_leave();
		return -result;
	}
	if (how != SIG_UNBLOCK)
		kernel &= ~preemption;
	if (set && preemption) {
		if (how == SIG_SETMASK)
			THIS.signal_blocked = (mask & preemption) != 0;
		else if (mask & preemption)
			THIS.signal_blocked = how == SIG_BLOCK;
		THIS.mask_changed = 1;
	}
	long result = raw_mask(how, set ? &kernel : NULL, &before);
	if (set && preemption && !THIS.is_virtual && gotcha_callbacks.mask_changed)
		gotcha_callbacks.mask_changed();
	if (blocked_before && !THIS.signal_blocked && THIS.is_virtual && gotcha_callbacks.signal_unblocked)
		gotcha_callbacks.signal_unblocked();
	if (old) {
		memset(old, 0, sizeof *old);
		*(uint64_t *) old = blocked_before ? before | preemption : before;
	}
	deferred_leave();
	return -result;
}

static int signals_pthread_sigmask(int how, const sigset_t *set, sigset_t *old) {
	return libgotcha_change_mask(how, set, old);
}

static int signals_sigprocmask(int how, const sigset_t *set, sigset_t *old) {
	return with_errno(libgotcha_change_mask(how, set, old));
}

static int change_one(int how, int signal) {
	sigset_t set;
	memset(&set, 0, sizeof set);
	if (signal < 1 || signal >= NSIG)
		return with_errno(EINVAL);
	*(uint64_t *) &set = bit(signal);
	return with_errno(libgotcha_change_mask(how, &set, NULL));
}

static int signals_sighold(int signal) {
	return change_one(SIG_BLOCK, signal);
}

static int signals_sigrelse(int signal) {
	return change_one(SIG_UNBLOCK, signal);
}

static sighandler_t signals_sigset(int signal, sighandler_t handler) {
	if (handler == SIG_HOLD)
		return change_one(SIG_BLOCK, signal) ? SIG_ERR : SIG_HOLD;
	sighandler_t before = set_handler(signal, handler, 0);
	if (before != SIG_ERR)
		change_one(SIG_UNBLOCK, signal);
	return before;
}

static int old_style_mask(int how, int low) {
	sigset_t set, old;
	memset(&set, 0, sizeof set);
	*(uint64_t *) &set = (unsigned) low;
	return with_errno(libgotcha_change_mask(how, &set, &old)) ? -1 : (int) *(uint64_t *) &old;
}

static int signals_sigblock(int low) {
	return old_style_mask(SIG_BLOCK, low);
}

static int signals_sigsetmask(int low) {
	return old_style_mask(SIG_SETMASK, low);
}

int libgotcha_pthread_sigmask(int how, const sigset_t *set, sigset_t *old) {
	return BASE(PTHREAD_SIGMASK, int(int, const sigset_t *, sigset_t *))(how, set, old);
}

bool gotcha_inherited_mask_enter(void) {
	uint64_t preemption = bit(gotcha_preemption_signal), before = 0;
	if (!is_launching_thread() || !THIS.signal_blocked)
		return false;
	raw_mask(SIG_BLOCK, &preemption, &before);
	return !(before & preemption);
}

void gotcha_inherited_mask_leave(bool entered) {
	uint64_t preemption = bit(gotcha_preemption_signal);
	if (entered)
		raw_mask(SIG_UNBLOCK, &preemption, NULL);
}

/* ------------------------------------------------------------------ other programs */

static bool is_ignored_by_program(void) {
	struct sigaction action;
	return gotcha_preemption_signal && gotcha_program_action(gotcha_preemption_signal, &action) && action.sa_handler == SIG_IGN;
}

/* Across exec an ignored signal stays ignored, and a blocked one blocked. Ours is neither in the kernel: our handler
 * hides whether the program ignores it. */
void gotcha_exec_enter(struct exec_guard *guard) {
	struct sigaction ignore = { .sa_handler = SIG_IGN };
	guard->ignored = is_ignored_by_program() && !libgotcha_sigaction(gotcha_preemption_signal, &ignore, &guard->ours);
	bool has_own_mask = is_vfork_child() && mask_changer == kernel_pid();
	guard->blocked = is_launching_thread() && THIS.signal_blocked && !has_own_mask ? bit(gotcha_preemption_signal) : 0;
	if (guard->blocked)
		raw_mask(SIG_BLOCK, &guard->blocked, NULL);
}

void gotcha_exec_leave(struct exec_guard *guard) {
	if (guard->blocked)
		raw_mask(SIG_UNBLOCK, &guard->blocked, NULL);
	if (guard->ignored) {
		libgotcha_sigaction(gotcha_preemption_signal, &guard->ours, NULL);
		if (gotcha_callbacks.expiries_lost && !is_vfork_child())
			gotcha_callbacks.expiries_lost();
	}
}

/* Signals that are ignored in the kernel, whatever the program knows, while some calls last. Under the lock. */
static struct {
	unsigned calls;
	struct sigaction otherwise;
} ignored[NSIG];

bool gotcha_ignore_enter(int signal) {
	struct sigaction ignore = { .sa_handler = SIG_IGN };
	uint64_t saved = libgotcha_signals_lock();
	if (!ignored[signal].calls++)
		libgotcha_sigaction(signal, &ignore, &ignored[signal].otherwise);
	bool makes_a_difference = ignored[signal].otherwise.sa_handler != SIG_IGN;
	libgotcha_signals_unlock(saved);
	return makes_a_difference;
}

void gotcha_ignore_leave(int signal) {
	uint64_t saved = libgotcha_signals_lock();
	if (!--ignored[signal].calls)
		libgotcha_sigaction(signal, &ignored[signal].otherwise, NULL);
	libgotcha_signals_unlock(saved);
}

/* The child gets its dispositions when it is made, from this process: no other thread is preempted meanwhile. */
void gotcha_spawn_enter(struct spawn_guard *guard) {
	guard->blocked = gotcha_inherited_mask_enter();
	guard->ignored = is_ignored_by_program();
	if (guard->ignored)
		gotcha_ignore_enter(gotcha_preemption_signal);
}

void gotcha_spawn_leave(struct spawn_guard *guard) {
	if (guard->ignored) {
		gotcha_ignore_leave(gotcha_preemption_signal);
		if (gotcha_callbacks.expiries_lost)
			gotcha_callbacks.expiries_lost();
	}
	gotcha_inherited_mask_leave(guard->blocked);
}

/* ------------------------------------------------------------------ waiting for signals */

static int signals_sigsuspend(const sigset_t *program_mask) {
	sigset_t mask;
	memset(&mask, 0, sizeof mask);
	*(uint64_t *) &mask = gotcha_kernel_mask(program_mask);
	bool blocked = THIS.signal_blocked;
	THIS.signal_blocked = is_launching_thread() && (*(const uint64_t *) program_mask & bit(gotcha_preemption_signal));
	void *function = in_libset() ? libc_copy(THIS.set, rows[SIGSUSPEND].base) : rows[SIGSUSPEND].base;
	uint64_t handled = THIS.program_signals;
	if (blocked && !THIS.signal_blocked && THIS.is_virtual && gotcha_callbacks.signal_unblocked) {
		deferred_enter();
		gotcha_callbacks.signal_unblocked();
		deferred_leave();
	}
	int result = with_errno(EINTR);
	while (THIS.program_signals == handled)
		result = ((int (*)(const sigset_t *)) function)(&mask);
	THIS.signal_blocked = blocked;
	return result;
}

static int64_t monotonic_ns(void) {
	struct timespec now;
	raw_syscall(SYS_clock_gettime, CLOCK_MONOTONIC, (long) &now, 0, 0);
	return now.tv_sec * 1000000000ll + now.tv_nsec;
}

/* Returns the signal, or a negative errno value. The preemption signal, if waited for, is blocked in
 * the kernel meanwhile, as the program believes it is; expiries of our own are told apart. */
static int wait_for(const sigset_t *set, siginfo_t *info, const struct timespec *timeout) {
	uint64_t mask = *(const uint64_t *) set, preemption = is_launching_thread() ? mask & bit(gotcha_preemption_signal) : 0;
	int64_t deadline = timeout ? monotonic_ns() + timeout->tv_sec * 1000000000ll + timeout->tv_nsec : 0;
	siginfo_t found;
	for (;;) {
		struct timespec left = { 0 };
		if (timeout) {
			int64_t ns = deadline - monotonic_ns();
			left = ns > 0 ? (struct timespec) { ns / 1000000000, ns % 1000000000 } : (struct timespec) { 0 };
		}
		uint64_t saved, own_before = THIS.own_signals, handled_before = THIS.program_signals;
		if (preemption) {
			if (gotcha_callbacks.silence && !THIS.is_virtual)
				gotcha_callbacks.silence();
			raw_mask(SIG_BLOCK, &preemption, &saved);
		}
		bool is_held = preemption && gotcha_callbacks.take_held && gotcha_callbacks.take_held(&found);
		long result = is_held ? gotcha_preemption_signal : raw_syscall(SYS_rt_sigtimedwait, (long) &mask, (long) &found,
			(long) (timeout ? &left : NULL), sizeof mask);
		deferred_enter();
		bool expiry = preemption && !is_held && result == gotcha_preemption_signal
			&& gotcha_callbacks.take_own_signal && gotcha_callbacks.take_own_signal(&found);
		if (preemption)
			raw_mask(SIG_SETMASK, &saved, NULL);
		deferred_leave();
		if (expiry || (result == -EINTR && THIS.own_signals != own_before && THIS.program_signals == handled_before))
			continue;
		if (result > 0 && info)
			*info = found;
		return result;
	}
}

static int signals_sigpending(sigset_t *set) {
	uint64_t pending;
	long error = raw_syscall(SYS_rt_sigpending, (long) &pending, sizeof pending, 0, 0);
	if (error)
		return with_errno(-error);
	memset(set, 0, sizeof *set);
	if (is_launching_thread() && gotcha_callbacks.take_held && gotcha_callbacks.take_held(NULL))
		pending |= bit(gotcha_preemption_signal);
	*(uint64_t *) set = pending;
	return 0;
}

static int signals_sigwait(const sigset_t *set, int *signal) {
	int result;
	do
		result = wait_for(set, NULL, NULL);
	while (result == -EINTR);
	if (result < 0)
		return -result;
	*signal = result;
	return 0;
}

static int signals_sigwaitinfo(const sigset_t *set, siginfo_t *info) {
	int result = wait_for(set, info, NULL);
	return result < 0 ? with_errno(-result) : result;
}

static int signals_sigtimedwait(const sigset_t *set, siginfo_t *info, const struct timespec *timeout) {
	int result = wait_for(set, info, timeout);
	return result < 0 ? with_errno(-result) : result;
}

/* ------------------------------------------------------------------ the alternate stack */

/* To the kernel it belongs to the kernel thread, but what a function sets is the function's. */
static int signals_sigaltstack(const stack_t *stack, stack_t *old) {
	deferred_enter();
	stack_t before;
	long result = raw_syscall(SYS_sigaltstack, (long) stack, (long) &before, 0, 0);
	if (!result && stack && THIS.is_virtual && !THIS.stack_is_own) {
		THIS.other_stack = before;
		THIS.stack_is_own = THIS.stack_in_force = 1;
	}
	if (!result && old)
		*old = before;
	deferred_leave();
	return with_errno(-result);
}

/* A launcher that runs on its own alternate stack keeps it in force: the kernel refuses another. */
void libgotcha_tcb_exchange_stack(struct libgotcha_thread *state, bool runs) {
	stack_t before;
	if (state->stack_in_force == runs || raw_syscall(SYS_sigaltstack, (long) &state->other_stack, (long) &before, 0, 0))
		return;
	state->other_stack = before;
	state->stack_in_force = runs;
}

/* ------------------------------------------------------------------ sending */

static siginfo_t program_signal(int signal, int code, long value) {
	siginfo_t info;
	memset(&info, 0, sizeof info);
	info.si_signo = signal;
	info.si_code = code;
	info.si_pid = kernel_pid();
	info.si_uid = raw_syscall(SYS_getuid, 0, 0, 0, 0);
	info.si_value.sival_ptr = (void *) value;
	return info;
}

static bool take_over(pid_t tid, int signal, int code, long value) {
	siginfo_t info = program_signal(signal, code, value);
	return gotcha_callbacks.send(tid, &info);
}

/* 0 or an error number, as the C library's functions for one thread return. */
static long send_plainly(pid_t tid, int signal, int code, long value) {
	siginfo_t info = program_signal(signal, code, value);
	if (!tid)
		return ESRCH;
	return code == SI_TKILL ? -raw_syscall(SYS_tgkill, kernel_pid(), tid, signal, 0)
		: -raw_syscall(SYS_rt_tgsigqueueinfo, kernel_pid(), tid, signal, (long) &info);
}

/* To one thread. Ordinary signals do not queue: the kernel drops one that is sent while an expiry is pending there. So
 * the control library takes it to a thread of its own, which it stays, or does not become, under the lock. To others
 * it is sent plainly: by the C library, for which a virtual TCB carries the kernel thread's tid meanwhile, or, without `base`,
 * by its tid. */
static long send_to(forwarded *base, pid_t tid, int signal, int code, long value, SIX_PARAMETERS) {
	/* own copy, in its libset: the handler may be one that runs there */
	forwarded *function = base && in_libset() ? libc_copy(THIS.set, base) : base;
	bool is_preemptions = signal == gotcha_preemption_signal && gotcha_callbacks.send && !is_vfork_child();
	long result = 0;
	deferred_enter();
	uint64_t saved_mask = is_preemptions ? libgotcha_signals_lock() : 0;
	if (!is_preemptions || !take_over(tid, signal, code, value)) {
		int *own_tid = (int *) (thread_pointer() + gotcha_layout.tid), saved_tid = *own_tid;
		if (THIS.is_virtual)
			*own_tid = *(int *) (THIS.host + gotcha_layout.tid);
		result = function ? function(SIX_ARGUMENTS) : send_plainly(tid, signal, code, value);
		*own_tid = saved_tid;
	}
	if (is_preemptions)
		libgotcha_signals_unlock(saved_mask);
	deferred_leave();
	return result;
}

static pid_t kernel_tid(void) {
	return raw_syscall(SYS_gettid, 0, 0, 0, 0);
}

static int signals_raise(int signal) {
	return send_to(rows[RAISE].base, kernel_tid(), signal, SI_TKILL, 0, signal, 0, 0, 0, 0, 0);
}

static bool is_this_thread(pthread_t thread) {
	return thread == thread_pointer() || (THIS.is_virtual && thread == THIS.host);
}

/* What a function on another kernel thread, or one around this one, takes for its thread: the C library's functions would
 * find its virtual TCB's tid. */
static bool is_functions_thread(pthread_t thread) {
	return !is_this_thread(thread) && libgotcha_tcb_state(thread)->is_virtual;
}

/* A function's is that of the kernel thread which runs it, or was the last to do so. */
static pid_t tid_of(pthread_t thread) {
	if (is_this_thread(thread))
		return kernel_tid();
	if (is_functions_thread(thread))
		return gotcha_callbacks.kernel_tid ? gotcha_callbacks.kernel_tid(libgotcha_tcb_state(thread)->owner) : 0;
	return *(pid_t *) (thread + gotcha_layout.tid);
}

/* The C library keeps some to itself. */
static bool is_refused(int signal) {
	return signal >= __SIGRTMIN && signal < SIGRTMIN;
}

static int signals_pthread_kill(pthread_t thread, int signal) {
	forwarded *base = is_functions_thread(thread) && !is_refused(signal) ? NULL : rows[PTHREAD_KILL].base;
	return send_to(base, tid_of(thread), signal, SI_TKILL, 0, thread, signal, 0, 0, 0, 0);
}

static int signals_pthread_sigqueue(pthread_t thread, int signal, const union sigval value) {
	forwarded *base = is_functions_thread(thread) && !is_refused(signal) ? NULL : rows[PTHREAD_SIGQUEUE].base;
	long word = (long) value.sival_ptr;
	return send_to(base, tid_of(thread), signal, SI_QUEUE, word, thread, signal, word, 0, 0, 0);
}

static int signals_tgkill(pid_t process, pid_t tid, int signal) {
	pid_t known = process == kernel_pid() ? tid : 0;
	return send_to(rows[TGKILL].base, known, signal, SI_TKILL, 0, process, tid, signal, 0, 0, 0);
}

/* ------------------------------------------------------------------ start */

void libgotcha_set_preemption_signal(int signal) {
	gotcha_preemption_signal = signal;
}

/* Puts our handler in the place of the program's, which is what was there at that very moment: other threads may be
 * changing it. */
static int take_over_action(int signal, bool at_start) {
	struct sigaction program;
	int result = 0;
	uint64_t saved = libgotcha_signals_lock();
	/* 32 and 33 are the C library's own: it refuses */
	bool is_readable = !libgotcha_sigaction(signal, NULL, &program);
	bool is_needed = at_start && (is_fault(signal) || signal == gotcha_preemption_signal);
	if (is_readable && !is_ours(&program) && (is_needed || is_handler(&program)))
		do {
			dispositions[signal] = (struct disposition) { program, NULL, true, false };
			struct sigaction kernel = kernel_action(signal, &program);
			result = libgotcha_sigaction(signal, &kernel, &program);
		} while (!result && !is_ours(&program));
	libgotcha_signals_unlock(saved);
	return result;
}

static int take_over_actions(bool at_start) {
	for (int signal = 1; signal < NSIG; signal++)
		if (signal != SIGKILL && signal != SIGSTOP && take_over_action(signal, at_start))
			return gotcha_fail(errno, "sigaction %d: %s", signal, strerror(errno));
	return 0;
}

/* Context: base, under the lock, after interception: from then on the wrappers know of each change. A call of
 * sigaction() that had begun before may still take effect after this. */
int gotcha_signals_init(void) {
	int error = take_over_actions(true);
	return error ? error : gotcha_internal_signals_init();
}

/* Looks for handlers that such a call has installed. Context: as above. */
void gotcha_signals_verify(void) {
	take_over_actions(false);
}

static struct row rows[] = {
	[SIGACTION] = { "sigaction", signals_sigaction, true },
	[SIGNAL] = { "signal", signals_signal, true },
	[SYSV_SIGNAL] = { "__sysv_signal", signals_sysv_signal, true },
	[SIGSET] = { "sigset", signals_sigset, true },
	[SIGIGNORE] = { "sigignore", signals_sigignore, true },
	[SIGINTERRUPT] = { "siginterrupt", signals_siginterrupt, true },
	[PTHREAD_SIGMASK] = { "pthread_sigmask", signals_pthread_sigmask, true },
	[SIGPROCMASK] = { "sigprocmask", signals_sigprocmask, true },
	[SIGHOLD] = { "sighold", signals_sighold, true },
	[SIGRELSE] = { "sigrelse", signals_sigrelse, true },
	[SIGBLOCK] = { "sigblock", signals_sigblock, true },
	[SIGSETMASK] = { "sigsetmask", signals_sigsetmask, true },
	[SIGSUSPEND] = { "sigsuspend", signals_sigsuspend, true },
	[SIGWAIT] = { "sigwait", signals_sigwait, true },
	[SIGWAITINFO] = { "sigwaitinfo", signals_sigwaitinfo, true },
	[SIGPENDING] = { "sigpending", signals_sigpending },
	[SIGTIMEDWAIT] = { "sigtimedwait", signals_sigtimedwait, true },
	[RAISE] = { "raise", signals_raise, true },
	[PTHREAD_KILL] = { "pthread_kill", signals_pthread_kill, true },
	[PTHREAD_SIGQUEUE] = { "pthread_sigqueue", signals_pthread_sigqueue, true },
	[TGKILL] = { "tgkill", signals_tgkill, true },
	[SETITIMER] = { "setitimer", signals_setitimer, true },
	[ALARM] = { "alarm", signals_alarm, true },
	[UALARM] = { "ualarm", signals_ualarm, true },
	[SIGALTSTACK] = { "sigaltstack", signals_sigaltstack },
};
struct rows gotcha_rows_signals = { rows, lengthof(rows) };
