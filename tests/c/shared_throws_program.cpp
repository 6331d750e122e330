// Exceptions that leave a library named in LIBGOTCHA_SHARED, or pass through it, inside functions.
#include "check.h"
#include "shared_throws.h"

#include <stdexcept>

namespace {

int destroyed;
struct Guard {
	~Guard() { destroyed++; }
};

// In a frame between the throwing one and the catching one.
void guarded(int value) {
	Guard guard;
	shared_throw(value);
}

template <class Function> std::string message(Function function) {
	try {
		function();
		return "none";
	} catch (const std::runtime_error &error) {
		return error.what();
	}
}

void one_round() {
	CHECK(message([] { shared_throw(0); }) == "none");
	CHECK(message([] { shared_throw(7); }) == "7");
	int before = destroyed;
	CHECK(message([] { guarded(8); }) == "8" && destroyed == before + 1);
	// a callback's, through the library's own frames
	CHECK(message([] { shared_apply([](int value) { throw std::runtime_error(std::to_string(value + 1)); }, 8); }) == "9");
	CHECK(message([] { shared_apply(guarded, 10); }) == "10" && destroyed == before + 2);
	CHECK(message([] { shared_apply([](int value) { shared_apply(guarded, value); }, 11); }) == "11");
	// caught before it leaves
	CHECK(shared_catches(guarded, 12) && !shared_catches(guarded, 0));
	CHECK(message([] { shared_apply([](int value) { CHECK(message([=] { shared_throw(value); }) == "13"); }, 13); }) == "none");
	CHECK(Counted::count == 0);
	auto shape = shared_shape();
	CHECK(shape->corners(0) == 0 && message([&] { shape->corners(14); }) == "14");
}

void rounds(void *count) {
	for (int i = 0; i < *static_cast<int *>(count); i++)
		one_round();
}

void then_spins(void *) {
	one_round();
	spin(nullptr);
}

} // namespace

int main() {
	int count = 10;
	rounds(&count);
	CHECK(launch(rounds, NO_LIMIT, &count).is_complete);
	count = 1000;
	linger_t linger = launch(rounds, 30, &count);
	CHECK(finish(&linger, 30) > 100);
	// no bracket is left open
	linger = launch(then_spins, 10000, nullptr);
	CHECK(!linger.is_complete);
	resume(&linger, 1000);
	CHECK(!linger.is_complete && !linger.is_yielded);
	cancel(&linger);
	return 0;
}
