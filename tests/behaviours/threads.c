/* Threads that a function starts, and what they and it wait for. */
#include "behaviour.h"

#include <pthread.h>
#include <semaphore.h>
#include <threads.h>

enum { THREADS = 4, ROUNDS = 300 };

static void on_threads(void *(*body)(void *), void *argument) {
	pthread_t threads[THREADS];
	for (int i = 0; i < THREADS; i++)
		CHECK(!pthread_create(&threads[i], NULL, body, argument));
	/* the function is one of them */
	CHECK(body(argument) == argument);
	for (int i = 0; i < THREADS; i++) {
		void *result;
		CHECK(!pthread_join(threads[i], &result) && result == argument);
	}
}

static long shared;

static void *add_under(void *mutex) {
	for (int i = 0; i < ROUNDS; i++) {
		CHECK(!pthread_mutex_lock((pthread_mutex_t *) mutex));
		long before = shared;
		spin_us(3);
		shared = before + 1;
		CHECK(!pthread_mutex_unlock((pthread_mutex_t *) mutex));
	}
	return mutex;
}

static void mutexes(void) {
	static const int types[] = { PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_RECURSIVE, PTHREAD_MUTEX_ERRORCHECK, PTHREAD_MUTEX_ADAPTIVE_NP };
	for (int i = 0; i < 4; i++) {
		pthread_mutexattr_t attributes;
		pthread_mutex_t mutex;
		CHECK(!pthread_mutexattr_init(&attributes) && !pthread_mutexattr_settype(&attributes, types[i]));
		CHECK(!pthread_mutex_init(&mutex, &attributes));
		shared = 0;
		on_threads(add_under, &mutex);
		CHECK(shared == ROUNDS * (THREADS + 1) && !pthread_mutex_destroy(&mutex));
	}
}

static void timed_mutexes(void) {
	pthread_mutex_t mutex;
	pthread_mutexattr_t attributes;
	CHECK(!pthread_mutexattr_init(&attributes) && !pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK));
	CHECK(!pthread_mutex_init(&mutex, &attributes) && !pthread_mutex_lock(&mutex));
	CHECK(pthread_mutex_lock(&mutex) == EDEADLK && pthread_mutex_trylock(&mutex) == EBUSY);
	CHECK(!pthread_mutex_unlock(&mutex) && pthread_mutex_unlock(&mutex) == EPERM);
	CHECK(!pthread_mutex_destroy(&mutex) && !pthread_mutex_init(&mutex, NULL) && !pthread_mutex_lock(&mutex));
	for (int i = 0; i < 3; i++) {
		struct timespec until;
		CHECK(!clock_gettime(CLOCK_REALTIME, &until));
		until.tv_nsec += 5000000;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		uint64_t start = now_us();
		CHECK(pthread_mutex_timedlock(&mutex, &until) == ETIMEDOUT && now_us() - start >= 4900);
	}
	CHECK(!pthread_mutex_unlock(&mutex) && !pthread_mutex_destroy(&mutex));
}

/* ------------------------------------------------------------------ conditions */

static pthread_mutex_t queue_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t has_room = PTHREAD_COND_INITIALIZER, has_item = PTHREAD_COND_INITIALIZER;
static int queue[8], queued, produced;

static void *produce(void *unused) {
	for (int i = 0; i < ROUNDS; i++) {
		CHECK(!pthread_mutex_lock(&queue_mutex));
		while (queued == 8)
			CHECK(!pthread_cond_wait(&has_room, &queue_mutex));
		queue[queued++] = ++produced;
		CHECK(!pthread_cond_signal(&has_item) && !pthread_mutex_unlock(&queue_mutex));
	}
	return unused;
}

static void conditions(void) {
	pthread_t threads[THREADS];
	queued = produced = 0;
	for (int i = 0; i < THREADS; i++)
		CHECK(!pthread_create(&threads[i], NULL, produce, NULL));
	long sum = 0;
	for (int i = 0; i < THREADS * ROUNDS; i++) {
		CHECK(!pthread_mutex_lock(&queue_mutex));
		while (!queued)
			CHECK(!pthread_cond_wait(&has_item, &queue_mutex));
		sum += queue[--queued];
		CHECK(!pthread_cond_broadcast(&has_room) && !pthread_mutex_unlock(&queue_mutex));
	}
	for (int i = 0; i < THREADS; i++)
		CHECK(!pthread_join(threads[i], NULL));
	note("%ld\n", sum);
	struct timespec until;
	uint64_t start = now_us();
	CHECK(!clock_gettime(CLOCK_REALTIME, &until) && !pthread_mutex_lock(&queue_mutex));
	until.tv_nsec += 10000000;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	int error;
	while (!(error = pthread_cond_timedwait(&has_item, &queue_mutex, &until)))
		;
	CHECK(error == ETIMEDOUT && now_us() - start >= 9900 && !pthread_mutex_unlock(&queue_mutex));
}

/* ------------------------------------------------------------------ barriers and others */

static pthread_barrier_t barrier;
static _Atomic int arrived, serial;

static void *meet(void *unused) {
	for (int i = 1; i <= 50; i++) {
		arrived++;
		int result = pthread_barrier_wait(&barrier);
		CHECK(result == 0 || result == PTHREAD_BARRIER_SERIAL_THREAD);
		CHECK(arrived >= i * (THREADS + 1));
		serial += result == PTHREAD_BARRIER_SERIAL_THREAD;
		pthread_barrier_wait(&barrier);
	}
	return unused;
}

static void barriers(void) {
	arrived = serial = 0;
	CHECK(!pthread_barrier_init(&barrier, NULL, THREADS + 1));
	on_threads(meet, NULL);
	CHECK(serial == 50 && !pthread_barrier_destroy(&barrier));
}

static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static long halves[2];

static void *read_and_write(void *unused) {
	for (int i = 0; i < ROUNDS; i++)
		if (i % 3) {
			CHECK(!pthread_rwlock_rdlock(&rwlock) && halves[0] == halves[1] && !pthread_rwlock_unlock(&rwlock));
		} else {
			CHECK(!pthread_rwlock_wrlock(&rwlock));
			halves[0]++;
			spin_us(3);
			halves[1]++;
			CHECK(!pthread_rwlock_unlock(&rwlock));
		}
	return unused;
}

static void read_write_locks(void) {
	halves[0] = halves[1] = 0;
	on_threads(read_and_write, NULL);
	CHECK(halves[0] == (THREADS + 1) * ROUNDS / 3);
}

static sem_t here, there;

static void *pong(void *unused) {
	for (int i = 0; i < ROUNDS; i++)
		CHECK(!sem_wait(&here) && !sem_post(&there));
	return unused;
}

static void semaphores(void) {
	CHECK(!sem_init(&here, 0, 0) && !sem_init(&there, 0, 0));
	pthread_t thread;
	CHECK(!pthread_create(&thread, NULL, pong, NULL));
	int value;
	for (int i = 0; i < ROUNDS; i++)
		CHECK(!sem_post(&here) && !sem_wait(&there));
	CHECK(!pthread_join(thread, NULL) && !sem_getvalue(&there, &value) && value == 0);
	CHECK(sem_trywait(&there) < 0 && errno == EAGAIN);
	char name[64];
	snprintf(name, sizeof name, "/behaviour-%d", (int) getpid());
	sem_t *named = sem_open(name, O_CREAT | O_EXCL, 0600, 3);
	CHECK(named != SEM_FAILED && !sem_unlink(name));
	for (int i = 0; i < 3; i++)
		CHECK(!sem_wait(named));
	struct timespec until;
	CHECK(!clock_gettime(CLOCK_REALTIME, &until));
	CHECK(sem_timedwait(named, &until) < 0 && errno == ETIMEDOUT && !sem_close(named));
	CHECK(!sem_destroy(&here) && !sem_destroy(&there));
}

static void *spin_lock(void *lock) {
	for (int i = 0; i < ROUNDS; i++) {
		/* a spin lock's holder must not be stopped while its kernel thread spins for it: these are other threads */
		CHECK(!pthread_spin_lock((pthread_spinlock_t *) lock));
		shared++;
		CHECK(!pthread_spin_unlock((pthread_spinlock_t *) lock));
	}
	return lock;
}

static void spin_locks(void) {
	pthread_spinlock_t lock;
	shared = 0;
	CHECK(!pthread_spin_init(&lock, PTHREAD_PROCESS_PRIVATE));
	on_threads(spin_lock, (void *) &lock);
	CHECK(shared == ROUNDS * (THREADS + 1) && !pthread_spin_destroy(&lock));
}

/* ------------------------------------------------------------------ once, keys, cancellation */

static pthread_once_t once;
static int initialised;

static void initialise(void) {
	spin_us(500);
	initialised++;
}

static void *initialise_once(void *unused) {
	CHECK(!pthread_once(&once, initialise) && initialised == 1);
	return unused;
}

static void initialisation(void) {
	initialised = 0;
	once = (pthread_once_t) PTHREAD_ONCE_INIT;
	on_threads(initialise_once, NULL);
	CHECK(initialised == 1);
}

static pthread_key_t key;
static _Atomic int destroyed;
static __thread long local = 7;

static void destroy(void *value) {
	destroyed += *(int *) value;
	free(value);
}

static void *use_key(void *unused) {
	CHECK(!pthread_getspecific(key) && local == 7);
	local = 8;
	int *value = (int *) malloc(sizeof *value);
	*value = 5;
	CHECK(!pthread_setspecific(key, value));
	spin_us(200);
	CHECK(pthread_getspecific(key) == value && local == 8);
	return unused;
}

static void keys(void) {
	destroyed = 0;
	CHECK(!pthread_key_create(&key, destroy));
	pthread_t threads[THREADS];
	for (int i = 0; i < THREADS; i++)
		CHECK(!pthread_create(&threads[i], NULL, use_key, NULL));
	for (int i = 0; i < THREADS; i++)
		CHECK(!pthread_join(threads[i], NULL));
	CHECK(destroyed == 5 * THREADS && !pthread_key_delete(key));
}

static _Atomic int cleaned;

static void clean_up(void *unused) {
	(void) unused;
	cleaned++;
}

static void *wait_to_be_cancelled(void *asynchronous) {
	pthread_cleanup_push(clean_up, NULL);
	if (asynchronous)
		CHECK(!pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL));
	else
		for (;;)
			sleep(100);
	for (;;)
		;
	pthread_cleanup_pop(0);
	return NULL;
}

static void cancellation(void) {
	cleaned = 0;
	for (long i = 0; i < 4; i++) {
		pthread_t thread;
		void *result;
		CHECK(!pthread_create(&thread, NULL, wait_to_be_cancelled, (void *) (i % 2)));
		sleep_us(2000);
		CHECK(!pthread_cancel(thread) && !pthread_join(thread, &result) && result == PTHREAD_CANCELED);
	}
	CHECK(cleaned == 4);
}

static void *look_at_itself(void *unused) {
	pthread_attr_t attributes;
	size_t size;
	CHECK(!pthread_getattr_np(pthread_self(), &attributes) && !pthread_attr_getstacksize(&attributes, &size));
	CHECK(size == 1 << 20 && !pthread_attr_destroy(&attributes));
	char name[16];
	CHECK(!pthread_setname_np(pthread_self(), "behaves") && !pthread_getname_np(pthread_self(), name, sizeof name));
	note("%s %d\n", name, gettid() != getpid());
	return unused;
}

static _Atomic int detached;

static void *count_down(void *unused) {
	sleep_us(500);
	detached--;
	return unused;
}

static void attributes(void) {
	pthread_attr_t attributes;
	pthread_t thread;
	CHECK(!pthread_attr_init(&attributes) && !pthread_attr_setstacksize(&attributes, 1 << 20));
	CHECK(!pthread_create(&thread, &attributes, look_at_itself, NULL) && !pthread_join(thread, NULL));
	CHECK(!pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED));
	for (detached = 0; detached < 3;) {
		detached++;
		CHECK(!pthread_create(&thread, &attributes, count_down, NULL));
		break;
	}
	while (detached)
		sleep_us(200);
	/* its end follows */
	sleep_us(2000);
	CHECK(!pthread_attr_destroy(&attributes));
}

/* ------------------------------------------------------------------ C11 */

static mtx_t mutex;
static cnd_t condition;
static int turn;
static once_flag flag;
static tss_t specific;

static void count_once(void) {
	initialised++;
}

static int take_turns(void *own) {
	call_once(&flag, count_once);
	CHECK(tss_set(specific, own) == thrd_success);
	for (int i = 0; i < 100; i++) {
		CHECK(mtx_lock(&mutex) == thrd_success);
		while (turn != *(int *) own)
			CHECK(cnd_wait(&condition, &mutex) == thrd_success);
		turn = !turn;
		CHECK(cnd_broadcast(&condition) == thrd_success && mtx_unlock(&mutex) == thrd_success);
		thrd_yield();
	}
	return tss_get(specific) == own ? 42 : 0;
}

static void standard_threads(void) {
	initialised = turn = 0;
	flag = (once_flag) ONCE_FLAG_INIT;
	CHECK(mtx_init(&mutex, mtx_plain) == thrd_success && cnd_init(&condition) == thrd_success);
	CHECK(tss_create(&specific, NULL) == thrd_success);
	int zero = 0, one = 1, result;
	thrd_t thread;
	CHECK(thrd_create(&thread, take_turns, &zero) == thrd_success && take_turns(&one) == 42);
	CHECK(thrd_join(thread, &result) == thrd_success && result == 42 && initialised == 1);
	tss_delete(specific);
	cnd_destroy(&condition);
	mtx_destroy(&mutex);
}

const struct behaviour behaviours[] = {
	BEHAVIOUR(mutexes),
	BEHAVIOUR(timed_mutexes),
	BEHAVIOUR(conditions),
	BEHAVIOUR(barriers),
	BEHAVIOUR(read_write_locks),
	BEHAVIOUR(semaphores),
	BEHAVIOUR(spin_locks),
	BEHAVIOUR(initialisation),
	BEHAVIOUR(keys),
	BEHAVIOUR(cancellation),
	BEHAVIOUR(attributes),
	BEHAVIOUR(standard_threads),
	{ NULL, NULL },
};
