#include "job.h"

#include <brotli/decode.h>
#include <brotli/encode.h>

static uint64_t run(uint32_t seed) {
	enum { LENGTH = 30000 };
	uint8_t *text = malloc(LENGTH), *packed = malloc(2 * LENGTH), *unpacked = malloc(LENGTH);
	REQUIRE(text && packed && unpacked);
	fill_with_text((char *) text, LENGTH, seed);
	size_t packed_length = 2 * LENGTH, length = LENGTH;
	REQUIRE(BrotliEncoderCompress((int) (seed % 10), 20, BROTLI_MODE_TEXT, LENGTH, text, &packed_length, packed));
	REQUIRE(BrotliDecoderDecompress(packed_length, packed, &length, unpacked) == BROTLI_DECODER_RESULT_SUCCESS);
	REQUIRE(length == LENGTH && !memcmp(text, unpacked, LENGTH));
	uint64_t all = digest(DIGEST_START, packed, packed_length);
	REQUIRE(BrotliDecoderDecompress(packed_length / 2, packed, &length, unpacked) == BROTLI_DECODER_RESULT_ERROR);
	free(text);
	free(packed);
	free(unpacked);
	return all;
}

const struct job jobs[] = { { .name = "brotli", .run = run }, { .name = NULL } };
