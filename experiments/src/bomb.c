/* What is measured: an image is decoded by libpng. And how the images are made. */
#include <png.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* Bound by bomb.rs. */
struct job {
	const void *file;
	size_t file_bytes;
	unsigned char *pixels;          /* NULL: allocated here */
	int is_done;
};

size_t bomb_pixels_bytes(const void *file, size_t file_bytes) {
	png_image png = { .version = PNG_IMAGE_VERSION };
	if (!png_image_begin_read_from_memory(&png, file, file_bytes))
		return 0;
	png.format = PNG_FORMAT_RGBA;
	size_t size = PNG_IMAGE_SIZE(png);
	png_image_free(&png);
	return size;
}

void bomb_decode(struct job *job) {
	png_image png = { .version = PNG_IMAGE_VERSION };
	if (!png_image_begin_read_from_memory(&png, job->file, job->file_bytes))
		return;
	png.format = PNG_FORMAT_RGBA;
	if (!job->pixels && !(job->pixels = malloc(PNG_IMAGE_SIZE(png))))
		png_image_free(&png);
	else
		job->is_done = png_image_finish_read(&png, NULL, job->pixels, 0, NULL);
}

/* A thread's: it can be cancelled anywhere, though libpng and malloc() are not made for that. */
void *bomb_decode_cancellably(void *job) {
	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
	bomb_decode(job);
	pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, NULL);
	return NULL;
}

/* A grey square of that many pixels a side, whose brightness differs from pixel to pixel by less than `noise`. Returns
 * the file's size, and its contents in *file, to be freed; 0: it failed. */
size_t bomb_make_image(unsigned side, unsigned noise, void **file) {
	png_image png = { .version = PNG_IMAGE_VERSION, .width = side, .height = side, .format = PNG_FORMAT_GRAY };
	size_t pixels_bytes = (size_t) side * side, file_bytes = pixels_bytes + (64 << 10);
	unsigned char *pixels = calloc(1, pixels_bytes);
	unsigned state = 1;
	for (size_t i = 0; pixels && noise && i < pixels_bytes; i++) {
		state = state * 1103515245 + 12345;
		pixels[i] = (unsigned char) ((state >> 16) % noise + i % side * (255 - noise) / side);
	}
	*file = malloc(file_bytes);
	if (!pixels || !*file || !png_image_write_to_memory(&png, *file, &file_bytes, 0, pixels, 0, NULL)) {
		free(*file);
		file_bytes = 0;
	}
	free(pixels);
	return file_bytes;
}
