/* An ignored preemption signal is ignored by a program that is started instead, also from inside;
 * and a library's own function can be launched: it runs as the libset's copy. */
#include "check.h"

#include <signal.h>
#include <string.h>
#include <sys/wait.h>

static char *self;

static void become_child(void *unused) {
	(void) unused;
	execl(self, self, "child", (char *) NULL);
}

static void start_child(void *status) {
	pid_t child = vfork();
	if (!child) {
		/* the child's own, although it shares the memory */
		signal(SIGUSR1, SIG_IGN);
		execl(self, self, "child", (char *) NULL);
		_exit(2);
	}
	CHECK(waitpid(child, status, 0) == child);
	/* the exec has left nothing behind in the memory that parent and child shared */
	spin(NULL);
}

int main(int argc, char **argv) {
	struct sigaction action;
	self = argv[0];
	if (argc > 1) {
		CHECK(!sigaction(SIGALRM, NULL, &action));
		return action.sa_handler == SIG_IGN ? 0 : 1;
	}
	signal(SIGALRM, SIG_IGN);
	int status = -1;
	linger_t linger = launch(start_child, 10000, &status);
	while (status == -1)
		resume(&linger, 10000);
	resume(&linger, 1000);
	CHECK(!linger.is_complete && WIFEXITED(status) && WEXITSTATUS(status) == 0);
	cancel(&linger);
	CHECK(!sigaction(SIGUSR1, NULL, &action) && action.sa_handler == SIG_DFL);
	raise(SIGALRM);
	pid_t child = fork();
	if (!child) {
		linger = launch(become_child, NO_LIMIT, NULL);
		_exit(2);
	}
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	/* rand() as the function: the program's own sequence does not advance */
	srand(5);
	int first = rand();
	srand(5);
	linger = launch((void (*)(void *)) (void (*)(void)) rand, NO_LIMIT, NULL);
	CHECK(linger.is_complete && rand() == first);
	return 0;
}
