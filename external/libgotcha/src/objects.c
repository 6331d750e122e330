/* The base namespace's objects: which there are, what their dynamic sections say, who defines what.
 * Everything is read from memory, as the dynamic linker left it. */
#include "internal.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct object gotcha_objects[MAX_OBJECTS];
size_t gotcha_objects_len, gotcha_startup_len;
struct object *gotcha_executable, *gotcha_libc, *gotcha_loader;

static struct link_map *own_map;

/* ------------------------------------------------------------------ reading one object */

/* ld.so relocates the addresses in most objects' dynamic sections in place, but not in those that
 * it finds read-only (the vdso, and others since glibc 2.35). */
static const void *dynamic_address(const struct object *object, uintptr_t value) {
	return (const void *) (value >= object->start && value < object->end ? value : object->base + value);
}

static void read_dynamic(struct object *object) {
	size_t jmprel_bytes = 0;
	for (const Elf64_Dyn *entry = object->map->l_ld; entry->d_tag != DT_NULL; entry++) {
		uintptr_t value = entry->d_un.d_val;
		switch (entry->d_tag) {
		case DT_SYMTAB: object->symbols = dynamic_address(object, value); break;
		case DT_STRTAB: object->strings = dynamic_address(object, value); break;
		case DT_GNU_HASH: object->gnu_hash = dynamic_address(object, value); break;
		case DT_HASH: object->sysv_hash = dynamic_address(object, value); break;
		case DT_VERSYM: object->versions = dynamic_address(object, value); break;
		case DT_VERDEF: object->verdef = dynamic_address(object, value); break;
		case DT_VERDEFNUM: object->verdef_len = value; break;
		case DT_VERNEED: object->verneed = dynamic_address(object, value); break;
		case DT_VERNEEDNUM: object->verneed_len = value; break;
		case DT_RELA: object->rela = dynamic_address(object, value); break;
		case DT_RELASZ: object->rela_len = value / sizeof(Elf64_Rela); break;
		case DT_JMPREL: object->jmprel = dynamic_address(object, value); break;
		case DT_PLTRELSZ: jmprel_bytes = value; break;
		case DT_SYMBOLIC: object->symbolic = true; break;
		case DT_FLAGS: object->symbolic |= value & DF_SYMBOLIC; break;
		}
	}
	object->jmprel_len = jmprel_bytes / sizeof(Elf64_Rela);
}

static void read_segments(struct object *object) {
	object->start = UINTPTR_MAX;
	for (size_t i = 0; i < object->segments_len; i++) {
		const Elf64_Phdr *segment = &object->segments[i];
		uintptr_t from = object->base + segment->p_vaddr;
		uintptr_t to = from + segment->p_memsz;
		switch (segment->p_type) {
		case PT_LOAD:
			if (page_down(from) < object->start)
				object->start = page_down(from);
			if (page_up(to) > object->end)
				object->end = page_up(to);
			break;
		case PT_GNU_RELRO:
			object->relro_start = page_down(from);
			object->relro_end = page_down(to);
			break;
		case PT_TLS:
			object->tls_image = from;
			object->tls_filesz = segment->p_filesz;
			object->tls_memsz = segment->p_memsz;
			break;
		}
	}
}

static bool listed_as_shared(const struct object *object) {
	for (size_t i = 0; i < gotcha_config.shared_len; i++)
		if (!strcmp(gotcha_config.shared[i], object->name) || !strcmp(gotcha_config.shared[i], object->path))
			return true;
	return false;
}

static bool defines_malloc(const struct object *object) {
	return gotcha_lookup_in(object, "malloc", NULL);
}

static enum object_kind classify(const struct object *object, bool is_allocator) {
	if (!*object->map->l_name)
		return OBJECT_EXECUTABLE;
	if (object->map == own_map)
		return OBJECT_OWN;
	if (!strncmp(object->name, "ld-linux", 8) || !strncmp(object->name, "ld.so", 5))
		return OBJECT_LOADER;
	if (!strcmp(object->name, "libc.so.6"))
		return OBJECT_REPLICATED;
	/* libstd-<16 hexadecimal digits>.so holds state of the program's own, as static std does */
	if (!strncmp(object->name, "libstd-", 7) && strlen(object->name) > 20)
		return OBJECT_PROGRAM;
	if (!strncmp(object->name, "vgpreload", 9))
		return OBJECT_SHARED;
	if (gotcha_engine->shares_unwinder && !strcmp(object->name, "libgcc_s.so.1"))
		return OBJECT_UNWINDER;
	return listed_as_shared(object) || is_allocator ? OBJECT_SHARED : OBJECT_REPLICATED;
}

struct find_segments {
	struct object *object;
	bool found;
};

static int find_segments(struct dl_phdr_info *info, size_t size, void *closure) {
	(void) size;
	struct find_segments *find = closure;
	if (info->dlpi_addr != find->object->base || strcmp(info->dlpi_name, find->object->map->l_name))
		return 0;
	find->object->segments = info->dlpi_phdr;
	find->object->segments_len = info->dlpi_phnum;
	find->found = true;
	return 1;
}

/* A relative path (of a relative RUNPATH or LD_LIBRARY_PATH) held at the time of loading; the program may have
 * changed its folder since. The kernel knows the whole one. */
static const char *mapped_path(const struct object *object) {
	FILE *maps = fopen("/proc/self/maps", "re");
	char *line = NULL, *path = NULL;
	size_t room = 0;
	while (maps && !path && getline(&line, &room, maps) > 0) {
		char *slash = strchr(line, '/');
		if (slash && strtoul(line, NULL, 16) == object->start)
			path = strndup(slash, strcspn(slash, "\n"));
	}
	free(line);
	if (maps)
		fclose(maps);
	return path ? path : object->path;
}

static int read_object(struct object *object, struct link_map *map) {
	*object = (struct object) { .map = map, .base = map->l_addr };
	object->path = *map->l_name ? map->l_name : "/proc/self/exe";
	struct find_segments find = { object, false };
	dl_iterate_phdr(find_segments, &find);
	if (!find.found)
		return gotcha_fail(ENOSYS, "%s: program headers not found", object->path);
	read_segments(object);
	read_dynamic(object);
	if (*object->path != '/')
		object->path = mapped_path(object);
	const char *slash = strrchr(object->path, '/');
	object->name = slash ? slash + 1 : object->path;
	if (object->tls_memsz)
		dlinfo(map, RTLD_DI_TLS_MODID, &object->tls_module);
	object->kind = classify(object, gotcha_libc && defines_malloc(object));
	if (object->kind != OBJECT_LOADER && (!object->symbols || !object->strings))
		return gotcha_fail(ENOSYS, "%s: no dynamic symbol table", object->path);
	return 0;
}

/* ------------------------------------------------------------------ all of them */

static bool is_known(const struct link_map *map) {
	for (size_t i = 0; i < gotcha_objects_len; i++)
		if (gotcha_objects[i].map == map)
			return true;
	return false;
}

/* Keeps an object loaded for good: libsets hold copies of it and trampolines lead to it. */
static void pin(const struct object *object) {
	if (object->kind == OBJECT_EXECUTABLE)
		return;
	dlopen(object->map->l_name, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
}

static const char *soname(const struct object *object) {
	for (const Elf64_Dyn *entry = object->map->l_ld; entry->d_tag != DT_NULL; entry++)
		if (entry->d_tag == DT_SONAME)
			return object->strings + entry->d_un.d_val;
	return object->name;
}

struct object *gotcha_object_needed(const char *name) {
	for (size_t i = 0; i < gotcha_objects_len; i++)
		if (!strcmp(soname(&gotcha_objects[i]), name) || !strcmp(gotcha_objects[i].map->l_name, name))
			return &gotcha_objects[i];
	return NULL;
}

bool gotcha_is_data(const struct object *object, uintptr_t address) {
	for (size_t i = 0; i < object->segments_len; i++) {
		const Elf64_Phdr *segment = &object->segments[i];
		if (segment->p_type == PT_LOAD && segment->p_flags & PF_W && address - object->base - segment->p_vaddr < segment->p_memsz)
			return true;
	}
	return false;
}

size_t gotcha_objects_needed(const struct object *root, uint16_t list[MAX_OBJECTS]) {
	bool listed[MAX_OBJECTS] = { false };
	listed[root - gotcha_objects] = true;
	size_t length = 0;
	const struct object *object = root;
	for (size_t next = 0; object; object = next < length ? &gotcha_objects[list[next++]] : NULL)
		for (const Elf64_Dyn *entry = object->map->l_ld; entry->d_tag != DT_NULL; entry++) {
			struct object *needed = entry->d_tag == DT_NEEDED
				? gotcha_object_needed(object->strings + entry->d_un.d_val) : NULL;
			if (needed && !listed[needed - gotcha_objects]) {
				listed[needed - gotcha_objects] = true;
				list[length++] = needed - gotcha_objects;
			}
		}
	return length;
}

/* The list is in the order of loading: what the executable needs, directly or not, and what lies before
 * that (preloaded libraries), with what it needs, was there before the first dlopen(). */
static size_t find_startup_len(void) {
	size_t length = 1;
	for (size_t i = 0; i < length; i++)
		for (const Elf64_Dyn *entry = gotcha_objects[i].map->l_ld; entry->d_tag != DT_NULL; entry++) {
			struct object *needed = entry->d_tag == DT_NEEDED
				? gotcha_object_needed(gotcha_objects[i].strings + entry->d_un.d_val) : NULL;
			if (needed && (size_t) (needed - gotcha_objects) >= length)
				length = needed - gotcha_objects + 1;
		}
	return length;
}

static const char *const sanitizers[] = { "__asan_init", "__tsan_init", "__msan_init", "__hwasan_init" };

/* Adds the objects that the base namespace has got since the last call.
 * Context: base or hosted, under the lock. */
int gotcha_objects_refresh(void) {
	if (!own_map) {
		Dl_info info;
		if (!dladdr1((void *) gotcha_objects_refresh, &info, (void **) &own_map, RTLD_DL_LINKMAP))
			return gotcha_fail(ENOSYS, "the dynamic linker does not know this library's own object (a static program?)");
	}
	struct link_map *map = own_map;
	while (map->l_prev)
		map = map->l_prev;
	if (*map->l_name)
		return gotcha_fail(ENOSYS, "this library was loaded into a namespace of its own (dlmopen)");
	for (; map; map = map->l_next) {
		/* the vdso has no path */
		if (is_known(map) || (*map->l_name && !strchr(map->l_name, '/')))
			continue;
		if (gotcha_objects_len == MAX_OBJECTS)
			return gotcha_fail(ENOMEM, "more than %d shared objects", MAX_OBJECTS);
		struct object *object = &gotcha_objects[gotcha_objects_len];
		int error = read_object(object, map);
		for (size_t i = 0; !error && i < lengthof(sanitizers); i++)
			if (gotcha_lookup_in(object, sanitizers[i], NULL))
				error = gotcha_fail(ENOSYS, "%s contains a sanitizer's runtime (%s)", object->path, sanitizers[i]);
		/* later on, what cannot be dealt with stays as it is, and the others do not suffer */
		if (error && gotcha_startup_len) {
			gotcha_trace_failure();
			continue;
		}
		if (error)
			return error;
		gotcha_objects_len++;
		pin(object);
		if (object->kind == OBJECT_EXECUTABLE)
			gotcha_executable = object;
		else if (object->kind == OBJECT_LOADER)
			gotcha_loader = object;
		else if (!strcmp(object->name, "libc.so.6"))
			gotcha_libc = object;
	}
	if (!gotcha_executable || !gotcha_libc || !gotcha_loader)
		return gotcha_fail(ENOSYS, "not a program of the GNU C library: no %s among its objects",
			gotcha_libc ? "dynamic linker" : "libc.so.6");
	if (!gotcha_startup_len)
		gotcha_startup_len = find_startup_len();
	/* an allocator that was preloaded or linked before the C library is found only now */
	gotcha_objects_classify();
	return 0;
}

void gotcha_objects_classify(void) {
	for (size_t i = 0; i < gotcha_objects_len; i++)
		gotcha_objects[i].kind = classify(&gotcha_objects[i], defines_malloc(&gotcha_objects[i]));
}

struct object *gotcha_object_at(uintptr_t address) {
	for (size_t i = 0; i < gotcha_objects_len; i++)
		if (address >= gotcha_objects[i].start && address < gotcha_objects[i].end)
			return &gotcha_objects[i];
	return NULL;
}

/* ------------------------------------------------------------------ symbols */

static uint32_t gnu_hash(const char *name) {
	uint32_t hash = 5381;
	while (*name)
		hash = hash * 33 + (uint8_t) *name++;
	return hash;
}

/* The name of version `index` as a definition of this object. */
static const char *defined_version(const struct object *object, size_t index) {
	const Elf64_Verdef *definition = object->verdef;
	for (size_t i = 0; definition && i < object->verdef_len; i++) {
		const Elf64_Verdaux *name = (const void *) ((const char *) definition + definition->vd_aux);
		if ((definition->vd_ndx & 0x7fff) == index)
			return object->strings + name->vda_name;
		definition = (const void *) ((const char *) definition + definition->vd_next);
	}
	return NULL;
}

const char *gotcha_reference_version(const struct object *object, size_t symbol) {
	if (!object->versions)
		return NULL;
	size_t index = object->versions[symbol] & 0x7fff;
	if (index < 2)
		return NULL;
	const Elf64_Verneed *need = object->verneed;
	for (size_t i = 0; need && i < object->verneed_len; i++) {
		const Elf64_Vernaux *name = (const void *) ((const char *) need + need->vn_aux);
		for (size_t j = 0; j < need->vn_cnt; j++) {
			if ((name->vna_other & 0x7fff) == index)
				return object->strings + name->vna_name;
			name = (const void *) ((const char *) name + name->vna_next);
		}
		need = (const void *) ((const char *) need + need->vn_next);
	}
	return defined_version(object, index);
}

/* Does the definition at `index` satisfy a reference to `version`?  As ld.so's match_symbol(). */
static bool version_matches(const struct object *object, size_t index, const char *version) {
	if (!object->versions)
		return true;
	Elf64_Half have = object->versions[index];
	if (!version)
		return !(have & 0x8000);
	const char *name = defined_version(object, have & 0x7fff);
	return name ? !strcmp(name, version) : (have & 0x7fff) == VER_NDX_GLOBAL;
}

static bool defines(const struct object *object, size_t index, const char *name, const char *version) {
	const Elf64_Sym *symbol = &object->symbols[index];
	if (symbol->st_shndx == SHN_UNDEF || ELF64_ST_BIND(symbol->st_info) == STB_LOCAL)
		return false;
	if (!symbol->st_value && ELF64_ST_TYPE(symbol->st_info) != STT_TLS && symbol->st_shndx != SHN_ABS)
		return false;
	return !strcmp(object->strings + symbol->st_name, name) && version_matches(object, index, version);
}

static const Elf64_Sym *lookup_gnu(const struct object *object, const char *name, const char *version) {
	uint32_t hash = gnu_hash(name);
	const uint32_t *table = object->gnu_hash;
	uint32_t buckets_len = table[0], first = table[1], bloom_len = table[2], shift = table[3];
	const uint64_t *bloom = (const void *) &table[4];
	const uint32_t *buckets = (const void *) (bloom + bloom_len), *chain = buckets + buckets_len;
	uint64_t word = bloom[hash / 64 % bloom_len];
	if (!(word >> hash % 64 & word >> (hash >> shift) % 64 & 1))
		return NULL;
	uint32_t index = buckets[hash % buckets_len];
	if (index < first)
		return NULL;
	for (;; index++) {
		uint32_t entry = chain[index - first];
		if ((entry | 1) == (hash | 1) && defines(object, index, name, version))
			return &object->symbols[index];
		if (entry & 1)
			return NULL;
	}
}

static const Elf64_Sym *lookup_sysv(const struct object *object, const char *name, const char *version) {
	for (uint32_t index = 1; index < object->sysv_hash[1]; index++)
		if (defines(object, index, name, version))
			return &object->symbols[index];
	return NULL;
}

const Elf64_Sym *gotcha_lookup_in(const struct object *object, const char *name, const char *version) {
	if (object->gnu_hash && object->gnu_hash[0])
		return lookup_gnu(object, name, version);
	return object->sysv_hash ? lookup_sysv(object, name, version) : NULL;
}

/* The number of entries in the symbol table, which only the hash tables tell. */
size_t gotcha_object_symbols_len(const struct object *object) {
	if (!object->gnu_hash)
		return object->sysv_hash ? object->sysv_hash[1] : 0;
	const uint32_t *table = object->gnu_hash;
	const uint32_t *buckets = table + 4 + table[2] * 2, *chain = buckets + table[0];
	uint32_t last = 0;
	for (uint32_t i = 0; i < table[0]; i++)
		if (buckets[i] > last)
			last = buckets[i];
	if (last < table[1])
		return table[1];
	while (!(chain[last - table[1]] & 1))
		last++;
	return last + 1;
}

const Elf64_Sym *gotcha_lookup(const struct object *from, const char *name, const char *version, struct object **in) {
	const Elf64_Sym *symbol;
	if (from && from->symbolic && (symbol = gotcha_lookup_in(from, name, version))) {
		*in = (struct object *) from;
		return symbol;
	}
	for (size_t i = 0; i < gotcha_objects_len; i++)
		if ((symbol = gotcha_lookup_in(&gotcha_objects[i], name, version))) {
			*in = &gotcha_objects[i];
			return symbol;
		}
	return NULL;
}

static const Elf64_Sym *lookup_first(size_t from, size_t to, const char *name, const char *version, struct object **in) {
	const Elf64_Sym *symbol = NULL;
	for (size_t i = from; i < to && !symbol; i++)
		if ((symbol = gotcha_lookup_in(&gotcha_objects[i], name, version)))
			*in = &gotcha_objects[i];
	return symbol;
}

/* The scope of an object that dlopen() has opened depends on how it was opened: RTLD_DEEPBIND puts its own
 * libraries before the global scope, and other objects opened so are in it only with RTLD_GLOBAL. Where
 * these differ, nothing is said. */
const Elf64_Sym *gotcha_lookup_binding(const struct object *from, const char *name, const char *version, struct object **in) {
	const Elf64_Sym *symbol;
	if (from->symbolic && (symbol = gotcha_lookup_in(from, name, version))) {
		*in = (struct object *) from;
		return symbol;
	}
	bool at_startup = (size_t) (from - gotcha_objects) < gotcha_startup_len;
	symbol = lookup_first(0, at_startup ? gotcha_startup_len : gotcha_objects_len, name, version, in);
	if (!symbol || at_startup)
		return symbol;
	struct object *other;
	if (lookup_first(*in - gotcha_objects + 1, gotcha_objects_len, name, version, &other))
		return NULL;
	return *in == from || (size_t) (*in - gotcha_objects) < gotcha_startup_len ? symbol : NULL;
}

/* What dlopen() was called for when `object` came: the first object of then that needs it, or itself. */
static const struct object *find_root(const struct object *object) {
	uint16_t needed[MAX_OBJECTS];
	for (const struct object *root = gotcha_objects + gotcha_startup_len; root < object; root++) {
		size_t length = gotcha_objects_needed(root, needed);
		for (size_t i = 0; i < length; i++)
			if (needed[i] == object - gotcha_objects)
				return root;
	}
	return object;
}

/* Of those that were opened at run time, only ld.so knows which are in the global scope. */
static const Elf64_Sym *lookup_global(const char *name, const char *version, struct object **in) {
	void *found = libgotcha_dlsym(gotcha_executable->map, name);
	if (!found)
		dlerror();      /* nobody has asked */
	*in = found ? gotcha_object_at((uintptr_t) found) : NULL;
	return *in ? gotcha_lookup_in(*in, name, version) : NULL;
}

const Elf64_Sym *gotcha_lookup_scope(const struct object *from, const char *name, const char *version, struct object **in) {
	const Elf64_Sym *symbol = NULL;
	if (from->symbolic && (symbol = gotcha_lookup_in(from, name, version))) {
		*in = (struct object *) from;
		return symbol;
	}
	symbol = lookup_first(0, gotcha_startup_len, name, version, in);
	if (symbol || (size_t) (from - gotcha_objects) < gotcha_startup_len)
		return symbol;
	if ((symbol = lookup_global(name, version, in)))
		return symbol;
	const struct object *root = find_root(from);
	*in = (struct object *) root;
	symbol = gotcha_lookup_in(root, name, version);
	uint16_t needed[MAX_OBJECTS];
	size_t length = gotcha_objects_needed(root, needed);
	for (size_t i = 0; i < length && !symbol; i++) {
		*in = &gotcha_objects[needed[i]];
		symbol = gotcha_lookup_in(*in, name, version);
	}
	return symbol;
}

bool gotcha_is_function(const Elf64_Sym *symbol) {
	int type = ELF64_ST_TYPE(symbol->st_info);
	return type == STT_FUNC || type == STT_GNU_IFUNC;
}

void *gotcha_definition_address(const struct object *object, const Elf64_Sym *symbol) {
	uintptr_t address = symbol->st_value + (symbol->st_shndx == SHN_ABS ? 0 : object->base);
	if (ELF64_ST_TYPE(symbol->st_info) == STT_GNU_IFUNC)
		return ((void *(*)(void)) address)();
	return (void *) address;
}

void *gotcha_base_symbol(const char *name) {
	struct object *in;
	const Elf64_Sym *symbol = gotcha_lookup(NULL, name, NULL, &in);
	return symbol ? gotcha_definition_address(in, symbol) : NULL;
}
