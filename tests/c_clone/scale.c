/* Thousands of functions at once, each with library state of its own; every other one is interrupted in the middle of
 * a library's work. argv[1]: how many. */
#include "../c/check.h"

#include <string.h>
#ifdef HAS_ZLIB
#include <zlib.h>
#endif

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

static long kib(const char *path, const char *name) {
	FILE *file = fopen(path, "r");
	char line[256];
	long found = -1;
	while (file && fgets(line, sizeof line, file))
		if (!strncmp(line, name, strlen(name)))
			sscanf(line + strlen(name), "%ld", &found);
	if (file)
		fclose(file);
	return found;
}

static int mappings(void) {
	FILE *file = fopen("/proc/self/maps", "r");
	int count = 0;
	for (int byte; file && (byte = getc(file)) != EOF;)
		count += byte == '\n';
	if (file)
		fclose(file);
	return count;
}

static int by_time(const void *one, const void *other) {
	uint64_t a = *(const uint64_t *) one, b = *(const uint64_t *) other;
	return (a > b) - (a < b);
}

static uint64_t median(uint64_t *times, int length) {
	qsort(times, length, sizeof *times, by_time);
	return times[length / 2];
}

int main(int arguments, char *argv[]) {
	int count = arguments > 1 ? atoi(argv[1]) : 64;
	linger_t *lingers = calloc(count, sizeof *lingers), warm = launch(work, 0, NULL);
	struct job *jobs = calloc(count, sizeof *jobs);
	uint64_t *times = calloc(count, sizeof *times);
	CHECK(lingers && jobs && times && !warm.error);
	printf("limit: %zu\n", linger_concurrency_limit());
	CHECK(linger_concurrency_limit() > (size_t) count);
	long rss = kib("/proc/self/smaps_rollup", "Pss:"), shmem = kib("/proc/meminfo", "Shmem:");
	int mapped = mappings();
	/* prepared first: what a launch alone costs is the creation of what it runs in */
	for (int i = 0; i < count; i++) {
		jobs[i] = (struct job) { .number = i, .is_interrupted = i % 2 };
		snprintf(jobs[i].words, sizeof jobs[i].words, "first %d last", i);
		uint64_t begin = now_us();
		lingers[i] = launch(work, 0, &jobs[i]);
		times[i] = now_us() - begin;
		CHECK(!lingers[i].error);
	}
	long idle_rss = kib("/proc/self/smaps_rollup", "Pss:"), idle_shmem = kib("/proc/meminfo", "Shmem:");
	int interrupted = 0;
	for (int i = 0; i < count; i++) {
		/* until it is in the middle of the libraries' work */
		do
			resume(&lingers[i], jobs[i].is_interrupted ? 20u + i % 200 : NO_LIMIT);
		while (jobs[i].is_interrupted && !jobs[i].is_working && !lingers[i].is_complete);
		CHECK(!lingers[i].error);
		interrupted += jobs[i].is_interrupted && !lingers[i].is_complete;
	}
	printf("%d at once, %d of them interrupted, %d mappings each\n", count, interrupted, (mappings() - mapped) / count);
	printf("memory each: prepared %ld KiB + %ld KiB shared files; paused %ld KiB + %ld KiB\n", (idle_rss - rss) / count,
		(idle_shmem - shmem) / count, (kib("/proc/self/smaps_rollup", "Pss:") - rss) / count, (kib("/proc/meminfo", "Shmem:") - shmem) / count);
	printf("creation, median of the first half: %lu us, of the second: %lu us\n", (unsigned long) median(times, count / 2),
		(unsigned long) median(times + count / 2, count / 2));
	CHECK(interrupted > count / 8);
	for (int i = 0; i < count; i++) {
		finish(&lingers[i], NO_LIMIT);
		CHECK(jobs[i].sum == library_work(i));
	}
	/* the same libsets again, and cancelled */
	for (int i = 0; i < count; i++) {
		snprintf(jobs[i].words, sizeof jobs[i].words, "first %d last", i);
		lingers[i] = launch(work, 20 + i % 200, &jobs[i]);
		CHECK(!lingers[i].error);
	}
	for (int i = 0; i < count; i++) {
		uint64_t begin = now_us();
		cancel(&lingers[i]);
		times[i] = now_us() - begin;
	}
	printf("cancel, median: %lu us\n", (unsigned long) median(times, count));
	cancel(&warm);
	return 0;
}
