/* The clone engine's initialisation: constructors run on a TCB of the libset, in the order in which the
 * dynamic linker would run them. What they allocate is part of the libset (policy_heap.c), and what they
 * register for the process's end is dropped (policy_process.c). */
#include "clone.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef void initialiser(int, char **, char **);

/* ------------------------------------------------------------------ order */

/* Those that an object needs come before it; in a circle, the one that was reached first comes last. */
static size_t visit(struct object *object, bool *visited, struct object **order, size_t length) {
	if (visited[object - gotcha_objects])
		return length;
	visited[object - gotcha_objects] = true;
	for (const Elf64_Dyn *entry = object->map->l_ld; entry->d_tag != DT_NULL; entry++) {
		struct object *needed = entry->d_tag == DT_NEEDED
			? gotcha_object_needed(object->strings + entry->d_un.d_val) : NULL;
		if (needed)
			length = visit(needed, visited, order, length);
	}
	order[length] = object;
	return length + 1;
}

/* ------------------------------------------------------------------ one object */

struct arguments {
	int count;
	char **values;
};

static struct arguments program_arguments(void) {
	char ***values = dlvsym(RTLD_DEFAULT, "_dl_argv", "GLIBC_PRIVATE");
	static char *none[] = { NULL };
	struct arguments arguments = { 0, values && *values ? *values : none };
	while (arguments.values[arguments.count])
		arguments.count++;
	return arguments;
}

static void run_constructors(const struct libset *set, const struct object *object, const struct arguments *arguments) {
	uintptr_t bias = set->copies[object - gotcha_objects].base;
	uintptr_t array = 0;
	size_t array_bytes = 0;
	initialiser *first = NULL;
	for (const Elf64_Dyn *entry = object->map->l_ld; entry->d_tag != DT_NULL; entry++) {
		/* these hold link-time addresses: ld.so does not relocate them */
		if (entry->d_tag == DT_INIT)
			first = (initialiser *) (bias + entry->d_un.d_ptr);
		else if (entry->d_tag == DT_INIT_ARRAY)
			array = bias + entry->d_un.d_ptr;
		else if (entry->d_tag == DT_INIT_ARRAYSZ)
			array_bytes = entry->d_un.d_val;
	}
	if (first)
		first(arguments->count, arguments->values, environ);
	for (size_t i = 0; i < array_bytes / sizeof(initialiser *); i++)
		((initialiser **) array)[i](arguments->count, arguments->values, environ);
}

static void *copy_of(const struct libset *set, const char *name) {
	const Elf64_Sym *symbol = gotcha_lookup_in(gotcha_libc, name, NULL);
	return symbol ? (void *) (set->copies[gotcha_libc - gotcha_objects].base + symbol->st_value) : NULL;
}

static const char early_init_name[] = "__libc_early_init", stdin_name[] = "_IO_2_1_stdin_";

int gotcha_clone_check(void) {
	if (gotcha_part_is_off("clone_engine"))
		return gotcha_unknown_libc("copies cannot be initialised, says LIBGOTCHA_TEST_OFF");
	if (!gotcha_lookup_in(gotcha_libc, early_init_name, NULL) || !gotcha_lookup_in(gotcha_libc, stdin_name, NULL))
		return gotcha_unknown_libc("__libc_early_init or _IO_2_1_stdin_ is missing");
	return 0;
}

/* IO_accept_foreign_vtables, which nothing exports: a mangled pointer to a function of the copy's, the only one before
 * the copy is used. */
static bool notes_foreign_streams(const struct libset *set) {
	static bool is_known;
	const struct image_object *place = &gotcha_image[gotcha_libc - gotcha_objects];
	uintptr_t bias = set->copies[gotcha_libc - gotcha_objects].base - gotcha_libc->base;
	const uintptr_t *word = (const uintptr_t *) (place->data_start + bias), *end = (const uintptr_t *) (place->data_end + bias);
	for (; !is_known && word < end; word++)
		is_known = gotcha_demangle(*word) - set->libc_start < place->data_start - gotcha_libc->start;
	return is_known;
}

/* libio/vtables.c: the C library aborts on a stream whose vtable is not its own, unless a constructor of its
 * finds that the program's standard streams already have such (check_stdfiles_vtables). A copy meets base's
 * streams all the time: it is shown one during that constructor. */
static int initialise_libc(const struct libset *set, const struct arguments *arguments) {
	void (*early_init)(_Bool) = (void (*)(_Bool)) copy_of(set, early_init_name);
	early_init(false);
	FILE *standard = copy_of(set, stdin_name);
	void **vtable = (void **) (standard + 1), *saved = *vtable;
	if (!gotcha_part_is_off("vtables"))
		*vtable = NULL;
	run_constructors(set, gotcha_libc, arguments);
	*vtable = saved;
	return notes_foreign_streams(set) ? 0 : gotcha_unknown_libc("copies would not take the program's streams (LIBGOTCHA_LOADER=dlmopen does without)");
}

/* Context: base or hosted, under the lock; `set` has a loading TCB. */
int gotcha_clone_initialise(struct libset *set, size_t from, size_t to) {
	bool *visited = calloc(gotcha_objects_len, sizeof *visited);
	struct object **order = calloc(gotcha_objects_len, sizeof(struct object *));
	if (!visited || !order) {
		free(visited);
		free(order);
		return gotcha_fail(ENOMEM, "no memory for the order of constructors");
	}
	size_t length = visit(gotcha_libc, visited, order, 0);
	for (size_t i = 0; i < gotcha_objects_len; i++)
		length = visit(&gotcha_objects[i], visited, order, length);
	struct arguments arguments = program_arguments();
	uintptr_t host = thread_pointer();
	gotcha_set_thread_pointer(set->loading_tcb);
	int error = 0;
	for (size_t i = 0; !error && i < length; i++) {
		size_t index = order[i] - gotcha_objects;
		if (index < from || index >= to || !gotcha_image[index].present)
			continue;
		if (order[i] == gotcha_libc)
			error = initialise_libc(set, &arguments);
		else
			run_constructors(set, order[i], &arguments);
	}
	gotcha_set_thread_pointer(host);
	free(visited);
	free(order);
	return error;
}
