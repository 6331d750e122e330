/* Decodes PNG files with libpng, for at most 5 ms at a time, and gives up on those that take longer.
 * Without arguments it makes two images itself, a small and a large one.
 *
 *     cargo build --release
 *     cc -Iinclude examples/png.c -Ltarget/release -linger -lpng16 -o png
 *     LD_LIBRARY_PATH=target/release ./png [FILE]...
 *
 * libpng knows nothing of this. Its twin in Rust: png.rs. */
#include <libinger.h>

#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BUDGET_US = 5000 };

struct job {
	const char *name;
	unsigned char *png;     /* the file's contents... */
	size_t png_bytes;
	unsigned char *pixels;  /* ...and room for the image, which is here for the caller to free */
	size_t pixels_bytes;
	/* results */
	char failure[64];
	unsigned width, height;
	uint64_t hash;
};

static void fail(const char *what, const char *why) {
	fprintf(stderr, "png: %s: %s\n", what, why);
	exit(1);
}

static double now_ms(void) {
	struct timespec now;
	timespec_get(&now, TIME_UTC);
	return (double) now.tv_sec * 1e3 + (double) now.tv_nsec / 1e6;
}

/* Reads the size, for which libpng looks no further than the header. */
static void measure(struct job *job) {
	png_image image = { .version = PNG_IMAGE_VERSION };
	if (!png_image_begin_read_from_memory(&image, job->png, job->png_bytes))
		fail(job->name, image.message);
	image.format = PNG_FORMAT_RGBA;
	job->width = image.width;
	job->height = image.height;
	job->pixels_bytes = PNG_IMAGE_SIZE(image);
	png_image_free(&image);
}

/* The preemptible function. */
static void decode(void *argument) {
	struct job *job = argument;
	png_image image = { .version = PNG_IMAGE_VERSION };
	*job->failure = '\0';
	if (!png_image_begin_read_from_memory(&image, job->png, job->png_bytes)) {
		strcpy(job->failure, image.message);
		return;
	}
	image.format = PNG_FORMAT_RGBA;
	if (!png_image_finish_read(&image, NULL, job->pixels, 0, NULL)) {
		strcpy(job->failure, image.message);
		return;
	}
	job->hash = 0xcbf29ce484222325;        /* FNV-1a */
	for (size_t i = 0; i < job->pixels_bytes; i++)
		job->hash = (job->hash ^ job->pixels[i]) * 0x100000001b3;
}

static void report(const struct job *job, double took_ms) {
	if (*job->failure)
		printf("%s: %s\n", job->name, job->failure);
	else
		printf("%s: %u x %u, hash %016llx, in %.1f ms\n", job->name, job->width, job->height,
			(unsigned long long) job->hash, took_ms);
}

/* Decodes an image if that takes no longer than the budget. */
static int decode_in_time(struct job *job) {
	double start_ms = now_ms();
	linger_t linger = launch(decode, BUDGET_US, job);
	if (linger.error)
		fail("launch", linger_error());
	if (linger.is_complete) {
		report(job, now_ms() - start_ms);
		return 1;
	}
	printf("%s: not done after %d ms, cancelled\n", job->name, BUDGET_US / 1000);
	cancel(&linger);
	return 0;
}

static struct job prepare(const char *name, unsigned char *png, size_t png_bytes) {
	struct job job = { .name = name, .png = png, .png_bytes = png_bytes };
	measure(&job);
	job.pixels = malloc(job.pixels_bytes);
	if (!job.pixels)
		fail(name, "no memory for an image of this size");
	return job;
}

/* An image of `side` by `side` pixels. */
static struct job draw(const char *name, unsigned side) {
	png_image image = { .version = PNG_IMAGE_VERSION, .width = side, .height = side,
		.format = PNG_FORMAT_GRAY, .flags = PNG_IMAGE_FLAG_FAST };
	unsigned char *pixels = malloc((size_t) side * side);
	png_alloc_size_t room = (size_t) side * side + 65536;
	unsigned char *png = malloc(room);
	if (!pixels || !png)
		fail(name, "no memory");
	for (size_t i = 0; i < (size_t) side * side; i++)
		pixels[i] = (unsigned char) ((i / side / 16) ^ (i % side / 16));
	if (!png_image_write_to_memory(&image, png, &room, 0, pixels, 0, NULL))
		fail(name, image.message);
	free(pixels);
	return prepare(name, png, room);
}

static struct job load(const char *path) {
	FILE *file = fopen(path, "rb");
	if (!file || fseek(file, 0, SEEK_END)) {
		perror(path);
		exit(1);
	}
	long bytes = ftell(file);
	rewind(file);
	unsigned char *png = malloc(bytes > 0 ? (size_t) bytes : 1);
	if (!png || fread(png, 1, (size_t) bytes, file) != (size_t) bytes)
		fail(path, "cannot be read");
	fclose(file);
	return prepare(path, png, (size_t) bytes);
}

static void discard(struct job *job) {
	free(job->png);
	free(job->pixels);
}

/* The large image in slices, and the small one, whole, between them. */
static void interleave(struct job *large, struct job *small) {
	decode(small);
	uint64_t hash = small->hash;
	double start_ms = now_ms();
	linger_t linger = launch(decode, BUDGET_US, large);
	unsigned slices = 1;
	for (; !linger.is_complete && !linger.error; slices++) {
		linger_t other = launch(decode, UINT64_MAX, small);
		if (!other.is_complete || small->hash != hash)
			fail(small->name, "decoded differently between slices");
		resume(&linger, BUDGET_US);
	}
	if (linger.error)
		fail(large->name, linger_error());
	report(large, now_ms() - start_ms);
	printf("... as %u slices, %s decoded between each two\n", slices, small->name);
}

int main(int argc, char *argv[]) {
	if (argc > 1) {
		int late = 0;
		for (int i = 1; i < argc; i++) {
			struct job job = load(argv[i]);
			late += !decode_in_time(&job);
			discard(&job);
		}
		return late ? 2 : 0;
	}
	struct job small = draw("small", 64), large = draw("large", 4000);
	decode_in_time(&small);
	decode_in_time(&large);
	decode_in_time(&small);
	interleave(&large, &small);
	discard(&small);
	discard(&large);
	return 0;
}
