/* Libsets: making them, taking and giving them back, rolling them back, and what is where. */
#include "internal.h"

#include <dlfcn.h>
#include <errno.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
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

void *gotcha_translate(const struct libset *set, const void *address) {
	struct object *object = gotcha_object_at((uintptr_t) address);
	if (!object || object->kind != OBJECT_REPLICATED || (size_t) (object - gotcha_objects) >= set->copies_len
	 || !set->copies[object - gotcha_objects].base)
		return (void *) address;
	return (void *) ((uintptr_t) address - object->base + set->copies[object - gotcha_objects].base);
}

struct libset *gotcha_libset_of_libc_address(uintptr_t address) {
	for (size_t i = 0; i < libsets_len; i++)
		if (address >= libsets[i]->libc_start && address < libsets[i]->libc_end)
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

/* Blocks that constructors have allocated since the last call are pristine as they are. */
static int snapshot_init_heap(struct libset *set) {
	char *grown = realloc(set->init_heap_pristine, set->init_heap_used_bytes + 1);
	if (!grown)
		return gotcha_fail(ENOMEM, "no memory for the snapshot of libset %ld", set->number);
	size_t had = set->init_heap_pristine_bytes;
	memcpy(grown + had, set->init_heap + had, set->init_heap_used_bytes - had);
	set->init_heap_pristine = grown;
	set->init_heap_pristine_bytes = set->init_heap_used_bytes;
	return 0;
}

/* The descriptors of streams that a cancelled function has left open. What they held is lost with
 * the function. INVARIANT: the list is whole, because opening and closing are not preempted. */
static void close_streams(struct libset *set) {
	for (FILE *stream = *set->streams; stream && stream != set->streams_pristine; stream = stream->_chain)
		if (stream->_fileno > STDERR_FILENO)
			close(stream->_fileno);
}

static void roll_back(struct libset *set) {
	close_streams(set);
	for (size_t i = 0; i < set->snapshots_len; i++)
		memcpy(set->snapshots[i].address, set->snapshots[i].pristine, set->snapshots[i].size_bytes);
	memcpy(set->init_heap, set->init_heap_pristine, set->init_heap_pristine_bytes);
	while (set->keys_len)
		pthread_key_delete(set->keys[--set->keys_len]);
}

/* ------------------------------------------------------------------ creation */

static int allocate(struct libset **made) {
	struct libset *set = calloc(1, sizeof *set);
	if (!set)
		return gotcha_fail(ENOMEM, "no memory for a libset");
	set->number = libsets_len + 1;
	size_t table_size = MAX_SLOTS * sizeof *set->table;
	char *memory = mmap(NULL, table_size + INIT_HEAP_SIZE, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED) {
		free(set);
		return gotcha_fail(errno, "mmap of a libset's table: %s", strerror(errno));
	}
	/* sparsely used: a huge page for each would waste most of it */
	madvise(memory, table_size + INIT_HEAP_SIZE, MADV_NOHUGEPAGE);
	set->table = (void **) memory;
	set->init_heap = memory + table_size;
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

/* Lets the engine run constructors on behalf of `set`: what they allocate comes from its heap. */
static int load(struct libset *set, int (*engine_call)(struct libset *)) {
	struct libset *saved = THIS.set;
	int saved_errno = errno;
	THIS.set = set;
	set->loading = true;
	int error = engine_call(set);
	set->loading = false;
	THIS.set = saved;
	errno = saved_errno;
	return error;
}

static int create(struct libset **made) {
	if (libsets_len == MAX_LIBSETS || libsets_len >= gotcha_config.libsets_max)
		return gotcha_fail(EAGAIN, "all %zu libsets that this process may have are in use", libsets_len);
	int error = allocate(made);
	if (error)
		return error;
	struct libset *set = *made;
	in_making = set;
	error = load(set, gotcha_engine->create);
	in_making = NULL;
	if (!error) {
		gotcha_libset_find_libc(set);
		error = gotcha_engine->takes_snapshots ? 0 : snapshot_objects(set, 0);
	}
	if (!error)
		error = snapshot_init_heap(set);
	if (!error && !libsets_len)
		error = gotcha_loader_shadow_check(set);
	if (error) {
		munmap(set->table, MAX_SLOTS * sizeof *set->table + INIT_HEAP_SIZE);
		free(set->snapshots);
		free(set);
		return error;
	}
	set->keys_len = 0;
	set->state = LIBSET_TAKEN;
	libsets[libsets_len] = set;
	__atomic_store_n(&libsets_len, libsets_len + 1, __ATOMIC_RELEASE);
	/* after that: slots that are added meanwhile are written to the tables of all libsets */
	gotcha_table_fill(set);
	gotcha_intercept_verify();
	if (gotcha_config.trace_libsets)
		gotcha_trace("libsets", "made %ld: %zu snapshots", set->number, set->snapshots_len);
	return 0;
}

/* After base has opened libraries: every libset gets its copies of them. */
int gotcha_libset_extend_all(void) {
	int error = 0;
	for (size_t i = 0; i < libsets_len; i++) {
		struct libset *set = libsets[i];
		size_t had = set->copies_len;
		if (had == gotcha_objects_len)
			continue;
		error = load(set, gotcha_engine->extend);
		if (!error && !gotcha_engine->takes_snapshots)
			error = snapshot_objects(set, had);
		if (!error)
			error = snapshot_init_heap(set);
		if (error)
			break;
		gotcha_table_fill(set);
	}
	return error;
}

/* ------------------------------------------------------------------ the public interface */

libgotcha_group_t libgotcha_group_new(void) {
	if (libgotcha_init())
		return LIBGOTCHA_GROUP_ERROR;
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	gotcha_lock();
	struct libset *taken = NULL;
	for (size_t i = 0; i < libsets_len && !taken; i++)
		if (libsets[i]->state == LIBSET_FREE)
			taken = libsets[i];
	if (taken)
		taken->state = LIBSET_TAKEN;
	else if (create(&taken))
		taken = NULL;
	gotcha_unlock();
	gotcha_hosted_leave(&guard);
	return taken ? taken->number : LIBGOTCHA_GROUP_ERROR;
}

bool libgotcha_group_renew(libgotcha_group_t group) {
	struct libset *set = gotcha_libset(group);
	if (!set || set->state == LIBSET_RETIRED)
		return false;
	if (set->live_threads) {
		set->state = LIBSET_RETIRED;
		if (gotcha_config.trace_libsets)
			gotcha_trace("libsets", "retired %ld: %d threads live in it", group, set->live_threads);
		return false;
	}
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	roll_back(set);
	gotcha_hosted_leave(&guard);
	return true;
}

void libgotcha_group_free(libgotcha_group_t group) {
	struct libset *set = gotcha_libset(group);
	if (set && set->state == LIBSET_TAKEN)
		set->state = LIBSET_FREE;
}

/* The locale becomes part of the pristine state: set once per change, and kept by roll backs.
 * Context: base or hosted, nothing runs in the libset. */
static void copy_locale(struct libset *set) {
	unsigned generation = gotcha_locale_generation;
	char *(*base_setlocale)(int, const char *) = gotcha_base_symbol("setlocale");
	char *(*own_setlocale)(int, const char *) = libc_copy(set, base_setlocale);
	const char *locale = base_setlocale(LC_ALL, NULL);
	char *name = locale ? strdup(locale) : NULL;
	if (!name)
		return;
	roll_back(set);
	/* what it allocates is part of the pristine state too */
	struct libset *saved = THIS.set;
	THIS.set = set;
	set->loading = true;
	own_setlocale(LC_ALL, name);
	set->loading = false;
	THIS.set = saved;
	free(name);
	for (size_t i = 0; i < set->snapshots_len; i++)
		memcpy(set->snapshots[i].pristine, set->snapshots[i].address, set->snapshots[i].size_bytes);
	set->init_heap_pristine_bytes = 0;
	if (!snapshot_init_heap(set))
		set->locale_generation = generation;
}

void libgotcha_group_prepare(long group) {
	struct libset *set = gotcha_libset(group);
	if (unlikely(set->locale_generation != gotcha_locale_generation)) {
		struct hosted_guard guard;
		gotcha_hosted_enter(&guard);
		gotcha_lock();
		copy_locale(set);
		gotcha_unlock();
		gotcha_hosted_leave(&guard);
	}
}

void libgotcha_group_finish(long group) {
	struct libset *set = gotcha_libset(group);
	if (unlikely(*set->streams != set->streams_pristine))
		gotcha_streams_flush(set);
}

size_t libgotcha_group_threads(long group) {
	struct libset *set = gotcha_libset(group);
	return set ? set->live_threads : 0;
}

size_t libgotcha_group_limit(void) {
	size_t limit = gotcha_engine->limit();
	return limit < gotcha_config.libsets_max ? limit : gotcha_config.libsets_max;
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
	THIS.table = gotcha_starting_table;
	THIS.set = set;
	compiler_barrier();
	THIS.table = set ? set->table : gotcha_starting_table;
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
