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
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { DLOPEN, DLSYM, DLVSYM, DLCLOSE, DLERROR, DLADDR, DLADDR1, DLINFO, DLMOPEN, ITERATE, SYMBOLS, SYMBOLS_FD, BACKTRACE };
static struct row rows[];
#define BASE(index, type) ((__typeof__(type) *) rows[index].base)

/* ------------------------------------------------------------------ opening */

/* Context: hosted. */
static void adopt_new_objects(void) {
	gotcha_lock();
	size_t had = gotcha_objects_len;
	int error = gotcha_objects_refresh();
	if (!error && gotcha_objects_len > had)
		error = gotcha_intercept_objects(had);
	if (!error && gotcha_objects_len > had)
		error = gotcha_libset_extend_all();
	if (error && gotcha_config.trace_libsets)
		gotcha_trace("libsets", "a library opened at run time stays in the starting libset: %s", libgotcha_error());
	gotcha_unlock();
}

static void *loader_dlopen(const char *file, int mode) {
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	void *handle = BASE(DLOPEN, void *(const char *, int))(file, mode);
	if (handle && !(mode & RTLD_NOLOAD))
		adopt_new_objects();
	gotcha_hosted_leave(&guard);
	return handle;
}

FORWARD_HOSTED(dlclose, rows[DLCLOSE].base)
FORWARD_HOSTED(dlerror, rows[DLERROR].base)
FORWARD_HOSTED(dladdr, rows[DLADDR].base)
FORWARD_HOSTED(dladdr1, rows[DLADDR1].base)
FORWARD_HOSTED(dlinfo, rows[DLINFO].base)
FORWARD_HOSTED(dlmopen, rows[DLMOPEN].base)
FORWARD_HOSTED(dl_iterate_phdr, rows[ITERATE].base)
FORWARD_DEFERRED(backtrace, rows[BACKTRACE].base)
FORWARD_DEFERRED(backtrace_symbols, rows[SYMBOLS].base)
FORWARD_DEFERRED(backtrace_symbols_fd, rows[SYMBOLS_FD].base)

/* ------------------------------------------------------------------ finding */

/* The base object whose code, or whose copy's code in the current libset, is at `address`. */
static struct object *object_of_caller(uintptr_t address) {
	struct object *object = gotcha_object_at(address);
	const struct libset *set = THIS.set;
	for (size_t i = 0; !object && set && i < set->copies_len; i++) {
		struct object *original = &gotcha_objects[i];
		if (set->copies[i].base && address - set->copies[i].base + original->base - original->start
				< original->end - original->start)
			object = original;
	}
	return object;
}

/* RTLD_NEXT counts from the caller's object, which to base's dlsym() would be this one. */
static void *find_next(uintptr_t caller, const char *name, const char *version) {
	struct object *from = object_of_caller(caller);
	for (struct object *object = from ? from + 1 : gotcha_objects; object < gotcha_objects + gotcha_objects_len; object++) {
		const Elf64_Sym *symbol = gotcha_lookup_in(object, name, version);
		if (symbol && ELF64_ST_TYPE(symbol->st_info) != STT_TLS)
			return gotcha_definition_address(object, symbol);
	}
	return NULL;
}

static void *find(void *handle, const char *name, const char *version, uintptr_t caller) {
	struct hosted_guard guard;
	gotcha_hosted_enter(&guard);
	void *found = handle == RTLD_NEXT ? find_next(caller, name, version) : NULL;
	if (!found)
		found = version ? BASE(DLVSYM, void *(void *, const char *, const char *))(handle, name, version)
			: BASE(DLSYM, void *(void *, const char *))(handle, name);
	if (found) {
		gotcha_lock();
		found = gotcha_intercept_symbol(found, guard.virtual_tcb ? libgotcha_tcb_state(guard.virtual_tcb)->set : NULL);
		gotcha_unlock();
	}
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
	(void) caller;
	return loader_dlopen(file, mode);
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
	/* 0x80000000: __RTLD_DLOPEN, a flag for ld.so itself */
	mode = (mode & 0x7fffffff) | RTLD_NOW;
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
	return hosted_dladdr((long) address, (long) info, 0, 0, 0, 0);
}

/* include/dlfcn.h struct dlfcn_hook, since 2.34 */
static const struct dlfcn_hook {
	void *dlopen, *dlclose, *dlsym, *dlvsym, *dlerror, *dladdr, *dladdr1, *dlinfo, *dlmopen,
		*libc_dlopen_mode, *libc_dlsym, *libc_dlvsym, *libc_dlclose;
} hook = {
	hook_dlopen, hosted_dlclose, hook_dlsym, hook_dlvsym, hosted_dlerror, hook_dladdr, hosted_dladdr1, hosted_dlinfo,
	hook_dlmopen, hook_libc_dlopen, hook_libc_dlsym, hook_libc_dlvsym, hosted_dlclose,
};

char *gotcha_loader_shadow;
static size_t shadow_size;

int gotcha_loader_shadow_init(void) {
	const Elf64_Sym *symbol = gotcha_lookup_in(gotcha_loader, "_rtld_global_ro", NULL);
	if (!symbol)
		return gotcha_fail(ENOSYS, "unsupported C library: no _rtld_global_ro in %s", gotcha_loader->path);
	shadow_size = symbol->st_size;
	gotcha_loader_shadow = malloc(shadow_size);
	if (!gotcha_loader_shadow)
		return gotcha_fail(ENOMEM, "no memory for a shadow of _rtld_global_ro");
	memcpy(gotcha_loader_shadow, (void *) (gotcha_loader->base + symbol->st_value), shadow_size);
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

static struct row rows[] = {
	[DLOPEN] = { "dlopen", loader_dlopen, true },
	[DLSYM] = { "dlsym", loader_dlsym, true },
	[DLVSYM] = { "dlvsym", loader_dlvsym, true },
	[DLCLOSE] = { "dlclose", hosted_dlclose },
	[DLERROR] = { "dlerror", hosted_dlerror },
	[DLADDR] = { "dladdr", hosted_dladdr },
	[DLADDR1] = { "dladdr1", hosted_dladdr1 },
	[DLINFO] = { "dlinfo", hosted_dlinfo },
	[DLMOPEN] = { "dlmopen", hosted_dlmopen },
	[ITERATE] = { "dl_iterate_phdr", hosted_dl_iterate_phdr },
	[SYMBOLS] = { "backtrace_symbols", deferred_backtrace_symbols },
	[SYMBOLS_FD] = { "backtrace_symbols_fd", deferred_backtrace_symbols_fd },
	[BACKTRACE] = { "backtrace", deferred_backtrace },
};
struct rows gotcha_rows_loader = { rows, lengthof(rows) };
