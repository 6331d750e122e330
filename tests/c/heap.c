/* One heap: blocks cross the boundary both ways, while functions are preempted anywhere. */
#include "check.h"

#include <malloc.h>
#include <string.h>

enum { BLOCKS = 200 };
static char *blocks[BLOCKS];

static size_t size_of_block(int i) {
	return 1 + (size_t) i * 137 % 5000;
}

static void fill(void *unused) {
	(void) unused;
	for (int i = 0; i < BLOCKS; i++) {
		blocks[i] = (char *) malloc(size_of_block(i));
		CHECK(blocks[i] && malloc_usable_size(blocks[i]) >= size_of_block(i));
		memset(blocks[i], i, size_of_block(i));
	}
}

static void check_and_free(void *unused) {
	(void) unused;
	for (int i = 0; i < BLOCKS; i++) {
		for (size_t j = 0; j < size_of_block(i); j++)
			CHECK((unsigned char) blocks[i][j] == (unsigned char) i);
		blocks[i] = (char *) realloc(blocks[i], 3 * size_of_block(i));
		CHECK(blocks[i]);
		free(blocks[i]);
	}
}

/* What libraries allocate on the caller's behalf. */
static void duplicate(void *result) {
	char *formatted = NULL;
	CHECK(asprintf(&formatted, "%s %d", "formatted", 42) > 0);
	*(char **) result = strdup(formatted);
	free(formatted);
	void *aligned = NULL;
	CHECK(!posix_memalign(&aligned, 4096, 100) && (uintptr_t) aligned % 4096 == 0);
	free(aligned);
	char *line = NULL;
	size_t room = 0;
	FILE *file = fopen("/proc/self/status", "r");
	CHECK(file && getline(&line, &room, file) > 0 && !strncmp(line, "Name:", 5));
	CHECK(!fclose(file));
	free(line);
}

static void churn(void *rounds) {
	for (int i = 0; i < *(int *) rounds; i++) {
		char *block = (char *) malloc((size_t) (i * 7919) % 3000 + 1);
		CHECK(block);
		*block = (char) i;
		block = (char *) realloc(block, (size_t) (i * 104729) % 6000 + 1);
		CHECK(block);
		free(block);
	}
}

int main(void) {
	for (int round = 0; round < 10; round++) {
		fill(NULL);
		linger_t linger = launch(check_and_free, 20, NULL);
		finish(&linger, 20);
		linger = launch(fill, 20, NULL);
		finish(&linger, 20);
		check_and_free(NULL);
	}
	char *result = NULL;
	linger_t linger = launch(duplicate, 50, &result);
	finish(&linger, 50);
	CHECK(result && !strcmp(result, "formatted 42"));
	free(result);

	int rounds = 30000, few = 50;
	unsigned long preemptions = 0;
	linger_t functions[3];
	for (int i = 0; i < 3; i++)
		functions[i] = launch(churn, 10, &rounds);
	for (int unfinished = 1; unfinished;) {
		unfinished = 0;
		for (int i = 0; i < 3; i++) {
			churn(&few);
			resume(&functions[i], 10);
			CHECK(functions[i].error == 0);
			unfinished |= !functions[i].is_complete;
			preemptions += !functions[i].is_complete;
		}
	}
	CHECK(preemptions > 100);

	/* cancelled anywhere, the heap stays whole */
	for (int i = 0; i < 300; i++) {
		linger = launch(churn, (uint64_t) (i % 40 + 1), &rounds);
		CHECK(linger.error == 0);
		cancel(&linger);
		churn(&few);
	}
	return 0;
}
