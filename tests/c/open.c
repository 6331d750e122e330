/* The library is opened at run time; argv[1] is its path. Compiled without -linger. */
#define _GNU_SOURCE
#define LINGER_NO_PAUSE
#define LINGER_NO_ALIASES
#include <libinger.h>

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECK(condition) \
	do { \
		if (!(condition)) { \
			dprintf(STDERR_FILENO, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
			_exit(1); \
		} \
	} while (0)

static linger_t (*launch)(void (*)(void *), uint64_t, void *);
static void (*resume)(linger_t *, uint64_t), (*cancel)(linger_t *);
static int (*yield)(void);
static const char *(*error)(void);

static void spin(void *unused) {
	(void) unused;
	for (volatile unsigned long count = 0;; count++)
		;
}

static void yields(void *steps) {
	++*(int *) steps;
	yield();
	char text[] = "c d";
	strtok(text, " ");
	++*(int *) steps;
}

int main(int argc, char *argv[]) {
	CHECK(argc == 2);
	char text[] = "a b";
	CHECK(!strcmp(strtok(text, " "), "a"));
	void *library = dlopen(argv[1], RTLD_LAZY);
	if (!library)
		fprintf(stderr, "%s\n", dlerror());
	CHECK(library);
	*(void **) &launch = dlsym(library, "linger_launch");
	*(void **) &resume = dlsym(library, "linger_resume");
	*(void **) &cancel = dlsym(library, "linger_cancel");
	*(void **) &yield = dlsym(library, "linger_pause");
	*(void **) &error = dlsym(library, "linger_error");
	CHECK(launch && resume && cancel && yield && error);
	CHECK(!dlsym(library, "pause") || dlsym(library, "pause") == dlsym(RTLD_DEFAULT, "pause"));

	linger_t linger = launch(spin, 3000, NULL);
	if (linger.error)
		fprintf(stderr, "%s\n", error());
	CHECK(!linger.is_complete && linger.error == 0);
	resume(&linger, 3000);
	CHECK(!linger.is_complete && linger.error == 0);
	int steps = 0;
	linger_t other = launch(yields, UINT64_MAX, &steps);
	CHECK(other.is_yielded && steps == 1);
	cancel(&linger);
	/* in use for good, whatever this says */
	CHECK(!dlclose(library));
	resume(&other, UINT64_MAX);
	CHECK(other.is_complete && steps == 2);
	CHECK(!strcmp(strtok(NULL, " "), "b"));

	int count = 0;
	linger_t lingers[32];
	while (count < 32 && (lingers[count] = launch(spin, 100, NULL)).error == 0)
		count++;
	printf("%d at once: %s\n", count, error());
	CHECK(count >= 3);
	while (count-- > 0)
		cancel(&lingers[count]);
	return 0;
}
