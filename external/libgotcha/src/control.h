/* What libgotcha offers to a control library that switches stacks and thread pointers, such as
 * inger; beside the public libgotcha.h.  Bound by lib.rs. */
#ifndef GOTCHA_CONTROL_H
#define GOTCHA_CONTROL_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct libset;
struct libgotcha_shared_call;

/* State of one thread control block, virtual or a kernel thread's own.
 * ABI: trampolines, assembly and Rust read fields by their offsets; thunk.h repeats some.
 * Written by its own thread only, from ordinary code and from signal handlers: each field is
 * read and written whole. */
struct libgotcha_thread {
	void **table;           /*  0: table of the next libset */
	uint32_t defer;         /*  8: preemption is deferred while this is not 0; kernel threads: never 0 */
	uint8_t pending;        /* 12: libgotcha_take_pending() is due when `defer` drops to 0 */
	uint8_t hooked;         /* 13: the shared hook is running here */
	uint8_t is_virtual;     /* 14: this TCB is not a kernel thread's own */
	uint8_t mask_changed;   /* 15: code on this TCB has changed its signal mask */
	void *owner;            /* 16: the control library's record of the kernel thread that runs this TCB */
	struct libset *set;     /* 24: the libset whose code this TCB runs; NULL: the starting one */
	uintptr_t host;         /* 32: thread pointer of the kernel thread that runs this TCB, if virtual */
	uint64_t own_signals;   /* 40: preemption signals that arrived here; waits compare it */
	uint32_t streams_locked;/* 48: flockfile() calls on shared streams without their funlockfile() */
	void *destructors;      /* 56: of the function's thread-locals; see tcb.c */
	uint64_t program_signals;       /* 64: handlers of the program that ran here; waits compare it */
	uint8_t signal_blocked; /* 72: the program believes it has blocked the preemption signal here */
	uint8_t releasing;      /* 73: held preemption signals are being made up for below this frame */
	uint16_t handlers;      /* 74: handlers of the program that are running on this TCB */
	uint32_t sections;      /* 76: how much of `defer` is the program's own, by the control library's call */
	void *locks;            /* 80: held, of those that forbid preemption; see policy_locks.c */
	/* 88, 96, 104: calls of shared functions that have not returned, oldest first, the end of them, and the
	 * end of the room for them; see thunk.S */
	struct libgotcha_shared_call *calls, *calls_end, *calls_limit;
	stack_t other_stack;    /* 112: if stack_is_own: the alternate signal stack that is not in force */
	uint8_t stack_is_own;   /* 136: code on this TCB has set an alternate signal stack, which is... */
	uint8_t stack_in_force; /* 137: ...in force; else what was before is */
	uint8_t blocked_before; /* 138: `signal_blocked` as it was before the handlers that are running */
	int32_t shell;          /* 140: the child of a system() that is waiting here, or 0 */
	void *interrupted;      /* 144: a ucontext_t: what goes on here after the preemption signal's handler; else NULL */
	uint32_t locks_held;    /* 152: locks of the program that code on this TCB holds or waits for, if virtual */
	uint8_t is_donated;     /* 156: it runs on time that a waiter for a lock has donated: see policy_donation.c */
	uint8_t tracked;        /* 157: what code on this TCB allocates or opens is noted: LIBGOTCHA_TRACKS_... */
};
extern __thread struct libgotcha_thread libgotcha_tls __attribute__((tls_model("initial-exec")));

/* A thread control block on which code of one libset can run, for libgotcha_tcb_new(). */
struct libgotcha_tcb {
	uintptr_t thread_pointer;
	void *blocks;           /* its thread-local storage: what is fresh at each launch, what is rolled back */
};

/* Makes a TCB for `group` and code on the given stack.  0 or a negative errno value. */
int libgotcha_tcb_new(long group, void *stack, size_t stack_size_bytes, struct libgotcha_tcb *);
/* Another stack for a TCB that nothing runs on. */
void libgotcha_tcb_set_stack(const struct libgotcha_tcb *, void *stack, size_t stack_size_bytes);
/* An alternate signal stack that code on a virtual TCB has set is its own: to be called when that code goes on, and
 * when it has stopped, on the kernel thread. */
void libgotcha_tcb_exchange_stack(struct libgotcha_thread *, bool runs);
/* Thread-locals of everything that is not replicated, as a new thread would find them. */
void libgotcha_tcb_refresh(struct libgotcha_tcb *);
/* Thread-locals of the libset's copies, as they were when the TCB was made. */
void libgotcha_tcb_roll_back(struct libgotcha_tcb *);
/* The number by which locks know code on that TCB. */
int32_t libgotcha_tcb_tid(const struct libgotcha_tcb *);
/* The per-TCB state of a TCB that is not current. */
struct libgotcha_thread *libgotcha_tcb_state(uintptr_t thread_pointer);
/* On a virtual TCB, at the end of a function: destructors of its thread-locals and keys. */
void libgotcha_tcb_finish(void);
/* The number of threads that code of `group` has started and that have not ended. */
size_t libgotcha_group_threads(long group);
/* Before a function starts in `group`, in a bracket: gives it copies of the libraries that the program has opened since,
 * and the program's current locale.  Returns what a call of `function`, an address in base, is to run there. */
void *libgotcha_group_prepare(long group, void *function);
/* After a function has ended in `group`, in a bracket: writes out the streams that it left open, unless threads that
 * it has started may use them. */
void libgotcha_group_finish(long group);

enum { LIBGOTCHA_TRACKS_HEAP = 1, LIBGOTCHA_TRACKS_DESCRIPTORS = 2 };
/* Before the first function of which these are noted, after libgotcha_init(). 0 or a negative errno value. */
int libgotcha_track_start(int what);
/* What the function in `group` has allocated or opened is its no more. What of that `heir_tracks` is that of the function
 * in `heir`, the rest nobody's. What is left to it libgotcha_group_renew() gives back. In a bracket. */
void libgotcha_group_hand_over(long group, long heir, int heir_tracks);

/* Reserves `signal`, before libgotcha_init(): from then on the program's own disposition of it is kept aside,
 * `callbacks.signal` is its handler, and the program cannot block it on a kernel thread whose `owner` is set. */
void libgotcha_set_preemption_signal(int signal);

/* Carries out the program's disposition of the preemption signal, for one that is not the control
 * library's own. False, with nothing done, if the program has blocked it on this TCB. */
bool libgotcha_forward_signal(int signal, siginfo_t *, void *ucontext);

/* Does the code that a signal has interrupted repeat a system call when it goes on, one that the program's handlers make
 * fail with EINTR? They do as long as `interrupted` is the context. Who lets the code go on sets that to NULL with all
 * signals blocked, and leaves it to the kernel to open the mask. */
bool libgotcha_repeats_call(const void *ucontext);

/* pthread_sigmask() as the program's own call: for a control library that calls the program. */
int libgotcha_change_mask(int how, const sigset_t *, sigset_t *old);

/* Blocks all signals until the lock is released with what this returns: the mask of before. For a few instructions. */
uint64_t libgotcha_signals_lock(void);
void libgotcha_signals_unlock(uint64_t saved_mask);

/* Is the code at `pc` code that must not be preempted: the dynamic linker, base's copy of a replicated library
 * (reached through a pointer that was stored before interception), or the entry of a handler? */
bool libgotcha_is_shared_code(uintptr_t pc);

/* What file the code at `address` is of, base's or a libset's copy of it, and where in it, as symbols and debug information
 * count. The file's name is the dynamic linker's, and stays while the library is loaded. */
struct libgotcha_place {
	const char *file;
	uintptr_t address;
};
bool libgotcha_find_place(uintptr_t address, struct libgotcha_place *);

/* With LIBGOTCHA_TRACE=signals, a line on standard error: what happened to a signal, and a number with its unit. For
 * handlers too. */
void libgotcha_trace_signal(const char *event, int64_t number, const char *unit);

/* Is there code at `pc` through which calls are sent on? It has no frame of its own, and no unwind information. */
bool libgotcha_is_trampoline(uintptr_t pc);

enum libgotcha_landing {
	LIBGOTCHA_LANDS_OUTSIDE,        /* no function is running on this kernel thread */
	LIBGOTCHA_LANDS_IN_FUNCTION,    /* in the innermost running one */
	LIBGOTCHA_LEAVES_FUNCTION,
};

/* Callbacks of the control library. */
struct libgotcha_callbacks {
	void (*take_pending)(void);             /* a deferred preemption is due */
	void (*forking)(void);                  /* before a fork... */
	void (*fork_done)(void);                /* ...after it, in the parent... */
	void (*forked)(void);                   /* ...and in the child, on the forking thread */
	void (*mask_changed)(void);             /* by the program, outside functions: this kernel thread's */
	/* Where a longjmp to `stack_pointer` lands; LANDS_IN_FUNCTION: and on which TCB. */
	enum libgotcha_landing (*landing)(uintptr_t stack_pointer, uintptr_t *thread_pointer);
	void (*signal_unblocked)(void);         /* code no longer blocks the preemption signal */
	bool (*leave_function)(int reason);     /* pthread_exit inside a function; false: not in one */
	/* No expiry of the control library's own is to be pending on this thread for now: it would be seen by the
	 * program, or swallow a signal of the same number. A running function gets its timer back by `pending`. */
	void (*silence)(void);
	/* The preemption signal's handler: entered with preemption deferred once more, which it ends. */
	void (*signal)(int signal, siginfo_t *, void *ucontext);
	/* A signal that the program has waited for: takes an expiry of the control library's own timers. One that stands
	 * for what `send` has taken over becomes that. */
	bool (*take_own_signal)(siginfo_t *);
	/* Takes one of the program's preemption signals that are held until the program unblocks it: it waits for it, the
	 * signal is blocked in the kernel, too. NULL: only tells whether there is one. */
	bool (*take_held)(siginfo_t *);
	/* The program sends the preemption signal to a thread of this process. True: that is going to get it; else it
	 * is to be sent before the lock of signals is released, under which this is called. */
	bool (*send)(int32_t tid, const siginfo_t *);
	/* The kernel's number of the thread whose record `owner` is; 0: it has ended. */
	int32_t (*kernel_tid)(const void *owner);
	/* A deferred preemption is due where the function cannot be stopped, but soon will be able to. */
	void (*postpone)(void);
	/* Expiries may have been discarded, of any kernel thread: each is to look at its deadline. */
	void (*expiries_lost)(void);
	/* Is this code of the oldest frame on a function's stack, beyond which is its launcher's? */
	bool (*is_stack_end)(uintptr_t pc);
	/* The calling thread waits for a lock: lets the stopped function go on whose TCB has that tid, or, if 0, the next of
	 * all, for a moment. False: there is none that may. In a bracket, with preemption deferred once more. */
	bool (*donate)(int32_t tid);
	/* The function that runs on donated time has released a lock: it is to stop when the bracket is left. */
	void (*give_back)(void);
	/* The calling thread has waited for a lock for a second, of the function whose TCB has that tid; 0: of whomever. Not in
	 * a bracket, and counted as a handler of the program: it may call the program. */
	void (*waits_long)(int32_t tid);
	/* In a handler on the kernel thread's alternate stack: a fault that the control library ends the
	 * process for, such as a stack overflow of a function. Returns if it is not one. */
	void (*fault)(int signal, siginfo_t *, void *ucontext);
};
void libgotcha_set_callbacks(const struct libgotcha_callbacks *);

/* Adds the library of that file name to those that are not copied, as LIBGOTCHA_SHARED does. 0; -EBUSY after
 * libgotcha_init(); -ENOMEM. */
int libgotcha_share(const char *name);

void libgotcha_take_pending(void);
void libgotcha_run_hook(void);
/* For brackets of the control library's own code: lib.rs has them in Rust, to be inlined. */
extern void *libgotcha_starting_table[];
/* Runs `function` as the kernel thread's own code, on the current stack: thread-locals are that thread's, calls go to the
 * starting libset, preemption is deferred. Any time, before libgotcha_init() too. `function` returns, and by returning. */
void libgotcha_run_hosted(void (*function)(void *), void *argument);
/* The C library's definition of a function, past interception and whatever the program defines. */
void *libgotcha_base(const char *name);
/* pause(2) as the program's own calls find it: the control library's signals do not end it. Before
 * libgotcha_init() too. */
int libgotcha_pause(void);
/* write(2); -errno. Without a bracket it is preempted like code of the function that is current. Any time. */
long libgotcha_write(int descriptor, const void *bytes, size_t length);

#endif
