#include "job.h"

#include <bzlib.h>

static uint64_t run(uint32_t seed) {
	enum { LENGTH = 60000 };
	char *text = malloc(LENGTH), *packed = malloc(2 * LENGTH), *unpacked = malloc(LENGTH);
	REQUIRE(text && packed && unpacked);
	fill_with_text(text, LENGTH, seed);
	unsigned packed_length = 2 * LENGTH, length = LENGTH;
	REQUIRE(BZ2_bzBuffToBuffCompress(packed, &packed_length, text, LENGTH, 1 + (int) (seed % 9), 0, 0) == BZ_OK);
	uint64_t all = digest(DIGEST_START, packed, packed_length);
	REQUIRE(BZ2_bzBuffToBuffDecompress(unpacked, &length, packed, packed_length, seed % 2, 0) == BZ_OK);
	REQUIRE(length == LENGTH && !memcmp(text, unpacked, LENGTH));
	packed[packed_length / 2] ^= 1;
	length = LENGTH;
	all = digest_number(all, (uint64_t) BZ2_bzBuffToBuffDecompress(unpacked, &length, packed, packed_length, 0, 0));
	free(text);
	free(packed);
	free(unpacked);
	return all;
}

const struct job jobs[] = { { .name = "bzip2", .run = run }, { .name = NULL } };
