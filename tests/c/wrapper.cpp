// The C++ interface, inger.hpp: results, exceptions, captures, cancellation, errors.
#include "inger.hpp"

#include <fcntl.h>
#include <malloc.h>
#include <unistd.h>

#include "check.h"

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using namespace std::chrono_literals;

static void compute_for_ever() {
	for (volatile unsigned i = 0;; i++)
		;
}

static void compute(std::chrono::microseconds time) {
	auto end = std::chrono::steady_clock::now() + time;
	while (std::chrono::steady_clock::now() < end)
		;
}

struct counted {
	int *count;
	explicit counted(int *count) : count(count) { ++*count; }
	counted(const counted &other) : count(other.count) { ++*count; }
	~counted() { --*count; }
};

static void results() {
	std::vector<long> numbers(1'000'000);
	std::iota(numbers.begin(), numbers.end(), 1);
	auto sum = inger::launch([&] { return std::accumulate(numbers.begin(), numbers.end(), 0L); }, 50us);
	int slices = 1;
	for (; !sum.is_complete(); slices++)
		sum.resume(50us);
	CHECK(slices > 1);
	CHECK(sum.get() == 500'000'500'000);

	CHECK(inger::launch([] { return std::string("text"); }).get() == "text");
	auto moved = inger::launch([owner = std::make_unique<int>(7)]() mutable { return std::move(owner); });
	CHECK(*moved.get() == 7);
	bool is_called = false;
	inger::launch([&] { is_called = true; }).get();
	CHECK(is_called);
	// Over-aligned captures.
	struct alignas(128) aligned { char text[128] = "aligned"; } value;
	CHECK(inger::launch([value] { return reinterpret_cast<uintptr_t>(&value) % 128 == 0; }).get());
}

static void exceptions() {
	auto throws = [] { throw std::runtime_error("thrown inside"); };
	auto linger = inger::launch(throws);
	CHECK(linger.is_complete());
	std::string what;
	try {
		linger.get();
	} catch (const std::runtime_error &error) {
		what = error.what();
	}
	CHECK(what == "thrown inside");
	// Stopped in the middle of throwing and catching.
	auto busy = inger::launch([] {
		int caught = 0;
		for (int i = 0; i < 3000; i++)
			try {
				throw std::out_of_range(std::to_string(i));
			} catch (const std::exception &error) {
				caught += error.what() == std::to_string(i);
			}
		return caught;
	}, 50us);
	while (!busy.is_complete())
		busy.resume(50us);
	CHECK(busy.get() == 3000);
	bool is_int = false;
	try {
		inger::timeout([]() -> int { throw 5; }, 10s);
	} catch (int number) {
		is_int = number == 5;
	}
	CHECK(is_int);
}

static void timeouts() {
	CHECK(inger::timeout([] { return 6 * 7; }, 10s) == 42);
	CHECK(inger::timeout([] { return compute_for_ever(), 1; }, 2ms) == std::nullopt);
	CHECK(inger::timeout([] {}, 10s));
	CHECK(!inger::timeout(compute_for_ever, 2ms));
	CHECK(!inger::timeout([] {}, 0s));
	CHECK(inger::timeout([] { return 1; }, std::chrono::hours::max()) == 1);
	CHECK(inger::timeout([] { return 1; }, std::chrono::duration<double>(1e300)) == 1);
	CHECK(inger::timeout([] { return compute(1ms), 1; }, 0.9s) == 1);
}

// Captures of a function are destroyed with it, but not under a function in mid-run.
static void captures() {
	int count = 0;
	{
		auto complete = inger::launch([one = counted(&count)] { return *one.count > 0; });
		CHECK(count == 0);
		CHECK(complete.get());
		auto prepared = inger::launch([one = counted(&count)] { return *one.count; }, 0s);
		CHECK(prepared.is_continuation() && count == 1);
	}
	CHECK(count == 0);
	{
		auto cancelled = inger::launch([one = counted(&count)] { compute_for_ever(); }, 100us);
		CHECK(count == 1);
	}
	CHECK(count == 1);
	count = 0;
	{
		// A result that nobody fetches.
		auto complete = inger::launch([&] { return counted(&count); });
		CHECK(count == 1);
	}
	CHECK(count == 0);
}

static void moves() {
	std::map<int, inger::linger<int>> lingers;
	for (int i = 0; i < 5; i++)
		lingers.emplace(i, inger::launch([i] { return inger::pause(), i; }));
	for (auto &[number, linger] : lingers) {
		CHECK(linger.is_yielded() && linger.is_continuation());
		std::thread([&linger = linger] { linger.resume(inger::forever); }).join();
		CHECK(linger.get() == number);
	}
	auto linger = inger::launch([] { return inger::pause(), 1; });
	linger = inger::launch([] { return inger::pause(), 2; });
	auto other = std::move(linger);
	other.resume(10s);
	CHECK(other.get() == 2);
	inger::linger<int> empty;
	CHECK(!empty.is_complete() && !empty.is_continuation());
	empty.cancel();
}

static size_t heap_in_use() {
	auto information = mallinfo2();
	return information.uordblks + information.hblkhd;
}

template <class Function> static int code_of(Function &&function) {
	try {
		function();
	} catch (const std::system_error &error) {
		return error.code().value();
	}
	return 0;
}

static void errors() {
	int count = 0;
	CHECK(code_of([&] { (void) inger::launch([one = counted(&count)] { pthread_exit(nullptr); }); }) == ECANCELED);
	count = 0;
	auto unfinished = inger::launch(compute_for_ever, 100us);
	CHECK(code_of([&] { unfinished.get(); }) == EINPROGRESS);
	int ends[2];
	CHECK(!pipe(ends));
	unfinished.backtrace(ends[1]);
	char text[4096] = "";
	CHECK(read(ends[0], text, sizeof text - 1) > 0 && std::string(text).find("libtimetravel_function_base") != std::string::npos);
	unfinished.cancel();
	CHECK(!unfinished.is_continuation());
	CHECK(code_of([&] { unfinished.backtrace(ends[1]); }) == ECANCELED);
	inger::linger<void> empty;
	CHECK(code_of([&] { empty.resume(1s); }) == EINVAL);
	auto fetched = inger::launch([] { return 1; });
	fetched.get();
	CHECK(code_of([&] { fetched.get(); }) == EINPROGRESS);
	// The limit, which main() sets; what was not launched is destroyed.
	CHECK(inger::concurrency_limit() == 8);
	std::vector<inger::linger<void>> lingers;
	int error = 0;
	while (!error)
		error = code_of([&] { lingers.push_back(inger::launch([one = counted(&count)] { inger::pause(); })); });
	CHECK(error == EAGAIN);
	CHECK(lingers.size() == 8 && count == 8);
}

static void critical_sections() {
	std::mutex mutex;
	long total = 0;
	auto adds = [&] {
		for (int i = 0; i < 20'000; i++) {
			inger::critical_section section;
			std::lock_guard lock(mutex);
			total++;
		}
	};
	auto linger = inger::launch(adds, 50us);
	while (!linger.is_complete()) {
		{ std::lock_guard lock(mutex); }
		linger.resume(50us);
	}
	CHECK(total == 20'000);
}

static void with_options() {
	auto deep = [] {
		volatile char room[10 << 20];
		for (size_t i = 0; i < sizeof room; i += 1000)
			room[i] = 1;
		return room[5000];
	};
	CHECK(inger::launch(deep, inger::forever, inger::options().stack_size(12 << 20)).get() == 1);
	CHECK(code_of([&] { (void) inger::launch(deep, 1s, inger::options().stack_size(size_t(1) << 60)); }) == ENOMEM);
	CHECK(inger::timeout([] { return usleep(100'000); }, 50ms, inger::options().cpu_time()) == 0);
	// What was cancelled is freed and closed, however that is done; what has returned is not.
	int descriptor;
	auto takes = [&] {
		std::vector<char> memory(1 << 20, 1);
		descriptor = open("/dev/null", O_RDONLY);
		inger::pause();
		return memory;
	};
	auto all = inger::options().reclaim_heap().close_descriptors();
	size_t before = heap_in_use();
	for (int i = 0; i < 10; i++) {
		CHECK(inger::timeout(takes, 10s, all) == std::nullopt);
		CHECK(fcntl(descriptor, F_GETFD) == -1);
		auto moved = inger::launch(takes, inger::forever, all), other = std::move(moved);
		other = inger::launch(takes, inger::forever, all);
		CHECK(other.is_yielded());
		moved = std::move(other);
		moved.cancel();
		CHECK(fcntl(descriptor, F_GETFD) == -1);
	}
	CHECK(heap_in_use() < before + (1 << 20));
	CHECK(inger::launch(takes, inger::forever, all).resume(10s).get() == std::vector<char>(1 << 20, 1));
	CHECK(close(descriptor) == 0);
	inger::timeout(takes, 10s);
	CHECK(close(descriptor) == 0);
}

int main() {
	// Read at the first launch.
	setenv("LIBGOTCHA_NUMGROUPS", "8", 1);
	results();
	exceptions();
	timeouts();
	captures();
	moves();
	critical_sections();
	with_options();
	errors();
	return 0;
}
