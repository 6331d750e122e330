/* What the programs of this folder share. Each is a list of behaviours: functions that do something as any program
 * would, check it, and note what they see.
 *
 *   program         the names
 *   program NAME    one: outside, before anything has been launched; inside, in slices of 50 us, again and again
 *                   until it has been preempted often enough; and outside after that. What it notes must be
 *                   the same each time.
 *
 * Exit status: 0 all right, anything else failed. */
#ifndef BEHAVIOUR_H
#define BEHAVIOUR_H

/* in these programs pause() is POSIX pause(2) */
#define LINGER_NO_PAUSE
#include "../c/check.h"

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>

enum { SLICE_US = 50, PREEMPTIONS = 200, MOST_RUNS = 2000 };

struct behaviour {
	const char *name;
	void (*run)(void);
};
extern const struct behaviour behaviours[];
#define BEHAVIOUR(name) { #name, name }

/* ------------------------------------------------------------------ for behaviours */

static char noted[1 << 16];
static size_t noted_length;

__attribute__((format(printf, 1, 2))) static inline void note(const char *format, ...) {
	va_list list;
	va_start(list, format);
	int length = vsnprintf(noted + noted_length, sizeof noted - noted_length, format, list);
	va_end(list);
	CHECK(length >= 0 && noted_length + (size_t) length < sizeof noted);
	noted_length += (size_t) length;
}

static inline void note_bytes(const void *bytes, size_t length) {
	unsigned long hash = 5381;
	for (size_t i = 0; i < length; i++)
		hash = hash * 33 + ((const unsigned char *) bytes)[i];
	note("%zu bytes %lx\n", length, hash);
}

static inline void fill(void *bytes, size_t length, unsigned seed) {
	for (size_t i = 0; i < length; i++, seed = seed * 1103515245 + 12345)
		((unsigned char *) bytes)[i] = (unsigned char) (seed >> 16);
}

static inline void sleep_us(long us) {
	struct timespec time = { us / 1000000, us % 1000000 * 1000 };
	while (nanosleep(&time, &time))
		CHECK(errno == EINTR);
}

static inline int status_of(pid_t child) {
	int status;
	CHECK(child > 0 && waitpid(child, &status, 0) == child);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* ------------------------------------------------------------------ running them */

/* The launcher uses the same libraries between slices. */
static inline void use_libraries(void) {
	char text[] = "a b c";
	strtok(text, " ");
	time_t moment = 1;
	gmtime(&moment);
	(void) rand();
	free(malloc(1000));
	errno = EDOM;
}

/* Process-directed signals come to any thread that has them open, so a launcher that has would take those that its
 * function has blocked, between slices. Where that matters it blocks them, as threads do that want no signals. */
#ifdef LAUNCHER_BLOCKS_SIGNALS
static inline void open_signals(int how) {
	sigset_t all;
	CHECK(!sigfillset(&all) && !pthread_sigmask(how, &all, NULL));
}
#else
static inline void open_signals(int how) {
	(void) how;
}
#endif

static inline void forget_notes(void) {
	noted_length = 0;
	*noted = '\0';
}

/* What the behaviour notes outside. */
static char expected[sizeof noted];
/* How often a run has it: more and more, as long as runs end within a slice. */
static unsigned long repeats = 1;

static inline void run_inside(void *behaviour) {
	open_signals(SIG_UNBLOCK);
	for (unsigned long i = 0; i < repeats; i++) {
		forget_notes();
		((const struct behaviour *) behaviour)->run();
		if (strcmp(noted, expected))
			return;
	}
}

static inline void compare(const char *name, const char *where) {
	if (!strcmp(noted, expected))
		return;
	dprintf(STDERR_FILENO, "%s: outside:\n%s\n%s:\n%s\n", name, expected, where, noted);
	_exit(1);
}

static inline void run_behaviour(const struct behaviour *behaviour) {
	behaviour->run();
	memcpy(expected, noted, sizeof noted);
	unsigned long preemptions = 0, runs = 0;
	for (; preemptions < PREEMPTIONS; runs++) {
		unsigned long before = preemptions;
		CHECK(runs < MOST_RUNS);
		open_signals(SIG_BLOCK);
		linger_t linger = launch(run_inside, SLICE_US, (void *) behaviour);
		for (; !linger.is_complete; preemptions++) {
			CHECK(linger.error == 0 && !linger.is_yielded);
			use_libraries();
			resume(&linger, SLICE_US);
		}
		open_signals(SIG_UNBLOCK);
		compare(behaviour->name, "inside");
		if (preemptions == before)
			repeats *= 2;
	}
	forget_notes();
	behaviour->run();
	compare(behaviour->name, "outside, later");
	printf("%s: %lu preemptions in %lu runs\n", behaviour->name, preemptions, runs);
}

int main(int argc, char **argv) {
	const struct behaviour *behaviour = behaviours;
	for (; behaviour->name && (argc < 2 || strcmp(behaviour->name, argv[1])); behaviour++)
		if (argc < 2)
			puts(behaviour->name);
	if (argc < 2)
		return 0;
	CHECK(behaviour->name);
	run_behaviour(behaviour);
	return 0;
}
#endif
