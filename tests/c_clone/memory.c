/* The C library's memory functions go by the sizes of the processor's caches: they do the same in a libset. */
#include "../c/check.h"

#include <stdint.h>
#include <string.h>

enum { LARGEST = 64 << 20, ROOM = LARGEST + 8192 };

static unsigned char *buffer, *source;

static unsigned char pattern(size_t i) {
	return (unsigned char) (i * 31 + (i >> 8) * 17 + (i >> 16));
}

static void fill(size_t length) {
	for (size_t i = 0; i < length + 8192; i++)
		source[i] = buffer[i] = pattern(i);
}

/* Is the buffer as it was but for `length` bytes from `to`, which are those once at `from`? */
static void is_moved(size_t to, size_t from, size_t length) {
	for (size_t i = 0; i < length + 8192; i++)
		if (buffer[i] != pattern(i >= to && i < to + length ? i - to + from : i)) {
			dprintf(STDERR_FILENO, "byte %zu after a move of %zu from %zu to %zu\n", i, length, from, to);
			_exit(1);
		}
}

static void move_all(void *lengths) {
	for (const size_t *length = lengths; *length; length++) {
		fill(*length);
		CHECK(memmove(buffer + 100, buffer + 4099, *length) == buffer + 100);
		is_moved(100, 4099, *length);
		fill(*length);
		CHECK(memmove(buffer + 4099, buffer + 100, *length) == buffer + 4099);
		is_moved(4099, 100, *length);
		fill(*length);
		CHECK(memcpy(buffer + 64, source + 4096, *length) == buffer + 64);
		is_moved(64, 4096, *length);
		CHECK(memcmp(buffer + 64, source + 4096, *length) == 0);
		memset(buffer + 3, 0x5a, *length);
		for (size_t i = 3; i < 3 + *length; i++)
			CHECK(buffer[i] == 0x5a);
		CHECK(buffer[2] == pattern(2));
	}
}

static void wait_here(void *unused) {
	(void) unused;
	pause();
}

int main(void) {
	static size_t lengths[] = { 1, 31, 64, 255, 300, 1000, 2048, 4096, 10000, 65537, 1 << 20, (5 << 20) + 7, LARGEST, 0 };
	buffer = malloc(ROOM);
	source = malloc(ROOM);
	CHECK(buffer && source);
	/* not in the first libset alone; and interrupted on the way */
	linger_t others[2];
	for (int i = 0; i < 3; i++) {
		linger_t linger = launch(move_all, 1000, lengths);
		CHECK(finish(&linger, 1000) > 0);
		if (i < 2)
			others[i] = launch(wait_here, NO_LIMIT, NULL);
	}
	for (int i = 0; i < 2; i++)
		cancel(&others[i]);
	return 0;
}
