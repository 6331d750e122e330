/* What libgotcha's files share: the data first, then who offers what.
 *
 * Glossary
 *   object      a shared object of the base namespace (LM_ID_BASE), or the executable
 *   replicated  of an object: each libset has its own copy of it
 *   libset      one copy of each replicated object; number 0 is the base namespace itself
 *   slot        index of one intercepted function: one trampoline, one word in each libset's table
 *   row         an entry of the policy table: what a call of that function does inside a libset
 *   virtual TCB a thread control block that is not a kernel thread's own
 *
 * Contexts.  Code here runs in one of three:
 *   base     the next libset is the starting one, thread pointer is the kernel thread's own
 *   shared   between shared_enter() and shared_leave(): next libset is the starting one, the thread
 *            pointer may be a virtual TCB, preemption is deferred
 *   hosted   between hosted_enter() and hosted_leave(): as shared, but the thread pointer is the
 *            kernel thread's own while the stack may be a function's
 * Outside these our code must not call the C library, because the call could be preempted or sent
 * to a libset: linked into an executable, our GOT is intercepted like everybody's. */
#ifndef GOTCHA_INTERNAL_H
#define GOTCHA_INTERNAL_H

#define _GNU_SOURCE
#include "control.h"
#include "libgotcha.h"

#include <errno.h>
#include <aio.h>
#include <elf.h>
#include <link.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>

#define PAGE_SIZE 4096ul
#define page_down(x) ((uintptr_t) (x) & ~(PAGE_SIZE - 1))
#define page_up(x) (((uintptr_t) (x) + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1))
#define unlikely(x) __builtin_expect(!!(x), 0)
#define lengthof(a) (sizeof(a) / sizeof *(a))
#define compiler_barrier() __asm__ volatile("" ::: "memory")

/* This thread's state: the current TCB's. */
#define THIS libgotcha_tls

/* The tid of a virtual TCB: unique, and above every kernel thread's. Pids end at 2^22; the futex owner field is 30
 * bits wide (FUTEX_TID_MASK). */
enum { FIRST_VIRTUAL_TID = 1 << 29 };

enum { MAX_OBJECTS = 512, MAX_SLOTS = 65536, MAX_LIBSETS = 65536 };

/* A system call itself, of up to four arguments, and without errno: where the C library's functions must not be called, because the caller is in
 * a libset, or in a signal handler. */
static inline long raw_syscall(long number, long a, long b, long c, long d) {
	long result;
	register long fourth __asm__("r10") = d;
	register long fifth __asm__("r8") = 0;
	__asm__ volatile("syscall" : "=a" (result) : "a" (number), "D" (a), "S" (b), "d" (c), "r" (fourth), "r" (fifth)
		: "rcx", "r11", "memory");
	return result;
}

/* ------------------------------------------------------------------ objects (objects.c) */

enum object_kind {
	OBJECT_REPLICATED,
	OBJECT_EXECUTABLE,
	OBJECT_LOADER,          /* ld.so: one per process */
	OBJECT_PROGRAM,         /* belongs to the program as the executable does: Rust's std as a library */
	OBJECT_UNWINDER,        /* libgcc_s, where copies cannot have their own: contexts must match */
	OBJECT_SHARED,          /* stays in the starting libset; its functions run there */
	OBJECT_OWN,             /* the object that contains this code, if it is not the executable */
};

struct object {
	struct link_map *map;
	const char *path;               /* absolute, except for the executable: "/proc/self/exe" */
	const char *name;               /* path without directories */
	uintptr_t base;                 /* load bias, l_addr */
	uintptr_t start, end;           /* addresses it spans, page aligned */
	enum object_kind kind;
	const Elf64_Phdr *segments;
	size_t segments_len;
	uintptr_t relro_start, relro_end;       /* page aligned; empty if equal */

	/* dynamic section, as addresses in memory */
	const Elf64_Sym *symbols;
	const char *strings;
	const uint32_t *gnu_hash;
	const uint32_t *sysv_hash;
	const Elf64_Half *versions;     /* per symbol, or NULL */
	const Elf64_Verdef *verdef;
	size_t verdef_len;
	const Elf64_Verneed *verneed;
	size_t verneed_len;
	const Elf64_Rela *rela, *jmprel;
	size_t rela_len, jmprel_len;
	bool symbolic;
	bool intercepted;               /* its words have been looked at */

	/* thread-local storage; all zero if it has none */
	size_t tls_module;
	uintptr_t tls_image;            /* initialisation image in memory */
	size_t tls_filesz, tls_memsz;
};

extern struct object gotcha_objects[MAX_OBJECTS];
extern size_t gotcha_objects_len;
/* Those before this one were loaded with the program and make up its global scope, in this order; the later
 * ones were opened by dlopen(), each in a scope of its own. */
extern size_t gotcha_startup_len;
extern struct object *gotcha_executable, *gotcha_libc, *gotcha_loader;

int gotcha_objects_refresh(void);
/* What each is, once more: another engine copies others. */
void gotcha_objects_classify(void);
struct object *gotcha_object_at(uintptr_t address);
/* Is it in the object's data, the relocated read-only part included? */
bool gotcha_is_data(const struct object *, uintptr_t address);
size_t gotcha_object_symbols_len(const struct object *);
/* The definition that a reference from `from` binds to under the base namespace's scope; `version` NULL: any. */
const Elf64_Sym *gotcha_lookup(const struct object *from, const char *name, const char *version, struct object **in);
const Elf64_Sym *gotcha_lookup_in(const struct object *, const char *name, const char *version);
/* The definition that the dynamic linker will bind a reference from `from` to; NULL also where that cannot be
 * told from outside. */
const Elf64_Sym *gotcha_lookup_binding(const struct object *from, const char *name, const char *version, struct object **in);
/* The definition that the dynamic linker would find now, unless `from` was opened with RTLD_DEEPBIND. */
const Elf64_Sym *gotcha_lookup_scope(const struct object *from, const char *name, const char *version, struct object **in);
/* The object that a DT_NEEDED entry names. */
struct object *gotcha_object_needed(const char *name);
/* The objects that `root` needs, directly or not, breadth first, as ld.so lists them; without `root`. */
size_t gotcha_objects_needed(const struct object *root, uint16_t list[MAX_OBJECTS]);
const char *gotcha_reference_version(const struct object *, size_t symbol);
/* The address that a definition stands for; runs the resolver of an ifunc. */
void *gotcha_definition_address(const struct object *, const Elf64_Sym *);
bool gotcha_is_function(const Elf64_Sym *);
/* Address of the definition of `name` in the base namespace's global scope, or NULL: it may be the program's own. */
void *gotcha_base_symbol(const char *name);
/* The C library's or ld.so's own function, whatever the program defines. */
void *gotcha_libc_symbol(const char *name);

/* ------------------------------------------------------------------ libsets (libset.c) */

/* A range of writable memory and its pristine contents. */
struct snapshot {
	char *address;
	size_t size_bytes;
	char *pristine;
};

struct libset {
	intptr_t errno_offset;          /* its C library's errno, from the thread pointer; first: see thunk.h */
	long number;                    /* 1.. */
	enum { LIBSET_FREE, LIBSET_TAKEN, LIBSET_RETIRED } state;
	struct libset *next_free;
	void **table;                   /* MAX_SLOTS function addresses; trampolines index it */
	Lmid_t namespace;               /* dlmopen engine; LM_ID_BASE: it has none... */
	struct link_map *namespace_map; /* ...and the namespace's first object */
	size_t copies_len;              /* objects [0, copies_len) are present */
	struct {
		uintptr_t base;         /* load bias of the copy; 0: none */
		struct link_map *map;   /* dlmopen engine */
		size_t tls_module;      /* 0: no thread-local storage */
	} copies[MAX_OBJECTS];
	uintptr_t image;                /* clone engine: where its copies lie... */
	int data_file;                  /* ...and the file behind what is being made of them, whose... */
	uintptr_t data_file_start;      /* ...first byte is this one of all data */
	uintptr_t tcb;                  /* of its functions, one after the other; 0: none has been made */
	bool tcb_taken;                 /* a task has it; else only constructors have run on it */
	uintptr_t loading_tcb;          /* on which constructors run, while they do */
	struct blocks *tcb_blocks;      /* thread-locals of `tcb`, once a task has it; see tcb.c */
	struct snapshot *snapshots;
	size_t snapshots_len;
	uintptr_t libc_start, libc_end; /* of its C library: where its streams' vtables lie */
	void (*ctype_init)(void);       /* its C library's __ctype_init */
	FILE **streams;                 /* its C library's list of streams: _IO_list_all... */
	FILE *streams_pristine;         /* ...and what it holds while none is open */
	unsigned locale_generation;     /* of the program's locale and time zone that its pristine state has */
	struct locale_request *_Atomic locale_requests; /* what its functions have had loaded, latest first... */
	struct locale_request *locale_loaded;   /* ...and from which on its pristine state has it */
	bool locale_lost;               /* a roll back has forgotten some of it */
	size_t extended_to;             /* for base's objects [0, this) copies have been made, or tried */
	char *init_heap;                /* what constructors allocated: rolled back, never freed */
	size_t init_heap_used_bytes, init_heap_pristine_bytes;
	struct snapshot *init_heap_snapshots;   /* .pristine NULL: zeroes */
	size_t init_heap_snapshots_len;
	struct exit_registration *_Atomic exit_registrations;   /* made by its code since it was pristine */
	_Atomic int live_threads;       /* started by its code and not finished */
	bool has_function;              /* one that has been prepared and has not returned */
	void *function, *function_copy; /* the last one that was prepared, what it is here... */
	size_t function_objects_len;    /* ...and how many objects there were then */
	_Atomic bool handles_signals;   /* its code has installed handlers, or set a timer of the process... */
	struct timer_registration *_Atomic timers;      /* ...or made timers, since it was pristine */
	_Atomic uint64_t keys[16];      /* bit by bit: made by its code since it was pristine, and not deleted */
};

/* Of code inside a call of a shared function: the starting libset on a function's TCB, so that all rows apply. */
extern void *gotcha_shared_table[MAX_SLOTS];
static inline bool is_libsets(void **table) {
	return table != libgotcha_starting_table && table != gotcha_shared_table;
}
struct libset *gotcha_libset(long number);
size_t gotcha_libsets_len(void);
/* The same as gotcha_libset(), but also one whose constructors are running. */
struct libset *gotcha_libset_made(long number);
void gotcha_libset_find_libc(struct libset *);
/* The copy in `set` of an address in a replicated object; other addresses as they are. */
void *gotcha_translate(const struct libset *set, const void *address);
/* The libset whose C library holds `address`, or NULL. */
struct libset *gotcha_libset_of_libc_address(uintptr_t address);
/* What a call of `function`, an address in base, is to run in `set`. */
void *gotcha_function_in(const struct libset *set, void *function);
/* Gives `set` its copies of what base has opened since; constructors run on `tcb`. Under the lock. */
int gotcha_libset_extend(struct libset *set, uintptr_t tcb);
/* Is `address` in a copy that belongs to `set`? */
bool gotcha_is_copy(const struct libset *set, uintptr_t address);
/* Remembers what code of `set` wants to be run at the process's end. False: no memory. */
bool gotcha_libset_at_exit(struct libset *set, void (*function)(void *, int), void *argument, bool status_first);

/* Writes back what its snapshots hold. */
void gotcha_restore(const struct libset *set);

/* The constructors' regions of all libsets lie in one range, so that an address alone tells what it is. */
enum { INIT_HEAP_SIZE = 64 << 20 };
extern char *gotcha_init_heaps;
extern size_t gotcha_init_heaps_size_bytes;

/* The libset whose libraries' constructors are running, on one kernel thread; other threads may run its code at
 * the same time. */
extern struct libset *_Atomic gotcha_loading;
bool gotcha_is_loading_thread(void);
/* The constructors have asked for more than there is: the load fails. */
extern bool gotcha_loading_failed;
static inline bool gotcha_is_loading(void) {
	return unlikely(gotcha_loading != NULL) && gotcha_loading == THIS.set && gotcha_is_loading_thread();
}

/* ------------------------------------------------------------------ engines */

/* Makes and unmakes the copies.  Called under gotcha_lock(), in base or hosted context. */
struct engine {
	const char *name;
	bool shares_unwinder;                           /* libgcc_s is not copied; clone_unwind.c's rows count */
	int (*prepare)(void);                           /* once, after the policy table is bound */
	int (*create)(struct libset *);                 /* fill namespace, copies, copies_len */
	int (*extend)(struct libset *);                 /* copy the objects that base has got since */
	/* What these have made from that object on becomes the pristine state, last. NULL: libset.c takes snapshots. */
	int (*seal)(struct libset *, size_t from);
	/* Undoes what has failed. NULL: it cannot be; create() goes on with it the next time. */
	void (*unmake)(struct libset *, size_t from);
	size_t (*limit)(void);
	struct libset *(*find)(uintptr_t address);      /* whose copy of an object is there; NULL: they are to be tried */
};
extern const struct engine gotcha_engine_clone, gotcha_engine_dlmopen;
extern const struct engine *gotcha_engine;
/* Why the default engine does not copy this program's libraries; NULL: it does, or has not been asked. */
extern const char *gotcha_engine_refusal;

/* ------------------------------------------------------------------ interception (intercept.c) */

int gotcha_trampolines_init(void);
/* The trampoline of a base function; made if there is none. Of an ifunc: of what its resolver chose, whose
 * copy is at the same place. */
void *gotcha_trampoline(void *function);
/* The base function that the trampoline at `address` stands for; other addresses as they are. */
void *gotcha_behind_trampoline(const void *address);
void gotcha_table_fill(struct libset *);
void *gotcha_slot_function(size_t slot);
/* Code that goes on to the traced row of that number by gotcha_trace_row_thunk(); NULL: there is no room. */
void *gotcha_row_entry(size_t number);
/* All that have not been yet. One that fails does not stop the others; returns the first failure. */
int gotcha_intercept_objects(void);
/* Writes every intercepted word again that another thread's lazy binding has overwritten; returns how many. */
size_t gotcha_intercept_verify(void);
/* Rows have come to count in base. */
int gotcha_intercept_again(void);
/* What dlsym() is to return for base address `found` in a libset, or in base (NULL). */
void *gotcha_intercept_symbol(void *found, const struct libset *set);

/* ------------------------------------------------------------------ libraries' variables (variables.c) */

/* Of a variable of a replicated library that has been copied into the executable, the address in its library; other
 * addresses as they are. */
uintptr_t gotcha_variable_original(uintptr_t address);
/* Leads what copies [from, to) refer to and the executable names, to base. After their constructors, under the lock. */
int gotcha_variables_share(struct libset *, size_t from, size_t to);
/* Is base's variable at `address` that of all libsets? */
bool gotcha_variable_is_shared(uintptr_t address);

/* ------------------------------------------------------------------ entries of handlers (entry.S) */

extern const char gotcha_entries[], gotcha_entries_end[];
void gotcha_deliver(int signal, siginfo_t *, void *ucontext);
void gotcha_deliver_deferred(int signal, siginfo_t *, void *ucontext);
void gotcha_signal_deferred(int signal, siginfo_t *, void *ucontext, void *outer);
/* A system call of up to four arguments, after which preemption is deferred once more, from the first instruction on. */
long gotcha_system_call(long number, long a, long b, long c, long d);
extern const char gotcha_system_call_made[];
/* The preemption signal's: calls `callbacks.signal` with preemption deferred from its first instructions on. */
void gotcha_signal_entry(int signal, siginfo_t *, void *ucontext);

/* ------------------------------------------------------------------ calls of shared functions (thunk.S, shared_calls.c) */

/* What a libset's entry for a shared function jumps to. */
void gotcha_thunk(void);
/* The same, and the entries of rows, if calls are traced: see config.c. */
void gotcha_trace_slot_thunk(void);
void gotcha_trace_row_thunk(void);
int gotcha_calls_init(void);
/* A longjmp on `tcb`, whose state is `state`, is about to land. Takes off the calls that it leaves, gives the TCB the
 * table of the oldest one's caller, and returns how many go on. */
size_t gotcha_calls_jump(struct libgotcha_thread *state, uintptr_t tcb, uintptr_t from, uintptr_t to);

/* ------------------------------------------------------------------ policy (policy.c) */

struct row {
	const char *name;
	void *wrapper;          /* what a call inside a libset runs; NULL: base's function itself */
	uint8_t in_base;        /* calls outside of libsets run the wrapper too: all, or those of the program alone */
	void *base;             /* base's function; NULL: this system has none */
};
enum { FROM_PROGRAM = 2 };
struct rows {
	struct row *first;
	size_t length;
};
extern struct rows gotcha_rows_donation, gotcha_rows_heap, gotcha_rows_jumps, gotcha_rows_libc_heap, gotcha_rows_loader, gotcha_rows_locale,
	gotcha_rows_descriptors, gotcha_rows_locks, gotcha_rows_process, gotcha_rows_signals, gotcha_rows_streams, gotcha_rows_threads, gotcha_rows_unwind,
	gotcha_rows_valgrind, gotcha_rows_waits;
int gotcha_valgrind_init(void);
int gotcha_policy_bind(void);
const struct row *gotcha_policy_find(const void *base_function);
#ifdef GOTCHA_TESTING
extern bool gotcha_backstop_is_off;
/* Is what this names left out? Such parts are no rows, but each does something that a test would miss. */
bool gotcha_part_is_off(const char *part);
#else
static inline bool gotcha_part_is_off(const char *part) {
	(void) part;
	return false;
}
#endif
/* Is what base has at `address` the same for every libset, by a row or because the process has one? Then `target` is
 * where copies find it. */
bool gotcha_policy_redirect(uintptr_t address, uintptr_t *target);
/* Calls `visit` for each name that a copy must bind to an address of ours instead of its own libset's. */
void gotcha_policy_exports(void (*visit)(void *closure, const char *name, uintptr_t address, bool is_function), void *closure);

/* A libset's own definition of a function that base finds in the C library, or in the program and what was
 * preloaded, which may define it themselves. */
static inline void *libc_copy(const struct libset *set, const void *base_function) {
	uintptr_t address = (uintptr_t) base_function;
	if (unlikely(address < gotcha_libc->start || address >= gotcha_libc->end))
		return gotcha_translate(set, base_function);
	return (void *) (address - gotcha_libc->start + set->libc_start);
}

/* Own copy, but not preempted: for what would leak or stay locked if cancelled halfway. */
static inline void deferred_enter(void) {
	THIS.defer++;
	compiler_barrier();
}
static inline void deferred_leave(void) {
	compiler_barrier();
	if (--THIS.defer == 0 && unlikely(THIS.pending))
		libgotcha_take_pending();
}

/* Counts the program's changes of its locale and time zone; 0: it has not set any. */
extern _Atomic unsigned gotcha_locale_generation;
/* Loads what functions of `set` have had loaded. Context: on its TCB; what is allocated is to be kept. */
void gotcha_locale_load(const struct libset *set);
void gotcha_streams_flush(struct libset *, bool at_exit);
void gotcha_streams_release_locks(void);
int gotcha_signals_init(void);
void gotcha_signals_verify(void);
void gotcha_signals_forked(void);
/* The C library's own signals: on a thread of their own, after which their handlers are installed; and then. */
void gotcha_internal_signals_install(void);
int gotcha_internal_signals_init(void);
/* Sets this TCB's `defer` where a preemption that is due then cannot be made up for on the spot. */
void gotcha_set_defer(uint32_t);
/* Around the creation of a thread, which inherits the mask that its creator believes to have. */
bool gotcha_inherited_mask_enter(void);
void gotcha_inherited_mask_leave(bool entered);
/* A libset is rolled back: the signals and timers of the process that its code has taken. Under the lock. */
void gotcha_signals_roll_back(struct libset *);
void gotcha_timers_roll_back(struct libset *);
int gotcha_threads_init(void);
int gotcha_aio_suspend(const struct aiocb *const list[], int length, const struct timespec *timeout);
/* For waits of base that cannot be given up halfway: sleeps preemptibly, longer each time. */
void gotcha_nap(long *duration_ns);
bool gotcha_has_passed(clockid_t, const struct timespec *deadline);
void gotcha_locks_forget(struct libgotcha_thread *);
/* policy_donation.c. As long as a stopped function holds a lock with that owner field, and may go on: it does. Returns
 * whether one holds it that may not. */
bool gotcha_donate_to_owner(const int *owner, clockid_t, const struct timespec *deadline);
bool gotcha_donate_for_mutex(const pthread_mutex_t *, clockid_t, const struct timespec *deadline);
void gotcha_say_waits(int tid);
void gotcha_now_and(int64_t ns, struct timespec *then);         /* of CLOCK_MONOTONIC */
void gotcha_give_back(void);
bool gotcha_program_action(int signal, struct sigaction *);
/* Around what gives a process to another program: that is to find the signals as this program has left them. What
 * is done in between takes as long as it takes to start it, with preemption deferred. */
struct spawn_guard {
	bool blocked, ignored;
};
void gotcha_spawn_enter(struct spawn_guard *);
void gotcha_spawn_leave(struct spawn_guard *);
/* The same, of the preemption signal alone, where the process itself is given. */
struct exec_guard {
	bool ignored;
	struct sigaction ours;
	uint64_t blocked;
};
void gotcha_exec_enter(struct exec_guard *);
void gotcha_exec_leave(struct exec_guard *);
/* Ignores a signal in the kernel until the last such call is left. Returns whether it is not ignored otherwise. */
bool gotcha_ignore_enter(int signal);
void gotcha_ignore_leave(int signal);
/* As the program would, on this TCB; returns an errno value. */
/* A function that waits in system() is cancelled. */
void gotcha_shell_abandon(struct libgotcha_thread *);
uint64_t gotcha_kernel_mask(const sigset_t *program_mask);
/* The shadow of ld.so's _rtld_global_ro that the copies see; see policy_loader.c. */
struct dlfcn_hook;
int gotcha_loader_shadow_init(void);
int gotcha_loader_shadow_check(struct libset *first);
extern char *gotcha_loader_shadow;
extern uintptr_t gotcha_loader_shadowed;     /* what it is the shadow of */
extern struct libgotcha_callbacks gotcha_callbacks;
extern int gotcha_preemption_signal;

/* A TCB for code of `set`, without a stack; `*tcb` itself once more, if it is not 0 and nothing but constructors has run
 * on it. */
int gotcha_tcb_make(struct libset *set, uintptr_t *tcb);
/* Thread-locals of late objects [from, to) of base on all TCBs of functions, and of their copies in `set`: as
 * new threads find them. What is not in static storage follows when it is first used. */
void gotcha_tcb_add_base(size_t from, size_t to);
/* Runs `change` on the libset's TCB, where nothing runs, with the libset's thread-locals as they are after a roll
 * back; what it leaves in them is pristine from then on. */
void gotcha_tcb_change_pristine(struct libset *set, void (*change)(struct libset *, void *), void *closure);
/* Where copies share their originals' storage: thread-locals of `set` on a kernel thread that is to run its code. */
void gotcha_tcb_start_thread(const struct libset *set);
void gotcha_tcb_add_copies(struct libset *set, size_t from, size_t to);

/* resources.c: what belongs to a function which is tracked, by its libset. In a bracket. */
void gotcha_block_add(void *block, long libset);
void gotcha_descriptor_add(int descriptor, long libset);
void gotcha_descriptor_remove(int descriptor, long libset);
/* Only if any are known. */
void gotcha_block_remove(const void *block);
/* Around a reallocation. `mover`: in its frame; `block` NULL at the end: there is none any more. Returns whether the block is
 * known, and the end is to be told. */
bool gotcha_block_move_begin(const void *block, const uint64_t *mover);
void gotcha_block_move_end(const void *block, const uint64_t *mover);
extern _Atomic size_t *gotcha_resources_len;
/* By whatever told somebody the address of a function's block he was told, too, that there is one. */
static inline bool gotcha_resources_are_known(void) {
	return unlikely(__atomic_load_n((size_t *) gotcha_resources_len, __ATOMIC_RELAXED) != 0);
}
/* The function in that libset is cancelled. */
void gotcha_resources_give_back(long libset);
/* From now on base's own calls that free blocks are seen. */
int gotcha_heap_watch(void);
/* policy_descriptors.c: a system call of a tracked function that opens a descriptor, and may block. */
bool gotcha_descriptors_are_noted(void);
long gotcha_open(long number, long a, long b, long c, long d);
/* The calling function has made a stream of it, which is closed with it or by a cancel. While preemption is deferred. */
void gotcha_descriptor_is_streams(int descriptor);

/* Base's functions that our own code calls while interception is on. */
extern void *(*gotcha_base_malloc)(size_t);
extern void (*gotcha_base_free)(void *);
extern int (*gotcha_base_thread_atexit)(void (*)(void *), void *, void *);
int gotcha_thread_atexit(void (*run)(void *), void *object, void *dso);
static inline bool in_libset(void) {
	return THIS.set && is_libsets(THIS.table);
}
/* The definition that a call without the row would reach: the calling libset's, or base's. */
static inline void *gotcha_own(const struct row *row) {
	return in_libset() ? libc_copy(THIS.set, row->base) : row->base;
}

/* Around each function that takes, or releases, a lock which a cancel is not to come in between. */
static inline void gotcha_lock_begin(void) {
	THIS.locks_held += THIS.is_virtual;
}
static inline int gotcha_lock_end(int error) {
	if (unlikely(error) && error != EOWNERDEAD)
		THIS.locks_held -= THIS.is_virtual;
	return error;
}
/* A lock was released, of whatever kind: time that was donated goes back to the waiter. */
static inline void gotcha_released(void) {
	if (unlikely(THIS.is_donated))
		gotcha_give_back();
}
static inline int gotcha_unlock_end(int error) {
	/* one that somebody else has locked may be unlocked, too, though it may not */
	if (!error && THIS.locks_held)
		THIS.locks_held--;
	gotcha_released();
	return error;
}
/* A function that walks its stack may be stopped on the way, and resumed on top of another launcher's frames: the walk ends
 * where they begin.  Where preemption is deferred all the way it may go on. */
static inline bool gotcha_is_stack_end(uintptr_t address) {
	return THIS.is_virtual && gotcha_callbacks.is_stack_end && gotcha_callbacks.is_stack_end(address);
}

/* gotcha_donate_for_mutex(), whose mutex seldom is a function's. */
static inline bool gotcha_before_mutex(const pthread_mutex_t *mutex, clockid_t clock, const struct timespec *deadline) {
	int owner = __atomic_load_n(&mutex->__data.__owner, __ATOMIC_RELAXED);
	bool is_suspicious = owner >= FIRST_VIRTUAL_TID || (!owner && __atomic_load_n(&mutex->__data.__lock, __ATOMIC_RELAXED));
	return unlikely(is_suspicious) && gotcha_donate_for_mutex(mutex, clock, deadline);
}

/* ------------------------------------------------------------------ glibc's private facts (glibc.c) */

/* Offsets in struct pthread, from the thread pointer.  Each is derived at start-up; see glibc.c. */
struct glibc_layout {
	size_t size_bytes;
	size_t tid, list, robust_prev, robust_head, stackblock, stackblock_size;
	size_t specific;                /* array of pointers to blocks of thread-specific data */
	size_t specific_used;           /* not 0: there is such data */
	size_t specific_first;          /* the first block, inside struct pthread */
	ptrdiff_t rseq;                 /* 0: this C library registers none */
	size_t map_tls_offset;          /* in struct link_map: below the thread pointer by how much, if static */
	/* one thread-specific datum, and one key */
	size_t datum_size, datum_sequence, datum_data, key_size, key_sequence, key_destructor;
	char *keys;                     /* the array of keys */
};
enum { SPECIFIC_BLOCKS = 32, SPECIFIC_PER_BLOCK = 32 };
extern struct glibc_layout gotcha_layout;
extern void *(*gotcha_dl_allocate_tls)(void *);
extern void *(*gotcha_tls_get_addr)(size_t (*)[2]);
extern void (*gotcha_base_ctype_init)(void);
/* Debuggers stop here to look at ld.so's lists of objects. NULL before 2.35. */
extern void (*gotcha_dl_debug_state)(void);
int gotcha_glibc_init(void);
/* Refuses a C library: returns -ENOSYS with the cause recorded. */
int gotcha_unknown_libc(const char *what);
/* Where a module's thread-locals are on the current TCB. Allocates them, if they are not in static storage. */
char *gotcha_tls_storage(size_t module);
/* How far below the thread pointer an object's are in static storage; 0: they are not. (elf/dl-tls.c has two
 * values for that, neither of them positive.) */
size_t gotcha_static_tls_offset(const struct link_map *);
/* What the C library keeps pointers as. */
uintptr_t gotcha_demangle(uintptr_t mangled);
/* The stack pointer that a jmp_buf holds. */
uintptr_t gotcha_jump_stack_pointer(const void *jmp_buf);
int gotcha_new_tid(void);

/* ------------------------------------------------------------------ environment, errors (config.c) */

struct config {
	size_t libsets_max;
	char *shared[64];
	size_t shared_len;
	bool engine_is_chosen;          /* by the user */
	bool trace_libsets, trace_calls, trace_signals;
	bool tells_debugger;
};
extern struct config gotcha_config;
int gotcha_config_init(void);
int gotcha_config_share(const char *library);
/* Records the cause and returns -`error`. */
int gotcha_fail(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));
void gotcha_trace(const char *what, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Makes calls of a row's function tell of themselves, once. */
int gotcha_trace_calls_of(struct row *);
/* Traces what gotcha_fail() has recorded, where work goes on without. */
void gotcha_trace_failure(void);
void gotcha_lock(void);
void gotcha_unlock(void);
void gotcha_lock_reset(void);

/* ------------------------------------------------------------------ this thread */

static inline uintptr_t thread_pointer(void) {
	uintptr_t pointer;
	__asm__ volatile("mov %%fs:0x10, %0" : "=r" (pointer));
	return pointer;
}
void gotcha_set_thread_pointer(uintptr_t);
extern int *(*gotcha_base_errno)(void);         /* base's __errno_location */

/* Cross from a libset into the starting one and back, on the same thread pointer.
 * Context: any. Preemption is deferred in between.
 * INVARIANT(G1): between enter and leave THIS.defer > 0 and THIS.table is the starting table. lib.rs keeps it too. */
struct shared_guard {
	void **table;
};
extern void (*gotcha_shared_hook)(void);
static inline void shared_enter(struct shared_guard *guard) {
	THIS.defer++;
	compiler_barrier();
	guard->table = THIS.table;
	THIS.table = libgotcha_starting_table;
	compiler_barrier();
}
static inline void shared_leave(struct shared_guard *guard) {
	compiler_barrier();
	THIS.table = guard->table;
	compiler_barrier();
	if (unlikely(gotcha_shared_hook) && is_libsets(guard->table))
		libgotcha_run_hook();
	if (--THIS.defer == 0 && unlikely(THIS.pending))
		libgotcha_take_pending();
}

/* The same, and errno of the libset's C library stands for base's in between; inside a call of a shared function it
 * does so already. */
static inline bool has_own_errno(void) {
	return THIS.set && THIS.calls_end == THIS.calls;
}
static inline void errno_in(void) {
	if (has_own_errno())
		*gotcha_base_errno() = *(int *) (thread_pointer() + THIS.set->errno_offset);
}
static inline void errno_out(void) {
	if (has_own_errno())
		*(int *) (thread_pointer() + THIS.set->errno_offset) = *gotcha_base_errno();
}

/* Outside of brackets: errno of whoever calls, a libset's code or base's. */
static inline int *caller_errno(void) {
	return in_libset() ? (int *) (thread_pointer() + THIS.set->errno_offset) : gotcha_base_errno();
}
/* Reports `error`, if it is not 0, as most functions do. */
static inline int fail(int error) {
	if (!error)
		return 0;
	*caller_errno() = error;
	return -1;
}

/* Cross into the starting libset and onto the kernel thread's own TCB. Not inlined: the compiler
 * may keep the address of a thread-local variable in a register within one function. */
struct hosted_guard {
	struct shared_guard shared;
	uintptr_t virtual_tcb;          /* 0: was on the kernel thread's own */
	int host_errno;                 /* what base's errno was there */
};
void gotcha_hosted_enter(struct hosted_guard *);
void gotcha_hosted_leave(struct hosted_guard *);
/* Runs `iterate`, base's dl_iterate_phdr() or more, hosted; what it calls back runs in the caller's context. */
typedef int gotcha_phdr_visitor(struct dl_phdr_info *, size_t, void *);
int gotcha_iterate_phdr(int (*iterate)(gotcha_phdr_visitor *, void *), gotcha_phdr_visitor *visit, void *closure);

#endif
