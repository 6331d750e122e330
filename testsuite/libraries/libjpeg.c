/* An image, written and read, with each method of its cosine transform; and a file that is none, which ends in a longjmp(). */
#include "job.h"

#include <setjmp.h>

#include <jpeglib.h>

enum { SIDE = 128, ROW = 3 * SIDE };

struct errors {
	struct jpeg_error_mgr manager;
	jmp_buf leave;
};

static void leave(j_common_ptr jpeg) {
	longjmp(((struct errors *) jpeg->err)->leave, 1);
}

static void write_image(unsigned char **bytes, unsigned long *length, uint32_t seed) {
	struct jpeg_error_mgr errors;
	struct jpeg_compress_struct jpeg = { .err = jpeg_std_error(&errors) };
	jpeg_create_compress(&jpeg);
	jpeg_mem_dest(&jpeg, bytes, length);
	jpeg.image_width = jpeg.image_height = SIDE;
	jpeg.input_components = 3;
	jpeg.in_color_space = JCS_RGB;
	jpeg_set_defaults(&jpeg);
	jpeg_set_quality(&jpeg, 50 + (int) (seed % 50), TRUE);
	jpeg.dct_method = (J_DCT_METHOD) (seed % 3);
	jpeg.optimize_coding = TRUE;
	if (seed % 2)
		jpeg_simple_progression(&jpeg);
	jpeg_start_compress(&jpeg, TRUE);
	while (jpeg.next_scanline < SIDE) {
		JSAMPLE row[ROW];
		for (int x = 0; x < ROW; x++)
			row[x] = (JSAMPLE) (x * (int) jpeg.next_scanline / 64 + (int) (next_random(&seed) % 16));
		jpeg_write_scanlines(&jpeg, (JSAMPARRAY) &(JSAMPROW) { row }, 1);
	}
	jpeg_finish_compress(&jpeg);
	jpeg_destroy_compress(&jpeg);
}

static uint64_t read_image(const unsigned char *bytes, unsigned long length, uint32_t seed) {
	struct errors errors;
	struct jpeg_decompress_struct jpeg = { .err = jpeg_std_error(&errors.manager) };
	errors.manager.error_exit = leave;
	volatile uint64_t all = DIGEST_START;
	if (setjmp(errors.leave)) {
		char message[JMSG_LENGTH_MAX];
		errors.manager.format_message((j_common_ptr) &jpeg, message);
		all = digest_text(all, message);
	} else {
		jpeg_create_decompress(&jpeg);
		jpeg_mem_src(&jpeg, bytes, length);
		jpeg_read_header(&jpeg, TRUE);
		jpeg.dct_method = (J_DCT_METHOD) (seed % 3);
		jpeg_start_decompress(&jpeg);
		while (jpeg.output_scanline < jpeg.output_height) {
			JSAMPLE row[ROW];
			jpeg_read_scanlines(&jpeg, (JSAMPARRAY) &(JSAMPROW) { row }, 1);
			all = digest(all, row, sizeof row);
		}
		jpeg_finish_decompress(&jpeg);
	}
	jpeg_destroy_decompress(&jpeg);
	return all;
}

static uint64_t run(uint32_t seed) {
	unsigned char *bytes = NULL;
	unsigned long length = 0;
	write_image(&bytes, &length, seed);
	uint64_t all = digest(DIGEST_START, bytes, length);
	all = digest_number(all, read_image(bytes, length, seed));
	bytes[1] = 0;
	all = digest_number(all, read_image(bytes, length, seed));
	free(bytes);
	return all;
}

const struct job jobs[] = { { .name = "libjpeg", .run = run }, { .name = NULL } };
