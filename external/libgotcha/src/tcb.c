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
__thread struct libgotcha_thread libgotcha_tls = { .table = gotcha_starting_table, .defer = 1 };

/* One module's thread-local storage in one TCB. */
struct block {
	char *address;
	const char *image;      /* what it is reset to... */
	size_t image_size_bytes;
	size_t size_bytes;      /* ...and zeroes up to here */
};

struct blocks {
	struct block *fresh;    /* of the executable and the like: reset at each launch */
	size_t fresh_len;
	struct block *rolled;   /* of the libset's copies: reset with the libset */
	size_t rolled_len;
	bool holds_state;       /* libgotcha_tls lies in a fresh block */
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
		long result;
		__asm__ volatile("syscall" : "=a" (result) : "a" (SYS_arch_prctl), "D" (ARCH_SET_FS), "S" (pointer)
			: "rcx", "r11", "memory");
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

/* Where a module's storage is on the current TCB. Allocates dynamic storage, so that it need not
 * be while the function may be preempted. */
static char *module_storage(size_t module) {
	size_t index[2] = { module, 0 };
	return gotcha_tls_get_addr(&index);
}

static bool is_fresh_at_launch(const struct object *object) {
	return object->kind == OBJECT_EXECUTABLE || object->kind == OBJECT_PROGRAM;
}

/* Context: on the new TCB, with preemption deferred; under the lock. */
static int find_blocks(struct libset *set, struct blocks *blocks) {
	for (size_t i = 0; i < gotcha_objects_len; i++) {
		struct object *object = &gotcha_objects[i];
		if (!object->tls_module)
			continue;
		char *storage = module_storage(object->tls_module);
		if (is_fresh_at_launch(object)) {
			struct block block = { storage, (char *) object->tls_image, object->tls_filesz, object->tls_memsz };
			if (add_block(&blocks->fresh, &blocks->fresh_len, block))
				return -ENOMEM;
			char *state = (char *) &libgotcha_tls;
			blocks->holds_state |= state >= storage && state < storage + object->tls_memsz;
		}
	}
	for (size_t i = 0; i < set->copies_len; i++) {
		size_t module = set->copies[i].tls_module, size = gotcha_objects[i].tls_memsz;
		if (module && add_block(&blocks->rolled, &blocks->rolled_len, (struct block) { module_storage(module), NULL, size, size }))
			return -ENOMEM;
	}
	return 0;
}

static int take_images(struct blocks *blocks) {
	for (size_t i = 0; i < blocks->rolled_len; i++) {
		char *image = malloc(blocks->rolled[i].size_bytes);
		if (!image)
			return gotcha_fail(ENOMEM, "no memory for an image of thread-local storage");
		memcpy(image, blocks->rolled[i].address, blocks->rolled[i].size_bytes);
		blocks->rolled[i].image = image;
	}
	return 0;
}

/* A copy's thread-locals start as its own relocated image tells. Where the copy shares its original's storage
 * the dynamic linker has initialised that for the original. Context: on the TCB, preemption deferred. */
static void overlay(const struct libset *set, size_t from, size_t to) {
	for (size_t i = from; i < to; i++) {
		const struct object *object = &gotcha_objects[i];
		if (set->copies[i].tls_module)
			memcpy(module_storage(set->copies[i].tls_module),
				(void *) (object->tls_image - object->base + set->copies[i].base), object->tls_filesz);
	}
}

int gotcha_tcb_make(struct libset *set, uintptr_t *made) {
	uintptr_t tcb = (uintptr_t) gotcha_dl_allocate_tls(NULL), host = thread_pointer();
	if (!tcb)
		return gotcha_fail(ENOMEM, "no memory for a thread control block");
	fill_tcb(tcb);
	/* a signal that comes while it is current below must find the kernel thread's record */
	*libgotcha_tcb_state(tcb) = (struct libgotcha_thread) {
		.table = gotcha_starting_table, .defer = 1, .is_virtual = 1, .set = set, .host = host,
		.owner = THIS.owner, .signal_blocked = THIS.signal_blocked };
	gotcha_set_thread_pointer(tcb);
	gotcha_base_ctype_init();
	overlay(set, 0, set->copies_len);
	set->ctype_init();
	/* base's malloc keeps a cache in base's thread-local storage, which roll backs may restore: it is to be
	 * the same one before and after */
	gotcha_base_free(gotcha_base_malloc(1));
	gotcha_set_thread_pointer(host);
	*made = tcb;
	return 0;
}

int gotcha_tcb_add(struct libset *set, size_t from, size_t to) {
	uintptr_t host = thread_pointer();
	gotcha_set_thread_pointer(set->first_tcb);
	overlay(set, from, to);
	gotcha_set_thread_pointer(host);
	return 0;
}

static int take_tcb(struct libset *set, uintptr_t *taken) {
	if (!set->first_tcb || set->first_tcb_taken)
		return gotcha_tcb_make(set, taken);
	set->first_tcb_taken = true;
	*taken = set->first_tcb;
	return 0;
}

int libgotcha_tcb_new(long group, void *stack, size_t stack_size_bytes, struct libgotcha_tcb *tcb) {
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	gotcha_lock();
	struct libset *set = gotcha_libset(group);
	struct blocks *blocks = calloc(1, sizeof *blocks);
	int error = !set ? gotcha_fail(EINVAL, "no libset %ld", group)
		: !blocks ? gotcha_fail(ENOMEM, "no memory for a thread control block")
		: take_tcb(set, &tcb->thread_pointer);
	if (!error) {
		tcb->blocks = blocks;
		*(void **) (tcb->thread_pointer + gotcha_layout.stackblock) = stack;
		*(size_t *) (tcb->thread_pointer + gotcha_layout.stackblock_size) = stack_size_bytes;
		uintptr_t host = thread_pointer();
		gotcha_set_thread_pointer(tcb->thread_pointer);
		error = find_blocks(set, blocks);
		gotcha_set_thread_pointer(host);
		if (!error)
			error = take_images(blocks);
		libgotcha_tcb_state(tcb->thread_pointer)->table = set->table;
	}
	gotcha_unlock();
	gotcha_hosted_leave(&guard);
	return error;
}

/* What the last function on this TCB has left: it may have ended anywhere. */
static void reset_state(struct libgotcha_thread *state) {
	state->table = state->set->table;
	state->defer = 1;
	state->pending = state->mask_changed = 0;
	state->handlers = state->sections = 0;
	state->streams_locked = 0;
	gotcha_locks_forget(state);
}

/* Context: another TCB than this one, preemption deferred. */
void libgotcha_tcb_refresh(struct libgotcha_tcb *tcb) {
	struct blocks *blocks = tcb->blocks;
	struct libgotcha_thread *state = libgotcha_tcb_state(tcb->thread_pointer), saved = *state;
	for (size_t i = 0; i < blocks->fresh_len; i++) {
		struct block *block = &blocks->fresh[i];
		memcpy(block->address, block->image, block->image_size_bytes);
		memset(block->address + block->image_size_bytes, 0, block->size_bytes - block->image_size_bytes);
	}
	if (blocks->holds_state)
		*state = saved;
	reset_state(state);
}

/* What a cancelled function leaves in struct pthread is nobody's any more: cleanup handlers whose frames are
 * gone, locks held (the new tid owns none of them), thread-specific data, which goes without destructors. All
 * of it starts anew but for what is allocated. */
static void clear_thread(struct libgotcha_tcb *tcb) {
	const struct glibc_layout *layout = &gotcha_layout;
	uintptr_t thread = tcb->thread_pointer;
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

void libgotcha_tcb_roll_back(struct libgotcha_tcb *tcb) {
	struct blocks *blocks = tcb->blocks;
	for (size_t i = 0; i < blocks->rolled_len; i++)
		memcpy(blocks->rolled[i].address, blocks->rolled[i].image, blocks->rolled[i].size_bytes);
	clear_thread(tcb);
	struct libgotcha_thread *state = libgotcha_tcb_state(tcb->thread_pointer);
	for (struct destructor *next; state->destructors; state->destructors = next) {
		next = ((struct destructor *) state->destructors)->next;
		gotcha_base_free(state->destructors);
	}
}

/* nptl/nptl_deallocate_tsd.c: destructors run in up to PTHREAD_DESTRUCTOR_ITERATIONS rounds, since
 * they may set data again. */
static void run_key_destructors(void) {
	const struct glibc_layout *layout = &gotcha_layout;
	uintptr_t self = thread_pointer();
	bool again = true;
	for (int round = 0; again && round < 4; round++) {
		again = false;
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
				if (destructor && *(uintptr_t *) (key + layout->key_sequence) == *(uintptr_t *) (datum + layout->datum_sequence)) {
					again = true;
					destructor(value);
				}
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
			destructor->run(destructor->object);
	run_key_destructors();
}
