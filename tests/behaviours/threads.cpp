// Threads and what goes with them, as C++ has them.
#include "behaviour.h"

#include <atomic>
#include <condition_variable>
#include <deque>
#include <future>
#include <iostream>
#include <memory>
#include <mutex>
#include <numeric>
#include <shared_mutex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

void threads() {
	std::vector<std::thread> threads;
	std::mutex mutex;
	long sum = 0;
	for (int i = 0; i < 4; i++)
		threads.emplace_back([&, i] {
			for (int k = 0; k < 200; k++) {
				std::lock_guard<std::mutex> guard(mutex);
				sum += i;
			}
		});
	for (int k = 0; k < 200; k++) {
		std::unique_lock<std::mutex> guard(mutex, std::try_to_lock);
		if (!guard)
			guard.lock();
		sum++;
	}
	for (auto &thread : threads)
		thread.join();
	note("%ld\n", sum);
}

void asynchronous_calls() {
	std::vector<std::future<long>> results;
	for (int i = 0; i < 6; i++)
		results.push_back(std::async(i % 2 ? std::launch::deferred : std::launch::async, [i] {
			std::vector<long> numbers(1000 * (i + 1));
			std::iota(numbers.begin(), numbers.end(), 0);
			return std::accumulate(numbers.begin(), numbers.end(), 0L);
		}));
	for (auto &result : results)
		note("%ld ", result.get());
	auto failing = std::async(std::launch::async, []() -> int { throw std::runtime_error("from the other thread"); });
	try {
		failing.get();
		CHECK(false);
	} catch (const std::runtime_error &error) {
		note("%s\n", error.what());
	}
}

void promises() {
	for (int i = 0; i < 30; i++) {
		std::promise<std::string> promise;
		auto future = promise.get_future();
		std::thread thread([&] {
			std::this_thread::sleep_for(std::chrono::microseconds(100));
			promise.set_value("kept " + std::to_string(i));
		});
		CHECK(future.get() == "kept " + std::to_string(i));
		thread.join();
		std::packaged_task<int(int)> task([](int value) { return value * 2; });
		auto doubled = task.get_future();
		std::thread(std::move(task), i).join();
		CHECK(doubled.wait_for(std::chrono::seconds(0)) == std::future_status::ready && doubled.get() == 2 * i);
	}
}

std::atomic<int> made, destroyed;

struct Counted {
	std::string text = "a text that is too long for its object";
	Counted() { made++; }
	~Counted() { destroyed++; }
};

thread_local Counted counted;

void thread_locals() {
	// the function's own lasts from run to run of this test where there is no function
	counted.text = "mine, and long enough to be on the heap as well";
	made = destroyed = 0;
	std::vector<std::thread> threads;
	for (int i = 0; i < 4; i++)
		threads.emplace_back([i] {
			CHECK(counted.text == "a text that is too long for its object");
			counted.text += std::to_string(i);
			spin_us(200);
			CHECK(counted.text.back() == '0' + i);
		});
	for (auto &thread : threads)
		thread.join();
	CHECK(counted.text == "mine, and long enough to be on the heap as well");
	note("%d %d\n", made.load(), destroyed.load());
}

void conditions() {
	std::mutex mutex;
	std::condition_variable condition;
	std::deque<int> queue;
	bool is_over = false;
	long sum = 0;
	std::thread consumer([&] {
		std::unique_lock<std::mutex> lock(mutex);
		for (;;) {
			condition.wait(lock, [&] { return is_over || !queue.empty(); });
			if (queue.empty())
				return;
			sum += queue.front();
			queue.pop_front();
		}
	});
	for (int i = 0; i < 1000; i++) {
		std::lock_guard<std::mutex> lock(mutex);
		queue.push_back(i);
		condition.notify_one();
	}
	{
		std::lock_guard<std::mutex> lock(mutex);
		is_over = true;
		condition.notify_all();
	}
	consumer.join();
	note("%ld\n", sum);
	std::unique_lock<std::mutex> lock(mutex);
	auto start = std::chrono::steady_clock::now();
	CHECK(!condition.wait_for(lock, std::chrono::milliseconds(5), [] { return false; }));
	CHECK(std::chrono::steady_clock::now() - start >= std::chrono::milliseconds(5));
}

void other_mutexes() {
	std::shared_mutex shared;
	std::recursive_mutex recursive;
	std::timed_mutex timed;
	long value = 0, other = 0;
	auto work = [&] {
		for (int i = 0; i < 200; i++) {
			if (i % 4) {
				std::shared_lock<std::shared_mutex> lock(shared);
				CHECK(value == other);
			} else {
				std::unique_lock<std::shared_mutex> lock(shared);
				value++;
				spin_us(2);
				other++;
			}
			std::lock_guard<std::recursive_mutex> once(recursive);
			std::lock_guard<std::recursive_mutex> twice(recursive);
			std::scoped_lock both(timed);
		}
	};
	std::thread one(work), two(work);
	work();
	one.join();
	two.join();
	CHECK(value == 150 && other == 150);
	timed.lock();
	std::thread([&] { CHECK(!timed.try_lock_for(std::chrono::milliseconds(2))); }).join();
	timed.unlock();
}

template <int number> long initialised_slowly() {
	static const long value = [] {
		spin_us(300);
		return made++ * 0 + number;
	}();
	return value;
}

// Static locals are the program's: they are initialised once, whoever comes first.
void initialisation() {
	made = 0;
	std::once_flag flag;
	std::vector<std::thread> threads;
	auto work = [&] {
		std::call_once(flag, [] {
			spin_us(300);
			made += 10;
		});
		CHECK(initialised_slowly<3>() == 3);
	};
	for (int i = 0; i < 4; i++)
		threads.emplace_back(work);
	work();
	for (auto &thread : threads)
		thread.join();
	CHECK(made == 10 || made == 11);
	// one that throws leaves it to the next
	std::once_flag again;
	for (int i = 0; i < 3; i++)
		try {
			std::call_once(again, [i] {
				if (i < 2)
					throw i;
				made = 100;
			});
			CHECK(i == 2);
		} catch (int number) {
			CHECK(number == i);
		}
	CHECK(made == 100);
}

void exceptions() {
	long caught = 0;
	for (int i = 0; i < 300; i++) {
		try {
			struct Guard {
				long &count;
				~Guard() { count++; }
			} guard{caught};
			std::vector<int>(3).at(static_cast<std::size_t>(i % 5));
			throw std::logic_error(std::to_string(i));
		} catch (const std::out_of_range &) {
			caught += 2;
		} catch (const std::logic_error &error) {
			CHECK(error.what() == std::to_string(i));
			std::exception_ptr kept = std::current_exception();
			std::thread([&] {
				try {
					std::rethrow_exception(kept);
				} catch (const std::exception &) {
					caught++;
				}
			}).join();
		}
	}
	note("%ld\n", caught);
}

void streams() {
	std::ostringstream stream;
	for (int i = 0; i < 2000; i++)
		stream << i << ' ' << i / 7.0 << ' ' << std::hex << i << std::dec << '\n';
	std::istringstream back(stream.str());
	std::string line;
	std::size_t lines = 0;
	while (std::getline(back, line))
		lines++;
	note("%zu ", lines);
	note_bytes(stream.str().data(), stream.str().size());
	auto shared = std::make_shared<std::vector<std::string>>(100, "text");
	std::weak_ptr<std::vector<std::string>> weak = shared;
	std::thread([copy = std::move(shared)]() mutable { copy.reset(); }).join();
	CHECK(weak.expired());
}

} // namespace

const struct behaviour behaviours[] = {
	BEHAVIOUR(threads),
	BEHAVIOUR(asynchronous_calls),
	BEHAVIOUR(promises),
	BEHAVIOUR(thread_locals),
	BEHAVIOUR(conditions),
	BEHAVIOUR(other_mutexes),
	BEHAVIOUR(initialisation),
	BEHAVIOUR(exceptions),
	BEHAVIOUR(streams),
	{ nullptr, nullptr },
};
