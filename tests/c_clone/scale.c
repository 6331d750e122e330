/* Thousands of functions at once, each with library state of its own; every other one is interrupted in the middle of
 * a library's work. Prints what that takes. argv[1]: how many. */
#include "../c/check.h"

#include <search.h>
#include <string.h>
#include <sys/mman.h>
#ifdef HAS_ZLIB
#include <zlib.h>
#endif

/* What a function may take, stack and thread-locals included. */
enum { MOST_KIB = 250 };

struct job {
	int number;
	bool is_interrupted;
	volatile bool is_working;       /* in a library, which takes a while */
	char words[64];
	unsigned long sum;
};

static int by_value(const void *one, const void *other) {
	int a = *(const int *) one, b = *(const int *) other;
	return (a > b) - (a < b);
}

/* In libraries: sorting, formatting, compressing. */
static unsigned long library_work(int number) {
	int values[200];
	char text[4096];
	unsigned seed = number;
	for (int i = 0; i < 200; i++)
		values[i] = rand_r(&seed) % 1000;
	qsort(values, 200, sizeof *values, by_value);
	int used = 0;
	for (int i = 0; i < 200; i++)
		used += snprintf(text + used, sizeof text - used, "%d %.3f,", values[i], values[i] / 7.0);
	unsigned long sum = used;
#ifdef HAS_ZLIB
	unsigned char packed[8192], unpacked[4096];
	uLongf packed_length = sizeof packed, unpacked_length = sizeof unpacked;
	CHECK(compress(packed, &packed_length, (unsigned char *) text, used) == Z_OK);
	CHECK(uncompress(unpacked, &unpacked_length, packed, packed_length) == Z_OK);
	CHECK(unpacked_length == (unsigned) used && !memcmp(unpacked, text, used));
	sum += packed_length;
#endif
	return sum;
}

static void work(void *argument) {
	struct job *job = argument;
	char number[16];
	snprintf(number, sizeof number, "%d", job->number);
	srand(job->number);
	int first_random = rand();
	CHECK(!strcmp(strtok(job->words, " "), "first"));
	if (job->is_interrupted) {
		job->is_working = true;
		for (int i = 0; i < 20; i++)
			job->sum = library_work(job->number);
		job->is_working = false;
	} else {
		pause();
		job->sum = library_work(job->number);
	}
	CHECK(!strcmp(strtok(NULL, " "), number) && !strcmp(strtok(NULL, " "), "last") && !strtok(NULL, " "));
	srand(job->number);
	CHECK(rand() == first_random);
}

/* ------------------------------------------------------------------ memory */

/* Files that libsets have in memory: each is mapped twice, in the image and as a whole. */
struct file {
	unsigned long inode;
	char *start;
	size_t size;
};
static size_t files_kib;

static int by_inode(const void *one, const void *other) {
	unsigned long a = ((const struct file *) one)->inode, b = ((const struct file *) other)->inode;
	return (a > b) - (a < b);
}

static void count_pages(const void *node, VISIT visit, int depth) {
	(void) depth;
	const struct file *file = *(struct file *const *) node;
	unsigned char pages[4096];
	if (visit != postorder && visit != leaf)
		return;
	CHECK(file->size <= sizeof pages << 12 && !mincore(file->start, file->size, pages));
	for (size_t i = 0; i < file->size >> 12; i++)
		files_kib += (pages[i] & 1) * 4;
}

struct usage {
	long own_kib;           /* stacks, thread-locals, tables, what has been written; of text, which is shared, a part */
	long files_kib;         /* pristine states */
	int mappings;
};

static struct usage usage(void) {
	struct usage usage = { 0 };
	char line[512];
	FILE *rollup = fopen("/proc/self/smaps_rollup", "r"), *maps = fopen("/proc/self/maps", "r");
	CHECK(rollup && maps);
	for (long kib; fgets(line, sizeof line, rollup);)
		if (sscanf(line, "Pss_Anon: %ld", &kib) == 1 || sscanf(line, "Pss_File: %ld", &kib) == 1)
			usage.own_kib += kib;
	void *files = NULL;
	for (unsigned long start, end, inode; fgets(line, sizeof line, maps); usage.mappings++) {
		if (!strstr(line, "/memfd:libgotcha-libset") || sscanf(line, "%lx-%lx %*s %*s %*s %lu", &start, &end, &inode) != 3)
			continue;
		struct file *file = malloc(sizeof *file), **found;
		CHECK(file);
		*file = (struct file) { inode, (char *) start, end - start };
		CHECK(found = tsearch(file, &files, by_inode));
		if (file->size > (*found)->size)
			**found = *file;
		if (*found != file)
			free(file);
	}
	files_kib = 0;
	twalk(files, count_pages);
	usage.files_kib = files_kib;
	tdestroy(files, free);
	fclose(maps);
	fclose(rollup);
	return usage;
}

static long print_memory(const char *when, struct usage before, int count) {
	struct usage after = usage();
	long own = (after.own_kib - before.own_kib) / count, files = (after.files_kib - before.files_kib) / count;
	printf("memory of each, %s: %ld KiB: %ld of its own, %ld of its pristine state; %d mappings\n", when, own + files, own, files,
		(after.mappings - before.mappings) / count);
	return own + files;
}

/* ------------------------------------------------------------------ time */

static uint64_t now_ns(void) {
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t) now.tv_sec * 1000000000 + (uint64_t) now.tv_nsec;
}

static int by_time(const void *one, const void *other) {
	uint64_t a = *(const uint64_t *) one, b = *(const uint64_t *) other;
	return (a > b) - (a < b);
}

static double median_us(uint64_t *times, int length) {
	qsort(times, length, sizeof *times, by_time);
	return times[length / 2] / 1e3;
}

static void seed_and_pause(void *unused) {
	(void) unused;
	srand(1);
	CHECK(strtok((char[]) { "some words" }, " "));
	pause();
}

/* In one libset, again and again. */
static void print_cancel(void) {
	enum { ROUNDS = 10000 };
	static uint64_t times[ROUNDS];
	for (int i = 0; i < ROUNDS; i++) {
		linger_t linger = launch(seed_and_pause, NO_LIMIT, NULL);
		CHECK(linger.is_yielded);
		uint64_t begin = now_ns();
		cancel(&linger);
		times[i] = now_ns() - begin;
	}
	printf("cancel of a paused function, median of %d: %.1f us\n", ROUNDS, median_us(times, ROUNDS));
}

/* The same libsets again, and cancelled; the first cancel in each finds pages that it has not written yet. */
static void cancel_all(const char *when, linger_t *lingers, struct job *jobs, uint64_t *times, int count) {
	for (int i = 0; i < count; i++) {
		snprintf(jobs[i].words, sizeof jobs[i].words, "first %d last", i);
		lingers[i] = launch(work, 20 + i % 200, &jobs[i]);
		CHECK(!lingers[i].error);
	}
	for (int i = 0; i < count; i++) {
		uint64_t begin = now_ns();
		cancel(&lingers[i]);
		times[i] = now_ns() - begin;
	}
	printf("cancel of each of these, %s, median: %.1f us\n", when, median_us(times, count));
}

/* A hundred characters to a stream of the program, whose C library has to be told from those of all libsets. */
static FILE *stream;
static void write_many(void *us) {
	enum { ROUNDS = 100 };
	uint64_t times[ROUNDS];
	for (int i = 0; i < ROUNDS; i++) {
		uint64_t begin = now_ns();
		for (int j = 0; j < 100; j++)
			putc('x', stream);
		times[i] = now_ns() - begin;
	}
	*(double *) us = median_us(times, ROUNDS);
}

static double time_of_writing(void) {
	double us = 0;
	linger_t linger = launch(write_many, NO_LIMIT, &us);
	CHECK(linger.is_complete);
	return us;
}

/* ------------------------------------------------------------------ all at once */

int main(int arguments, char *argv[]) {
	int count = arguments > 1 ? atoi(argv[1]) : 64;
	linger_t *lingers = calloc(count, sizeof *lingers), warm = launch(work, 0, NULL);
	struct job *jobs = calloc(count, sizeof *jobs);
	uint64_t *times = calloc(count, sizeof *times), *sorted = calloc(count, sizeof *times);
	CHECK(lingers && jobs && times && sorted && !warm.error);
	printf("limit: %zu\n", linger_concurrency_limit());
	CHECK(linger_concurrency_limit() > (size_t) count);
	print_cancel();
	stream = fopen("/dev/null", "w");
	CHECK(stream);
	double writing_us = time_of_writing();
	struct usage before = usage();
	/* prepared first: what a launch alone costs is the creation of what it runs in */
	for (int i = 0; i < count; i++) {
		jobs[i] = (struct job) { .number = i, .is_interrupted = i % 2 };
		snprintf(jobs[i].words, sizeof jobs[i].words, "first %d last", i);
		uint64_t begin = now_ns();
		lingers[i] = launch(work, 0, &jobs[i]);
		times[i] = now_ns() - begin;
		CHECK(!lingers[i].error);
	}
	print_memory("prepared", before, count);
	int interrupted = 0;
	for (int i = 0; i < count; i++) {
		/* until it is in the middle of the libraries' work */
		do
			resume(&lingers[i], jobs[i].is_interrupted ? 20u + i % 200 : NO_LIMIT);
		while (jobs[i].is_interrupted && !jobs[i].is_working && !lingers[i].is_complete);
		CHECK(!lingers[i].error);
		interrupted += jobs[i].is_interrupted && !lingers[i].is_complete;
	}
	printf("%d at once, %d of them interrupted in libraries\n", count, interrupted);
	CHECK(print_memory("paused or interrupted", before, count) < MOST_KIB);
	int part = count < 100 ? count : 100;
	printf("creation, median of all: %.0f us,", median_us(memcpy(sorted, times, count * sizeof *times), count));
	printf(" of the first %d: %.0f us,", part, median_us(memcpy(sorted, times, part * sizeof *times), part));
	printf(" of the last: %.0f us\n", median_us(memcpy(sorted, times + count - part, part * sizeof *times), part));
	CHECK(interrupted > count / 8);
	double still_us = time_of_writing();
	printf("100 characters to a stream of the program: %.1f us, with all the others %.1f us\n", writing_us, still_us);
	/* a search among all would take a hundred times as long */
	CHECK(still_us < 20 * writing_us);
	for (int i = 0; i < count; i++) {
		finish(&lingers[i], NO_LIMIT);
		CHECK(jobs[i].sum == library_work(i));
	}
	cancel_all("the first time", lingers, jobs, times, count);
	cancel_all("later", lingers, jobs, times, count);
	cancel(&warm);
	return 0;
}
