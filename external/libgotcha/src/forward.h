/* Wrappers that only forward, made from lists of names by X-macros.  They take and return six
 * integer registers, which covers every listed function: none takes floating-point arguments,
 * takes more than six, or returns more than rax. */
#ifndef GOTCHA_FORWARD_H
#define GOTCHA_FORWARD_H

#define SIX_PARAMETERS long a, long b, long c, long d, long e, long f
#define SIX_ARGUMENTS a, b, c, d, e, f
typedef long forwarded(SIX_PARAMETERS);

/* Base's function on the calling TCB, not preempted. */
#define FORWARD_SHARED(name, base_pointer) \
	static long shared_##name(SIX_PARAMETERS) { \
		struct shared_guard guard; \
		shared_enter(&guard); \
		errno_in(); \
		long result = ((forwarded *) (base_pointer))(SIX_ARGUMENTS); \
		errno_out(); \
		shared_leave(&guard); \
		return result; \
	}

/* Base's function on the kernel thread's own TCB, not preempted. */
#define FORWARD_HOSTED(name, base_pointer) \
	static long hosted_##name(SIX_PARAMETERS) { \
		struct hosted_guard guard; \
		gotcha_hosted_enter(&guard); \
		long result = ((forwarded *) (base_pointer))(SIX_ARGUMENTS); \
		gotcha_hosted_leave(&guard); \
		return result; \
	}

/* The libset's own copy, not preempted. */
#define FORWARD_DEFERRED(name, base_pointer) \
	static long deferred_##name(SIX_PARAMETERS) { \
		void *function = in_libset() ? libc_copy(THIS.set, base_pointer) : base_pointer; \
		deferred_enter(); \
		long result = ((forwarded *) function)(SIX_ARGUMENTS); \
		deferred_leave(); \
		return result; \
	}

#endif
