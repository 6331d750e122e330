/* The dynamic linker: base's, not preempted; what is opened at run time gets its copies; functions have
 * one address for everybody; what the C library opens for itself lies in the libset. */
#include "policy.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <iconv.h>
#include <link.h>
#include <pwd.h>

static void check_dlsym(void) {
	REQUIRE(dlsym(RTLD_DEFAULT, "malloc") == (void *) malloc);
	REQUIRE(dlsym(RTLD_DEFAULT, "no_such_function") == NULL && dlerror());
}
static void check_dlvsym(void) {
	REQUIRE(dlvsym(RTLD_DEFAULT, "malloc", "GLIBC_2.2.5") == (void *) malloc);
}
static void find_inside(void *unused) {
	(void) unused;
	ROUNDS(10000) {
		check_dlsym();
		check_dlvsym();
	}
}
static void check_find(void) {
	inside(find_inside, NULL);
}

/* Opened in base after libsets exist: they have their copies, with state of their own. */
static int (*opened_count)(void);
static void open_late(void) {
	void *library = dlopen(getenv("POLICY_LATE"), RTLD_NOW);
	REQUIRE(library);
	*(void **) &opened_count = dlsym(library, "late_count");
	REQUIRE(opened_count);
}
static void count_late(void *unused) {
	(void) unused;
	int count = opened_count();
	REQUIRE(count == 1, count);
}
static void check_dlopen(void) {
	open_late();
	opened_count();
	opened_count();
	inside(count_late, NULL);
}
static void open_late_inside(void *unused) {
	(void) unused;
	open_late();
	count_late(NULL);
}
static void check_dlopen_inside(void) {
	inside(open_late_inside, NULL);
	int count = opened_count();
	REQUIRE(count == 1, count);
}

static int objects;
static __thread int calls;
static int count_object(struct dl_phdr_info *info, size_t size, void *closure) {
	(void) size;
	(void) closure;
	calls++;
	objects += strstr(info->dlpi_name, "libc.so") != NULL;
	return 0;
}
static void iterate(void *unused) {
	(void) unused;
	ROUNDS(5000) {
		objects = calls = 0;
		dl_iterate_phdr(count_object, NULL);
		REQUIRE(objects == 1, objects);
		/* its thread-locals are the caller's */
		REQUIRE(calls > 1, calls);
	}
}
static void check_iterate(void) {
	inside(iterate, NULL);
}

#define CALLS(name, ...) \
	static void call_##name(void *unused) { \
		(void) unused; \
		ROUNDS(5000) { \
			__VA_ARGS__; \
		} \
	} \
	static void check_##name(void) { \
		inside(call_##name, NULL); \
	}
CALLS(dladdr, Dl_info info; REQUIRE(dladdr((void *) find_inside, &info)))
CALLS(dladdr1, Dl_info info; struct link_map *map; REQUIRE(dladdr1((void *) find_inside, &info, (void **) &map, RTLD_DL_LINKMAP)))
CALLS(dlinfo, void *self = dlopen(NULL, RTLD_NOW); Lmid_t id; REQUIRE(self && !dlinfo(self, RTLD_DI_LMID, &id) && id == LM_ID_BASE); dlclose(self))
CALLS(dlerror, REQUIRE(!dlopen("/no/such/library", RTLD_NOW)); const char *e = dlerror(); REQUIRE(e && strstr(e, "/no/such/library")); REQUIRE(!dlerror()))
CALLS(backtrace, void *frames[16]; int n = backtrace(frames, 16); REQUIRE(n >= 1, n); char **names = backtrace_symbols(frames, n); REQUIRE(names); free(names))
/* hidden dlopens: modules of the name service and of character sets */
CALLS(hidden, REQUIRE(getpwuid(0)); iconv_t c = iconv_open("UTF-16", "EUC-JP"); REQUIRE(c != (iconv_t) -1);
	char in[] = "text"; char out[32]; char *from = in; char *to = out; size_t from_length = 4; size_t to_length = sizeof out;
	REQUIRE(iconv(c, &from, &from_length, &to, &to_length) == 0); iconv_close(c))

const struct check checks[] = {
	{ "dlsym", "dlsym", check_dlsym },
	{ "dlvsym", "dlvsym", check_dlvsym },
	{ "find", "-", check_find },
	{ "dlopen", "dlopen,late_copies", check_dlopen },
	{ "dlopen_inside", "-", check_dlopen_inside },
	{ "dl_iterate_phdr", "-", check_iterate },
	{ "dladdr", "-", check_dladdr },
	{ "dladdr1", "-", check_dladdr1 },
	{ "dlinfo", "dlinfo,dlclose", check_dlinfo },
	{ "dlerror", "dlerror", check_dlerror },
	{ "backtrace", "backtrace", check_backtrace },
	{ "hidden", "-", check_hidden },
	{ NULL, NULL, NULL },
};
