/* What libsets are, beside the policy's rows: parts that make, extend and roll back copies. Run with the clone engine,
 * which does all of it itself. */
#include "policy.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <iconv.h>
#include <link.h>
#include <locale.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>

int constructed_count(void);
char *constructed_block(void);
int constructed_local_is_new(void);

/* ------------------------------------------------------------------ rolling back */

static void cancel_after(void (*function)(void *)) {
	linger_t linger = linger_launch(function, UINT64_MAX, NULL);
	REQUIRE(linger.is_yielded);
	linger_cancel(&linger);
}

static void change_data(void *unused) {
	(void) unused;
	REQUIRE(constructed_count() == 1);
	linger_pause();
}
static void check_data(void) {
	for (int i = 0; i < 3; i++)
		cancel_after(change_data);
}

static void change_constructed(void *unused) {
	(void) unused;
	REQUIRE(!strcmp(constructed_block(), "constructed"));
	strcpy(constructed_block(), "changed");
	linger_pause();
}
static void check_init_heap(void) {
	for (int i = 0; i < 3; i++)
		cancel_after(change_constructed);
}

static void change_local(void *unused) {
	(void) unused;
	REQUIRE(constructed_local_is_new());
	linger_pause();
}
static void check_thread_locals(void) {
	for (int i = 0; i < 3; i++)
		cancel_after(change_local);
}

static __thread int own_local = 3;
static void change_own_local(void *unused) {
	(void) unused;
	REQUIRE(own_local++ == 3);
}
static void check_fresh_thread_locals(void) {
	for (int i = 0; i < 3; i++)
		inside(change_own_local, NULL);
}

static void leave_open(void *unused) {
	(void) unused;
	REQUIRE(fopen("/dev/null", "r"));
	linger_pause();
}
static void check_streams(void) {
	struct rlimit few;
	getrlimit(RLIMIT_NOFILE, &few);
	few.rlim_cur = 64;
	REQUIRE(!setrlimit(RLIMIT_NOFILE, &few));
	for (int i = 0; i < 100; i++)
		cancel_after(leave_open);
}

/* A thread that outlives the function relies on the libset as it is. */
static atomic_int rounds;
static atomic_bool is_over;
static void *count_on(void *unused) {
	for (int last = 0, count; !is_over; last = count, rounds++) {
		count = constructed_count();
		REQUIRE(count == last + 1, count);
		usleep(100);
	}
	return unused;
}
static pthread_t thread;
static void start_and_pause(void *unused) {
	(void) unused;
	REQUIRE(!pthread_create(&thread, NULL, count_on, NULL));
	linger_pause();
}
static void wait_for_rounds(int more) {
	for (int end = rounds + more; rounds < end;)
		usleep(100);
}
static void check_retiring(void) {
	linger_t linger = linger_launch(start_and_pause, UINT64_MAX, NULL);
	REQUIRE(linger.is_yielded);
	wait_for_rounds(10);
	linger_cancel(&linger);
	wait_for_rounds(10);
	for (int i = 0; i < 3; i++)
		cancel_after(change_data);
	wait_for_rounds(10);
	is_over = true;
	pthread_join(thread, NULL);
}

/* ------------------------------------------------------------------ finishing, preparing */

static void write_and_return(void *unused) {
	(void) unused;
	FILE *stream = fopen("written", "w");
	REQUIRE(stream && fputs("text", stream) >= 0);
}
static void check_flush(void) {
	inside(write_and_return, NULL);
	char text[8] = { 0 };
	FILE *stream = fopen("written", "r");
	REQUIRE(stream && fgets(text, sizeof text, stream) && !strcmp(text, "text"));
}

static void look_at_locale(void *unused) {
	(void) unused;
	const char *locale = setlocale(LC_ALL, NULL);
	REQUIRE(locale && !strcmp(locale, "C.UTF-8"));
}
static void check_locale(void) {
	REQUIRE(setlocale(LC_ALL, "C.UTF-8"));
	inside(look_at_locale, NULL);
}

/* That of the program's last tzset(), also where it was not the first; localtime_r() does not look again. */
static char zone_inside[16];
static void look_at_zone(void *unused) {
	(void) unused;
	time_t now = 0;
	struct tm broken_down;
	REQUIRE(localtime_r(&now, &broken_down));
	snprintf(zone_inside, sizeof zone_inside, "%s", broken_down.tm_zone);
}
static void check_tzset(void) {
	static const char *const zones[][2] = { { "AAA-5", "AAA" }, { "BBB-7", "BBB" } };
	for (int i = 0; i < 4; i++) {
		REQUIRE(!setenv("TZ", zones[i % 2][0], 1));
		tzset();
		inside(look_at_zone, NULL);
		REQUIRE(!strcmp(zone_inside, zones[i % 2][1]));
	}
}

/* ------------------------------------------------------------------ opened at run time */

static int (*late_local_is_new)(void);
static void look_at_late_local(void *unused) {
	(void) unused;
	REQUIRE(late_local_is_new());
	linger_pause();
}
static void check_late_thread_locals(void) {
	void *library = dlopen(getenv("POLICY_LATE"), RTLD_NOW);
	REQUIRE(library);
	*(void **) &late_local_is_new = dlsym(library, "constructed_local_is_new");
	for (int i = 0; i < 3; i++)
		cancel_after(look_at_late_local);
}

static int text_mappings(const char *name) {
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[512];
	int count = 0;
	REQUIRE(maps);
	while (fgets(line, sizeof line, maps))
		count += strstr(line, "r-xp") && strstr(line, name);
	fclose(maps);
	return count;
}
static void convert(void *unused) {
	(void) unused;
	iconv_t conversion = iconv_open("UTF-8", "EUC-JP");
	char in[] = "text", out[32], *from = in, *to = out;
	size_t from_length = 4, to_length = sizeof out;
	REQUIRE(conversion != (iconv_t) -1 && !iconv(conversion, &from, &from_length, &to, &to_length));
	iconv_close(conversion);
}
/* What the C library opens for itself has a copy too. */
static void check_hidden(void) {
	REQUIRE(text_mappings("/EUC-JP.so") == 0);
	inside(convert, NULL);
	int mappings = text_mappings("/EUC-JP.so");
	REQUIRE(mappings == 2, mappings);
}

static void ask(void *unused) {
	(void) unused;
	REQUIRE(getpass("?"));
}
/* Some of the C library's own functions use base's streams without a call that anybody could see. */
static void check_vtables(void) {
	/* or else it would ask there */
	setsid();
	inside(ask, NULL);
}

/* ------------------------------------------------------------------ unwinding, describing */

static void *frames[64];
static int frames_len, listed;
static bool is_described, is_described_with_map, is_in_line, is_in_file;

static int list(struct dl_phdr_info *info, size_t size, void *closure) {
	(void) size;
	for (int i = 0; i < info->dlpi_phnum; i++)
		listed += info->dlpi_phdr[i].p_type == PT_LOAD
			&& (uintptr_t) closure - info->dlpi_addr - info->dlpi_phdr[i].p_vaddr < info->dlpi_phdr[i].p_memsz;
	return 0;
}
static int compare(const void *one, const void *other) {
	(void) one;
	(void) other;
	void *caller = __builtin_return_address(0);
	Dl_info info = { 0 };
	struct link_map *map;
	frames_len = backtrace(frames, 64);
	listed = 0;
	dl_iterate_phdr(list, caller);
	is_described = dladdr(caller, &info) && strstr(info.dli_fname, "libc.so");
	is_described_with_map = dladdr1(caller, &info, (void **) &map, RTLD_DL_LINKMAP) && strstr(info.dli_fname, "libc.so");
	char **lines = backtrace_symbols(&caller, 1);
	is_in_line = lines && strstr(lines[0], "libc.so");
	free(lines);
	FILE *file = tmpfile();
	char line[512] = { 0 };
	backtrace_symbols_fd(&caller, 1, fileno(file));
	rewind(file);
	is_in_file = fgets(line, sizeof line, file) && strstr(line, "libc.so");
	fclose(file);
	return 0;
}
__attribute__((noinline)) static void sort(void *unused) {
	(void) unused;
	int values[] = { 2, 1 };
	qsort(values, 2, sizeof *values, compare);
}
static void check_backtrace(void) {
	inside(sort, NULL);
	bool is_found = false;
	for (int i = 1; i < frames_len; i++)
		is_found |= (uintptr_t) frames[i] - (uintptr_t) sort < 200;
	REQUIRE(is_found, frames_len);
}
#define DESCRIBES(name, condition) \
	static void check_##name(void) { \
		inside(sort, NULL); \
		REQUIRE(condition); \
	}
DESCRIBES(dl_iterate_phdr, listed == 1)
DESCRIBES(dladdr, is_described)
DESCRIBES(dladdr1, is_described_with_map)
DESCRIBES(backtrace_symbols, is_in_line)
DESCRIBES(backtrace_symbols_fd, is_in_file)

#define SAME(name) { #name, #name, check_##name }
const struct check checks[] = {
	SAME(data), SAME(init_heap), SAME(thread_locals), SAME(fresh_thread_locals), SAME(streams), SAME(retiring), SAME(flush),
	SAME(locale), SAME(tzset), SAME(late_thread_locals), { "hidden", "shadow", check_hidden }, SAME(vtables),
	{ "backtrace", "_dl_find_object", check_backtrace }, SAME(dl_iterate_phdr), SAME(dladdr), SAME(dladdr1),
	SAME(backtrace_symbols), SAME(backtrace_symbols_fd),
	{ NULL, NULL, NULL },
};
