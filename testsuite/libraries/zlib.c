#include "job.h"

#include <zlib.h>

static uint64_t run(uint32_t seed) {
	enum { LENGTH = 60000, PIECE = 1000 };
	unsigned char *text = malloc(LENGTH), *packed = malloc(2 * LENGTH), *unpacked = malloc(LENGTH);
	REQUIRE(text && packed && unpacked);
	fill_with_text((char *) text, LENGTH, seed);
	uLongf packed_length = 2 * LENGTH;
	REQUIRE(compress2(packed, &packed_length, text, LENGTH, 1 + (int) (seed % 9)) == Z_OK);

	z_stream stream = { .next_in = packed };
	REQUIRE(inflateInit(&stream) == Z_OK);
	int status;
	do {
		stream.avail_in = (uInt) (packed_length - stream.total_in < PIECE ? packed_length - stream.total_in : PIECE);
		stream.next_out = unpacked + stream.total_out;
		stream.avail_out = (uInt) (LENGTH - stream.total_out);
		status = inflate(&stream, Z_NO_FLUSH);
	} while (status == Z_OK);
	REQUIRE(status == Z_STREAM_END && stream.total_out == LENGTH && !memcmp(text, unpacked, LENGTH));
	REQUIRE(inflateEnd(&stream) == Z_OK);

	uint64_t all = digest(DIGEST_START, packed, packed_length);
	all = digest_number(digest_number(all, crc32(0, text, LENGTH)), adler32(1, text, LENGTH));
	free(text);
	free(packed);
	free(unpacked);
	return all;
}

const struct job jobs[] = { { .name = "zlib", .run = run }, { .name = NULL } };
