/* A library with code behind its data: each libset has a copy of its own. */
#include "../c/check.h"

int add(int number);

static void add_inside(void *result) {
	*(int *) result = add(10);
}

int main(void) {
	CHECK(add(1) == 2);
	int result;
	for (int i = 1; i <= 3; i++) {
		linger_t linger = launch(add_inside, NO_LIMIT, &result);
		CHECK(linger.is_complete && result == 10 * i + 1);
	}
	CHECK(add(1) == 3);
	CHECK(linger_concurrency_limit() > 100);
	return 0;
}
