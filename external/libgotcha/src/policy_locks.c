/* Policy of mutexes; above all of those whose owner the kernel knows: that are robust, or have a priority protocol.
 *
 * Other locks record the tid of the TCB that takes them.  A virtual TCB's is its own and stays the same
 * on whatever kernel thread the function runs: these are just counted, and waited for as policy_donation.c
 * says.  But the kernel knows kernel threads only: it marks their robust mutexes when they end, lends priority to them, and lets them alone
 * unlock.  So a function takes and releases such a mutex as its kernel thread, on that one's TCB, and
 * is not preempted while it holds it: it could be resumed on another.
 *
 * To the C library the function and its launcher are then one owner.  What a function holds is
 * therefore listed with its TCB: a mutex of the kernel thread's that is not in the list is somebody
 * else's, the launcher's, and busy.
 *
 * Waiting is preemptible, so it is done by trying again and again: a function that waits lends no
 * priority.
 *
 * Limits.  A function that pauses itself while it holds one must go on on the same kernel thread.  One
 * that waits for a second one while it holds the first cannot be stopped there. */
#include "internal.h"

#include <errno.h>
#include <linux/futex.h>
#include <time.h>

enum {
	ROW_lock, ROW_trylock, ROW_timedlock, ROW_clocklock, ROW_unlock, ROW_consistent,
	ROW_cond_wait, ROW_cond_timedwait, ROW_cond_clockwait,
	ROWS_LENGTH
};
static struct row rows[ROWS_LENGTH];

typedef int on_mutex(pthread_mutex_t *);
typedef int until(pthread_mutex_t *, const struct timespec *);
typedef int clock_until(pthread_mutex_t *, clockid_t, const struct timespec *);
typedef int wait(pthread_cond_t *, pthread_mutex_t *);
typedef int wait_until(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
typedef int wait_clock_until(pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *);

/* The libset's own definition, which a call without a row would reach. */
#define OWN(row, type) ((type *) gotcha_own(&rows[ROW_##row]))
#define BASE(row, type) ((type *) rows[ROW_##row].base)

/* nptl/pthreadP.h: bits of __kind, which are the ABI of static initialisers */
enum { KIND = 3, ROBUST = 16, PRIORITY_INHERIT = 32, PRIORITY_PROTECT = 64 };

static bool is_kernel_owned(const pthread_mutex_t *mutex) {
	return THIS.is_virtual && mutex->__data.__kind & (ROBUST | PRIORITY_INHERIT | PRIORITY_PROTECT);
}

/* ------------------------------------------------------------------ what a function holds */

struct held_lock {
	struct held_lock *next;
	pthread_mutex_t *mutex;
	unsigned count;         /* of a recursive one */
};

static struct held_lock **find(pthread_mutex_t *mutex) {
	struct held_lock **held = (struct held_lock **) &THIS.locks;
	while (*held && (*held)->mutex != mutex)
		held = &(*held)->next;
	return held;
}

/* A function has ended with these: they stay its kernel thread's. */
void gotcha_locks_forget(struct libgotcha_thread *state) {
	for (struct held_lock *held = state->locks, *next; held; held = next) {
		next = held->next;
		gotcha_base_free(held);
	}
	state->locks = NULL;
}

static bool is_of_this_kernel_thread(const pthread_mutex_t *mutex) {
	int tid = *(int *) (THIS.host + gotcha_layout.tid);
	return (mutex->__data.__lock & FUTEX_TID_MASK) == tid || mutex->__data.__owner == tid;
}

/* ------------------------------------------------------------------ locking */

/* Context of all below: a virtual TCB. */
static int hosted(int row, pthread_mutex_t *mutex) {
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	int error = ((on_mutex *) rows[row].base)(mutex);
	gotcha_hosted_leave(&guard);
	return error;
}

static bool is_taken(int error) {
	return !error || error == EOWNERDEAD;
}

static int try_first(pthread_mutex_t *mutex) {
	if (is_of_this_kernel_thread(mutex))
		return EBUSY;
	struct held_lock *held = gotcha_base_malloc(sizeof *held);
	if (!held)
		return EAGAIN;
	int error = hosted(ROW_trylock, mutex);
	if (!is_taken(error)) {
		gotcha_base_free(held);
		return error;
	}
	*held = (struct held_lock) { THIS.locks, mutex, 1 };
	THIS.locks = held;
	/* until the unlock */
	deferred_enter();
	return error;
}

static int try_again(struct held_lock *held) {
	int error = hosted(ROW_trylock, held->mutex);
	held->count += is_taken(error);
	return error;
}

static int try(pthread_mutex_t *mutex) {
	struct shared_guard guard;
	shared_enter(&guard);
	struct held_lock *held = *find(mutex);
	int error = held ? try_again(held) : try_first(mutex);
	bool is_deadlock = error == EBUSY && held && (mutex->__data.__kind & KIND) == PTHREAD_MUTEX_ERRORCHECK_NP;
	shared_leave(&guard);
	return is_deadlock ? EDEADLK : error;
}

/* `deadline` NULL: none. */
static int lock_until(pthread_mutex_t *mutex, clockid_t clock, const struct timespec *deadline) {
	for (long duration_ns = 0;; gotcha_nap(&duration_ns)) {
		int error = try(mutex);
		if (error != EBUSY)
			return error;
		if (deadline && (deadline->tv_nsec < 0 || deadline->tv_nsec >= 1000000000))
			return EINVAL;
		if (deadline && gotcha_has_passed(clock, deadline))
			return ETIMEDOUT;
	}
}

/* Of a function that does not go on, for all we know: this may take for ever, and not silently. */
static int lock_reporting(pthread_mutex_t *mutex) {
	struct timespec second;
	gotcha_now_and(1000000000, &second);
	int owner = mutex->__data.__owner, error = OWN(clocklock, clock_until)(mutex, CLOCK_MONOTONIC, &second);
	if (error != ETIMEDOUT)
		return error;
	gotcha_say_waits(owner);
	return OWN(lock, on_mutex)(mutex);
}

static int locks_lock(pthread_mutex_t *mutex) {
	if (is_kernel_owned(mutex))
		return lock_until(mutex, CLOCK_MONOTONIC, NULL);
	gotcha_lock_begin();
	bool is_stuck = gotcha_before_mutex(mutex, CLOCK_MONOTONIC, NULL);
	return gotcha_lock_end(is_stuck ? lock_reporting(mutex) : OWN(lock, on_mutex)(mutex));
}

static int locks_trylock(pthread_mutex_t *mutex) {
	if (is_kernel_owned(mutex)) {
		int error = try(mutex);
		return error == EDEADLK ? EBUSY : error;
	}
	gotcha_lock_begin();
	return gotcha_lock_end(OWN(trylock, on_mutex)(mutex));
}

static int locks_timedlock(pthread_mutex_t *mutex, const struct timespec *deadline) {
	if (is_kernel_owned(mutex))
		return lock_until(mutex, CLOCK_REALTIME, deadline);
	gotcha_lock_begin();
	gotcha_before_mutex(mutex, CLOCK_REALTIME, deadline);
	return gotcha_lock_end(OWN(timedlock, until)(mutex, deadline));
}

static int locks_clocklock(pthread_mutex_t *mutex, clockid_t clock, const struct timespec *deadline) {
	bool is_clock = clock == CLOCK_REALTIME || clock == CLOCK_MONOTONIC;
	if (is_kernel_owned(mutex))
		return is_clock ? lock_until(mutex, clock, deadline) : EINVAL;
	gotcha_lock_begin();
	if (is_clock)
		gotcha_before_mutex(mutex, clock, deadline);
	return gotcha_lock_end(OWN(clocklock, clock_until)(mutex, clock, deadline));
}

static int unlock_held(struct held_lock **link) {
	struct held_lock *held = *link;
	int error = hosted(ROW_unlock, held->mutex);
	if (!error && !--held->count) {
		*link = held->next;
		gotcha_base_free(held);
		/* within the caller's bracket: not the last */
		THIS.defer--;
	}
	return error;
}

static int locks_unlock(pthread_mutex_t *mutex) {
	if (!is_kernel_owned(mutex))
		return gotcha_unlock_end(OWN(unlock, on_mutex)(mutex));
	struct shared_guard guard;
	shared_enter(&guard);
	struct held_lock **link = find(mutex);
	int error = *link ? unlock_held(link) : EPERM;
	shared_leave(&guard);
	return error;
}

/* It writes the owner again. */
static int locks_consistent(pthread_mutex_t *mutex) {
	return is_kernel_owned(mutex) ? hosted(ROW_consistent, mutex) : OWN(consistent, on_mutex)(mutex);
}

/* ------------------------------------------------------------------ conditions */

enum { SLICE_NS = 1000000 };

/* Base's wait, on the kernel thread's TCB, for a moment, since it cannot be preempted. */
static int wait_a_moment(pthread_cond_t *condition, pthread_mutex_t *mutex) {
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	struct timespec moment;
	gotcha_now_and(SLICE_NS, &moment);
	int error = BASE(cond_clockwait, wait_clock_until)(condition, mutex, CLOCK_MONOTONIC, &moment);
	gotcha_hosted_leave(&guard);
	return error;
}

/* A wait that was not signalled in a moment returns as if it was, which POSIX permits, and callers expect: the
 * mutex must be released for the function to be preempted, and taken again, in between which a signal
 * would be missed. */
static int wait_for(pthread_cond_t *condition, pthread_mutex_t *mutex, clockid_t clock, const struct timespec *deadline) {
	if (deadline && (deadline->tv_nsec < 0 || deadline->tv_nsec >= 1000000000))
		return EINVAL;
	if (!*find(mutex))
		return EPERM;
	int error = wait_a_moment(condition, mutex);
	if (error != ETIMEDOUT)
		return error;
	if (deadline && gotcha_has_passed(clock, deadline))
		return ETIMEDOUT;
	if (!THIS.pending)
		return 0;
	error = locks_unlock(mutex);
	return error ? error : lock_until(mutex, CLOCK_MONOTONIC, NULL);
}

static int locks_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex) {
	return is_kernel_owned(mutex) ? wait_for(condition, mutex, CLOCK_MONOTONIC, NULL) : OWN(cond_wait, wait)(condition, mutex);
}

static int locks_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *deadline) {
	if (!is_kernel_owned(mutex))
		return OWN(cond_timedwait, wait_until)(condition, mutex, deadline);
	/* nptl/pthread_cond_wait.c: bit 1 of __wrefs is the clock */
	clockid_t clock = condition->__data.__wrefs & 2 ? CLOCK_MONOTONIC : CLOCK_REALTIME;
	return wait_for(condition, mutex, clock, deadline);
}

static int locks_cond_clockwait(pthread_cond_t *condition, pthread_mutex_t *mutex, clockid_t clock, const struct timespec *deadline) {
	if (!is_kernel_owned(mutex))
		return OWN(cond_clockwait, wait_clock_until)(condition, mutex, clock, deadline);
	if (clock != CLOCK_REALTIME && clock != CLOCK_MONOTONIC)
		return EINVAL;
	return wait_for(condition, mutex, clock, deadline);
}

static struct row rows[] = {
	[ROW_lock] = { "pthread_mutex_lock", locks_lock, FROM_PROGRAM, NULL },
	[ROW_trylock] = { "pthread_mutex_trylock", locks_trylock, false, NULL },
	[ROW_timedlock] = { "pthread_mutex_timedlock", locks_timedlock, FROM_PROGRAM, NULL },
	[ROW_clocklock] = { "pthread_mutex_clocklock", locks_clocklock, FROM_PROGRAM, NULL },
	[ROW_unlock] = { "pthread_mutex_unlock", locks_unlock, false, NULL },
	[ROW_consistent] = { "pthread_mutex_consistent", locks_consistent, false, NULL },
	[ROW_cond_wait] = { "pthread_cond_wait", locks_cond_wait, false, NULL },
	[ROW_cond_timedwait] = { "pthread_cond_timedwait", locks_cond_timedwait, false, NULL },
	[ROW_cond_clockwait] = { "pthread_cond_clockwait", locks_cond_clockwait, false, NULL },
};
struct rows gotcha_rows_locks = { rows, lengthof(rows) };
