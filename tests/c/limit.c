/* As many functions as there can be, and one more. argv[1]: at least how many. */
#include "check.h"

static size_t most;

static void wait_then_set(void *flag) {
	pause();
	*(int *) flag = 1;
}

static int fill(linger_t lingers[], int flags[]) {
	int count = 0;
	for (; (size_t) count < most; count++) {
		flags[count] = 0;
		lingers[count] = launch(wait_then_set, NO_LIMIT, &flags[count]);
		if (lingers[count].error)
			break;
		CHECK(lingers[count].is_yielded);
	}
	return count;
}

int main(int argc, char *argv[]) {
	most = linger_concurrency_limit() + 1;
	linger_t *lingers = calloc(most, sizeof *lingers);
	int *flags = calloc(most, sizeof *flags);
	CHECK(lingers && flags);
	int least = argc > 1 ? atoi(argv[1]) : 11;
	int count = fill(lingers, flags);
	CHECK((size_t) count < most);
	printf("%d at once: %s\n", count, linger_error());
	CHECK(count >= least);
	CHECK(lingers[count].error == EAGAIN && !lingers[count].is_complete && !lingers[count].continuation);
	CHECK(*linger_error());
	CHECK(linger_concurrency_limit() == (size_t) count);
	resume(&lingers[count], 1000);
	cancel(&lingers[count]);

	/* all of them still work; each that ends makes room */
	CHECK(launch(wait_then_set, NO_LIMIT, &flags[0]).error == EAGAIN);
	for (int i = 0; i < count; i++) {
		resume(&lingers[i], NO_LIMIT);
		CHECK(lingers[i].is_complete && flags[i] == 1);
		linger_t one_more = launch(wait_then_set, NO_LIMIT, &flags[i]);
		CHECK(one_more.is_yielded);
		cancel(&one_more);
	}
	for (int round = 0; round < 2; round++) {
		CHECK(fill(lingers, flags) == count);
		for (int i = count; i-- > 0;)
			cancel(&lingers[i]);
	}
	return 0;
}
