// From C++: exceptions, streams, containers and threads inside functions.
#include "check.h"

#include <future>
#include <iostream>
#include <map>
#include <locale>
#include <mutex>
#include <regex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

struct Counter {
	int constructed = 0, destroyed = 0;
};

struct Guard {
	explicit Guard(Counter &counter) : counter(counter) { counter.constructed++; }
	~Guard() { counter.destroyed++; }
	Counter &counter;
};

int descend(Counter &counter, int depth) {
	Guard guard(counter);
	if (depth == 0)
		throw std::runtime_error("from the depth");
	return descend(counter, depth - 1) + 1;
}

void throws_and_catches(void *argument) {
	Counter &counter = *static_cast<Counter *>(argument);
	for (int i = 0; i < 300; i++) {
		try {
			descend(counter, 20);
			CHECK(false);
		} catch (const std::exception &error) {
			CHECK(error.what() == std::string("from the depth"));
		}
	}
}

// Both are in the middle of unwinding from time to time.
void exceptions() {
	Counter inside, outside;
	linger_t linger = launch(throws_and_catches, 30, &inside);
	CHECK(linger.error == 0);
	int preemptions = 0;
	while (!linger.is_complete) {
		try {
			descend(outside, 5);
		} catch (const std::runtime_error &) {
		}
		resume(&linger, 30);
		CHECK(linger.error == 0);
		preemptions++;
	}
	CHECK(preemptions > 3);
	CHECK(inside.constructed == 300 * 21 && inside.destroyed == 300 * 21 && outside.constructed == outside.destroyed);
}

void containers_inside(void *argument) {
	auto &result = *static_cast<std::string *>(argument);
	std::map<std::string, std::vector<int>> map;
	for (int i = 0; i < 3000; i++) {
		std::ostringstream stream;
		stream << "key " << i % 100;
		map[stream.str()].push_back(i);
	}
	std::ostringstream stream;
	for (const auto &[key, values] : map)
		stream << key << '=' << values.size() << ' ';
	result = stream.str();
}

void containers() {
	std::string expected, result;
	containers_inside(&expected);
	linger_t linger = launch(containers_inside, 50, &result);
	finish(&linger, 50);
	CHECK(result == expected);
}

void threads_inside(void *argument) {
	auto &sum = *static_cast<long *>(argument);
	std::mutex mutex;
	std::vector<std::thread> threads;
	for (int i = 1; i <= 4; i++)
		threads.emplace_back([&, i] {
			std::lock_guard<std::mutex> guard(mutex);
			sum += i;
		});
	for (auto &thread : threads)
		thread.join();
	sum += std::async(std::launch::async, [] { return 100; }).get();
}

void threads() {
	long sum = 0;
	linger_t linger = launch(threads_inside, 1000, &sum);
	finish(&linger, 1000);
	CHECK(sum == 110);
}

std::once_flag flag;
thread_local std::string local = "initial";

void language_runtime_inside(void *argument) {
	static int initialised = [] { return 42; }();
	CHECK(initialised == 42);
	std::call_once(flag, [&] { *static_cast<bool *>(argument) = true; });
	CHECK(local == "initial");
	local = "changed inside, and long enough not to fit in place";
	std::cout << "cout inside" << std::endl;
	std::cerr << "";
	std::string text = "3.25";
	CHECK(std::stod(text) == 3.25);
	std::locale::classic().name();
	std::cout << 1.5 << ' ' << 12345 << '\n';
}

void language_runtime() {
	bool called = false;
	local = "outside";
	CHECK(launch(language_runtime_inside, NO_LIMIT, &called).is_complete);
	CHECK(called && local == "outside");
	called = false;
	CHECK(launch(language_runtime_inside, NO_LIMIT, &called).is_complete);
	CHECK(!called);
	std::cout << "cout outside" << std::endl;
}

// Facets are found in the locale by numbers that static members of theirs hold.
void facets_inside(void *argument) {
	auto &result = *static_cast<std::string *>(argument);
	const std::locale locale(std::locale::classic(), new std::ctype<char>);
	CHECK(std::isalpha('a', locale) && std::use_facet<std::numpunct<char>>(locale).decimal_point() == '.');
	CHECK(std::regex_match("abc123", std::regex("[[:alpha:]]+[[:digit:]]+")));
	result = std::regex_replace(std::string("one two"), std::regex("(\\w+) (\\w+)"), "$2 $1");
}

void facets() {
	std::string result;
	linger_t linger = launch(facets_inside, 50, &result);
	finish(&linger, 50);
	CHECK(result == "two one");
	facets_inside(&result);
}

} // namespace

int main() {
	facets();
	exceptions();
	containers();
	threads();
	language_runtime();
	return 0;
}
