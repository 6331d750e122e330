/* Interception: one trampoline for each function that base's objects call across an object border,
 * and the GOT words that lead there.
 *
 * A trampoline is 16 bytes:
 *
 *	mov %fs:TABLE, %r11	64 4c 8b 1c 25 <disp32>		the next libset's table
 *	jmp *SLOT(%r11)		41 ff a3 <disp32>		the function's word in it
 *
 * r11 is the one register that neither a caller nor a callee may rely on at a call (psABI 3.2.1:
 * it is what PLT stubs use). A function has one trampoline, so its address is the same to
 * everybody who takes it. */
#include "internal.h"

#include <dlfcn.h>
#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { TRAMPOLINE_SIZE = 16, CHUNK_SLOTS = 4096, CHUNKS = MAX_SLOTS / CHUNK_SLOTS, HASH_SIZE = 2 * MAX_SLOTS };

void *libgotcha_starting_table[MAX_SLOTS], *gotcha_shared_table[MAX_SLOTS];

/* Filled from the front; a slot is never given back. Written under `slots_lock`; `slots_len` last, so
 * that lock-free readers see whole slots, and so does the child of a fork. */
static struct slot {
	void *function;         /* base's definition */
	void *everywhere;       /* what every libset calls instead of its copy, or NULL */
} slots[MAX_SLOTS];
static size_t slots_len;
/* A leaf: whoever holds it calls neither the dynamic linker nor anything that waits. */
static atomic_flag slots_lock = ATOMIC_FLAG_INIT;
static unsigned char *chunks[CHUNKS];
static unsigned char *entries[CHUNKS];         /* into the thunk; NULL where no function is shared */
static unsigned char *row_entries;              /* of rows whose calls are traced, or NULL */
static uint32_t by_function[HASH_SIZE];         /* slot + 1 */

/* Words that interception has rewritten, to be able to look at them again. */
struct patch {
	void **word;
	void *ours;             /* what is there now */
	void *raw;              /* what the dynamic linker would put there */
	uintptr_t relro_start, relro_end;
};
static struct patch *patches;
static size_t patches_len, patches_room;

/* ------------------------------------------------------------------ trampolines */

static void lock_slots(void) {
	while (atomic_flag_test_and_set_explicit(&slots_lock, memory_order_acquire))
		sched_yield();
}

static void unlock_slots(void) {
	atomic_flag_clear_explicit(&slots_lock, memory_order_release);
}

static intptr_t table_offset(void) {
	return (intptr_t) &libgotcha_tls.table - (intptr_t) thread_pointer();
}

static void write_trampoline(unsigned char *code, size_t slot) {
	int32_t table = table_offset(), word = slot * sizeof(void *);
	memcpy(code, "\x64\x4c\x8b\x1c\x25", 5);
	memcpy(code + 5, &table, 4);
	memcpy(code + 9, "\x41\xff\xa3", 3);
	memcpy(code + 12, &word, 4);
}

/* What a libset's table holds for a function that is shared:
 *
 *	mov $SLOT, %r11d	41 bb <imm32>
 *	jmp *THUNK(%rip)	ff 25 <disp32>		a word behind the chunk */
static void write_entry(unsigned char *code, size_t slot, const void *thunk_word) {
	int32_t index = slot, distance = (const unsigned char *) thunk_word - (code + 12);
	memcpy(code, "\x41\xbb", 2);
	memcpy(code + 2, &index, 4);
	memcpy(code + 6, "\xff\x25", 2);
	memcpy(code + 8, &distance, 4);
}

/* A chunk is written whole and made executable before any of its addresses is handed out: no page
 * is ever writable and executable. */
static int make_chunk(unsigned char **made, size_t first, void (*thunk)(void)) {
	size_t slots_size = CHUNK_SLOTS * TRAMPOLINE_SIZE, size = slots_size + PAGE_SIZE;
	unsigned char *code = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (code == MAP_FAILED)
		return gotcha_fail(errno, "mmap of trampolines: %s", strerror(errno));
	void (**thunk_word)(void) = (void *) (code + slots_size);
	*thunk_word = thunk;
	for (size_t i = 0; i < CHUNK_SLOTS; i++)
		if (thunk)
			write_entry(code + i * TRAMPOLINE_SIZE, first + i, thunk_word);
		else
			write_trampoline(code + i * TRAMPOLINE_SIZE, first + i);
	if (mprotect(code, size, PROT_READ | PROT_EXEC)) {
		int error = errno;
		munmap(code, size);
		return gotcha_fail(error, "mprotect of trampolines (is executable memory forbidden?): %s", strerror(error));
	}
	*made = code;
	return 0;
}

int gotcha_trampolines_init(void) {
	intptr_t offset = table_offset();
	if (offset != (int32_t) offset)
		return gotcha_fail(ENOSYS, "thread-local storage lies %ld bytes from the thread pointer", (long) offset);
	/* the child of a fork has only the forking thread: whoever had the lock is not there */
	if (pthread_atfork(NULL, NULL, unlock_slots))
		return gotcha_fail(ENOMEM, "no memory to register for forks");
	return make_chunk(&chunks[0], 0, NULL);
}

static void *trampoline_of(size_t slot) {
	return chunks[slot / CHUNK_SLOTS] + slot % CHUNK_SLOTS * TRAMPOLINE_SIZE;
}

static void *entry_for(const struct libset *set, const struct slot *slot) {
	return slot->everywhere ? slot->everywhere : gotcha_translate(set, slot->function);
}

void *gotcha_function_in(const struct libset *set, void *function) {
	const struct row *row = gotcha_policy_find(function);
	if (row)
		return row->wrapper ? row->wrapper : function;
	struct object *home = gotcha_object_at((uintptr_t) function);
	if (!home)
		return function;
	void *trampoline = home->kind == OBJECT_SHARED ? gotcha_trampoline(function) : NULL;
	return trampoline ? trampoline : gotcha_translate(set, function);
}

void gotcha_table_fill(struct libset *set) {
	lock_slots();
	for (size_t i = 0; i < slots_len; i++)
		set->table[i] = entry_for(set, &slots[i]);
	unlock_slots();
}

/* What a call from base runs. */
static void *base_entry(void *function, bool is_program) {
	const struct row *row = gotcha_policy_find(function);
	bool counts = row && row->wrapper && row->in_base && (is_program || row->in_base != FROM_PROGRAM);
	return counts ? row->wrapper : function;
}

/* libstdc++ mutex.cc: it runs what std::call_once(), a template, has left in thread-locals of libstdc++'s.
 * Code of the executable writes those directly, with no call that could be sent elsewhere: base's. The
 * copies' own uses of call_once() bind to their own definitions, not to a slot. */
static const void *once_proxy(void) {
	static size_t looked_at;
	static void *found;
	if (looked_at != gotcha_objects_len) {
		looked_at = gotcha_objects_len;
		found = gotcha_base_symbol("__once_proxy");
	}
	return found;
}

static int find_entry(size_t slot, void **entry) {
	size_t chunk = slot / CHUNK_SLOTS;
	void (*thunk)(void) = gotcha_config.trace_calls ? gotcha_trace_slot_thunk : gotcha_thunk;
	int error = entries[chunk] ? 0 : make_chunk(&entries[chunk], chunk * CHUNK_SLOTS, thunk);
	*entry = error ? NULL : entries[chunk] + slot % CHUNK_SLOTS * TRAMPOLINE_SIZE;
	return error;
}

/* Policy decides by address, so that every alias of a function follows one row. */
static int fill_slot(size_t index, void *function) {
	const struct row *row = gotcha_policy_find(function);
	struct object *home = gotcha_object_at((uintptr_t) function);
	struct slot *slot = &slots[index];
	int error = 0;
	slot->function = function;
	slot->everywhere = NULL;
	if (row)
		slot->everywhere = row->wrapper ? row->wrapper : function;
	else if (home && home->kind == OBJECT_SHARED)
		error = find_entry(index, &slot->everywhere);
	else if (!home || home->kind != OBJECT_REPLICATED || function == once_proxy())
		slot->everywhere = function;
	libgotcha_starting_table[index] = base_entry(function, true);
	gotcha_shared_table[index] = row ? slot->everywhere : function;
	for (size_t i = 0; i < gotcha_libsets_len(); i++)
		gotcha_libset(i + 1)->table[index] = entry_for(gotcha_libset(i + 1), slot);
	return error;
}

static void *find_or_add_slot(void *function) {
	size_t at = ((uintptr_t) function >> 2) * 2654435761u % HASH_SIZE;
	for (; by_function[at]; at = (at + 1) % HASH_SIZE)
		if (slots[by_function[at] - 1].function == function)
			return trampoline_of(by_function[at] - 1);
	size_t chunk = slots_len / CHUNK_SLOTS;
	if (slots_len == MAX_SLOTS || (!chunks[chunk] && make_chunk(&chunks[chunk], chunk * CHUNK_SLOTS, NULL))
	 || fill_slot(slots_len, function))
		return NULL;
	by_function[at] = slots_len + 1;
	__atomic_store_n(&slots_len, slots_len + 1, __ATOMIC_RELEASE);
	return trampoline_of(slots_len - 1);
}

void *gotcha_trampoline(void *function) {
	lock_slots();
	void *trampoline = find_or_add_slot(function);
	unlock_slots();
	return trampoline;
}

void *gotcha_behind_trampoline(const void *address) {
	for (size_t i = 0; i < CHUNKS && chunks[i]; i++) {
		size_t slot = i * CHUNK_SLOTS + ((uintptr_t) address - (uintptr_t) chunks[i]) / TRAMPOLINE_SIZE;
		if ((uintptr_t) address - (uintptr_t) chunks[i] < CHUNK_SLOTS * TRAMPOLINE_SIZE && slot < slots_len)
			return slots[slot].function;
	}
	return (void *) address;
}

static bool is_in_chunk(const unsigned char *chunk, uintptr_t pc) {
	return chunk && pc - (uintptr_t) chunk < CHUNK_SLOTS * TRAMPOLINE_SIZE;
}

/* Context: any. What is in the chunks has been there since before their addresses were handed out. */
bool libgotcha_is_trampoline(uintptr_t pc) {
	bool found = is_in_chunk(row_entries, pc);
	for (size_t i = 0; !found && i < CHUNKS; i++)
		found = is_in_chunk(chunks[i], pc) || is_in_chunk(entries[i], pc);
	return found;
}

void *gotcha_slot_function(size_t slot) {
	return slots[slot].function;
}

void *gotcha_row_entry(size_t number) {
	if (number >= CHUNK_SLOTS || (!row_entries && make_chunk(&row_entries, 0, gotcha_trace_row_thunk)))
		return NULL;
	return row_entries + number * TRAMPOLINE_SIZE;
}

/* ------------------------------------------------------------------ GOTs */

static bool rewrite(void **word, void *ours, void *raw, const struct object *object) {
	if (patches_len == patches_room) {
		size_t room = patches_room ? 2 * patches_room : 4096;
		struct patch *grown = realloc(patches, room * sizeof *grown);
		if (!grown)
			return false;
		patches = grown;
		patches_room = room;
	}
	patches[patches_len++] = (struct patch) { word, ours, raw, object->relro_start, object->relro_end };
	__atomic_store_n(word, ours, __ATOMIC_RELEASE);
	return true;
}

static bool wants_trampoline(const struct object *home, const void *function) {
	if (home->kind == OBJECT_REPLICATED)
		return true;
	/* a call of it from inside a libset opens a bracket */
	if (home->kind == OBJECT_SHARED)
		return true;
	/* ld.so's: only those with a row */
	return gotcha_policy_find(function) != NULL;
}

/* Base's copy of a library may run inside a function, by a pointer that the program stored before
 * interception: it may hold the process's locks, and must then call nothing that could be preempted. So its
 * calls stay in base, where libgotcha_is_shared_code() covers them. Addresses of other objects' functions,
 * which it may hand out, are trampolines as everywhere. Of a shared library only the calls of its own functions stay:
 * others are the policy's. */
static bool stays_in_base(const struct object *object, unsigned type, const struct object *home) {
	if (object->kind == OBJECT_SHARED)
		return type == R_X86_64_JUMP_SLOT && home == object;
	return object->kind == OBJECT_REPLICATED && (type == R_X86_64_JUMP_SLOT || home == object);
}

/* What a lazily bound word that still points into its own object's PLT will be bound to, or NULL. A word
 * that is bound to its object's own definition points into the object too. */
static void *bind_now(struct object *object, const char *name, const char *version, void *value) {
	const Elf64_Sym *own = gotcha_lookup_in(object, name, version);
	if (own && gotcha_is_function(own) && gotcha_definition_address(object, own) == value)
		return value;
	struct object *home;
	const Elf64_Sym *definition = gotcha_lookup_binding(object, name, version, &home);
	return definition && gotcha_is_function(definition) ? gotcha_definition_address(home, definition) : NULL;
}

/* One relocation: does its word name a function that is to be intercepted?
 *
 * What the word holds decides, because it is what calls would reach: it settles scopes and ifuncs, and
 * leaves alone what points elsewhere (the PLT stub that stands for a function in a position-dependent
 * executable, and addresses that somebody else has put there). Only a JUMP_SLOT word may be still
 * unbound: then the definition is looked up, now, so that the lazy resolver never runs afterwards. */
static int intercept_word(struct object *object, const Elf64_Rela *relocation) {
	unsigned type = ELF64_R_TYPE(relocation->r_info);
	size_t index = ELF64_R_SYM(relocation->r_info);
	if (type != R_X86_64_JUMP_SLOT && type != R_X86_64_GLOB_DAT && (type != R_X86_64_64 || relocation->r_addend))
		return 0;
	const Elf64_Sym *reference = &object->symbols[index];
	if (ELF64_ST_BIND(reference->st_info) == STB_LOCAL)
		return 0;
	const char *name = object->strings + reference->st_name, *version = gotcha_reference_version(object, index);
	void **word = (void **) (object->base + relocation->r_offset), *value = *word;
	/* a text relocation: other threads may be running there, so what it calls stays in base */
	if (!gotcha_is_data(object, (uintptr_t) word))
		return 0;
	if (value && type == R_X86_64_JUMP_SLOT && gotcha_object_at((uintptr_t) value) == object)
		value = bind_now(object, name, version, value);
	struct object *home = value ? gotcha_object_at((uintptr_t) value) : NULL;
	if (!home || home->kind == OBJECT_EXECUTABLE || home->kind == OBJECT_OWN || !wants_trampoline(home, value))
		return 0;
	const Elf64_Sym *definition = gotcha_lookup_in(home, name, version);
	if (!definition || !gotcha_is_function(definition))
		return 0;
	/* an object's own tables of its own functions belong to its copies: they are relocated there */
	if (type == R_X86_64_64 && home == object && object->kind != OBJECT_SHARED)
		return 0;
	void *target = stays_in_base(object, type, home) ? base_entry(value, false) : gotcha_trampoline(value);
	if (!target)
		return gotcha_fail(ENOMEM, "more than %d intercepted functions", MAX_SLOTS);
	if (!rewrite(word, target, value, object))
		return gotcha_fail(ENOMEM, "no memory for the list of intercepted words");
	return 0;
}

static int set_relro(const struct object *object, int protection) {
	size_t size = object->relro_end - object->relro_start;
	if (size && mprotect((void *) object->relro_start, size, protection))
		return gotcha_fail(errno, "mprotect of the relocated data of %s: %s", object->path, strerror(errno));
	return 0;
}

static int intercept_object(struct object *object) {
	if (object->kind == OBJECT_LOADER || object->kind == OBJECT_OWN)
		return 0;
	int error = set_relro(object, PROT_READ | PROT_WRITE);
	for (size_t i = 0; !error && i < object->jmprel_len; i++)
		error = intercept_word(object, &object->jmprel[i]);
	for (size_t i = 0; !error && i < object->rela_len; i++)
		error = intercept_word(object, &object->rela[i]);
	int restored = set_relro(object, PROT_READ);
	return error ? error : restored;
}

int gotcha_intercept_objects(void) {
	int first_error = 0;
	for (size_t i = 0; i < gotcha_objects_len; i++) {
		struct object *object = &gotcha_objects[i];
		int error = object->intercepted ? 0 : intercept_object(object);
		object->intercepted = true;
		if (error && !first_error)
			first_error = error;
	}
	return first_error;
}

static int redirect_word(struct patch *patch) {
	void *entry = base_entry(patch->raw, false);
	/* only what has been left in base is to be looked at again */
	if (patch->ours != patch->raw || entry == patch->raw)
		return 0;
	uintptr_t word = (uintptr_t) patch->word, page = page_down(word);
	bool is_relro = word >= patch->relro_start && word < patch->relro_end;
	if (is_relro && mprotect((void *) page, PAGE_SIZE, PROT_READ | PROT_WRITE))
		return gotcha_fail(errno, "mprotect of relocated data: %s", strerror(errno));
	patch->ours = entry;
	__atomic_store_n(patch->word, entry, __ATOMIC_RELEASE);
	if (is_relro)
		mprotect((void *) page, PAGE_SIZE, PROT_READ);
	return 0;
}

int gotcha_intercept_again(void) {
	lock_slots();
	for (size_t i = 0; i < slots_len; i++)
		libgotcha_starting_table[i] = base_entry(slots[i].function, true);
	unlock_slots();
	int error = 0;
	for (size_t i = 0; !error && i < patches_len; i++)
		error = redirect_word(&patches[i]);
	return error;
}

/* A thread that was binding a lazy word when it was rewritten stores the raw address over ours. */
size_t gotcha_intercept_verify(void) {
	size_t repaired = 0;
	for (size_t i = 0; i < patches_len; i++) {
		struct patch *patch = &patches[i];
		if (*patch->word == patch->ours)
			continue;
		/* somebody's deliberate change of a read-only word stays */
		uintptr_t address = (uintptr_t) patch->word;
		if (address >= patch->relro_start && address < patch->relro_end)
			continue;
		if (*patch->word == patch->raw) {
			__atomic_store_n(patch->word, patch->ours, __ATOMIC_RELEASE);
			repaired++;
		}
	}
	return repaired;
}

void *gotcha_intercept_symbol(void *found, const struct libset *set) {
	struct object *home = found ? gotcha_object_at((uintptr_t) found) : NULL;
	if (!home || home->kind == OBJECT_EXECUTABLE || home->kind == OBJECT_OWN || !wants_trampoline(home, found))
		return found;
	Dl_info info;
	const Elf64_Sym *symbol = NULL;
	/* what an ifunc's resolver has chosen has no symbol, or another's: a function all the same */
	bool exact = dladdr1(found, &info, (void **) &symbol, RTLD_DL_SYMENT) && symbol
		&& home->base + symbol->st_value == (uintptr_t) found;
	uintptr_t elsewhere;
	if (exact && !gotcha_is_function(symbol))
		return !set || gotcha_variable_is_shared((uintptr_t) found) || gotcha_policy_redirect((uintptr_t) found, &elsewhere)
			? found : gotcha_translate(set, found);
	void *trampoline = gotcha_trampoline(found);
	return trampoline ? trampoline : found;
}
