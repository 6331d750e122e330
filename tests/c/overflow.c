/* A function overflows its stack: it is reported as such, and ends the process. */
#include "check.h"

static int recurse(volatile char *above) {
	volatile char here[512];
	here[0] = *above;
	return here[0] ? recurse(here) + here[0] : 0;
}

static void overflow(void *unused) {
	(void) unused;
	char start = 1;
	exit(recurse(&start));
}

int main(void) {
	(void) launch(overflow, NO_LIMIT, NULL);
	return 0;
}
