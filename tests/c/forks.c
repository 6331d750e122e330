/* Child processes, made by functions and while functions are paused. */
#include "check.h"

#include <spawn.h>
#include <string.h>
#include <sys/wait.h>

extern char **environ;

static int status_of(pid_t child) {
	int status;
	CHECK(child > 0 && waitpid(child, &status, 0) == child);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void work(void *result) {
	unsigned long total = 0;
	for (unsigned long i = 0; i < 12000000; i++) {
		total += i;
		__asm__ volatile("" : "+r" (total));
	}
	*(unsigned long *) result = total;
}

static int is_right(unsigned long result) {
	return result == 12000000ul * 11999999 / 2;
}

static void fork_inside(void *unused) {
	(void) unused;
	pid_t child = fork();
	if (!child)
		_exit(5);
	CHECK(status_of(child) == 5);
}

/* The child goes on as the function, is preempted there, and returns into its copy of main(). */
static void fork_and_work(void *child) {
	*(pid_t *) child = fork();
	CHECK(*(pid_t *) child >= 0);
	unsigned long result;
	work(&result);
	CHECK(is_right(result));
}

static void work_in_both(void) {
	pid_t child = -1;
	linger_t linger = launch(fork_and_work, 500, &child);
	CHECK(linger.error == 0);
	unsigned long preemptions = finish(&linger, 500);
	if (!child) {
		/* timers are not inherited: is there a new one? */
		linger_t timed = launch(spin, 2000, NULL);
		CHECK(!timed.is_complete && timed.error == 0);
		cancel(&timed);
		_exit(preemptions > 1 ? 6 : 7);
	}
	CHECK(status_of(child) == 6);
}

static void paused_in_both(void) {
	unsigned long results[2] = { 0, 0 };
	linger_t lingers[2];
	for (int i = 0; i < 2; i++) {
		lingers[i] = launch(work, 300, &results[i]);
		CHECK(!lingers[i].is_complete && lingers[i].error == 0);
	}
	pid_t child = fork();
	finish(&lingers[1], 300);
	CHECK(is_right(results[1]));
	if (!child) {
		cancel(&lingers[0]);
		CHECK(launch(work, NO_LIMIT, &results[0]).is_complete && is_right(results[0]));
		_exit(8);
	}
	finish(&lingers[0], 300);
	CHECK(is_right(results[0]));
	CHECK(status_of(child) == 8);
}

static void run_programs(void *unused) {
	(void) unused;
	CHECK(system("exit 3") == 3 << 8);
	FILE *pipe = popen("echo from a child", "r");
	char line[100];
	CHECK(pipe && fgets(line, sizeof line, pipe) && !strcmp(line, "from a child\n"));
	CHECK(pclose(pipe) == 0);
	char shell[] = "/bin/sh", option[] = "-c", command[] = "exit 4";
	char *arguments[] = { shell, option, command, NULL };
	pid_t child;
	CHECK(!posix_spawn(&child, "/bin/sh", NULL, NULL, arguments, environ));
	CHECK(status_of(child) == 4);
	child = vfork();
	if (!child) {
		execv("/bin/sh", arguments);
		_exit(9);
	}
	CHECK(status_of(child) == 4);
}

int main(void) {
	CHECK(launch(fork_inside, NO_LIMIT, NULL).is_complete);
	work_in_both();
	paused_in_both();
	for (int i = 0; i < 3; i++) {
		linger_t linger = launch(run_programs, i ? 200 : NO_LIMIT, NULL);
		CHECK(linger.error == 0);
		finish(&linger, 200);
	}
	return 0;
}
