/* What a library's file and the driver have in common. Jobs keep everything on their stack and heap: the program's own
 * variables are one for all the functions that run at a time. */
#ifndef JOB_H
#define JOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Uses the library, and returns a digest of all that it has said: the same whenever the seed is. */
struct job {
	const char *name;
	uint64_t (*run)(uint32_t seed);
	bool leaves_thread; /* that the library has started, and does not end */
};

/* The file's jobs; the last has no name. */
extern const struct job jobs[];

#ifdef __cplusplus
}
#endif

#define REQUIRE(condition) \
	do { \
		if (!(condition)) { \
			dprintf(2, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
			abort(); \
		} \
	} while (0)

/* FNV-1a */
#define DIGEST_START 0xcbf29ce484222325u
static inline uint64_t digest(uint64_t so_far, const void *bytes, size_t length) {
	for (size_t i = 0; i < length; i++)
		so_far = (so_far ^ ((const unsigned char *) bytes)[i]) * 0x100000001b3;
	return so_far;
}
static inline uint64_t digest_text(uint64_t so_far, const char *text) {
	return digest(so_far, text, strlen(text) + 1);
}
static inline uint64_t digest_number(uint64_t so_far, uint64_t number) {
	return digest(so_far, &number, sizeof number);
}

static inline uint32_t next_random(uint32_t *state) {
	*state = *state * 1664525 + 1013904223;
	return *state >> 8;
}

/* Words: what compressors find something in. */
static inline void fill_with_text(char *text, size_t length, uint32_t seed) {
	static const char *const words[] = { "time ", "is ", "up ", "and ", "function ", "returns, ", "or ", "not\n" };
	size_t at = 0;
	while (at < length) {
		char number[16];
		const char *word = words[next_random(&seed) % 8];
		if (next_random(&seed) % 4 == 0) {
			snprintf(number, sizeof number, "%u ", next_random(&seed) % 10000);
			word = number;
		}
		for (; *word && at < length; word++)
			text[at++] = *word;
	}
}

#endif
