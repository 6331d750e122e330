/* What the files of the clone engine share.
 *
 * An *image* is the memory of one libset: a copy of each replicated object, at the same offsets in every
 * libset. Images lie in one reserved range of addresses, the *arena*, one *stride* apart: so an address tells
 * its libset and object without an index that would have to be locked. */
#ifndef GOTCHA_CLONE_H
#define GOTCHA_CLONE_H

#include "internal.h"

#include <sys/types.h>

/* A replicated object's place in every image. All zero: not in images. */
struct image_object {
	bool present;
	uintptr_t offset;               /* of its first page in the image */
	uintptr_t data_start, data_end; /* base's addresses of its writable pages */
	uintptr_t data_offset;          /* of these in the libset's data file */
	ino_t inode;                    /* of the file that base has mapped */
	struct plan_range {
		size_t from, to;
	} relocations, effects;         /* its parts of the plan: its relocations; what its ifuncs' resolvers store... */
	bool effects_are_known;         /* ...once they have run in a copy */
};

extern struct image_object gotcha_image[MAX_OBJECTS];
extern size_t gotcha_image_objects;     /* base's objects [0, this) are laid out */

/* clone_image.c */
int gotcha_image_lay_out(void);
int gotcha_image_reserve_arena(void);
/* Maps objects [from, to) of the libset's image, writable and shared with its data file. */
int gotcha_image_map(struct libset *, size_t from, size_t to);
/* From here on what the libset writes is its own, and the data file keeps what was there. */
int gotcha_image_seal(struct libset *, size_t from, size_t to);
void gotcha_image_unmap(struct libset *, size_t from, size_t to);
/* How many images there can be. */
size_t gotcha_image_limit(void);
/* The libset and object whose copy `address` is in; NULL if it is in no image. */
struct libset *gotcha_image_at(uintptr_t address, size_t *object);

/* clone_plan.c */
/* 0 if the object can be copied at all. */
int gotcha_plan_check(const struct object *);
int gotcha_plan_extend(size_t from, size_t to);
int gotcha_plan_apply(struct libset *, size_t from, size_t to);

/* clone_gdb.c */
int gotcha_gdb_publish(struct libset *, size_t from, size_t to);
void gotcha_gdb_withdraw(struct libset *, size_t from, size_t to);

/* clone_init.c */
/* 0 if this is a C library whose copies can be initialised. */
int gotcha_clone_check(void);
int gotcha_clone_initialise(struct libset *, size_t from, size_t to);

#endif
