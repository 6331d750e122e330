/* Everything this library knows about glibc that glibc does not promise, in one place.
 *
 * No offset below is a constant of ours: each is derived at start-up from an interface that glibc
 * keeps for debuggers (the _thread_db_* descriptors that libthread_db reads), from the kernel, or
 * by looking for a value that we put there through a public call; then checked on the calling
 * thread.  What fails a check is an unknown layout, and refused.
 *
 * Sources (glibc): nptl/descr.h struct pthread; nptl_db/structs.def; sysdeps/x86_64/nptl/tls.h
 * tcbhead_t, whose first fields are fixed by the psABI and GCC's stack protector. */
#include "internal.h"

#include <asm/prctl.h>
#include <dlfcn.h>
#include <errno.h>
#include <setjmp.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

struct glibc_layout gotcha_layout;
void *(*gotcha_dl_allocate_tls)(void *);
void *(*gotcha_tls_get_addr)(size_t (*)[2]);
void (*gotcha_base_ctype_init)(void);
int *(*gotcha_base_errno)(void);
void (*gotcha_dl_debug_state)(void);

/* ld.so's struct pthread is about 2.3 KiB; offsets beyond this are nonsense. */
enum { TCB_SEARCH_BYTES = 8192 };

#ifndef ARCH_SHSTK_STATUS
#define ARCH_SHSTK_STATUS 0x5005
#endif

int gotcha_unknown_libc(const char *what) {
	const char *(*version)(void) = dlsym(RTLD_DEFAULT, "gnu_get_libc_version");
	return gotcha_fail(ENOSYS, "unsupported C library (glibc %s): %s", version ? version() : "unknown", what);
}

/* A private function or datum: reached by version, so that no user binary needs GLIBC_PRIVATE. */
static void *private_symbol(const char *name) {
	return dlvsym(RTLD_DEFAULT, name, "GLIBC_PRIVATE");
}

/* nptl_db/db_info.c: { size of the field in bits, number of elements, offset } */
static bool field(const char *name, size_t *size_bits, size_t *offset) {
	const uint32_t *descriptor = private_symbol(name);
	if (!descriptor)
		return false;
	*size_bits = descriptor[0];
	*offset = descriptor[2];
	return true;
}

/* Runs on a thread whose stack we chose: its TCB holds the stack's address and size. */
struct probe {
	uintptr_t stack;
	size_t stack_size_bytes;
	size_t stackblock;
	pthread_key_t key;
	size_t specific_used;
};

/* A flag behind the array of blocks: set with the first datum, as a new thread has none. */
static void find_specific_used(struct probe *probe) {
	size_t offset = gotcha_layout.specific + SPECIFIC_BLOCKS * sizeof(void *);
	volatile bool *flag = (bool *) (thread_pointer() + offset);
	bool before = *flag;
	pthread_setspecific(probe->key, probe);
	bool after = *flag;
	pthread_setspecific(probe->key, NULL);
	if (!before && after)
		probe->specific_used = offset;
}

static void *look_at_thread(void *closure) {
	struct probe *probe = closure;
	find_specific_used(probe);
	const uintptr_t *words = (const void *) thread_pointer();
	size_t end = TCB_SEARCH_BYTES / sizeof *words;
	/* a user-provided stack holds the TCB itself, at its end */
	size_t room = (probe->stack + probe->stack_size_bytes - (uintptr_t) words) / sizeof *words;
	if (room < end)
		end = room;
	for (size_t i = 16; i + 1 < end; i++)
		if (words[i] == probe->stack && words[i + 1] == probe->stack_size_bytes) {
			probe->stackblock = i * sizeof *words;
			break;
		}
	gotcha_internal_signals_install();
	return NULL;
}

/* Starts and joins a thread.  Beside the search, this ends the C library's single-thread
 * shortcuts for good: it stops eliding locks once a second thread has existed, and functions on
 * their own TCBs are to it what threads are. */
static int probe_thread(void) {
	struct probe probe = { .stack_size_bytes = 256 << 10 };
	void *stack = mmap(NULL, probe.stack_size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (stack == MAP_FAILED)
		return gotcha_fail(errno, "mmap of a probe thread's stack: %s", strerror(errno));
	probe.stack = (uintptr_t) stack;
	int error = pthread_key_create(&probe.key, NULL);
	if (error) {
		munmap(stack, probe.stack_size_bytes);
		return gotcha_fail(error, "pthread_key_create: %s", strerror(error));
	}
	pthread_attr_t attributes;
	pthread_attr_init(&attributes);
	pthread_attr_setstack(&attributes, stack, probe.stack_size_bytes);
	sigset_t all, old;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_t thread;
	error = pthread_create(&thread, &attributes, look_at_thread, &probe);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attributes);
	if (!error)
		error = pthread_join(thread, NULL);
	pthread_key_delete(probe.key);
	munmap(stack, probe.stack_size_bytes);
	if (error)
		return gotcha_fail(error, "pthread_create of a probe thread: %s", strerror(error));
	if (!probe.stackblock)
		return gotcha_unknown_libc("a thread's stack is not described in its TCB");
	if (!probe.specific_used)
		return gotcha_unknown_libc("no flag tells that a thread has thread-specific data");
	gotcha_layout.specific_used = probe.specific_used;
	gotcha_layout.stackblock = probe.stackblock;
	gotcha_layout.stackblock_size = probe.stackblock + sizeof(void *);
	return 0;
}

static int derive_thread(void) {
	struct glibc_layout *layout = &gotcha_layout;
	uintptr_t self = thread_pointer();
	size_t bits;
	const uint32_t *size = private_symbol("_thread_db_sizeof_pthread");
	if (!size || *size > TCB_SEARCH_BYTES)
		return gotcha_unknown_libc("no description of struct pthread");
	layout->size_bytes = *size;
	if (*(uintptr_t *) self != self)
		return gotcha_unknown_libc("the TCB does not begin with its own address");
	if (!field("_thread_db_pthread_tid", &bits, &layout->tid) || bits != 32)
		return gotcha_unknown_libc("no description of pthread.tid");
	if (*(int *) (self + layout->tid) != syscall(SYS_gettid))
		return gotcha_unknown_libc("pthread.tid is not the thread's tid");
	if (!field("_thread_db_pthread_list", &bits, &layout->list) || bits != 128)
		return gotcha_unknown_libc("no description of pthread.list");
	uintptr_t *next = *(uintptr_t **) (self + layout->list);
	if (next[1] != self + layout->list)
		return gotcha_unknown_libc("pthread.list is not a list");
	uintptr_t robust_head;
	size_t robust_size;
	if (syscall(SYS_get_robust_list, 0, &robust_head, &robust_size) || robust_head - self > TCB_SEARCH_BYTES)
		return gotcha_unknown_libc("the kernel's robust list is not in the TCB");
	layout->robust_head = robust_head - self;
	layout->robust_prev = layout->robust_head - sizeof(void *);
	if (*(uintptr_t *) (self + layout->robust_prev) == 0)
		return gotcha_unknown_libc("pthread.robust_prev is not before the robust list");
	if (layout->tid + sizeof(int) > *size || layout->list + 2 * sizeof(void *) > *size || layout->robust_head + 3 * sizeof(void *) > *size)
		return gotcha_unknown_libc("struct pthread is smaller than what it holds");
	/* public since 2.35; libc.so defines it, and it is the offset from the thread pointer */
	const ptrdiff_t *rseq_offset = dlsym(RTLD_DEFAULT, "__rseq_offset");
	const unsigned *rseq_size = dlsym(RTLD_DEFAULT, "__rseq_size");
	/* 2.41 puts it before the TCB: a negative offset */
	if (rseq_offset && rseq_size && *rseq_size)
		layout->rseq = *rseq_offset;
	return 0;
}

/* Static thread-local storage lies at a fixed distance below every thread pointer (psABI, variant II). */
static int derive_tls_offset(void) {
	size_t bits, module = gotcha_libc->tls_module;
	if (!field("_thread_db_link_map_l_tls_offset", &bits, &gotcha_layout.map_tls_offset) || bits != 64)
		return gotcha_unknown_libc("no description of link_map.l_tls_offset");
	if (module && (size_t) ((char *) thread_pointer() - gotcha_tls_storage(module)) != gotcha_static_tls_offset(gotcha_libc->map))
		return gotcha_unknown_libc("link_map.l_tls_offset does not tell where its thread-local storage is");
	return 0;
}

char *gotcha_tls_storage(size_t module) {
	size_t index[2] = { module, 0 };
	return gotcha_tls_get_addr(&index);
}

size_t gotcha_static_tls_offset(const struct link_map *map) {
	ptrdiff_t offset = *(const ptrdiff_t *) ((const char *) map + gotcha_layout.map_tls_offset);
	return offset > 0 ? offset : 0;
}

static void check_destructor(void *datum) {
	(void) datum;
}

static int derive_specific(void) {
	struct glibc_layout *layout = &gotcha_layout;
	uintptr_t self = thread_pointer();
	size_t bits, level2_bits, key_bits, unused;
	if (!field("_thread_db_pthread_specific", &bits, &layout->specific) || bits != SPECIFIC_BLOCKS * 64)
		return gotcha_unknown_libc("no description of pthread.specific");
	layout->specific_first = *(uintptr_t *) (self + layout->specific) - self;
	if (layout->specific_first > TCB_SEARCH_BYTES)
		return gotcha_unknown_libc("the first block of thread-specific data is not in the TCB");
	if (!field("_thread_db_pthread_key_data_seq", &bits, &layout->datum_sequence)
	 || !field("_thread_db_pthread_key_data_data", &bits, &layout->datum_data)
	 || !field("_thread_db_pthread_key_data_level2_data", &level2_bits, &unused)
	 || !field("_thread_db_pthread_key_struct_seq", &bits, &layout->key_sequence)
	 || !field("_thread_db_pthread_key_struct_destr", &key_bits, &layout->key_destructor))
		return gotcha_unknown_libc("no description of thread-specific data");
	layout->datum_size = 2 * sizeof(void *);
	layout->key_size = 2 * sizeof(void *);
	layout->keys = private_symbol("__pthread_keys");
	if (!layout->keys)
		return gotcha_unknown_libc("no __pthread_keys");
	/* check: make a key, and find its destructor and our datum where the layout says */
	pthread_key_t key;
	if (pthread_key_create(&key, check_destructor))
		return gotcha_fail(EAGAIN, "pthread_key_create: no key left");
	pthread_setspecific(key, layout);
	bool found = key < SPECIFIC_BLOCKS * SPECIFIC_PER_BLOCK
		&& *(void **) (layout->keys + key * layout->key_size + layout->key_destructor) == (void *) check_destructor;
	uintptr_t block = *(uintptr_t *) (self + layout->specific + key / SPECIFIC_PER_BLOCK * sizeof(void *));
	uintptr_t datum = block + key % SPECIFIC_PER_BLOCK * layout->datum_size;
	found = found && *(void **) (datum + layout->datum_data) == layout;
	pthread_setspecific(key, NULL);
	pthread_key_delete(key);
	return found ? 0 : gotcha_unknown_libc("thread-specific data does not lie as described");
}

/* sysdeps/x86_64/jmpbuf-offsets.h JB_RSP, sysdeps/unix/sysv/linux/x86_64/pointer_guard.h */
enum { JB_RSP = 6 };

uintptr_t gotcha_demangle(uintptr_t mangled) {
	uintptr_t guard;
	__asm__("mov %%fs:0x30, %0" : "=r" (guard));
	return (mangled >> 17 | mangled << 47) ^ guard;
}

uintptr_t gotcha_jump_stack_pointer(const void *jmp_buf) {
	return gotcha_demangle(((const uintptr_t *) jmp_buf)[JB_RSP]);
}

static __attribute__((noinline)) int check_jump(void) {
	jmp_buf here;
	if (setjmp(here))
		return 0;
	uintptr_t frame = (uintptr_t) __builtin_frame_address(0), found = gotcha_jump_stack_pointer(here);
	return found <= frame && frame - found < 1024 ? 0 : gotcha_unknown_libc("a jmp_buf does not hold the stack pointer as expected");
}

static int bind_private(void) {
	*(void **) &gotcha_dl_allocate_tls = private_symbol("_dl_allocate_tls");
	*(void **) &gotcha_base_ctype_init = private_symbol("__ctype_init");
	*(void **) &gotcha_base_errno = dlsym(RTLD_DEFAULT, "__errno_location");
	*(void **) &gotcha_tls_get_addr = dlsym(RTLD_DEFAULT, "__tls_get_addr");
	/* elf/dl-debug.c: the list of namespaces is as old as the public _dl_find_object */
	if (dlsym(RTLD_DEFAULT, "_dl_find_object"))
		*(void **) &gotcha_dl_debug_state = private_symbol("_dl_debug_state");
	if (!gotcha_dl_allocate_tls || !gotcha_base_ctype_init || !gotcha_base_errno || !gotcha_tls_get_addr)
		return gotcha_unknown_libc("_dl_allocate_tls or __ctype_init is missing");
	return 0;
}

/* Context: base, under the lock, before interception. */
int gotcha_glibc_init(void) {
	uint64_t shadow_stack = 0;
	if (!syscall(SYS_arch_prctl, ARCH_SHSTK_STATUS, &shadow_stack) && shadow_stack & 1)
		return gotcha_fail(ENOSYS, "the process runs with a shadow stack, which a stack switch would violate");
	int error = bind_private();
	if (!error)
		error = derive_thread();
	if (!error)
		error = derive_tls_offset();
	if (!error)
		error = derive_specific();
	if (!error)
		error = check_jump();
	if (!error)
		error = probe_thread();
	return error;
}

int gotcha_new_tid(void) {
	static _Atomic int next = FIRST_VIRTUAL_TID;
	return next++;
}
