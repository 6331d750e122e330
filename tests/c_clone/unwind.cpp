// Exceptions and backtraces that cross copies of libraries: thrown by the C++ library's copy, through the C library's,
// into the executable and out of a function; threads that end in the copies; while another kernel thread makes libsets.
#include "../c/check.h"

#include <algorithm>
#include <atomic>
#include <dlfcn.h>
#include <exception>
#include <execinfo.h>
#include <link.h>
#include <new>
#include <pthread.h>
#include <stdexcept>
#include <string>
#include <string.h>
#include <thread>
#include <typeinfo>
#include <vector>

namespace {

struct Thrown {
	int value;
};

int throwing_comparison(const void *one, const void *) {
	throw Thrown { *static_cast<const int *>(one) };
}

struct Results {
	int rounds, from_library, through_library, nested, destroyed;
	std::exception_ptr kept;
};

struct Destroyed {
	Results &results;
	~Destroyed() { results.destroyed++; }
};

void inside(void *argument) {
	Results &results = *static_cast<Results *>(argument);
	for (int i = 0; i < results.rounds; i++) {
		// thrown in the copy of libstdc++
		try {
			Destroyed destroyed { results };
			std::string("short").at(100 + i);
		} catch (const std::out_of_range &error) {
			results.from_library += strstr(error.what(), "at") != nullptr;
		}
		// through a frame of libc's copy
		try {
			Destroyed destroyed { results };
			int values[] = { 7, 7, 7 };
			qsort(values, 3, sizeof *values, throwing_comparison);
		} catch (Thrown thrown) {
			results.through_library += thrown.value == 7;
		}
		// nested, and thrown again
		try {
			try {
				throw std::runtime_error("outer");
			} catch (...) {
				std::throw_with_nested(std::logic_error("inner"));
			}
		} catch (const std::logic_error &error) {
			try {
				std::rethrow_if_nested(error);
			} catch (const std::runtime_error &again) {
				results.nested += again.what() == std::string("outer");
			}
		}
	}
	try {
		std::vector<int>(3).at(1000);
	} catch (...) {
		results.kept = std::current_exception();
	}
}

void exceptions() {
	for (int round = 0; round < 20; round++) {
		Results results = {};
		results.rounds = 100;
		linger_t linger = launch(inside, 100, &results);
		finish(&linger, 100);
		CHECK(results.from_library == 100 && results.through_library == 100 && results.nested == 100);
		CHECK(results.destroyed == 200);
		// outside, in base's copy
		bool caught = false;
		try {
			std::rethrow_exception(results.kept);
		} catch (const std::out_of_range &error) {
			caught = strstr(error.what(), "1000") != nullptr;
		}
		CHECK(caught);
	}
}

struct Trace {
	void *frames[64];
	int length;
	std::string names;
	int known;
};

struct Listed {
	uintptr_t address;
	int objects;
};

int look_for(struct dl_phdr_info *info, size_t, void *closure) {
	Listed &listed = *static_cast<Listed *>(closure);
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const auto &segment = info->dlpi_phdr[i];
		listed.objects += segment.p_type == PT_LOAD && listed.address - info->dlpi_addr - segment.p_vaddr < segment.p_memsz;
	}
	return 0;
}

Trace *tracing;
extern "C" int unwind_trace_here(const void *, const void *) {
	if (!tracing->length) {
		tracing->length = backtrace(tracing->frames, 64);
		char **names = backtrace_symbols(tracing->frames, tracing->length);
		CHECK(names);
		for (int i = 0; i < tracing->length; i++)
			tracing->names += std::string(names[i]) + "\n";
		free(names);
		for (int i = 0; i < tracing->length; i++) {
			Dl_info info;
			tracing->known += dladdr(tracing->frames[i], &info) != 0;
		}
		// the C library's code that has called this is in the list that other unwinders go by (of a namespace, ld.so
		// tells its own callers only)
		Listed listed = { reinterpret_cast<uintptr_t>(__builtin_return_address(0)), 0 };
		dl_iterate_phdr(look_for, &listed);
		CHECK(listed.objects == 1 || !strcmp(getenv("LIBGOTCHA_LOADER"), "dlmopen"));
	}
	return 0;
}

extern "C" void unwind_sorts(void *) {
	int values[] = { 3, 2, 1 };
	qsort(values, 3, sizeof *values, unwind_trace_here);
}

// A backtrace leads through the C library's copy and names its functions.
void backtraces() {
	Trace outside = {}, inside = {};
	tracing = &outside;
	unwind_sorts(nullptr);
	tracing = &inside;
	CHECK(launch(unwind_sorts, NO_LIMIT, nullptr).is_complete);
	for (const Trace *trace : { &outside, &inside }) {
		CHECK(trace->names.find("unwind_trace_here") != std::string::npos);
		CHECK(trace->names.find("unwind_sorts") != std::string::npos);
		CHECK(trace->names.find("libc.so.6(qsort") != std::string::npos);
		CHECK(trace->known == trace->length);
	}
}

int leaving_comparison(const void *, const void *) {
	pthread_exit(nullptr);
}

int waiting_comparison(const void *, const void *) {
	for (;;)
		usleep(1000);
}

// A thread that ends in a call by the C library's copy, by itself or from outside, is unwound through that.
template <int comparison(const void *, const void *)> void *end_in_library(void *results) {
	Destroyed destroyed { *static_cast<Results *>(results) };
	int values[] = { 2, 1 };
	qsort(values, 2, sizeof *values, comparison);
	return results;
}

void start_and_end(void *results) {
	pthread_t leaving, waiting;
	CHECK(!pthread_create(&leaving, nullptr, end_in_library<leaving_comparison>, results) && !pthread_join(leaving, nullptr));
	void *result;
	CHECK(!pthread_create(&waiting, nullptr, end_in_library<waiting_comparison>, results));
	CHECK(!pthread_cancel(waiting) && !pthread_join(waiting, &result) && result == PTHREAD_CANCELED);
}

void threads() {
	for (int round = 0; round < 20; round++) {
		Results results = {};
		linger_t linger = launch(start_and_end, 100, &results);
		finish(&linger, 100);
		CHECK(results.destroyed == 2);
	}
}

std::atomic<bool> is_over;

void wait(void *) {
	pause();
}

void make_libsets() {
	// some are left for the others
	size_t most = std::min<size_t>(200, linger_concurrency_limit() / 2);
	for (std::vector<linger_t> lingers; !is_over && lingers.size() < most;) {
		lingers.push_back(launch(wait, NO_LIMIT, nullptr));
		if (lingers.back().error)
			lingers.pop_back();
		usleep(1000);
	}
}

} // namespace

int main() {
	std::thread maker(make_libsets);
	exceptions();
	backtraces();
	threads();
	is_over = true;
	maker.join();
	fflush(stdout);
	_exit(0);
}
