/* Libsets that cannot be made: the error says why, what there is goes on, and when the cause has gone there are more. */
#include "../c/check.h"

#include <dlfcn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

enum { MOST = 4096 };
static linger_t lingers[MOST];
static int sums[MOST], lingers_len;

static void work(void *sum) {
	char words[] = "1 2 3 4";
	int found = atoi(strtok(words, " "));
	pause();
	for (char *word; (word = strtok(NULL, " "));)
		found += atoi(word);
	*(int *) sum = found;
}

static bool add(void) {
	CHECK(lingers_len < MOST);
	linger_t linger = launch(work, NO_LIMIT, &sums[lingers_len]);
	if (linger.error)
		return false;
	CHECK(linger.is_yielded);
	lingers[lingers_len++] = linger;
	return true;
}

/* The first goes on; and its libset, once free, is used again. */
static void is_well(void) {
	resume(&lingers[0], NO_LIMIT);
	CHECK(lingers[0].is_complete && sums[0] == 10);
	linger_t again = launch(work, NO_LIMIT, &sums[0]);
	CHECK(again.is_yielded);
	lingers[0] = again;
}

static void all_finish(void) {
	for (int i = 0; i < lingers_len; i++) {
		finish(&lingers[i], NO_LIMIT);
		CHECK(sums[i] == 10);
	}
}

static void fails_for(const char *cause) {
	CHECK(!add());
	printf("%d at once, then: %s\n", lingers_len, linger_error());
	CHECK(strstr(linger_error(), cause));
}

static long mapped_kib(void) {
	FILE *file = fopen("/proc/self/statm", "r");
	long pages = 0;
	CHECK(file && fscanf(file, "%ld", &pages) == 1);
	fclose(file);
	return pages * 4;
}

/* Less address space than the process has already: what is there stays. */
static void address_space(void) {
	for (int i = 0; i < 3; i++)
		CHECK(add());
	struct rlimit limit = { 0, RLIM_INFINITY };
	limit.rlim_cur = (rlim_t) (mapped_kib() + 200) << 10;
	CHECK(!setrlimit(RLIMIT_AS, &limit));
	while (add())
		;
	fails_for("allocate memory");
	CHECK(linger_concurrency_limit() == (size_t) lingers_len);
	is_well();
	limit.rlim_cur = RLIM_INFINITY;
	CHECK(!setrlimit(RLIMIT_AS, &limit));
	CHECK(add() && linger_concurrency_limit() > (size_t) lingers_len);
}

/* The program needs nearly all of the kernel's mappings for itself. */
static void mappings(void) {
	for (int i = 0; i < 3; i++)
		CHECK(add());
	size_t size = 1ul << 30;
	char *memory = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(memory != MAP_FAILED);
	size_t at = 0;
	while (at < size && !mprotect(memory + at, 4096, PROT_NONE))
		at += 8192;
	CHECK(at < size);
	/* room for a few */
	CHECK(!munmap(memory, 100 * 8192));
	while (add())
		;
	fails_for("allocate memory");
	is_well();
	CHECK(!munmap(memory + 100 * 8192, size - 100 * 8192));
	CHECK(add());
}

static void descriptors(void) {
	CHECK(add());
	struct rlimit limit, none;
	CHECK(!getrlimit(RLIMIT_NOFILE, &limit));
	none = limit;
	none.rlim_cur = 3;
	CHECK(!setrlimit(RLIMIT_NOFILE, &none));
	fails_for("open files");
	is_well();
	CHECK(!setrlimit(RLIMIT_NOFILE, &limit));
	CHECK(add());
}

static void file_size(void) {
	CHECK(add());
	struct rlimit limit, none;
	CHECK(!getrlimit(RLIMIT_FSIZE, &limit));
	none = limit;
	none.rlim_cur = 0;
	CHECK(!setrlimit(RLIMIT_FSIZE, &none));
	fails_for("RLIMIT_FSIZE");
	is_well();
	CHECK(!setrlimit(RLIMIT_FSIZE, &limit));
	CHECK(add());
}

static void rebuilt(const char *path) {
	char other[4096];
	snprintf(other, sizeof other, "%s.rebuilt", path);
	CHECK(add() && !rename(other, path));
	fails_for("has been replaced");
	is_well();
}

/* argv[2] is the path of a library that this program is linked with. */
static void replaced(const char *path) {
	CHECK(add());
	char aside[4096];
	snprintf(aside, sizeof aside, "%s.aside", path);
	CHECK(!rename(path, aside));
	fails_for(path);
	is_well();
	FILE *file = fopen(path, "w");
	CHECK(file && fputs("another file", file) > 0 && !fclose(file));
	fails_for("has been replaced");
	is_well();
	CHECK(!rename(aside, path));
	CHECK(add());
	/* the same in another file, and another build */
	char command[8300];
	snprintf(command, sizeof command, "cp %s %s && mv %s %s", path, aside, aside, path);
	CHECK(!system(command) && add());
	rebuilt(path);
}

static int (*late)(void);
static void call_late(void *result) {
	*(int *) result = late();
}

/* argv[2] is the path of a library that cannot be copied: its functions run in base. */
static void cannot_be_copied(const char *path) {
	CHECK(add());
	void *library = dlopen(path, RTLD_NOW);
	CHECK(library && (*(void **) &late = dlsym(library, "late")));
	int result = 0;
	linger_t linger = launch(call_late, NO_LIMIT, &result);
	CHECK(linger.is_complete && result == 1 && late() == 2);
	CHECK(add());
}

static void numgroups(const char *number) {
	CHECK(add());
	CHECK(linger_concurrency_limit() == strtoul(number, NULL, 10));
	while (add())
		;
	CHECK(lingers_len == atoi(number));
	fails_for("all");
	is_well();
}

/* The dynamic linker makes the copies, which is good for some; the cause is told where they do not suffice. */
static void by_dlmopen(const char *cause) {
	while (add())
		;
	CHECK(lingers_len >= 11 && linger_concurrency_limit() == (size_t) lingers_len);
	fails_for("grants this process");
	fails_for(cause);
	is_well();
}

/* The first launch fails. */
static void startup(const char *cause) {
	fails_for(cause);
	fails_for(cause);
	CHECK(linger_concurrency_limit() == 0);
}

int main(int count, char *argv[]) {
	CHECK(count > 1);
	if (!strcmp(argv[1], "address_space"))
		address_space();
	else if (!strcmp(argv[1], "mappings"))
		mappings();
	else if (!strcmp(argv[1], "descriptors"))
		descriptors();
	else if (!strcmp(argv[1], "file_size"))
		file_size();
	else if (!strcmp(argv[1], "replaced"))
		replaced(argv[2]);
	else if (!strcmp(argv[1], "rebuilt"))
		rebuilt(argv[2]);
	else if (!strcmp(argv[1], "cannot_be_copied"))
		cannot_be_copied(argv[2]);
	else if (!strcmp(argv[1], "numgroups"))
		numgroups(argv[2]);
	else if (!strcmp(argv[1], "by_dlmopen"))
		by_dlmopen(argv[2]);
	else if (!strcmp(argv[1], "startup"))
		startup(argv[2]);
	else
		return 2;
	all_finish();
	return 0;
}
