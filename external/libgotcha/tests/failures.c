/* Making a libset, and a TCB for it, fails at each call in turn that can fail: each time an error is returned, the next
 * attempt succeeds, and nothing is lost. Linked with --wrap for each of the calls below, so that they, and no others
 * of the process, are counted. argv[1]: 0, the first libset is made under failures; 1, a later one.
 * Exit status 0, or the line of the first failure on standard error. */
#define _GNU_SOURCE
#include "../src/control.h"
#include <libgotcha.h>

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

static int failing_call;        /* counts down; at 0 a call fails */
static const char *failed_call; /* its name */

#define CHECK(condition) \
	do { \
		if (!(condition)) { \
			dprintf(2, "failures.c:%d: %s (%s; failed: %s)\n", __LINE__, #condition, libgotcha_error(), failed_call); \
			_exit(1); \
		} \
	} while (0)

static bool fails(const char *name) {
	if (!failing_call || --failing_call)
		return false;
	failed_call = name;
	errno = ENOMEM;
	return true;
}

#define WRAP(type, name, failure, parameters, arguments) \
	type __real_##name parameters; \
	type __wrap_##name parameters; \
	type __wrap_##name parameters { \
		return fails(#name) ? failure : __real_##name arguments; \
	}
WRAP(void *, malloc, NULL, (size_t size), (size))
WRAP(void *, calloc, NULL, (size_t count, size_t size), (count, size))
WRAP(void *, realloc, NULL, (void *block, size_t size), (block, size))
WRAP(char *, strdup, NULL, (const char *text), (text))
WRAP(void *, mmap, MAP_FAILED, (void *at, size_t size, int protection, int flags, int file, off_t offset),
	(at, size, protection, flags, file, offset))
WRAP(int, mprotect, -1, (void *at, size_t size, int protection), (at, size, protection))
WRAP(int, memfd_create, -1, (const char *name, unsigned flags), (name, flags))
WRAP(int, ftruncate, -1, (int file, off_t size), (file, size))
WRAP(int, open, -1, (const char *path, int flags), (path, flags))
WRAP(int, fstat, -1, (int file, struct stat *status), (file, status))
WRAP(ssize_t, pread, -1, (int file, void *to, size_t size, off_t offset), (file, to, size, offset))
WRAP(ssize_t, write, -1, (int file, const void *from, size_t size), (file, from, size))
WRAP(ssize_t, readlink, -1, (const char *path, char *to, size_t size), (path, to, size))
WRAP(int, on_exit, -1, (void (*function)(int, void *), void *argument), (function, argument))
WRAP(void *, dlmopen, NULL, (Lmid_t namespace, const char *path, int mode), (namespace, path, mode))

static void *(*allocate_tls)(void *);
static void *allocate_tls_or_fail(void *memory) {
	return fails("_dl_allocate_tls") ? NULL : allocate_tls(memory);
}
void *__real_dlvsym(void *, const char *, const char *), *__wrap_dlvsym(void *, const char *, const char *);
void *__wrap_dlvsym(void *handle, const char *name, const char *version) {
	void *found = __real_dlvsym(handle, name, version);
	if (strcmp(name, "_dl_allocate_tls"))
		return found;
	*(void **) &allocate_tls = found;
	return (void *) allocate_tls_or_fail;
}

/* ------------------------------------------------------------------ what there is */

struct held {
	long mapped_pages, allocated_bytes, descriptors;
};

static struct held held(void) {
	struct held held = { .allocated_bytes = mallinfo2().uordblks };
	char line[4096];
	FILE *maps = fopen("/proc/self/maps", "r");
	CHECK(maps);
	while (fgets(line, sizeof line, maps)) {
		unsigned long start, end;
		char protection[8];
		CHECK(sscanf(line, "%lx-%lx %7s", &start, &end, protection) == 3);
		/* the heap grows as it likes; what is only reserved is no loss, and what is taken of it is not more */
		if (!strstr(line, "[heap]") && strncmp(protection, "---", 3))
			held.mapped_pages += (end - start) / 4096;
	}
	fclose(maps);
	for (int file = 0; file < 100; file++)
		held.descriptors += fcntl(file, F_GETFD) >= 0;
	return held;
}

/* ------------------------------------------------------------------ attempts */

enum { ATTEMPTS = 100 };
static char stack[64 << 10];

static bool attempt(libgotcha_group_t *group) {
	struct libgotcha_tcb tcb;
	*group = libgotcha_group_new();
	if (*group == LIBGOTCHA_GROUP_ERROR)
		return false;
	if (!libgotcha_tcb_new(*group, stack, sizeof stack, &tcb))
		return true;
	libgotcha_group_free(*group);
	return false;
}

static void works(libgotcha_group_t group) {
	int (*own_rand)(void) = libgotcha_group_symbol(group, "rand");
	CHECK(own_rand && (void *) own_rand != libgotcha_base("rand"));
	int first = own_rand();
	CHECK(own_rand() != first && libgotcha_group_renew(group) && own_rand() == first);
}

/* Makes libsets, one of them under failures at that call if it is not 0; returns what that one took, in the end. */
static struct held make(int call, int made_before) {
	libgotcha_group_t group;
	for (int i = 0; i < made_before; i++)
		CHECK(attempt(&group));
	struct held before = held();
	/* what standard I/O allocates once */
	before = held();
	bool succeeds = false;
	for (int i = 0; i < ATTEMPTS && !succeeds; i++) {
		failing_call = call;
		succeeds = attempt(&group);
		failing_call = 0;
		CHECK(succeeds || (failed_call && *libgotcha_error()));
	}
	CHECK(succeeds || attempt(&group));
	works(group);
	struct held after = held();
	return (struct held) { after.mapped_pages - before.mapped_pages, after.allocated_bytes - before.allocated_bytes,
		after.descriptors - before.descriptors };
}

/* The same in a child. False: there are not so many calls that could fail. */
static bool is_survived(int call, int made_before, struct held *undisturbed) {
	pid_t child = fork();
	if (!child) {
		struct held taken = make(call, made_before);
		if (!call) {
			*undisturbed = taken;
			_exit(0);
		}
		if (!failed_call)
			_exit(77);
		CHECK(taken.mapped_pages == undisturbed->mapped_pages);
		CHECK(taken.descriptors == undisturbed->descriptors);
		/* some blocks that malloc keeps at hand count as allocated; one more for each attempt is more than these */
		CHECK(taken.allocated_bytes < undisturbed->allocated_bytes + 16 * ATTEMPTS);
		_exit(0);
	}
	int status;
	CHECK(child > 0 && waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 77));
	return !WEXITSTATUS(status);
}

int main(int count, char *argv[]) {
	int made_before = count > 1 ? atoi(argv[1]) : 1, call = 0;
	struct held *undisturbed = __real_mmap(NULL, sizeof *undisturbed, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(undisturbed != MAP_FAILED && !libgotcha_init());
	while (is_survived(call, made_before, undisturbed))
		call++;
	printf("%d calls\n", call - 1);
	return 0;
}
