/* Variables of libraries that the executable names: one per process, as its own are.
 *
 * The executable reaches such a variable by one address, whichever libset runs: base's, or where a COPY relocation
 * has put it. So the copies are led to that address too. Their constructors still find the copies' own, which is what
 * they are to initialise: base's has been, and the program may have used it since. After them each word of a copy
 * that refers to the variable (R_X86_64_GLOB_DAT, R_X86_64_64) is written over.
 *
 * What cannot be led there, or must not be, stays each libset's own: see is_eligible() and is_as_loaded(). */
#include "internal.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static struct variable {
	uintptr_t address;              /* where base has it */
	uintptr_t original;             /* in its library: the same, unless it has been copied into the executable */
	size_t size_bytes;
	const struct object *home;      /* its library */
} *variables;
static size_t variables_len;

/* Words of copies that are to lead to base. */
static struct word {
	const struct object *object;
	uintptr_t address;              /* in base */
	uintptr_t target;
} *words;
static size_t words_len;
static bool has_words[MAX_OBJECTS];     /* those of this object are in the list */

static int append(void *array, size_t *length, const void *element, size_t size_bytes) {
	void *grown = realloc(*(void **) array, (*length + 1) * size_bytes);
	if (!grown)
		return gotcha_fail(ENOMEM, "no memory for the list of shared variables");
	memcpy((char *) grown + *length * size_bytes, element, size_bytes);
	*(void **) array = grown;
	++*length;
	return 0;
}

/* ------------------------------------------------------------------ which */

static bool is_writable(const struct object *object, uintptr_t address) {
	return gotcha_is_data(object, address) && (address < object->relro_start || address >= object->relro_end);
}

/* A library that refers to its variable without a word to be written over (it was linked with -Bsymbolic, or protects the
 * symbol) would be at odds with the others. What is read-only is the same everywhere; and in it are tables of
 * functions, C++'s above all, by which copies call their own. Streams are told apart by their address. C++'s variables
 * (mangled names) are part of their library's state, and often set at their first use: std::ctype<char>::id is an index into
 * tables of each copy's own. */
static bool is_eligible(const struct object *home, const Elf64_Sym *definition, const char *name) {
	return home->kind == OBJECT_REPLICATED && ELF64_ST_TYPE(definition->st_info) == STT_OBJECT
		&& !home->symbolic && ELF64_ST_VISIBILITY(definition->st_other) == STV_DEFAULT
		&& is_writable(home, home->base + definition->st_value) && strncmp(name, "_IO_2_1_", 8)
		&& strncmp(name, "_Z", 2);
}

static const Elf64_Sym *find_definition(size_t reference, const struct object **home) {
	const char *name = gotcha_executable->strings + gotcha_executable->symbols[reference].st_name;
	const char *version = gotcha_reference_version(gotcha_executable, reference);
	for (size_t i = 0; i < gotcha_startup_len; i++) {
		*home = &gotcha_objects[i];
		const Elf64_Sym *found = *home == gotcha_executable ? NULL : gotcha_lookup_in(*home, name, version);
		if (found)
			return found;
	}
	return NULL;
}

uintptr_t gotcha_variable_original(uintptr_t address) {
	const struct object *executable = gotcha_executable;
	for (size_t i = 0; i < executable->rela_len; i++) {
		const Elf64_Rela *relocation = &executable->rela[i];
		if (ELF64_R_TYPE(relocation->r_info) != R_X86_64_COPY || executable->base + relocation->r_offset != address)
			continue;
		const struct object *home;
		const Elf64_Sym *original = find_definition(ELF64_R_SYM(relocation->r_info), &home);
		return original && home->kind == OBJECT_REPLICATED ? home->base + original->st_value : address;
	}
	return address;
}

static struct variable *variable_at(uintptr_t address) {
	for (size_t i = 0; i < variables_len; i++)
		if (address - variables[i].address < variables[i].size_bytes)
			return &variables[i];
	return NULL;
}

static int find_variable(const Elf64_Rela *relocation) {
	unsigned type = ELF64_R_TYPE(relocation->r_info);
	size_t reference = ELF64_R_SYM(relocation->r_info);
	bool is_copied = type == R_X86_64_COPY;
	if (!is_copied && (gotcha_executable->symbols[reference].st_shndx != SHN_UNDEF
	 || (type != R_X86_64_GLOB_DAT && type != R_X86_64_64)))
		return 0;
	const struct object *home;
	const Elf64_Sym *definition = find_definition(reference, &home);
	if (!definition || !is_eligible(home, definition, home->strings + definition->st_name))
		return 0;
	uintptr_t original = home->base + definition->st_value;
	struct variable found = { is_copied ? gotcha_executable->base + relocation->r_offset : original, original,
		definition->st_size, home };
	return variable_at(found.address) ? 0 : append(&variables, &variables_len, &found, sizeof found);
}

static int find_variables(void) {
	int error = 0;
	for (size_t i = 0; !error && i < gotcha_executable->rela_len; i++)
		error = find_variable(&gotcha_executable->rela[i]);
	return error;
}

/* ------------------------------------------------------------------ what constructors have changed */

/* The bytes of a variable as the library's file has them. */
static int read_initial(const struct variable *variable, char *initial) {
	const struct object *home = variable->home;
	memset(initial, 0, variable->size_bytes);
	int file = open(home->path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return gotcha_fail(errno, "%s: %s", home->path, strerror(errno));
	bool succeeds = true;
	for (size_t i = 0; succeeds && i < home->segments_len; i++) {
		const Elf64_Phdr *segment = &home->segments[i];
		uintptr_t from = variable->original - home->base - segment->p_vaddr;
		if (segment->p_type != PT_LOAD || from >= segment->p_filesz)
			continue;
		size_t size = segment->p_filesz - from < variable->size_bytes ? segment->p_filesz - from : variable->size_bytes;
		succeeds = pread(file, initial, size, segment->p_offset + from) == (ssize_t) size;
	}
	int error = succeeds ? 0 : gotcha_fail(EIO, "%s: it is shorter than when it was mapped", home->path);
	close(file);
	return error;
}

/* Is the word in a copy of `home`, `bias` away from base, what relocation alone would make of `initial`? */
static bool is_relocated(const struct object *home, uintptr_t base_address, intptr_t bias, uint64_t initial) {
	uint64_t held = *(uint64_t *) (base_address + bias);
	for (size_t i = 0; i < home->rela_len; i++) {
		const Elf64_Rela *relocation = &home->rela[i];
		if (home->base + relocation->r_offset == base_address)
			return ELF64_R_TYPE(relocation->r_info) != R_X86_64_RELATIVE || held == home->base + bias + relocation->r_addend;
	}
	return held == initial || held == home->base + bias + initial;
}

/* A variable that a constructor has changed describes the copy which that constructor has initialised: libstdc++'s
 * std::cout. The C library's constructors have nothing to say about a copy, and only repeat what they have found. */
static bool is_as_loaded(const struct libset *set, const struct variable *variable, const char *initial) {
	const struct object *home = variable->home;
	intptr_t bias = set->copies[home - gotcha_objects].base - home->base;
	const char *copy = (char *) variable->original + bias;
	bool unchanged = true;
	size_t first_word = -variable->original % sizeof(uint64_t);
	for (size_t i = 0; unchanged && i < variable->size_bytes; i++) {
		if (copy[i] == initial[i])
			continue;
		size_t word = i - (i - first_word) % sizeof(uint64_t);
		uint64_t value;
		memcpy(&value, initial + word, sizeof value);
		unchanged = i >= first_word && word + sizeof value <= variable->size_bytes
			&& is_relocated(home, variable->original + word, bias, value);
	}
	return unchanged;
}

static int look_at_variable(const struct libset *set, const struct variable *variable, bool *is_kept) {
	*is_kept = variable->home == gotcha_libc;
	if (*is_kept)
		return 0;
	char *initial = malloc(variable->size_bytes + sizeof(uint64_t));
	if (!initial)
		return gotcha_fail(ENOMEM, "no memory to look at a variable of %s", variable->home->path);
	int error = read_initial(variable, initial);
	*is_kept = !error && is_as_loaded(set, variable, initial);
	free(initial);
	return error;
}

/* ------------------------------------------------------------------ leading copies there */

static bool is_function(uintptr_t address) {
	const struct object *home = gotcha_object_at(address);
	Dl_info info;
	const Elf64_Sym *symbol = NULL;
	return home && home->kind == OBJECT_REPLICATED && dladdr1((void *) address, &info, (void **) &symbol, RTLD_DL_SYMENT)
		&& symbol && gotcha_is_function(symbol) && home->base + symbol->st_value == address;
}

/* A function that the variable points to from the start is called by whoever finds it there, and is to be that libset's. */
static void intercept_functions(const struct variable *variable) {
	uintptr_t end = variable->address + variable->size_bytes;
	for (uintptr_t at = (variable->address + 7) & -8ul; at + 8 <= end; at += 8) {
		void *_Atomic *word = (void *_Atomic *) at;
		void *held = *word;
		void *trampoline = is_function((uintptr_t) held) ? gotcha_trampoline(held) : NULL;
		/* unless another thread has changed it meanwhile */
		if (trampoline)
			atomic_compare_exchange_strong(word, &held, trampoline);
	}
}

static int choose_variables(const struct libset *first) {
	size_t kept = 0;
	for (size_t i = 0; i < variables_len; i++) {
		bool is_kept;
		int error = look_at_variable(first, &variables[i], &is_kept);
		if (error) {
			/* all are found again by the next attempt */
			variables_len = 0;
			return error;
		}
		if (is_kept)
			variables[kept++] = variables[i];
	}
	variables_len = kept;
	for (size_t i = 0; i < kept; i++)
		intercept_functions(&variables[i]);
	return 0;
}

static intptr_t bias_of(const struct libset *set, const struct object *object) {
	return set->copies[object - gotcha_objects].base - object->base;
}

/* What the copy's word refers to tells, whatever the symbol is called, and whatever scope it was found in. */
static int find_word(const struct libset *set, const struct object *object, const Elf64_Rela *relocation) {
	unsigned type = ELF64_R_TYPE(relocation->r_info);
	if (type != R_X86_64_GLOB_DAT && type != R_X86_64_64)
		return 0;
	uintptr_t addend = type == R_X86_64_64 ? relocation->r_addend : 0, address = object->base + relocation->r_offset;
	uintptr_t referred = *(uintptr_t *) (address + bias_of(set, object)) - addend;
	for (size_t i = 0; i < variables_len; i++) {
		const struct variable *variable = &variables[i];
		uintptr_t within = referred - bias_of(set, variable->home) - variable->original;
		if (within >= variable->size_bytes)
			continue;
		struct word word = { object, address, variable->address + within + addend };
		return append(&words, &words_len, &word, sizeof word);
	}
	return 0;
}

static int find_words(const struct libset *set, const struct object *object) {
	int error = 0;
	size_t had = words_len;
	for (size_t i = 0; !error && i < object->rela_len; i++)
		error = find_word(set, object, &object->rela[i]);
	if (error)
		words_len = had;
	has_words[object - gotcha_objects] = !error;
	return error;
}

static int write_word(const struct libset *set, const struct word *word) {
	const struct object *object = word->object;
	uintptr_t *at = (uintptr_t *) (word->address + bias_of(set, object));
	/* the clone engine's copies do not enforce it */
	bool is_protected = set->copies[object - gotcha_objects].map && word->address >= object->relro_start
		&& word->address < object->relro_end;
	void *page = (void *) page_down(at);
	if (is_protected && mprotect(page, PAGE_SIZE, PROT_READ | PROT_WRITE))
		return gotcha_fail(errno, "mprotect of the relocated data of %s: %s", object->path, strerror(errno));
	*at = word->target;
	if (is_protected)
		mprotect(page, PAGE_SIZE, PROT_READ);
	return 0;
}

static bool has_copy(const struct libset *set, const struct object *object) {
	return set->copies[object - gotcha_objects].base;
}

/* Set once the list of variables does not change any more: dlsym() looks at it without the lock. */
static _Atomic bool chosen;

int gotcha_variables_share(struct libset *set, size_t from, size_t to) {
	int error = 0;
	if (!chosen) {
		if ((error = find_variables()) || (error = choose_variables(set)))
			return error;
		chosen = true;
	}
	for (size_t i = from; !error && variables_len && i < to; i++)
		if (has_copy(set, &gotcha_objects[i]) && !has_words[i])
			error = find_words(set, &gotcha_objects[i]);
	for (size_t i = 0; !error && i < words_len; i++) {
		size_t index = words[i].object - gotcha_objects;
		if (index >= from && index < to && has_copy(set, words[i].object))
			error = write_word(set, &words[i]);
	}
	return error;
}

bool gotcha_variable_is_shared(uintptr_t address) {
	return chosen && variable_at(address);
}
