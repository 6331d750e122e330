/* For profilers: functions that spend their time in a library of the program's and in the C library. */
#include "../c/check.h"

#include <string.h>

unsigned long profiled_checksum(const unsigned char *bytes, unsigned long length);

enum { ROUNDS = 400 };
/* so that no call is left out */
static volatile unsigned char bytes[1 << 20];

static void checksums(void *unused) {
	(void) unused;
	for (int i = 0; i < ROUNDS; i++)
		CHECK(profiled_checksum((unsigned char *) bytes, sizeof bytes) != 0);
}

static void searches(void *unused) {
	(void) unused;
	for (int i = 0; i < ROUNDS; i++) {
		bytes[i] = 2;
		CHECK(!memmem((unsigned char *) bytes, sizeof bytes, "\0\1", 2));
	}
}

int main(void) {
	linger_t linger = launch(checksums, 1000, NULL), other = launch(searches, 1000, NULL);
	CHECK(finish(&linger, 1000) > 0 && finish(&other, 1000) > 0);
	return 0;
}
