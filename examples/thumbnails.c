/* Makes thumbnails of PNG and JPEG files that nobody vouches for: each gets 10 ms. What takes longer, because it is
 * large or made to be (a decompression bomb), is cancelled in the middle of libpng or libjpeg, its memory is freed, and the
 * next is done.
 * Writes FILE.thumbnail.png; without arguments it makes some images itself, and writes nothing.
 *
 *     cargo build --release
 *     cc -O2 -Iinclude examples/thumbnails.c -Ltarget/release -linger -lpng16 -ljpeg -o thumbnails
 *     LD_LIBRARY_PATH=target/release ./thumbnails [FILE]... */
#include <libinger.h>

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <png.h>

/* The limit consists of slices so that on a busy machine a wait for the processor costs one, and not all the time. */
enum { SIDE = 64, SLICES = 10, SLICE_US = 1000 };

struct picture {
	unsigned width, height;
	unsigned char *rgb;
};

struct job {
	unsigned char *file;         /* its contents */
	size_t file_bytes;
	struct picture image;        /* its pixels are kept here for the caller to free, unless it is cancelled */
	struct picture thumbnail;
	char failure[JMSG_LENGTH_MAX];
};

static bool allocate(struct picture *picture, unsigned width, unsigned height) {
	picture->width = width;
	picture->height = height;
	return (picture->rgb = calloc(height, (size_t) width * 3));
}

static void read_png(struct job *job) {
	png_image png = { .version = PNG_IMAGE_VERSION };
	if (png_image_begin_read_from_memory(&png, job->file, job->file_bytes)) {
		png.format = PNG_FORMAT_RGB;
		if (!allocate(&job->image, png.width, png.height)) {
			strcpy(job->failure, "no memory for an image of this size");
			png_image_free(&png);
			return;
		}
		png_image_finish_read(&png, NULL, job->image.rgb, 0, NULL);
	}
	if (PNG_IMAGE_FAILED(png))
		strcpy(job->failure, png.message);
}

struct jpeg_errors {
	struct jpeg_error_mgr manager;
	jmp_buf jump;
	char *failure;
};

static void jpeg_failed(j_common_ptr jpeg) {
	struct jpeg_errors *errors = (struct jpeg_errors *) jpeg->err;
	jpeg->err->format_message(jpeg, errors->failure);
	longjmp(errors->jump, 1);
}

static void read_jpeg(struct job *job) {
	struct jpeg_errors errors = { .failure = job->failure };
	struct jpeg_decompress_struct jpeg = { .err = jpeg_std_error(&errors.manager) };
	errors.manager.error_exit = jpeg_failed;
	if (!setjmp(errors.jump)) {
		jpeg_create_decompress(&jpeg);
		jpeg_mem_src(&jpeg, job->file, job->file_bytes);
		jpeg_read_header(&jpeg, TRUE);
		jpeg.out_color_space = JCS_RGB;
		jpeg_start_decompress(&jpeg);
		if (!allocate(&job->image, jpeg.output_width, jpeg.output_height))
			strcpy(job->failure, "no memory for an image of this size");
		while (!*job->failure && jpeg.output_scanline < jpeg.output_height) {
			JSAMPROW row = job->image.rgb + (size_t) jpeg.output_scanline * jpeg.output_width * 3;
			jpeg_read_scanlines(&jpeg, &row, 1);
		}
	}
	jpeg_destroy_decompress(&jpeg);
}

/* Each of the thumbnail's pixels is the mean of those that it stands for. */
static void shrink(const struct picture *image, struct picture *thumbnail) {
	for (unsigned y = 0; y < thumbnail->height; y++)
		for (unsigned x = 0; x < thumbnail->width * 3; x++) {
			size_t top = (size_t) y * image->height / thumbnail->height;
			size_t bottom = (size_t) (y + 1) * image->height / thumbnail->height;
			size_t left = (size_t) (x / 3) * image->width / thumbnail->width;
			size_t right = (size_t) (x / 3 + 1) * image->width / thumbnail->width;
			size_t sum = 0;
			for (size_t i = top; i < bottom; i++)
				for (size_t j = left; j < right; j++)
					sum += image->rgb[(i * image->width + j) * 3 + x % 3];
			thumbnail->rgb[y * thumbnail->width * 3 + x] = (unsigned char) (sum / ((bottom - top) * (right - left)));
		}
}

/* The preemptible function. */
static void make_thumbnail(void *argument) {
	struct job *job = argument;
	const struct picture *image = &job->image;
	bool is_jpeg = job->file_bytes > 1 && job->file[0] == 0xff && job->file[1] == 0xd8;
	(is_jpeg ? read_jpeg : read_png)(job);
	if (*job->failure)
		return;
	unsigned longer = image->width > image->height ? image->width : image->height;
	unsigned divisor = longer > SIDE ? longer : SIDE;
	unsigned width = image->width * SIDE / divisor, height = image->height * SIDE / divisor;
	if (!allocate(&job->thumbnail, width ? width : 1, height ? height : 1))
		strcpy(job->failure, "no memory");
	else
		shrink(image, &job->thumbnail);
}

/* Takes the job over, and says what came of it. */
static bool finish(const char *name, struct job job, const char *save_as) {
	linger_options_t options = { .size_bytes = sizeof options, .tracks_heap = true };
	linger_t linger = linger_launch_with(&options, make_thumbnail, SLICE_US, &job);
	for (int slices = 1; slices < SLICES && !linger.is_complete && !linger.error; slices++)
		resume(&linger, SLICE_US);
	if (linger.error)
		snprintf(job.failure, sizeof job.failure, "%s", linger_error());
	else if (!linger.is_complete)
		snprintf(job.failure, sizeof job.failure, "not done after %d ms, cancelled", SLICES * SLICE_US / 1000);
	/* What it has allocated, and the libraries for it, is freed: nobody looks at it from here on. */
	if (!linger.is_complete)
		job.image.rgb = job.thumbnail.rgb = NULL;
	linger_cancel_reclaim(&linger);

	const struct picture *image = &job.image, *thumbnail = &job.thumbnail;
	png_image png = { .version = PNG_IMAGE_VERSION, .width = thumbnail->width, .height = thumbnail->height,
		.format = PNG_FORMAT_RGB };
	if (!*job.failure && save_as && !png_image_write_to_file(&png, save_as, 0, thumbnail->rgb, 0, NULL))
		snprintf(job.failure, sizeof job.failure, "%s: %s", save_as, png.message);
	bool is_done = !*job.failure;
	if (is_done)
		printf("%s: %u x %u to %u x %u\n", name, image->width, image->height, thumbnail->width, thumbnail->height);
	else
		printf("%s: %s\n", name, job.failure);
	free(job.file);
	free(image->rgb);
	free(thumbnail->rgb);
	return is_done;
}

static void fail(const char *what) {
	perror(what);
	exit(1);
}

static struct job load(const char *path) {
	struct job job = { 0 };
	FILE *file = fopen(path, "rb");
	if (!file || fseek(file, 0, SEEK_END) || ftell(file) < 0)
		fail(path);
	job.file_bytes = (size_t) ftell(file);
	rewind(file);
	job.file = malloc(job.file_bytes + 1);
	if (!job.file || fread(job.file, 1, job.file_bytes, file) != job.file_bytes)
		fail(path);
	fclose(file);
	return job;
}

static void encode_png(const struct picture *picture, struct job *job) {
	png_image png = { .version = PNG_IMAGE_VERSION, .width = picture->width, .height = picture->height,
		.format = PNG_FORMAT_RGB, .flags = PNG_IMAGE_FLAG_FAST };
	job->file_bytes = PNG_IMAGE_PNG_SIZE_MAX(png);
	job->file = malloc(job->file_bytes);
	if (!job->file || !png_image_write_to_memory(&png, job->file, &job->file_bytes, 0, picture->rgb, 0, NULL))
		fail("encoding");
}

static void encode_jpeg(const struct picture *picture, struct job *job) {
	struct jpeg_error_mgr errors;
	struct jpeg_compress_struct jpeg = { .err = jpeg_std_error(&errors) };
	unsigned long bytes = 0;
	jpeg_create_compress(&jpeg);
	jpeg_mem_dest(&jpeg, &job->file, &bytes);
	jpeg.image_width = picture->width;
	jpeg.image_height = picture->height;
	jpeg.input_components = 3;
	jpeg.in_color_space = JCS_RGB;
	jpeg_set_defaults(&jpeg);
	jpeg_start_compress(&jpeg, TRUE);
	while (jpeg.next_scanline < jpeg.image_height) {
		JSAMPROW row = picture->rgb + (size_t) jpeg.next_scanline * picture->width * 3;
		jpeg_write_scanlines(&jpeg, &row, 1);
	}
	jpeg_finish_compress(&jpeg);
	jpeg_destroy_compress(&jpeg);
	job->file_bytes = bytes;
}

/* An image that is dark above and light below. */
static void demonstrate(const char *name, unsigned width, unsigned height,
		void (*encode)(const struct picture *, struct job *)) {
	struct picture picture;
	struct job job = { 0 };
	if (!allocate(&picture, width, height))
		fail(name);
	for (size_t y = 0; y < height; y++)
		memset(picture.rgb + y * width * 3, (int) (y * 256 / height), (size_t) width * 3);
	encode(&picture, &job);
	free(picture.rgb);
	finish(name, job, NULL);
}

int main(int argc, char *argv[]) {
	int failures = 0;
	for (int i = 1; i < argc; i++) {
		char thumbnail[4096];
		snprintf(thumbnail, sizeof thumbnail, "%s.thumbnail.png", argv[i]);
		failures += !finish(argv[i], load(argv[i]), thumbnail);
	}
	if (argc == 1) {
		demonstrate("small.png", 160, 120, encode_png);
		demonstrate("bomb.png", 6000, 6000, encode_png);
		demonstrate("small.jpg", 160, 120, encode_jpeg);
		demonstrate("large.jpg", 6000, 6000, encode_jpeg);
		demonstrate("again.png", 120, 160, encode_png);
	}
	return failures ? 1 : 0;
}
