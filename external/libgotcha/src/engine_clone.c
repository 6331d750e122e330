/* The clone engine: copies of the loaded libraries, made by ourselves. The default: no limit but memory.
 *
 * Each function has a thread control block of its own, so a copy can use the static thread-local storage of
 * its original, which is what limits the dynamic linker's namespaces. */
#include "clone.h"

#include <errno.h>

static int prepare(void) {
	int error = gotcha_clone_check();
	if (!error)
		error = gotcha_image_lay_out();
	if (!error)
		error = gotcha_image_reserve_arena();
	return error ? error : gotcha_plan_extend(0, gotcha_image_objects);
}

static int initialise(struct libset *set, size_t from, size_t to) {
	int error = 0;
	if (!from) {
		gotcha_libset_find_libc(set);
		error = gotcha_tcb_make(set, &set->tcb);
		set->loading_tcb = set->tcb;
	} else {
		gotcha_tcb_add_copies(set, from, to);
	}
	if (!error)
		error = gotcha_clone_initialise(set, from, to);
	return error;
}

static int make(struct libset *set, size_t from, size_t to) {
	int error = gotcha_image_map(set, from, to);
	if (!error)
		error = gotcha_plan_apply(set, from, to);
	if (!error) {
		set->copies_len = to;
		/* before its constructors run: they may be what is to be looked at */
		error = gotcha_gdb_publish(set, from, to);
	}
	if (!error)
		error = initialise(set, from, to);
	return error ? error : gotcha_variables_share(set, from, to);
}

static int seal(struct libset *set, size_t from) {
	return gotcha_image_seal(set, from, set->copies_len);
}

static void unmake(struct libset *set, size_t from) {
	gotcha_gdb_withdraw(set, from, gotcha_image_objects);
	gotcha_image_unmap(set, from, gotcha_image_objects);
	set->copies_len = from;
}

static int create(struct libset *set) {
	if (gotcha_libsets_len() >= gotcha_image_limit())
		return gotcha_fail(EAGAIN, "%zu libsets have been made: the kernel grants this process no mappings for more (vm.max_map_count)",
			gotcha_libsets_len());
	return make(set, 0, gotcha_image_objects);
}

static int extend(struct libset *set) {
	size_t known = gotcha_image_objects;
	int error = gotcha_image_lay_out();
	if (!error && gotcha_image_objects > known)
		error = gotcha_plan_extend(known, gotcha_image_objects);
	return error ? error : make(set, set->copies_len, gotcha_image_objects);
}

static struct libset *find(uintptr_t address) {
	size_t object;
	return gotcha_image_at(address, &object);
}

const struct engine gotcha_engine_clone = {
	.name = "clone", .shares_unwinder = true, .prepare = prepare, .create = create, .extend = extend, .seal = seal, .unmake = unmake,
	.limit = gotcha_image_limit, .find = find,
};
