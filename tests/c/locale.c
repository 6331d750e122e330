/* A function starts with the program's current locale, also in a libset that was rolled back. */
#include "check.h"

#include <ctype.h>
#include <locale.h>
#include <string.h>

struct seen {
	char name[512];
	int character_length;
	bool classes_follow;
};

/* What isalpha() and its kin look at is a thread-local of the C library: is it the locale's? */
static bool do_classes_follow(void) {
	const unsigned short *table = *__ctype_b_loc();
	char *name = strdup(setlocale(LC_CTYPE, NULL));
	setlocale(LC_CTYPE, strcmp(name, "C") ? "C" : "C.UTF-8");
	bool changed = *__ctype_b_loc() != table;
	setlocale(LC_CTYPE, name);
	free(name);
	return changed && *__ctype_b_loc() == table;
}

static void look(void *argument) {
	struct seen *seen = argument;
	wchar_t wide;
	snprintf(seen->name, sizeof seen->name, "%s", setlocale(LC_ALL, NULL));
	seen->character_length = mbtowc(&wide, "\xc3\xa9", 2);
	seen->classes_follow = do_classes_follow();
}

static void change_and_spin(void *unused) {
	setlocale(LC_ALL, "C");
	spin(unused);
}

static void expect(const char *locale, int character_length) {
	struct seen seen;
	const unsigned short *outside = *__ctype_b_loc();
	linger_t linger = launch(look, NO_LIMIT, &seen);
	CHECK(linger.is_complete);
	CHECK(seen.classes_follow);
	CHECK(*__ctype_b_loc() == outside);
	CHECK(!strcmp(seen.name, locale));
	CHECK(seen.character_length == character_length);
}

int main(void) {
	expect("C", -1);
	CHECK(setlocale(LC_ALL, "C.UTF-8"));
	expect("C.UTF-8", 2);
	linger_t linger = launch(change_and_spin, 5000, NULL);
	CHECK(!linger.is_complete);
	CHECK(!strcmp(setlocale(LC_ALL, NULL), "C.UTF-8"));
	cancel(&linger);
	expect("C.UTF-8", 2);
	CHECK(setlocale(LC_CTYPE, "C"));
	char mixed[512];
	snprintf(mixed, sizeof mixed, "%s", setlocale(LC_ALL, NULL));
	expect(mixed, -1);
	return 0;
}
