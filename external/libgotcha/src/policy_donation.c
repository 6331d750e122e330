/* Policy of waits for locks that a stopped function may hold.
 *
 * A function is stopped anywhere, so also while it holds a lock of the program's.  If its launcher then waits for that
 * lock, nobody is left who would resume the function.  So who is about to wait donates its time: it lets the function go
 * on, slice by slice, until it has released the lock.  Which functions may go on without their launcher's word, the
 * control library decides (callback `donate`).
 *
 *   lock                                       who holds it
 *   mutex, rwlock that is held for writing     its owner field tells, exactly: a tid from FIRST_VIRTUAL_TID on
 *   rwlock held for reading, once, spin lock   nobody knows: those that may, in turn
 *   futex, by syscall(2): std of Rust,         nobody knows; and not that it is a lock: after a moment of waiting, or a
 *   parking_lot, libstdc++                     second, those that may, in turn, if the word's value is one that locks use
 *
 * Conditions, semaphores and joins are waits for something else, and donate nothing.
 *
 * A function that runs on donated time stops where it releases a lock: the waiter is to get it, and a function that takes
 * it again and again would be found holding it at the end of each slice.
 *
 * These rows also count what a function holds or waits for, so that it can be cancelled elsewhere.
 *
 * Limits.  What a futex call points to is read here, so one that the kernel would answer by EFAULT is a fault.
 *
 * Our own code, and handlers of the program, donate nothing: they are on top of code that may hold anything. */
#include "forward.h"
#include "internal.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <threads.h>
#include <time.h>

enum {
	ROW_rdlock, ROW_tryrdlock, ROW_timedrdlock, ROW_clockrdlock,
	ROW_wrlock, ROW_trywrlock, ROW_timedwrlock, ROW_clockwrlock, ROW_rwlock_unlock,
	ROW_once, ROW_call_once, ROW_spin_lock, ROW_spin_unlock,
	ROW_mtx_lock, ROW_mtx_trylock, ROW_mtx_timedlock, ROW_mtx_unlock, ROW_syscall,
	ROWS_LENGTH
};
static struct row rows[ROWS_LENGTH];

#define OWN(row, type) ((__typeof__(type) *) gotcha_own(&rows[ROW_##row]))

/* ------------------------------------------------------------------ donating */

static bool may_donate(void) {
	return THIS.owner && !THIS.handlers && THIS.defer == THIS.sections + !THIS.is_virtual && gotcha_callbacks.donate;
}

/* Context: as the program called.  A function that waits is not stopped before what it has donated to has: that is not its
 * own, and others have its handle. */
static bool donate(int tid) {
	struct shared_guard guard;
	shared_enter(&guard);
	deferred_enter();
	int saved = *gotcha_base_errno();
	bool is_given = gotcha_callbacks.donate(tid);
	*gotcha_base_errno() = saved;
	deferred_leave();
	shared_leave(&guard);
	return is_given;
}

void gotcha_give_back(void) {
	deferred_enter();
	gotcha_callbacks.give_back();
	deferred_leave();
}

enum { SECOND_NS = 1000000000 };

static bool is_over(clockid_t clock, const struct timespec *deadline) {
	return deadline && (deadline->tv_nsec < 0 || deadline->tv_nsec >= SECOND_NS || gotcha_has_passed(clock, deadline));
}

static int own_tid(void) {
	return *(int *) (thread_pointer() + gotcha_layout.tid);
}

/* The owner may itself wait for another function. */
enum { OTHERS_TURN = 20 };

/* See internal.h. */
bool gotcha_donate_to_owner(const int *owner, clockid_t clock, const struct timespec *deadline) {
	for (unsigned slices = 1; may_donate() && !is_over(clock, deadline); slices++) {
		int tid = __atomic_load_n(owner, __ATOMIC_RELAXED);
		if (tid < FIRST_VIRTUAL_TID || tid == own_tid())
			return false;
		if (!donate(tid))
			return true;
		if (slices % OTHERS_TURN == 0)
			donate(0);
	}
	return false;
}

/* A mutex is taken, and then says whose it is; it is nobody's, and then released.  In between is not long, unless a
 * function was stopped there. */
static bool is_in_between(const pthread_mutex_t *mutex) {
	return !__atomic_load_n(&mutex->__data.__owner, __ATOMIC_RELAXED) && __atomic_load_n(&mutex->__data.__lock, __ATOMIC_RELAXED);
}

bool gotcha_donate_for_mutex(const pthread_mutex_t *mutex, clockid_t clock, const struct timespec *deadline) {
	enum { GLANCES = 200 };
	for (int i = 0; i < GLANCES && is_in_between(mutex); i++)
		__builtin_ia32_pause();
	/* an owner who goes on may stop in between, too */
	do {
		if (gotcha_donate_to_owner(&mutex->__data.__owner, clock, deadline))
			return true;
	} while (is_in_between(mutex) && may_donate() && !is_over(clock, deadline) && donate(0));
	return false;
}

static void add_ns(struct timespec *time, int64_t ns) {
	ns += time->tv_nsec;
	time->tv_sec += ns / SECOND_NS;
	time->tv_nsec = ns % SECOND_NS;
}

void gotcha_now_and(int64_t ns, struct timespec *then) {
	clock_gettime(CLOCK_MONOTONIC, then);
	add_ns(then, ns);
}

/* Context: as the program called.  What the program does about it is on top of whatever waits: it neither donates nor is
 * preempted. */
void gotcha_say_waits(int tid) {
	deferred_enter();
	THIS.handlers++;
	int saved = *caller_errno();
	gotcha_callbacks.waits_long(tid);
	*caller_errno() = saved;
	THIS.handlers--;
	deferred_leave();
}

/* Lets functions go on in turn until `try`, which takes a lock whose holder is unknown, does not return EBUSY, or there
 * is none that may. */
typedef int try_lock(void *lock);

static int donate_until(try_lock *try, void *lock, clockid_t clock, const struct timespec *deadline) {
	struct timespec report;
	int error = try(lock);
	if (error != EBUSY || !may_donate())
		return error;
	gotcha_now_and(SECOND_NS, &report);
	for (bool is_reported = false; error == EBUSY && !is_over(clock, deadline) && donate(0); error = try(lock))
		if (!is_reported && gotcha_has_passed(CLOCK_MONOTONIC, &report)) {
			gotcha_say_waits(0);
			is_reported = true;
		}
	return error;
}

/* ------------------------------------------------------------------ read-write locks */

typedef int on_rwlock(pthread_rwlock_t *);
typedef int rwlock_until(pthread_rwlock_t *, const struct timespec *);
typedef int rwlock_clock_until(pthread_rwlock_t *, clockid_t, const struct timespec *);

static int try_read(void *lock) {
	return OWN(tryrdlock, on_rwlock)(lock);
}
static int try_write(void *lock) {
	return OWN(trywrlock, on_rwlock)(lock);
}

/* EBUSY: to be waited for in the usual way. */
static int rwlock_before(pthread_rwlock_t *lock, try_lock *try, clockid_t clock, const struct timespec *deadline) {
	int error = try(lock);
	if (error != EBUSY || __atomic_load_n(&lock->__data.__cur_writer, __ATOMIC_RELAXED) == own_tid())
		return error;
	gotcha_donate_to_owner(&lock->__data.__cur_writer, clock, deadline);
	return donate_until(try, lock, clock, deadline);
}

/* Who holds it does not go on: this may take for ever, and not silently.  Whoever writes is known, and one that is no function
 * goes on by itself. */
static int rwlock_wait(pthread_rwlock_t *lock, rwlock_clock_until *wait_until, on_rwlock *wait) {
	int writer = __atomic_load_n(&lock->__data.__cur_writer, __ATOMIC_RELAXED);
	if (may_donate() && (!writer || writer >= FIRST_VIRTUAL_TID)) {
		struct timespec second;
		gotcha_now_and(SECOND_NS, &second);
		int error = wait_until(lock, CLOCK_MONOTONIC, &second);
		if (error != ETIMEDOUT)
			return error;
		gotcha_say_waits(writer);
	}
	return wait(lock);
}

#define RWLOCK(kind, try) \
	static int donation_##kind##lock(pthread_rwlock_t *lock) { \
		gotcha_lock_begin(); \
		int error = rwlock_before(lock, try, CLOCK_MONOTONIC, NULL); \
		return gotcha_lock_end(error == EBUSY ? rwlock_wait(lock, OWN(clock##kind##lock, rwlock_clock_until), OWN(kind##lock, on_rwlock)) : error); \
	} \
	static int donation_try##kind##lock(pthread_rwlock_t *lock) { \
		gotcha_lock_begin(); \
		return gotcha_lock_end(try(lock)); \
	} \
	static int donation_timed##kind##lock(pthread_rwlock_t *lock, const struct timespec *deadline) { \
		gotcha_lock_begin(); \
		int error = rwlock_before(lock, try, CLOCK_REALTIME, deadline); \
		return gotcha_lock_end(error == EBUSY ? OWN(timed##kind##lock, rwlock_until)(lock, deadline) : error); \
	} \
	static int donation_clock##kind##lock(pthread_rwlock_t *lock, clockid_t clock, const struct timespec *deadline) { \
		gotcha_lock_begin(); \
		bool is_clock = clock == CLOCK_REALTIME || clock == CLOCK_MONOTONIC; \
		int error = is_clock ? rwlock_before(lock, try, clock, deadline) : EBUSY; \
		return gotcha_lock_end(error == EBUSY ? OWN(clock##kind##lock, rwlock_clock_until)(lock, clock, deadline) : error); \
	}
RWLOCK(rd, try_read)
RWLOCK(wr, try_write)

static int donation_rwlock_unlock(pthread_rwlock_t *lock) {
	return gotcha_unlock_end(OWN(rwlock_unlock, on_rwlock)(lock));
}

/* ------------------------------------------------------------------ once, spin locks */

/* nptl/pthread_onceP.h */
enum { ONCE_IN_PROGRESS = 1, ONCE_DONE = 2 };
static int try_once(void *control) {
	int value = __atomic_load_n((int *) control, __ATOMIC_RELAXED);
	return value & ONCE_IN_PROGRESS && !(value & ONCE_DONE) ? EBUSY : 0;
}

static int donation_once(pthread_once_t *control, void (*function)(void)) {
	donate_until(try_once, control, CLOCK_MONOTONIC, NULL);
	int error = OWN(once, int(pthread_once_t *, void (*)(void)))(control, function);
	gotcha_released();
	return error;
}

static void donation_call_once(once_flag *control, void (*function)(void)) {
	donate_until(try_once, control, CLOCK_MONOTONIC, NULL);
	OWN(call_once, void(once_flag *, void (*)(void)))(control, function);
	gotcha_released();
}

/* Its holder takes it for a few instructions: nothing is counted. */
static int try_spin(void *lock) {
	return pthread_spin_trylock(lock);
}
/* As rwlock_wait(). Of once nothing is told so: in the child of a fork its state may be that of a thread which is not there,
 * and is not waited for. */
static int spin_lock_wait(pthread_spinlock_t *lock) {
	if (may_donate()) {
		struct timespec second;
		gotcha_now_and(SECOND_NS, &second);
		do {
			int error = try_spin((void *) lock);
			if (error != EBUSY)
				return error;
			__builtin_ia32_pause();
		} while (!gotcha_has_passed(CLOCK_MONOTONIC, &second));
		gotcha_say_waits(0);
	}
	return OWN(spin_lock, int(pthread_spinlock_t *))(lock);
}
static int donation_spin_lock(pthread_spinlock_t *lock) {
	int error = donate_until(try_spin, (void *) lock, CLOCK_MONOTONIC, NULL);
	return error == EBUSY ? spin_lock_wait(lock) : error;
}
static int donation_spin_unlock(pthread_spinlock_t *lock) {
	int error = OWN(spin_unlock, int(pthread_spinlock_t *))(lock);
	gotcha_released();
	return error;
}

/* ------------------------------------------------------------------ C11's mutexes: pthread's, by other names */

static int donation_mtx_lock(mtx_t *mutex) {
	gotcha_lock_begin();
	gotcha_before_mutex((pthread_mutex_t *) mutex, CLOCK_REALTIME, NULL);
	return gotcha_lock_end(OWN(mtx_lock, int(mtx_t *))(mutex));
}
static int donation_mtx_trylock(mtx_t *mutex) {
	gotcha_lock_begin();
	return gotcha_lock_end(OWN(mtx_trylock, int(mtx_t *))(mutex));
}
static int donation_mtx_timedlock(mtx_t *mutex, const struct timespec *deadline) {
	gotcha_lock_begin();
	gotcha_before_mutex((pthread_mutex_t *) mutex, CLOCK_REALTIME, deadline);
	return gotcha_lock_end(OWN(mtx_timedlock, int(mtx_t *, const struct timespec *))(mutex, deadline));
}
static int donation_mtx_unlock(mtx_t *mutex) {
	return gotcha_unlock_end(OWN(mtx_unlock, int(mtx_t *))(mutex));
}

/* ------------------------------------------------------------------ futexes */

typedef long system_call(long number, SIX_PARAMETERS);

/* Values that are waited for are locks' in these libraries.  A condition's counter may by chance have one of them. */
static bool is_value_of_lock(uint32_t value) {
	enum {
		CONTENDED = 2,                          /* std: Mutex, ReentrantLock */
		RUNNING_QUEUED = 2 | 4, RUNNING_QUEUED_OLD = 1 | 4,     /* std: Once, OnceLock, LazyLock */
		READ_LOCKED_WAITING = 1u << 30,         /* std: RwLock, who reads, from here on */
		PARKED = 1,                             /* parking_lot: every wait */
		GUARD = 0x10000 | 0x100,                /* libstdc++: __cxa_guard_acquire */
	};
	return value == CONTENDED || value == RUNNING_QUEUED || value == RUNNING_QUEUED_OLD || value == PARKED || value == GUARD
		|| value >= READ_LOCKED_WAITING;
}

/* std's RwLock, who writes: waits for a counter, like that of a condition, before which the lock's state lies. Before a
 * condition there lies anything, half a pointer for instance: so no more readers are believed in than a lock will have. */
static bool is_counter_of_rwlock(const uint32_t *word) {
	const uint32_t WRITERS_WAITING = 1u << 31, WRITE_LOCKED = (1u << 30) - 1, MANY_READERS = 1u << 12;
	bool is_readable = (uintptr_t) word % 4096;
	uint32_t before = is_readable ? __atomic_load_n(word - 1, __ATOMIC_RELAXED) : 0;
	uint32_t locked = before & WRITE_LOCKED;
	return before & WRITERS_WAITING && (locked == WRITE_LOCKED || (locked && locked < MANY_READERS));
}

/* The state of an RwLock that a writer has locked, and readers and other writers wait for, is UINT32_MAX.  So is what a
 * thread waits for that parks, for a channel or a join.  States that writers have waited for: */
static const uint32_t *rwlocks[256];

static const uint32_t **rwlock_slot(const uint32_t *state) {
	return &rwlocks[(uintptr_t) state / 8 % lengthof(rwlocks)];
}

/* How long a wait is a plain wait; 0: for ever. */
static long patience_ns(const uint32_t *word, uint32_t value) {
	enum { MOMENT_NS = 50000 };
	if (is_counter_of_rwlock(word)) {
		__atomic_store_n(rwlock_slot(word - 1), word - 1, __ATOMIC_RELAXED);
		return MOMENT_NS;
	}
	bool is_unclear = value == UINT32_MAX && __atomic_load_n(rwlock_slot(word), __ATOMIC_RELAXED) != word;
	return is_unclear ? SECOND_NS : is_value_of_lock(value) ? MOMENT_NS : 0;
}

/* Until when, as FUTEX_WAIT_BITSET counts: on the clock that it is told.  False: for ever. */
static bool futex_end(int operation, const struct timespec *timeout, struct timespec *end) {
	if (!timeout)
		return false;
	*end = *timeout;
	if ((operation & FUTEX_CMD_MASK) == FUTEX_WAIT) {
		gotcha_now_and(timeout->tv_nsec, end);
		end->tv_sec += timeout->tv_sec;
	}
	return true;
}

static bool is_sooner(clockid_t clock, const struct timespec *end, long ns) {
	struct timespec then;
	clock_gettime(clock, &then);
	add_ns(&then, ns);
	return end->tv_sec < then.tv_sec || (end->tv_sec == then.tv_sec && end->tv_nsec < then.tv_nsec);
}

/* By a preemption alone, a wait that the kernel would have restarted: only one with a timeout is interrupted. */
static bool is_interrupted(long result, bool ends, uint64_t handled) {
	return result && *caller_errno() == EINTR && !ends && THIS.program_signals == handled;
}

/* Context: as the program called. */
static long wait_for_lock(system_call *own, const uint32_t *word, int operation, uint32_t value, const struct timespec *timeout, uint32_t bits, long patience) {
	struct timespec end, moment, report;
	bool ends = futex_end(operation, timeout, &end), is_relative = (operation & FUTEX_CMD_MASK) == FUTEX_WAIT;
	clockid_t clock = operation & FUTEX_CLOCK_REALTIME && !is_relative ? CLOCK_REALTIME : CLOCK_MONOTONIC;
	int wait = FUTEX_WAIT_BITSET | (operation & FUTEX_PRIVATE_FLAG);
	bits = is_relative ? FUTEX_BITSET_MATCH_ANY : bits;
	bool is_reported = ends || patience == SECOND_NS;
	uint64_t handled = THIS.program_signals;
	gotcha_now_and(SECOND_NS, &report);
	gotcha_now_and(patience, &moment);
	if (ends && is_sooner(clock, &end, patience))
		goto plainly;
	long result;
	do
		result = own(SYS_futex, (long) word, wait, value, (long) &moment, 0, bits);
	while (is_interrupted(result, ends, handled));
	if (!result || *caller_errno() != ETIMEDOUT)
		return result;
	while (!(ends && is_over(clock, &end)) && donate(0)) {
		if (__atomic_load_n(word, __ATOMIC_RELAXED) != value)
			return fail(EAGAIN);
		if (!is_reported && gotcha_has_passed(CLOCK_MONOTONIC, &report)) {
			gotcha_say_waits(0);
			is_reported = true;
		}
	}
	if (!is_reported) {
		do
			result = own(SYS_futex, (long) word, wait, value, (long) &report, 0, bits);
		while (is_interrupted(result, ends, handled));
		if (!result || *caller_errno() != ETIMEDOUT)
			return result;
		gotcha_say_waits(0);
	}
plainly:
	return own(SYS_futex, (long) word, wait | (clock == CLOCK_REALTIME ? FUTEX_CLOCK_REALTIME : 0), value, ends ? (long) &end : 0, 0, bits);
}

static long donation_syscall(long number, SIX_PARAMETERS) {
	system_call *own = OWN(syscall, system_call);
	int command = b & FUTEX_CMD_MASK;
	if (number != SYS_futex || (command != FUTEX_WAIT && command != FUTEX_WAIT_BITSET && command != FUTEX_WAKE))
		return own(number, SIX_ARGUMENTS);
	if (command == FUTEX_WAKE) {
		long woken = own(number, SIX_ARGUMENTS);
		gotcha_released();
		return woken;
	}
	const struct timespec *timeout = (const struct timespec *) d;
	bool is_valid = !timeout || (timeout->tv_sec >= 0 && timeout->tv_sec < INT64_MAX / 2 && timeout->tv_nsec >= 0 && timeout->tv_nsec < SECOND_NS);
	long patience = patience_ns((const uint32_t *) a, c);
	if (!patience || !is_valid || !may_donate())
		return own(number, SIX_ARGUMENTS);
	return wait_for_lock(own, (const uint32_t *) a, b, c, timeout, f, patience);
}

static struct row rows[] = {
	[ROW_rdlock] = { "pthread_rwlock_rdlock", donation_rdlock, FROM_PROGRAM, NULL },
	[ROW_tryrdlock] = { "pthread_rwlock_tryrdlock", donation_tryrdlock, false, NULL },
	[ROW_timedrdlock] = { "pthread_rwlock_timedrdlock", donation_timedrdlock, FROM_PROGRAM, NULL },
	[ROW_clockrdlock] = { "pthread_rwlock_clockrdlock", donation_clockrdlock, FROM_PROGRAM, NULL },
	[ROW_wrlock] = { "pthread_rwlock_wrlock", donation_wrlock, FROM_PROGRAM, NULL },
	[ROW_trywrlock] = { "pthread_rwlock_trywrlock", donation_trywrlock, false, NULL },
	[ROW_timedwrlock] = { "pthread_rwlock_timedwrlock", donation_timedwrlock, FROM_PROGRAM, NULL },
	[ROW_clockwrlock] = { "pthread_rwlock_clockwrlock", donation_clockwrlock, FROM_PROGRAM, NULL },
	[ROW_rwlock_unlock] = { "pthread_rwlock_unlock", donation_rwlock_unlock, false, NULL },
	[ROW_once] = { "pthread_once", donation_once, FROM_PROGRAM, NULL },
	[ROW_call_once] = { "call_once", donation_call_once, FROM_PROGRAM, NULL },
	[ROW_spin_lock] = { "pthread_spin_lock", donation_spin_lock, FROM_PROGRAM, NULL },
	[ROW_spin_unlock] = { "pthread_spin_unlock", donation_spin_unlock, false, NULL },
	[ROW_mtx_lock] = { "mtx_lock", donation_mtx_lock, FROM_PROGRAM, NULL },
	[ROW_mtx_trylock] = { "mtx_trylock", donation_mtx_trylock, false, NULL },
	[ROW_mtx_timedlock] = { "mtx_timedlock", donation_mtx_timedlock, FROM_PROGRAM, NULL },
	[ROW_mtx_unlock] = { "mtx_unlock", donation_mtx_unlock, false, NULL },
	[ROW_syscall] = { "syscall", donation_syscall, true, NULL },
};
struct rows gotcha_rows_donation = { rows, lengthof(rows) };
