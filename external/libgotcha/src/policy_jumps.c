/* Policy of longjmp: the registers that it loads do not include the thread pointer.
 *
 * A jump within a function is plain, unless it leaves a handler of the program: handlers run with
 * preemption deferred, most of them on the kernel thread's own TCB, and the jump has to end that.
 * A jump out of a function would leave its launcher with the function's TCB, and the function's
 * stack for lost: it is a mistake of the program that cannot be carried out or reported by value. */
#include "internal.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LONGJMP, LONGJMP_CHK };
static struct row rows[];

typedef void jump(jmp_buf, int);

static void refuse(void) {
	static const char message[] = "libgotcha: longjmp out of a preemptible function\n";
	if (write(STDERR_FILENO, message, sizeof message - 1) < 0) {
		/* nowhere to report it */
	}
	abort();
}

/* The mask that the jump restores is the kernel's. Of the preemption signal it does not know what the program believes:
 * what that was before the handlers. */
static void leave_handlers(struct libgotcha_thread *state, bool restores_mask) {
	if (state->handlers && restores_mask)
		state->signal_blocked = state->blocked_before;
	state->handlers = 0;
	state->releasing = 0;
	/* the preemption signal's handler, on top of which they may have run, is left with them */
	state->interrupted = NULL;
}

/* The TCB for which preemption is deferred by handlers that the jump leaves is made what code on the
 * target's stack expects. Context: any. */
static void land_in_function(uintptr_t thread_pointer_of_function, uintptr_t from, uintptr_t to, bool restores_mask) {
	struct libgotcha_thread *state = libgotcha_tcb_state(thread_pointer_of_function);
	bool leaves_handler = state->handlers;
	if (thread_pointer() != thread_pointer_of_function) {
		/* the kernel thread's own brackets are around the function, and stay */
		THIS.defer--;
		if (THIS.handlers && !--THIS.handlers)
			THIS.signal_blocked = THIS.blocked_before;
		leaves_handler = true;
		gotcha_set_thread_pointer(thread_pointer_of_function);
	}
	/* unless the jump restores it, the mask is the handler's from now on */
	if (leaves_handler)
		state->mask_changed = 1;
	leave_handlers(state, restores_mask);
	if (leaves_handler && !state->signal_blocked && gotcha_callbacks.signal_unblocked)
		gotcha_callbacks.signal_unblocked();
	size_t calls = gotcha_calls_jump(state, thread_pointer_of_function, from, to);
	state->table = calls ? gotcha_shared_table : state->set->table;
	/* the frame may still be a handler's */
	gotcha_set_defer(state->sections + state->streams_locked + calls);
}

static void jump_with(int row, jmp_buf target, int value) {
	uintptr_t function = 0, from = (uintptr_t) __builtin_frame_address(0), to = gotcha_jump_stack_pointer(target);
	/* from here on no migration; each case below sets what is to hold after the jump */
	THIS.defer++;
	compiler_barrier();
	switch (gotcha_callbacks.landing ? gotcha_callbacks.landing(to, &function) : LIBGOTCHA_LANDS_OUTSIDE) {
	case LIBGOTCHA_LANDS_OUTSIDE:
		/* a kernel thread's own stack; handlers of the program, if any, are left */
		THIS.defer = 1 + gotcha_calls_jump(&THIS, thread_pointer(), from, to);
		leave_handlers(&THIS, target->__mask_was_saved);
		break;
	case LIBGOTCHA_LANDS_IN_FUNCTION:
		land_in_function(function, from, to, target->__mask_was_saved);
		break;
	case LIBGOTCHA_LEAVES_FUNCTION: {
		struct hosted_guard guard;
		gotcha_hosted_enter(&guard);
		refuse();
	}
	}
	((jump *) rows[row].base)(target, value);
}

static void jumps_longjmp(jmp_buf target, int value) {
	jump_with(LONGJMP, target, value);
}

static void jumps_longjmp_chk(jmp_buf target, int value) {
	jump_with(LONGJMP_CHK, target, value);
}

static struct row rows[] = {
	[LONGJMP] = { "longjmp", jumps_longjmp, true },
	[LONGJMP_CHK] = { "__longjmp_chk", jumps_longjmp_chk, true },
};
struct rows gotcha_rows_jumps = { rows, lengthof(rows) };
