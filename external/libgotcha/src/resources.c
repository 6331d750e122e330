/* What functions have that a cancel is to give back: blocks of the heap and descriptors, for functions that ask for it.
 *
 * One table of the process, by address or number, so that whoever frees a block takes it out; each entry is also in a list
 * of the libset whose function it belongs to. Of functions that have returned nothing is in it.
 *
 * Descriptors are taken out by the function that closes them with close() alone. Before one is closed it is compared with
 * what it was when it was noted, since others may have closed it, and the number may be theirs.
 *
 * The lock is a leaf: whoever holds it calls nothing. A fork is not kept from happening meanwhile, since whoever is
 * forking may wait for what another thread holds that waits for this one. So the child may find it held by a thread that
 * is not there, and the table in halves: then it begins with an empty one, before whatever it does first, be that in a
 * handler of the fork. */
#include "internal.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

struct resource {
	uintptr_t key;                  /* the block's address; or one of those below, which no block's is */
	uint64_t identity;              /* of the file */
	struct resource *next;          /* in its bucket, or of those that are not in use */
	struct resource *newer, *older; /* of the same libset */
	long libset;
};

struct resources {
	_Atomic int lock;               /* 0: free; 1: taken; 2: and somebody may be waiting */
	_Atomic uintptr_t holder;       /* a kernel thread, by its thread pointer */
	_Atomic size_t length;
	size_t buckets_len;             /* a power of 2, or 0 */
	struct resource **buckets;
	struct resource *unused;
	struct resource *newest[MAX_LIBSETS + 1];
};
/* NULL: no function has asked for it. */
static struct resources *all;
static _Atomic size_t none;
_Atomic size_t *gotcha_resources_len = &none;

/* Blocks are multiples of 16. */
enum { DESCRIPTOR = 1, MOVING = 2 };

static uintptr_t descriptor_key(int descriptor) {
	return 2 * (uintptr_t) descriptor + DESCRIPTOR;
}
static bool is_descriptor(uintptr_t key) {
	return key & DESCRIPTOR;
}

/* A block that is being moved, by whomever, has two addresses, and either may be somebody else's already. It stays in its
 * libset's list, as the function may end meanwhile. */
static uintptr_t moving_key(const uint64_t *mover) {
	return (uintptr_t) mover + MOVING;
}
static bool is_moving(uintptr_t key) {
	return !is_descriptor(key) && key & MOVING;
}

/* ------------------------------------------------------------------ the lock */

/* In memory that the kernel wipes in the child of a fork. */
enum { NEW, BEING_LOOKED_AT, KNOWN };
static _Atomic int *process;

static uintptr_t kernel_thread(void) {
	return THIS.is_virtual ? THIS.host : thread_pointer();
}

/* Whoever has no name yet, or has none any more, is not changing anything. A thread that has forked from a handler, on top of its own
 * change, goes on with that. */
static void look_at_process(void) {
	int found = NEW;
	if (!atomic_compare_exchange_strong(process, &found, BEING_LOOKED_AT)) {
		while (*process == BEING_LOOKED_AT)
			sched_yield();
		return;
	}
	if (all->lock && all->holder != kernel_thread())
		memset(all, 0, sizeof *all);
	*process = KNOWN;
}

static void lock_resources(void) {
	if (unlikely(*process != KNOWN))
		look_at_process();
	int found = 0;
	if (!atomic_compare_exchange_strong(&all->lock, &found, 1))
		while (atomic_exchange(&all->lock, 2))
			raw_syscall(SYS_futex, (long) &all->lock, FUTEX_WAIT_PRIVATE, 2, 0);
	atomic_store_explicit(&all->holder, kernel_thread(), memory_order_relaxed);
}

static void unlock_resources(void) {
	atomic_store_explicit(&all->holder, 0, memory_order_relaxed);
	if (atomic_exchange(&all->lock, 0) == 2)
		raw_syscall(SYS_futex, (long) &all->lock, FUTEX_WAKE_PRIVATE, 1, 0);
}

/* ------------------------------------------------------------------ the table */

enum { FIRST_BUCKETS = 1024, CHUNK_SIZE = 64 << 10 };

static void *map(size_t size_bytes) {
	void *memory = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return memory == MAP_FAILED ? NULL : memory;
}

/* Fibonacci hashing: the product's high bits depend on all of the key. */
static struct resource **bucket_of(uintptr_t key) {
	uint64_t product = (uint64_t) key * 0x9e3779b97f4a7c15u;
	return &all->buckets[product >> (__builtin_clzll(all->buckets_len) + 1)];
}

static void put_in_bucket(struct resource *entry, uintptr_t key) {
	struct resource **bucket = bucket_of(key);
	entry->key = key;
	entry->next = *bucket;
	*bucket = entry;
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
			next = entry->next;
			put_in_bucket(entry, entry->key);
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

static void take_from_bucket(struct resource *entry) {
	struct resource **at = bucket_of(entry->key);
	while (*at != entry)
		at = &(*at)->next;
	*at = entry->next;
}

/* Out of its bucket, and not in use any more. */
static void forget(struct resource *entry) {
	take_from_bucket(entry);
	entry->next = all->unused;
	all->unused = entry;
	all->length--;
}

static struct resource *find(uintptr_t key) {
	struct resource *entry = all->buckets_len ? *bucket_of(key) : NULL;
	while (entry && entry->key != key)
		entry = entry->next;
	return entry;
}

/* Without memory to note it, a cancel leaks it. */
static void add(uintptr_t key, uint64_t identity, long libset) {
	struct resource *entry = all->length < all->buckets_len || grow() ? take_unused() : NULL;
	if (!entry)
		return;
	entry->identity = identity;
	put_in_bucket(entry, key);
	all->length++;
	link_to(entry, libset);
}

static void drop(struct resource *entry) {
	unlink_from(entry);
	forget(entry);
}

/* ------------------------------------------------------------------ blocks and descriptors */

void gotcha_block_add(void *block, long libset) {
	int saved_errno = errno;
	lock_resources();
	add((uintptr_t) block, 0, libset);
	unlock_resources();
	errno = saved_errno;
}

void gotcha_block_remove(const void *block) {
	lock_resources();
	struct resource *entry = find((uintptr_t) block);
	if (entry)
		drop(entry);
	unlock_resources();
}

/* What is known by the new name is out of date, such as a thread's that a fork has not taken over. */
static bool rename_key(uintptr_t from, uintptr_t to) {
	lock_resources();
	struct resource *entry = find(from), *former = entry ? find(to) : NULL;
	if (former)
		drop(former);
	if (entry) {
		take_from_bucket(entry);
		put_in_bucket(entry, to);
	}
	unlock_resources();
	return entry;
}

bool gotcha_block_move_begin(const void *block, const uint64_t *mover) {
	return rename_key((uintptr_t) block, moving_key(mover));
}

void gotcha_block_move_end(const void *block, const uint64_t *mover) {
	if (block)
		rename_key(moving_key(mover), (uintptr_t) block);
	else
		gotcha_block_remove((void *) moving_key(mover));
}

/* 0: it is not open. */
static uint64_t file_identity(int descriptor) {
	struct stat file;
	if (raw_syscall(SYS_fstat, descriptor, (long) &file, 0, 0))
		return 0;
	return (uint64_t) file.st_dev * 0x9e3779b97f4a7c15u ^ (file.st_ino + 1);
}

/* What is known of the number is out of date. */
void gotcha_descriptor_add(int descriptor, long libset) {
	uintptr_t key = descriptor_key(descriptor);
	uint64_t identity = file_identity(descriptor);
	int saved_errno = errno;
	lock_resources();
	struct resource *former = find(key);
	if (former)
		drop(former);
	add(key, identity, libset);
	unlock_resources();
	errno = saved_errno;
}

void gotcha_descriptor_remove(int descriptor, long libset) {
	lock_resources();
	struct resource *entry = find(descriptor_key(descriptor));
	if (entry && entry->libset == libset)
		drop(entry);
	unlock_resources();
}

/* ------------------------------------------------------------------ functions */

static int start(void) {
	if (all)
		return 0;
	struct resources *made = map(sizeof *made);
	if (!process && !(process = map(PAGE_SIZE)))
		made = NULL;
	if (!made)
		return gotcha_fail(ENOMEM, "no memory for a table of blocks");
	if (madvise(process, PAGE_SIZE, MADV_WIPEONFORK)) {
		int error = errno;
		munmap(made, sizeof *made);
		return gotcha_fail(error, "the kernel does not wipe memory in the child of a fork: %s", strerror(error));
	}
	*process = KNOWN;
	all = made;
	gotcha_resources_len = &made->length;
	return 0;
}

/* Blocks of the executable's own malloc() are freed there without our knowing. The C library's are freed by calls that go
 * through our rows; base's own calls have to from now on. */
static int start_heap(void) {
	if (gotcha_object_at((uintptr_t) gotcha_base_malloc) != gotcha_libc)
		return gotcha_fail(ENOSYS, "a heap that is not the C library's cannot be reclaimed");
	return gotcha_heap_watch();
}

int libgotcha_track_start(int what) {
	static _Atomic int started;
	if ((started & what) == what)
		return 0;
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	gotcha_lock();
	int error = start();
	if (!error && what & ~started & LIBGOTCHA_TRACKS_HEAP)
		error = start_heap();
	if (!error)
		started |= what;
	gotcha_unlock();
	gotcha_hosted_leave(&guard);
	return error;
}

void libgotcha_group_hand_over(long group, long heir, int heir_tracks) {
	if (!gotcha_resources_are_known())
		return;
	struct shared_guard guard;
	shared_enter(&guard);
	lock_resources();
	for (struct resource *entry; (entry = all->newest[group]); ) {
		int kind = is_descriptor(entry->key) ? LIBGOTCHA_TRACKS_DESCRIPTORS : LIBGOTCHA_TRACKS_HEAP;
		unlink_from(entry);
		if (heir_tracks & kind)
			link_to(entry, heir);
		else
			forget(entry);
	}
	unlock_resources();
	shared_leave(&guard);
}

/* Some at a time, since that is done without the lock. Others that free blocks of the function, though they may not, find
 * them here or not at all. */
void gotcha_resources_give_back(long group) {
	enum { AT_A_TIME = 64 };
	struct {
		uintptr_t key;
		uint64_t identity;
	} taken[AT_A_TIME];
	size_t length = AT_A_TIME;
	while (length == AT_A_TIME && gotcha_resources_are_known()) {
		length = 0;
		lock_resources();
		for (struct resource *entry; length < AT_A_TIME && (entry = all->newest[group]); length++) {
			taken[length].key = entry->key;
			taken[length].identity = entry->identity;
			drop(entry);
		}
		unlock_resources();
		for (size_t i = 0; i < length; i++) {
			if (is_moving(taken[i].key))
				continue;       /* its mover's from now on */
			if (!is_descriptor(taken[i].key))
				gotcha_base_free((void *) taken[i].key);
			else if (file_identity(taken[i].key / 2) == taken[i].identity)
				raw_syscall(SYS_close, taken[i].key / 2, 0, 0, 0);
		}
	}
}
