/* One heap per process: what is allocated inside a function is base's, can be used and freed outside,
 * and the other way round; the allocator is never found in the middle of its work. */
#include "policy.h"

#include <malloc.h>

enum { BLOCKS = 200, SIZE = 3000 };
static void *blocks[BLOCKS];

static size_t in_use(void) {
	return mallinfo2().uordblks;
}

#define ALLOCATES(name, expression) \
	static void fill_##name(void *unused) { \
		(void) unused; \
		for (int i = 0; i < BLOCKS; i++) { \
			void *block = NULL; \
			(void) block; \
			blocks[i] = (expression); \
			REQUIRE(blocks[i]); \
			memset(blocks[i], i, SIZE); \
		} \
	} \
	static void check_##name(void) { \
		ROUNDS(20000) { \
			size_t before = in_use(); \
			inside(fill_##name, NULL); \
			size_t grown = in_use() - before; \
			REQUIRE(grown >= BLOCKS * SIZE && grown < 2 * BLOCKS * (SIZE + 4096), grown); \
			for (int i = 0; i < BLOCKS; i++) { \
				REQUIRE(malloc_usable_size(blocks[i]) >= SIZE && ((unsigned char *) blocks[i])[SIZE - 1] == i); \
				free(blocks[i]); \
			} \
		} \
	}
ALLOCATES(malloc, malloc(SIZE))
ALLOCATES(calloc, calloc(1, SIZE))
ALLOCATES(realloc, realloc(block, SIZE))
ALLOCATES(reallocarray, reallocarray(block, 1, SIZE))
ALLOCATES(memalign, memalign(64, SIZE))
ALLOCATES(aligned_alloc, aligned_alloc(64, SIZE))
ALLOCATES(posix_memalign, (posix_memalign(&block, 64, SIZE), block))
ALLOCATES(valloc, valloc(SIZE))
ALLOCATES(pvalloc, pvalloc(SIZE))
/* the C library's own calls */
static char long_text[SIZE + 1];
ALLOCATES(strdup, (memset(long_text, 'x', SIZE), strdup(long_text)))

static void free_all(void *unused) {
	(void) unused;
	for (int i = 0; i < BLOCKS; i++)
		free(blocks[i]);
}
static void check_free(void) {
	ROUNDS(20000) {
		size_t before = in_use();
		for (int i = 0; i < BLOCKS; i++)
			blocks[i] = malloc(SIZE);
		inside(free_all, NULL);
		/* some stay in the cache of the function's TCB */
		REQUIRE(in_use() < before + 20 * SIZE, in_use() - before);
	}
}

static void shrink_and_grow(void *unused) {
	(void) unused;
	for (int i = 0; i < BLOCKS; i++) {
		char *moved = realloc(blocks[i], SIZE * 2);
		REQUIRE(moved && moved[SIZE - 1] == (char) i);
		blocks[i] = moved;
	}
}
static void check_realloc_of_ours(void) {
	for (int i = 0; i < BLOCKS; i++)
		memset(blocks[i] = malloc(SIZE), i, SIZE);
	size_t before = in_use();
	inside(shrink_and_grow, NULL);
	REQUIRE(in_use() >= before + (BLOCKS - 20) * SIZE, in_use() - before);
	for (int i = 0; i < BLOCKS; i++)
		free(blocks[i]);
}

/* What a library's constructor has allocated belongs to the libset. */
char *constructed_block(void);
void constructed_replace(void);
static void use_constructed(void *unused) {
	(void) unused;
	REQUIRE(malloc_usable_size(constructed_block()) >= 100);
	REQUIRE(!strcmp(constructed_block(), "constructed"));
	constructed_replace();
	REQUIRE(!strcmp(constructed_block(), "constructed, replaced"));
}
static void use_forever(void *unused) {
	use_constructed(unused);
	for (;;)
		;
}
static void wait_forever(void *unused) {
	(void) unused;
	for (;;)
		;
}
static void check_constructed(void) {
	for (int i = 0; i < 20; i++) {
		linger_t linger = linger_launch(use_forever, 2000, NULL);
		REQUIRE(!linger.is_complete && !linger.error, linger.error);
		linger_cancel(&linger);
		inside(use_constructed, NULL);
		linger = linger_launch(wait_forever, 10, NULL);
		linger_cancel(&linger);
	}
}

static void set_option(void *unused) {
	(void) unused;
	REQUIRE(mallopt(M_PERTURB, 0xaa) == 1);
}
static void check_mallopt(void) {
	inside(set_option, NULL);
	unsigned char *block = malloc(100000);
	/* the bytes of a new block are the complement */
	REQUIRE(block[50000] == 0x55, block[50000]);
}

static void trim(void *result) {
	*(int *) result = malloc_trim(0);
}
static void check_trim(void) {
	static void *large[1000], *between[1000];
	for (int i = 0; i < 1000; i++) {
		large[i] = malloc(20000);
		memset(large[i], 1, 20000);
		between[i] = malloc(2000);
	}
	for (int i = 0; i < 1000; i++)
		free(large[i]);
	int result = 0;
	inside(trim, &result);
	REQUIRE(result == 1);
	for (int i = 0; i < 1000; i++)
		free(between[i]);
}

static void look(void *unused) {
	(void) unused;
	size_t before = mallinfo2().uordblks, old = mallinfo().uordblks;
	for (int i = 0; i < BLOCKS; i++)
		blocks[i] = malloc(SIZE);
	REQUIRE(mallinfo2().uordblks - before >= BLOCKS * SIZE);
	REQUIRE(mallinfo().uordblks - old >= BLOCKS * SIZE);
	free_all(NULL);
}
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
static void look2(void *unused) {
	(void) unused;
	size_t before = mallinfo2().uordblks;
	for (int i = 0; i < BLOCKS; i++)
		blocks[i] = malloc(SIZE);
	REQUIRE(mallinfo2().uordblks - before >= BLOCKS * SIZE);
	free_all(NULL);
}
static void check_info(void) {
	inside(look, NULL);
}
static void check_info2(void) {
	inside(look2, NULL);
}

/* The report names base's heap, into streams of both kinds. */
static size_t reported(const char *text) {
	const char *at = strstr(text, "<system type=\"current\" size=\"");
	REQUIRE(at);
	return strtoul(at + strlen("<system type=\"current\" size=\""), NULL, 10);
}
static FILE *report;
static char *report_text;
static size_t report_size;
static void write_report(void *unused) {
	(void) unused;
	REQUIRE(!malloc_info(0, report));
}
static void own_report(void *unused) {
	(void) unused;
	char *text;
	size_t size;
	FILE *own = open_memstream(&text, &size);
	REQUIRE(!malloc_info(0, own) && !fclose(own));
	REQUIRE(reported(text) > 100000, reported(text));
	free(text);
}
static void check_report(void) {
	for (int i = 0; i < BLOCKS; i++)
		blocks[i] = malloc(SIZE);
	report = open_memstream(&report_text, &report_size);
	inside(write_report, NULL);
	fclose(report);
	REQUIRE(reported(report_text) > BLOCKS * SIZE);
	inside(own_report, NULL);
}

static void print_statistics(void *unused) {
	(void) unused;
	malloc_stats();
}
static void check_statistics(void) {
	for (int i = 0; i < BLOCKS; i++)
		blocks[i] = malloc(SIZE);
	REQUIRE(freopen("statistics", "w", stderr));
	inside(print_statistics, NULL);
	fflush(stderr);
	int file = open("statistics", O_RDONLY);
	char text[4096] = { 0 };
	REQUIRE(read(file, text, sizeof text - 1) > 0);
	const char *at = strstr(text, "in use bytes     =");
	REQUIRE(at && strtoul(at + 18, NULL, 10) > BLOCKS * SIZE);
}

/* A function that is stopped anywhere leaves the heap usable. */
static void churn(void *unused) {
	(void) unused;
	for (;;) {
		void *block[8];
		for (int i = 0; i < 8; i++)
			block[i] = malloc(16 << i);
		for (int i = 0; i < 8; i++)
			free(block[i]);
	}
}
static void check_cancel(void) {
	for (int i = 0; i < (sliced ? 3000 : 200); i++) {
		linger_t linger = linger_launch(churn, 10 + rand() % 60, NULL);
		void *block[64];
		for (int j = 0; j < 64; j++)
			block[j] = malloc(rand() % 4000);
		for (int j = 0; j < 64; j++)
			free(block[j]);
		linger_cancel(&linger);
	}
}

const struct check checks[] = {
	{ "malloc", "malloc", check_malloc },
	{ "calloc", "calloc", check_calloc },
	{ "realloc", "realloc", check_realloc },
	{ "realloc_of_ours", "realloc", check_realloc_of_ours },
	{ "reallocarray", "-", check_reallocarray },
	{ "memalign", "memalign", check_memalign },
	{ "aligned_alloc", "aligned_alloc", check_aligned_alloc },
	{ "posix_memalign", "posix_memalign", check_posix_memalign },
	{ "valloc", "valloc", check_valloc },
	{ "pvalloc", "pvalloc", check_pvalloc },
	{ "strdup", "malloc", check_strdup },
	{ "free", "free", check_free },
	{ "constructed", "malloc_usable_size,free", check_constructed },
	{ "mallopt", "mallopt", check_mallopt },
	{ "malloc_trim", "malloc_trim", check_trim },
	{ "mallinfo", "mallinfo", check_info },
	{ "mallinfo2", "mallinfo2", check_info2 },
	{ "malloc_info", "malloc_info", check_report },
	{ "malloc_stats", "malloc_stats", check_statistics },
	{ "cancel", "-", check_cancel },
	{ NULL, NULL, NULL },
};
