/* Calls of shared functions, as far as C has to do with them: see thunk.S, which makes them.
 *
 * The calls that have not returned are a stack of each TCB's own. What leaves a call without returning takes
 * it off: an exception by way of the thunk's personality, longjmp by gotcha_calls_jump(). */
#include "internal.h"
#include "thunk.h"

#include <cpuid.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <unwind.h>

struct libgotcha_shared_call {
	void *return_address;
	void *rbx;                      /* the caller's */
	uintptr_t stack_pointer;        /* the caller's, without the return address */
	void **table;                   /* the caller's... */
	struct libset *set;             /* ...and what it belongs to */
};

#define SAME(value, structure, field) _Static_assert(value == offsetof(struct structure, field), #field)
SAME(THREAD_TABLE, libgotcha_thread, table);
SAME(THREAD_DEFER, libgotcha_thread, defer);
SAME(THREAD_PENDING, libgotcha_thread, pending);
SAME(THREAD_SET, libgotcha_thread, set);
SAME(THREAD_CALLS_END, libgotcha_thread, calls_end);
SAME(THREAD_CALLS_LIMIT, libgotcha_thread, calls_limit);
SAME(THREAD_INTERRUPTED, libgotcha_thread, interrupted);
SAME(SET_ERRNO_OFFSET, libset, errno_offset);
SAME(CALL_RETURN_ADDRESS, libgotcha_shared_call, return_address);
SAME(CALL_RBX, libgotcha_shared_call, rbx);
SAME(CALL_STACK_POINTER, libgotcha_shared_call, stack_pointer);
SAME(CALL_TABLE, libgotcha_shared_call, table);
SAME(CALL_SET, libgotcha_shared_call, set);
_Static_assert(CALL_SIZE == sizeof(struct libgotcha_shared_call), "size");

/* How many calls of one TCB may be under way. What a shared function calls, callbacks included, runs in the
 * starting libset, where no calls are made: more than one are under way only if a callback changes to a libset, or
 * if handlers of the program have interrupted the thunk. */
enum { CALLS_MAX = 64 };

intptr_t gotcha_base_errno_offset;
uint64_t gotcha_vector_state_bytes = FXSAVE_SIZE;
static pthread_key_t release_key;

static _Noreturn void refuse(const char *message) {
	if (write(STDERR_FILENO, message, strlen(message)) < 0) {
		/* nowhere to report it */
	}
	abort();
}

/* Context: a call is about to be made: any stack and TCB, preemption deferred, the caller's table. */
void gotcha_calls_make(void) {
	void **table = THIS.table;
	THIS.table = libgotcha_starting_table;
	compiler_barrier();
	/* else a handler of the program has made it meanwhile */
	if (THIS.calls_end == THIS.calls_limit) {
		if (THIS.calls)
			refuse("libgotcha: calls of shared libraries from inside libsets nest too deeply\n");
		struct libgotcha_shared_call *calls = gotcha_base_malloc(CALLS_MAX * sizeof *calls);
		if (!calls || (!THIS.is_virtual && pthread_setspecific(release_key, calls)))
			refuse("libgotcha: no memory for a call of a shared library\n");
		THIS.calls = THIS.calls_end = calls;
		THIS.calls_limit = calls + CALLS_MAX;
	}
	compiler_barrier();
	THIS.table = table;
}

/* At a kernel thread's end; a function's TCB keeps its own. */
static void release(void *calls) {
	struct shared_guard guard;
	shared_enter(&guard);
	THIS.calls = THIS.calls_end = THIS.calls_limit = NULL;
	gotcha_base_free(calls);
	shared_leave(&guard);
}

/* `call` returns, and others have been made after it: they were left in a way that is not known here, such as
 * setcontext(). Context: as at the call's end, before the bracket is closed. */
void gotcha_calls_skip(struct libgotcha_shared_call *call) {
	if (call >= THIS.calls_end)
		refuse("libgotcha: a call of a shared library returned after one around it had\n");
	THIS.defer -= THIS.calls_end - (call + 1);
	THIS.calls_end = call + 1;
}

/* Is the call left by a jump from one stack pointer to another? All that runs in it is below its own. The TCB's own stack is known, others that a
 * function may have made are not: a jump within one of these leaves the calls in between. */
static bool is_left(const struct libgotcha_shared_call *call, uintptr_t tcb, uintptr_t from, uintptr_t to) {
	uintptr_t bottom = *(uintptr_t *) (tcb + gotcha_layout.stackblock);
	size_t size = *(size_t *) (tcb + gotcha_layout.stackblock_size);
	if (to - bottom < size)
		return call->stack_pointer - bottom >= size || call->stack_pointer <= to;
	return call->stack_pointer > from && call->stack_pointer <= to;
}

size_t gotcha_calls_jump(struct libgotcha_thread *state, uintptr_t tcb, uintptr_t from, uintptr_t to) {
	bool any = false;
	for (; state->calls_end > state->calls && is_left(state->calls_end - 1, tcb, from, to); any = true) {
		const struct libgotcha_shared_call *call = --state->calls_end;
		state->set = call->set;
		state->table = call->table;
	}
	size_t rest = state->calls_end - state->calls;
	if (any && !rest)
		errno_out();
	return rest;
}

/* ------------------------------------------------------------------ exceptions */

extern char gotcha_thunk_returned[], gotcha_thunk_unwind[];

/* An exception passes through a call: gotcha_thunk_unwind is where it stops over. The unwinder's functions are
 * looked up when there is one: a C program need not have any.
 *
 * Context: called by an unwinder, on top of the call: its bracket is open. */
_Unwind_Reason_Code gotcha_thunk_personality(int version, _Unwind_Action actions, _Unwind_Exception_Class class,
		struct _Unwind_Exception *exception, struct _Unwind_Context *context) {
	(void) class;
	if (version != 1)
		return _URC_FATAL_PHASE1_ERROR;
	if (!(actions & _UA_CLEANUP_PHASE))
		return _URC_CONTINUE_UNWIND;
	__typeof__(_Unwind_GetIP) *get_ip = gotcha_base_symbol("_Unwind_GetIP");
	__typeof__(_Unwind_SetIP) *set_ip = gotcha_base_symbol("_Unwind_SetIP");
	__typeof__(_Unwind_SetGR) *set_register = gotcha_base_symbol("_Unwind_SetGR");
	void *resume = gotcha_base_symbol("_Unwind_Resume");
	if (!get_ip || !set_ip || !set_register || !resume)
		return _URC_FATAL_PHASE2_ERROR;
	/* elsewhere in the thunk no call is under way */
	if (get_ip(context) != (_Unwind_Ptr) gotcha_thunk_returned)
		return _URC_CONTINUE_UNWIND;
	set_register(context, __builtin_eh_return_data_regno(0), (_Unwind_Word) exception);
	set_register(context, __builtin_eh_return_data_regno(1), (_Unwind_Word) gotcha_translate(THIS.set, resume));
	set_ip(context, (_Unwind_Ptr) gotcha_thunk_unwind);
	return _URC_INSTALL_CONTEXT;
}

/* ------------------------------------------------------------------ start */

/* The size of XSAVE's standard format: Intel SDM volume 1, 13.4.3. */
static size_t vector_state_bytes(void) {
	unsigned a, b, c, d;
	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
		return FXSAVE_SIZE;
	size_t size = FXSAVE_SIZE + XSAVE_HEADER_SIZE;
	unsigned enabled, high;
	__asm__("xgetbv" : "=a" (enabled), "=d" (high) : "c" (0));
	for (unsigned component = 2; component < 32; component++)
		if (VECTOR_COMPONENTS & enabled & 1u << component && __get_cpuid_count(0xd, component, &a, &b, &c, &d) && a + b > size)
			size = a + b;
	return size;
}

int gotcha_calls_init(void) {
	gotcha_base_errno_offset = (intptr_t) gotcha_base_errno() - (intptr_t) thread_pointer();
	gotcha_vector_state_bytes = vector_state_bytes();
	int error = pthread_key_create(&release_key, release);
	return error ? gotcha_fail(error, "pthread_key_create: %s", strerror(error)) : 0;
}
