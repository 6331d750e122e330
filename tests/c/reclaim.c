/* linger_cancel_reclaim(): what each function of the malloc family has allocated, and the C library with them, for itself or
 * for others. */
#include "check.h"

#include <locale.h>
#include <malloc.h>
#include <netdb.h>
#include <pthread.h>
#include <regex.h>
#include <stdatomic.h>
#include <string.h>
#include <wchar.h>

enum { SIZE = 10000, BLOCKS = 20 };

static size_t in_use(void) {
	struct mallinfo2 information = mallinfo2();
	return information.uordblks + information.hblkhd;
}

static linger_t launch_tracked(void (*function)(void *), uint64_t us, void *argument) {
	linger_options_t options = { .size_bytes = sizeof options, .tracks_heap = true };
	linger_t linger = linger_launch_with(&options, function, us, argument);
	CHECK(linger.error == 0);
	return linger;
}

/* ------------------------------------------------------------------ each function */

static char text[SIZE];
static void *volatile block;
#define ALLOCATES(name, expression) \
	static void allocate_##name(void *unused) { \
		(void) unused; \
		for (int i = 0; i < BLOCKS; i++) { \
			void *made = NULL; \
			(void) made; \
			block = (expression); \
			CHECK(block); \
			memset(block, i, SIZE); \
		} \
		linger_pause(); \
	}
#define FUNCTIONS(X) \
	X(malloc, malloc(SIZE)) \
	X(calloc, calloc(2, SIZE / 2)) \
	X(realloc, realloc(malloc(10), SIZE)) \
	X(realloc_null, realloc(NULL, SIZE)) \
	X(reallocarray, reallocarray(NULL, 2, SIZE / 2)) \
	X(memalign, memalign(256, SIZE)) \
	X(aligned_alloc, aligned_alloc(256, SIZE)) \
	X(posix_memalign, (posix_memalign(&made, 256, SIZE), made)) \
	X(valloc, valloc(SIZE)) \
	X(pvalloc, pvalloc(SIZE)) \
	X(strdup, strdup(text)) \
	X(asprintf, (asprintf((char **) &made, "%s", text), made)) \
	X(large, malloc(SIZE * 100))
FUNCTIONS(ALLOCATES)

static void open_stream(void *unused) {
	(void) unused;
	FILE *stream = fopen("/dev/null", "r");
	CHECK(stream && getc(stream) == EOF);
	linger_pause();
}
static void compile(void *unused) {
	(void) unused;
	regex_t regex;
	CHECK(!regcomp(&regex, "(a|b)*[[:alpha:]]", REG_EXTENDED));
	linger_pause();
}
static void call_inside(void *unused) {
	allocate_malloc(unused);
}
static void launch_inside(void *unused) {
	linger_t inner = launch_tracked(call_inside, NO_LIMIT, unused);
	CHECK(inner.is_yielded);
	linger_pause();
}

static size_t lost(void (*function)(void *), void cancelling(linger_t *)) {
	enum { ROUNDS = 20 };
	size_t before = 0;
	for (int i = -5; i < ROUNDS; i++) {
		if (!i)
			before = in_use();
		linger_t linger = launch_tracked(function, NO_LIMIT, NULL);
		CHECK(linger.is_yielded);
		cancelling(&linger);
		CHECK(linger.error == ECANCELED && !linger.continuation);
	}
	size_t after = in_use();
	return after < before ? 0 : (after - before) / ROUNDS;
}

static void check_each(void) {
	memset(text, 'x', sizeof text - 1);
	static const struct {
		const char *name;
		void (*function)(void *);
		size_t least;           /* without */
	} functions[] = {
#define ENTRY(name, expression) { #name, allocate_##name, BLOCKS * SIZE },
		FUNCTIONS(ENTRY)
		{ "fopen", open_stream, 4000 }, { "regcomp", compile, 1000 }, { "launch inside", launch_inside, BLOCKS * SIZE },
	};
	for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
		size_t with = lost(functions[i].function, linger_cancel_reclaim), without = lost(functions[i].function, linger_cancel);
		if (with >= 300 || without < functions[i].least) {
			printf("%s: %zu bytes each, %zu by cancel()\n", functions[i].name, with, without);
			CHECK(with < 300 && without >= functions[i].least);
		}
	}
}

/* ------------------------------------------------------------------ the C library, outside */

static struct addrinfo *addresses;
static regex_t regex;
static char *line;
static size_t line_size;
static void fill(void *unused) {
	(void) unused;
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST };
	CHECK(!getaddrinfo("127.0.0.1", NULL, &hints, &addresses));
	CHECK(!regcomp(&regex, "(a|b)*[[:alpha:]]", REG_EXTENDED));
	line_size = 10;
	line = malloc(line_size);
	linger_pause();
}

/* Frees and moves by itself what a function has allocated. */
static void check_base(void) {
	for (int i = 0; i < 100; i++) {
		linger_t linger = launch_tracked(fill, NO_LIMIT, NULL);
		CHECK(linger.is_yielded);
		freeaddrinfo(addresses);
		regfree(&regex);
		FILE *stream = fopen("/proc/self/status", "r");
		CHECK(stream && getdelim(&line, &line_size, 0, stream) > 100 && line_size > 100);
		fclose(stream);
		char *others[200];
		for (int j = 0; j < 200; j++)
			memset(others[j] = malloc(8 * (size_t) j), 7, 8 * (size_t) j);
		linger_cancel_reclaim(&linger);
		for (int j = 0; j < 200; j++) {
			for (int k = 0; k < 8 * j; k++)
				CHECK(others[j][k] == 7);
			free(others[j]);
		}
	}
}

/* ------------------------------------------------------------------ other threads */

/* Another thread moves a block all the time, while the function that has allocated it ends. Then it is its own. */
enum { MOVED_SIZE = 1 << 20 };
static void *_Atomic moving;
static atomic_int moves;
static atomic_bool is_over;
static void *move(void *unused) {
	(void) unused;
	void *own;
	while (!(own = moving))
		;
	for (size_t i = 0; !is_over; i++) {
		CHECK((own = realloc(own, i % 2 ? MOVED_SIZE : 2 * MOVED_SIZE)));
		moves++;
	}
	moving = realloc(own, MOVED_SIZE);
	return NULL;
}
static void give_away(void *unused) {
	(void) unused;
	moves = 0;
	moving = malloc(MOVED_SIZE);
	while (moves < 10)
		;
}

static void check_moved(void) {
	/* each has a mapping to itself */
	CHECK(mallopt(M_MMAP_THRESHOLD, MOVED_SIZE / 2));
	for (int i = 0; i < 50; i++) {
		moving = NULL;
		is_over = false;
		pthread_t thread;
		CHECK(!pthread_create(&thread, NULL, move, NULL));
		linger_t linger = launch_tracked(give_away, NO_LIMIT, NULL);
		CHECK(linger.is_complete);
		is_over = true;
		CHECK(!pthread_join(thread, NULL));
		linger = launch_tracked(call_inside, NO_LIMIT, NULL);
		CHECK(linger.is_yielded);
		size_t before = in_use();
		linger_cancel_reclaim(&linger);
		CHECK(before < in_use() + MOVED_SIZE);
		free(moving);
	}
}

static void finish_with(void *unused) {
	(void) unused;
	block = malloc(SIZE);
}

static void check_rest(void) {
	linger_t linger = launch_tracked(finish_with, NO_LIMIT, NULL);
	CHECK(linger.is_complete);
	linger_cancel_reclaim(&linger);
	CHECK(malloc_usable_size(block) >= SIZE);
	free(block);
	/* one that has not started, one that is not tracked, none */
	linger = launch_tracked(finish_with, 0, NULL);
	linger_cancel_reclaim(&linger);
	linger = launch(spin, 100, NULL);
	linger_cancel_reclaim(&linger);
	linger_cancel_reclaim(&linger);
	linger_cancel_reclaim(NULL);
}

int main(void) {
	check_each();
	check_base();
	check_moved();
	check_rest();
	return 0;
}
