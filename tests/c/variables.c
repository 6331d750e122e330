/* Variables of libraries that the program names: its own code and every libset's libraries mean the same. */
#include "check.h"
#include "variables.h"

#include <dlfcn.h>

static int own_operation(void) {
	return 42;
}

static void look(void *expected) {
	CHECK(setting == *(int *) expected);
	CHECK(library_setting() == setting && user_setting() == setting);
	for (int i = 0; i < 3; i++) {
		CHECK(library_section(i) == &sections[i] && user_section(i) == &sections[i]);
		CHECK(library_section(i)->self == &sections[i]);
	}
	CHECK(dlsym(RTLD_DEFAULT, "setting") == (void *) &setting);
}

static void change(void *value) {
	library_set(*(int *) value);
	CHECK(setting == *(int *) value && user_setting() == setting);
	setting++;
	CHECK(library_setting() == setting);
}

static void change_and_stop(void *value) {
	library_set(*(int *) value);
	pause();
}

/* The library calls what it finds there: at first its own function, of this libset. */
static void call(void *unused) {
	(void) unused;
	CHECK(operation == count_call);
	int before = calls();
	CHECK(library_operate() == before + 1 && calls() == before + 1);
}

static void call_own(void *unused) {
	(void) unused;
	CHECK(library_operate() == 42 && library_operates(own_operation));
}

/* What a constructor has changed is each copy's own. */
static void look_at_constructed(void *unused) {
	(void) unused;
	CHECK(library_constructed() == 1);
}

static void change_zone(void *unused) {
	(void) unused;
	setenv("TZ", "XYZ5", 1);
	tzset();
	CHECK(timezone == 5 * 3600 && tzname[0][0] == 'X');
}

static void complete(void (*function)(void *), void *argument) {
	linger_t linger = launch(function, NO_LIMIT, argument);
	CHECK(linger.is_complete);
}

int main(void) {
	setting = 7;
	constructed = 5;
	complete(look, &(int) { 7 });
	complete(change, &(int) { 9 });
	CHECK(setting == 10 && library_setting() == 10);
	complete(look_at_constructed, NULL);

	/* a second libset, beside the first */
	linger_t stopped = launch(change_and_stop, NO_LIMIT, &(int) { 20 });
	CHECK(stopped.is_yielded);
	complete(look, &(int) { 20 });
	complete(look_at_constructed, NULL);
	CHECK(constructed == 5 && library_constructed() == 5);
	cancel(&stopped);
	CHECK(setting == 20);
	complete(look, &(int) { 20 });

	complete(call, NULL);
	CHECK(calls() == 0);
	CHECK(library_operate() == 1);
	operation = own_operation;
	complete(call_own, NULL);

	complete(change_zone, NULL);
	CHECK(timezone == 5 * 3600);
	return 0;
}
