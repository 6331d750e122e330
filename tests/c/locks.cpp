// Locks that functions share with each other, with a thread, and with their launcher, who tries and does not wait: thousands
// of preemptions, many of them while the lock is held.
#include "mutexes.h"

#include <mutex>
#include <new>
#include <shared_mutex>
#include <thread>

namespace {

constexpr int functions = 4, rounds = 500;
constexpr uint64_t slice_us = 50;

struct ReadWrite {
	pthread_rwlock_t lock_ = PTHREAD_RWLOCK_INITIALIZER;
	void lock() { CHECK(!pthread_rwlock_wrlock(&lock_)); }
	bool try_lock() { return !pthread_rwlock_trywrlock(&lock_); }
	void unlock() { CHECK(!pthread_rwlock_unlock(&lock_)); }
	void lock_shared() { CHECK(!pthread_rwlock_rdlock(&lock_)); }
	void unlock_shared() { unlock(); }
};

template <class Lock> struct Shared {
	Lock lock;
	long left = 0, right = 0;
	void add() {
		left++;
		spin_us(20);
		right++;
	}
};

template <class Lock> void write_often(void *argument) {
	auto &shared = *static_cast<Shared<Lock> *>(argument);
	for (int i = 0; i < rounds; i++) {
		std::lock_guard<Lock> guard(shared.lock);
		shared.add();
	}
}

template <class Lock> void read_often(void *argument) {
	auto &shared = *static_cast<Shared<Lock> *>(argument);
	for (int i = 0; i < rounds; i++) {
		std::shared_lock<Lock> guard(shared.lock);
		CHECK(shared.left == shared.right);
		spin_us(20);
		CHECK(shared.left == shared.right);
	}
}

template <class Between> long take_turns(linger_t *lingers, Between between) {
	long preemptions = 0;
	for (bool unfinished = true; unfinished;) {
		unfinished = false;
		for (int i = 0; i < functions; i++) {
			if (lingers[i].is_complete)
				continue;
			resume(&lingers[i], slice_us);
			CHECK(!lingers[i].error);
			preemptions += !lingers[i].is_complete;
			unfinished |= !lingers[i].is_complete;
			between();
		}
	}
	return preemptions;
}

long all_preemptions, all_held;

template <class Lock> void share(void (*other)(void *) = write_often<Lock>) {
	Shared<Lock> shared;
	linger_t lingers[functions];
	for (int i = 0; i < functions; i++)
		lingers[i] = launch(i % 2 ? other : write_often<Lock>, 0, &shared);
	std::thread thread(write_often<Lock>, &shared);
	long taken = 0, held = 0;
	all_preemptions += take_turns(lingers, [&] {
		if (shared.lock.try_lock()) {
			shared.add();
			taken++;
			shared.lock.unlock();
		} else {
			held++;
		}
	});
	thread.join();
	all_held += held;
	long writers = other == write_often<Lock> ? functions : functions / 2;
	CHECK(shared.left == shared.right && shared.left == (writers + 1) * rounds + taken);
}

// ------------------------------------------------------------------ what is done once

int calls;
std::once_flag flag;
pthread_once_t once;

struct Slow {
	int value;
	Slow() : value(++calls) { spin_us(500); }
};

template <int number> int local() {
	static Slow slow;
	return slow.value;
}

void initialise() {
	calls++;
	spin_us(500);
}

template <int number> void use_once(void *result) {
	std::call_once(flag, initialise);
	CHECK(!pthread_once(&once, initialise));
	*static_cast<int *>(result) = local<number>();
}

template <int number> void initialise_together() {
	calls = 0;
	new (&flag) std::once_flag;
	once = PTHREAD_ONCE_INIT;
	linger_t lingers[functions];
	int results[functions];
	for (int i = 0; i < functions; i++)
		lingers[i] = launch(use_once<number>, 0, &results[i]);
	all_preemptions += take_turns(lingers, [] {});
	CHECK(calls == 3);
	for (int result : results)
		CHECK(result == 3);
	if constexpr (number > 0)
		initialise_together<number - 1>();
}

} // namespace

int main() {
	share<std::mutex>();
	share<Recursive>();
	share<Errorcheck>();
	share<Adaptive>();
	share<std::shared_mutex>(read_often<std::shared_mutex>);
	share<ReadWrite>(read_often<ReadWrite>);
	initialise_together<20>();
	printf("%ld preemptions, %ld with a lock held\n", all_preemptions, all_held);
	CHECK(all_preemptions > 2000 && all_held > 1000);
	return 0;
}
