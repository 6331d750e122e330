/* Policy of locales, character sets and the time zone: the libset's own, not preempted.
 *
 * What the C library loads for them it maps into memory, and keeps: locales for good, since the global one may be
 * in use anywhere. A roll back forgets it, so each cancel would leak more than a dozen mappings. Hence a libset
 * whose function has been cancelled after it asked for such things gets them as part of its pristine
 * state (libset.c, by gotcha_locale_load()): from then on its functions find them loaded. */
#include "forward.h"
#include "internal.h"

#include <errno.h>
#include <iconv.h>
#include <langinfo.h>
#include <locale.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define DEFERRED_FUNCTIONS(X) X(duplocale) X(freelocale) X(iconv_close)
enum {
#define X(name) INDEX_##name,
	DEFERRED_FUNCTIONS(X)
#undef X
	INDEX_setlocale, INDEX_newlocale, INDEX_iconv_open, INDEX_tzset,
};
static struct row rows[];
#define X(name) FORWARD_DEFERRED(name, rows[INDEX_##name].base)
DEFERRED_FUNCTIONS(X)
#undef X

/* ------------------------------------------------------------------ what functions ask for */

/* A call that has made the C library load something, to be made again. */
struct locale_request {
	struct locale_request *next;
	int category;           /* of setlocale(), or one of the below */
	char name[];            /* iconv_open(): two strings */
};
enum { NO_CATEGORY = -1 };

/* Beyond these a libset's requests are not remembered: each costs up to a dozen mappings in every libset. */
enum { MOST_REQUESTS = 8 };

static bool is_known(const struct locale_request *request, int category, const char *name, size_t length) {
	size_t count = 0;
	for (; request; request = request->next, count++)
		if (request->category == category && !memcmp(request->name, name, length))
			return true;
	return count >= MOST_REQUESTS;
}

/* `name` is `length` bytes long, the last of them 0. Not preempted; threads of the libset may do the same. */
static void remember(struct libset *set, int category, const char *name, size_t length) {
	struct locale_request *first = set->locale_requests;
	if (gotcha_is_loading() || is_known(first, category, name, length))
		return;
	struct shared_guard guard;
	shared_enter(&guard);
	struct locale_request *made = gotcha_base_malloc(sizeof *made + length);
	if (made) {
		made->next = first;
		made->category = category;
		memcpy(made->name, name, length);
		/* another thread's request came first: this one comes again */
		if (!atomic_compare_exchange_strong(&set->locale_requests, &first, made))
			gotcha_base_free(made);
	}
	shared_leave(&guard);
}

void gotcha_locale_load(const struct libset *set) {
	char *(*own_setlocale)(int, const char *) = libc_copy(set, rows[INDEX_setlocale].base);
	iconv_t (*own_iconv_open)(const char *, const char *) = libc_copy(set, rows[INDEX_iconv_open].base);
	int (*own_iconv_close)(iconv_t) = libc_copy(set, rows[INDEX_iconv_close].base);
	for (const struct locale_request *request = set->locale_requests; request; request = request->next) {
		if (request->category != NO_CATEGORY) {
			own_setlocale(request->category, request->name);
			continue;
		}
		iconv_t conversion = own_iconv_open(request->name, request->name + strlen(request->name) + 1);
		if (conversion != (iconv_t) -1)
			own_iconv_close(conversion);
	}
}

/* ------------------------------------------------------------------ wrappers */

_Atomic unsigned gotcha_locale_generation;

static char *locale_setlocale(int category, const char *locale) {
	char *(*base)(int, const char *) = (char *(*)(int, const char *)) rows[INDEX_setlocale].base;
	if (in_libset()) {
		void *own = libc_copy(THIS.set, base);
		deferred_enter();
		char *result = ((char *(*)(int, const char *)) own)(category, locale);
		if (locale && result)
			remember(THIS.set, category, result, strlen(result) + 1);
		deferred_leave();
		return result;
	}
	char *result = base(category, locale);
	if (locale && result)
		gotcha_locale_generation++;
	return result;
}

/* Has the zone changed since the last time? Programs call tzset() again and again. */
static void note_zone(void) {
	static _Atomic uint64_t last;
	uint64_t hash = 14695981039346656037u;
	for (const char *zone = getenv("TZ"); zone && *zone; zone++)
		hash = (hash ^ (unsigned char) *zone) * 1099511628211u;
	if (atomic_exchange(&last, hash) != hash)
		gotcha_locale_generation++;
}

static void locale_tzset(void) {
	void (*base)(void) = (void (*)(void)) rows[INDEX_tzset].base;
	if (!in_libset()) {
		base();
		note_zone();
		return;
	}
	void (*own)(void) = libc_copy(THIS.set, base);
	deferred_enter();
	own();
	deferred_leave();
}

#define CATEGORIES(X) X(LC_CTYPE) X(LC_NUMERIC) X(LC_TIME) X(LC_COLLATE) X(LC_MONETARY) X(LC_MESSAGES) X(LC_PAPER) \
	X(LC_NAME) X(LC_ADDRESS) X(LC_TELEPHONE) X(LC_MEASUREMENT) X(LC_IDENTIFICATION)

/* The names of all categories in setlocale()'s form for LC_ALL. False: no room. */
static bool composite_name(locale_t locale, char *name, size_t room) {
	size_t length = 0;
#define X(category) \
	if (length < room) \
		length += snprintf(name + length, room - length, #category "=%s;", nl_langinfo_l(_NL_LOCALE_NAME(category), locale));
	CATEGORIES(X)
#undef X
	if (length >= room)
		return false;
	name[length - 1] = 0;
	return true;
}

static locale_t locale_newlocale(int mask, const char *name, locale_t base_locale) {
	locale_t (*base)(int, const char *, locale_t) = (locale_t (*)(int, const char *, locale_t)) rows[INDEX_newlocale].base;
	if (!in_libset())
		return base(mask, name, base_locale);
	void *own = libc_copy(THIS.set, base);
	deferred_enter();
	locale_t result = ((locale_t (*)(int, const char *, locale_t)) own)(mask, name, base_locale);
	char composite[512];
	struct shared_guard guard;
	shared_enter(&guard);
	bool fits = result && composite_name(result, composite, sizeof composite);
	shared_leave(&guard);
	if (fits)
		remember(THIS.set, LC_ALL, composite, strlen(composite) + 1);
	deferred_leave();
	return result;
}

static iconv_t locale_iconv_open(const char *to, const char *from) {
	iconv_t (*base)(const char *, const char *) = (iconv_t (*)(const char *, const char *)) rows[INDEX_iconv_open].base;
	if (!in_libset())
		return base(to, from);
	void *own = libc_copy(THIS.set, base);
	deferred_enter();
	iconv_t result = ((iconv_t (*)(const char *, const char *)) own)(to, from);
	char names[256];
	size_t to_length = strlen(to) + 1, from_length = strlen(from) + 1;
	if (result != (iconv_t) -1 && to_length + from_length <= sizeof names) {
		memcpy(names, to, to_length);
		memcpy(names + to_length, from, from_length);
		remember(THIS.set, NO_CATEGORY, names, to_length + from_length);
	}
	deferred_leave();
	return result;
}

static struct row rows[] = {
#define X(name) [INDEX_##name] = { #name, deferred_##name },
	DEFERRED_FUNCTIONS(X)
#undef X
	[INDEX_setlocale] = { "setlocale", locale_setlocale, true },
	[INDEX_newlocale] = { "newlocale", locale_newlocale },
	[INDEX_iconv_open] = { "iconv_open", locale_iconv_open },
	[INDEX_tzset] = { "tzset", locale_tzset, true },
};
struct rows gotcha_rows_locale = { rows, lengthof(rows) };
