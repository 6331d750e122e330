/* Real libraries, interleaved: jobs of libpng, zlib, sqlite3 and libxml2 run in several libsets at once, in
 * slices of 40 us, and give what they give when they are called plainly; half of them are cancelled at a
 * random point first. Prints one line; exit status 0 if all is well. */
#define _GNU_SOURCE
#include "counts.h"

#include <errno.h>
#include <libinger.h>
#include <libxml/parser.h>
#include <libxml/xpath.h>
#include <malloc.h>
#include <png.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zlib.h>

#define REQUIRE(condition) \
	do { \
		if (!(condition)) { \
			dprintf(2, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
			_exit(1); \
		} \
	} while (0)

enum { SLICE_US = 40, KINDS = 4, COPIES = 2, JOBS = KINDS * COPIES };

struct job {
	void (*core)(struct job *);
	const char *name;
	int repetitions;
	uint32_t seed, first_seed;
	uint64_t result, expected;
	unsigned long preemptions;
	int cancels;
	linger_t linger;
};

static uint64_t mix(uint64_t hash, const void *bytes, size_t length) {
	for (size_t i = 0; i < length; i++)
		hash = (hash ^ ((const unsigned char *) bytes)[i]) * 0x100000001b3;
	return hash;
}

static uint32_t next(uint32_t *state) {
	return *state = *state * 1664525 + 1013904223;
}

/* ------------------------------------------------------------------ libpng */

struct memory {
	png_byte bytes[1 << 18];
	size_t length, at;
};
static void write_png(png_structp png, png_bytep bytes, png_size_t length) {
	struct memory *memory = png_get_io_ptr(png);
	REQUIRE(memory->length + length <= sizeof memory->bytes);
	memcpy(memory->bytes + memory->length, bytes, length);
	memory->length += length;
}
static void read_png(png_structp png, png_bytep bytes, png_size_t length) {
	struct memory *memory = png_get_io_ptr(png);
	if (memory->at + length > memory->length)
		png_error(png, "truncated");
	memcpy(bytes, memory->bytes + memory->at, length);
	memory->at += length;
}
static void flush_png(png_structp png) {
	(void) png;
}

static void leave_png(png_structp png, png_const_charp message) {
	(void) message;
	png_longjmp(png, 1);
}

enum { SIDE = 160 };
static void encode(struct memory *memory, uint32_t first_seed) {
	volatile uint32_t state = first_seed;
	png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
	png_infop info = png_create_info_struct(png);
	REQUIRE(png && info && !setjmp(png_jmpbuf(png)));
	png_set_write_fn(png, memory, write_png, flush_png);
	png_set_IHDR(png, info, SIDE, SIDE, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
	png_write_info(png, info);
	uint32_t seed = state;
	for (int y = 0; y < SIDE; y++) {
		png_byte row[3 * SIDE];
		for (int x = 0; x < 3 * SIDE; x++)
			row[x] = x * y + (next(&seed) >> 28);
		png_write_row(png, row);
	}
	png_write_end(png, info);
	png_destroy_write_struct(&png, &info);
}
static uint64_t decode(struct memory *memory) {
	png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
	png_infop info = png_create_info_struct(png);
	REQUIRE(png && info && !setjmp(png_jmpbuf(png)));
	png_set_read_fn(png, memory, read_png);
	png_read_info(png, info);
	volatile uint64_t hash = 1;
	for (unsigned y = 0; y < png_get_image_height(png, info); y++) {
		png_byte row[3 * SIDE];
		png_read_row(png, row, NULL);
		hash = mix(hash, row, sizeof row);
	}
	png_destroy_read_struct(&png, &info, NULL);
	/* a file that is cut short ends in the library's longjmp() */
	png = png_create_read_struct(PNG_LIBPNG_VER_STRING, NULL, leave_png, NULL);
	info = png_create_info_struct(png);
	memory->at = 0;
	memory->length /= 2;
	if (!setjmp(png_jmpbuf(png))) {
		png_set_read_fn(png, memory, read_png);
		png_read_info(png, info);
		for (;;) {
			png_byte row[3 * SIDE];
			png_read_row(png, row, NULL);
		}
	}
	png_destroy_read_struct(&png, &info, NULL);
	return hash;
}
static void run_png(struct job *job) {
	struct memory *memory = calloc(1, sizeof *memory);
	encode(memory, job->seed);
	job->result = mix(1, memory->bytes, memory->length) ^ decode(memory);
	free(memory);
}

/* ------------------------------------------------------------------ zlib */

static void run_zlib(struct job *job) {
	enum { LENGTH = 200000 };
	unsigned char *text = malloc(LENGTH), *packed = malloc(2 * LENGTH), *unpacked = malloc(LENGTH);
	uint32_t seed = job->seed;
	for (int i = 0; i < LENGTH; i++)
		text[i] = "abcdefgh"[next(&seed) >> 29] + i / 1000 % 3;
	uLongf packed_length = 2 * LENGTH, length = LENGTH;
	REQUIRE(compress2(packed, &packed_length, text, LENGTH, 6) == Z_OK);
	REQUIRE(uncompress(unpacked, &length, packed, packed_length) == Z_OK && length == LENGTH && !memcmp(text, unpacked, LENGTH));
	job->result = mix(crc32(0, text, LENGTH), packed, packed_length);
	free(text);
	free(packed);
	free(unpacked);
}

/* ------------------------------------------------------------------ sqlite3 */

static int add_row(void *hash, int columns, char **values, char **names) {
	(void) names;
	for (int i = 0; i < columns; i++)
		*(uint64_t *) hash = mix(*(uint64_t *) hash, values[i] ? values[i] : "", values[i] ? strlen(values[i]) : 0);
	return 0;
}
static void run_sqlite(struct job *job) {
	sqlite3 *database;
	uint64_t hash = 1;
	REQUIRE(sqlite3_open(":memory:", &database) == SQLITE_OK);
	char statement[512];
	snprintf(statement, sizeof statement,
		"create table t(a integer primary key, b integer, c text);"
		"with recursive n(i) as (select 1 union all select i + 1 from n where i < 4000)"
		" insert into t select i, (i * %u) %% 997, 'text ' || (i %% 57) from n;"
		"create index x on t(b);", job->seed % 1000 + 3);
	REQUIRE(sqlite3_exec(database, statement, NULL, NULL, NULL) == SQLITE_OK);
	REQUIRE(sqlite3_exec(database, "select c, count(*), sum(b), avg(b) from t group by c order by 3 desc, 1;"
		"select upper(c), b from t where b between 100 and 300 order by b, a limit 500;", add_row, &hash, NULL) == SQLITE_OK);
	REQUIRE(sqlite3_close(database) == SQLITE_OK);
	job->result = hash;
}

/* ------------------------------------------------------------------ libxml2 */

static void run_xml(struct job *job) {
	char *text = NULL;
	size_t length = 0;
	FILE *stream = open_memstream(&text, &length);
	uint32_t seed = job->seed;
	fputs("<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><list>", stream);
	for (int i = 0; i < 1500; i++)
		fprintf(stream, "<item id=\"%d\" kind=\"%c\"><name>n\xe4me %u</name><value>%u</value></item>", i, 'a' + i % 5, i, next(&seed) % 1000);
	fputs("</list>", stream);
	REQUIRE(!fclose(stream));
	xmlDocPtr document = xmlReadMemory(text, length, "list.xml", NULL, 0);
	REQUIRE(document);
	xmlXPathContextPtr context = xmlXPathNewContext(document);
	xmlXPathObjectPtr found = xmlXPathEvalExpression(BAD_CAST "//item[@kind='c' and value > 500]/name", context);
	REQUIRE(found && found->nodesetval);
	uint64_t hash = found->nodesetval->nodeNr;
	for (int i = 0; i < found->nodesetval->nodeNr; i++) {
		xmlChar *content = xmlNodeGetContent(found->nodesetval->nodeTab[i]);
		hash = mix(hash, content, strlen((char *) content));
		xmlFree(content);
	}
	xmlXPathFreeObject(found);
	xmlXPathFreeContext(context);
	xmlChar *dump;
	int dump_length;
	xmlDocDumpMemoryEnc(document, &dump, &dump_length, "UTF-8");
	job->result = mix(hash, dump, dump_length);
	xmlFree(dump);
	xmlFreeDoc(document);
	free(text);
}

/* ------------------------------------------------------------------ interleaving */

/* Repetitions: for more than 200 slices on a fast machine. */
static const struct {
	void (*core)(struct job *);
	const char *name;
	int repetitions;
} kinds[KINDS] = { { run_png, "libpng", 8 }, { run_zlib, "zlib", 3 }, { run_sqlite, "sqlite3", 8 }, { run_xml, "libxml2", 12 } };

static void run(void *closure) {
	struct job *job = closure;
	uint64_t all = 1;
	for (int i = 0; i < job->repetitions; i++) {
		job->core(job);
		all = mix(all, &job->result, sizeof job->result);
		job->seed++;
	}
	job->result = all;
}

static uint32_t random_state = 12345;

static void start(struct job *job) {
	job->result = 0;
	job->seed = job->first_seed;
	job->linger = linger_launch(run, SLICE_US, job);
	REQUIRE(!job->linger.error);
}

/* Each job to its end; every second one is cancelled once on the way, and starts again. */
static void interleave(struct job *jobs, int round) {
	int cancel_at[JOBS];
	for (int i = 0; i < JOBS; i++) {
		cancel_at[i] = (i + round) % 2 ? 1 + (int) (next(&random_state) >> 8) % 200 : 0;
		jobs[i].preemptions = 0;
		start(&jobs[i]);
	}
	for (int left = JOBS; left; ) {
		left = 0;
		for (int i = 0; i < JOBS; i++) {
			struct job *job = &jobs[i];
			if (job->linger.is_complete)
				continue;
			left++;
			job->preemptions++;
			if (cancel_at[i] && !--cancel_at[i]) {
				linger_cancel(&job->linger);
				job->cancels++;
				start(job);
			} else {
				linger_resume(&job->linger, SLICE_US);
			}
			REQUIRE(!job->linger.error);
		}
	}
	if (getenv("LIBRARIES_COUNT"))
		for (int i = 0; i < JOBS; i++)
			dprintf(2, "%s: %lu preemptions\n", jobs[i].name, jobs[i].preemptions);
	for (int i = 0; i < JOBS; i++) {
		if (jobs[i].result != jobs[i].expected || jobs[i].preemptions < 200) {
			dprintf(2, "%s: result %lx, expected %lx, %lu preemptions\n", jobs[i].name, (unsigned long) jobs[i].result,
				(unsigned long) jobs[i].expected, jobs[i].preemptions);
			_exit(1);
		}
	}
}

int main(int argc, char **argv) {
	int rounds = argc > 1 ? atoi(argv[1]) : 6;
	/* the heap of a cancelled function leaks: in one piece, so that mappings can be compared */
	mallopt(M_ARENA_MAX, 1);
	mallopt(M_MMAP_THRESHOLD, 32 << 20);
	static struct job jobs[JOBS];
	for (int i = 0; i < JOBS; i++) {
		jobs[i] = (struct job) { .core = kinds[i % KINDS].core, .name = kinds[i % KINDS].name,
			.repetitions = kinds[i % KINDS].repetitions, .seed = 1000 * i, .first_seed = 1000 * i };
		run(&jobs[i]);
		jobs[i].expected = jobs[i].result;
		REQUIRE(jobs[i].expected);
	}
	interleave(jobs, 0);
	interleave(jobs, 1);
	size_t descriptors = count_descriptors(), mappings = count_mappings();
	unsigned long preemptions = 0;
	int cancels = 0;
	for (int round = 0; round < rounds; round++) {
		interleave(jobs, round);
		for (int i = 0; i < JOBS; i++)
			preemptions += jobs[i].preemptions;
	}
	for (int i = 0; i < JOBS; i++)
		cancels += jobs[i].cancels;
	size_t descriptors_now = count_descriptors(), mappings_now = count_mappings();
	printf("%d rounds, %lu preemptions, %d cancels; descriptors %zu -> %zu, mappings %zu -> %zu\n", rounds, preemptions, cancels,
		descriptors, descriptors_now, mappings, mappings_now);
	REQUIRE(descriptors_now <= descriptors && mappings_now <= mappings + 4);
	return 0;
}
