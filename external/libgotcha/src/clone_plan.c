/* The clone engine's relocation: compiled once into a plan for a whole image, then applied to each.
 *
 * What base's words hold decides, because it is what the dynamic linker has bound, in whatever scope: the same
 * definition, in the copy's own libset or where the policy table sends calls of it. Thread-local storage has the
 * same module numbers and offsets in copies as in base, because each function has a thread control block of its
 * own: those words are base's as they are. */
#include "clone.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct word {
	uint32_t offset;        /* in the image */
	enum {
		WORD_RELATIVE,  /* an address in the image: `value` bytes from its start */
		WORD_ABSOLUTE,  /* `value`, in every libset */
		WORD_ADDED,     /* what the file holds, plus the load bias of the copy of object `value` */
	} kind;
	uint64_t value;
};

static struct word *words;
static size_t words_len, words_room;

static int append(uintptr_t offset, int kind, uint64_t value) {
	if (words_len == words_room) {
		size_t room = words_room ? 2 * words_room : 4096;
		struct word *grown = realloc(words, room * sizeof *grown);
		if (!grown)
			return gotcha_fail(ENOMEM, "no memory for the relocation plan");
		words = grown;
		words_room = room;
	}
	words[words_len++] = (struct word) { offset, kind, value };
	return 0;
}

/* ------------------------------------------------------------------ what can be copied */

#ifndef DT_RELR
#define DT_RELRSZ 35
#define DT_RELR 36
#endif

static bool has_text_relocations(const struct object *object) {
	for (const Elf64_Dyn *entry = object->map->l_ld; entry->d_tag != DT_NULL; entry++)
		if (entry->d_tag == DT_TEXTREL || (entry->d_tag == DT_FLAGS && entry->d_un.d_val & DF_TEXTREL))
			return true;
	return false;
}

static const Elf64_Rela *relocation_at(const struct object *object, size_t index) {
	return index < object->rela_len ? &object->rela[index] : &object->jmprel[index - object->rela_len];
}

static size_t relocations_len(const struct object *object) {
	return object->rela_len + object->jmprel_len;
}

int gotcha_plan_check(const struct object *object) {
	/* such text cannot be shared */
	if (has_text_relocations(object))
		return gotcha_fail(ENOEXEC, "%s has text relocations: it cannot be copied (name it in LIBGOTCHA_SHARED)", object->path);
	for (size_t i = 0; i < relocations_len(object); i++)
		switch (ELF64_R_TYPE(relocation_at(object, i)->r_info)) {
		case R_X86_64_NONE:
		case R_X86_64_RELATIVE:
		case R_X86_64_IRELATIVE:
		case R_X86_64_64:
		case R_X86_64_GLOB_DAT:
		case R_X86_64_JUMP_SLOT:
		case R_X86_64_DTPMOD64:
		case R_X86_64_DTPOFF64:
		case R_X86_64_TPOFF64:
		case R_X86_64_TLSDESC:
			break;
		default:
			return gotcha_fail(ENOEXEC, "%s has a relocation of unknown type %u: it cannot be copied (name it in LIBGOTCHA_SHARED)",
				object->path, (unsigned) ELF64_R_TYPE(relocation_at(object, i)->r_info));
		}
	return 0;
}

/* ------------------------------------------------------------------ what base has bound */

static uintptr_t base_word(const struct object *object, const Elf64_Rela *relocation, size_t index) {
	return ((const uintptr_t *) (object->base + relocation->r_offset))[index];
}

static bool is_in(const struct object *object, uintptr_t address) {
	return address >= object->start && address < object->end;
}

/* Does a word that holds `address` tell what the reference is bound to? */
static bool tells_binding(const struct object *object, const Elf64_Rela *relocation, uintptr_t address) {
	size_t index = ELF64_R_SYM(relocation->r_info);
	uintptr_t word = object->base + relocation->r_offset;
	unsigned type = ELF64_R_TYPE(relocation->r_info);
	/* the dynamic linker alone has written there, unless it is a lazily bound word that still points to the object's
	 * own procedure linkage table */
	if (type == R_X86_64_GLOB_DAT || (type == R_X86_64_JUMP_SLOT && !is_in(object, address))
	 || (type == R_X86_64_64 && word >= object->relro_start && word < object->relro_end))
		return true;
	const struct object *home = gotcha_object_at(address);
	const Elf64_Sym *definition = !home ? NULL : gotcha_lookup_in(home, object->strings + object->symbols[index].st_name,
		gotcha_reference_version(object, index));
	return definition && (uintptr_t) gotcha_definition_address(home, definition) == address;
}

/* The object's own definition of the symbol that it refers to by this index, or 0. */
static uintptr_t own_definition(const struct object *object, const Elf64_Sym *reference) {
	bool is_own = reference->st_shndx != SHN_UNDEF && reference->st_shndx != SHN_ABS;
	return is_own && ELF64_ST_TYPE(reference->st_info) != STT_GNU_IFUNC ? object->base + reference->st_value : 0;
}

/* The address in base that a reference is bound to, without addend; 0: it is not. */
static uintptr_t bound_address(const struct object *object, const Elf64_Rela *relocation) {
	size_t index = ELF64_R_SYM(relocation->r_info);
	const Elf64_Sym *reference = &object->symbols[index];
	bool is_data = ELF64_R_TYPE(relocation->r_info) == R_X86_64_64;
	uintptr_t held = base_word(object, relocation, 0) - (is_data ? relocation->r_addend : 0);
	held = (uintptr_t) gotcha_behind_trampoline((void *) held);
	if (tells_binding(object, relocation, held))
		return held;
	if (ELF64_ST_BIND(reference->st_info) == STB_LOCAL
	 || (reference->st_shndx != SHN_UNDEF && ELF64_ST_VISIBILITY(reference->st_other) != STV_DEFAULT))
		return (uintptr_t) gotcha_definition_address(object, reference);
	struct object *home;
	const Elf64_Sym *definition = gotcha_lookup_scope(object, object->strings + reference->st_name,
		gotcha_reference_version(object, index), &home);
	return definition ? (uintptr_t) gotcha_definition_address(home, definition) : 0;
}

/* ------------------------------------------------------------------ compiling */

static uintptr_t image_offset(const struct object *object, uintptr_t base_address) {
	return gotcha_image[object - gotcha_objects].offset + (base_address - object->start);
}

/* An address in object `home`, in base, as seen from an image. */
static int append_address_in(uintptr_t offset, const struct object *home, uintptr_t base_address) {
	if (home && gotcha_image[home - gotcha_objects].present)
		return append(offset, WORD_RELATIVE, image_offset(home, base_address));
	return append(offset, WORD_ABSOLUTE, base_address);
}

static bool refers_to_function(const struct object *object, const Elf64_Rela *relocation, const struct object *home) {
	size_t index = ELF64_R_SYM(relocation->r_info);
	const Elf64_Sym *definition = gotcha_lookup_in(home, object->strings + object->symbols[index].st_name,
		gotcha_reference_version(object, index));
	return definition && gotcha_is_function(definition);
}

static int append_reference(const struct object *object, const Elf64_Rela *relocation, uintptr_t offset) {
	int64_t addend = ELF64_R_TYPE(relocation->r_info) == R_X86_64_64 ? relocation->r_addend : 0;
	uintptr_t address = bound_address(object, relocation), elsewhere;
	/* it may mark the object's end, where the next object begins */
	if (address && address == own_definition(object, &object->symbols[ELF64_R_SYM(relocation->r_info)])
	 && !gotcha_policy_redirect(address, &elsewhere))
		return append_address_in(offset, object, address + addend);
	if (gotcha_policy_redirect(address, &elsewhere))
		return append(offset, WORD_ABSOLUTE, elsewhere + addend);
	if (is_in(gotcha_executable, address))
		address = gotcha_variable_original(address);
	const struct object *home = gotcha_object_at(address);
	if (home && home->kind == OBJECT_SHARED && refers_to_function(object, relocation, home)
	 && !(address = (uintptr_t) gotcha_trampoline((void *) address)))
		return gotcha_fail(ENOMEM, "no trampoline for what %s calls", object->path);
	if (!home || home->kind == OBJECT_SHARED)
		return append(offset, WORD_ABSOLUTE, address + addend);
	return append_address_in(offset, home, address + addend);
}

static int compile_relocation(const struct object *object, const Elf64_Rela *relocation) {
	unsigned type = ELF64_R_TYPE(relocation->r_info);
	uintptr_t address = object->base + relocation->r_offset, value;
	const struct image_object *place = &gotcha_image[object - gotcha_objects];
	if (type == R_X86_64_NONE)
		return 0;
	if (address < place->data_start || address >= place->data_end)
		return gotcha_fail(ENOEXEC, "%s: a relocation outside its writable part, at %#lx", object->path, (long) relocation->r_offset);
	uintptr_t offset = image_offset(object, address);
	switch (type) {
	case R_X86_64_RELATIVE:
		return append(offset, WORD_RELATIVE, image_offset(object, object->base + relocation->r_addend));
	case R_X86_64_IRELATIVE:
		/* the resolver's choice depends on the processor alone, and base has made it */
		value = base_word(object, relocation, 0);
		if (gotcha_policy_redirect(value, &value))
			return append(offset, WORD_ABSOLUTE, value);
		return append_address_in(offset, gotcha_object_at(value), value);
	case R_X86_64_DTPMOD64:
	case R_X86_64_DTPOFF64:
	case R_X86_64_TPOFF64:
		return append(offset, WORD_ABSOLUTE, base_word(object, relocation, 0));
	case R_X86_64_TLSDESC: {
		int error = append(offset, WORD_ABSOLUTE, base_word(object, relocation, 0));
		return error ? error : append(offset + 8, WORD_ABSOLUTE, base_word(object, relocation, 1));
	}
	default:
		return append_reference(object, relocation, offset);
	}
}

/* An even entry is the address of a word; the odd ones that follow are bitmaps of the 63 words after it. */
static int compile_relr(const struct object *object) {
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
			error = append(image_offset(object, object->base + entries[i]), WORD_ADDED, object - gotcha_objects);
			where = entries[i] + 8;
			continue;
		}
		uint64_t bits = entries[i] >> 1;
		for (size_t word = 0; !error && bits; word++, bits >>= 1)
			if (bits & 1)
				error = append(image_offset(object, object->base + where + 8 * word), WORD_ADDED, object - gotcha_objects);
		where += 63 * 8;
	}
	return error;
}

static int compile_object(const struct object *object) {
	struct plan_range *range = &gotcha_image[object - gotcha_objects].relocations;
	range->from = words_len;
	int error = compile_relr(object);
	for (size_t i = 0; !error && i < relocations_len(object); i++)
		error = compile_relocation(object, relocation_at(object, i));
	range->to = words_len;
	return error;
}

int gotcha_plan_extend(size_t from, size_t to) {
	int error = 0;
	for (size_t i = from; !error && i < to; i++)
		if (gotcha_image[i].present)
			error = compile_object(&gotcha_objects[i]);
	return error;
}

/* ------------------------------------------------------------------ what resolvers leave behind */

/* A resolver may note what it has found out about the processor, beside choosing: the C library's the sizes of
 * caches, by which memmove() goes (sysdeps/x86/cacheinfo.c). In the first copy they run, and what they
 * have written there becomes part of the plan. */
static void run_resolvers(const struct libset *set, const struct object *object) {
	uintptr_t bias = set->copies[object - gotcha_objects].base;
	for (size_t i = 0; i < relocations_len(object); i++) {
		const Elf64_Rela *relocation = relocation_at(object, i);
		if (ELF64_R_TYPE(relocation->r_info) == R_X86_64_IRELATIVE)
			((void (*)(void)) (bias + relocation->r_addend))();
	}
}

static int append_effect(const struct libset *set, const uint64_t *word) {
	size_t unused;
	uintptr_t offset = (uintptr_t) word - set->image;
	return gotcha_image_at(*word, &unused) ? append(offset, WORD_RELATIVE, *word - set->image) : append(offset, WORD_ABSOLUTE, *word);
}

static int note_effects(const struct libset *set, size_t index) {
	struct image_object *place = &gotcha_image[index];
	size_t size = place->data_end - place->data_start;
	uint64_t *data = (uint64_t *) (place->data_start - gotcha_objects[index].base + set->copies[index].base);
	uint64_t *before = malloc(size);
	if (!before)
		return gotcha_fail(ENOMEM, "no memory for the relocation plan");
	memcpy(before, data, size);
	run_resolvers(set, &gotcha_objects[index]);
	int error = 0;
	place->effects.from = words_len;
	for (size_t i = 0; !error && i < size / sizeof *data; i++)
		if (data[i] != before[i])
			error = append_effect(set, &data[i]);
	place->effects.to = words_len;
	free(before);
	place->effects_are_known = !error;
	return error;
}

/* ------------------------------------------------------------------ applying */

static void apply(const struct libset *set, const struct plan_range *range) {
	for (size_t i = range->from; i < range->to; i++) {
		const struct word *word = &words[i];
		uint64_t *at = (uint64_t *) (set->image + word->offset);
		switch (word->kind) {
		case WORD_RELATIVE: *at = set->image + word->value; break;
		case WORD_ABSOLUTE: *at = word->value; break;
		case WORD_ADDED: *at += set->copies[word->value].base; break;
		}
	}
}

/* Context: the objects' data is as in their files. */
int gotcha_plan_apply(struct libset *set, size_t from, size_t to) {
	for (size_t i = from; i < to; i++)
		apply(set, &gotcha_image[i].relocations);
	for (size_t i = from; i < to; i++) {
		if (gotcha_image[i].effects_are_known)
			apply(set, &gotcha_image[i].effects);
		else if (gotcha_image[i].present && note_effects(set, i))
			return -ENOMEM;
	}
	return 0;
}
