/* The C library's state inside and outside: nothing that a function does to it shows. */
#include "check.h"

#include <ctype.h>
#include <locale.h>
#include <string.h>

enum { STEPS = 400 };

/* Uses the state in small steps, with a pause in between, or sliced. */
static void meddle(void *slices) {
	srand(99);
	char text[4 * STEPS + 1];
	for (int i = 0; i < STEPS; i++)
		memcpy(text + 4 * i, "xyz ", 5);
	char *token = strtok(text, " ");
	for (int i = 0; i < STEPS; i++) {
		CHECK(token && !strcmp(token, "xyz"));
		token = strtok(NULL, " ");
		rand();
		time_t long_ago = 86400 * 365 * 5;
		struct tm *broken_down = localtime(&long_ago);
		setlocale(LC_ALL, i % 2 ? "C" : "C.UTF-8");
		strerror(123456 + i);
		errno = ENOTBLK;
		if (*(int *) slices) {
			spin_us(20);
		} else {
			CHECK(pause() == 0);
		}
		CHECK(errno == ENOTBLK);
		CHECK(broken_down->tm_year == 74 || broken_down->tm_year == 75);
	}
	CHECK(!token);
}

static void interleaved(int sliced) {
	setlocale(LC_ALL, "C");
	srand(7);
	int expected[STEPS];
	for (int i = 0; i < STEPS; i++)
		expected[i] = rand();
	srand(7);

	char text[2 * STEPS + 1];
	for (int i = 0; i < STEPS; i++)
		memcpy(text + 2 * i, "a,", 3);
	time_t now = 86400 * 365 * 40u;
	struct tm *broken_down = localtime(&now);
	int year = broken_down->tm_year;
	char *token = strtok(text, ",");

	linger_t linger = launch(meddle, sliced ? 100 : NO_LIMIT, &sliced);
	CHECK(linger.error == 0);
	int steps = 0;
	for (; steps < STEPS && !linger.is_complete; steps++) {
		CHECK(rand() == expected[steps]);
		CHECK(token && !strcmp(token, "a"));
		token = strtok(NULL, ",");
		CHECK(broken_down->tm_year == year);
		CHECK(!strcmp(setlocale(LC_ALL, NULL), "C"));
		errno = EXDEV;
		resume(&linger, sliced ? 100 : NO_LIMIT);
		CHECK(errno == EXDEV);
		CHECK(linger.error == 0);
	}
	CHECK(steps > 20);
	finish(&linger, NO_LIMIT);
}

static void look(void *result) {
	int *drawn = (int *) result;
	*drawn = rand();
	CHECK(!strcmp(setlocale(LC_ALL, NULL), "C"));
	CHECK(isalpha('x') && !isalpha('1') && toupper('a') == 'A');
}

/* A function that comes after others finds the libraries as they were at the start. */
static void pristine_after_cancel(void) {
	int clean, drawn;
	CHECK(launch(look, NO_LIMIT, &clean).is_complete);
	int not_sliced = 0;
	for (int i = 0; i < 30; i++) {
		linger_t linger = launch(meddle, NO_LIMIT, &not_sliced);
		CHECK(linger.is_yielded);
		resume(&linger, NO_LIMIT);
		cancel(&linger);
		linger = launch(look, NO_LIMIT, &drawn);
		CHECK(linger.is_complete && drawn == clean);
		/* look() drew from it: roll back for the next round */
		linger = launch(meddle, NO_LIMIT, &not_sliced);
		CHECK(linger.is_yielded);
		cancel(&linger);
	}
}

static char *from_environment;

static void read_environment(void *unused) {
	(void) unused;
	from_environment = getenv("INGER_TEST_VARIABLE");
	setenv("INGER_TEST_ANSWER", "inside", 1);
}

/* The environment is the process's. */
static void environment(void) {
	setenv("INGER_TEST_VARIABLE", "outside", 1);
	CHECK(launch(read_environment, NO_LIMIT, NULL).is_complete);
	CHECK(from_environment && !strcmp(from_environment, "outside"));
	CHECK(getenv("INGER_TEST_ANSWER") && !strcmp(getenv("INGER_TEST_ANSWER"), "inside"));
}

int main(void) {
	pristine_after_cancel();
	interleaved(0);
	interleaved(1);
	environment();
	return 0;
}
