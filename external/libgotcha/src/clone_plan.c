/* The clone engine's relocation: compiled once into a plan for a whole image, then applied to each.
 *
 * A word of a copy is one of three: an address in its own image (relative), a value that is the same in every
 * libset (absolute), or what the file holds plus the copy's load bias (added: the compact RELR form). Thread-local
 * storage has the same module numbers and offsets in copies as in base, because each function has a thread
 * control block of its own: those words are base's. */
#include "clone.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct word {
	uint32_t offset;        /* in the image */
	uint64_t value;
};

static struct plan {
	struct word *words;
	size_t length, room;
} relative, absolute, added;

static int append(struct plan *plan, uintptr_t offset, uint64_t value) {
	if (plan->length == plan->room) {
		size_t room = plan->room ? 2 * plan->room : 4096;
		struct word *grown = realloc(plan->words, room * sizeof *grown);
		if (!grown)
			return gotcha_fail(ENOMEM, "no memory for the relocation plan");
		plan->words = grown;
		plan->room = room;
	}
	plan->words[plan->length++] = (struct word) { offset, value };
	return 0;
}

/* ------------------------------------------------------------------ names that lead out of the image */

static struct export {
	const char *name;
	uintptr_t address;
} *exports;
static size_t exports_len, exports_room;

static size_t hash(const char *name) {
	size_t hash = 5381;
	while (*name)
		hash = hash * 33 + (uint8_t) *name++;
	return hash;
}

/* The later of two symbols of one name counts. */
static void insert(struct export *table, size_t room, const char *name, uintptr_t address) {
	size_t at = hash(name) % room;
	while (table[at].name && strcmp(table[at].name, name))
		at = (at + 1) % room;
	table[at] = (struct export) { name, address };
}

static void add_export(void *failed, const char *name, uintptr_t address, bool is_function) {
	(void) is_function;
	if (2 * exports_len >= exports_room) {
		size_t room = exports_room ? 2 * exports_room : 4096;
		struct export *grown = calloc(room, sizeof *grown);
		if (!grown) {
			*(bool *) failed = true;
			return;
		}
		for (size_t i = 0; i < exports_room; i++)
			if (exports[i].name)
				insert(grown, room, exports[i].name, exports[i].address);
		free(exports);
		exports = grown;
		exports_room = room;
	}
	exports_len++;
	insert(exports, exports_room, name, address);
}

static const struct export *find_export(const char *name) {
	for (size_t at = hash(name) % exports_room; exports[at].name; at = (at + 1) % exports_room)
		if (!strcmp(exports[at].name, name))
			return &exports[at];
	return NULL;
}

/* ------------------------------------------------------------------ compiling */

static uintptr_t image_offset(const struct object *object, uintptr_t base_address) {
	return gotcha_image[object - gotcha_objects].offset + (base_address - object->start);
}

/* A base address as seen from an image: its copy there, or the address itself. */
static int append_address(uintptr_t offset, uintptr_t base_address, int64_t addend) {
	struct object *home = gotcha_object_at(base_address);
	if (home && gotcha_image[home - gotcha_objects].present)
		return append(&relative, offset, image_offset(home, base_address) + addend);
	return append(&absolute, offset, base_address + addend);
}

/* The definition that a copy binds to: in the order of base's scope, but past the executable, whose definitions
 * are among the exports, as far as they count. */
static const Elf64_Sym *find_definition(struct object *from, const char *name, const char *version, struct object **home) {
	const Elf64_Sym *symbol;
	if (from->symbolic && (symbol = gotcha_lookup_in(from, name, version))) {
		*home = from;
		return symbol;
	}
	for (size_t i = 0; i < gotcha_objects_len; i++) {
		*home = &gotcha_objects[i];
		if ((*home)->kind != OBJECT_EXECUTABLE && (symbol = gotcha_lookup_in(*home, name, version)))
			return symbol;
	}
	return NULL;
}

static int append_reference(struct object *object, size_t index, uintptr_t offset, int64_t addend) {
	const Elf64_Sym *reference = &object->symbols[index], *definition = reference;
	const char *name = object->strings + reference->st_name;
	struct object *home = object;
	bool is_own = ELF64_ST_BIND(reference->st_info) == STB_LOCAL
		|| (reference->st_shndx != SHN_UNDEF && ELF64_ST_VISIBILITY(reference->st_other) != STV_DEFAULT);
	if (!is_own) {
		const struct export *export = find_export(name);
		if (export)
			return append(&absolute, offset, export->address + addend);
		definition = find_definition(object, name, gotcha_reference_version(object, index), &home);
	}
	if (!definition)
		return append(&absolute, offset, 0);    /* weak, or as unresolved as in base */
	if (definition->st_shndx == SHN_ABS)
		return append(&absolute, offset, definition->st_value + addend);
	return append_address(offset, (uintptr_t) gotcha_definition_address(home, definition), addend);
}

static uint64_t base_word(const struct object *object, const Elf64_Rela *relocation, size_t index) {
	return ((const uint64_t *) (object->base + relocation->r_offset))[index];
}

static int compile_relocation(struct object *object, const Elf64_Rela *relocation) {
	unsigned type = ELF64_R_TYPE(relocation->r_info);
	uintptr_t address = object->base + relocation->r_offset;
	const struct image_object *place = &gotcha_image[object - gotcha_objects];
	if (type == R_X86_64_NONE)
		return 0;
	if (address < place->data_start || address >= place->data_end)
		return gotcha_fail(ENOEXEC, "%s: a relocation outside its writable part, at %#lx", object->path, (long) relocation->r_offset);
	uintptr_t offset = image_offset(object, address);
	switch (type) {
	case R_X86_64_RELATIVE:
		return append(&relative, offset, image_offset(object, object->base + relocation->r_addend));
	case R_X86_64_IRELATIVE:
		/* the resolver's choice depends on the processor alone, and base has made it */
		return append_address(offset, base_word(object, relocation, 0), 0);
	case R_X86_64_64:
		return append_reference(object, ELF64_R_SYM(relocation->r_info), offset, relocation->r_addend);
	case R_X86_64_GLOB_DAT:
	case R_X86_64_JUMP_SLOT:
		return append_reference(object, ELF64_R_SYM(relocation->r_info), offset, 0);
	case R_X86_64_DTPMOD64:
	case R_X86_64_DTPOFF64:
	case R_X86_64_TPOFF64:
		return append(&absolute, offset, base_word(object, relocation, 0));
	case R_X86_64_TLSDESC: {
		int error = append(&absolute, offset, base_word(object, relocation, 0));
		return error ? error : append(&absolute, offset + 8, base_word(object, relocation, 1));
	}
	default:
		return gotcha_fail(ENOEXEC, "%s: relocation of unknown type %u", object->path, type);
	}
}

#ifndef DT_RELR
#define DT_RELRSZ 35
#define DT_RELR 36
#endif

/* An even entry is the address of a word; the odd ones that follow are bitmaps of the 63 words after it. */
static int compile_relr(struct object *object) {
	const uint64_t *entries = NULL;
	size_t length = 0;
	for (const Elf64_Dyn *entry = object->map->l_ld; entry->d_tag != DT_NULL; entry++) {
		uintptr_t value = entry->d_un.d_val;
		if (entry->d_tag == DT_RELR)
			entries = (const uint64_t *) (value >= object->start && value < object->end ? value : object->base + value);
		else if (entry->d_tag == DT_RELRSZ)
			length = value / sizeof *entries;
	}
	uint64_t where = 0;
	int error = 0;
	for (size_t i = 0; !error && entries && i < length; i++) {
		if (!(entries[i] & 1)) {
			error = append(&added, image_offset(object, object->base + entries[i]), object - gotcha_objects);
			where = entries[i] + 8;
			continue;
		}
		uint64_t bits = entries[i] >> 1;
		for (size_t word = 0; !error && bits; word++, bits >>= 1)
			if (bits & 1)
				error = append(&added, image_offset(object, object->base + where + 8 * word), object - gotcha_objects);
		where += 63 * 8;
	}
	return error;
}

static int compile_object(struct object *object) {
	struct image_object *place = &gotcha_image[object - gotcha_objects];
	place->relative.from = relative.length;
	place->absolute.from = absolute.length;
	place->added.from = added.length;
	int error = compile_relr(object);
	for (size_t i = 0; !error && i < object->rela_len; i++)
		error = compile_relocation(object, &object->rela[i]);
	for (size_t i = 0; !error && i < object->jmprel_len; i++)
		error = compile_relocation(object, &object->jmprel[i]);
	place->relative.to = relative.length;
	place->absolute.to = absolute.length;
	place->added.to = added.length;
	return error;
}

int gotcha_plan_extend(size_t from, size_t to) {
	bool failed = false;
	gotcha_policy_exports(add_export, &failed);
	if (failed)
		return gotcha_fail(ENOMEM, "no memory for the relocation plan");
	int error = 0;
	for (size_t i = from; !error && i < to; i++)
		if (gotcha_image[i].present)
			error = compile_object(&gotcha_objects[i]);
	return error;
}

/* ------------------------------------------------------------------ applying */

static uint64_t *word_at(const struct libset *set, const struct word *word) {
	return (uint64_t *) (set->image + word->offset);
}

/* Context: the objects' data is as in their files. */
void gotcha_plan_apply(struct libset *set, size_t from, size_t to) {
	for (size_t i = from; i < to; i++) {
		const struct image_object *place = &gotcha_image[i];
		for (size_t j = place->relative.from; j < place->relative.to; j++)
			*word_at(set, &relative.words[j]) = set->image + relative.words[j].value;
		for (size_t j = place->absolute.from; j < place->absolute.to; j++)
			*word_at(set, &absolute.words[j]) = absolute.words[j].value;
		for (size_t j = place->added.from; j < place->added.to; j++)
			*word_at(set, &added.words[j]) += set->copies[added.words[j].value].base;
	}
}
