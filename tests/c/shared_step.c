/* What a debugger steps through: two calls of a shared library, the first of which makes room for calls. */
#include "check.h"
#include "shared.h"

__attribute__((noinline)) static int inner(int argument) {
	return shared_add(argument, 2) + 1;
}

__attribute__((noinline)) static void outer(void *result) {
	*(int *) result = inner(1) + inner(2);
}

int main(void) {
	int result = 0;
	CHECK(launch(outer, NO_LIMIT, &result).is_complete && result == 9);
	return 0;
}
