/* Each word that the clone engine has relocated holds what the dynamic linker puts there: the same libraries are
 * opened in a namespace of their own, and compared, each address taken as object and offset.
 *
 * Libraries that are named as arguments are opened first, and used to the end of a libset's life: tests/sweep.sh. */
#include "../c/check.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <string.h>

#ifndef DT_RELR
#define DT_RELRSZ 35
#define DT_RELR 36
#endif

enum { MOST = 512 };

enum world { BASE, LIBSET, NAMESPACE, WORLDS };

/* A library, where base has it, where a libset does, and where a namespace does: 0, not at all. */
static struct library {
	const char *path;
	uintptr_t size_bytes;
	uintptr_t bias[WORLDS];
	const Elf64_Dyn *dynamic;       /* base's */
} libraries[MOST];
static int libraries_len;

static struct library *find(const char *path) {
	for (int i = 0; i < libraries_len; i++)
		if (!strcmp(libraries[i].path, path))
			return &libraries[i];
	CHECK(libraries_len < MOST);
	libraries[libraries_len].path = path;
	return &libraries[libraries_len++];
}

/* A function finds its libset's copies in their originals' place. */
static int note(struct dl_phdr_info *info, size_t size, void *world) {
	(void) size;
	struct library *library = find(info->dlpi_name);
	if (*(enum world *) world == BASE)
		library->bias[BASE] = info->dlpi_addr;
	else if (library->bias[BASE] != info->dlpi_addr)
		library->bias[LIBSET] = info->dlpi_addr;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const Elf64_Phdr *segment = &info->dlpi_phdr[i];
		if (segment->p_type == PT_LOAD && segment->p_vaddr + segment->p_memsz > library->size_bytes)
			library->size_bytes = segment->p_vaddr + segment->p_memsz;
	}
	return 0;
}

static const struct library *at(enum world world, uintptr_t address) {
	for (int i = 0; i < libraries_len; i++)
		/* symbols may mark the end */
		if (libraries[i].bias[world] && address - libraries[i].bias[world] <= libraries[i].size_bytes)
			return &libraries[i];
	return NULL;
}

static uintptr_t word(const struct library *library, enum world world, uintptr_t offset) {
	return *(uintptr_t *) (library->bias[world] + offset);
}

static unsigned long same, redirected, shared, like_base, changed, thread_local, different;

/* Two words that name something; `symbol` is empty where the library itself is meant. What the policy table redirects
 * leads into this library or back to base. */
static void compare(const struct library *library, uintptr_t offset, const char *symbol) {
	uintptr_t ours = word(library, LIBSET, offset), theirs = word(library, NAMESPACE, offset);
	const struct library *our_home = at(LIBSET, ours), *their_home = at(NAMESPACE, theirs), *base_home = at(BASE, ours);
	if (our_home && our_home == their_home
	 && ours - our_home->bias[LIBSET] == theirs - their_home->bias[NAMESPACE]) {
		same++;
	} else if (*symbol && base_home && strstr(base_home->path, "libinger")) {
		redirected++;
	} else if (*symbol && base_home && their_home == base_home
	        && ours - base_home->bias[BASE] == theirs - base_home->bias[NAMESPACE]) {
		/* a function of the heap or of the unwinder, a stream, the environment */
		shared++;
	} else if (ours == theirs && !our_home && !their_home) {
		same++;         /* a number, ld.so's, or nothing */
	} else if (*symbol && base_home && !base_home->bias[LIBSET] && ours == word(library, BASE, offset)) {
		/* the namespace's order of libraries is not base's: it lacks the unwinder, or found another definition */
		like_base++;
	} else if (theirs && !their_home && !at(BASE, theirs)) {
		/* no relocation leads out of all libraries: a constructor has stored what it allocated */
		changed++;
	} else if (strcmp(symbol, "_rtld_global_ro")) {
		different++;
		printf("%s+%#lx %s: %#lx (%s, base %s) but %#lx (%s)\n", library->path, offset, symbol, ours,
			our_home ? our_home->path : "", base_home ? base_home->path : "", theirs, their_home ? their_home->path : "");
	}
}

static const void *address_of(const struct library *library, uintptr_t value) {
	return (const void *) (value >= library->bias[BASE] ? value : library->bias[BASE] + value);
}

static void compare_table(const struct library *library, const Elf64_Rela *first, size_t length, const Elf64_Sym *symbols,
		const char *strings) {
	for (const Elf64_Rela *relocation = first; relocation < first + length; relocation++)
		switch (ELF64_R_TYPE(relocation->r_info)) {
		case R_X86_64_DTPMOD64:
		case R_X86_64_DTPOFF64:
		case R_X86_64_TPOFF64:
		case R_X86_64_TLSDESC:
			/* base's storage */
			CHECK(word(library, LIBSET, relocation->r_offset) == word(library, BASE, relocation->r_offset));
			thread_local++;
			break;
		case R_X86_64_NONE:
			break;
		default:
			compare(library, relocation->r_offset, strings + symbols[ELF64_R_SYM(relocation->r_info)].st_name);
		}
}

static void compare_compact(const struct library *library, const uint64_t *entries, size_t length) {
	uintptr_t where = 0;
	for (size_t i = 0; i < length; i++) {
		if (!(entries[i] & 1)) {
			compare(library, entries[i], "");
			where = entries[i] + 8;
			continue;
		}
		for (int bit = 1; bit < 64; bit++)
			if (entries[i] >> bit & 1)
				compare(library, where + (bit - 1) * 8, "");
		where += 63 * 8;
	}
}

static void compare_library(const struct library *library) {
	const Elf64_Sym *symbols = NULL;
	const char *strings = NULL;
	const Elf64_Rela *table = NULL, *calls = NULL;
	const uint64_t *compact = NULL;
	size_t table_bytes = 0, calls_bytes = 0, compact_bytes = 0;
	for (const Elf64_Dyn *entry = library->dynamic; entry->d_tag != DT_NULL; entry++)
		switch (entry->d_tag) {
		case DT_SYMTAB: symbols = address_of(library, entry->d_un.d_val); break;
		case DT_STRTAB: strings = address_of(library, entry->d_un.d_val); break;
		case DT_RELA: table = address_of(library, entry->d_un.d_val); break;
		case DT_RELASZ: table_bytes = entry->d_un.d_val; break;
		case DT_JMPREL: calls = address_of(library, entry->d_un.d_val); break;
		case DT_PLTRELSZ: calls_bytes = entry->d_un.d_val; break;
		case DT_RELR: compact = address_of(library, entry->d_un.d_val); break;
		case DT_RELRSZ: compact_bytes = entry->d_un.d_val; break;
		}
	unsigned long before = different;
	compare_table(library, table, table_bytes / sizeof *table, symbols, strings);
	compare_table(library, calls, calls_bytes / sizeof *calls, symbols, strings);
	compare_compact(library, compact, compact_bytes / sizeof *compact);
	printf("%s: %zu words, %lu different\n", library->path, (table_bytes + calls_bytes) / sizeof *table, different - before);
}

static void note_libset(void *unused) {
	(void) unused;
	enum world world = LIBSET;
	dl_iterate_phdr(note, &world);
	pause();
}

/* Some work of the C library's copy. */
static void work(void *times) {
	for (;; ++*(int *) times) {
		char text[64];
		snprintf(text, sizeof text, "%.2f-%d", 1.25, 7);
		CHECK(!strcmp(text, "1.25-7"));
		pause();
	}
}

/* Two libsets live beside each other, are rolled back, and are used again. */
static void live(void) {
	for (int round = 0; round < 3; round++) {
		int times[2] = { 0 };
		linger_t lingers[2];
		for (int i = 0; i < 2; i++) {
			lingers[i] = launch(work, NO_LIMIT, &times[i]);
			CHECK(lingers[i].is_yielded);
		}
		for (int i = 0; i < 2; i++) {
			resume(&lingers[i], NO_LIMIT);
			CHECK(lingers[i].is_yielded && times[i] == 1);
			cancel(&lingers[i]);
		}
	}
}

/* Returns what went wrong. */
static char *open_references(void) {
	Lmid_t namespace = LM_ID_NEWLM;
	for (int i = 0; i < libraries_len; i++) {
		if (!libraries[i].bias[LIBSET])
			continue;
		struct link_map *base = dlopen(libraries[i].path, RTLD_LAZY | RTLD_NOLOAD);
		struct link_map *reference = dlmopen(namespace, libraries[i].path, RTLD_NOW);
		if (!base || !reference)
			return strdup(dlerror());
		libraries[i].dynamic = base->l_ld;
		libraries[i].bias[NAMESPACE] = reference->l_addr;
		CHECK(!dlinfo(reference, RTLD_DI_LMID, &namespace));
	}
	/* what a libset has no copy of, such as the unwinder */
	for (int i = 0; i < libraries_len; i++) {
		bool is_one = !libraries[i].bias[LIBSET] && strstr(libraries[i].path, ".so") && !strstr(libraries[i].path, "ld-linux");
		struct link_map *reference = !is_one ? NULL : dlmopen(namespace, libraries[i].path, RTLD_NOW | RTLD_NOLOAD);
		if (reference)
			libraries[i].bias[NAMESPACE] = reference->l_addr;
	}
	return NULL;
}

/* On a thread of its own, which does not end: the keys of thread-specific data that the namespace's C library hands out
 * to constructors are those that base's has handed out, for other data and with other destructors. */
static sem_t opened;
static char *opening_error;
static void *run_references(void *unused) {
	opening_error = open_references();
	sem_post(&opened);
	for (;;)
		pause();
	return unused;
}

/* Beside 0: every word is the same. */
enum { DIFFERENT = 10, NOT_OPENED, REFUSED, NO_REFERENCE };

int main(int argc, char **argv) {
	for (int i = 1; i < argc; i++)
		if (!dlopen(argv[i], RTLD_NOW)) {
			printf("%s\n", dlerror());
			return NOT_OPENED;
		}
	enum world world = BASE;
	dl_iterate_phdr(note, &world);
	linger_t linger = launch(note_libset, NO_LIMIT, NULL);
	if (linger.error) {
		printf("%s\n", linger_error());
		return REFUSED;
	}
	CHECK(linger.is_yielded);
	if (argc > 1)
		live();
	pthread_t thread;
	CHECK(!sem_init(&opened, 0, 0) && !pthread_create(&thread, NULL, run_references, NULL));
	while (sem_wait(&opened))
		CHECK(errno == EINTR);
	if (opening_error) {
		printf("%s\n", opening_error);
		return NO_REFERENCE;
	}
	int compared = 0;
	for (int i = 0; i < libraries_len; i++)
		if (libraries[i].bias[LIBSET]) {
			compare_library(&libraries[i]);
			compared++;
		}
	printf("%d libraries: %lu words are the same, %lu lead to the policy's wrappers, %lu to base, %lu are as in base, "
		"%lu have changed, %lu are of thread-local storage, %lu are different\n",
		compared, same, redirected, shared, like_base, changed, thread_local, different);
	CHECK(compared > 0 && same > 0 && redirected > 0);
	cancel(&linger);
	return different ? DIFFERENT : 0;
}
