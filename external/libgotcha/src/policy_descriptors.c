/* Policy of functions that open descriptors: own copy; and what a function opens that is tracked is noted until it
 * closes it, so that a cancel can (resources.c).
 *
 * No preemption comes between the kernel's opening, or closing, and the note: a cancel then would leak the descriptor,
 * or close another's of the same number. Calls that do not block are not preempted at all. The others are made here,
 * past the C library, so that a preemption can be deferred from the first instruction after the kernel's: a function that
 * waits in open() or accept() is stopped like any other.
 *
 * What a stream is made of is the stream's from then on, and closed with it (close_streams() in libset.c). A folder's is
 * closed by closedir().
 *
 * Not noted: what else the C library opens for itself, descriptors that arrive in messages or that bare system calls open, and
 * those whose number the caller has chosen (dup2()), which may be standard output. */
#include "internal.h"
#include "forward.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>

/* Blocking or not, which the kernel knows as such. */
#define OPENING(X) X(open) X(openat) X(creat) X(__open_2) X(__openat_2)
/* The result is a descriptor. */
#define MAKING(X) X(socket) X(dup) X(eventfd) X(epoll_create) X(epoll_create1) X(timerfd_create) X(signalfd) X(inotify_init) X(inotify_init1) \
	X(memfd_create) X(mkstemp) X(mkostemp) X(mkstemps) X(mkostemps)
/* Two are written to an array. */
#define MAKING_TWO(X) X(pipe) X(pipe2) X(socketpair)

enum {
#define X(name) INDEX_##name,
	OPENING(X) MAKING(X) MAKING_TWO(X) INDEX_fcntl, INDEX_close, INDEX_opendir, INDEX_closedir
#undef X
};
static struct row rows[];

static bool is_noted(void) {
	return unlikely(THIS.tracked & LIBGOTCHA_TRACKS_DESCRIPTORS) && in_libset();
}

static void note(long descriptor) {
	struct shared_guard guard;
	shared_enter(&guard);
	if (descriptor >= 0)
		gotcha_descriptor_add(descriptor, THIS.set->number);
	shared_leave(&guard);
}

static void drop_note(int descriptor) {
	struct shared_guard guard;
	shared_enter(&guard);
	gotcha_descriptor_remove(descriptor, THIS.set->number);
	shared_leave(&guard);
}

long gotcha_open(long number, long a, long b, long c, long d) {
	long descriptor = gotcha_system_call(number, a, b, c, d);
	note(descriptor);
	deferred_leave();
	return descriptor < 0 ? fail(-descriptor) : descriptor;
}

bool gotcha_descriptors_are_noted(void) {
	return is_noted();
}

#define OWN(index) ((forwarded *) gotcha_own(&rows[index]))

/* The kernel ignores the mode where it creates nothing. */
static long descriptors_open(const char *path, int flags, mode_t mode) {
	if (!is_noted())
		return OWN(INDEX_open)((long) path, flags, mode, 0, 0, 0);
	return gotcha_open(SYS_openat, AT_FDCWD, (long) path, flags, mode);
}
static long descriptors_openat(int folder, const char *path, int flags, mode_t mode) {
	if (!is_noted())
		return OWN(INDEX_openat)(folder, (long) path, flags, mode, 0, 0);
	return gotcha_open(SYS_openat, folder, (long) path, flags, mode);
}
static long descriptors_creat(const char *path, mode_t mode) {
	if (!is_noted())
		return OWN(INDEX_creat)((long) path, mode, 0, 0, 0, 0);
	return gotcha_open(SYS_openat, AT_FDCWD, (long) path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}
/* The compiler's, for calls without a mode: these end the process if one is needed, and the definition does so. */
static long descriptors___open_2(const char *path, int flags) {
	if (!is_noted() || flags & (O_CREAT | O_TMPFILE))
		return OWN(INDEX___open_2)((long) path, flags, 0, 0, 0, 0);
	return gotcha_open(SYS_openat, AT_FDCWD, (long) path, flags, 0);
}
static long descriptors___openat_2(int folder, const char *path, int flags) {
	if (!is_noted() || flags & (O_CREAT | O_TMPFILE))
		return OWN(INDEX___openat_2)(folder, (long) path, flags, 0, 0, 0);
	return gotcha_open(SYS_openat, folder, (long) path, flags, 0);
}

static long make(int index, SIX_PARAMETERS) {
	forwarded *own = OWN(index);
	if (!is_noted())
		return own(SIX_ARGUMENTS);
	deferred_enter();
	long descriptor = own(SIX_ARGUMENTS);
	note(descriptor);
	deferred_leave();
	return descriptor;
}
#define X(name) static long descriptors_##name(SIX_PARAMETERS) { return make(INDEX_##name, SIX_ARGUMENTS); }
MAKING(X)
#undef X

static long make_two(int index, const int *made, SIX_PARAMETERS) {
	forwarded *own = OWN(index);
	if (!is_noted())
		return own(SIX_ARGUMENTS);
	deferred_enter();
	long result = own(SIX_ARGUMENTS);
	for (int i = 0; !result && i < 2; i++)
		note(made[i]);
	deferred_leave();
	return result;
}
static long descriptors_pipe(SIX_PARAMETERS) {
	return make_two(INDEX_pipe, (const int *) a, SIX_ARGUMENTS);
}
static long descriptors_pipe2(SIX_PARAMETERS) {
	return make_two(INDEX_pipe2, (const int *) a, SIX_ARGUMENTS);
}
static long descriptors_socketpair(SIX_PARAMETERS) {
	return make_two(INDEX_socketpair, (const int *) d, SIX_ARGUMENTS);
}

/* Other commands may wait. */
static long descriptors_fcntl(SIX_PARAMETERS) {
	if ((int) b == F_DUPFD || (int) b == F_DUPFD_CLOEXEC)
		return make(INDEX_fcntl, SIX_ARGUMENTS);
	return OWN(INDEX_fcntl)(SIX_ARGUMENTS);
}

/* Whatever the kernel says but for EBADF, it is closed (close(2)). By then it may be another's, but not this function's. */
static long descriptors_close(int descriptor) {
	if (!is_noted())
		return OWN(INDEX_close)(descriptor, 0, 0, 0, 0, 0);
	long result = gotcha_system_call(SYS_close, descriptor, 0, 0, 0);
	if (result != -EBADF)
		drop_note(descriptor);
	deferred_leave();
	return fail(-result);
}

void gotcha_descriptor_is_streams(int descriptor) {
	if (is_noted())
		drop_note(descriptor);
}

/* Any copy knows where it is. */
static int descriptor_of(DIR *folder) {
	struct shared_guard guard;
	shared_enter(&guard);
	int descriptor = dirfd(folder);
	shared_leave(&guard);
	return descriptor;
}

/* Not preempted, noted or not: a cancel halfway would leave the descriptor to nobody. */
static DIR *descriptors_opendir(const char *path) {
	forwarded *own = OWN(INDEX_opendir);
	deferred_enter();
	DIR *folder = (DIR *) own((long) path, 0, 0, 0, 0, 0);
	if (folder && is_noted())
		note(descriptor_of(folder));
	deferred_leave();
	return folder;
}

static long descriptors_closedir(DIR *folder) {
	forwarded *own = OWN(INDEX_closedir);
	deferred_enter();
	if (folder && is_noted())
		drop_note(descriptor_of(folder));
	long result = own((long) folder, 0, 0, 0, 0, 0);
	deferred_leave();
	return result;
}

static struct row rows[] = {
#define X(name) [INDEX_##name] = { #name, descriptors_##name },
	OPENING(X) MAKING(X) MAKING_TWO(X) X(fcntl) X(close) X(opendir) X(closedir)
#undef X
};
struct rows gotcha_rows_descriptors = { rows, lengthof(rows) };
