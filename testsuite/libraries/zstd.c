#include "job.h"

#include <zstd.h>

static uint64_t run(uint32_t seed) {
	enum { LENGTH = 100000, PIECE = 3000 };
	char *text = malloc(LENGTH), *packed = malloc(2 * LENGTH), *unpacked = malloc(LENGTH);
	ZSTD_CCtx *compressor = ZSTD_createCCtx();
	ZSTD_DCtx *decompressor = ZSTD_createDCtx();
	REQUIRE(text && packed && unpacked && compressor && decompressor);
	fill_with_text(text, LENGTH, seed);
	ZSTD_CCtx_setParameter(compressor, ZSTD_c_compressionLevel, 1 + (int) (seed % 16));
	ZSTD_CCtx_setParameter(compressor, ZSTD_c_checksumFlag, 1);
	size_t packed_length = ZSTD_compress2(compressor, packed, 2 * LENGTH, text, LENGTH);
	REQUIRE(!ZSTD_isError(packed_length));

	ZSTD_outBuffer out = { unpacked, LENGTH, 0 };
	for (size_t at = 0; at < packed_length;) {
		ZSTD_inBuffer in = { packed + at, packed_length - at < PIECE ? packed_length - at : PIECE, 0 };
		REQUIRE(!ZSTD_isError(ZSTD_decompressStream(decompressor, &out, &in)));
		at += in.pos;
	}
	REQUIRE(out.pos == LENGTH && !memcmp(text, unpacked, LENGTH));
	uint64_t all = digest(DIGEST_START, packed, packed_length);
	packed[packed_length - 1] ^= 1;
	all = digest_text(all, ZSTD_getErrorName(ZSTD_decompress(unpacked, LENGTH, packed, packed_length)));
	ZSTD_freeCCtx(compressor);
	ZSTD_freeDCtx(decompressor);
	free(text);
	free(packed);
	free(unpacked);
	return all;
}

const struct job jobs[] = { { .name = "zstd", .run = run }, { .name = NULL } };
