/* The C library's own world: locales, character sets, name services, and libraries opened at run time. */
#include "behaviour.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <dlfcn.h>
#include <ftw.h>
#include <glob.h>
#include <grp.h>
#include <iconv.h>
#include <langinfo.h>
#include <locale.h>
#include <math.h>
#include <netdb.h>
#include <pwd.h>
#include <regex.h>
#include <search.h>
#include <wchar.h>
#include <wctype.h>
#include <wordexp.h>

/* ------------------------------------------------------------------ locales and character sets */

static void locales(void) {
	for (int i = 0; i < 20; i++) {
		CHECK(setlocale(LC_ALL, "C.UTF-8"));
		wchar_t wide[64];
		char narrow[64];
		CHECK(mbstowcs(wide, "äöü €", 64) == 5 && wide[4] == 0x20ac && towupper((wint_t) wide[0]) == 0xc4);
		CHECK(wcstombs(narrow, wide, sizeof narrow) == 10 && !strcmp(narrow, "äöü €"));
		CHECK(!strcmp(nl_langinfo(CODESET), "UTF-8") && strcoll("a", "b") < 0);
		locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t) 0), before = uselocale(plain);
		CHECK(!strcmp(nl_langinfo(CODESET), "ANSI_X3.4-1968") && mbstowcs(wide, "ä", 64) == (size_t) -1);
		CHECK(uselocale(before) == plain);
		freelocale(plain);
		struct tm moment = { .tm_year = 100, .tm_mday = 1 };
		CHECK(strftime(narrow, sizeof narrow, "%A %B %x", &moment) > 0 && localeconv()->decimal_point[0] == '.');
		if (!i)
			note("%s %s\n", narrow, setlocale(LC_ALL, NULL));
		CHECK(setlocale(LC_ALL, "C") && !setlocale(LC_ALL, "no such locale"));
	}
}

static void character_sets(void) {
	static const char *const sets[] = { "UTF-16LE", "ISO-8859-1", "UTF-32", "CP1252", "UTF-7" };
	for (int i = 0; i < 5; i++) {
		char text[] = "Zürich, K\xc3\xb8" "benhavn", converted[256], back[256];
		iconv_t there = iconv_open(sets[i], "UTF-8"), and_back = iconv_open("UTF-8", sets[i]);
		CHECK(there != (iconv_t) -1 && and_back != (iconv_t) -1);
		char *in = text, *out = converted;
		size_t in_left = strlen(text), out_left = sizeof converted;
		CHECK(iconv(there, &in, &in_left, &out, &out_left) != (size_t) -1 && in_left == 0);
		CHECK(iconv(there, NULL, NULL, &out, &out_left) != (size_t) -1);
		note("%s ", sets[i]);
		note_bytes(converted, sizeof converted - out_left);
		in = converted;
		in_left = sizeof converted - out_left;
		out = back;
		out_left = sizeof back;
		CHECK(iconv(and_back, &in, &in_left, &out, &out_left) != (size_t) -1);
		CHECK(sizeof back - out_left == strlen(text) && !memcmp(back, text, strlen(text)));
		CHECK(!iconv_close(there) && !iconv_close(and_back));
	}
	CHECK(iconv_open("no such set", "UTF-8") == (iconv_t) -1 && errno == EINVAL);
}

/* ------------------------------------------------------------------ name services */

static void users_and_groups(void) {
	struct passwd *user = getpwnam("root");
	CHECK(user && user->pw_uid == 0);
	note("%s %s\n", user->pw_name, user->pw_dir);
	CHECK((user = getpwuid(0)) && !strcmp(user->pw_name, "root") && !getpwnam("nobody has this name"));
	struct group *group = getgrgid(0);
	CHECK(group && group->gr_gid == 0 && (group = getgrnam(group->gr_name)) && group->gr_gid == 0);
	struct passwd storage, *found;
	char room[4096];
	CHECK(!getpwnam_r("root", &storage, room, sizeof room, &found) && found == &storage);
	int count = 0;
	setpwent();
	while (getpwent())
		count++;
	endpwent();
	note("%d\n", count);
	gid_t groups[64];
	int length = 64;
	CHECK(getgrouplist("root", 0, groups, &length) >= 1);
	struct servent *service = getservbyname("ssh", "tcp");
	struct protoent *protocol = getprotobyname("tcp");
	note("%d %d\n", service ? ntohs((uint16_t) service->s_port) : 0, protocol ? protocol->p_proto : 0);
}

static void addresses(void) {
	static const char *const names[] = { "127.0.0.1", "::1", "localhost" };
	for (int i = 0; i < 3; i++) {
		struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = i < 2 ? AI_NUMERICHOST : 0 }, *list;
		CHECK(!getaddrinfo(names[i], "80", &hints, &list));
		for (struct addrinfo *info = list; info; info = info->ai_next) {
			char host[100], service[20];
			CHECK(!getnameinfo(info->ai_addr, info->ai_addrlen, host, sizeof host, service, sizeof service,
				NI_NUMERICHOST | NI_NUMERICSERV));
			note("%s %s %d\n", host, service, info->ai_family);
		}
		freeaddrinfo(list);
	}
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST }, *list;
	CHECK(getaddrinfo("not.a.number", NULL, &hints, &list) == EAI_NONAME);
	struct hostent *host = gethostbyname("localhost");
	CHECK(host && host->h_length == 4);
	struct in_addr address;
	CHECK(inet_pton(AF_INET, "10.1.2.3", &address) == 1);
	note("%s\n", inet_ntoa(address));
}

/* ------------------------------------------------------------------ libraries opened at run time */

static const char *plugin_path;

static void *find(void *handle, const char *name) {
	void *address = dlsym(handle, name);
	CHECK(address);
	return address;
}

#define LOOK_UP(handle, type, name) \
	type name; \
	do { \
		void *address = find(handle, #name); \
		memcpy(&name, &address, sizeof name); \
	} while (0)

typedef int state_function(void);
typedef double compute_function(double);

static void plugins(void) {
	for (int round = 0; round < 10; round++) {
		void *handle = dlopen(plugin_path, round % 2 ? RTLD_LAZY : RTLD_NOW);
		CHECK(handle);
		LOOK_UP(handle, state_function *, plugin_state);
		LOOK_UP(handle, compute_function *, plugin_compute);
		int first = plugin_state(), second = plugin_state();
		/* it may still be loaded from before */
		CHECK(first >= 530 && second == first + 11 && fabs(plugin_compute(1) - 0.739085) < 0.00001);
		Dl_info info;
		void *address;
		memcpy(&address, &plugin_state, sizeof address);
		CHECK(dladdr(address, &info) && !strcmp(info.dli_sname, "plugin_state"));
		CHECK(!dlsym(handle, "no such symbol") && dlerror() && !dlerror() && !dlclose(handle));
	}
	CHECK(!dlopen("/no/such/library.so", RTLD_NOW) && dlerror());
	note("plugins\n");
}

static void system_libraries(void) {
	for (int round = 0; round < 10; round++) {
		void *handle = dlopen("libm.so.6", RTLD_NOW);
		CHECK(handle);
		LOOK_UP(handle, compute_function *, cbrt);
		CHECK(fabs(cbrt(27) - 3) < 1e-9);
		CHECK(!dlclose(handle));
	}
	LOOK_UP(RTLD_DEFAULT, state_function *, getpid);
	CHECK(getpid() > 0);
}

/* ------------------------------------------------------------------ state of the library's own */

static int compare_numbers(const void *a, const void *b) {
	return *(const int *) a < *(const int *) b ? -1 : *(const int *) a > *(const int *) b;
}

static int compare_words(const void *a, const void *b) {
	return strcmp((const char *) a, (const char *) b);
}

static int visit(const char *path, const struct stat *status, int type, struct FTW *where) {
	(void) path, (void) status, (void) type;
	return where->level > 3;
}

static void algorithms(void) {
	static int numbers[20000];
	srand(5);
	for (size_t i = 0; i < 20000; i++)
		numbers[i] = rand();
	qsort(numbers, 20000, sizeof *numbers, compare_numbers);
	note_bytes(numbers, sizeof numbers);
	char text[] = "words in a sentence, and some more words";
	for (char *word = strtok(text, " ,"); word; word = strtok(NULL, " ,"))
		note("%s|", word);
	void *tree = NULL;
	static char words[100][8];
	for (int i = 0; i < 100; i++) {
		snprintf(words[i], sizeof words[i], "w%d", i * 7 % 100);
		CHECK(tsearch(words[i], &tree, compare_words));
	}
	for (int i = 0; i < 100; i++)
		CHECK(tdelete(words[i], &tree, compare_words));
	CHECK(!tree && hcreate(200));
	for (int i = 0; i < 100; i++)
		CHECK(hsearch((ENTRY) { words[i], words[i] }, ENTER));
	CHECK(hsearch((ENTRY) { words[5], NULL }, FIND)->data == words[5]);
	hdestroy();
	regex_t regex;
	regmatch_t matches[3];
	CHECK(!regcomp(&regex, "([a-z]+)@([a-z.]+)", REG_EXTENDED));
	CHECK(!regexec(&regex, "mail someone@example.org now", 3, matches, 0));
	note("%d %d\n", (int) matches[1].rm_so, (int) matches[2].rm_eo);
	regfree(&regex);
}

static void files_and_words(void) {
	glob_t found;
	CHECK(!glob("/etc/pass*d", 0, NULL, &found) && found.gl_pathc >= 1);
	note("%s\n", found.gl_pathv[0]);
	globfree(&found);
	wordexp_t words;
	CHECK(!wordexp("a 'b c' $((6*7))", &words, 0) && words.we_wordc == 3);
	note("%s %s\n", words.we_wordv[1], words.we_wordv[2]);
	wordfree(&words);
	CHECK(nftw("/etc/ssl", visit, 10, FTW_PHYS) >= -1);
}

static void times(void) {
	CHECK(!setenv("TZ", "Europe/Zurich", 1));
	tzset();
	for (time_t moment = 0; moment < 2000000000; moment += 123456789) {
		struct tm local, back;
		CHECK(localtime_r(&moment, &local));
		char text[100];
		CHECK(strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &local) > 0);
		memset(&back, 0, sizeof back);
		CHECK(strptime(text, "%Y-%m-%d %H:%M:%S", &back));
		back.tm_isdst = local.tm_isdst;
		CHECK(mktime(&back) == moment);
		note("%s %s", text, asctime(gmtime(&moment)));
	}
	CHECK(!unsetenv("TZ"));
	tzset();
}

/* glibc passes them to constructors too */
__attribute__((constructor)) static void note_path(int argc, char **argv) {
	plugin_path = argc > 2 ? argv[2] : NULL;
}

const struct behaviour behaviours[] = {
	BEHAVIOUR(locales),
	BEHAVIOUR(character_sets),
	BEHAVIOUR(users_and_groups),
	BEHAVIOUR(addresses),
	BEHAVIOUR(plugins),
	BEHAVIOUR(system_libraries),
	BEHAVIOUR(algorithms),
	BEHAVIOUR(files_and_words),
	BEHAVIOUR(times),
	{ NULL, NULL },
};
