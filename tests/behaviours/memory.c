/* Mappings, protections, large frames, other stacks. */
#include "behaviour.h"

#include <alloca.h>
#include <malloc.h>
#include <pthread.h>
#include <sys/mman.h>

enum { PAGE = 4096, PAGES = 64 };

static char *map(size_t length, int protection) {
	char *memory = (char *) mmap(NULL, length, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED);
	return memory;
}

static void mappings(void) {
	for (int round = 0; round < 20; round++) {
		char *memory = map(PAGES * PAGE, PROT_READ | PROT_WRITE);
		for (int i = 0; i < PAGES; i++)
			CHECK(memory[i * PAGE] == 0);
		fill(memory, PAGES * PAGE, (unsigned) round);
		CHECK(!munmap(memory + 10 * PAGE, PAGE));
		memory = (char *) mremap(memory, 10 * PAGE, 200 * PAGE, MREMAP_MAYMOVE);
		CHECK(memory != MAP_FAILED && memory[100 * PAGE] == 0);
		note_bytes(memory, 10 * PAGE);
		CHECK(!madvise(memory, PAGE, MADV_DONTNEED) && memory[5] == 0 && !munmap(memory, 200 * PAGE));
	}
}

static void mapped_files(void) {
	char name[] = "/tmp/behaviour-XXXXXX";
	int file = mkstemp(name);
	CHECK(file >= 0 && !unlink(name) && !ftruncate(file, PAGES * PAGE));
	char *shared = (char *) mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	char *private_one = (char *) mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
	CHECK(shared != MAP_FAILED && private_one != MAP_FAILED);
	fill(shared, PAGES * PAGE, 3);
	CHECK(!memcmp(shared, private_one, PAGES * PAGE));
	private_one[7] ^= 1;
	CHECK(shared[7] != private_one[7] && !msync(shared, PAGES * PAGE, MS_SYNC));
	static char read_back[PAGES * PAGE];
	CHECK(pread(file, read_back, sizeof read_back, 0) == sizeof read_back && !memcmp(read_back, shared, sizeof read_back));
	note_bytes(read_back, sizeof read_back);
	CHECK(!munmap(shared, PAGES * PAGE) && !munmap(private_one, PAGES * PAGE) && !close(file));
}

static char *guarded;
static volatile sig_atomic_t repaired;

static void repair(int number, siginfo_t *info, void *context) {
	(void) number, (void) context;
	char *page = (char *) ((uintptr_t) info->si_addr & ~(uintptr_t) (PAGE - 1));
	CHECK(page >= guarded && page < guarded + PAGES * PAGE && !mprotect(page, PAGE, PROT_READ | PROT_WRITE));
	repaired++;
}

/* A write barrier, as garbage collectors have it. */
static void protections(void) {
	guarded = map(PAGES * PAGE, PROT_READ);
	struct sigaction action = { .sa_flags = SA_SIGINFO }, old;
	action.sa_sigaction = repair;
	CHECK(!sigaction(SIGSEGV, &action, &old));
	repaired = 0;
	for (int round = 0; round < 5; round++) {
		CHECK(!mprotect(guarded, PAGES * PAGE, PROT_READ));
		for (int i = 0; i < PAGES; i++)
			guarded[i * PAGE + 9] = (char) i;
	}
	CHECK(repaired == 5 * PAGES && !sigaction(SIGSEGV, &old, NULL) && !munmap(guarded, PAGES * PAGE));
	/* a system call reports what it may not touch */
	char *none = map(PAGE, PROT_NONE);
	int ends[2];
	CHECK(!pipe(ends) && write(ends[1], none, 1) < 0 && errno == EFAULT && !close(ends[0]) && !close(ends[1]));
	CHECK(!munmap(none, PAGE));
}

/* What a compiler at run time does. */
static void generated_code(void) {
	static const unsigned char code[] = { 0x8d, 0x47, 0x01, 0xc3 };  /* lea 1(%rdi), %eax; ret */
	for (int i = 0; i < 50; i++) {
		char *memory = map(PAGE, PROT_READ | PROT_WRITE);
		memcpy(memory, code, sizeof code);
		CHECK(!mprotect(memory, PAGE, PROT_READ | PROT_EXEC));
		int (*function)(int);
		memcpy(&function, &memory, sizeof function);
		volatile int value = 0;
		for (int k = 0; k < 10000; k++)
			value = function(value);
		CHECK(value == 10000 && !munmap(memory, PAGE));
	}
}

static unsigned long use_frame(unsigned seed) {
	volatile char frame[1 << 20];
	fill((char *) frame, sizeof frame, seed);
	unsigned long sum = 0;
	for (size_t i = 0; i < sizeof frame; i++)
		sum += (unsigned char) frame[i];
	return sum;
}

static unsigned long recurse(int depth) {
	volatile char frame[8000];
	for (size_t i = 0; i < sizeof frame; i += 500)
		frame[i] = (char) depth;
	unsigned long below = depth ? recurse(depth - 1) : 0;
	return below + (unsigned char) frame[0] + (unsigned char) frame[7500];
}

static unsigned long use_alloca(size_t length) {
	char *memory = (char *) alloca(length);
	fill(memory, length, (unsigned) length);
	return (unsigned char) memory[length - 1];
}

static void large_frames(void) {
	note("%lu %lu %lu\n", use_frame(1), recurse(180), use_alloca(700000));
}

static void *on_stack_of_its_own(void *unused) {
	note("%lu\n", recurse(40));
	return unused;
}

static void other_stacks(void) {
	char *stack = map(1 << 20, PROT_READ | PROT_WRITE);
	pthread_attr_t attributes;
	pthread_t thread;
	CHECK(!pthread_attr_init(&attributes) && !pthread_attr_setstack(&attributes, stack, 1 << 20));
	CHECK(!pthread_create(&thread, &attributes, on_stack_of_its_own, NULL) && !pthread_join(thread, NULL));
	CHECK(!pthread_attr_destroy(&attributes) && !munmap(stack, 1 << 20));
}

static void heap(void) {
	enum { BLOCKS = 200 };
	char *blocks[BLOCKS] = { NULL };
	size_t sizes[BLOCKS] = { 0 };
	unsigned seed = 1;
	for (int i = 0; i < 3000; i++) {
		seed = seed * 1103515245 + 12345;
		int which = (int) (seed >> 16) % BLOCKS;
		size_t size = (seed >> 8) % 5000 + 1;
		for (size_t k = 0; k < sizes[which] && k < size; k += 97)
			CHECK(blocks[which][k] == (char) which);
		blocks[which] = (char *) realloc(blocks[which], size);
		CHECK(blocks[which] && malloc_usable_size(blocks[which]) >= size);
		memset(blocks[which], which, size);
		sizes[which] = size;
	}
	for (int i = 0; i < BLOCKS; i++)
		free(blocks[i]);
	char *large = (char *) malloc(50 << 20);
	CHECK(large);
	large[0] = large[(50 << 20) - 1] = 1;
	free(large);
	void *aligned;
	CHECK(!posix_memalign(&aligned, 4096, 10000) && (uintptr_t) aligned % 4096 == 0);
	free(aligned);
	malloc_trim(0);
}

const struct behaviour behaviours[] = {
	BEHAVIOUR(mappings),
	BEHAVIOUR(mapped_files),
	BEHAVIOUR(protections),
	BEHAVIOUR(generated_code),
	BEHAVIOUR(large_frames),
	BEHAVIOUR(other_stacks),
	BEHAVIOUR(heap),
	{ NULL, NULL },
};
