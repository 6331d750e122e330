/* An image, written, read, and read again cut short, which ends in a longjmp(). */
#include "job.h"

#include <png.h>
#include <setjmp.h>

enum { SIDE = 96, ROW = 3 * SIDE };

struct file {
	png_bytep bytes;
	size_t length, at;
};

static void write_bytes(png_structp png, png_bytep bytes, size_t length) {
	struct file *file = png_get_io_ptr(png);
	file->bytes = realloc(file->bytes, file->length + length);
	REQUIRE(file->bytes);
	memcpy(file->bytes + file->length, bytes, length);
	file->length += length;
}

static void read_bytes(png_structp png, png_bytep bytes, size_t length) {
	struct file *file = png_get_io_ptr(png);
	if (length > file->length - file->at)
		png_error(png, "cut short");
	memcpy(bytes, file->bytes + file->at, length);
	file->at += length;
}

static void flush(png_structp png) {
	(void) png;
}

static void keep_quiet(png_structp png, png_const_charp message) {
	(void) message;
	png_longjmp(png, 1);
}

static void write_image(struct file *file, uint32_t seed) {
	png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
	png_infop info = png_create_info_struct(png);
	REQUIRE(png && info);
	png_set_write_fn(png, file, write_bytes, flush);
	png_set_IHDR(png, info, SIDE, SIDE, 8, PNG_COLOR_TYPE_RGB, seed % 2 ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE,
		PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
	png_write_info(png, info);
	for (int pass = png_set_interlace_handling(png); pass; pass--)
		for (int y = 0; y < SIDE; y++) {
			png_byte row[ROW];
			for (int x = 0; x < ROW; x++)
				row[x] = (png_byte) (x * y + (int) (next_random(&seed) % 8));
			png_write_row(png, row);
		}
	png_write_end(png, info);
	png_destroy_write_struct(&png, &info);
}

static uint64_t read_image(struct file *file, png_error_ptr on_error) {
	png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, NULL, on_error, NULL);
	png_infop info = png_create_info_struct(png);
	png_bytep pixels = calloc(SIDE, ROW);
	REQUIRE(png && info && pixels);
	volatile uint64_t all = DIGEST_START;
	file->at = 0;
	if (!setjmp(png_jmpbuf(png))) {
		png_set_read_fn(png, file, read_bytes);
		png_read_info(png, info);
		int passes = png_set_interlace_handling(png);
		png_set_gamma(png, 1.8, 0.5);
		png_read_update_info(png, info);
		while (passes--)
			for (int y = 0; y < SIDE; y++)
				png_read_row(png, pixels + y * ROW, NULL);
		png_read_end(png, info);
		all = digest_text(all, "whole");
	}
	all = digest(all, pixels, SIDE * ROW);
	free(pixels);
	png_destroy_read_struct(&png, &info, NULL);
	return all;
}

static uint64_t run(uint32_t seed) {
	struct file file = { NULL, 0, 0 };
	write_image(&file, seed);
	uint64_t all = digest(DIGEST_START, file.bytes, file.length);
	all = digest_number(all, read_image(&file, NULL));
	file.length = file.length * 2 / 3;
	all = digest_number(all, read_image(&file, keep_quiet));
	free(file.bytes);
	return all;
}

const struct job jobs[] = { { .name = "libpng", .run = run }, { .name = NULL } };
