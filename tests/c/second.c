/* A second copy of the library in the process is refused, and the first one goes on. argv[1]: its path. */
#include "check.h"

#include <dlfcn.h>
#include <string.h>

static void count(void *calls) {
	++*(int *) calls;
}

int main(int argc, char *argv[]) {
	int calls = 0;
	CHECK(argc == 2 && launch(count, NO_LIMIT, &calls).is_complete);
	void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
	CHECK(library);
	linger_t (*second_launch)(void (*)(void *), uint64_t, void *);
	const char *(*second_error)(void);
	*(void **) &second_launch = dlsym(library, "linger_launch");
	*(void **) &second_error = dlsym(library, "linger_error");
	CHECK(second_launch && second_launch != linger_launch && second_error);
	for (int i = 0; i < 2; i++) {
		linger_t refused = second_launch(count, NO_LIMIT, &calls);
		CHECK(!refused.is_complete && refused.error == ENOSYS);
		CHECK(strstr(second_error(), "another copy of this library"));
	}
	linger_t linger = launch(spin, 1000, NULL);
	CHECK(!linger.is_complete && !linger.error);
	cancel(&linger);
	CHECK(launch(count, NO_LIMIT, &calls).is_complete && calls == 2);
	return 0;
}
