#include "job.h"

#include <lzma.h>

static uint64_t run(uint32_t seed) {
	enum { LENGTH = 60000 };
	unsigned char *text = malloc(LENGTH), *packed = malloc(2 * LENGTH), *unpacked = malloc(LENGTH);
	REQUIRE(text && packed && unpacked);
	fill_with_text((char *) text, LENGTH, seed);
	size_t packed_length = 0, at = 0, length = 0;
	lzma_check check = seed % 2 ? LZMA_CHECK_CRC64 : LZMA_CHECK_SHA256;
	REQUIRE(lzma_easy_buffer_encode(seed % 4, check, NULL, text, LENGTH, packed, &packed_length, 2 * LENGTH) == LZMA_OK);
	uint64_t limit = UINT64_MAX;
	REQUIRE(lzma_stream_buffer_decode(&limit, 0, NULL, packed, &at, packed_length, unpacked, &length, LENGTH) == LZMA_OK);
	REQUIRE(length == LENGTH && !memcmp(text, unpacked, LENGTH));
	uint64_t all = digest(DIGEST_START, packed, packed_length);
	packed[packed_length / 2] ^= 1;
	at = length = 0;
	lzma_ret status = lzma_stream_buffer_decode(&limit, 0, NULL, packed, &at, packed_length, unpacked, &length, LENGTH);
	REQUIRE(status != LZMA_OK);
	all = digest_number(all, status);
	free(text);
	free(packed);
	free(unpacked);
	return all;
}

const struct job jobs[] = { { .name = "lzma", .run = run }, { .name = NULL } };
