/* What the process's unwinder, backtraces and dladdr() have to know about copies that the dynamic linker has
 * not loaded: these rows answer for addresses in images, and leave the rest to base. */
#include "clone.h"
#include "forward.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { FIND_OBJECT, ITERATE, DLADDR, DLADDR1, SYMBOLS, SYMBOLS_FD };
static struct row rows[];
#define BASE(index, type) ((__typeof__(type) *) rows[index].base)

/* dlfcn.h struct dl_find_object, public since 2.35 */
struct found_object {
	unsigned long long flags;
	void *start, *end;
	struct link_map *map;
	void *eh_frame_header;
	unsigned long long reserved[7];
};

/* Context: any, also in the middle of an unwinding: no lock, no bracket needed. */
static int find_object(void *address, struct found_object *found) {
	size_t index;
	if (gotcha_is_stack_end((uintptr_t) address))
		return -1;
	struct libset *set = gotcha_image_at((uintptr_t) address, &index);
	if (!set)
		return BASE(FIND_OBJECT, int(void *, struct found_object *))(address, found);
	const struct object *object = &gotcha_objects[index];
	uintptr_t bias = set->copies[index].base - object->base;
	memset(found, 0, sizeof *found);
	found->start = (void *) (object->start + bias);
	found->end = (void *) (object->end + bias);
	found->map = object->map;
	for (size_t i = 0; i < object->segments_len; i++)
		if (object->segments[i].p_type == PT_GNU_EH_FRAME)
			found->eh_frame_header = (void *) (set->copies[index].base + object->segments[i].p_vaddr);
	return 0;
}

struct own_view {
	const struct libset *set;
	gotcha_phdr_visitor *visit;
	void *closure;
};

static int visit_own(struct dl_phdr_info *info, size_t size, void *closure) {
	const struct own_view *view = closure;
	struct dl_phdr_info own = { 0 };
	memcpy(&own, info, size < sizeof own ? size : sizeof own);
	for (size_t i = 0; i < view->set->copies_len; i++)
		if (view->set->copies[i].base && gotcha_objects[i].base == info->dlpi_addr) {
			own.dlpi_addr = view->set->copies[i].base;
			break;
		}
	return view->visit(&own, size, view->closure);
}

/* A function finds its libset's copies in their originals' place: unwinders that go by this list look for the code
 * that they are run by. */
static int iterate_phdr(gotcha_phdr_visitor *visit, void *closure) {
	int (*base)(gotcha_phdr_visitor *, void *) = BASE(ITERATE, int(gotcha_phdr_visitor *, void *));
	struct own_view view = { THIS.set, visit, closure };
	return view.set ? gotcha_iterate_phdr(base, visit_own, &view) : gotcha_iterate_phdr(base, visit, closure);
}

/* How far the image's copy of an object at `address` lies from its original; 0: there is none. */
static uintptr_t bias_of(uintptr_t address) {
	size_t index;
	struct libset *set = gotcha_image_at(address, &index);
	return set ? set->copies[index].base - gotcha_objects[index].base : 0;
}

/* Also of the copies that the dynamic linker has made: of those it knows. */
bool libgotcha_find_place(uintptr_t address, struct libgotcha_place *place) {
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	Dl_info info;
	struct link_map *map = NULL;
	uintptr_t original = address - bias_of(address);
	bool found = dladdr1((void *) original, &info, (void **) &map, RTLD_DL_LINKMAP) && map;
	if (found)
		*place = (struct libgotcha_place) { *map->l_name ? map->l_name : gotcha_executable->path, original - map->l_addr };
	gotcha_hosted_leave(&guard);
	return found;
}

/* The original tells the symbol; the addresses are the copy's. */
static int describe(const void *address, Dl_info *info, void **extra, int flags) {
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	address = gotcha_behind_trampoline(address);
	uintptr_t bias = bias_of((uintptr_t) address);
	int result = BASE(DLADDR1, int(const void *, Dl_info *, void **, int))((const char *) address - bias, info, extra, flags);
	if (result && bias) {
		info->dli_fbase = (char *) info->dli_fbase + bias;
		if (info->dli_saddr)
			info->dli_saddr = (char *) info->dli_saddr + bias;
	}
	gotcha_hosted_leave(&guard);
	return result;
}

static int unwind_dladdr(const void *address, Dl_info *info) {
	return describe(address, info, NULL, 0);
}

static int unwind_dladdr1(const void *address, Dl_info *info, void **extra, int flags) {
	return describe(address, info, extra, flags);
}

/* The C library's own uses an internal form of dladdr(). */
static int symbol_line(const void *address, char *line, size_t room) {
	Dl_info info;
	if (!describe(address, &info, NULL, 0))
		return snprintf(line, room, "[%p]", address);
	const char *from = info.dli_saddr ? info.dli_saddr : info.dli_fbase;
	return snprintf(line, room, "%s(%s+0x%lx) [%p]", info.dli_fname, info.dli_sname ? info.dli_sname : "",
		(unsigned long) ((const char *) gotcha_behind_trampoline(address) - from), address);
}

static char **unwind_backtrace_symbols(void *const *addresses, int length) {
	enum { LINE = 512 };
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	char **lines = gotcha_base_malloc(length * (sizeof *lines + LINE));
	char *next = (char *) (lines + length);
	for (int i = 0; lines && i < length; i++, next += LINE) {
		lines[i] = next;
		symbol_line(addresses[i], next, LINE);
	}
	gotcha_hosted_leave(&guard);
	return lines;
}

static void unwind_backtrace_symbols_fd(void *const *addresses, int length, int file) {
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	for (int i = 0; i < length; i++) {
		char line[512];
		symbol_line(addresses[i], line, sizeof line);
		dprintf(file, "%s\n", line);
	}
	gotcha_hosted_leave(&guard);
}

static struct row rows[] = {
	[FIND_OBJECT] = { "_dl_find_object", find_object, true },
	[ITERATE] = { "dl_iterate_phdr", iterate_phdr, true },
	[DLADDR] = { "dladdr", unwind_dladdr, true },
	[DLADDR1] = { "dladdr1", unwind_dladdr1, true },
	[SYMBOLS] = { "backtrace_symbols", unwind_backtrace_symbols, true },
	[SYMBOLS_FD] = { "backtrace_symbols_fd", unwind_backtrace_symbols_fd, true },
};
struct rows gotcha_rows_unwind = { rows, lengthof(rows) };
