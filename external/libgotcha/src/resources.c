/* What functions have that a cancel is to give back: blocks of the heap, for functions that ask for it.
 *
 * One table of the process, by address, so that whoever frees a block takes it out; each entry is also in a list
 * of the libset in which the block was allocated. Of functions that have returned nothing is in it.
 *
 * The lock is a leaf: whoever holds it calls nothing. A fork is not kept from happening meanwhile, since whoever is
 * forking may wait for what another thread holds that waits for this one. Instead the kernel wipes lock and table in
 * the child: there nobody knows what was allocated before. */
#include "internal.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

struct resource {
	uintptr_t block;
	struct resource *next;          /* in its bucket, or of those that are not in use */
	struct resource *newer, *older; /* of the same libset */
	long libset;
};

/* All that the child of a fork is to find empty. */
struct resources {
	_Atomic int lock;               /* 0: free; 1: taken; 2: and somebody may be waiting */
	_Atomic size_t length;
	size_t buckets_len;             /* a power of 2, or 0 */
	struct resource **buckets;
	struct resource *unused;
	struct resource *newest[MAX_LIBSETS + 1];
};
/* NULL: no function has asked for it. */
static struct resources *all;
static _Atomic size_t none;
_Atomic size_t *gotcha_blocks_len = &none;

/* ------------------------------------------------------------------ the lock */

static void lock_resources(void) {
	int found = 0;
	if (atomic_compare_exchange_strong(&all->lock, &found, 1))
		return;
	while (atomic_exchange(&all->lock, 2))
		raw_syscall(SYS_futex, (long) &all->lock, FUTEX_WAIT_PRIVATE, 2, 0);
}

static void unlock_resources(void) {
	if (atomic_exchange(&all->lock, 0) == 2)
		raw_syscall(SYS_futex, (long) &all->lock, FUTEX_WAKE_PRIVATE, 1, 0);
}

/* ------------------------------------------------------------------ the table */

enum { FIRST_BUCKETS = 1024, CHUNK_SIZE = 64 << 10 };

static void *map(size_t size_bytes) {
	void *memory = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return memory == MAP_FAILED ? NULL : memory;
}

/* Fibonacci hashing: the product's high bits depend on all of the address. */
static struct resource **bucket_of(uintptr_t block) {
	uint64_t product = (uint64_t) block * 0x9e3779b97f4a7c15u;
	return &all->buckets[product >> (__builtin_clzll(all->buckets_len) + 1)];
}

/* Twice as many buckets. Without memory for them lists grow longer. */
static bool grow(void) {
	size_t length = all->buckets_len ? 2 * all->buckets_len : FIRST_BUCKETS, old_length = all->buckets_len;
	struct resource **made = map(length * sizeof *made), **old = all->buckets;
	if (!made)
		return old;
	all->buckets = made;
	all->buckets_len = length;
	for (size_t i = 0; i < old_length; i++)
		for (struct resource *entry = old[i], *next; entry; entry = next) {
			struct resource **bucket = bucket_of(entry->block);
			next = entry->next;
			entry->next = *bucket;
			*bucket = entry;
		}
	if (old)
		munmap(old, old_length * sizeof *old);
	return true;
}

static struct resource *take_unused(void) {
	if (!all->unused) {
		struct resource *chunk = map(CHUNK_SIZE);
		for (size_t i = 0; chunk && i < CHUNK_SIZE / sizeof *chunk; i++) {
			chunk[i].next = all->unused;
			all->unused = &chunk[i];
		}
	}
	struct resource *entry = all->unused;
	if (entry)
		all->unused = entry->next;
	return entry;
}

static void link_to(struct resource *entry, long libset) {
	struct resource *older = all->newest[libset];
	entry->libset = libset;
	entry->newer = NULL;
	entry->older = older;
	if (older)
		older->newer = entry;
	all->newest[libset] = entry;
}

static void unlink_from(struct resource *entry) {
	if (entry->newer)
		entry->newer->older = entry->older;
	else
		all->newest[entry->libset] = entry->older;
	if (entry->older)
		entry->older->newer = entry->newer;
}

/* Out of its bucket, and not in use any more. */
static void forget(struct resource *entry) {
	struct resource **at = bucket_of(entry->block);
	while (*at != entry)
		at = &(*at)->next;
	*at = entry->next;
	entry->next = all->unused;
	all->unused = entry;
	all->length--;
}

/* ------------------------------------------------------------------ blocks */

/* Without memory to note it, a cancel leaks the block. */
void gotcha_block_add(void *block, long libset) {
	int saved_errno = errno;
	lock_resources();
	struct resource *entry = all->length < all->buckets_len || grow() ? take_unused() : NULL;
	if (entry) {
		struct resource **bucket = bucket_of((uintptr_t) block);
		entry->block = (uintptr_t) block;
		entry->next = *bucket;
		*bucket = entry;
		all->length++;
		link_to(entry, libset);
	}
	unlock_resources();
	errno = saved_errno;
}

long gotcha_block_remove(const void *block) {
	long libset = 0;
	lock_resources();
	struct resource *entry = all->buckets_len ? *bucket_of((uintptr_t) block) : NULL;
	while (entry && entry->block != (uintptr_t) block)
		entry = entry->next;
	if (entry) {
		libset = entry->libset;
		unlink_from(entry);
		forget(entry);
	}
	unlock_resources();
	return libset;
}

/* ------------------------------------------------------------------ functions */

/* Blocks of the executable's own malloc() are freed there without our knowing. The C library's are freed by calls that go
 * through our rows; base's own calls have to from now on. */
static int start(void) {
	if (all)
		return 0;
	if (gotcha_object_at((uintptr_t) gotcha_base_malloc) != gotcha_libc)
		return gotcha_fail(ENOSYS, "a heap that is not the C library's cannot be reclaimed");
	struct resources *made = mmap(NULL, sizeof *made, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (made == MAP_FAILED)
		return gotcha_fail(ENOMEM, "no memory for a table of blocks");
	if (madvise(made, sizeof *made, MADV_WIPEONFORK)) {
		int error = errno;
		munmap(made, sizeof *made);
		return gotcha_fail(error, "the kernel does not wipe memory in the child of a fork: %s", strerror(error));
	}
	int error = gotcha_heap_watch();
	if (error) {
		munmap(made, sizeof *made);
		return error;
	}
	all = made;
	gotcha_blocks_len = &made->length;
	return 0;
}

int libgotcha_track_start(void) {
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	gotcha_lock();
	int error = start();
	gotcha_unlock();
	gotcha_hosted_leave(&guard);
	return error;
}

void libgotcha_group_hand_over(long group, long heir) {
	if (!gotcha_blocks_are_known())
		return;
	struct shared_guard guard;
	shared_enter(&guard);
	lock_resources();
	for (struct resource *entry; (entry = all->newest[group]); ) {
		unlink_from(entry);
		if (heir)
			link_to(entry, heir);
		else
			forget(entry);
	}
	unlock_resources();
	shared_leave(&guard);
}

/* Some at a time, since what is freed is freed without the lock. Others that free blocks of the function, though they may
 * not, find them here or not at all. */
void gotcha_resources_give_back(long group) {
	enum { AT_A_TIME = 64 };
	uintptr_t blocks[AT_A_TIME];
	size_t length = AT_A_TIME;
	while (length == AT_A_TIME && gotcha_blocks_are_known()) {
		length = 0;
		lock_resources();
		for (struct resource *entry; length < AT_A_TIME && (entry = all->newest[group]); ) {
			blocks[length++] = entry->block;
			unlink_from(entry);
			forget(entry);
		}
		unlock_resources();
		for (size_t i = 0; i < length; i++)
			gotcha_base_free((void *) blocks[i]);
	}
}
