/* Functions of the C library called through a table in the program's data, which an interception of
 * the global offset table alone would miss. argv[1]: how many preemptions. */
#include "check.h"

#include <fcntl.h>

struct calls {
	void *(*malloc)(size_t);
	void (*free)(void *);
	int (*close)(int);
	int (*rand)(void);
};
static struct calls calls = { malloc, free, close, rand };
static const struct calls constant_calls = { malloc, free, close, rand };

static void use(const struct calls *table, unsigned long count) {
	enum { HELD = 16 };
	void *held[HELD] = { NULL };
	for (unsigned long i = 0; i < count; i++) {
		size_t j = i % HELD;
		table->free(held[j]);
		held[j] = table->malloc(1 + i * 7919 % 4000);
		CHECK(held[j]);
		*(volatile char *) held[j] = (char) i;
		errno = 0;
		CHECK(table->close(-1) == -1 && errno == EBADF);
	}
	for (int j = 0; j < HELD; j++)
		table->free(held[j]);
}

static void use_for_ever(void *table) {
	for (;;)
		use((struct calls *) table, 1000);
}

static void draw(void *value) {
	*(int *) value = calls.rand();
}

int main(int argc, char *argv[]) {
	unsigned long wanted = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000;
	/* is it the function's own copy that is called? */
	srand(5);
	int expected = rand(), drawn;
	srand(5);
	CHECK(launch(draw, NO_LIMIT, &drawn).is_complete);
	CHECK(rand() == expected);

	linger_t lingers[2];
	lingers[0] = launch(use_for_ever, 0, &calls);
	lingers[1] = launch(use_for_ever, 0, (void *) (uintptr_t) &constant_calls);
	unsigned long preemptions = 0;
	while (preemptions < wanted) {
		for (int i = 0; i < 2; i++) {
			resume(&lingers[i], 1 + preemptions % 7);
			CHECK(!lingers[i].is_complete && !lingers[i].is_yielded && lingers[i].error == 0);
			preemptions++;
		}
		use(&calls, 2);
		if (preemptions % 1000 == 0) {
			int i = preemptions / 1000 % 2;
			cancel(&lingers[i]);
			lingers[i] = launch(use_for_ever, 0, &calls);
			CHECK(lingers[i].error == 0);
		}
	}
	printf("%lu preemptions\n", preemptions);
	return 0;
}
