/* A library with much writable memory; for large.c. */
#include <stddef.h>
#include <string.h>

enum { SIZE = 4 << 20 };
static unsigned char initialised[SIZE] = { [0] = 1, [SIZE / 2] = 2, [SIZE - 1] = 3 };
static unsigned char zeroes[SIZE];

/* Spoils a page in the middle of each, and their ends. */
void spoil(size_t page) {
	size_t at = page * 4096 % SIZE;
	memset(initialised + at, 0xaa, 4096);
	memset(zeroes + at, 0xbb, 4096);
	initialised[0]++;
	initialised[SIZE - 1]++;
	zeroes[0]++;
	zeroes[SIZE - 1]++;
}

int is_pristine(void) {
	for (size_t i = 0; i < SIZE; i++) {
		int expected = i == 0 ? 1 : i == SIZE / 2 ? 2 : i == SIZE - 1 ? 3 : 0;
		if (initialised[i] != expected || zeroes[i])
			return 0;
	}
	return 1;
}
