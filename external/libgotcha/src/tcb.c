/* Virtual thread control blocks: what a function runs on instead of its kernel thread's own, so
 * that its thread-locals, errno, locks' ownership and stack canary are those of a thread. */
#include "internal.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <asm/prctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* The static initialiser is that of a kernel thread: it starts in the starting libset and is
 * never preempted. A virtual TCB gets its own values in libgotcha_tcb_new(). */
__thread struct libgotcha_thread libgotcha_tls = { .table = libgotcha_starting_table, .defer = 1 };

/* One module's thread-local storage in one TCB. */
struct block {
	char *address;
	char *image;            /* what it is reset to... */
	size_t image_size_bytes;
	size_t size_bytes;      /* ...and zeroes up to here */
};

struct blocks {
	struct block *fresh;    /* of the executable and the like: reset at each launch */
	size_t fresh_len;
	struct block *rolled;   /* of the libset's copies: reset with the libset */
	size_t rolled_len;
	size_t objects_len, copies_len; /* base's objects and the libset's copies before these are in the lists */
};

/* A destructor of a thread-local, registered by code that runs on a virtual TCB. */
struct destructor {
	struct destructor *next;
	void (*run)(void *);
	void *object;
};

/* HWCAP2 bit 1: user code may write the FS base (arch/x86/include/uapi/asm/hwcap2.h). */
static bool has_fsgsbase(void) {
	static int known = -1;
	if (known < 0)
		known = (getauxval(AT_HWCAP2) >> 1 & 1) && !(!getauxval(AT_SECURE) && getenv("LIBGOTCHA_NOFSGSBASE"));
	return known;
}

__attribute__((noinline)) void gotcha_set_thread_pointer(uintptr_t pointer) {
	if (has_fsgsbase()) {
		__asm__ volatile("wrfsbase %0" :: "r" (pointer) : "memory");
	} else {
		raw_syscall(SYS_arch_prctl, ARCH_SET_FS, pointer, 0, 0);
	}
}

struct libgotcha_thread *libgotcha_tcb_state(uintptr_t pointer) {
	/* the offset itself, from the GOT: around a switch of thread pointers the compiler may still hold the
	 * variable's address on the other one */
	uintptr_t offset;
	__asm__("mov libgotcha_tls@gottpoff(%%rip), %0" : "=r" (offset));
	return (void *) (pointer + offset);
}

/* nptl/allocatestack.c and pthread_create.c give a new thread these values. */
static void fill_tcb(uintptr_t tcb) {
	const struct glibc_layout *layout = &gotcha_layout;
	uintptr_t host = thread_pointer();
#define WORD(base, offset) (*(uintptr_t *) ((base) + (offset)))
	/* tcbhead_t: tcb, self, multiple_threads, stack guard, pointer guard, feature_1 */
	WORD(tcb, 0x00) = WORD(tcb, 0x10) = tcb;
	*(int *) (tcb + 0x18) = 1;
	WORD(tcb, 0x28) = WORD(host, 0x28);
	WORD(tcb, 0x30) = WORD(host, 0x30);
	*(unsigned *) (tcb + 0x48) = *(unsigned *) (host + 0x48);
	/* in no list: linked to itself */
	WORD(tcb, layout->list) = WORD(tcb, layout->list + 8) = tcb + layout->list;
	*(int *) (tcb + layout->tid) = gotcha_new_tid();
	WORD(tcb, layout->robust_prev) = WORD(tcb, layout->robust_head) = tcb + layout->robust_head;
	WORD(tcb, layout->robust_head + 8) = WORD(host, layout->robust_head + 8);
	WORD(tcb, layout->specific) = tcb + layout->specific_first;
	/* struct rseq.cpu_id: the kernel knows only the kernel thread's own area. RSEQ_CPU_ID_UNINITIALIZED */
	if (layout->rseq)
		*(int *) (tcb + layout->rseq + 4) = -1;
#undef WORD
}

static int add_block(struct block **list, size_t *length, struct block block) {
	struct block *grown = realloc(*list, (*length + 1) * sizeof *grown);
	if (!grown)
		return gotcha_fail(ENOMEM, "no memory to describe thread-local storage");
	grown[(*length)++] = block;
	*list = grown;
	return 0;
}

static bool is_fresh_at_launch(const struct object *object) {
	return object->kind == OBJECT_EXECUTABLE || object->kind == OBJECT_PROGRAM;
}

static int add_part(struct blocks *blocks, struct block whole, size_t from, size_t to) {
	if (from == to)
		return 0;
	size_t image_end = whole.image_size_bytes < from ? from : whole.image_size_bytes < to ? whole.image_size_bytes : to;
	struct block part = { whole.address + from, whole.image + from, image_end - from, to - from };
	return add_block(&blocks->fresh, &blocks->fresh_len, part);
}

/* But for the TCB's state, which is not the program's. */
static int add_fresh(struct blocks *blocks, struct block block) {
	size_t state = (char *) &libgotcha_tls - block.address;
	if (state >= block.size_bytes)
		return add_part(blocks, block, 0, block.size_bytes);
	int error = add_part(blocks, block, 0, state);
	return error ? error : add_part(blocks, block, state + sizeof libgotcha_tls, block.size_bytes);
}

static int find_fresh(struct blocks *blocks) {
	for (size_t i = blocks->objects_len; i < gotcha_objects_len; i++) {
		struct object *object = &gotcha_objects[i];
		if (object->tls_module) {
			char *storage = gotcha_tls_storage(object->tls_module);
			struct block block = { storage, (char *) object->tls_image, object->tls_filesz, object->tls_memsz };
			if (is_fresh_at_launch(object) && add_fresh(blocks, block))
				return -ENOMEM;
		}
		blocks->objects_len = i + 1;
	}
	return 0;
}

/* With the image of how they are now. */
static int find_rolled(const struct libset *set, struct blocks *blocks) {
	for (size_t i = blocks->copies_len; i < set->copies_len; i++) {
		size_t module = set->copies[i].tls_module, size = gotcha_objects[i].tls_memsz;
		if (module) {
			char *storage = gotcha_tls_storage(module), *image = malloc(size);
			if (!image)
				return gotcha_fail(ENOMEM, "no memory for an image of thread-local storage");
			memcpy(image, storage, size);
			if (add_block(&blocks->rolled, &blocks->rolled_len, (struct block) { storage, image, size, size })) {
				free(image);
				return -ENOMEM;
			}
		}
		blocks->copies_len = i + 1;
	}
	return 0;
}

/* Touches all storage, so that it need not be allocated while the function may be preempted. What fails goes on
 * from where it was when it is called again.
 * Context: on a TCB of `set`, with preemption deferred; under the lock. */
static int find_blocks(const struct libset *set, struct blocks *blocks) {
	int error = find_fresh(blocks);
	return error ? error : find_rolled(set, blocks);
}

static void reset_block(char *storage, const char *image, const struct object *object) {
	memcpy(storage, image, object->tls_filesz);
	memset(storage + object->tls_filesz, 0, object->tls_memsz - object->tls_filesz);
}

/* The thread-locals of a copy start as its own relocated image tells. */
static const char *copied_image(const struct libset *set, size_t index) {
	const struct object *object = &gotcha_objects[index];
	return (const char *) (object->tls_image - object->base + set->copies[index].base);
}

/* Where the copy shares its original's storage the dynamic linker has initialised that for the original.
 * Context: on the TCB, preemption deferred. */
static void overlay(const struct libset *set, size_t from, size_t to) {
	for (size_t i = from; i < to; i++)
		if (set->copies[i].tls_module)
			reset_block(gotcha_tls_storage(set->copies[i].tls_module), copied_image(set, i), &gotcha_objects[i]);
}

/* What is not in an image is zero already, or base's use of it: its malloc keeps a cache there.
 * Context: a kernel thread's own TCB, before code of `set` runs on it. */
void gotcha_tcb_start_thread(const struct libset *set) {
	for (size_t i = 0; i < set->copies_len; i++)
		if (set->copies[i].tls_module == gotcha_objects[i].tls_module && gotcha_objects[i].tls_filesz)
			memcpy(gotcha_tls_storage(set->copies[i].tls_module), copied_image(set, i), gotcha_objects[i].tls_filesz);
}

/* The dynamic linker does this for the threads in its list (elf/dl-reloc.c), TCBs of functions are not in it. A
 * function that is running now on another kernel thread does not know the library yet. */
void gotcha_tcb_add_base(size_t from, size_t to) {
	if (gotcha_part_is_off("late_thread_locals"))
		return;
	for (size_t i = from; i < to; i++) {
		const struct object *object = &gotcha_objects[i];
		size_t offset = object->tls_module ? gotcha_static_tls_offset(object->map) : 0;
		for (size_t number = 1; offset && number <= gotcha_libsets_len(); number++) {
			uintptr_t tcb = gotcha_libset(number)->tcb;
			if (tcb)
				reset_block((char *) tcb - offset, (const char *) object->tls_image, object);
		}
	}
}

/* A signal that comes while it is current must find the kernel thread's record. */
static void visit_idle(uintptr_t tcb) {
	struct libgotcha_thread *state = libgotcha_tcb_state(tcb);
	state->owner = THIS.owner;
	state->host = thread_pointer();
	state->table = libgotcha_starting_table;
}

void gotcha_tcb_add_copies(struct libset *set, size_t from, size_t to) {
	if (gotcha_part_is_off("late_thread_locals"))
		return;
	for (size_t i = from; i < to; i++) {
		const struct link_map *map = set->copies[i].map ? set->copies[i].map : gotcha_objects[i].map;
		size_t offset = set->copies[i].tls_module ? gotcha_static_tls_offset(map) : 0;
		if (offset && set->tcb)
			reset_block((char *) set->tcb - offset, copied_image(set, i), &gotcha_objects[i]);
	}
	uintptr_t host = thread_pointer();
	if (set->loading_tcb != host)
		visit_idle(set->loading_tcb);
	gotcha_set_thread_pointer(set->loading_tcb);
	overlay(set, from, to);
	gotcha_set_thread_pointer(host);
}

/* What a cancelled function leaves in struct pthread is nobody's any more: cleanup handlers whose frames are
 * gone, locks held (the new tid owns none of them), thread-specific data, which goes without destructors. All
 * of it starts anew but for what is allocated. */
static void clear_thread(uintptr_t thread) {
	const struct glibc_layout *layout = &gotcha_layout;
	uintptr_t dtv = *(uintptr_t *) (thread + 0x08);
	uintptr_t *blocks = (uintptr_t *) (thread + layout->specific), kept[SPECIFIC_BLOCKS];
	uintptr_t stack = *(uintptr_t *) (thread + layout->stackblock);
	size_t stack_size_bytes = *(size_t *) (thread + layout->stackblock_size);
	memcpy(kept, blocks, sizeof kept);
	memset((void *) thread, 0, layout->size_bytes);
	fill_tcb(thread);
	*(uintptr_t *) (thread + 0x08) = dtv;
	*(uintptr_t *) (thread + layout->stackblock) = stack;
	*(size_t *) (thread + layout->stackblock_size) = stack_size_bytes;
	for (size_t i = 1; i < SPECIFIC_BLOCKS; i++)
		if ((blocks[i] = kept[i]))
			memset((void *) kept[i], 0, SPECIFIC_PER_BLOCK * layout->datum_size);
}

int gotcha_tcb_make(struct libset *set, uintptr_t *made) {
	uintptr_t tcb = *made ? *made : (uintptr_t) gotcha_dl_allocate_tls(NULL), host = thread_pointer();
	if (!tcb)
		return gotcha_fail(ENOMEM, "no memory for a thread control block");
	if (*made)
		clear_thread(tcb);
	else
		fill_tcb(tcb);
	/* a signal that comes while it is current below must find the kernel thread's record */
	*libgotcha_tcb_state(tcb) = (struct libgotcha_thread) {
		.table = libgotcha_starting_table, .defer = 1, .is_virtual = 1, .set = set, .host = host,
		.owner = THIS.owner, .signal_blocked = THIS.signal_blocked };
	gotcha_set_thread_pointer(tcb);
	gotcha_base_ctype_init();
	overlay(set, 0, set->copies_len);
	set->ctype_init();
	gotcha_set_thread_pointer(host);
	*made = tcb;
	return 0;
}

static int take_tcb(struct libset *set) {
	uintptr_t tcb = set->tcb_taken ? 0 : set->tcb;
	int error = tcb ? 0 : gotcha_tcb_make(set, &tcb);
	if (!error) {
		set->tcb = tcb;
		set->tcb_taken = true;
	}
	return error;
}

static void free_blocks(struct blocks *blocks) {
	for (size_t i = 0; i < blocks->rolled_len; i++)
		free(blocks->rolled[i].image);
	free(blocks->rolled);
	free(blocks->fresh);
	free(blocks);
}

/* Context: hosted, under the lock; nothing runs on the TCB. */
static int describe(const struct libset *set, struct libgotcha_tcb *tcb) {
	uintptr_t host = thread_pointer();
	gotcha_set_thread_pointer(tcb->thread_pointer);
	/* base's malloc keeps a cache in base's thread-local storage, which roll backs may restore: it is to be
	 * the same one before and after. Not sooner: making the TCB anew would forget it. */
	gotcha_base_free(gotcha_base_malloc(1));
	int error = find_blocks(set, tcb->blocks);
	gotcha_set_thread_pointer(host);
	return error;
}

void libgotcha_tcb_set_stack(const struct libgotcha_tcb *tcb, void *stack, size_t stack_size_bytes) {
	*(void **) (tcb->thread_pointer + gotcha_layout.stackblock) = stack;
	*(size_t *) (tcb->thread_pointer + gotcha_layout.stackblock_size) = stack_size_bytes;
}

int libgotcha_tcb_new(long group, void *stack, size_t stack_size_bytes, struct libgotcha_tcb *tcb) {
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	gotcha_lock();
	struct libset *set = gotcha_libset(group);
	struct blocks *blocks = tcb->blocks = calloc(1, sizeof *blocks);
	int error = !set ? gotcha_fail(EINVAL, "no libset %ld", group)
		: !blocks ? gotcha_fail(ENOMEM, "no memory for a thread control block")
		: take_tcb(set);
	bool is_taken = !error;
	if (is_taken) {
		tcb->thread_pointer = set->tcb;
		set->tcb_blocks = blocks;
		libgotcha_tcb_set_stack(tcb, stack, stack_size_bytes);
		error = describe(set, tcb);
		libgotcha_tcb_state(set->tcb)->table = set->table;
	}
	/* the TCB is there for the next attempt */
	if (error && is_taken) {
		set->tcb_taken = false;
		set->tcb_blocks = NULL;
	}
	if (error && blocks)
		free_blocks(blocks);
	gotcha_unlock();
	gotcha_hosted_leave(&guard);
	return error;
}

int32_t libgotcha_tcb_tid(const struct libgotcha_tcb *tcb) {
	return *(int *) (tcb->thread_pointer + gotcha_layout.tid);
}

/* What the last function on this TCB has left: it may have ended anywhere. */
static void reset_state(struct libgotcha_thread *state) {
	state->table = state->set->table;
	state->defer = 1;
	state->pending = state->mask_changed = state->stack_is_own = state->stack_in_force = 0;
	state->handlers = state->sections = 0;
	state->streams_locked = 0;
	state->interrupted = NULL;
	state->locks_held = 0;
	state->is_donated = 0;
	state->tracked = 0;
	state->calls_end = state->calls;
	if (unlikely(state->shell))
		gotcha_shell_abandon(state);
	if (unlikely(state->locks))
		gotcha_locks_forget(state);
}

/* Libraries that were opened since the TCB was made: their thread-locals are as a new thread's too.
 * Context: another TCB than this one, preemption deferred. */
static __attribute__((noinline)) void add_late_blocks(struct libgotcha_tcb *tcb) {
	struct blocks *blocks = tcb->blocks;
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	gotcha_lock();
	struct libset *set = libgotcha_tcb_state(tcb->thread_pointer)->set;
	uintptr_t host = thread_pointer();
	gotcha_set_thread_pointer(tcb->thread_pointer);
	if (!gotcha_part_is_off("late_thread_locals"))
		overlay(set, blocks->copies_len, set->copies_len);
	gotcha_set_thread_pointer(host);
	if (describe(set, tcb))
		gotcha_trace_failure();
	gotcha_unlock();
	gotcha_hosted_leave(&guard);
}

static __attribute__((noinline)) void write_fresh_blocks(const struct blocks *blocks) {
	for (const struct block *block = blocks->fresh, *end = block + blocks->fresh_len; block < end; block++) {
		size_t image = block->image_size_bytes, zeroes = block->size_bytes - image;
		if (image)
			memcpy(block->address, block->image, image);
		if (zeroes)
			memset(block->address + image, 0, zeroes);
	}
}

/* Context: another TCB than this one, preemption deferred. */
void libgotcha_tcb_refresh(struct libgotcha_tcb *tcb) {
	struct blocks *blocks = tcb->blocks;
	struct libgotcha_thread *state = libgotcha_tcb_state(tcb->thread_pointer);
	if (unlikely(blocks->objects_len != gotcha_objects_len || blocks->copies_len != state->set->copies_len))
		add_late_blocks(tcb);
	if (blocks->fresh_len && !gotcha_part_is_off("fresh_thread_locals"))
		write_fresh_blocks(blocks);
	reset_state(state);
}

static void roll_back_blocks(struct blocks *blocks) {
	for (size_t i = 0; i < blocks->rolled_len && !gotcha_part_is_off("thread_locals"); i++)
		memcpy(blocks->rolled[i].address, blocks->rolled[i].image, blocks->rolled[i].size_bytes);
}

void gotcha_tcb_change_pristine(struct libset *set, void (*change)(struct libset *, void *), void *closure) {
	struct blocks *blocks = set->tcb_blocks;
	if (!blocks) {
		/* the control library gives functions no TCBs of their own */
		change(set, closure);
		return;
	}
	roll_back_blocks(blocks);
	visit_idle(set->tcb);
	uintptr_t host = thread_pointer();
	gotcha_set_thread_pointer(set->tcb);
	change(set, closure);
	gotcha_set_thread_pointer(host);
	for (size_t i = 0; i < blocks->rolled_len; i++)
		memcpy(blocks->rolled[i].image, blocks->rolled[i].address, blocks->rolled[i].size_bytes);
}

void libgotcha_tcb_roll_back(struct libgotcha_tcb *tcb) {
	roll_back_blocks(tcb->blocks);
	clear_thread(tcb->thread_pointer);
	struct libgotcha_thread *state = libgotcha_tcb_state(tcb->thread_pointer);
	for (struct destructor *next; state->destructors; state->destructors = next) {
		next = ((struct destructor *) state->destructors)->next;
		gotcha_base_free(state->destructors);
	}
}

/* Destructors are called directly. A shared library's runs as its other functions do: preempted, it might hold the locks of,
 * say, the process's allocator. */
static void run_destructor(void (*destructor)(void *), void *value) {
	const struct object *object = gotcha_object_at((uintptr_t) destructor);
	if (!object || object->kind != OBJECT_SHARED) {
		destructor(value);
		return;
	}
	struct shared_guard guard;
	shared_enter(&guard);
	THIS.table = gotcha_shared_table;
	destructor(value);
	shared_leave(&guard);
}

/* nptl/nptl_deallocate_tsd.c: destructors run in up to PTHREAD_DESTRUCTOR_ITERATIONS rounds, since
 * they may set data again. */
static void run_key_destructors(void) {
	const struct glibc_layout *layout = &gotcha_layout;
	uintptr_t self = thread_pointer();
	volatile bool *used = (bool *) (self + layout->specific_used);
	for (int round = 0; *used && round < 4; round++) {
		*used = false;
		for (size_t i = 0; i < SPECIFIC_BLOCKS; i++) {
			char *block = ((char **) (self + layout->specific))[i];
			if (!block)
				continue;
			for (size_t j = 0; j < SPECIFIC_PER_BLOCK; j++) {
				char *datum = block + j * layout->datum_size;
				void **data = (void **) (datum + layout->datum_data);
				if (!*data)
					continue;
				char *key = layout->keys + (i * SPECIFIC_PER_BLOCK + j) * layout->key_size;
				void (*destructor)(void *) = *(void (**)(void *)) (key + layout->key_destructor);
				void *value = *data;
				*data = NULL;
				if (destructor && *(uintptr_t *) (key + layout->key_sequence) == *(uintptr_t *) (datum + layout->datum_sequence))
					run_destructor(destructor, value);
			}
		}
	}
}

/* Policy of __cxa_thread_atexit_impl: the C library's own list would outlive a cancelled function,
 * and registering takes ld.so's lock. The library that holds the destructor stays loaded anyway. */
int gotcha_thread_atexit(void (*run)(void *), void *object, void *dso) {
	if (!THIS.is_virtual)
		return gotcha_base_thread_atexit(run, object, dso);
	struct shared_guard guard;
	shared_enter(&guard);
	struct destructor *destructor = gotcha_base_malloc(sizeof *destructor);
	if (destructor) {
		*destructor = (struct destructor) { THIS.destructors, run, object };
		THIS.destructors = destructor;
	}
	shared_leave(&guard);
	return destructor ? 0 : -1;
}

static struct destructor *next_destructor(struct destructor *done) {
	struct shared_guard guard;
	shared_enter(&guard);
	gotcha_base_free(done);
	struct destructor *next = THIS.destructors;
	if (next)
		THIS.destructors = next->next;
	shared_leave(&guard);
	return next;
}

/* Context: the function's stack and TCB, its libset, preemption open: destructors are its code. */
void libgotcha_tcb_finish(void) {
	if (THIS.destructors)
		for (struct destructor *destructor = NULL; (destructor = next_destructor(destructor)); )
			run_destructor(destructor->run, destructor->object);
	run_key_destructors();
}
