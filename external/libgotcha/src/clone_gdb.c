/* Telling a debugger of the clone engine's copies, with LIBGOTCHA_GDB=1.
 *
 * A debugger follows ld.so's lists of link maps, one for each namespace, from the executable's DT_DEBUG entry, and
 * looks at them anew whenever ld.so calls an empty function. One more list holds our copies. It is for the asking,
 * as the debugger then reads every library once for each libset. */
#include "clone.h"

#include <errno.h>
#include <stdlib.h>

/* <link.h> has had it since 2.35; older ones have no such lists. */
struct debug_list {
	struct r_debug base;
	struct debug_list *next;
};

static struct debug_list ours, *root;

static int find_root(void) {
	if (!gotcha_dl_debug_state)
		return gotcha_fail(ENOSYS, "LIBGOTCHA_GDB: this C library's debugger interface knows one namespace only");
	for (const Elf64_Dyn *entry = gotcha_executable->map->l_ld; entry->d_tag != DT_NULL; entry++)
		if (entry->d_tag == DT_DEBUG)
			root = (struct debug_list *) entry->d_un.d_ptr;
	return root ? 0 : gotcha_fail(ENOSYS, "LIBGOTCHA_GDB: the executable has no DT_DEBUG entry");
}

static void append_ours(void) {
	ours.base = root->base;
	ours.base.r_map = NULL;
	ours.base.r_version = 2;
	ours.base.r_state = RT_CONSISTENT;
	struct debug_list **end = &root->next;
	while (*end)
		end = &(*end)->next;
	*end = &ours;
	root->base.r_version = 2;
}

/* Each change is announced twice, before and after. */
static void announce(int state) {
	root->base.r_state = state;
	gotcha_dl_debug_state();
}

int gotcha_gdb_publish(struct libset *set, size_t from, size_t to) {
	if (!gotcha_config.tells_debugger)
		return 0;
	if (!root) {
		int error = find_root();
		if (error)
			return error;
		append_ours();
	}
	announce(RT_ADD);
	int error = 0;
	for (size_t i = from; !error && i < to; i++) {
		if (!set->copies[i].base)
			continue;
		const struct object *object = &gotcha_objects[i];
		struct link_map *map = calloc(1, sizeof *map);
		if (!map) {
			error = gotcha_fail(ENOMEM, "no memory to tell the debugger of libset %ld", set->number);
			break;
		}
		*map = (struct link_map) {
			.l_addr = set->copies[i].base,
			.l_name = (char *) object->path,
			.l_ld = (void *) ((uintptr_t) object->map->l_ld - object->base + set->copies[i].base),
			.l_next = ours.base.r_map,
		};
		if (map->l_next)
			map->l_next->l_prev = map;
		ours.base.r_map = map;
	}
	announce(RT_CONSISTENT);
	return error;
}

void gotcha_gdb_withdraw(struct libset *set, size_t from, size_t to) {
	if (!root)
		return;
	announce(RT_DELETE);
	for (struct link_map *map = ours.base.r_map, *next; map; map = next) {
		next = map->l_next;
		size_t object;
		if (gotcha_image_at((uintptr_t) map->l_ld, &object) != set || object < from || object >= to)
			continue;
		if (map->l_prev)
			map->l_prev->l_next = next;
		else
			ours.base.r_map = next;
		if (next)
			next->l_prev = map->l_prev;
		free(map);
	}
	announce(RT_CONSISTENT);
}
