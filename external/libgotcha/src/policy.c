/* The policy table: what a call of each function does inside a libset.  The default, for functions
 * without a row, is the libset's own copy.  The rows live beside their wrappers, one file a topic. */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct rows *const tables[] = {
	&gotcha_rows_unwind, &gotcha_rows_descriptors, &gotcha_rows_donation, &gotcha_rows_heap, &gotcha_rows_libc_heap, &gotcha_rows_jumps, &gotcha_rows_loader, &gotcha_rows_locale,
	&gotcha_rows_locks, &gotcha_rows_process, &gotcha_rows_signals, &gotcha_rows_streams, &gotcha_rows_threads, &gotcha_rows_valgrind,
	&gotcha_rows_waits,
};

enum { HASH_SIZE = 4096 };
static const struct row *by_address[HASH_SIZE];

static size_t hash(const void *address) {
	return ((uintptr_t) address >> 2) * 2654435761u % HASH_SIZE;
}

/* Rows speak of the C library's functions and ld.so's: what another library calls by the same name is
 * another function. Only a heap is replaced as a whole, and is that of whoever defines malloc(). */
static void *find_base(const struct rows *table, const char *name) {
	if (table == &gotcha_rows_heap)
		return gotcha_base_symbol(name);
	struct object *home = gotcha_libc;
	const Elf64_Sym *symbol = gotcha_lookup_in(home, name, NULL);
	if (!symbol)
		symbol = gotcha_lookup_in(home = gotcha_loader, name, NULL);
	return symbol ? gotcha_definition_address(home, symbol) : NULL;
}

void *gotcha_libc_symbol(const char *name) {
	return find_base(NULL, name);
}

#ifdef GOTCHA_TESTING
/* Only in a library that is built for its own tests: LIBGOTCHA_TEST_OFF=name,name switches rows off,
 * all names of those functions at once; "?" writes the names of all rows to standard error. A row
 * that is off keeps its address, because other rows' wrappers call it, but nothing leads to it.
 * "backstop" stands for the handler's look at the interrupted code; other names that are no function's for
 * what asks gotcha_part_is_off(). */
bool gotcha_backstop_is_off;

bool gotcha_part_is_off(const char *part) {
	const char *list = getenv("LIBGOTCHA_TEST_OFF");
	return list && !strcmp(list, part);
}

static bool is_off(const struct rows *table, const struct row *row) {
	const char *list = getenv("LIBGOTCHA_TEST_OFF");
	if (!list)
		return false;
	if (!strcmp(list, "?"))
		dprintf(STDERR_FILENO, "row %s %p\n", row->name, row->base);
	char name[64];
	for (int length; sscanf(list, "%63[^,]%n", name, &length) == 1; list += length + (list[length] == ','))
		if (!strcmp(name, "backstop"))
			gotcha_backstop_is_off = true;
		else if (find_base(table, name) == row->base)
			return true;
	return false;
}
#else
static bool is_off(const struct rows *table, const struct row *row) {
	(void) table;
	(void) row;
	return false;
}
#endif

/* Rows that serve one engine only. */
static bool counts(const struct rows *table) {
	return table != &gotcha_rows_unwind || gotcha_engine->shares_unwinder;
}

static int bind_row(const struct rows *table, struct row *row) {
	row->base = find_base(table, row->name);
	if (!row->base || is_off(table, row))
		return 0;
	size_t at = hash(row->base);
	for (size_t probes = 0; by_address[at]; at = (at + 1) % HASH_SIZE) {
		/* two names of one function: the first row speaks for it */
		if (by_address[at]->base == row->base)
			return 0;
		if (++probes == HASH_SIZE)
			return gotcha_fail(ENOMEM, "the policy table is full");
	}
	by_address[at] = row;
	return gotcha_config.trace_calls ? gotcha_trace_calls_of(row) : 0;
}

/* Variables of the C library that are one per process.  Its copies reach them through their GOTs,
 * since any of them may have been copied into the executable. */
static const char *const shared_data[] = {
	"stdin", "stdout", "stderr", "environ", "__environ", "_environ", "optarg", "optind", "opterr", "optopt",
};
static uintptr_t shared_addresses[lengthof(shared_data)];

int gotcha_policy_bind(void) {
	memset(by_address, 0, sizeof by_address);
	for (size_t i = 0; i < lengthof(shared_data); i++)
		shared_addresses[i] = (uintptr_t) gotcha_base_symbol(shared_data[i]);
	int error = gotcha_valgrind_init();
	if (error)
		return error;
	for (size_t i = 0; i < lengthof(tables); i++)
		for (size_t j = 0; counts(tables[i]) && j < tables[i]->length; j++) {
			if ((error = bind_row(tables[i], &tables[i]->first[j])))
				return error;
		}
	return 0;
}

const struct row *gotcha_policy_find(const void *base_function) {
	for (size_t at = hash(base_function); by_address[at]; at = (at + 1) % HASH_SIZE)
		if (by_address[at]->base == base_function)
			return by_address[at];
	return NULL;
}

/* ------------------------------------------------------------------ what copies bind to */

/* What an object that is not replicated defines.  Not the variables that the executable has copied from a library:
 * see variables.c. */
static void export_object(struct object *object, void (*visit)(void *, const char *, uintptr_t, bool), void *closure) {
	size_t length = gotcha_object_symbols_len(object);
	for (size_t i = 1; i < length; i++) {
		const Elf64_Sym *symbol = &object->symbols[i];
		unsigned char binding = ELF64_ST_BIND(symbol->st_info), type = ELF64_ST_TYPE(symbol->st_info);
		if (symbol->st_shndx == SHN_UNDEF || binding == STB_LOCAL || type == STT_TLS || type == STT_SECTION)
			continue;
		if (ELF64_ST_VISIBILITY(symbol->st_other) != STV_DEFAULT && ELF64_ST_VISIBILITY(symbol->st_other) != STV_PROTECTED)
			continue;
		struct object *home;
		const char *name = object->strings + symbol->st_name;
		if (!gotcha_lookup(NULL, name, NULL, &home) || home != object)
			continue;
		void *address = gotcha_definition_address(object, symbol);
		if (type == STT_OBJECT && gotcha_variable_original((uintptr_t) address) != (uintptr_t) address)
			continue;
		/* a copy's calls of a shared library are as everybody's */
		void *trampoline = object->kind == OBJECT_SHARED && gotcha_is_function(symbol) ? gotcha_trampoline(address) : NULL;
		visit(closure, name, (uintptr_t) (trampoline ? trampoline : address), gotcha_is_function(symbol));
	}
}

static uintptr_t row_target(const struct row *row) {
	return (uintptr_t) (row->wrapper ? row->wrapper : row->base);
}

/* Does the name lead to another function than the C library's, in base and hence in copies? */
static bool is_interposed(const char *name) {
	struct object *home;
	return gotcha_lookup(NULL, name, NULL, &home) && home != gotcha_libc && home != gotcha_loader;
}

/* A function may have several names (puts and _IO_puts); each must lead to the same place. */
static void export_aliases(const struct object *object, void (*visit)(void *, const char *, uintptr_t, bool), void *closure) {
	size_t length = gotcha_object_symbols_len(object);
	for (size_t i = 1; i < length; i++) {
		const Elf64_Sym *symbol = &object->symbols[i];
		if (symbol->st_shndx == SHN_UNDEF || ELF64_ST_TYPE(symbol->st_info) != STT_FUNC)
			continue;
		const struct row *row = gotcha_policy_find((void *) (object->base + symbol->st_value));
		const char *name = object->strings + symbol->st_name;
		if (row && !is_interposed(name))
			visit(closure, name, row_target(row), true);
	}
}

bool gotcha_policy_redirect(uintptr_t address, uintptr_t *target) {
	const struct row *row = gotcha_policy_find((void *) address);
	if (row) {
		*target = row_target(row);
		return true;
	}
	bool is_shared = address == gotcha_loader_shadowed && !gotcha_part_is_off("shadow");
	*target = is_shared ? (uintptr_t) gotcha_loader_shadow : address;
	for (size_t i = 0; i < lengthof(shared_data) && !is_shared; i++)
		is_shared = address && address == shared_addresses[i];
	return is_shared;
}

/* Of two symbols of one name the later counts (see build_hash() in engine_dlmopen.c): rows come
 * last. */
void gotcha_policy_exports(void (*visit)(void *, const char *, uintptr_t, bool), void *closure) {
	for (size_t i = 0; i < gotcha_objects_len; i++) {
		struct object *object = &gotcha_objects[i];
		if (object->kind != OBJECT_REPLICATED && object->kind != OBJECT_LOADER)
			export_object(object, visit, closure);
	}
	for (size_t i = 0; i < lengthof(shared_data); i++)
		if (shared_addresses[i])
			visit(closure, shared_data[i], shared_addresses[i], false);
	if (gotcha_loader_shadow)
		visit(closure, "_rtld_global_ro", (uintptr_t) gotcha_loader_shadow, false);
	export_aliases(gotcha_libc, visit, closure);
	export_aliases(gotcha_loader, visit, closure);
	for (size_t i = 0; i < lengthof(tables); i++)
		for (size_t j = 0; j < tables[i]->length; j++) {
			const char *name = tables[i]->first[j].name;
			const struct row *row = gotcha_policy_find(tables[i]->first[j].base);
			if (row && (tables[i] == &gotcha_rows_heap || !is_interposed(name)))
				visit(closure, name, row_target(row), true);
		}
}
