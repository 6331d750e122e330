/* Libsets: making them, taking and giving them back, rolling them back, and what is where. */
#include "internal.h"

#include <dlfcn.h>
#include <errno.h>
#include <locale.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct libset *libsets[MAX_LIBSETS];
static size_t libsets_len;      /* only grows; written last, so that lock-free readers see whole libsets */

struct libset *gotcha_libset(long number) {
	return number > 0 && (size_t) number <= libsets_len ? libsets[number - 1] : NULL;
}

size_t gotcha_libsets_len(void) {
	return libsets_len;
}

static struct libset *in_making;

struct libset *gotcha_libset_made(long number) {
	return in_making && in_making->number == number ? in_making : gotcha_libset(number);
}

bool gotcha_is_copy(const struct libset *set, uintptr_t address) {
	for (size_t i = 0; set && i < set->copies_len; i++)
		if (set->copies[i].base && address - (set->copies[i].base - gotcha_objects[i].base) - gotcha_objects[i].start
				< gotcha_objects[i].end - gotcha_objects[i].start)
			return true;
	return false;
}

void *gotcha_translate(const struct libset *set, const void *address) {
	struct object *object = gotcha_object_at((uintptr_t) address);
	if (!object || object->kind != OBJECT_REPLICATED || (size_t) (object - gotcha_objects) >= set->copies_len
	 || !set->copies[object - gotcha_objects].base)
		return (void *) address;
	return (void *) ((uintptr_t) address - object->base + set->copies[object - gotcha_objects].base);
}

static bool is_in_libc(const struct libset *set, uintptr_t address) {
	return address >= set->libc_start && address < set->libc_end;
}

struct libset *gotcha_libset_of_libc_address(uintptr_t address) {
	if (gotcha_engine->find) {
		struct libset *set = gotcha_engine->find(address);
		return set && is_in_libc(set, address) ? set : NULL;
	}
	for (size_t i = 0; i < libsets_len; i++)
		if (is_in_libc(libsets[i], address))
			return libsets[i];
	return NULL;
}

/* ------------------------------------------------------------------ snapshots */

static int take_snapshot(struct libset *set, uintptr_t from, uintptr_t to) {
	struct snapshot *grown = realloc(set->snapshots, (set->snapshots_len + 1) * sizeof *grown);
	char *pristine = malloc(to - from);
	if (grown)
		set->snapshots = grown;
	if (!grown || !pristine) {
		free(pristine);
		return gotcha_fail(ENOMEM, "no memory for the snapshot of libset %ld", set->number);
	}
	memcpy(pristine, (void *) from, to - from);
	set->snapshots[set->snapshots_len++] = (struct snapshot) { (char *) from, to - from, pristine };
	return 0;
}

/* What a copy can write to: its writable segments, without what RELRO protects. */
static int snapshot_object(struct libset *set, size_t index) {
	const struct object *object = &gotcha_objects[index];
	uintptr_t bias = set->copies[index].base - object->base;
	for (size_t i = 0; i < object->segments_len; i++) {
		const Elf64_Phdr *segment = &object->segments[i];
		if (segment->p_type != PT_LOAD || !(segment->p_flags & PF_W))
			continue;
		uintptr_t from = object->base + segment->p_vaddr, to = from + segment->p_memsz;
		if (object->relro_end > from && object->relro_start <= from)
			from = object->relro_end;
		int error = from < to ? take_snapshot(set, from + bias, to + bias) : 0;
		if (error)
			return error;
	}
	return 0;
}

static int snapshot_objects(struct libset *set, size_t from) {
	for (size_t i = from; i < set->copies_len; i++) {
		int error = set->copies[i].base ? snapshot_object(set, i) : 0;
		if (error)
			return error;
	}
	return 0;
}

static int add_init_heap_snapshot(struct libset *set, char *from, char *to, bool zeroes) {
	if (from == to)
		return 0;
	struct snapshot *grown = realloc(set->init_heap_snapshots, (set->init_heap_snapshots_len + 1) * sizeof *grown);
	char *pristine = zeroes ? NULL : malloc(to - from);
	if (grown)
		set->init_heap_snapshots = grown;
	if (!grown || (!zeroes && !pristine)) {
		free(pristine);
		return gotcha_fail(ENOMEM, "no memory for the snapshot of libset %ld", set->number);
	}
	if (!zeroes)
		memcpy(pristine, from, to - from);
	set->init_heap_snapshots[set->init_heap_snapshots_len++] = (struct snapshot) { from, to - from, pristine };
	return 0;
}

/* The end of the zero pages that begin at `from`. */
static char *skip_zeroes(char *from, char *to) {
	static const char zeroes[PAGE_SIZE];
	while (from + PAGE_SIZE <= to && !memcmp(from, zeroes, PAGE_SIZE))
		from += PAGE_SIZE;
	return from;
}

/* Fewer zeroes than these are sooner copied than given back to the kernel. (libstdc++ keeps 72 KiB for
 * exceptions thrown when memory is short, and hardly ever writes to them.) */
enum { LEAST_ZEROES = 32 << 10 };

/* Blocks that constructors have allocated since the last call are pristine as they are. */
static int snapshot_init_heap(struct libset *set) {
	char *from = set->init_heap + set->init_heap_pristine_bytes, *end = set->init_heap + set->init_heap_used_bytes;
	int error = 0;
	for (char *page = (char *) page_up(from); !error && page + PAGE_SIZE <= end; page += PAGE_SIZE) {
		char *after = skip_zeroes(page, end);
		if (after - page < LEAST_ZEROES)
			continue;
		error = add_init_heap_snapshot(set, from, page, false);
		if (!error)
			error = add_init_heap_snapshot(set, page, after, true);
		from = after;
		page = after - PAGE_SIZE;
	}
	if (!error)
		error = add_init_heap_snapshot(set, from, end, false);
	set->init_heap_pristine_bytes = set->init_heap_used_bytes;
	return error;
}

static void forget_init_heap(struct libset *set) {
	while (set->init_heap_snapshots_len)
		free(set->init_heap_snapshots[--set->init_heap_snapshots_len].pristine);
	set->init_heap_pristine_bytes = 0;
}

static void roll_back_init_heap(struct libset *set) {
	for (size_t i = 0; i < set->init_heap_snapshots_len; i++) {
		struct snapshot *snapshot = &set->init_heap_snapshots[i];
		if (snapshot->pristine)
			memcpy(snapshot->address, snapshot->pristine, snapshot->size_bytes);
		else if (madvise(snapshot->address, snapshot->size_bytes, MADV_DONTNEED))
			memset(snapshot->address, 0, snapshot->size_bytes);     /* locked by mlockall() */
	}
}

/* ------------------------------------------------------------------ the process's end */

struct exit_registration {
	struct exit_registration *next;
	void (*function)(void *, int);
	void *argument;
	bool status_first;
};

bool gotcha_libset_at_exit(struct libset *set, void (*function)(void *, int), void *argument, bool status_first) {
	struct shared_guard guard;
	shared_enter(&guard);
	struct exit_registration *made = gotcha_base_malloc(sizeof *made);
	if (made) {
		*made = (struct exit_registration) { set->exit_registrations, function, argument, status_first };
		while (!atomic_compare_exchange_weak(&set->exit_registrations, &made->next, made))
			;
	}
	shared_leave(&guard);
	return made;
}

static struct exit_registration *pop_exit_registration(struct libset *set) {
	struct exit_registration *first = set->exit_registrations;
	while (first && !atomic_compare_exchange_weak(&set->exit_registrations, &first, first->next))
		;
	return first;
}

/* Each runs where the function that registered it ran, in its libset, as on a thread of that libset. */
static void run_exit_registrations(int status, void *unused) {
	(void) unused;
	struct libset *saved_set = THIS.set;
	void **saved_table = THIS.table;
	for (size_t i = 0; i < libsets_len; i++) {
		struct libset *set = libsets[i];
		if (set->exit_registrations)
			set->ctype_init();
		for (struct exit_registration *next; (next = pop_exit_registration(set)); ) {
			THIS.set = set;
			compiler_barrier();
			THIS.table = set->table;
			if (next->status_first)
				((void (*)(int, void *)) (void *) next->function)(status, next->argument);
			else
				next->function(next->argument, status);
			THIS.table = saved_table;
			compiler_barrier();
			THIS.set = saved_set;
		}
	}
}

/* The descriptors of streams that a cancelled function has left open. What they held is lost with
 * the function. INVARIANT: the list is whole, because opening and closing are not preempted. */
static void close_streams(struct libset *set) {
	for (FILE *stream = *set->streams; stream && stream != set->streams_pristine; stream = stream->_chain)
		if (stream->_fileno > STDERR_FILENO)
			close(stream->_fileno);
}

static void roll_back(struct libset *set) {
	if (!gotcha_part_is_off("streams"))
		close_streams(set);
	set->locale_lost |= set->locale_requests != set->locale_loaded;
	if (!gotcha_part_is_off("data"))
		gotcha_restore(set);
	if (!gotcha_part_is_off("init_heap"))
		roll_back_init_heap(set);
	/* after the streams, which are such blocks */
	gotcha_resources_give_back(set->number);
	for (struct exit_registration *next; (next = pop_exit_registration(set)); )
		free(next);
	gotcha_timers_roll_back(set);
	if (set->handles_signals)
		gotcha_signals_roll_back(set);
	for (size_t i = 0; i < lengthof(set->keys) && !gotcha_part_is_off("keys"); i++)
		for (uint64_t keys = atomic_exchange(&set->keys[i], 0); keys; keys &= keys - 1)
			pthread_key_delete(64 * i + __builtin_ctzll(keys));
}

/* ------------------------------------------------------------------ creation */

char *gotcha_init_heaps;
size_t gotcha_init_heaps_size_bytes;

static size_t planned_limit(void) {
	size_t limit = gotcha_engine->limit();
	return limit < gotcha_config.libsets_max ? limit : gotcha_config.libsets_max;
}

/* Address space only, and as much as the process may have. */
static int reserve_init_heaps(void) {
	if (gotcha_init_heaps)
		return 0;
	for (size_t count = planned_limit(); count; count /= 2) {
		char *memory = mmap(NULL, count * INIT_HEAP_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (memory == MAP_FAILED)
			continue;
		madvise(memory, count * INIT_HEAP_SIZE, MADV_NOHUGEPAGE);
		gotcha_init_heaps = memory;
		gotcha_init_heaps_size_bytes = count * INIT_HEAP_SIZE;
		return 0;
	}
	return gotcha_fail(ENOMEM, "no address space for what constructors allocate");
}

static void give_back_init_heap(struct libset *set) {
	mmap(set->init_heap, INIT_HEAP_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

static int allocate(struct libset **made) {
	struct libset *set = calloc(1, sizeof *set);
	if (!set)
		return gotcha_fail(ENOMEM, "no memory for a libset");
	set->number = libsets_len + 1;
	size_t table_size = MAX_SLOTS * sizeof *set->table;
	int error = reserve_init_heaps();
	if (error || set->number * (size_t) INIT_HEAP_SIZE > gotcha_init_heaps_size_bytes) {
		free(set);
		return error ? error : gotcha_fail(EAGAIN, "all %zu libsets that there is room for are in use", libsets_len);
	}
	char *memory = mmap(NULL, table_size, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED) {
		free(set);
		return gotcha_fail(errno, "mmap of a libset's table: %s", strerror(errno));
	}
	/* sparsely used: a huge page for each would waste most of it */
	madvise(memory, table_size, MADV_NOHUGEPAGE);
	set->table = (void **) memory;
	set->init_heap = gotcha_init_heaps + (set->number - 1) * (size_t) INIT_HEAP_SIZE;
	*made = set;
	return 0;
}

static void *copy_of(const struct libset *set, const char *name) {
	const Elf64_Sym *symbol = gotcha_lookup_in(gotcha_libc, name, NULL);
	return symbol ? (void *) (set->copies[gotcha_libc - gotcha_objects].base + symbol->st_value) : NULL;
}

void gotcha_libset_find_libc(struct libset *set) {
	uintptr_t bias = set->copies[gotcha_libc - gotcha_objects].base - gotcha_libc->base;
	set->libc_start = gotcha_libc->start + bias;
	set->libc_end = gotcha_libc->end + bias;
	*(void **) &set->ctype_init = copy_of(set, "__ctype_init");
	set->streams = copy_of(set, "_IO_list_all");
	set->streams_pristine = *set->streams;
	int *(*errno_location)(void);
	*(void **) &errno_location = copy_of(set, "__errno_location");
	set->errno_offset = (intptr_t) errno_location() - (intptr_t) thread_pointer();
}

/* At the process's end the dynamic linker would run the destructors of all namespaces. Libsets are caches:
 * what their copies hold is the memory of functions. */
static void no_destructor(void) {
}

/* The dynamic linker looks at the entries where they are (elf/dl-fini.c). */
static int drop_destructors(const struct libset *set, size_t index) {
	Elf64_Dyn *first = set->copies[index].map->l_ld, *end = first;
	while (end->d_tag != DT_NULL)
		end++;
	const struct object *object = &gotcha_objects[index];
	uintptr_t from = page_down(first), to = page_up(end);
	uintptr_t original = (uintptr_t) first - set->copies[index].base + object->base;
	if (mprotect((void *) from, to - from, PROT_READ | PROT_WRITE))
		return gotcha_fail(errno, "mprotect of the dynamic section of %s: %s", object->path, strerror(errno));
	for (Elf64_Dyn *entry = first; entry < end; entry++)
		if (entry->d_tag == DT_FINI_ARRAYSZ)
			entry->d_un.d_val = 0;
		else if (entry->d_tag == DT_FINI)
			entry->d_un.d_ptr = (uintptr_t) no_destructor - set->copies[index].base;
	if (original >= object->relro_start && original < object->relro_end)
		mprotect((void *) from, to - from, PROT_READ);
	return 0;
}

static int drop_all_destructors(const struct libset *set, size_t from) {
	int error = 0;
	for (size_t i = from; !error && i < set->copies_len; i++)
		if (set->copies[i].map)
			error = drop_destructors(set, i);
	return error;
}

struct libset *_Atomic gotcha_loading;
bool gotcha_loading_failed;
static long loading_tid;

static long kernel_tid(void) {
	return raw_syscall(SYS_gettid, 0, 0, 0, 0);
}

bool gotcha_is_loading_thread(void) {
	return loading_tid == kernel_tid();
}

/* What was loading before: constructors open libraries. */
struct loading {
	struct libset *host_set, *set;
	long tid;
};

/* What constructors allocate in between comes from the libset's region. Under the lock. */
static struct loading loading_begin(struct libset *set) {
	struct loading saved = { THIS.set, gotcha_loading, loading_tid };
	if (!saved.set)
		gotcha_loading_failed = false;
	THIS.set = set;
	loading_tid = kernel_tid();
	gotcha_loading = set;
	return saved;
}
static void loading_end(struct loading saved) {
	gotcha_loading = saved.set;
	loading_tid = saved.tid;
	THIS.set = saved.host_set;
}

static int too_much_from_constructors(void) {
	return gotcha_fail(ENOMEM, "constructors allocate more than %d MiB", INIT_HEAP_SIZE >> 20);
}

/* Lets the engine run constructors on behalf of `set`. */
static int load(struct libset *set, int (*engine_call)(struct libset *)) {
	int saved_errno = errno;
	size_t had = set->copies_len;
	struct loading saved = loading_begin(set);
	set->extended_to = gotcha_objects_len;
	int error = engine_call(set);
	if (!error)
		error = drop_all_destructors(set, had);
	loading_end(saved);
	if (!error && gotcha_loading_failed)
		error = too_much_from_constructors();
	errno = saved_errno;
	return error;
}

static int seal(struct libset *set, size_t from) {
	int error = snapshot_init_heap(set);
	if (error)
		return error;
	return gotcha_engine->seal ? gotcha_engine->seal(set, from) : snapshot_objects(set, from);
}

/* Once, in the first libset: what the others need too. */
static int start(struct libset *first) {
	static bool is_done;
	if (is_done)
		return 0;
	int error = gotcha_part_is_off("shadow") ? 0 : gotcha_loader_shadow_check(first);
	if (!error && on_exit(run_exit_registrations, NULL))
		error = gotcha_fail(ENOMEM, "no memory to register for the process's end");
	is_done = !error;
	return error;
}

static int make(struct libset *set) {
	int error = load(set, gotcha_engine->create);
	if (error)
		return error;
	gotcha_libset_find_libc(set);
	error = start(set);
	return error ? error : seal(set, 0);
}

/* A libset that could not be made whole. Its TCB, and a namespace, cannot be given back: the next attempt goes on
 * with them. Constructors in a namespace have run, though, and do not run again, even if they went without memory. */
static struct libset *half_made;
static bool is_spoilt;

static void give_up(struct libset *set) {
	while (set->snapshots_len && !gotcha_engine->seal)
		free(set->snapshots[--set->snapshots_len].pristine);
	forget_init_heap(set);
	if (gotcha_engine->unmake) {
		gotcha_engine->unmake(set, 0);
		give_back_init_heap(set);
		set->init_heap_used_bytes = 0;
	} else {
		set->copies_len = 0;
		is_spoilt = gotcha_loading_failed;
	}
}

static int create(struct libset **created) {
	if (libsets_len == MAX_LIBSETS || libsets_len >= gotcha_config.libsets_max)
		return gotcha_fail(EAGAIN, "all %zu libsets that this process may have are in use", libsets_len);
	if (is_spoilt)
		return too_much_from_constructors();
	int error = half_made ? 0 : allocate(&half_made);
	struct libset *set = in_making = half_made;
	if (!error && (error = make(set)))
		give_up(set);
	in_making = NULL;
	if (error)
		return error;
	half_made = NULL;
	set->state = LIBSET_TAKEN;
	*created = set;
	libsets[libsets_len] = set;
	__atomic_store_n(&libsets_len, libsets_len + 1, __ATOMIC_RELEASE);
	/* after that: slots that are added meanwhile are written to the tables of all libsets */
	gotcha_table_fill(set);
	gotcha_intercept_verify();
	gotcha_signals_verify();
	if (gotcha_config.trace_libsets)
		gotcha_trace("libsets", "made %ld: %zu snapshots", set->number, set->snapshots_len);
	return 0;
}

int gotcha_libset_extend(struct libset *set, uintptr_t tcb) {
	if (set->extended_to == gotcha_objects_len)
		return 0;
	size_t had = set->copies_len;
	set->loading_tcb = tcb;
	int error = load(set, gotcha_engine->extend);
	if (!error)
		error = seal(set, had);
	if (!error)
		gotcha_table_fill(set);
	else if (gotcha_engine->unmake)
		gotcha_engine->unmake(set, had);
	else
		set->copies_len = had;
	return error;
}

/* ------------------------------------------------------------------ the public interface */

/* Libsets that there were when the last attempt to make another one failed; SIZE_MAX: it has not. */
static size_t reached = SIZE_MAX;

/* Anybody adds to it at any time; who takes from it holds the lock, so the first one's successor stays what it is. */
static struct libset *_Atomic free_libsets;

static struct libset *take_free(void) {
	struct libset *first = free_libsets;
	while (first && !atomic_compare_exchange_weak(&free_libsets, &first, first->next_free))
		;
	if (first)
		first->state = LIBSET_TAKEN;
	return first;
}

libgotcha_group_t libgotcha_group_new(void) {
	if (libgotcha_init())
		return LIBGOTCHA_GROUP_ERROR;
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	gotcha_lock();
	struct libset *taken = take_free();
	if (!taken)
		reached = create(&taken) ? libsets_len : SIZE_MAX;
	long group = taken ? taken->number : LIBGOTCHA_GROUP_ERROR;
	gotcha_unlock();
	gotcha_hosted_leave(&guard);
	return group;
}

bool libgotcha_group_renew(libgotcha_group_t group) {
	struct libset *set = gotcha_libset(group);
	if (!set || set->state == LIBSET_RETIRED)
		return false;
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	if (set->tcb)
		gotcha_shell_abandon(libgotcha_tcb_state(set->tcb));
	gotcha_lock();
	int threads = gotcha_part_is_off("retiring") ? 0 : set->live_threads;
	if (!threads) {
		roll_back(set);
		set->has_function = false;
	} else {
		set->state = LIBSET_RETIRED;
		libgotcha_group_hand_over(group, 0, 0);
	}
	gotcha_unlock();
	if (threads && gotcha_config.trace_libsets)
		gotcha_trace("libsets", "retired %ld: %d threads live in it", group, threads);
	gotcha_hosted_leave(&guard);
	return !threads;
}

void libgotcha_group_free(libgotcha_group_t group) {
	struct libset *set = gotcha_libset(group);
	if (!set || set->state != LIBSET_TAKEN)
		return;
	set->state = LIBSET_FREE;
	set->next_free = free_libsets;
	while (!atomic_compare_exchange_weak(&free_libsets, &set->next_free, set))
		;
}

static void load_and_set_locale(struct libset *set, void *name) {
	char *(*own_setlocale)(int, const char *) = libc_copy(set, gotcha_libc_symbol("setlocale"));
	void (*own_tzset)(void) = libc_copy(set, gotcha_libc_symbol("tzset"));
	gotcha_locale_load(set);
	own_setlocale(LC_ALL, name);
	own_tzset();
}

/* Only what differs: pages of the pristine state that nobody has written are the file's, shared. */
static void retake_snapshots(struct libset *set) {
	for (size_t i = 0; i < set->snapshots_len; i++) {
		struct snapshot *snapshot = &set->snapshots[i];
		for (size_t at = 0, size; at < snapshot->size_bytes; at += size) {
			size = snapshot->size_bytes - at < PAGE_SIZE ? snapshot->size_bytes - at : PAGE_SIZE;
			if (memcmp(snapshot->pristine + at, snapshot->address + at, size))
				memcpy(snapshot->pristine + at, snapshot->address + at, size);
		}
	}
}

/* The program's locale and time zone become part of the pristine state, and so does what functions have had loaded: once per
 * change, and kept by roll backs.
 * Context: base or hosted, under the lock; nothing runs in the libset. */
static void copy_locale(struct libset *set) {
	unsigned generation = gotcha_locale_generation;
	struct locale_request *requests = set->locale_requests;
	int saved_errno = errno;
	char *(*base_setlocale)(int, const char *) = gotcha_libc_symbol("setlocale");
	const char *locale = base_setlocale(LC_ALL, NULL);
	char *name = locale ? strdup(locale) : NULL;
	if (!name)
		return;
	roll_back(set);
	/* what it allocates is part of the pristine state too */
	struct loading saved = loading_begin(set);
	gotcha_tcb_change_pristine(set, load_and_set_locale, name);
	loading_end(saved);
	free(name);
	retake_snapshots(set);
	forget_init_heap(set);
	if (!snapshot_init_heap(set)) {
		set->locale_generation = generation;
		set->locale_loaded = requests;
		set->locale_lost = false;
	}
	errno = saved_errno;
}

static bool wants_locale(const struct libset *set) {
	return set->locale_generation != gotcha_locale_generation || set->locale_lost;
}

void *libgotcha_group_prepare(long group, void *function) {
	struct libset *set = gotcha_libset(group);
	set->has_function = true;
	if (unlikely(wants_locale(set) || set->extended_to != gotcha_objects_len)) {
		struct hosted_guard guard;
		gotcha_hosted_enter(&guard);
		gotcha_lock();
		if (!gotcha_part_is_off("late_copies") && gotcha_libset_extend(set, set->tcb) && gotcha_config.trace_libsets)
			gotcha_trace("libsets", "%ld has no copy of a library opened at run time: %s", group, libgotcha_error());
		/* threads that live in the libset rely on its state: they keep the locale that they have started with */
		if (wants_locale(set) && !set->live_threads && !gotcha_part_is_off("locale"))
			copy_locale(set);
		gotcha_unlock();
		gotcha_hosted_leave(&guard);
	}
	/* most often the same one again */
	if (unlikely(function != set->function || gotcha_objects_len != set->function_objects_len)) {
		set->function = function;
		set->function_copy = gotcha_function_in(set, function);
		set->function_objects_len = gotcha_objects_len;
	}
	return set->function_copy;
}

void libgotcha_group_finish(long group) {
	struct libset *set = gotcha_libset(group);
	if (unlikely(*set->streams != set->streams_pristine) && !gotcha_part_is_off("flush"))
		gotcha_streams_flush(set, false);
	set->has_function = false;
}

size_t libgotcha_group_threads(long group) {
	struct libset *set = gotcha_libset(group);
	return set ? set->live_threads : 0;
}

size_t libgotcha_group_limit(void) {
	if (libgotcha_init())
		return 0;
	size_t limit = planned_limit();
	return limit < reached ? limit : reached;
}

libgotcha_group_t libgotcha_group_thread_get(void) {
	return in_libset() ? THIS.set->number : LIBGOTCHA_GROUP_SHARED;
}

libgotcha_group_t libgotcha_group_thread_set(libgotcha_group_t group) {
	struct libset *set = gotcha_libset(group);
	if (group != LIBGOTCHA_GROUP_SHARED && !set)
		return LIBGOTCHA_GROUP_ERROR;
	libgotcha_group_t previous = libgotcha_group_thread_get();
	/* the order keeps in_libset() true only of a whole pair */
	THIS.table = libgotcha_starting_table;
	THIS.set = set;
	compiler_barrier();
	THIS.table = set ? set->table : libgotcha_starting_table;
	return previous;
}

libgotcha_group_t libgotcha_group_caller(void) {
	return THIS.set ? THIS.set->number : LIBGOTCHA_GROUP_SHARED;
}

void *libgotcha_group_symbol(libgotcha_group_t group, const char *name) {
	return libgotcha_group_symbol_from(group, name, NULL);
}

void *libgotcha_group_symbol_from(libgotcha_group_t group, const char *name, const char *library) {
	struct libset *set = gotcha_libset(group);
	if (!set && group != LIBGOTCHA_GROUP_SHARED)
		return NULL;
	for (size_t i = 0; i < gotcha_objects_len; i++) {
		struct object *object = &gotcha_objects[i];
		if (library && strcmp(library, object->name) && strcmp(library, object->path))
			continue;
		const Elf64_Sym *symbol = gotcha_lookup_in(object, name, NULL);
		if (!symbol || ELF64_ST_TYPE(symbol->st_info) == STT_TLS)
			continue;
		void *address = gotcha_definition_address(object, symbol);
		return set ? gotcha_translate(set, address) : address;
	}
	return NULL;
}
