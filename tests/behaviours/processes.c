/* Processes: made in each way there is, with their results, output and signals. */
#include "behaviour.h"

#include <pthread.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/resource.h>

extern char **environ;

static void fork_and_wait(void) {
	for (int i = 0; i < 10; i++) {
		pid_t child = fork();
		CHECK(child >= 0);
		if (!child)
			_exit(i);
		note("%d ", status_of(child));
	}
}

static unsigned long work(void) {
	unsigned long hash = 5381;
	for (unsigned long i = 0; i < 1000000; i++) {
		hash = hash * 33 + (i & 0xff);
		__asm__ volatile("" : "+r" (hash));
	}
	return hash;
}

/* The child is the function's copy, and goes on being preempted. */
static void work_in_a_child(void) {
	int ends[2];
	CHECK(!pipe(ends));
	pid_t child = fork();
	if (!child) {
		unsigned long hash = work();
		char *text = (char *) malloc(100);
		snprintf(text, 100, "%lu", hash);
		CHECK(write(ends[1], text, strlen(text) + 1) == (ssize_t) strlen(text) + 1);
		_exit(0);
	}
	char text[100], expected[100];
	snprintf(expected, sizeof expected, "%lu", work());
	CHECK(read(ends[0], text, sizeof text) > 0 && !strcmp(text, expected) && status_of(child) == 0);
	CHECK(!close(ends[0]) && !close(ends[1]));
}

static char shell[] = "/bin/sh", option[] = "-c";

static void note_output(int file) {
	char text[1000];
	ssize_t got, length = 0;
	while ((got = read(file, text + length, sizeof text - (size_t) length)) > 0)
		length += got;
	CHECK(got == 0 && !close(file));
	note("%.*s", (int) length, text);
}

static void execute(void) {
	for (int i = 0; i < 3; i++) {
		int ends[2];
		CHECK(!pipe2(ends, O_CLOEXEC));
		pid_t child = fork();
		if (!child) {
			CHECK(dup2(ends[1], STDOUT_FILENO) == STDOUT_FILENO);
			char command[] = "echo $VALUE $1; trap", name[] = "name", value[] = "VALUE=7", word[] = "word";
			char *arguments[] = { shell, option, command, name, word, NULL }, *environment[] = { value, NULL };
			if (i == 0)
				execve(shell, arguments, environment);
			else if (i == 1)
				execv("/nonexistent", arguments);
			else
				execlp("sh", "sh", "-c", "exit 3", (char *) NULL);
			_exit(errno == ENOENT ? 9 : 8);
		}
		CHECK(!close(ends[1]));
		note_output(ends[0]);
		note("%d\n", status_of(child));
	}
}

static void vfork_and_execute(void) {
	for (volatile int i = 0; i < 5; i++) {
		char command[] = "exit 4";
		char *arguments[] = { shell, option, command, NULL };
		pid_t child = vfork();
		if (!child) {
			if (i % 2)
				execv(shell, arguments);
			_exit(5);
		}
		note("%d ", status_of(child));
	}
}

static void spawn(void) {
	int ends[2];
	CHECK(!pipe2(ends, O_CLOEXEC));
	posix_spawn_file_actions_t actions;
	CHECK(!posix_spawn_file_actions_init(&actions));
	CHECK(!posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO));
	CHECK(!posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0));
	posix_spawnattr_t attributes;
	sigset_t none;
	CHECK(!sigemptyset(&none) && !posix_spawnattr_init(&attributes));
	CHECK(!posix_spawnattr_setsigmask(&attributes, &none));
	CHECK(!posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP));
	char command[] = "cat; echo spawned; exit 6";
	char *arguments[] = { shell, option, command, NULL };
	pid_t child;
	CHECK(!posix_spawn(&child, shell, &actions, &attributes, arguments, environ));
	CHECK(!close(ends[1]));
	note_output(ends[0]);
	note("%d\n", status_of(child));
	CHECK(posix_spawnp(&child, "no-such-program-anywhere", NULL, NULL, arguments, environ) == ENOENT);
	CHECK(!posix_spawn_file_actions_destroy(&actions) && !posix_spawnattr_destroy(&attributes));
}

static void streams_to_programs(void) {
	FILE *stream = popen("echo one; echo two; exit 3", "r");
	char line[100];
	CHECK(stream);
	while (fgets(line, sizeof line, stream))
		note("%s", line);
	note("%d\n", pclose(stream));
	stream = popen("read a; read b; test \"$a $b\" = '1 2'", "w");
	CHECK(stream && fprintf(stream, "%d\n%d\n", 1, 2) == 4);
	note("%d\n", pclose(stream));
	note("%d %d\n", system("exit 7"), system(NULL) != 0);
}

static void ways_of_waiting(void) {
	int ends[2];
	char byte;
	CHECK(!pipe(ends));
	pid_t child = fork();
	if (!child)
		_exit(read(ends[0], &byte, 1) == 1 ? 2 : 3);
	CHECK(waitpid(child, NULL, WNOHANG) == 0 && write(ends[1], "x", 1) == 1 && !close(ends[0]) && !close(ends[1]));
	siginfo_t info;
	CHECK(!waitid(P_PID, (id_t) child, &info, WEXITED | WNOWAIT) && info.si_code == CLD_EXITED && info.si_status == 2);
	int status;
	struct rusage usage;
	CHECK(wait4(child, &status, 0, &usage) == child && WEXITSTATUS(status) == 2 && usage.ru_maxrss > 0);
	child = fork();
	if (!child)
		for (;;)
			pause();
	CHECK(!kill(child, SIGKILL) && !waitid(P_PID, (id_t) child, &info, WEXITED) && info.si_code == CLD_KILLED);
	pid_t children[5];
	for (int i = 0; i < 5; i++)
		if (!(children[i] = fork())) {
			sleep_us(500 * i);
			_exit(i);
		}
	int sum = 0;
	for (int i = 0; i < 5; i++) {
		CHECK(wait(&status) > 0);
		sum += WEXITSTATUS(status);
	}
	CHECK(sum == 10 && wait(NULL) < 0 && errno == ECHILD);
}

static void relations(void) {
	int ends[2];
	CHECK(!pipe(ends));
	pid_t self = getpid(), child = fork();
	if (!child) {
		CHECK(getppid() == self && setsid() == getpid() && getsid(0) == getpid() && getpgrp() == getpid());
		pid_t grandchild = fork();
		if (!grandchild) {
			CHECK(write(ends[1], "g", 1) == 1);
			_exit(0);
		}
		_exit(status_of(grandchild));
	}
	char byte;
	CHECK(read(ends[0], &byte, 1) == 1 && byte == 'g' && status_of(child) == 0 && getpid() == self);
	CHECK(!close(ends[0]) && !close(ends[1]));
}

/* What is shared and what is not. */
static void memory_after_a_fork(void) {
	int *shared = (int *) mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(shared != MAP_FAILED);
	int private_value = 1;
	char *heap = strdup("before");
	pthread_mutexattr_t attributes;
	pthread_mutex_t *mutex = (pthread_mutex_t *) (shared + 64);
	CHECK(!pthread_mutexattr_init(&attributes) && !pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED));
	CHECK(!pthread_mutex_init(mutex, &attributes));
	pid_t child = fork();
	int rounds = 1000;
	if (!child) {
		private_value = 2;
		strcpy(heap, "child");
	}
	for (int i = 0; i < rounds; i++) {
		CHECK(!pthread_mutex_lock(mutex));
		++*shared;
		CHECK(!pthread_mutex_unlock(mutex));
	}
	if (!child)
		_exit(private_value);
	CHECK(status_of(child) == 2 && private_value == 1 && !strcmp(heap, "before") && *shared == 2 * rounds);
	free(heap);
	CHECK(!munmap(shared, 4096));
}

static int prepared, in_parent;

static void prepare(void) {
	prepared++;
}

static void parent(void) {
	in_parent++;
}

/* Registered once, outside: handlers are the process's. */
static void fork_handlers(void) {
	static int is_registered;
	if (!is_registered++)
		CHECK(!pthread_atfork(prepare, parent, NULL));
	int before = prepared;
	for (int i = 0; i < 5; i++) {
		pid_t child = fork();
		if (!child)
			_exit(prepared - before == i + 1 ? 0 : 1);
		CHECK(status_of(child) == 0 && in_parent == prepared && prepared == before + i + 1);
	}
}

static void *fork_in_a_thread(void *unused) {
	pid_t child = fork();
	if (!child)
		_exit(11);
	CHECK(status_of(child) == 11);
	return unused;
}

static void forks_of_threads(void) {
	pthread_t threads[3];
	for (int i = 0; i < 3; i++)
		CHECK(!pthread_create(&threads[i], NULL, fork_in_a_thread, NULL));
	for (int i = 0; i < 3; i++)
		CHECK(!pthread_join(threads[i], NULL));
}

const struct behaviour behaviours[] = {
	BEHAVIOUR(fork_and_wait),
	BEHAVIOUR(work_in_a_child),
	BEHAVIOUR(execute),
	BEHAVIOUR(vfork_and_execute),
	BEHAVIOUR(spawn),
	BEHAVIOUR(streams_to_programs),
	BEHAVIOUR(ways_of_waiting),
	BEHAVIOUR(relations),
	BEHAVIOUR(memory_after_a_fork),
	BEHAVIOUR(fork_handlers),
	BEHAVIOUR(forks_of_threads),
	{ NULL, NULL },
};
