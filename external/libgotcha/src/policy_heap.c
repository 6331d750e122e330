/* Policy of the malloc family: base, not preempted; one heap per process.
 *
 * What a libset's constructors allocate comes from a region of the libset instead.  It is part of
 * the pristine state: rolled back with the libset, and never freed, since a roll back would revive
 * the pointers to it.
 *
 * What a function allocates that is tracked is noted, in resources.c, until it is freed, by whomever. A shared
 * library's calls are its own, not those of the function that has called it. */
#include "internal.h"
#include "forward.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

enum { MALLOC, CALLOC, REALLOC, FREE, USABLE_SIZE, MEMALIGN, ALIGNED_ALLOC, POSIX_MEMALIGN, VALLOC, PVALLOC,
	REALLOCARRAY, MALLOPT, MALLOC_TRIM, MALLOC_STATS, MALLOC_INFO, MALLINFO, MALLINFO2 };
static struct row rows[];
#define BASE(index, type) ((__typeof__(type) *) rows[index].base)

void *(*gotcha_base_malloc)(size_t);
void (*gotcha_base_free)(void *);

/* ------------------------------------------------------------------ the constructors' region */

/* Before each block: its size, in a word of its own. */
enum { INIT_ALIGNMENT = 16 };

static bool in_init_heap(const void *pointer) {
	return (size_t) ((const char *) pointer - gotcha_init_heaps) < gotcha_init_heaps_size_bytes;
}

static size_t init_size(const void *pointer) {
	return ((const size_t *) pointer)[-1];
}

/* The region is reserved without access, so that it counts as memory of the process only as far as it is used. */
static int make_accessible(const struct libset *set, size_t end) {
	uintptr_t from = page_up(set->init_heap + set->init_heap_used_bytes), to = page_up(set->init_heap + end);
	return from < to ? mprotect((void *) from, to - from, PROT_READ | PROT_WRITE) : 0;
}

static void *init_allocate(struct libset *set, size_t alignment, size_t size) {
	if (alignment < INIT_ALIGNMENT)
		alignment = INIT_ALIGNMENT;
	size_t start = (set->init_heap_used_bytes + sizeof(size_t) + alignment - 1) & ~(alignment - 1);
	if (size > INIT_HEAP_SIZE || start + size > INIT_HEAP_SIZE || make_accessible(set, start + size)) {
		gotcha_loading_failed = true;
		return NULL;
	}
	char *block = set->init_heap + start;
	((size_t *) block)[-1] = size;
	set->init_heap_used_bytes = start + size;
	return block;
}

/* ------------------------------------------------------------------ wrappers */

/* Context: in the bracket that the guard stands for. */
static inline bool is_tracked(const struct shared_guard *guard) {
	return unlikely(THIS.tracked & LIBGOTCHA_TRACKS_HEAP) && is_libsets(guard->table);
}
static inline void note(const struct shared_guard *guard, void *block) {
	if (is_tracked(guard) && block)
		gotcha_block_add(block, THIS.set->number);
}
/* Before it is freed: afterwards the address may be somebody else's. */
static inline void drop_note(const void *block) {
	if (gotcha_resources_are_known())
		gotcha_block_remove(block);
}

static void *heap_malloc(size_t size) {
	void *block;
	if (gotcha_is_loading() && (block = init_allocate(THIS.set, 0, size)))
		return block;
	struct shared_guard guard;
	shared_enter(&guard);
	block = BASE(MALLOC, void *(size_t))(size);
	if (unlikely(!block))
		errno_out();
	note(&guard, block);
	shared_leave(&guard);
	return block;
}

static void *heap_calloc(size_t count, size_t size) {
	void *block;
	size_t bytes;
	/* the region is fresh memory: zero */
	if (!__builtin_mul_overflow(count, size, &bytes) && gotcha_is_loading() && (block = init_allocate(THIS.set, 0, bytes)))
		return block;
	struct shared_guard guard;
	shared_enter(&guard);
	block = BASE(CALLOC, void *(size_t, size_t))(count, size);
	if (unlikely(!block))
		errno_out();
	note(&guard, block);
	shared_leave(&guard);
	return block;
}

static void heap_free(void *block) {
	if (in_init_heap(block))
		return;
	struct shared_guard guard;
	shared_enter(&guard);
	drop_note(block);
	BASE(FREE, void(void *))(block);
	shared_leave(&guard);
}

static void *heap_realloc(void *block, size_t size) {
	if (in_init_heap(block) || (!block && gotcha_is_loading())) {
		void *moved = heap_malloc(size);
		size_t old_size = block ? init_size(block) : 0;
		if (moved && block)
			memcpy(moved, block, old_size < size ? old_size : size);
		return moved;
	}
	struct shared_guard guard;
	shared_enter(&guard);
	uint64_t mover;
	bool is_known = gotcha_resources_are_known() && gotcha_block_move_begin(block, &mover);
	void *moved = BASE(REALLOC, void *(void *, size_t))(block, size);
	if (unlikely(!moved))
		errno_out();
	/* whose a block is it stays, moved or not; of size 0 it may have been freed */
	if (!block)
		note(&guard, moved);
	else if (unlikely(is_known))
		gotcha_block_move_end(moved || !size ? moved : block, &mover);
	shared_leave(&guard);
	return moved;
}

static void *heap_reallocarray(void *block, size_t count, size_t size) {
	size_t bytes;
	if (__builtin_mul_overflow(count, size, &bytes))
		bytes = SIZE_MAX;       /* fails with ENOMEM */
	return heap_realloc(block, bytes);
}

static size_t heap_usable_size(void *block) {
	if (in_init_heap(block))
		return init_size(block);
	struct shared_guard guard;
	shared_enter(&guard);
	size_t size = BASE(USABLE_SIZE, size_t(void *))(block);
	shared_leave(&guard);
	return size;
}

static void *heap_memalign(size_t alignment, size_t size) {
	void *block;
	if (gotcha_is_loading() && (block = init_allocate(THIS.set, alignment, size)))
		return block;
	struct shared_guard guard;
	shared_enter(&guard);
	block = BASE(MEMALIGN, void *(size_t, size_t))(alignment, size);
	if (unlikely(!block))
		errno_out();
	note(&guard, block);
	shared_leave(&guard);
	return block;
}

static int heap_posix_memalign(void **block, size_t alignment, size_t size) {
	if (gotcha_is_loading() && (*block = init_allocate(THIS.set, alignment, size)))
		return 0;
	struct shared_guard guard;
	shared_enter(&guard);
	int error = BASE(POSIX_MEMALIGN, int(void **, size_t, size_t))(block, alignment, size);
	if (!error)
		note(&guard, *block);
	shared_leave(&guard);
	return error;
}

static void *heap_valloc(size_t size) {
	return heap_memalign(PAGE_SIZE, size);
}

static void *heap_pvalloc(size_t size) {
	return heap_memalign(PAGE_SIZE, page_up(size));
}

FORWARD_SHARED(mallopt, rows[MALLOPT].base)
FORWARD_SHARED(malloc_trim, rows[MALLOC_TRIM].base)
FORWARD_SHARED(malloc_stats, rows[MALLOC_STATS].base)
FORWARD_SHARED(mallinfo, rows[MALLINFO].base)
FORWARD_SHARED(mallinfo2, rows[MALLINFO2].base)

/* Base's report on base's heap, by way of memory: the stream may be at home in a libset, and base's C
 * library ends the process when it is handed such a one. */
static int heap_malloc_info(int options, FILE *stream) {
	struct shared_guard guard;
	shared_enter(&guard);
	char *text = NULL;
	size_t length = 0;
	FILE *report = open_memstream(&text, &length);
	int result = report ? BASE(MALLOC_INFO, int(int, FILE *))(options, report) : -1;
	if (report && fclose(report))
		result = -1;
	const struct row *writing = gotcha_policy_find(gotcha_libc_symbol("fwrite"));
	if (!result && writing)
		((forwarded *) writing->wrapper)((long) text, 1, length, (long) stream, 0, 0);
	gotcha_base_free(text);
	if (result)
		errno_out();
	shared_leave(&guard);
	return result;
}

static struct row rows[] = {
	[MALLOC] = { "malloc", heap_malloc },
	[CALLOC] = { "calloc", heap_calloc },
	[REALLOC] = { "realloc", heap_realloc },
	[FREE] = { "free", heap_free },
	[USABLE_SIZE] = { "malloc_usable_size", heap_usable_size },
	[MEMALIGN] = { "memalign", heap_memalign },
	[ALIGNED_ALLOC] = { "aligned_alloc", heap_memalign },
	[POSIX_MEMALIGN] = { "posix_memalign", heap_posix_memalign },
	[VALLOC] = { "valloc", heap_valloc },
	[PVALLOC] = { "pvalloc", heap_pvalloc },
	[REALLOCARRAY] = { "reallocarray", heap_reallocarray },
	[MALLOPT] = { "mallopt", shared_mallopt },
	[MALLOC_TRIM] = { "malloc_trim", shared_malloc_trim },
	[MALLOC_STATS] = { "malloc_stats", shared_malloc_stats },
	[MALLOC_INFO] = { "malloc_info", heap_malloc_info },
	[MALLINFO] = { "mallinfo", shared_mallinfo },
	[MALLINFO2] = { "mallinfo2", shared_mallinfo2 },
};
struct rows gotcha_rows_heap = { rows, lengthof(rows) };

int gotcha_heap_watch(void) {
	rows[FREE].in_base = rows[REALLOC].in_base = rows[REALLOCARRAY].in_base = true;
	return gotcha_intercept_again();
}

/* ------------------------------------------------------------------ the C library's own heap */

/* A program that defines malloc() itself reaches it by these names, which are otherwise the same functions. */
#define LIBC_HEAP(X) X(malloc) X(calloc) X(realloc) X(free) X(memalign) X(valloc) X(pvalloc)

#define INDEX(name) LIBC_##name,
enum { LIBC_HEAP(INDEX) };
static struct row libc_rows[];
#define FORWARD(name) FORWARD_SHARED(libc_##name, libc_rows[LIBC_##name].base)
LIBC_HEAP(FORWARD)
#define ROW(name) [LIBC_##name] = { "__libc_" #name, shared_libc_##name },
static struct row libc_rows[] = { LIBC_HEAP(ROW) };
struct rows gotcha_rows_libc_heap = { libc_rows, lengthof(libc_rows) };
