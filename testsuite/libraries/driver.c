/* Runs one of a file's jobs plainly, then in up to 16 preemptible functions at a time, in slices of random length: the
 * digests have to be the same. In the last rounds half of the functions are cancelled on the way and repeated.
 *
 * Memory is accounted for by libset: only one function runs at a time, so what changes during a slice is its function's doing.
 * What a libset holds when its function is cancelled is lost, and nothing but that may be missing in the end.
 *
 * Without arguments it prints the names of the jobs. Otherwise: JOB ROUNDS MILLISECONDS SEED [memory], where each run takes at
 * least so many milliseconds, and random numbers follow from the seed. Prints a line of numbers, the last two with "memory"
 * only: of a run's microseconds, functions at a time, runs, cancels, preemptions, bytes lost by cancels, and bytes that have
 * become more besides. Exit status 0 if all is well. */
#include "job.h"

#include <errno.h>
#include <fcntl.h>
#include <libinger.h>
#include <malloc.h>
#include <pthread.h>
#include <stdbool.h>
#include <time.h>
#include <unistd.h>

enum {
	FUNCTIONS = 16,
	SHORTEST_US = 50,
	LONGEST_US = 5000,
	LIBSETS = 1024,
	LEAST_PREEMPTIONS = 100,
	HEAP_SLACK = 128 << 10, /* a few libsets may get now what they keep */
	MAPPED_SLACK = 1 << 20,
};

/* Both in bytes. */
struct memory {
	int64_t heap;   /* blocks that have been allocated and not freed */
	int64_t mapped; /* what is mapped besides the heap */
};

/* A libset, told by the thread that its functions believe to be. */
struct libset {
	pthread_t self;
	struct memory held;
};

struct function {
	uint32_t seed;
	uint64_t result, expected;
	uint64_t plain_us;
	pthread_t self;
	linger_t linger;
	uint64_t ran_us, cancel_at_us; /* UINT64_MAX: it is not to be cancelled */
};

static const struct job *job;
static unsigned repetitions;
static uint32_t random_state;
static bool measures_memory;

static struct function functions[FUNCTIONS];
static unsigned at_a_time = FUNCTIONS;

static struct libset libsets[LIBSETS];
static struct memory lost;
static unsigned long runs, cancels, preemptions;

/* ---------------------------------------------------------------------------------------------------- memory */

static struct memory memory_now(void) {
	if (!measures_memory)
		return (struct memory) { 0, 0 };
	static int file = -1;
	if (file < 0)
		file = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	char text[100];
	ssize_t length = pread(file, text, sizeof text - 1, 0);
	REQUIRE(length > 0);
	text[length] = '\0';
	int64_t all = strtoll(text, NULL, 10) * sysconf(_SC_PAGESIZE);
	struct mallinfo2 heap = mallinfo2();
	return (struct memory) { .heap = (int64_t) (heap.uordblks + heap.hblkhd), .mapped = all - (int64_t) (heap.arena + heap.hblkhd) };
}

static struct memory sum(struct memory a, struct memory b) {
	return (struct memory) { a.heap + b.heap, a.mapped + b.mapped };
}

static struct memory difference(struct memory a, struct memory b) {
	return (struct memory) { a.heap - b.heap, a.mapped - b.mapped };
}

static struct memory *held_by(pthread_t self) {
	struct libset *libset = libsets;
	while (libset->self && libset->self != self)
		REQUIRE(++libset < libsets + LIBSETS);
	libset->self = self;
	return &libset->held;
}

static void require_no_more_than_slack(const char *when, struct memory memory) {
	if (memory.heap <= HEAP_SLACK && memory.mapped <= MAPPED_SLACK)
		return;
	dprintf(2, "%s the heap has grown by %ld bytes more than was lost, and other mappings by %ld\n", when, (long) memory.heap,
		(long) memory.mapped);
	exit(1);
}

/* ---------------------------------------------------------------------------------------------------- functions */

static void work(struct function *function) {
	uint64_t all = DIGEST_START;
	for (unsigned i = 0; i < repetitions; i++)
		all = digest_number(all, job->run(function->seed + i));
	function->result = all;
}

static void run(void *argument) {
	struct function *function = argument;
	function->self = pthread_self();
	linger_pause();
	work(function);
}

/* As far as to the pause in run(). Is there room for one more? */
static bool start(struct function *function) {
	function->result = 0;
	function->ran_us = 0;
	function->linger = linger_launch(run, UINT64_MAX, function);
	if (function->linger.error == EAGAIN)
		return false;
	if (function->linger.error || !function->linger.is_yielded) {
		dprintf(2, "launch: %s: %s\n", strerror(function->linger.error), linger_error());
		exit(1);
	}
	return true;
}

/* Each order of magnitude is as frequent as the others. */
static uint64_t random_slice_us(void) {
	uint64_t us = (uint64_t) SHORTEST_US << next_random(&random_state) % 7;
	us += next_random(&random_state) % us;
	return us < LONGEST_US ? us : LONGEST_US;
}

static void cancel_and_repeat(struct function *function) {
	linger_cancel(&function->linger);
	struct memory *held = held_by(function->self);
	lost = sum(lost, *held);
	*held = (struct memory) { 0, 0 };
	cancels++;
	function->cancel_at_us = UINT64_MAX;
	REQUIRE(start(function));
}

/* One that was to be cancelled, but has been faster, starts again, to be cancelled earlier. */
static void complete(struct function *function) {
	runs++;
	if (function->result != function->expected) {
		dprintf(2, "the digest is %016lx, and plainly %016lx: seed %u, %u repetitions\n", (unsigned long) function->result,
			(unsigned long) function->expected, function->seed, repetitions);
		exit(1);
	}
	if (function->cancel_at_us != UINT64_MAX) {
		function->cancel_at_us /= 2;
		REQUIRE(start(function));
	}
}

static void go_on(struct function *function) {
	uint64_t us = random_slice_us();
	if (us > function->cancel_at_us - function->ran_us)
		us = function->cancel_at_us - function->ran_us;
	struct memory before = memory_now();
	linger_resume(&function->linger, us);
	struct memory *held = held_by(function->self);
	*held = sum(*held, difference(memory_now(), before));
	function->ran_us += us;
	if (function->linger.error) {
		dprintf(2, "resume: %s: %s\n", strerror(function->linger.error), linger_error());
		exit(1);
	}
	if (function->linger.is_complete) {
		complete(function);
		return;
	}
	preemptions += !function->linger.is_yielded;
	if (function->ran_us == function->cancel_at_us)
		cancel_and_repeat(function);
}

/* All functions to their ends. Every one, or every second one, is cancelled on the way if `cancel_every` is 1 or 2. */
static void interleave(unsigned cancel_every, unsigned round) {
	for (unsigned i = 0; i < at_a_time; i++) {
		struct function *function = &functions[i];
		function->cancel_at_us = UINT64_MAX;
		if (cancel_every && (i + round) % cancel_every == 0)
			function->cancel_at_us = next_random(&random_state) % function->plain_us;
		if (!start(function)) {
			REQUIRE(i > 1);
			at_a_time = i;
		}
	}
	for (;;) {
		unsigned first = next_random(&random_state) % at_a_time, i = 0;
		while (i < at_a_time && functions[(first + i) % at_a_time].linger.is_complete)
			i++;
		if (i == at_a_time)
			return;
		go_on(&functions[(first + i) % at_a_time]);
	}
}

/* ---------------------------------------------------------------------------------------------------- main */

static uint64_t processor_us(void) {
	struct timespec now;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return (uint64_t) now.tv_sec * 1000000 + (uint64_t) now.tv_nsec / 1000;
}

static void run_plainly(struct function *function) {
	uint64_t begin = processor_us();
	work(function);
	function->plain_us = processor_us() - begin;
	if (function->expected && function->result != function->expected) {
		dprintf(2, "two plain runs differ: seed %u, %u repetitions\n", function->seed, repetitions);
		exit(1);
	}
	function->expected = function->result;
}

/* Finds out how often a job has to be repeated to take so long, and what it says for each seed. */
static void prepare(uint64_t shortest_us) {
	repetitions = 1;
	work(&functions[0]);
	for (;;) {
		functions[0].expected = 0;
		run_plainly(&functions[0]);
		if (functions[0].plain_us >= shortest_us)
			break;
		repetitions *= 2;
	}
	for (unsigned i = 0; i < FUNCTIONS; i++) {
		functions[i].seed = 1000 * i;
		run_plainly(&functions[i]);
		run_plainly(&functions[i]);
	}
}

int main(int argc, char **argv) {
	if (argc < 5) {
		for (job = jobs; job->name; job++)
			puts(job->name);
		return argc > 1;
	}
	for (job = jobs; job->name && strcmp(job->name, argv[1]); job++)
		;
	REQUIRE(job->name);
	unsigned rounds = (unsigned) atoi(argv[2]);
	random_state = (uint32_t) atoi(argv[4]);
	measures_memory = argc > 5;
	/* one arena, whose size says what it has from the kernel */
	if (measures_memory)
		mallopt(M_ARENA_MAX, 1);

	prepare(1000 * (uint64_t) atoi(argv[3]));
	/* a libset in which a thread is left does not come back, and some engines do not have many */
	bool can_cancel = !job->leaves_thread || linger_concurrency_limit() > LIBSETS;
	/* each libset gets what it keeps, some of it with the first launch after a cancel: the C library's locale and tables */
	for (unsigned round = 0; round < 2; round++)
		interleave(can_cancel, round);
	interleave(0, 0);
	lost = (struct memory) { 0, 0 };
	struct memory at_first = memory_now();
	/* more than asked for where one is too short */
	for (unsigned round = 0; round < rounds || (preemptions <= LEAST_PREEMPTIONS && round < 10 * rounds); round++)
		interleave(0, round);
	struct memory whole = difference(memory_now(), at_first);
	for (unsigned round = 0; round < rounds; round++)
		interleave(can_cancel ? 2 : 0, round);
	interleave(0, 0);
	struct memory rest = difference(difference(memory_now(), at_first), lost);
	for (unsigned i = 0; i < FUNCTIONS; i++)
		run_plainly(&functions[i]);

	printf("%lu %u %lu %lu %lu %ld %ld\n", (unsigned long) functions[0].plain_us, at_a_time, runs, cancels, preemptions,
		(long) (lost.heap + lost.mapped), (long) (rest.heap + rest.mapped));
	/* what is lost with a libset is no slice's doing */
	if (!job->leaves_thread) {
		require_no_more_than_slack("without cancels", whole);
		require_no_more_than_slack("after cancels", rest);
	}
	if (preemptions <= LEAST_PREEMPTIONS) {
		dprintf(2, "only %lu preemptions\n", preemptions);
		exit(1);
	}
	return 0;
}
