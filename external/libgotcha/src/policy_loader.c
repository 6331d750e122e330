/* Policy of the dynamic linker: base's, on the caller's TCB, not preempted.  Its locks are recursive
 * by tid and its lists are the process's, so no function may be paused inside it.
 *
 * The C library also calls it from within (for NSS, iconv, and libgcc_s at a thread's end), not
 * through its GOT but through pointers in ld.so's _rtld_global_ro. Since 2.34 its own dl* functions
 * look there for a hook first (made for programs that are linked statically: sysdeps/generic/ldsodefs.h
 * _dl_dlfcn_hook, elf/dl-libc.c). So the copies are bound to a *shadow* of that structure, which is
 * constant after start-up, with the hook set. */
#include "internal.h"
#include "forward.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { DLOPEN, DLSYM, DLVSYM, DLCLOSE, DLERROR, DLADDR, DLADDR1, DLINFO, DLMOPEN, ITERATE, SYMBOLS, SYMBOLS_FD, BACKTRACE, FIND_OBJECT };
static struct row rows[];
#define BASE(index, type) ((__typeof__(type) *) rows[index].base)

/* ------------------------------------------------------------------ opening */

/* The caller's libset gets its copies at once, the others before they run their next functions: constructors
 * must not run beside a function that is paused with locks of its libset. Here they run on the caller's TCB.
 * Context: hosted. */
static void adopt_new_objects(struct libset *set, uintptr_t tcb) {
	gotcha_lock();
	size_t had = gotcha_objects_len;
	int error = gotcha_objects_refresh();
	gotcha_tcb_add_base(had, gotcha_objects_len);
	if (gotcha_intercept_objects())
		gotcha_trace_failure();
	if (!error && set)
		error = gotcha_libset_extend(set, tcb);
	if (error)
		gotcha_trace_failure();
	gotcha_unlock();
}

/* A copy that is still being made is known to ld.so alone. */
static struct object *object_in_making(uintptr_t address) {
	Dl_info info;
	struct link_map *map;
	if (!dladdr1((void *) address, &info, (void **) &map, RTLD_DL_LINKMAP))
		return NULL;
	for (size_t i = 0; i < gotcha_objects_len; i++)
		if (!strcmp(gotcha_objects[i].path, map->l_name))
			return &gotcha_objects[i];
	return gotcha_object_needed(map->l_name);
}

/* The base object whose code, or whose copy's code in `set`, is at `address`. */
static struct object *object_of_caller(const struct libset *set, uintptr_t address) {
	struct object *object = gotcha_object_at(address);
	for (size_t i = 0; !object && set && i < set->copies_len; i++) {
		struct object *original = &gotcha_objects[i];
		if (set->copies[i].base && address - set->copies[i].base + original->base - original->start
				< original->end - original->start)
			object = original;
	}
	return object ? object : object_in_making(address);
}

/* To base's dlopen() the caller is this object; but the caller's own RUNPATH or RPATH counts. Those
 * folders of its search list that come before what it shares with ours are tried here. */
static Dl_serinfo *search_list(struct link_map *map) {
	Dl_serinfo size, *list = NULL;
	if (dlinfo(map, RTLD_DI_SERINFOSIZE, &size) || !(list = gotcha_base_malloc(size.dls_size)))
		return NULL;
	if (dlinfo(map, RTLD_DI_SERINFOSIZE, list) || dlinfo(map, RTLD_DI_SERINFO, list)) {
		gotcha_base_free(list);
		return NULL;
	}
	return list;
}

static size_t own_part(const Dl_serinfo *callers, const Dl_serinfo *ours) {
	size_t length = callers->dls_cnt, rest = ours->dls_cnt;
	while (length && rest && !strcmp(callers->dls_serpath[length - 1].dls_name, ours->dls_serpath[rest - 1].dls_name)) {
		length--;
		rest--;
	}
	return length;
}

/* ld.so passes over files that are not for this machine. */
static bool is_library(const char *path) {
	Elf64_Ehdr header;
	int file = open(path, O_RDONLY | O_CLOEXEC);
	bool whole = file >= 0 && read(file, &header, sizeof header) == sizeof header;
	if (file >= 0)
		close(file);
	return whole && !memcmp(header.e_ident, ELFMAG, SELFMAG) && header.e_ident[EI_CLASS] == ELFCLASS64
		&& header.e_machine == EM_X86_64;
}

/* The file that the caller's own folders hold under this name; false: none. */
static bool find_for_caller(const struct libset *set, uintptr_t caller, const char *name, char *path, size_t room) {
	struct object *object = object_of_caller(set, caller), *own = gotcha_object_at((uintptr_t) find_for_caller);
	if (!object || !own || object == own)
		return false;
	Dl_serinfo *callers = search_list(object->map), *ours = search_list(own->map);
	bool found = false;
	for (size_t i = 0; callers && ours && !found && i < own_part(callers, ours); i++)
		found = (size_t) snprintf(path, room, "%s/%s", callers->dls_serpath[i].dls_name, name) < room && is_library(path);
	gotcha_base_free(callers);
	gotcha_base_free(ours);
	return found;
}

/* How deep this kernel thread is in base's dlopen(), that is, in constructors: these hold ld.so's lock, for which
 * a thread that makes a libset waits with gotcha_lock() held. So what they open is adopted after them. */
static __thread unsigned opening;

static void *open_for(const struct libset *set, uintptr_t caller, const char *file, int mode) {
	void *(*base)(const char *, int) = BASE(DLOPEN, void *(const char *, int));
	char path[PATH_MAX];
	void *handle = NULL;
	opening++;
	bool is_name = file && *file && !strchr(file, '/');
	/* what is loaded under this name is meant, wherever it lies */
	if (is_name)
		handle = base(file, mode | RTLD_NOLOAD);
	if (!handle)
		handle = base(is_name && find_for_caller(set, caller, file, path, sizeof path) ? path : file, mode);
	opening--;
	return handle;
}

static void *open_and_adopt(uintptr_t caller, const char *file, int mode) {
	struct libset *set = THIS.set;
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	void *handle = open_for(set, caller, file, mode);
	if (handle && !(mode & RTLD_NOLOAD) && !opening)
		adopt_new_objects(set, guard.virtual_tcb ? guard.virtual_tcb : thread_pointer());
	gotcha_hosted_leave(&guard);
	return handle;
}

static void *loader_dlopen(const char *file, int mode) {
	return open_and_adopt((uintptr_t) __builtin_return_address(0), file, mode);
}

FORWARD_HOSTED(dlclose, rows[DLCLOSE].base)
FORWARD_HOSTED(dlerror, rows[DLERROR].base)
FORWARD_HOSTED(dlinfo, rows[DLINFO].base)
FORWARD_HOSTED(dlmopen, rows[DLMOPEN].base)
static int loader_iterate_phdr(gotcha_phdr_visitor *visit, void *closure) {
	return gotcha_iterate_phdr(BASE(ITERATE, int(gotcha_phdr_visitor *, void *)), visit, closure);
}

FORWARD_DEFERRED(backtrace, rows[BACKTRACE].base)

/* ------------------------------------------------------------------ describing addresses */

/* Programs find functions' addresses in GOTs, where they are trampolines', of which ld.so knows nothing. */
static int loader_dladdr(const void *address, Dl_info *info) {
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	int result = BASE(DLADDR, int(const void *, Dl_info *))(gotcha_behind_trampoline(address), info);
	gotcha_hosted_leave(&guard);
	return result;
}

static int loader_dladdr1(const void *address, Dl_info *info, void **extra, int flags) {
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	int result = BASE(DLADDR1, int(const void *, Dl_info *, void **, int))(gotcha_behind_trampoline(address), info, extra, flags);
	gotcha_hosted_leave(&guard);
	return result;
}

/* The libset's own copy, not preempted. Return addresses never are trampolines': only who asks for others pays
 * for a list. */
static long symbols_of(struct row *row, void *const *addresses, int length, int file) {
	bool in_set = in_libset();
	forwarded *function = (forwarded *) (in_set ? libc_copy(THIS.set, row->base) : row->base);
	struct shared_guard guard;
	shared_enter(&guard);
	void **list = NULL;
	for (int i = 0; i < length && !list; i++)
		if (gotcha_behind_trampoline(addresses[i]) != addresses[i])
			list = gotcha_base_malloc(length * sizeof *list);
	for (int i = 0; list && i < length; i++)
		list[i] = gotcha_behind_trampoline(addresses[i]);
	long result = function((long) (list ? list : addresses), length, file, 0, 0, 0);
	gotcha_base_free(list);
	shared_leave(&guard);
	return result;
}

static char **loader_backtrace_symbols(void *const *addresses, int length) {
	return (char **) symbols_of(&rows[SYMBOLS], addresses, length, -1);
}

static void loader_backtrace_symbols_fd(void *const *addresses, int length, int file) {
	symbols_of(&rows[SYMBOLS_FD], addresses, length, file);
}

/* ------------------------------------------------------------------ finding */

static void *find_in(struct object *object, const char *name, const char *version) {
	const Elf64_Sym *symbol = gotcha_lookup_in(object, name, version);
	if (!symbol)
		return NULL;
	/* a thread-local's address is this thread's: ld.so tells it, and finds the object itself first */
	if (ELF64_ST_TYPE(symbol->st_info) == STT_TLS)
		return BASE(DLSYM, void *(void *, const char *))(object->map, name);
	return gotcha_definition_address(object, symbol);
}

/* RTLD_NEXT counts from the caller's object, which to base's dlsym() would be this one: on through the
 * program's global scope, or through what an object that dlopen() has opened needs. */
static void *find_next(const struct libset *set, uintptr_t caller, const char *name, const char *version) {
	struct object *from = object_of_caller(set, caller);
	void *found = NULL;
	if (!from || (size_t) (from - gotcha_objects) < gotcha_startup_len) {
		for (size_t i = from ? from - gotcha_objects + 1 : 0; !found && i < gotcha_startup_len; i++)
			found = find_in(&gotcha_objects[i], name, version);
	} else {
		uint16_t needed[MAX_OBJECTS];
		size_t length = gotcha_objects_needed(from, needed);
		for (size_t i = 0; !found && i < length; i++)
			found = find_in(&gotcha_objects[needed[i]], name, version);
	}
	if (!found) {
		/* no object has a symbol of this name: for dlerror() */
		char missing[256];
		snprintf(missing, sizeof missing, "%s (after %s)", name, from ? from->name : "its caller");
		BASE(DLSYM, void *(void *, const char *))(gotcha_loader->map, missing);
	}
	return found;
}

static void *find(void *handle, const char *name, const char *version, uintptr_t caller) {
	const struct libset *set = THIS.set, *calling = THIS.is_virtual && in_libset() ? set : NULL;
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	void *found = handle == RTLD_NEXT ? find_next(set, caller, name, version)
		: version ? BASE(DLVSYM, void *(void *, const char *, const char *))(handle, name, version)
		: BASE(DLSYM, void *(void *, const char *))(handle, name);
	/* not under gotcha_lock(): a constructor that looks symbols up holds ld.so's lock, for which a thread that
	 * makes a libset waits */
	if (found)
		found = gotcha_intercept_symbol(found, calling);
	gotcha_hosted_leave(&guard);
	return found;
}

static void *loader_dlsym(void *handle, const char *name) {
	return find(handle, name, NULL, (uintptr_t) __builtin_return_address(0));
}

static void *loader_dlvsym(void *handle, const char *name, const char *version) {
	return find(handle, name, version, (uintptr_t) __builtin_return_address(0));
}

void *libgotcha_dlsym(void *handle, const char *name) {
	return BASE(DLSYM, void *(void *, const char *))(handle, name);
}

/* ------------------------------------------------------------------ the C library's own calls */

/* What the C library opens for itself is opened in the libset's namespace, as it would without us; with the
 * clone engine, in base, and then copied. */
static Lmid_t own_namespace(void) {
	return THIS.set ? THIS.set->namespace : LM_ID_BASE;
}

static void *hook_dlopen(const char *file, int mode, void *caller) {
	return open_and_adopt((uintptr_t) caller, file, mode);
}
static void *hook_dlsym(void *handle, const char *name, void *caller) {
	return find(handle, name, NULL, (uintptr_t) caller);
}
static void *hook_dlvsym(void *handle, const char *name, const char *version, void *caller) {
	return find(handle, name, version, (uintptr_t) caller);
}
static void *hook_dlmopen(Lmid_t namespace, const char *file, int mode, void *caller) {
	(void) caller;
	return (void *) hosted_dlmopen(namespace, (long) file, mode, 0, 0, 0);
}
static void *hook_libc_dlopen(const char *name, int mode) {
	/* 0x80000000: __RTLD_DLOPEN, a flag for ld.so itself. For good, since a roll back revives handles that the
	 * C library has closed. */
	mode = (mode & 0x7fffffff) | RTLD_NOW | RTLD_NODELETE;
	if (own_namespace() == LM_ID_BASE)
		return loader_dlopen(name, mode);
	return (void *) hosted_dlmopen(own_namespace(), (long) name, mode, 0, 0, 0);
}
static void *hook_libc_dlsym(void *handle, const char *name) {
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	void *found = BASE(DLSYM, void *(void *, const char *))(handle, name);
	gotcha_hosted_leave(&guard);
	return THIS.set && own_namespace() == LM_ID_BASE ? gotcha_translate(THIS.set, found) : found;
}
static void *hook_libc_dlvsym(void *handle, const char *name, const char *version) {
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	void *found = BASE(DLVSYM, void *(void *, const char *, const char *))(handle, name, version);
	gotcha_hosted_leave(&guard);
	return THIS.set && own_namespace() == LM_ID_BASE ? gotcha_translate(THIS.set, found) : found;
}
/* The check of a candidate for the hook's place counts calls of this one. */
static _Atomic unsigned hook_calls;
static int hook_dladdr(const void *address, Dl_info *info) {
	hook_calls++;
	return loader_dladdr(address, info);
}

/* include/dlfcn.h struct dlfcn_hook, since 2.34 */
static const struct dlfcn_hook {
	void *dlopen, *dlclose, *dlsym, *dlvsym, *dlerror, *dladdr, *dladdr1, *dlinfo, *dlmopen,
		*libc_dlopen_mode, *libc_dlsym, *libc_dlvsym, *libc_dlclose;
} hook = {
	hook_dlopen, hosted_dlclose, hook_dlsym, hook_dlvsym, hosted_dlerror, hook_dladdr, loader_dladdr1, hosted_dlinfo,
	hook_dlmopen, hook_libc_dlopen, hook_libc_dlsym, hook_libc_dlvsym, hosted_dlclose,
};

char *gotcha_loader_shadow;
uintptr_t gotcha_loader_shadowed;
static size_t shadow_size;

int gotcha_loader_shadow_init(void) {
	const Elf64_Sym *symbol = gotcha_lookup_in(gotcha_loader, "_rtld_global_ro", NULL);
	if (!symbol)
		return gotcha_fail(ENOSYS, "unsupported C library: no _rtld_global_ro in %s", gotcha_loader->path);
	shadow_size = symbol->st_size;
	gotcha_loader_shadow = malloc(shadow_size);
	if (!gotcha_loader_shadow)
		return gotcha_fail(ENOMEM, "no memory for a shadow of _rtld_global_ro");
	gotcha_loader_shadowed = gotcha_loader->base + symbol->st_value;
	memcpy(gotcha_loader_shadow, (void *) gotcha_loader_shadowed, shadow_size);
	return 0;
}

/* Where in the structure the hook is differs between versions: it is found by trying. It is a null
 * pointer near the end (what follows it describes audit libraries, and is null without them); with
 * the right word set, the copy's dladdr() calls the hook's. */
int gotcha_loader_shadow_check(struct libset *first) {
	const Elf64_Sym *symbol = gotcha_lookup_in(gotcha_libc, "dladdr", NULL);
	if (!symbol)
		return gotcha_fail(ENOSYS, "unsupported C library: no dladdr in libc.so.6");
	int (*copy_dladdr)(const void *, Dl_info *) =
		libc_copy(first, gotcha_definition_address(gotcha_libc, symbol));
	for (size_t offset = shadow_size - sizeof(void *); offset > shadow_size / 2; offset -= sizeof(void *)) {
		const void **word = (const void **) (gotcha_loader_shadow + offset);
		/* an earlier attempt to make the first libset has found it */
		if (*word == &hook)
			return 0;
		if (*word)
			continue;
		*word = &hook;
		unsigned before = hook_calls;
		Dl_info info;
		copy_dladdr((void *) gotcha_loader_shadow_check, &info);
		if (hook_calls != before)
			return 0;
		*word = NULL;
	}
	return gotcha_fail(ENOSYS, "unsupported C library: no hook of the dynamic linker's functions in _rtld_global_ro");
}

/* Which the unwinder asks for each frame. */
static int loader_find_object(void *address, void *found) {
	if (gotcha_is_stack_end((uintptr_t) address))
		return -1;
	return ((int (*)(void *, void *)) rows[FIND_OBJECT].base)(address, found);
}

static struct row rows[] = {
	[DLOPEN] = { "dlopen", loader_dlopen, true },
	[DLSYM] = { "dlsym", loader_dlsym, true },
	[DLVSYM] = { "dlvsym", loader_dlvsym, true },
	[DLCLOSE] = { "dlclose", hosted_dlclose },
	[DLERROR] = { "dlerror", hosted_dlerror },
	[DLADDR] = { "dladdr", loader_dladdr, true },
	[DLADDR1] = { "dladdr1", loader_dladdr1, true },
	[DLINFO] = { "dlinfo", hosted_dlinfo },
	[DLMOPEN] = { "dlmopen", hosted_dlmopen },
	[ITERATE] = { "dl_iterate_phdr", loader_iterate_phdr },
	[SYMBOLS] = { "backtrace_symbols", loader_backtrace_symbols, true },
	[SYMBOLS_FD] = { "backtrace_symbols_fd", loader_backtrace_symbols_fd, true },
	[BACKTRACE] = { "backtrace", deferred_backtrace },
	[FIND_OBJECT] = { "_dl_find_object", loader_find_object, true },
};
struct rows gotcha_rows_loader = { rows, lengthof(rows) };
