// Locks that functions hold where they are stopped, and that their launcher then waits for: it lets the function go on until
// it has released the lock. And what it leaves alone.
#include "mutexes.h"

#include <mutex>
#include <new>
#include <semaphore.h>
#include <shared_mutex>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <threads.h>

namespace {

constexpr int functions = 3, rounds = 400;
constexpr uint64_t slice_us = 50;

// ------------------------------------------------------------------ kinds of locks

struct Normal : Pthread { Normal() : Pthread(PTHREAD_MUTEX_NORMAL) {} };
struct Twice : Recursive {
	void lock() { Recursive::lock(); Recursive::lock(); }
	void unlock() { Recursive::unlock(); Recursive::unlock(); }
};

timespec after_s(clockid_t clock, int s) {
	timespec time;
	clock_gettime(clock, &time);
	time.tv_sec += s;
	return time;
}

struct Timed : Pthread {
	Timed() : Pthread(PTHREAD_MUTEX_NORMAL) {}
	void lock() {
		timespec time = after_s(CLOCK_REALTIME, 20);
		CHECK(!pthread_mutex_timedlock(&mutex, &time));
	}
};
struct Clocked : Pthread {
	Clocked() : Pthread(PTHREAD_MUTEX_NORMAL) {}
	void lock() {
		timespec time = after_s(CLOCK_MONOTONIC, 20);
		CHECK(!pthread_mutex_clocklock(&mutex, CLOCK_MONOTONIC, &time));
	}
};

struct C11 {
	mtx_t mutex;
	C11() { CHECK(mtx_init(&mutex, mtx_timed) == thrd_success); }
	void lock() { CHECK(mtx_lock(&mutex) == thrd_success); }
	void unlock() { CHECK(mtx_unlock(&mutex) == thrd_success); }
};
struct C11Timed : C11 {
	void lock() {
		timespec time = after_s(CLOCK_REALTIME, 20);
		CHECK(mtx_timedlock(&mutex, &time) == thrd_success);
	}
};

struct Spin {
	pthread_spinlock_t spin;
	Spin() { CHECK(!pthread_spin_init(&spin, PTHREAD_PROCESS_PRIVATE)); }
	void lock() { CHECK(!pthread_spin_lock(&spin)); }
	void unlock() { CHECK(!pthread_spin_unlock(&spin)); }
};

// Taken for writing, and in turn for reading by those that go round with `reads`.
struct ReadWrite {
	pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
	void lock() { CHECK(!pthread_rwlock_wrlock(&rwlock)); }
	void lock_shared() { CHECK(!pthread_rwlock_rdlock(&rwlock)); }
	void unlock() { CHECK(!pthread_rwlock_unlock(&rwlock)); }
};
struct ReadWriteTimed : ReadWrite {
	void lock() {
		timespec time = after_s(CLOCK_REALTIME, 20);
		CHECK(!pthread_rwlock_timedwrlock(&rwlock, &time));
	}
	void lock_shared() {
		timespec time = after_s(CLOCK_REALTIME, 20);
		CHECK(!pthread_rwlock_timedrdlock(&rwlock, &time));
	}
};
struct ReadWriteClocked : ReadWrite {
	void lock() {
		timespec time = after_s(CLOCK_MONOTONIC, 20);
		CHECK(!pthread_rwlock_clockwrlock(&rwlock, CLOCK_MONOTONIC, &time));
	}
	void lock_shared() {
		timespec time = after_s(CLOCK_MONOTONIC, 20);
		CHECK(!pthread_rwlock_clockrdlock(&rwlock, CLOCK_MONOTONIC, &time));
	}
};

// ------------------------------------------------------------------ functions and their launcher

template <class Lock> struct Shared {
	Lock lock;
	volatile long left = 0, right = 0;
	volatile int holders = 0;
	void add() {
		holders = holders + 1;
		left = left + 1;
		spin_us(20);
		right = right + 1;
		holders = holders - 1;
	}
};

template <class Lock> void write_often(void *argument) {
	auto &shared = *static_cast<Shared<Lock> *>(argument);
	for (int i = 0; i < rounds; i++) {
		shared.lock.lock();
		shared.add();
		shared.lock.unlock();
	}
}

template <class Lock> void read_often(void *argument) {
	auto &shared = *static_cast<Shared<Lock> *>(argument);
	for (int i = 0; i < rounds; i++) {
		shared.lock.lock_shared();
		CHECK(shared.left == shared.right);
		shared.holders = shared.holders + 1;
		spin_us(20);
		shared.holders = shared.holders - 1;
		CHECK(shared.left == shared.right);
		shared.lock.unlock();
	}
}

unsigned long all_held;

// The launcher takes the lock after each slice, whoever holds it.
template <class Lock> void share(void (*other)(void *) = write_often<Lock>) {
	Shared<Lock> shared;
	linger_t lingers[functions];
	for (int i = 0; i < functions; i++)
		lingers[i] = launch(i % 2 ? other : write_often<Lock>, 0, &shared);
	long taken = 0, held = 0;
	for (bool unfinished = true; unfinished;) {
		unfinished = false;
		for (linger_t &linger : lingers) {
			// Not always the same: it would be near a multiple of what a turn takes, and end outside of the lock.
			resume(&linger, slice_us + rand() % 20);
			CHECK(!linger.error);
			unfinished |= !linger.is_complete;
			held += shared.holders != 0;
			shared.lock.lock();
			CHECK(shared.left == shared.right);
			shared.add();
			shared.lock.unlock();
			taken++;
		}
	}
	long writers = other == write_often<Lock> ? functions : (functions + 1) / 2;
	CHECK(shared.left == shared.right && shared.left == writers * rounds + taken);
	if (getenv("VERBOSE")) printf("%s: %ld of %ld\n", __PRETTY_FUNCTION__, held, taken), fflush(stdout);
	CHECK(held > 10);
	all_held += held;
}

// The same inside a function, without a limit: nobody would preempt it.
template <class Lock> void share_inside() {
	linger_t linger = launch([](void *) { share<Lock>(); }, NO_LIMIT, nullptr);
	CHECK(linger.is_complete);
}

// ------------------------------------------------------------------ what is done once

volatile int calls;
struct Slow {
	Slow() { initialise(); }
	static void initialise() {
		calls = calls + 1;
		spin_us(300);
		calls = calls + 1;
	}
};
pthread_once_t once;
::once_flag c11_flag;
std::once_flag flag;
template <int number> void local() {
	static Slow slow;
}

template <int number> void initialise_once(void *how) {
	switch (*static_cast<int *>(how)) {
	case 0: CHECK(!pthread_once(&once, Slow::initialise)); break;
	case 1: ::call_once(&c11_flag, Slow::initialise); break;
	case 2: std::call_once(flag, Slow::initialise); break;
	default: local<number>();
	}
}

template <int number> void initialise() {
	for (int how = 0; how < 4; how++) {
		calls = 0;
		once = PTHREAD_ONCE_INIT;
		c11_flag = ONCE_FLAG_INIT;
		new (&flag) std::once_flag;
		linger_t linger = launch(initialise_once<number>, slice_us, &how);
		bool was_inside = calls == 1;
		initialise_once<number>(&how);
		CHECK(calls == 2);
		all_held += was_inside;
		finish(&linger, slice_us);
	}
	if constexpr (number > 0)
		initialise<number - 1>();
}

// ------------------------------------------------------------------ what is left alone

volatile unsigned long count;
void count_on(void *) {
	for (;;)
		count = count + 1;
}

// `wait` waits for something else than a lock.
template <class Wait> void leaves_alone(Wait wait) {
	linger_t linger = launch(count_on, 200, nullptr);
	CHECK(!linger.is_complete);
	unsigned long before = count;
	wait();
	CHECK(count == before);
	cancel(&linger);
}

pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

void lock_and_pause(void *) {
	CHECK(!pthread_mutex_lock(&mutex));
	linger_pause();
	count = count + 1;
	CHECK(!pthread_mutex_unlock(&mutex));
}

void other_waits() {
	timespec soon;
	auto in_ms = [&](clockid_t clock) {
		clock_gettime(clock, &soon);
		soon.tv_nsec += 5000000;
		soon.tv_sec += soon.tv_nsec / 1000000000;
		soon.tv_nsec %= 1000000000;
		return &soon;
	};
	leaves_alone([&] {
		sem_t semaphore;
		CHECK(!sem_init(&semaphore, 0, 0));
		CHECK(sem_timedwait(&semaphore, in_ms(CLOCK_REALTIME)) == -1 && errno == ETIMEDOUT);
	});
	leaves_alone([&] {
		pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
		CHECK(!pthread_mutex_lock(&mutex));
		CHECK(pthread_cond_timedwait(&condition, &mutex, in_ms(CLOCK_REALTIME)) == ETIMEDOUT);
		CHECK(!pthread_mutex_unlock(&mutex));
	});
	leaves_alone([&] { CHECK(!usleep(5000)); });
	// a function that pauses goes on when its launcher says so
	linger_t linger = launch(lock_and_pause, NO_LIMIT, nullptr);
	CHECK(linger.is_yielded);
	unsigned long before = count;
	CHECK(pthread_mutex_timedlock(&mutex, in_ms(CLOCK_REALTIME)) == ETIMEDOUT);
	CHECK(count == before);
	resume(&linger, NO_LIMIT);
	CHECK(linger.is_complete && !pthread_mutex_lock(&mutex) && !pthread_mutex_unlock(&mutex));
	// what the launcher holds itself
	leaves_alone([&] {
		CHECK(!pthread_mutex_lock(&mutex));
		CHECK(pthread_mutex_timedlock(&mutex, in_ms(CLOCK_REALTIME)) == ETIMEDOUT);
		CHECK(!pthread_mutex_unlock(&mutex));
	});
}

// ------------------------------------------------------------------ ends on donated time

void return_with_lock(void *) {
	CHECK(!pthread_mutex_lock(&mutex));
	spin_us(300);
	CHECK(!pthread_mutex_unlock(&mutex));
}

// Its launcher hears of it when it resumes it, or cancels it. It may stop while it takes or releases the lock, which then is
// nobody's.
void completions() {
	int stopped = 0;
	for (int i = 0; i < 1000; i++) {
		linger_t linger = launch(return_with_lock, slice_us, nullptr);
		while (!linger.is_complete && pthread_mutex_trylock(&mutex) == 0) {
			CHECK(!pthread_mutex_unlock(&mutex));
			resume(&linger, slice_us);
		}
		// A machine that stands still for a moment can let it get there in one slice.
		if (linger.is_complete)
			continue;
		stopped++;
		CHECK(!pthread_mutex_lock(&mutex) && !pthread_mutex_unlock(&mutex));
		if (i % 2) {
			finish(&linger, slice_us);
		} else {
			cancel(&linger);
			CHECK(linger.error == ECANCELED);
		}
	}
	CHECK(stopped > 500);
}

// ------------------------------------------------------------------ cancel

struct Held {
	pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
	pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
};

void hold_often(void *argument) {
	auto &held = *static_cast<Held *>(argument);
	for (;;) {
		CHECK(!pthread_mutex_lock(&held.mutex));
		spin_us(5);
		CHECK(!pthread_rwlock_rdlock(&held.rwlock));
		spin_us(5);
		CHECK(!pthread_mutex_unlock(&held.mutex));
		spin_us(5);
		CHECK(!pthread_rwlock_unlock(&held.rwlock));
	}
}

// It goes on until it holds none.
void cancels(int times) {
	Held held;
	for (int i = 0; i < times; i++) {
		linger_t linger = launch(hold_often, 20 + rand() % 30, &held);
		CHECK(!linger.is_complete);
		cancel(&linger);
		CHECK(!pthread_mutex_trylock(&held.mutex) && !pthread_mutex_unlock(&held.mutex));
		CHECK(!pthread_rwlock_trywrlock(&held.rwlock) && !pthread_rwlock_unlock(&held.rwlock));
	}
}

void hold_for_ever(void *) {
	CHECK(!pthread_mutex_lock(&mutex));
	spin(nullptr);
}

// What it holds for longer than that is held for ever: who waits is told.
void is_reported() {
	int ends[2];
	CHECK(!pipe(ends));
	pid_t child = fork();
	CHECK(child >= 0);
	if (!child) {
		alarm(10);
		dup2(ends[1], STDERR_FILENO);
		linger_t linger = launch(hold_for_ever, 1000, nullptr);
		cancel(&linger);
		CHECK(linger.error == ECANCELED);
		pthread_mutex_lock(&mutex);
		_exit(0);
	}
	char line[200] = "";
	CHECK(read(ends[0], line, sizeof line - 1) > 0);
	CHECK(strstr(line, " has waited for a second for a lock that was held by a preemptible function when it was cancelled\n"));
	CHECK(!kill(child, SIGKILL) && waitpid(child, nullptr, 0) == child);
}

int told;

// What it is told is a sentence; it may end the process.
void tell(const char *message) {
	CHECK(strstr(message, " has waited for a second for a lock that was held by a preemptible function when it was cancelled"));
	CHECK(write(told, "told", 4) == 4);
	_exit(3);
}

// By a hook of the program's instead.
void is_told() {
	int ends[2];
	CHECK(!pipe(ends));
	pid_t child = fork();
	CHECK(child >= 0);
	if (!child) {
		alarm(10);
		told = ends[1];
		linger_set_lock_wait_hook(tell);
		linger_t linger = launch(hold_for_ever, 1000, nullptr);
		cancel(&linger);
		pthread_mutex_lock(&mutex);
		_exit(0);
	}
	char text[5] = "";
	CHECK(read(ends[0], text, 4) == 4 && !strcmp(text, "told"));
	int status;
	CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 3);
}

} // namespace

int main() {
	share<Normal>();
	share<Errorcheck>();
	share<Adaptive>();
	share<Twice>();
	share<Timed>();
	share<Clocked>();
	share<C11>();
	share<C11Timed>();
	share<Spin>();
	share<ReadWrite>();
	share<ReadWrite>(read_often<ReadWrite>);
	share<ReadWriteTimed>(read_often<ReadWriteTimed>);
	share<ReadWriteClocked>(read_often<ReadWriteClocked>);
	share<std::mutex>();
	share<std::shared_mutex>();
	share_inside<Normal>();
	share_inside<ReadWrite>();
	initialise<20>();
	other_waits();
	completions();
	cancels(2000);
	is_reported();
	is_told();
	printf("%lu waits for what a stopped function held\n", all_held);
	CHECK(all_held > 1000);
	return 0;
}
