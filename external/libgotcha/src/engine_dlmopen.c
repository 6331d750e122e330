/* The dlmopen engine: each libset is a namespace of the dynamic linker.
 *
 * It is the reference: the copies are loaded, relocated and initialised by ld.so itself. glibc
 * grants few namespaces: 16 in all (DL_NNS), and static thread-local storage for about 11 unless
 * GLIBC_TUNABLES=glibc.rtld.nns=16 was set when the program started.
 *
 * A namespace's first object is a *stub*, an ELF image that we write into memory. Its DT_NEEDED
 * entries name the libraries that were loaded with the program, in the program's order, so that opening
 * it opens them all: they are the namespace's global scope. Those that dlopen() has opened are opened after
 * it one by one, as base did, because the scope of each is its own.
 * Its symbols are absolute addresses: the policy table's wrappers, and what the executable exports.
 * ld.so searches it first for every reference of every library in the namespace, the C library's
 * own references to malloc included: so the copies are bound to the policy table by ordinary symbol
 * interposition, before their first constructor runs. (Absolute symbols are exempt from the load
 * bias since glibc 2.28; a definition without a version satisfies references to any version, as
 * with LD_PRELOAD.) */
#include "internal.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

/* ------------------------------------------------------------------ the stub's ELF image */

struct buffer {
	char *bytes;
	size_t length, room;
	bool failed;
};

static size_t append(struct buffer *buffer, const void *bytes, size_t length) {
	if (buffer->length + length > buffer->room) {
		size_t room = 2 * buffer->room + length + 4096;
		char *grown = realloc(buffer->bytes, room);
		if (!grown) {
			buffer->failed = true;
			return 0;
		}
		buffer->bytes = grown;
		buffer->room = room;
	}
	memcpy(buffer->bytes + buffer->length, bytes, length);
	buffer->length += length;
	return buffer->length - length;
}

struct stub {
	struct buffer strings, symbols, dynamic;
};

static void add_symbol(void *closure, const char *name, uintptr_t address, bool is_function) {
	struct stub *stub = closure;
	Elf64_Sym symbol = {
		.st_name = append(&stub->strings, name, strlen(name) + 1),
		.st_info = ELF64_ST_INFO(STB_GLOBAL, is_function ? STT_FUNC : STT_OBJECT),
		.st_shndx = SHN_ABS,
		.st_value = address,
	};
	append(&stub->symbols, &symbol, sizeof symbol);
}

static void add_dynamic(struct stub *stub, Elf64_Sxword tag, Elf64_Xword value) {
	Elf64_Dyn entry = { .d_tag = tag, .d_un.d_val = value };
	append(&stub->dynamic, &entry, sizeof entry);
}

static uint32_t sysv_hash(const char *name) {
	uint32_t hash = 0;
	for (; *name; name++) {
		hash = (hash << 4) + (uint8_t) *name;
		uint32_t high = hash & 0xf0000000;
		hash = (hash ^ high >> 24) & ~high;
	}
	return hash;
}

/* DT_HASH: { buckets, symbols, bucket[], chain[] } */
static void build_hash(const struct stub *stub, struct buffer *table) {
	uint32_t symbols_len = stub->symbols.length / sizeof(Elf64_Sym), buckets_len = symbols_len | 1;
	uint32_t zero = 0;
	append(table, &buckets_len, sizeof buckets_len);
	append(table, &symbols_len, sizeof symbols_len);
	for (uint32_t i = 0; i < buckets_len + symbols_len; i++)
		append(table, &zero, sizeof zero);
	if (table->failed || stub->symbols.failed || stub->strings.failed)
		return;
	uint32_t *buckets = (uint32_t *) table->bytes + 2, *chain = buckets + buckets_len;
	for (uint32_t i = 1; i < symbols_len; i++) {
		const Elf64_Sym *symbol = (const Elf64_Sym *) stub->symbols.bytes + i;
		uint32_t *bucket = &buckets[sysv_hash(stub->strings.bytes + symbol->st_name) % buckets_len];
		chain[i] = *bucket;
		*bucket = i;
	}
}

/* One writable segment that holds everything: ld.so relocates the dynamic section in place. */
static void build_image(struct stub *stub, struct buffer *image) {
	struct buffer hash = { 0 };
	build_hash(stub, &hash);
	size_t headers = sizeof(Elf64_Ehdr) + 3 * sizeof(Elf64_Phdr);
	size_t symbols = headers, table = symbols + stub->symbols.length;
	size_t strings = table + hash.length, dynamic = (strings + stub->strings.length + 15) & ~15ul;
	add_dynamic(stub, DT_HASH, table);
	add_dynamic(stub, DT_SYMTAB, symbols);
	add_dynamic(stub, DT_SYMENT, sizeof(Elf64_Sym));
	add_dynamic(stub, DT_STRTAB, strings);
	add_dynamic(stub, DT_STRSZ, stub->strings.length);
	add_dynamic(stub, DT_NULL, 0);
	size_t end = dynamic + stub->dynamic.length;
	Elf64_Ehdr header = {
		.e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
		.e_type = ET_DYN, .e_machine = EM_X86_64, .e_version = EV_CURRENT,
		.e_phoff = sizeof(Elf64_Ehdr), .e_ehsize = sizeof(Elf64_Ehdr),
		.e_phentsize = sizeof(Elf64_Phdr), .e_phnum = 3, .e_shentsize = sizeof(Elf64_Shdr),
	};
	Elf64_Phdr segments[3] = {
		{ .p_type = PT_LOAD, .p_flags = PF_R | PF_W, .p_filesz = end, .p_memsz = end, .p_align = PAGE_SIZE },
		{ .p_type = PT_DYNAMIC, .p_flags = PF_R | PF_W, .p_offset = dynamic, .p_vaddr = dynamic,
		  .p_filesz = stub->dynamic.length, .p_memsz = stub->dynamic.length, .p_align = 16 },
		{ .p_type = PT_GNU_STACK, .p_flags = PF_R | PF_W, .p_align = 16 },
	};
	append(image, &header, sizeof header);
	append(image, segments, sizeof segments);
	append(image, stub->symbols.bytes, stub->symbols.length);
	append(image, hash.bytes, hash.length);
	append(image, stub->strings.bytes, stub->strings.length);
	append(image, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", dynamic - image->length);
	append(image, stub->dynamic.bytes, stub->dynamic.length);
	image->failed |= hash.failed || stub->symbols.failed || stub->strings.failed || stub->dynamic.failed;
	free(hash.bytes);
}

static int write_memfd(const struct buffer *image) {
	int file = memfd_create("libgotcha-stub", MFD_CLOEXEC);
	if (file < 0)
		return gotcha_fail(errno, "memfd_create: %s", strerror(errno));
	for (size_t written = 0; written < image->length; ) {
		ssize_t count = write(file, image->bytes + written, image->length - written);
		if (count < 0 && errno != EINTR) {
			int error = errno;
			close(file);
			return gotcha_fail(error, "write to a memory file: %s", strerror(error));
		}
		if (count > 0)
			written += count;
	}
	return file;
}

static int make_stub(struct buffer *image) {
	struct stub stub = { 0 };
	Elf64_Sym null = { 0 };
	append(&stub.strings, "", 1);
	append(&stub.symbols, &null, sizeof null);
	for (size_t i = 0; i < gotcha_startup_len; i++)
		if (gotcha_objects[i].kind == OBJECT_REPLICATED)
			add_dynamic(&stub, DT_NEEDED, append(&stub.strings, gotcha_objects[i].path, strlen(gotcha_objects[i].path) + 1));
	gotcha_policy_exports(add_symbol, &stub);
	build_image(&stub, image);
	free(stub.strings.bytes);
	free(stub.symbols.bytes);
	free(stub.dynamic.bytes);
	return image->failed ? gotcha_fail(ENOMEM, "no memory for the image of a stub library") : 0;
}

/* ------------------------------------------------------------------ namespaces */

static struct buffer stub_image;
enum { DL_NNS = 16 };

static int prepare(void) {
	return make_stub(&stub_image);
}

static size_t limit(void) {
	return DL_NNS - 1;
}

/* The map of `object` in the namespace whose list `first` is in. */
static struct link_map *find_copy(struct link_map *first, const struct object *object) {
	for (struct link_map *map = first; map; map = map->l_next)
		if (!strcmp(map->l_name, object->path))
			return map;
	return NULL;
}

/* A debugger opens an object by the path that the dynamic linker has for it, which must not begin with
 * /proc/self: that would be the debugger. */
static int descriptor_path(int file, char *path, size_t size) {
	char process[32];
	ssize_t length = readlink("/proc/self", process, sizeof process);
	if (length < 0)
		return gotcha_fail(errno, "cannot read /proc/self: %s", strerror(errno));
	snprintf(path, size, "/proc/%.*s/fd/%d", (int) length, process, file);
	return 0;
}

/* Has the process been started with as many as there can be? What ld.so has made of it cannot be asked for. */
static bool has_most_namespaces(void) {
	const char *tunables = getauxval(AT_SECURE) ? NULL : getenv("GLIBC_TUNABLES");
	const char *setting = tunables ? strstr(tunables, "glibc.rtld.nns=") : NULL;
	return setting && strtol(strchr(setting, '=') + 1, NULL, 0) >= DL_NNS;
}

/* Returns NULL with the cause recorded. */
static struct link_map *open_stub(struct libset *set, int *error) {
	/* open for the moment only: the program may close descriptors that are not its own */
	int file = write_memfd(&stub_image);
	if (file < 0) {
		*error = file;
		return NULL;
	}
	char path[64];
	if ((*error = descriptor_path(file, path, sizeof path))) {
		close(file);
		return NULL;
	}
	struct link_map *stub = dlmopen(LM_ID_NEWLM, path, RTLD_NOW);
	const char *cause = stub ? NULL : dlerror();
	close(file);
	/* a debugger that attaches later must not open whatever has this number then */
	if (stub)
		stub->l_name = (char *) "libgotcha-stub";
	/* ld.so has no error codes; these are its two ways to say that there is no more room */
	if (cause && (strstr(cause, "no more namespaces") || strstr(cause, "static TLS"))) {
		*error = gotcha_fail(EAGAIN, "the C library grants this process %zu namespaces, all in use%s: %s%s%s", gotcha_libsets_len(),
			has_most_namespaces() ? "" : " (GLIBC_TUNABLES=glibc.rtld.nns=16 raises that to 15)", cause,
			gotcha_engine_refusal ? "; libsets are namespaces because " : "", gotcha_engine_refusal ? gotcha_engine_refusal : "");
	} else if (!stub) {
		*error = gotcha_fail(ENOEXEC, "dlmopen: %s", cause ? cause : "unknown error");
	} else if (dlinfo(stub, RTLD_DI_LMID, &set->namespace)) {
		*error = gotcha_fail(ENOEXEC, "dlinfo: %s", dlerror());
		stub = NULL;
	}
	return stub;
}

/* Of the same build: the first page has the headers and the build's mark. */
static bool is_like(const struct link_map *map, const struct object *object) {
	const Elf64_Phdr *first = object->segments;
	while (first->p_type != PT_LOAD)
		first++;
	size_t size = first->p_filesz < PAGE_SIZE ? first->p_filesz : PAGE_SIZE;
	return first->p_flags & PF_W || !memcmp((void *) (object->base + first->p_vaddr), (void *) (map->l_addr + first->p_vaddr), size);
}

/* Opens the copy of an object, or finds it. ld.so may have found a library under another path than base did
 * (a symbolic link); asked by base's path, it answers with what it has loaded. */
static int open_copy(struct libset *set, struct link_map *first, size_t index) {
	struct object *object = &gotcha_objects[index];
	struct link_map *map = find_copy(first, object);
	if (!map)
		map = dlmopen(set->namespace, object->path, RTLD_NOW | ((size_t) index < gotcha_startup_len ? RTLD_NOLOAD : 0));
	if (!map)
		return gotcha_fail(ENOEXEC, "libset %ld has no copy of %s: %s", set->number, object->path, dlerror());
	if (!is_like(map, object))
		return gotcha_fail(ESTALE, "%s has been replaced since the program was started", object->path);
	set->copies[index].map = map;
	set->copies[index].base = map->l_addr;
	if (object->tls_memsz && dlinfo(map, RTLD_DI_TLS_MODID, &set->copies[index].tls_module))
		set->copies[index].tls_module = 0;
	return 0;
}

/* Copies of the objects that the libset does not know yet. One that was opened at run time and cannot be
 * opened here (a plug-in that needs what its program did before, or static thread-local storage) stays
 * without a copy: calls of it run in base. */
static int open_copies(struct libset *set, struct link_map *first) {
	while (first->l_prev)
		first = first->l_prev;
	for (; set->copies_len < gotcha_objects_len; set->copies_len++) {
		size_t index = set->copies_len;
		int error = gotcha_objects[index].kind == OBJECT_REPLICATED ? open_copy(set, first, index) : 0;
		if (error && index < gotcha_startup_len)
			return error;
		if (error)
			gotcha_trace_failure();
	}
	return 0;
}

/* What an object's own resolver has chosen is bound without a name, so the stub does not come before it. */
static void redirect_indirect(const struct libset *set, size_t index, const Elf64_Rela *relocations, size_t length) {
	const struct object *object = &gotcha_objects[index];
	uintptr_t copy = set->copies[index].base, target;
	for (size_t i = 0; i < length; i++) {
		uintptr_t offset = relocations[i].r_offset, word = object->base + offset;
		if (ELF64_R_TYPE(relocations[i].r_info) != R_X86_64_IRELATIVE || !gotcha_policy_redirect(*(uintptr_t *) word, &target))
			continue;
		bool is_protected = word >= object->relro_start && word < object->relro_end;
		void *page = (void *) page_down(copy + offset);
		if (is_protected && mprotect(page, PAGE_SIZE, PROT_READ | PROT_WRITE))
			continue;       /* it calls its own, then */
		*(uintptr_t *) (copy + offset) = target;
		if (is_protected)
			mprotect(page, PAGE_SIZE, PROT_READ);
	}
}

static int open_and_bind_copies(struct libset *set, struct link_map *first) {
	size_t had = set->copies_len;
	int error = open_copies(set, first);
	for (size_t i = had; !error && i < set->copies_len; i++)
		if (set->copies[i].map) {
			redirect_indirect(set, i, gotcha_objects[i].rela, gotcha_objects[i].rela_len);
			redirect_indirect(set, i, gotcha_objects[i].jmprel, gotcha_objects[i].jmprel_len);
		}
	return error;
}

static int create(struct libset *set) {
	int error = 0;
	if (!set->namespace_map)
		set->namespace_map = open_stub(set, &error);
	if (!error)
		error = open_and_bind_copies(set, set->namespace_map);
	return error ? error : gotcha_variables_share(set, 0, set->copies_len);
}

/* An object that base has opened since is opened in the namespace: its references find the stub
 * there, and it binds as the others did. */
static int extend(struct libset *set) {
	size_t had = set->copies_len;
	int error = open_and_bind_copies(set, set->copies[gotcha_libc - gotcha_objects].map);
	gotcha_tcb_add_copies(set, had, set->copies_len);
	return error ? error : gotcha_variables_share(set, had, set->copies_len);
}

const struct engine gotcha_engine_dlmopen = {
	.name = "dlmopen", .prepare = prepare, .create = create, .extend = extend, .limit = limit,
};
