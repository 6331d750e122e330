/* After a cancel every byte of a libset is what it was, whatever the function has done. The comparison is made from
 * outside: of all memory that libsets have of a file of theirs, which holds the copies' data and the pristine state.
 * "unasked": with a kernel that does not tell what has been written. */
#include "../c/check.h"

#include <dlfcn.h>
#include <glob.h>
#include <grp.h>
#include <iconv.h>
#include <libintl.h>
#include <locale.h>
#include <math.h>
#include <netdb.h>
#include <pthread.h>
#include <pwd.h>
#include <regex.h>
#include <search.h>
#include <setjmp.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <syslog.h>
#include <utmp.h>
#include <wchar.h>

/* ------------------------------------------------------------------ comparing */

enum { MOST = 4096 };
static struct range {
	char *start, *copy;
	size_t size;
} ranges[MOST];
static int ranges_len;

/* Not on the heap, lest base's own work be seen. */
static void take_reference(void) {
	for (int i = 0; i < ranges_len; i++)
		CHECK(!munmap(ranges[i].copy, ranges[i].size));
	ranges_len = 0;
	FILE *maps = fopen("/proc/self/maps", "r");
	CHECK(maps);
	char line[512], access[5];
	for (unsigned long start, end; fgets(line, sizeof line, maps);)
		if (strstr(line, "/memfd:libgotcha-libset") && sscanf(line, "%lx-%lx %4s", &start, &end, access) == 3) {
			CHECK(!strcmp(access, "rw-p") && ranges_len < MOST);
			struct range *range = &ranges[ranges_len++];
			*range = (struct range) { .start = (char *) start, .size = end - start };
			range->copy = mmap(NULL, range->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			CHECK(range->copy != MAP_FAILED);
			memcpy(range->copy, range->start, range->size);
		}
	fclose(maps);
	CHECK(ranges_len >= 2);
}

static size_t differing_bytes(void) {
	size_t count = 0;
	for (int i = 0; i < ranges_len; i++)
		for (size_t at = 0; memcmp(ranges[i].start, ranges[i].copy, ranges[i].size) && at < ranges[i].size; at++)
			count += ranges[i].start[at] != ranges[i].copy[at];
	return count;
}

/* ------------------------------------------------------------------ kinds of work */

static int by_value(const void *one, const void *other) {
	return strcmp(*(char *const *) one, *(char *const *) other);
}

static void words(void) {
	static char text[] = "some words of text";
	CHECK(strtok(text, " "));
}
static void random_numbers(void) {
	srand(7);
	srand48(7);
	static char state[64];
	initstate(7, state, sizeof state);
	CHECK(rand() + lrand48() + random() != 0);
}
static void times(void) {
	time_t now = 1000000000;
	CHECK(localtime(&now) && gmtime(&now) && ctime(&now) && strftime((char[64]) { 0 }, 64, "%c", localtime(&now)));
}
static void open_streams(void) {
	FILE *stream = fopen("/etc/passwd", "r"), *other = tmpfile();
	CHECK(stream && getc(stream) != EOF && other && fprintf(other, "%f", 1.5) > 0);
}
static void users(void) {
	CHECK(getpwnam("root") && getgrgid(0) && getpwuid(0));
}
static void addresses(void) {
	struct addrinfo *found;
	CHECK(!getaddrinfo("localhost", "80", NULL, &found));
	getservbyname("http", "tcp");
}
static void character_sets(void) {
	CHECK(iconv_open("UTF-16", "ISO-8859-15") != (iconv_t) -1);
	/* the first of them has changed the libset for good; its users are counted on the heap */
	srand(2);
}
static void locales(void) {
	CHECK(setlocale(LC_ALL, "C.UTF-8") && mblen("\xc3\xa4", 2) == 2);
}
static void translations(void) {
	CHECK(textdomain("another") && bindtextdomain("another", "/nowhere") && gettext("text"));
}
static void expressions(void) {
	regex_t regex;
	CHECK(!regcomp(&regex, "(a|b)*[[:alpha:]]", REG_EXTENDED) && !regexec(&regex, "abba", 0, NULL, 0));
	re_set_syntax(RE_SYNTAX_GREP);
}
static void sorting(void) {
	char *list[100], texts[100][8];
	for (int i = 0; i < 100; i++)
		snprintf(list[i] = texts[i], 8, "%d", i * 7919 % 1000);
	qsort(list, 100, sizeof *list, by_value);
	CHECK(strerror(99999) && strsignal(99) && ecvt(1.5, 3, &(int) { 0 }, &(int) { 0 }));
}
static void tables(void) {
	hdestroy();
	CHECK(hcreate(100) && hsearch((ENTRY) { "key", "data" }, ENTER));
}
static void *nothing(void *unused) {
	return unused;
}
static void threads(void) {
	pthread_t thread;
	CHECK(!pthread_create(&thread, NULL, nothing, NULL) && !pthread_join(thread, NULL));
	CHECK(!strcmp(strtok((char[]) { "a b" }, " "), "a"));
}
static void leave(void) {
}
static void endings(void) {
	CHECK(!atexit(leave) && !at_quick_exit(leave));
	openlog("name", LOG_PID, LOG_USER);
	/* all that is the process's */
	srand(4);
}
static void processes(void) {
	FILE *pipe = popen("exit 0", "r");
	/* or else the child would be preempted too, and go on with this program */
	linger_defer();
	pid_t child = fork();
	if (!child)
		_exit(0);
	linger_undefer();
	CHECK(pipe && !pclose(pipe) && child > 0 && waitpid(child, NULL, 0) == child && !system(":"));
	srand(1 + child);
}
static void opening(void) {
	CHECK(dlopen("libm.so.6", RTLD_NOW) && !dlopen("/no/such/library", RTLD_NOW) && dlerror());
	srandom(3);
}
static void names(void) {
	glob_t paths;
	CHECK(!glob("/etc/*", 0, NULL, &paths) && l64a(12345));
	mbrtowc(NULL, "\xc3", 1, NULL);
	mblen("\xc3", 1);
	setutent();
	getutent();
}
static void jumps(void) {
	jmp_buf place;
	if (!setjmp(place))
		longjmp(place, 1);
	CHECK(lgamma(-0.5) != 0);
	srand(99);
}
#ifdef HAS_LARGE
void spoil(size_t page);
static void large(void) {
	for (size_t page = 0; page < 2000; page += 97)
		spoil(page);
}
#endif

static const struct kind {
	const char *name;
	void (*work)(void);
	enum {
		ANYWHERE,
		LOADS,          /* what the C library has loaded for a function becomes part of the pristine state */
		WHOLE,          /* stopped halfway, it has a thread, and its libset is not used again */
	} how;
} kinds[] = {
#define KIND(work) { #work, work, ANYWHERE }
	KIND(words), KIND(random_numbers), KIND(times), KIND(open_streams), KIND(users), KIND(addresses),
	{ "character_sets", character_sets, LOADS }, { "locales", locales, LOADS }, KIND(translations), KIND(expressions), KIND(sorting), KIND(tables),
	{ "threads", threads, WHOLE }, KIND(endings), KIND(processes), KIND(opening), KIND(names), KIND(jumps),
#ifdef HAS_LARGE
	KIND(large),
#endif
};

static void work_once(void *kind) {
	((const struct kind *) kind)->work();
	pause();
}

static void work_for_ever(void *kind) {
	for (;;)
		((const struct kind *) kind)->work();
}

static void idle(void *unused) {
	(void) unused;
}

/* As a launch finds it. */
static void settle(void) {
	linger_t linger = launch(idle, 0, NULL);
	CHECK(!linger.error);
	cancel(&linger);
}

/* To ask the kernel takes a descriptor. */
static bool is_unasked;
static void cancel_without_descriptors(linger_t *linger) {
	struct rlimit limit, none;
	CHECK(!getrlimit(RLIMIT_NOFILE, &limit));
	none = limit;
	none.rlim_cur = 0;
	CHECK(!setrlimit(RLIMIT_NOFILE, &none));
	cancel(linger);
	CHECK(!setrlimit(RLIMIT_NOFILE, &limit));
}

static void cancel_one(linger_t *linger, const struct kind *kind, bool has_changed) {
	size_t changed = differing_bytes();
	if (is_unasked)
		cancel_without_descriptors(linger);
	else
		cancel(linger);
	settle();
	size_t left = differing_bytes();
	if ((has_changed && !changed) || left) {
		dprintf(STDERR_FILENO, "%s: %zu bytes differ before the cancel, %zu after it\n", kind->name, changed, left);
		_exit(1);
	}
}

static void try(const struct kind *kind) {
	linger_t linger;
	if (kind->how == LOADS) {
		linger = launch(work_once, NO_LIMIT, (void *) kind);
		CHECK(linger.is_yielded);
		cancel(&linger);
		settle();
		take_reference();
	}
	linger = launch(work_once, NO_LIMIT, (void *) kind);
	CHECK(linger.is_yielded);
	cancel_one(&linger, kind, true);
	for (int i = 0; kind->how != WHOLE && i < 50; i++) {
		linger = launch(work_for_ever, 20 + i * 37, (void *) kind);
		CHECK(!linger.error && !linger.is_complete);
		cancel_one(&linger, kind, false);
	}
}

int main(int arguments, char *argv[]) {
	is_unasked = arguments > 1 && !strcmp(argv[1], "unasked");
	/* not in the first libset alone */
	linger_t other = launch(idle, 0, NULL);
	CHECK(!other.error);
	settle();
	take_reference();
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
		try(&kinds[i]);
	cancel(&other);
	printf("%zu kinds of work\n", sizeof kinds / sizeof *kinds);
	return 0;
}
