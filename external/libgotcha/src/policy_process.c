/* Policy of what belongs to the process: its environment, its end, its identity, its children. */
#include "internal.h"
#include "forward.h"

#include <errno.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* base, not preempted: one environment, one option parser, one log per process */
#define SHARED_FUNCTIONS(X) \
	X(getenv) X(secure_getenv) X(setenv) X(unsetenv) X(putenv) X(clearenv) \
	X(getopt) X(getopt_long) X(getopt_long_only) \
	X(__cxa_finalize) \
	X(vsyslog) X(__vsyslog_chk) X(openlog) X(closelog) X(setlogmask)
/* base on the caller's TCB, not preempted: what walks the list of threads, or never returns */
#define HOSTED_FUNCTIONS(X) \
	X(exit) X(quick_exit) X(daemon) X(forkpty) X(setuid) X(setgid) X(seteuid) X(setegid) X(setreuid) X(setregid) \
	X(setresuid) X(setresgid) X(setgroups) X(initgroups) X(unshare) X(setns)
/* own copy, not preempted: a cancel halfway would leak mappings and descriptors, or leave a lock of
 * the process taken */
#define DEFERRED_FUNCTIONS(X) \
	X(fdopendir) \
	X(getpwnam) X(getpwuid) X(getpwnam_r) X(getpwuid_r) X(getpwent) X(setpwent) X(endpwent) \
	X(getgrnam) X(getgrgid) X(getgrnam_r) X(getgrgid_r) X(getgrent) X(setgrent) X(endgrent) X(getgrouplist) \
	X(catopen) X(catclose)
#define REGISTRATIONS(X) \
	X(at_quick_exit) X(__cxa_at_quick_exit) X(pthread_atfork) X(__register_atfork)

enum {
#define X(name) INDEX_##name,
	SHARED_FUNCTIONS(X) HOSTED_FUNCTIONS(X) DEFERRED_FUNCTIONS(X) REGISTRATIONS(X)
#undef X
	INDEX_syslog, INDEX___syslog_chk, INDEX___cxa_atexit, INDEX_on_exit, INDEX_fork, INDEX__Fork, INDEX_execve, INDEX_execv, INDEX_execvp, INDEX_execvpe, INDEX_fexecve,
	INDEX_execl, INDEX_execlp, INDEX_execle, INDEX_posix_spawn, INDEX_posix_spawnp, INDEX_system,
};
static struct row rows[];

#define X(name) FORWARD_SHARED(name, rows[INDEX_##name].base)
SHARED_FUNCTIONS(X)
#undef X
#define X(name) FORWARD_HOSTED(name, rows[INDEX_##name].base)
HOSTED_FUNCTIONS(X)
#undef X
#define X(name) FORWARD_DEFERRED(name, rows[INDEX_##name].base)
DEFERRED_FUNCTIONS(X)
#undef X

/* The variadic ones: on the stack and in floating-point registers there may be arguments as well. */
static void process_syslog(int priority, const char *format, ...) {
	va_list list;
	va_start(list, format);
	shared_vsyslog(priority, (long) format, (long) list, 0, 0, 0);
	va_end(list);
}
static void process_syslog_chk(int priority, int flag, const char *format, ...) {
	va_list list;
	va_start(list, format);
	shared___vsyslog_chk(priority, flag, (long) format, (long) list, 0, 0);
	va_end(list);
}

/* A libset is a cache: what its constructors register for the process's end, or for forks, is not to be run:
 * the program's own copies of the libraries have registered it. */
#define X(name) \
	static long registering_##name(SIX_PARAMETERS) { \
		if (gotcha_is_loading()) \
			return 0; \
		struct shared_guard guard; \
		shared_enter(&guard); \
		long result = ((forwarded *) rows[INDEX_##name].base)(SIX_ARGUMENTS); \
		shared_leave(&guard); \
		return result; \
	}
REGISTRATIONS(X)
X(__cxa_atexit)
X(on_exit)
#undef X

/* What code of a libset registers later is the libset's: it is run at the process's end, unless the libset is
 * rolled back before. The executable's code registers for its own statics, which are not. */
static long process_cxa_atexit(void (*function)(void *, int), void *argument, void *object) {
	if (THIS.set && !gotcha_is_loading() && gotcha_is_copy(THIS.set, (uintptr_t) object))
		return gotcha_libset_at_exit(THIS.set, function, argument, false) ? 0 : -1;
	return registering___cxa_atexit((long) function, (long) argument, (long) object, 0, 0, 0);
}
static long process_on_exit(void (*function)(int, void *), void *argument) {
	if (THIS.set && !gotcha_is_loading() && gotcha_is_copy(THIS.set, (uintptr_t) function))
		return gotcha_libset_at_exit(THIS.set, (void (*)(void *, int)) (void *) function, argument, true) ? 0 : -1;
	return registering_on_exit((long) function, (long) argument, 0, 0, 0, 0);
}

/* On the caller's TCB: the child keeps only the forking thread, and takes the stack of every other
 * TCB in its list for free. The child's timers do not exist; the control library is told by the
 * handler that gotcha_process_init() registers. */
static pid_t process_fork(void) {
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	pid_t child = ((pid_t (*)(void)) rows[INDEX_fork].base)();
	gotcha_hosted_leave(&guard);
	return child;
}

/* Runs no handlers, so that it may be called where locks are held, and its child may do little: but what is
 * known about the process and its timers is made true. */
static pid_t process_fork_without_handlers(void) {
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	pid_t child = ((pid_t (*)(void)) rows[INDEX__Fork].base)();
	if (!child) {
		gotcha_signals_forked();
		if (gotcha_callbacks.forked)
			gotcha_callbacks.forked();
	}
	gotcha_hosted_leave(&guard);
	return child;
}

/* No bracket: the caller may be the child of a vfork(), whose successful exec would leave the
 * parent's memory with the bracket open. The C library's exec functions take no lock. */
static int exec_with(int index, const void *program, void *arguments, void *environment) {
	struct exec_guard guard;
	gotcha_exec_enter(&guard);
	const void *function = in_libset() ? libc_copy(THIS.set, rows[index].base) : rows[index].base;
	int result = ((int (*)(const void *, void *, void *)) function)(program, arguments, environment);
	gotcha_exec_leave(&guard);
	return result;
}

static int process_execve(const char *path, char *const arguments[], char *const environment[]) {
	return exec_with(INDEX_execve, path, (void *) arguments, (void *) environment);
}
static int process_execv(const char *path, char *const arguments[]) {
	return exec_with(INDEX_execv, path, (void *) arguments, NULL);
}
static int process_execvp(const char *file, char *const arguments[]) {
	return exec_with(INDEX_execvp, file, (void *) arguments, NULL);
}
static int process_execvpe(const char *file, char *const arguments[], char *const environment[]) {
	return exec_with(INDEX_execvpe, file, (void *) arguments, (void *) environment);
}
static int process_fexecve(int file, char *const arguments[], char *const environment[]) {
	return exec_with(INDEX_fexecve, (void *) (intptr_t) file, (void *) arguments, (void *) environment);
}

/* The variadic ones: their arguments as an array, on the stack as in the C library, because the
 * caller may be the child of a vfork(). */
#define COLLECT(first, list) \
	va_list list; \
	va_start(list, first); \
	size_t count = 1; \
	while (va_arg(list, char *)) \
		count++; \
	va_end(list); \
	char *arguments[count + 1]; \
	va_start(list, first); \
	arguments[0] = (char *) first; \
	for (size_t i = 1; i <= count; i++) \
		arguments[i] = va_arg(list, char *)

static int process_execl(const char *path, const char *first, ...) {
	COLLECT(first, list);
	va_end(list);
	return process_execv(path, arguments);
}
static int process_execlp(const char *file, const char *first, ...) {
	COLLECT(first, list);
	va_end(list);
	return process_execvp(file, arguments);
}
static int process_execle(const char *path, const char *first, ...) {
	COLLECT(first, list);
	char *const *environment = va_arg(list, char *const *);
	va_end(list);
	return process_execve(path, arguments, environment);
}

/* ------------------------------------------------------------------ starting programs */

typedef int spawn(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *, char *const *, char *const *);

/* Base's, not preempted: it returns when the program has started. */
static int spawn_with(int index, pid_t *child, const char *program, const posix_spawn_file_actions_t *actions,
		const posix_spawnattr_t *attributes, char *const arguments[], char *const environment[]) {
	struct shared_guard guard;
	shared_enter(&guard);
	struct spawn_guard signals;
	gotcha_spawn_enter(&signals);
	int error = ((spawn *) rows[index].base)(child, program, actions, attributes, arguments, environment);
	gotcha_spawn_leave(&signals);
	shared_leave(&guard);
	return error;
}

static int process_posix_spawn(pid_t *child, const char *path, const posix_spawn_file_actions_t *actions,
		const posix_spawnattr_t *attributes, char *const arguments[], char *const environment[]) {
	return spawn_with(INDEX_posix_spawn, child, path, actions, attributes, arguments, environment);
}
static int process_posix_spawnp(pid_t *child, const char *file, const posix_spawn_file_actions_t *actions,
		const posix_spawnattr_t *attributes, char *const arguments[], char *const environment[]) {
	return spawn_with(INDEX_posix_spawnp, child, file, actions, attributes, arguments, environment);
}

/* ------------------------------------------------------------------ system() */

/* The C library's own keeps to itself what it does to the process: SIGINT and SIGQUIT are ignored while any call
 * waits. A function that is cancelled meanwhile must not leave that behind. */
static void shell_enter(sigset_t *reset) {
	sigemptyset(reset);
	if (gotcha_ignore_enter(SIGINT))
		sigaddset(reset, SIGINT);
	if (gotcha_ignore_enter(SIGQUIT))
		sigaddset(reset, SIGQUIT);
}

static void shell_leave(void) {
	gotcha_ignore_leave(SIGINT);
	gotcha_ignore_leave(SIGQUIT);
}

/* Returns an errno value. */
static int start_shell(const char *line, const sigset_t *mask, const sigset_t *reset, pid_t *child) {
	char *const arguments[] = { "sh", "-c", "--", (char *) line, NULL };
	posix_spawnattr_t attributes;
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setsigmask(&attributes, mask);
	posix_spawnattr_setsigdefault(&attributes, reset);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
	int error = process_posix_spawn(child, "/bin/sh", NULL, &attributes, arguments, environ);
	posix_spawnattr_destroy(&attributes);
	return error;
}

/* Its end is waited for preemptibly, and the child left as it is: once it were gone, its number could be given to
 * another process before a cancel looks at it. */
static void await_shell(pid_t child) {
	siginfo_t info;
	while (raw_syscall(SYS_waitid, P_PID, child, (long) &info, WEXITED | WNOWAIT) == -EINTR)
		;
}

/* Context: shared or hosted. */
static void kill_shell(void *child) {
	int status;
	raw_syscall(SYS_kill, *(pid_t *) child, SIGKILL, 0, 0);
	while (raw_syscall(SYS_wait4, *(pid_t *) child, (long) &status, 0, 0) == -EINTR)
		;
	shell_leave();
}

/* Outside of libsets the wait is a cancellation point. */
static void await_shell_cancellably(pid_t child) {
	siginfo_t info;
	pthread_cleanup_push(kill_shell, &child);
	while (waitid(P_PID, child, &info, WEXITED | WNOWAIT) && errno == EINTR)
		;
	pthread_cleanup_pop(0);
}

/* As the C library does where a thread is cancelled. */
void gotcha_shell_abandon(struct libgotcha_thread *state) {
	pid_t child = state->shell;
	state->shell = 0;
	if (child)
		kill_shell(&child);
}

static int process_system(const char *line) {
	if (!line)
		return process_system("exit 0") == 0;
	sigset_t mask, reset, child_signal = { 0 };
	*(uint64_t *) &child_signal = 1ull << (SIGCHLD - 1);
	libgotcha_change_mask(SIG_BLOCK, &child_signal, &mask);
	struct shared_guard guard;
	shared_enter(&guard);
	shell_enter(&reset);
	pid_t child = 0;
	int status = 127 << 8, error = start_shell(line, &mask, &reset, &child);
	if (!error && THIS.is_virtual)
		THIS.shell = child;
	shared_leave(&guard);
	if (!error)
		(in_libset() ? await_shell : await_shell_cancellably)(child);
	shared_enter(&guard);
	THIS.shell = 0;
	long reaped = error ? child : raw_syscall(SYS_wait4, child, (long) &status, 0, 0);
	if (reaped != child) {
		status = -1;
		error = -reaped;
	}
	shell_leave();
	shared_leave(&guard);
	libgotcha_change_mask(SIG_SETMASK, &mask, NULL);
	if (error)
		*caller_errno() = error;
	return status;
}

static struct row rows[] = {
#define X(name) [INDEX_##name] = { #name, shared_##name },
	SHARED_FUNCTIONS(X)
#undef X
#define X(name) [INDEX_##name] = { #name, hosted_##name },
	HOSTED_FUNCTIONS(X)
#undef X
#define X(name) [INDEX_##name] = { #name, deferred_##name },
	DEFERRED_FUNCTIONS(X)
#undef X
#define X(name) [INDEX_##name] = { #name, registering_##name },
	REGISTRATIONS(X)
#undef X
	[INDEX_syslog] = { "syslog", process_syslog },
	[INDEX___syslog_chk] = { "__syslog_chk", process_syslog_chk },
	[INDEX___cxa_atexit] = { "__cxa_atexit", process_cxa_atexit },
	[INDEX_on_exit] = { "on_exit", process_on_exit },
	[INDEX_fork] = { "fork", process_fork },
	[INDEX__Fork] = { "_Fork", process_fork_without_handlers, true },
	[INDEX_execve] = { "execve", process_execve, true },
	[INDEX_execv] = { "execv", process_execv, true },
	[INDEX_execvp] = { "execvp", process_execvp, true },
	[INDEX_execvpe] = { "execvpe", process_execvpe, true },
	[INDEX_fexecve] = { "fexecve", process_fexecve, true },
	[INDEX_execl] = { "execl", process_execl, true },
	[INDEX_execlp] = { "execlp", process_execlp, true },
	[INDEX_execle] = { "execle", process_execle, true },
	[INDEX_posix_spawn] = { "posix_spawn", process_posix_spawn, true },
	[INDEX_posix_spawnp] = { "posix_spawnp", process_posix_spawnp, true },
	[INDEX_system] = { "system", process_system, true },
};
struct rows gotcha_rows_process = { rows, lengthof(rows) };
