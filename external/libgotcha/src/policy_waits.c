/* Policy "restarted": functions that wait, and that a signal handler interrupts even with SA_RESTART
 * (signal(7) lists them), such as poll() and nanosleep().
 *
 * A preemption is a signal, and nobody is to notice it: not the function that was paused and now
 * goes on, nor a caller whose own wait is hit by an expiry that has nothing left to time.  So these
 * rows also serve calls outside of libsets.  Each calls the definition it stands for, libset's own
 * or base's, and calls it again if it was interrupted by our signals alone:
 *
 *   signals that arrived since the wait began       EINTR means
 *   ours only                                       ours: start again, with the time that is left
 *   ours, and handlers of the program ran           the program's: return it
 *   none of ours                                    the program's, or a stop and continue: return it
 *
 * The time left is what separates the clock from a deadline that is computed once.  (A restart
 * with the remainder that nanosleep() reports would add the timer slack, 50 us, each time, and never
 * end when it is interrupted more often than that.)  epoll_wait() counts in milliseconds, so after
 * a restart it may end up to one millisecond late.
 *
 * The definitions are called, not the system calls, so these stay cancellation points.  There is no
 * bracket: waits are preemptible.  Blocking reads of files, wait(), mutexes and condition variables
 * need no row: the kernel, or their own loops, restart them.
 *
 * What is transferred in part because of a signal goes on likewise: write(), send(), sendfile(), and
 * what is received with MSG_WAITALL.
 *
 * Limits.  A program's handler that runs while our own does, or in the few instructions between the
 * look at the counters and the restart, does not end the wait; in a plain program it may as well
 * have run just before the call.  (Where SA_RESTART serves, as in sem_wait(), the restart is the
 * kernel's.)  pause(), which has no use but to be interrupted, looks again every now and then.
 * Vectors (writev, sendmsg) that are written in part because of a preemption are reported so. */
#include "forward.h"
#include "internal.h"

#include <aio.h>
#include <errno.h>
#include <limits.h>
#include <mqueue.h>
#include <poll.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

/* ------------------------------------------------------------------ which functions */

/* Interrupted always; nothing in their arguments changes when they are called again: they wait
 * for ever, or until a point in time. */
#define PLAIN(X) \
	X(sem_wait) X(sem_timedwait) X(sem_clockwait) X(semop) X(msgsnd) X(msgrcv) \
	X(mq_send) X(mq_timedsend) X(mq_receive) X(mq_timedreceive)

/* Interrupted if the socket has a timeout: which, and the event that ends the wait. */
#define ON_SOCKETS(X) \
	X(accept, SO_RCVTIMEO, POLLIN) X(accept4, SO_RCVTIMEO, POLLIN) X(recvmsg, SO_RCVTIMEO, POLLIN) \
	X(recvmmsg, SO_RCVTIMEO, POLLIN) X(connect, SO_SNDTIMEO, POLLOUT) X(sendto, SO_SNDTIMEO, POLLOUT) \
	X(sendmsg, SO_SNDTIMEO, POLLOUT) X(sendmmsg, SO_SNDTIMEO, POLLOUT)

/* The same, of all kinds of files.  They are called so often, and on sockets with a timeout so
 * seldom, that they do not read the clock in advance: their timeout counts from the first
 * interruption. */
#define ON_FILES(X) \
	X(read, SO_RCVTIMEO, POLLIN) X(__read_chk, SO_RCVTIMEO, POLLIN) X(readv, SO_RCVTIMEO, POLLIN) \
	X(writev, SO_SNDTIMEO, POLLOUT)

/* Functions with a wrapper of their own below. */
#define SPECIAL(X) \
	X(nanosleep) X(clock_nanosleep) X(usleep) X(sleep) X(thrd_sleep) X(pause) \
	X(poll) X(__poll_chk) X(ppoll) X(__ppoll_chk) X(select) X(pselect) \
	X(epoll_wait) X(epoll_pwait) X(epoll_pwait2) X(semtimedop) X(aio_suspend) \
	X(write) X(send) X(recv) X(__recv_chk) X(recvfrom) X(__recvfrom_chk) X(sendfile) X(sendfile64)

/* What the wrappers themselves need.  Calls of these go where they would go without a row. */
#define HELPERS(X) X(clock_gettime) X(getsockopt) X(setsockopt)

enum {
#define X(name, ...) ROW_##name,
	PLAIN(X) ON_SOCKETS(X) ON_FILES(X) SPECIAL(X) HELPERS(X)
#undef X
	ROWS_LENGTH
};
static struct row rows[ROWS_LENGTH];

/* The definition that a call of `row` stands for: the calling libset's, or base's. */
static void *definition(int row) {
	uintptr_t base = (uintptr_t) rows[row].base;
	if (!in_libset())
		return (void *) base;
	if (unlikely(base < gotcha_libc->start || base >= gotcha_libc->end))
		return gotcha_translate(THIS.set, (void *) base);       /* the program defines it itself */
	return libc_copy(THIS.set, (void *) base);
}
#define CALL(name, ...) (((__typeof__(&name)) definition(ROW_##name))(__VA_ARGS__))

/* ------------------------------------------------------------------ time */

enum { NS_PER_S = 1000000000, NS_PER_MS = 1000000, NS_PER_US = 1000 };

static bool is_valid(const struct timespec *time) {
	return time->tv_sec >= 0 && time->tv_nsec >= 0 && time->tv_nsec < NS_PER_S;
}

/* Saturates: after 292 years. */
static int64_t to_ns(const struct timespec *time) {
	int64_t ns;
	if (__builtin_mul_overflow(time->tv_sec, (int64_t) NS_PER_S, &ns) || __builtin_add_overflow(ns, time->tv_nsec, &ns))
		return INT64_MAX;
	return ns;
}
static int64_t add_ns(int64_t a, int64_t b) {
	int64_t sum;
	return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}
static struct timespec from_ns(int64_t ns) {
	return (struct timespec) { ns / NS_PER_S, ns % NS_PER_S };
}

static int64_t now_ns(void) {
	struct timespec now;
	CALL(clock_gettime, CLOCK_MONOTONIC, &now);
	return to_ns(&now);
}
static int64_t left_ns(int64_t deadline_ns) {
	int64_t left = deadline_ns - now_ns();
	return left > 0 ? left : 0;
}

/* ------------------------------------------------------------------ waits */

struct wait {
	uint64_t own_signals;           /* THIS.own_signals when it was last (re)started */
	uint64_t program_signals;       /* THIS.program_signals when it began */
	bool limited;
	int64_t deadline_ns;            /* if limited; CLOCK_MONOTONIC */
	struct timespec left;           /* the timeout for the next call */
	struct timespec *timeout;       /* &left, or NULL for ever */
};

/* `timeout` NULL: for ever.  One that is not valid is left for the definition to reject. */
static void wait_begin(struct wait *wait, const struct timespec *timeout) {
	wait->own_signals = THIS.own_signals;
	wait->program_signals = THIS.program_signals;
	wait->timeout = timeout ? &wait->left : NULL;
	wait->limited = timeout && is_valid(timeout);
	if (timeout)
		wait->left = *timeout;
	if (wait->limited)
		wait->deadline_ns = add_ns(now_ns(), to_ns(timeout));
}

/* A call has ended with EINTR: because of our signals alone? */
static bool interrupted_by_us(struct wait *wait) {
	uint64_t own_signals = THIS.own_signals;
	bool ours = own_signals != wait->own_signals && THIS.program_signals == wait->program_signals;
	wait->own_signals = own_signals;
	return ours;
}

/* Is the function that returned `result` to be called again?  Sets wait->left. */
static bool again(struct wait *wait, int result) {
	if (result != -1 || *caller_errno() != EINTR || !interrupted_by_us(wait))
		return false;
	if (wait->limited)
		wait->left = from_ns(left_ns(wait->deadline_ns));
	return true;
}

static long restarted(int row, SIX_PARAMETERS) {
	struct wait wait;
	wait_begin(&wait, NULL);
	long result;
	do
		result = ((forwarded *) definition(row))(SIX_ARGUMENTS);
	while (again(&wait, result));
	return result;
}

#define X(name) static long wrap_##name(SIX_PARAMETERS) { return restarted(ROW_##name, SIX_ARGUMENTS); }
PLAIN(X)
#undef X

#define X(name) static long wrap_##name(SIX_PARAMETERS) { return ((forwarded *) definition(ROW_##name))(SIX_ARGUMENTS); }
HELPERS(X)
#undef X

/* ------------------------------------------------------------------ sleeping */

static int sleep_until(struct wait *wait, clockid_t clock, const struct timespec *deadline) {
	int error;
	do
		error = CALL(clock_nanosleep, clock, TIMER_ABSTIME, deadline, NULL);
	while (error == EINTR && interrupted_by_us(wait));
	return error;
}

/* A relative sleep becomes one until a point in time of the same clock; but a relative sleep by
 * CLOCK_REALTIME is not changed when that clock is set, so its clock is the monotonic one. */
static int wrap_clock_nanosleep(clockid_t clock, int flags, const struct timespec *request, struct timespec *remaining) {
	struct wait wait;
	wait_begin(&wait, NULL);
	if (flags & TIMER_ABSTIME)
		return sleep_until(&wait, clock, request);
	if (clock == CLOCK_REALTIME)
		clock = CLOCK_MONOTONIC;
	struct timespec now;
	if (!request || !is_valid(request) || CALL(clock_gettime, clock, &now))
		return CALL(clock_nanosleep, clock, flags, request, remaining);
	int64_t deadline_ns = add_ns(to_ns(&now), to_ns(request));
	struct timespec deadline = from_ns(deadline_ns);
	int error = sleep_until(&wait, clock, &deadline);
	if (error == EINTR && remaining) {
		CALL(clock_gettime, clock, &now);
		int64_t left = deadline_ns - to_ns(&now);
		*remaining = from_ns(left > 0 ? left : 0);
	}
	return error;
}

static int wrap_nanosleep(const struct timespec *request, struct timespec *remaining) {
	return fail(wrap_clock_nanosleep(CLOCK_REALTIME, 0, request, remaining));
}

static int wrap_usleep(useconds_t us) {
	struct timespec request = from_ns((int64_t) us * NS_PER_US);
	return wrap_nanosleep(&request, NULL);
}

/* Returns whole seconds that are left, as glibc's does. */
static unsigned wrap_sleep(unsigned seconds) {
	struct timespec request = { seconds, 0 }, remaining = { 0, 0 };
	return wrap_clock_nanosleep(CLOCK_REALTIME, 0, &request, &remaining) ? remaining.tv_sec : 0;
}

static int wrap_thrd_sleep(const struct timespec *request, struct timespec *remaining) {
	int error = wrap_clock_nanosleep(CLOCK_REALTIME, 0, request, remaining);
	return !error ? 0 : error == EINTR ? -1 : -2;
}

/* Once restarted it only dozes, lest a signal that slipped in before a restart be waited for in vain. */
static int wrap_pause(void) {
	struct wait wait;
	wait_begin(&wait, NULL);
	int result = CALL(pause);
	while (again(&wait, result)) {
		do {
			struct timespec doze = { 0, 50 * NS_PER_MS };
			result = CALL(ppoll, NULL, 0, &doze, NULL);
		} while (result == 0 && THIS.program_signals == wait.program_signals);
		if (result == 0)
			return fail(EINTR);
	}
	return result;
}

int libgotcha_pause(void) {
	return rows[ROW_pause].base ? wrap_pause() : pause();
}

/* ------------------------------------------------------------------ descriptors */

/* The mask for the kernel that stands for the program's: it neither blocks nor opens the
 * preemption signal. */
static const sigset_t *kernel_mask(const sigset_t *program_mask, sigset_t *storage) {
	if (!program_mask)
		return NULL;
	*storage = (sigset_t) { { gotcha_kernel_mask(program_mask) } };
	return storage;
}

/* A timeout in milliseconds; negative: for ever. */
static struct timespec *from_ms(int ms, struct timespec *storage) {
	*storage = from_ns((int64_t) ms * NS_PER_MS);
	return ms < 0 ? NULL : storage;
}
static int left_ms(const struct wait *wait) {
	if (!wait->limited)
		return -1;
	int64_t ms = (to_ns(&wait->left) + NS_PER_MS - 1) / NS_PER_MS;
	return ms < INT_MAX ? ms : INT_MAX;
}

static int wrap_ppoll(struct pollfd *descriptors, nfds_t length, const struct timespec *timeout, const sigset_t *mask) {
	sigset_t storage;
	struct wait wait;
	wait_begin(&wait, timeout);
	mask = kernel_mask(mask, &storage);
	int result;
	do
		result = CALL(ppoll, descriptors, length, wait.timeout, mask);
	while (again(&wait, result));
	return result;
}

static int wrap_poll(struct pollfd *descriptors, nfds_t length, int timeout_ms) {
	struct timespec timeout;
	return wrap_ppoll(descriptors, length, from_ms(timeout_ms, &timeout), NULL);
}

/* The functions that end in _chk are the compiler's, for arrays of known size: with an array that is
 * too short they end the process, and the definition does so. */
static int wrap___poll_chk(struct pollfd *descriptors, nfds_t length, int timeout_ms, size_t size_bytes) {
	int (*checked)(struct pollfd *, nfds_t, int, size_t) = definition(ROW___poll_chk);
	if (size_bytes / sizeof *descriptors < length)
		return checked(descriptors, length, timeout_ms, size_bytes);
	return wrap_poll(descriptors, length, timeout_ms);
}

static int wrap___ppoll_chk(struct pollfd *descriptors, nfds_t length, const struct timespec *timeout, const sigset_t *mask, size_t size_bytes) {
	int (*checked)(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *, size_t) = definition(ROW___ppoll_chk);
	if (size_bytes / sizeof *descriptors < length)
		return checked(descriptors, length, timeout, mask, size_bytes);
	return wrap_ppoll(descriptors, length, timeout, mask);
}

/* As Linux does, leaves in *timeout the time that was not slept. */
static int wrap_select(int length, fd_set *readable, fd_set *writable, fd_set *exceptional, struct timeval *timeout) {
	if (!timeout)
		return restarted(ROW_select, length, (long) readable, (long) writable, (long) exceptional, 0, 0);
	if (timeout->tv_sec < 0 || timeout->tv_usec < 0)
		return CALL(select, length, readable, writable, exceptional, timeout);
	/* unlike other functions it takes more microseconds than a second has */
	struct timespec limit = { timeout->tv_sec + timeout->tv_usec / 1000000, timeout->tv_usec % 1000000 * NS_PER_US };
	struct timeval left = *timeout;
	struct wait wait;
	wait_begin(&wait, &limit);
	int result = CALL(select, length, readable, writable, exceptional, &left);
	while (again(&wait, result)) {
		int64_t left_us = (to_ns(&wait.left) + NS_PER_US - 1) / NS_PER_US;
		left = (struct timeval) { left_us / 1000000, left_us % 1000000 };
		result = CALL(select, length, readable, writable, exceptional, &left);
	}
	*timeout = left;
	return result;
}

static int wrap_pselect(int length, fd_set *readable, fd_set *writable, fd_set *exceptional, const struct timespec *timeout, const sigset_t *mask) {
	sigset_t storage;
	struct wait wait;
	wait_begin(&wait, timeout);
	mask = kernel_mask(mask, &storage);
	int result;
	do
		result = CALL(pselect, length, readable, writable, exceptional, wait.timeout, mask);
	while (again(&wait, result));
	return result;
}

static int wrap_epoll_pwait(int epoll, struct epoll_event *events, int length, int timeout_ms, const sigset_t *mask) {
	sigset_t storage;
	struct timespec timeout;
	struct wait wait;
	wait_begin(&wait, from_ms(timeout_ms, &timeout));
	mask = kernel_mask(mask, &storage);
	int result;
	do
		result = CALL(epoll_pwait, epoll, events, length, left_ms(&wait), mask);
	while (again(&wait, result));
	return result;
}

static int wrap_epoll_wait(int epoll, struct epoll_event *events, int length, int timeout_ms) {
	return wrap_epoll_pwait(epoll, events, length, timeout_ms, NULL);
}

static int wrap_epoll_pwait2(int epoll, struct epoll_event *events, int length, const struct timespec *timeout, const sigset_t *mask) {
	/* since glibc 2.35: not to be named */
	int (*wait_for)(int, struct epoll_event *, int, const struct timespec *, const sigset_t *) = definition(ROW_epoll_pwait2);
	sigset_t storage;
	struct wait wait;
	wait_begin(&wait, timeout);
	mask = kernel_mask(mask, &storage);
	int result;
	do
		result = wait_for(epoll, events, length, wait.timeout, mask);
	while (again(&wait, result));
	return result;
}

static long wrap_semtimedop(long set, long operations, long length, const struct timespec *timeout) {
	struct wait wait;
	wait_begin(&wait, timeout);
	long result;
	do
		result = ((forwarded *) definition(ROW_semtimedop))(set, operations, length, (long) wait.timeout, 0, 0);
	while (again(&wait, result));
	return result;
}

/* Base's threads do the work, and base's lock is held while they are waited for. */
static int wrap_aio_suspend(const struct aiocb *const list[], int length, const struct timespec *timeout) {
	if (in_libset())
		return gotcha_aio_suspend(list, length, timeout);
	struct wait wait;
	wait_begin(&wait, timeout);
	int result;
	do
		result = CALL(aio_suspend, list, length, wait.timeout);
	while (again(&wait, result));
	return result;
}

/* ------------------------------------------------------------------ sockets with timeouts */

/* The socket's own timeout, as a duration; 0: it has none, or is no socket. */
static int64_t socket_timeout_ns(int socket, int option) {
	struct timeval timeout;
	socklen_t length = sizeof timeout;
	if (CALL(getsockopt, socket, SOL_SOCKET, option, &timeout, &length))
		return 0;
	struct timespec time = { timeout.tv_sec, timeout.tv_usec * NS_PER_US };
	return to_ns(&time);
}

/* A call would start the socket's timeout anew, so wait here until the socket is ready, or the
 * timeout that began at `begin_ns` has passed.  0: call again; -1: return -1, errno is set. */
static int await_socket(int row, int socket, int option, short event, int64_t begin_ns) {
	int64_t timeout_ns = socket_timeout_ns(socket, option);
	if (!timeout_ns)
		return 0;
	struct pollfd descriptor = { .fd = socket, .events = event };
	struct timespec left = from_ns(left_ns(add_ns(begin_ns, timeout_ns)));
	int ready = wrap_ppoll(&descriptor, 1, &left, NULL);
	/* a local socket that waits for room in the listener's queue is not what poll() waits for: it is
	 * "ready", and would be asked for ever */
	if (ready > 0 && row == ROW_connect && !left_ns(add_ns(begin_ns, timeout_ns)))
		return fail(EAGAIN);
	if (ready)
		return ready > 0 ? 0 : -1;
	return fail(row == ROW_connect ? EINPROGRESS : EAGAIN);
}

/* A local socket's connect() waits for room in the listener's queue, which poll() does not: called again, it is to
 * wait for what is left of the socket's timeout. */
static bool shorten_timeout(int socket, int option, int64_t begin_ns, struct timeval *whole) {
	socklen_t length = sizeof *whole;
	int64_t timeout_ns = socket_timeout_ns(socket, option);
	if (!timeout_ns || CALL(getsockopt, socket, SOL_SOCKET, option, whole, &length))
		return false;
	int64_t left_us = left_ns(add_ns(begin_ns, timeout_ns)) / NS_PER_US + 1;
	struct timeval left = { left_us / 1000000, left_us % 1000000 };
	return !CALL(setsockopt, socket, SOL_SOCKET, option, &left, sizeof left);
}

static long call_on_socket(int row, SIX_PARAMETERS) {
	if ((row == ROW_accept || row == ROW_accept4) && gotcha_descriptors_are_noted())
		return gotcha_open(SYS_accept4, a, b, c, row == ROW_accept4 ? d : 0);
	return ((forwarded *) definition(row))(SIX_ARGUMENTS);
}

/* `begin_ns` 0: at the first interruption. */
static long on_socket(int row, int option, short event, int64_t begin_ns, SIX_PARAMETERS) {
	struct wait wait;
	wait_begin(&wait, NULL);
	struct timeval whole;
	for (bool is_shortened = false;; ) {
		long result = call_on_socket(row, SIX_ARGUMENTS);
		bool is_over = !again(&wait, result);
		if (is_shortened)
			CALL(setsockopt, a, SOL_SOCKET, option, &whole, sizeof whole);
		if (is_over)
			return result;
		if (!begin_ns)
			begin_ns = now_ns();
		if (await_socket(row, a, option, event, begin_ns))
			return -1;
		is_shortened = row == ROW_connect && shorten_timeout(a, option, begin_ns, &whole);
	}
}

#define X(name, option, event) \
	static long wrap_##name(SIX_PARAMETERS) { \
		return on_socket(ROW_##name, option, event, now_ns(), SIX_ARGUMENTS); \
	}
ON_SOCKETS(X)
#undef X
#define X(name, option, event) \
	static long wrap_##name(SIX_PARAMETERS) { \
		return on_socket(ROW_##name, option, event, 0, SIX_ARGUMENTS); \
	}
ON_FILES(X)
#undef X

/* A stream's; a message that is shorter than asked for is whole. */
static bool waits_for_all(int socket, int flags) {
	int type = 0;
	socklen_t length = sizeof type;
	return (flags & (MSG_WAITALL | MSG_PEEK)) == MSG_WAITALL
		&& !CALL(getsockopt, socket, SOL_SOCKET, SO_TYPE, &type, &length) && type == SOCK_STREAM;
}

/* A signal also makes MSG_WAITALL return with less than all. See write_all(). */
static ssize_t wrap_recvfrom(int socket, void *buffer, size_t length, int flags, struct sockaddr *from, socklen_t *from_length) {
	int64_t begin_ns = now_ns();
	struct wait wait;
	wait_begin(&wait, NULL);
	size_t done = 0;
	for (;;) {
		ssize_t result = on_socket(ROW_recvfrom, SO_RCVTIMEO, POLLIN, begin_ns, socket, (long) ((char *) buffer + done),
			length - done, flags, (long) from, (long) from_length);
		if (result < 0)
			return done ? (ssize_t) done : result;
		done += result;
		if (result == 0 || done == length || !interrupted_by_us(&wait) || !waits_for_all(socket, flags)
			|| await_socket(ROW_recvfrom, socket, SO_RCVTIMEO, POLLIN, begin_ns))
			return done;
	}
}

static ssize_t wrap_recv(int socket, void *buffer, size_t length, int flags) {
	return wrap_recvfrom(socket, buffer, length, flags, NULL, NULL);
}

static ssize_t wrap___recv_chk(int socket, void *buffer, size_t length, size_t size_bytes, int flags) {
	ssize_t (*checked)(int, void *, size_t, size_t, int) = definition(ROW___recv_chk);
	return length > size_bytes ? checked(socket, buffer, length, size_bytes, flags) : wrap_recv(socket, buffer, length, flags);
}

/* A seventh argument; see wrap___poll_chk(). */
static ssize_t wrap___recvfrom_chk(int socket, void *buffer, size_t length, size_t size_bytes, int flags, struct sockaddr *from, socklen_t *from_length) {
	ssize_t (*checked)(int, void *, size_t, size_t, int, struct sockaddr *, socklen_t *) = definition(ROW___recvfrom_chk);
	if (length > size_bytes)
		return checked(socket, buffer, length, size_bytes, flags, from, from_length);
	return wrap_recvfrom(socket, buffer, length, flags, from, from_length);
}

/* A signal also makes a blocking write of much data to a pipe or a socket return when part of it is
 * written.  Where only our signals arrived, the rest is written too.  If there is another
 * reason for the short count, going on meets it again: then the count so far is returned. */
static ssize_t write_all(int row, int64_t begin_ns, int file, const char *data, size_t length, int flags) {
	struct wait wait;
	wait_begin(&wait, NULL);
	size_t done = 0;
	for (;;) {
		ssize_t result = on_socket(row, SO_SNDTIMEO, POLLOUT, begin_ns, file, (long) (data + done), length - done, flags, 0, 0);
		if (result < 0)
			return done ? (ssize_t) done : result;
		done += result;
		if (result == 0 || done == length || !interrupted_by_us(&wait))
			return done;
	}
}
static ssize_t wrap_write(int file, const void *data, size_t length) {
	return write_all(ROW_write, 0, file, data, length, 0);
}
static ssize_t wrap_send(int socket, const void *data, size_t length, int flags) {
	return write_all(ROW_send, now_ns(), socket, data, length, flags);
}

/* It waits for room once, signals or not, and what is in there somebody has yet to read: maybe this thread. */
static bool is_pipe(int file) {
	struct stat status;
	return !raw_syscall(SYS_fstat, file, (long) &status, 0, 0) && S_ISFIFO(status.st_mode);
}

/* The file's position moves with what has been done. See write_all(). */
static ssize_t send_file(int row, int to, int from, off_t *offset, size_t length) {
	struct wait wait;
	wait_begin(&wait, NULL);
	size_t done = 0;
	for (;;) {
		ssize_t result = ((__typeof__(&sendfile)) definition(row))(to, from, offset, length - done);
		if (result < 0)
			return done ? (ssize_t) done : result;
		done += result;
		if (result == 0 || done == length || !interrupted_by_us(&wait) || is_pipe(to))
			return done;
	}
}
static ssize_t wrap_sendfile(int to, int from, off_t *offset, size_t length) {
	return send_file(ROW_sendfile, to, from, offset, length);
}
static ssize_t wrap_sendfile64(int to, int from, off_t *offset, size_t length) {
	return send_file(ROW_sendfile64, to, from, offset, length);
}

/* ------------------------------------------------------------------ rows */

#define IN_BASE(name, ...) [ROW_##name] = { #name, wrap_##name, true, NULL },
#define IN_LIBSETS(name) [ROW_##name] = { #name, wrap_##name, false, NULL },
static struct row rows[ROWS_LENGTH] = {
	PLAIN(IN_BASE)
	ON_SOCKETS(IN_BASE)
	ON_FILES(IN_BASE)
	SPECIAL(IN_BASE)
	HELPERS(IN_LIBSETS)
};
struct rows gotcha_rows_waits = { rows, lengthof(rows) };
