/* Libraries with megabytes of state are rolled back too; "sparing": and without a copy of what nobody has written. */
#include "check.h"

#include <string.h>

void spoil(size_t page);
int is_pristine(void);

static void spoil_and_stop(void *page) {
	CHECK(is_pristine());
	spoil(*(size_t *) page);
	CHECK(!is_pristine());
	pause();
}

static long anonymous_kib(void) {
	FILE *file = fopen("/proc/self/smaps_rollup", "r");
	char line[256];
	long kib = -1;
	while (file && kib < 0 && fgets(line, sizeof line, file))
		sscanf(line, "Anonymous: %ld kB", &kib);
	fclose(file);
	return kib;
}

int main(int argc, char **argv) {
	long before = 0;
	for (size_t page = 0; page < 40; page++) {
		size_t scattered = page * 97;
		linger_t linger = launch(spoil_and_stop, NO_LIMIT, &scattered);
		CHECK(linger.is_yielded);
		if (!page)
			before = anonymous_kib();
		cancel(&linger);
	}
	if (argc > 1 && !strcmp(argv[1], "sparing")) {
		long grown = anonymous_kib() - before;
		printf("%ld KiB more\n", grown);
		CHECK(grown < 2048);
	}
	return 0;
}
