/* Policy "follow the object": every function of the C library that takes or implies a FILE *.
 *
 * A stream belongs to the C library that opened it, its *home*: its buffers are filled by that
 * library's code, it is on that library's list of open streams, and its pointer to a table of
 * functions (vtable) leads into that library, which refuses others.  Base's streams and a libset's
 * own streams meet in one function, since stdin, stdout and stderr are shared by the whole program
 * and any stream can be passed along.  So a call goes where its stream is at home:
 *
 *   home                          what runs
 *   the caller's own libset       that libset's definition; preemptible, as if not intercepted
 *   base, and the caller too      base's definition, after one comparison
 *   otherwise                     the home's definition, preemption deferred
 *
 * Hence a paused function never holds the lock of a stream that others use too, and no line is
 * lost or torn.  A function that names no stream but implies one, such as puts(), follows the
 * FILE that stdin, stdout or stderr points to at that moment.
 *
 * Opening belongs to the caller's libset.  It is not preempted: a descriptor that is open but not
 * yet on the list of streams could not be found, hence not closed, when the function is cancelled.
 *
 * Limits.  An operation on a shared stream cannot be preempted while it blocks, be it on the file
 * or on the lock.  In particular, who holds a shared stream by flockfile() must not launch a
 * function that uses this stream. */
#include "forward.h"
#include "internal.h"

#include <assert.h>
#include <stdnoreturn.h>


/* ------------------------------------------------------------------ which functions */

/* Functions with a FILE *, and the position of that argument. */
#define WITH_STREAM(X) \
	X(clearerr, 0) X(clearerr_unlocked, 0) X(feof, 0) X(feof_unlocked, 0) X(_IO_feof, 0) \
	X(ferror, 0) X(ferror_unlocked, 0) X(_IO_ferror, 0) X(fileno, 0) X(fileno_unlocked, 0) \
	/* characters and lines */ \
	X(fgetc, 0) X(fgetc_unlocked, 0) X(getc, 0) X(getc_unlocked, 0) X(_IO_getc, 0) X(getw, 0) \
	X(fputc, 1) X(fputc_unlocked, 1) X(putc, 1) X(putc_unlocked, 1) X(_IO_putc, 1) X(putw, 1) \
	X(ungetc, 1) X(_IO_ungetc, 1) X(_IO_peekc_locked, 0) \
	X(fgets, 2) X(fgets_unlocked, 2) X(__fgets_chk, 3) X(__fgets_unlocked_chk, 3) X(_IO_fgets, 2) \
	X(fputs, 1) X(fputs_unlocked, 1) X(_IO_fputs, 1) \
	X(getline, 2) X(getdelim, 3) X(__getdelim, 3) \
	X(fread, 3) X(fread_unlocked, 3) X(__fread_chk, 4) X(__fread_unlocked_chk, 4) X(_IO_fread, 3) \
	X(fwrite, 3) X(fwrite_unlocked, 3) X(_IO_fwrite, 3) \
	X(_IO_sgetn, 0) X(_IO_padn, 0) X(_IO_getline, 0) X(_IO_getline_info, 0) \
	/* what the macros and inline functions of <stdio.h> call when a buffer is empty or full */ \
	X(__uflow, 0) X(__underflow, 0) X(__overflow, 0) \
	X(__wuflow, 0) X(__wunderflow, 0) X(__woverflow, 0) \
	/* position, buffer */ \
	X(fseek, 0) X(fseeko, 0) X(fseeko64, 0) X(__fseeko64, 0) X(_IO_seekoff, 0) X(_IO_seekpos, 0) \
	X(ftell, 0) X(ftello, 0) X(ftello64, 0) X(__ftello64, 0) X(_IO_ftell, 0) X(rewind, 0) \
	X(fgetpos, 0) X(fgetpos64, 0) X(_IO_fgetpos, 0) X(_IO_fgetpos64, 0) \
	X(fsetpos, 0) X(fsetpos64, 0) X(_IO_fsetpos, 0) X(_IO_fsetpos64, 0) \
	X(setbuf, 0) X(setbuffer, 0) X(_IO_setbuffer, 0) X(setlinebuf, 0) X(setvbuf, 0) X(_IO_setvbuf, 0) \
	X(__fbufsize, 0) X(__flbf, 0) X(__fpending, 0) X(__fpurge, 0) X(__freadable, 0) \
	X(__freading, 0) X(__fsetlocking, 0) X(__fwritable, 0) X(__fwriting, 0) \
	/* wide characters */ \
	X(fwide, 0) X(fgetwc, 0) X(fgetwc_unlocked, 0) X(getwc, 0) X(getwc_unlocked, 0) \
	X(fputwc, 1) X(fputwc_unlocked, 1) X(putwc, 1) X(putwc_unlocked, 1) X(ungetwc, 1) \
	X(fgetws, 2) X(fgetws_unlocked, 2) X(__fgetws_chk, 3) X(__fgetws_unlocked_chk, 3) \
	X(fputws, 1) X(fputws_unlocked, 1) \
	/* formats */ \
	X(vfprintf, 0) X(__vfprintf_chk, 0) X(_IO_vfprintf, 0) X(vfwprintf, 0) X(__vfwprintf_chk, 0) \
	X(vfscanf, 0) X(__vfscanf, 0) X(_IO_vfscanf, 0) X(__isoc99_vfscanf, 0) X(__isoc23_vfscanf, 0) \
	X(vfwscanf, 0) X(__isoc99_vfwscanf, 0) X(__isoc23_vfwscanf, 0) X(printf_size, 0) X(__printf_fp, 0) \
	/* closes, but also waits for a child, perhaps for long: so it is preemptible, unlike CLOSING */ \
	X(pclose, 0) \
	/* the account and mount databases in files */ \
	X(fgetgrent, 0) X(fgetgrent_r, 0) X(putgrent, 1) X(fgetpwent, 0) X(fgetpwent_r, 0) X(putpwent, 1) \
	X(fgetsgent, 0) X(fgetsgent_r, 0) X(putsgent, 1) X(fgetspent, 0) X(fgetspent_r, 0) X(putspent, 1) \
	X(getmntent, 0) X(getmntent_r, 0) X(__getmntent_r, 0) X(addmntent, 0) \
	X(argp_help, 1)

/* Functions that end a stream or give it another file, the position of the FILE *, and whether they
 * report what could not be written. */
#define CLOSING(X) \
	X(fclose, 0, true) X(_IO_fclose, 0, true) X(endmntent, 0, false) X(__endmntent, 0, false) \
	X(freopen, 2, false) X(freopen64, 2, false)

/* Functions that make a stream. */
#define OPENING(X) \
	X(fopen) X(fopen64) X(_IO_fopen) X(tmpfile) X(tmpfile64) X(fmemopen) \
	X(open_memstream) X(open_wmemstream) X(setmntent) X(__setmntent)

/* The same, of a descriptor. */
#define ADOPTING(X) X(fdopen) X(_IO_fdopen)

/* The same, to another program. */
#define SPAWNING(X) X(popen) X(_IO_popen)

/* Functions that imply a stream, and which. */
#define IMPLYING_STREAM(X) \
	X(getchar, stdin) X(getchar_unlocked, stdin) X(getwchar, stdin) X(getwchar_unlocked, stdin) \
	X(gets, stdin) X(_IO_gets, stdin) X(__gets_chk, stdin) \
	X(vscanf, stdin) X(__isoc99_vscanf, stdin) X(__isoc23_vscanf, stdin) \
	X(vwscanf, stdin) X(__isoc99_vwscanf, stdin) X(__isoc23_vwscanf, stdin) \
	X(putchar, stdout) X(putchar_unlocked, stdout) X(putwchar, stdout) X(putwchar_unlocked, stdout) \
	X(puts, stdout) X(_IO_puts, stdout) X(vprintf, stdout) X(__vprintf_chk, stdout) \
	X(vwprintf, stdout) X(__vwprintf_chk, stdout) \
	X(perror, stderr) X(psiginfo, stderr) X(psignal, stderr) X(vwarn, stderr) X(vwarnx, stderr) \
	/* these end in abort() */ \
	X(__assert, stderr) X(__assert_fail, stderr) X(__assert_perror_fail, stderr)

/* Variadic functions, by number of named arguments, and who does the same with a va_list. */
#define VARIADIC_1(X) \
	X(printf, vprintf) X(_IO_printf, vprintf) X(wprintf, vwprintf) \
	X(scanf, vscanf) X(__isoc99_scanf, __isoc99_vscanf) X(__isoc23_scanf, __isoc23_vscanf) \
	X(wscanf, vwscanf) X(__isoc99_wscanf, __isoc99_vwscanf) X(__isoc23_wscanf, __isoc23_vwscanf) \
	X(warn, vwarn) X(warnx, vwarnx)
#define VARIADIC_2(X) \
	X(fprintf, vfprintf) X(_IO_fprintf, vfprintf) X(fwprintf, vfwprintf) \
	X(__printf_chk, __vprintf_chk) X(__wprintf_chk, __vwprintf_chk) \
	X(fscanf, vfscanf) X(__isoc99_fscanf, __isoc99_vfscanf) X(__isoc23_fscanf, __isoc23_vfscanf) \
	X(fwscanf, vfwscanf) X(__isoc99_fwscanf, __isoc99_vfwscanf) X(__isoc23_fwscanf, __isoc23_vfwscanf)
#define VARIADIC_3(X) \
	X(__fprintf_chk, __vfprintf_chk) X(__fwprintf_chk, __vfwprintf_chk)

/* Functions with a wrapper of their own below, and whether calls outside of libsets need it. */
#define SPECIAL(X) \
	X(fflush, true) X(_IO_fflush, true) X(fflush_unlocked, true) \
	X(flockfile, true) X(_IO_flockfile, true) X(ftrylockfile, true) X(_IO_ftrylockfile, true) \
	X(funlockfile, true) X(_IO_funlockfile, true) \
	X(_flushlbf, false) X(_IO_flush_all, false) X(_IO_flush_all_linebuffered, false) X(fcloseall, false) \
	X(fopencookie, false) X(herror, false) \
	X(err, false) X(errx, false) X(verr, false) X(verrx, false) X(error, false) X(error_at_line, false)

enum {
#define X(name, ...) ROW_##name,
	WITH_STREAM(X) CLOSING(X) OPENING(X) ADOPTING(X) SPAWNING(X) IMPLYING_STREAM(X) VARIADIC_1(X) VARIADIC_2(X) VARIADIC_3(X) SPECIAL(X)
#undef X
	ROWS_LENGTH
};
static struct row rows[ROWS_LENGTH];
#define BASE(name) ((forwarded *) rows[ROW_##name].base)

/* ------------------------------------------------------------------ homes */

/* The libset whose code called us; NULL: base. */
static inline struct libset *calling_set(void) {
	return in_libset() ? THIS.set : NULL;
}

/* The definition in `set` of a function of base.  One that the program defines itself, such as a
 * puts() in the executable, is not in the C library, and may be the same for all libsets. */
static inline forwarded *definition(const struct libset *set, forwarded *base) {
	uintptr_t address = (uintptr_t) base;
	if (!set)
		return base;
	if (unlikely(address < gotcha_libc->start || address >= gotcha_libc->end))
		return (forwarded *) gotcha_translate(set, (void *) address);
	return libc_copy(set, base);
}

/* struct _IO_FILE_plus in glibc's libio/libioP.h: the public struct, then the vtable's address.
 * Old binaries, such as C++ ones of 2000, know this too, so it cannot change. */
static_assert(sizeof(FILE) == 216, "streams of an unknown C library");
static inline uintptr_t vtable_of(const FILE *stream) {
	return *(const uintptr_t *) (stream + 1);
}

static inline bool at_home(uintptr_t vtable, const struct libset *set) {
	uintptr_t start = set ? set->libc_start : gotcha_libc->start;
	uintptr_t end = set ? set->libc_end : gotcha_libc->end;
	return vtable >= start && vtable < end;
}

static inline int *errno_in_set(const struct libset *set) {
	return set ? (int *) (thread_pointer() + set->errno_offset) : gotcha_base_errno();
}

/* A bracket for a call from `caller` of a stream elsewhere, with errno carried in both directions. */
struct visit {
	struct shared_guard guard;
	struct libset *caller, *home;
};
static void visit_enter(struct visit *visit, uintptr_t vtable) {
	visit->caller = calling_set();
	shared_enter(&visit->guard);
	visit->home = gotcha_libset_of_libc_address(vtable);
	*errno_in_set(visit->home) = *errno_in_set(visit->caller);
}
static void visit_leave(struct visit *visit) {
	*errno_in_set(visit->caller) = *errno_in_set(visit->home);
	shared_leave(&visit->guard);
}

/* ------------------------------------------------------------------ following */

__attribute__((noinline)) static long visit_home(forwarded *base, uintptr_t vtable, SIX_PARAMETERS) {
	struct visit visit;
	visit_enter(&visit, vtable);
	long result = definition(visit.home, base)(SIX_ARGUMENTS);
	visit_leave(&visit);
	return result;
}

/* Calls the function of `row` where `stream` is at home. */
__attribute__((always_inline)) static inline long follow(int row, const FILE *stream, SIX_PARAMETERS) {
	forwarded *base = rows[row].base;
	uintptr_t vtable = vtable_of(stream);
	struct libset *caller = calling_set();
	if (at_home(vtable, caller))
		return definition(caller, base)(SIX_ARGUMENTS);
	return visit_home(base, vtable, SIX_ARGUMENTS);
}

#define X(name, position) \
	static long wrap_##name(SIX_PARAMETERS) { \
		const long arguments[] = { SIX_ARGUMENTS }; \
		return follow(ROW_##name, (FILE *) arguments[position], SIX_ARGUMENTS); \
	}
WITH_STREAM(X)
#undef X

#define X(name, stream) \
	static long wrap_##name(SIX_PARAMETERS) { \
		return follow(ROW_##name, stream, SIX_ARGUMENTS); \
	}
IMPLYING_STREAM(X)
#undef X

/* In the wrappers of variadic functions the named arguments are integers as well. */
#define VARIADIC(last, ...) ({ \
		va_list list; \
		va_start(list, last); \
		long result = __VA_ARGS__; \
		va_end(list); \
		result; \
	})
#define X(name, with_list) \
	static long wrap_##name(long a, ...) { \
		return VARIADIC(a, wrap_##with_list(a, (long) list, 0, 0, 0, 0)); \
	}
VARIADIC_1(X)
#undef X
#define X(name, with_list) \
	static long wrap_##name(long a, long b, ...) { \
		return VARIADIC(b, wrap_##with_list(a, b, (long) list, 0, 0, 0)); \
	}
VARIADIC_2(X)
#undef X
#define X(name, with_list) \
	static long wrap_##name(long a, long b, long c, ...) { \
		return VARIADIC(c, wrap_##with_list(a, b, c, (long) list, 0, 0)); \
	}
VARIADIC_3(X)
#undef X

/* ------------------------------------------------------------------ opening, closing */

#define X(name) \
	static long wrap_##name(SIX_PARAMETERS) { \
		deferred_enter(); \
		long stream = definition(calling_set(), BASE(name))(SIX_ARGUMENTS); \
		deferred_leave(); \
		return stream; \
	}
OPENING(X)
#undef X

#define X(name) \
	static long wrap_##name(SIX_PARAMETERS) { \
		deferred_enter(); \
		long stream = definition(calling_set(), BASE(name))(SIX_ARGUMENTS); \
		if (stream) \
			gotcha_descriptor_is_streams(a); \
		deferred_leave(); \
		return stream; \
	}
ADOPTING(X)
#undef X

#define X(name) \
	static long wrap_##name(SIX_PARAMETERS) { \
		struct spawn_guard signals; \
		deferred_enter(); \
		gotcha_spawn_enter(&signals); \
		long stream = definition(calling_set(), BASE(name))(SIX_ARGUMENTS); \
		gotcha_spawn_leave(&signals); \
		deferred_leave(); \
		return stream; \
	}
SPAWNING(X)
#undef X

/* The last parameter is a structure of 32 bytes: it travels on the stack, whole. */
static FILE *wrap_fopencookie(void *cookie, const char *mode, cookie_io_functions_t functions) {
	FILE *(*open)(void *, const char *, cookie_io_functions_t) = (void *) definition(calling_set(), BASE(fopencookie));
	deferred_enter();
	FILE *stream = open(cookie, mode, functions);
	deferred_leave();
	return stream;
}

static long wrap_fflush(SIX_PARAMETERS);

/* Writing out may take long, so it is done first, preemptibly.  What fails here does not fail again
 * at the close, since glibc drops it.  Returns the errno value. */
static int flush_before_closing(FILE *stream) {
	struct libset *caller = calling_set();
	if (!caller || !at_home(vtable_of(stream), caller) || !(int) wrap___fwriting((long) stream, 0, 0, 0, 0, 0))
		return 0;
	return (int) wrap_fflush((long) stream, 0, 0, 0, 0, 0) ? *errno_in_set(caller) : 0;
}

#define X(name, position, reports) \
	static long wrap_##name(SIX_PARAMETERS) { \
		const long arguments[] = { SIX_ARGUMENTS }; \
		FILE *stream = (FILE *) arguments[position]; \
		int error = flush_before_closing(stream); \
		deferred_enter(); \
		long result = follow(ROW_##name, stream, SIX_ARGUMENTS); \
		deferred_leave(); \
		if (!reports || !error) \
			return result; \
		*errno_in_set(calling_set()) = error; \
		return EOF; \
	}
CLOSING(X)
#undef X

/* ------------------------------------------------------------------ all streams at once */

/* Calls the function of `row` for the caller's libset, then for base.  Outside of libsets "all"
 * means base's streams: a libset's belong to its function, which may be paused with their locks. */
static long in_both(int row, bool own_deferred, SIX_PARAMETERS) {
	forwarded *base = rows[row].base;
	struct libset *caller = calling_set();
	if (!caller)
		return base(SIX_ARGUMENTS);
	if (own_deferred)
		deferred_enter();
	int own_result = definition(caller, base)(SIX_ARGUMENTS);
	if (own_deferred)
		deferred_leave();
	int base_result = visit_home(base, gotcha_libc->start, SIX_ARGUMENTS);
	return own_result ? own_result : base_result;
}

#define FLUSHING(name) \
	static long wrap_##name(SIX_PARAMETERS) { \
		return a ? follow(ROW_##name, (FILE *) a, SIX_ARGUMENTS) : in_both(ROW_##name, false, SIX_ARGUMENTS); \
	}
FLUSHING(fflush)
FLUSHING(_IO_fflush)
FLUSHING(fflush_unlocked)

static long wrap__flushlbf(SIX_PARAMETERS) { return in_both(ROW__flushlbf, false, SIX_ARGUMENTS); }
static long wrap__IO_flush_all(SIX_PARAMETERS) { return in_both(ROW__IO_flush_all, false, SIX_ARGUMENTS); }
static long wrap__IO_flush_all_linebuffered(SIX_PARAMETERS) {
	return in_both(ROW__IO_flush_all_linebuffered, false, SIX_ARGUMENTS);
}
static long wrap_fcloseall(SIX_PARAMETERS) { return in_both(ROW_fcloseall, true, SIX_ARGUMENTS); }

static void flush_streams(struct libset *set) {
	for (FILE *stream = *set->streams; stream && at_home(vtable_of(stream), set); stream = stream->_chain) {
		if ((int) definition(set, BASE(ftrylockfile))((long) stream, 0, 0, 0, 0, 0))
			continue;
		if (definition(set, BASE(__fpending))((long) stream, 0, 0, 0, 0, 0))
			definition(set, BASE(fflush_unlocked))((long) stream, 0, 0, 0, 0, 0);
		definition(set, BASE(funlockfile))((long) stream, 0, 0, 0, 0, 0);
	}
}

/* Writes out what the streams that `set` has opened hold, except those whose locks are taken: a
 * paused function may hold them, and would have to run on to release them.  (fflush(NULL) waits
 * for each.)  The list may be walked without its lock: opening and closing are never preempted.
 *
 * Threads that live in the libset do open and close meanwhile.  They may hold the list's lock for long
 * (fflush(NULL) again), so at a function's end theirs is left for later.  At the process's end the lock is waited for, as the
 * C library does there, unless an unfinished function may hold it.
 * Context: base; no function runs in `set` meanwhile. */
void gotcha_streams_flush(struct libset *set, bool at_exit) {
	if (!set->live_threads) {
		flush_streams(set);
	} else if (at_exit && !set->has_function) {
		definition(set, gotcha_base_symbol("_IO_list_lock"))(0, 0, 0, 0, 0, 0);
		flush_streams(set);
		definition(set, gotcha_base_symbol("_IO_list_unlock"))(0, 0, 0, 0, 0, 0);
	}
}

/* ------------------------------------------------------------------ locks */

/* A function that holds the lock of a shared stream is not preempted until it releases it.
 * INVARIANT: THIS.streams_locked of the count in THIS.defer are due to such locks. */
static void count_lock(void) {
	THIS.defer++;
	THIS.streams_locked++;
}
static void discount_lock(void) {
	if (THIS.streams_locked) {
		THIS.streams_locked--;
		THIS.defer--;
	}
}

/* Does locking `stream` have to defer preemption?  Not outside of functions. */
static bool is_shared(const FILE *stream) {
	return THIS.set && !at_home(vtable_of(stream), THIS.set);
}

static long lock_stream(int row, SIX_PARAMETERS) {
	FILE *stream = (FILE *) a;
	if (!is_shared(stream))
		return follow(row, stream, SIX_ARGUMENTS);
	struct visit visit;
	visit_enter(&visit, vtable_of(stream));
	/* flockfile() returns nothing, so do not look at its result */
	bool try_only = row == ROW_ftrylockfile || row == ROW__IO_ftrylockfile;
	long result = definition(visit.home, rows[row].base)(SIX_ARGUMENTS);
	if (!try_only || !(int) result)
		count_lock();
	visit_leave(&visit);
	return result;
}

static long unlock_stream(int row, SIX_PARAMETERS) {
	FILE *stream = (FILE *) a;
	if (!is_shared(stream))
		return follow(row, stream, SIX_ARGUMENTS);
	struct visit visit;
	visit_enter(&visit, vtable_of(stream));
	definition(visit.home, rows[row].base)(SIX_ARGUMENTS);
	discount_lock();
	visit_leave(&visit);
	return 0;
}

static long wrap_flockfile(SIX_PARAMETERS) { return lock_stream(ROW_flockfile, SIX_ARGUMENTS); }
static long wrap__IO_flockfile(SIX_PARAMETERS) { return lock_stream(ROW__IO_flockfile, SIX_ARGUMENTS); }
static long wrap_ftrylockfile(SIX_PARAMETERS) { return lock_stream(ROW_ftrylockfile, SIX_ARGUMENTS); }
static long wrap__IO_ftrylockfile(SIX_PARAMETERS) { return lock_stream(ROW__IO_ftrylockfile, SIX_ARGUMENTS); }
static long wrap_funlockfile(SIX_PARAMETERS) { return unlock_stream(ROW_funlockfile, SIX_ARGUMENTS); }
static long wrap__IO_funlockfile(SIX_PARAMETERS) { return unlock_stream(ROW__IO_funlockfile, SIX_ARGUMENTS); }

/* At the end of a function, on its TCB: no lock that it has left behind defers preemption of the
 * TCB's next function.  The locks themselves stay taken, as those of a thread that ends do. */
void gotcha_streams_release_locks(void) {
	THIS.defer -= THIS.streams_locked;
	THIS.streams_locked = 0;
}

/* ------------------------------------------------------------------ messages, and the end of the process */

/* h_errno is the caller's C library's, as errno is. */
static void wrap_herror(const char *message) {
	struct visit visit;
	visit_enter(&visit, vtable_of(stderr));
	forwarded *location = gotcha_libc_symbol("__h_errno_location");
	int *own = (int *) definition(visit.caller, location)(0, 0, 0, 0, 0, 0);
	*(int *) definition(visit.home, location)(0, 0, 0, 0, 0, 0) = *own;
	definition(visit.home, BASE(herror))((long) message, 0, 0, 0, 0, 0);
	visit_leave(&visit);
}

/* exit(), as the policy has it: it belongs to the whole process, not to the caller's libset, whose
 * streams have to be written too. */
static noreturn void exit_process(int status) {
	struct shared_guard guard;
	shared_enter(&guard);
	void *target = gotcha_libc_symbol("exit");
	const struct row *row = gotcha_policy_find(target);
	shared_leave(&guard);
	if (row && row->wrapper)
		target = row->wrapper;
	((void (*)(int)) target)(status);
	__builtin_unreachable();
}

static noreturn void wrap_verr(long status, long format, long list) {
	wrap_vwarn(format, list, 0, 0, 0, 0);
	exit_process(status);
}
static noreturn void wrap_verrx(long status, long format, long list) {
	wrap_vwarnx(format, list, 0, 0, 0, 0);
	exit_process(status);
}
static noreturn void wrap_err(long status, long format, ...) {
	VARIADIC(format, wrap_vwarn(format, (long) list, 0, 0, 0, 0));
	exit_process(status);
}
static noreturn void wrap_errx(long status, long format, ...) {
	VARIADIC(format, wrap_vwarnx(format, (long) list, 0, 0, 0, 0));
	exit_process(status);
}

/* error() and error_at_line() have no variant with a va_list, so the message is made first.  They
 * write out stdout, write to stderr, and count in base's error_message_count.  `file` NULL: error().
 * Returns if `status` is 0. */
static void report_error(int status, int number, const char *file, unsigned line, const char *format, va_list list) {
	struct visit visit;
	visit_enter(&visit, vtable_of(stderr));
	int (*base_vasprintf)(char **, const char *, va_list) = gotcha_libc_symbol("vasprintf");
	char *message;
	if (base_vasprintf(&message, format, list) < 0)
		message = NULL;
	const char *text = message ? message : format;
	if (file) {
		void (*base)(int, int, const char *, unsigned, const char *, ...) =
			rows[ROW_error_at_line].base;
		base(0, number, file, line, "%s", text);
	} else {
		void (*base)(int, int, const char *, ...) = rows[ROW_error].base;
		base(0, number, "%s", text);
	}
	gotcha_base_free(message);
	visit_leave(&visit);
	if (status)
		exit_process(status);
}
static void wrap_error(int status, int number, const char *format, ...) {
	va_list list;
	va_start(list, format);
	report_error(status, number, NULL, 0, format, list);
	va_end(list);
}
static void wrap_error_at_line(int status, int number, const char *file, unsigned line, const char *format, ...) {
	va_list list;
	va_start(list, format);
	report_error(status, number, file ? file : "", line, format, list);
	va_end(list);
}

/* ------------------------------------------------------------------ rows */

#define IN_BASE(name, ...) [ROW_##name] = { #name, wrap_##name, true, NULL },
#define IN_LIBSETS(name, ...) [ROW_##name] = { #name, wrap_##name, false, NULL },
#define AS_LISTED(name, in_base) [ROW_##name] = { #name, wrap_##name, in_base, NULL },
static struct row rows[ROWS_LENGTH] = {
	WITH_STREAM(IN_BASE)
	CLOSING(IN_BASE)
	OPENING(IN_LIBSETS)
	ADOPTING(IN_LIBSETS)
	SPAWNING(IN_BASE)
	IMPLYING_STREAM(IN_BASE)
	VARIADIC_1(IN_BASE)
	VARIADIC_2(IN_BASE)
	VARIADIC_3(IN_BASE)
	SPECIAL(AS_LISTED)
};
struct rows gotcha_rows_streams = { rows, lengthof(rows) };

/* Left out on purpose:
 *   sprintf, sscanf, asprintf, dprintf, swprintf, obstack_printf and their kin
 *                           no FILE that outlives the call: the caller's own copy is right
 *   register_printf_*, parse_printf_format
 *                           a table of each libset's own
 *   getpass                 opens /dev/tty for itself; uses shared streams only without one
 *   getopt and its kin, syslog, malloc_info, malloc_stats, mtrace
 *                           belong to other policies (options, log, heap), and run in base
 *   argp_parse, argp_error, argp_failure, argp_usage, argp_state_help
 *                           call back into the program, and print only to end the process
 *   fmemopen@GLIBC_2.2.5    the old fmemopen: the caller's own copy, preemptible
 *   xdrstdio_create, clnt_perror and other RPC
 *                           cannot be linked to since glibc 2.26
 *   _IO_file_*, _IO_default_*, _IO_str_*, _IO_w*, _IO_marker and other members of libio
 *                           steps within the functions above, for streams that a program builds
 *                           itself, which glibc has not supported since 2.28
 *   thrd, locale and wide functions without a FILE
 *                           nothing to follow */
