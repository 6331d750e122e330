/* Waits for locks that a stopped function holds.  A launcher that is not helped waits for ever. */
#include "policy.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <threads.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static pthread_spinlock_t spin;
static mtx_t c11;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static once_flag c11_once = ONCE_FLAG_INIT;
static uint32_t word;

/* ------------------------------------------------------------------ locks */

static struct timespec in_20_s(clockid_t clock) {
	struct timespec time;
	clock_gettime(clock, &time);
	time.tv_sec += 20;
	return time;
}

#define LOCK(name, call) \
	static void name(void) { \
		struct timespec real = in_20_s(CLOCK_REALTIME), monotonic = in_20_s(CLOCK_MONOTONIC); \
		(void) real, (void) monotonic; \
		REQUIRE(!(call), call); \
	}
LOCK(lock_mutex, pthread_mutex_lock(&mutex))
LOCK(try_mutex, pthread_mutex_trylock(&mutex))
LOCK(time_mutex, pthread_mutex_timedlock(&mutex, &real))
LOCK(clock_mutex, pthread_mutex_clocklock(&mutex, CLOCK_MONOTONIC, &monotonic))
LOCK(unlock_mutex, pthread_mutex_unlock(&mutex))
LOCK(read_lock, pthread_rwlock_rdlock(&rwlock))
LOCK(try_read, pthread_rwlock_tryrdlock(&rwlock))
LOCK(time_read, pthread_rwlock_timedrdlock(&rwlock, &real))
LOCK(clock_read, pthread_rwlock_clockrdlock(&rwlock, CLOCK_MONOTONIC, &monotonic))
LOCK(write_lock, pthread_rwlock_wrlock(&rwlock))
LOCK(try_write, pthread_rwlock_trywrlock(&rwlock))
LOCK(time_write, pthread_rwlock_timedwrlock(&rwlock, &real))
LOCK(clock_write, pthread_rwlock_clockwrlock(&rwlock, CLOCK_MONOTONIC, &monotonic))
LOCK(unlock_rwlock, pthread_rwlock_unlock(&rwlock))
LOCK(lock_spin, pthread_spin_lock(&spin))
LOCK(unlock_spin, pthread_spin_unlock(&spin))
LOCK(lock_c11, mtx_lock(&c11) - thrd_success)
LOCK(try_c11, mtx_trylock(&c11) - thrd_success)
LOCK(time_c11, mtx_timedlock(&c11, &real) - thrd_success)
LOCK(unlock_c11, mtx_unlock(&c11) - thrd_success)

/* As in "Futexes Are Tricky" (Drepper): 0 free, 1 taken, 2 taken and waited for. */
static void lock_word(void) {
	uint32_t value = 0;
	if (__atomic_compare_exchange_n(&word, &value, 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
		return;
	while (__atomic_exchange_n(&word, 2, __ATOMIC_ACQUIRE))
		syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 2, NULL);
}
static void unlock_word(void) {
	if (__atomic_exchange_n(&word, 0, __ATOMIC_RELEASE) == 2)
		syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1);
}

/* ------------------------------------------------------------------ a function that holds one */

static void work(long us) {
	for (uint64_t end = now_us() + us; now_us() < end; )
		;
}

static void (*take)(void), (*release)(void);
static volatile unsigned long rounds;
static void hold_often(void *unused) {
	(void) unused;
	for (;;) {
		take();
		rounds++;
		work(300);
		release();
	}
}

/* Stopped while it holds the lock: it always does. */
static linger_t holder(void (*how)(void), void (*end)(void)) {
	take = how;
	release = end;
	rounds = 0;
	pthread_spin_init(&spin, PTHREAD_PROCESS_PRIVATE);
	mtx_init(&c11, mtx_timed);
	linger_t linger = linger_launch(hold_often, 100, NULL);
	REQUIRE(!linger.error && !linger.is_complete, linger.error);
	return linger;
}

/* Who waits gets it at the first release. */
static void wait_for(void (*how)(void), void (*wait)(void), void (*end)(void)) {
	linger_t linger = holder(how, end);
	for (int i = 0; i < 20; i++) {
		unsigned long before = rounds;
		wait();
		REQUIRE(rounds - before <= 1, rounds - before);
		end();
		linger_resume(&linger, 100);
	}
	linger_cancel(&linger);
}

/* It is not cancelled before it has released it. */
static void cancel_with(void (*how)(void), void (*try)(void), void (*end)(void)) {
	for (int i = 0; i < 20; i++) {
		linger_t linger = holder(how, end);
		linger_cancel(&linger);
		try();
		end();
	}
}

#define WAIT(how, wait, end) static void check_##wait(void) { wait_for(how, wait, end); }
WAIT(lock_mutex, lock_mutex, unlock_mutex)
WAIT(lock_mutex, time_mutex, unlock_mutex)
WAIT(lock_mutex, clock_mutex, unlock_mutex)
WAIT(write_lock, read_lock, unlock_rwlock)
WAIT(write_lock, time_read, unlock_rwlock)
WAIT(write_lock, clock_read, unlock_rwlock)
WAIT(read_lock, write_lock, unlock_rwlock)
WAIT(read_lock, time_write, unlock_rwlock)
WAIT(read_lock, clock_write, unlock_rwlock)
WAIT(lock_spin, lock_spin, unlock_spin)
WAIT(lock_c11, lock_c11, unlock_c11)
WAIT(lock_c11, time_c11, unlock_c11)
WAIT(lock_word, lock_word, unlock_word)

#define CANCEL(how, try, end) static void check_cancel_##how(void) { cancel_with(how, try, end); }
CANCEL(try_mutex, try_mutex, unlock_mutex)
CANCEL(try_read, try_write, unlock_rwlock)
CANCEL(try_write, try_write, unlock_rwlock)
CANCEL(try_c11, try_c11, unlock_c11)

/* ------------------------------------------------------------------ what is done once */

static volatile int done;
static void initialise(void) {
	work(1000);
	done = 1;
}
static void call_pthread_once(void *unused) {
	(void) unused;
	REQUIRE(!pthread_once(&once, initialise));
}
static void call_c11_once(void *unused) {
	(void) unused;
	call_once(&c11_once, initialise);
}
static void check_call(void (*call)(void *)) {
	linger_t linger = linger_launch(call, 100, NULL);
	REQUIRE(!linger.error && !linger.is_complete && !done, linger.error);
	call(NULL);
	REQUIRE(done);
	linger_resume(&linger, UINT64_MAX);
	REQUIRE(linger.is_complete);
}
static void check_pthread_once(void) {
	check_call(call_pthread_once);
}
static void check_call_once(void) {
	check_call(call_c11_once);
}

const struct check checks[] = {
	{ "mutex", "pthread_mutex_lock,pthread_mutex_unlock", check_lock_mutex },
	{ "timed_mutex", "pthread_mutex_timedlock", check_time_mutex },
	{ "clocked_mutex", "pthread_mutex_clocklock", check_clock_mutex },
	{ "read", "pthread_rwlock_rdlock", check_read_lock },
	{ "timed_read", "pthread_rwlock_timedrdlock", check_time_read },
	{ "clocked_read", "pthread_rwlock_clockrdlock", check_clock_read },
	{ "write", "pthread_rwlock_wrlock,pthread_rwlock_unlock", check_write_lock },
	{ "timed_write", "pthread_rwlock_timedwrlock", check_time_write },
	{ "clocked_write", "pthread_rwlock_clockwrlock", check_clock_write },
	{ "spin", "pthread_spin_lock,pthread_spin_unlock", check_lock_spin },
	{ "c11", "mtx_lock,mtx_unlock", check_lock_c11 },
	{ "timed_c11", "mtx_timedlock", check_time_c11 },
	{ "futex", "syscall", check_lock_word },
	{ "cancel_mutex", "pthread_mutex_trylock", check_cancel_try_mutex },
	{ "cancel_read", "pthread_rwlock_tryrdlock", check_cancel_try_read },
	{ "cancel_write", "pthread_rwlock_trywrlock", check_cancel_try_write },
	{ "cancel_c11", "mtx_trylock", check_cancel_try_c11 },
	{ "pthread_once", "pthread_once", check_pthread_once },
	{ "call_once", "call_once", check_call_once },
	{ NULL, NULL, NULL },
};
