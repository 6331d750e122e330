/* What the programs of this folder share.  Each has a list of checks, each check the list of rows of
 * the policy table that it guards: switched off (LIBGOTCHA_TEST_OFF), they make it fail.
 *
 *   program list                   the checks and their rows
 *   program CHECK plain|sliced     one check; its functions run in one go, or in slices of 50 us;
 *                                  what it writes is left in the current folder
 *
 * Exit status: 0 passed, 77 cannot run here (the reason is printed), anything else failed. */
#ifndef POLICY_H
#define POLICY_H

#define _GNU_SOURCE
#include "../c/counts.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef struct {
	bool is_complete, is_yielded;
	int error;
	void *continuation;
} __attribute__((aligned(8))) linger_t;
linger_t linger_launch(void (*)(void *), uint64_t us, void *);
void linger_resume(linger_t *, uint64_t us);
void linger_cancel(linger_t *);
int linger_pause(void);

static bool sliced;
static volatile unsigned long preemptions;

/* Nothing of the library under test is used to report. */
__attribute__((format(printf, 1, 2), noreturn)) static inline void die(const char *format, ...) {
	char line[512];
	va_list list;
	va_start(list, format);
	int length = vsnprintf(line, sizeof line - 1, format, list);
	va_end(list);
	line[length++] = '\n';
	if (write(3, line, length) < 0)
		_exit(3);
	_exit(1);
}
#define REQUIRE(condition, ...) \
	do { \
		if (!(condition)) \
			die(__FILE__ ":%d: %s (%ld)", __LINE__, #condition, (long) (0 __VA_OPT__(+ (__VA_ARGS__)))); \
	} while (0)

#define SKIP(reason) \
	do { \
		if (write(3, "skip: " reason "\n", sizeof "skip: " reason "\n" - 1) < 0) \
			_exit(3); \
		_exit(77); \
	} while (0)

static inline uint64_t now_us(void) {
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000ull + now.tv_nsec / 1000;
}

/* Runs `function` to its end; between slices, `between`. */
static inline void inside_with(void (*function)(void *), void *argument, void (*between)(void)) {
	linger_t linger = linger_launch(function, sliced ? 50 : UINT64_MAX, argument);
	while (!linger.is_complete) {
		REQUIRE(!linger.error, linger.error);
		preemptions++;
		if (between)
			between();
		linger_resume(&linger, sliced ? 50 : UINT64_MAX);
	}
}
static inline void inside(void (*function)(void *), void *argument) {
	inside_with(function, argument, NULL);
}

/* Repeats what follows for a while, so that slices end in it; once if there are no slices. */
#define ROUNDS(us) for (uint64_t end = now_us() + (us), first = 1; first || (sliced && now_us() < end); first = 0)

/* Does the timer stop the calling function, if there are slices? By work and not by time: the machine may be busy. */
static inline bool is_preempted(unsigned long times) {
	unsigned long before = preemptions;
	for (unsigned long left = 1ul << 28; sliced && preemptions - before < times && left; left--)
		;
	return !sliced || preemptions - before >= times;
}

/* Cancels `function`, which does not end by itself, at many random points. */
static inline void cancel_often(void (*function)(void *), int times) {
	for (int i = 0; i < times; i++) {
		linger_t linger = linger_launch(function, 10 + rand() % 200, NULL);
		REQUIRE(!linger.error && !linger.is_complete, linger.error);
		linger_cancel(&linger);
	}
}

/* Runs `function` in a child process, and returns its status as waitpid() does. */
/* A child that goes on for ever without some row ends with its parent, which is killed then. */
static inline void end_with_parent(void) {
	prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static inline int in_child(void (*function)(void)) {
	pid_t child = fork();
	REQUIRE(child >= 0);
	if (!child) {
		end_with_parent();
		function();
		_exit(99);
	}
	int status;
	REQUIRE(waitpid(child, &status, 0) == child);
	return status;
}

struct check {
	const char *name, *rows;
	void (*run)(void);
};
extern const struct check checks[];

static inline void nothing(void *argument) {
	(void) argument;
}

/* A program with arguments of its own, for exec, defines it: true, it has done its work. */
__attribute__((weak)) bool run_specially(int argc, char **argv);

int main(int argc, char **argv) {
	if (run_specially && run_specially(argc, argv))
		return 0;
	if (argc == 2 && !strcmp(argv[1], "list")) {
		for (const struct check *check = checks; check->name; check++)
			printf("%s %s\n", check->name, check->rows);
		return 0;
	}
	if (argc != 3)
		return 2;
	dup2(STDERR_FILENO, 3);
	sliced = !strcmp(argv[2], "sliced");
	const char *limit_s = getenv("POLICY_LIMIT_S");
	alarm(limit_s ? atoi(limit_s) : 20);
	inside(nothing, NULL);
	for (const struct check *check = checks; check->name; check++)
		if (!strcmp(check->name, argv[1])) {
			check->run();
			return 0;
		}
	return 2;
}
#endif
