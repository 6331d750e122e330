/* A handler of the program that is installed without SA_RESTART makes system calls fail with EINTR, and one with it does not:
 * outside of functions and inside, whichever signal it is, and wherever the slices end. */
#include "check.h"

#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

static int ends[2], other_ends[2];
static volatile sig_atomic_t handled;
static volatile sig_atomic_t provides_at;

/* With SA_RESTART the call goes on until there is something to read. */
static void handle(int number) {
	(void) number;
	if (++handled == provides_at && write(ends[1], "x", 1) != 1)
		_exit(1);
}

static void install(int signal, int flags) {
	struct sigaction action = { .sa_handler = handle, .sa_flags = flags };
	CHECK(!sigaction(signal, &action, NULL));
}

static void every_ms(long ms) {
	struct itimerval time = { { 0, ms * 1000 }, { 0, ms * 1000 } };
	CHECK(!setitimer(ITIMER_REAL, &time, NULL));
}

/* ------------------------------------------------------------------ calls that wait for ever */

static long reads(void) {
	char byte;
	return read(ends[0], &byte, 1);
}

static long writes(void) {
	static char block[1 << 20];
	/* full from the second call on */
	ssize_t written = write(other_ends[1], block, sizeof block);
	return written < 0 ? written : write(other_ends[1], block, sizeof block);
}

static long receives(void) {
	static int sockets[2];
	if (!sockets[0])
		CHECK(!socketpair(AF_UNIX, SOCK_DGRAM, 0, sockets));
	char byte;
	return recv(sockets[0], &byte, 1, 0);
}

static long waits_for_a_child(void) {
	pid_t child = fork();
	CHECK(child >= 0);
	if (!child)
		for (;;)
			pause();
	long result = waitpid(child, NULL, 0);
	int error = errno;
	CHECK(!kill(child, SIGKILL));
	while (waitpid(child, NULL, 0) < 0)
		CHECK(errno == EINTR);
	errno = error;
	return result;
}

static long waits_for_a_semaphore(void) {
	static sem_t semaphore;
	CHECK(!sem_init(&semaphore, 0, 0));
	return sem_wait(&semaphore);
}

static long locks(void) {
	static int one, other;
	if (!one) {
		char name[] = "/tmp/interrupted-XXXXXX";
		CHECK((one = mkstemp(name)) >= 0 && (other = open(name, O_RDWR)) >= 0 && !unlink(name));
		CHECK(!flock(one, LOCK_EX));
	}
	return flock(other, LOCK_EX);
}

static long (*const calls[])(void) = { reads, writes, receives, waits_for_a_child, waits_for_a_semaphore, locks };

static void call_each(void *unused) {
	(void) unused;
	for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
		int before = handled;
		errno = 0;
		CHECK(calls[i]() == -1 && errno == EINTR && handled > before);
	}
}

static void read_on(void *unused) {
	(void) unused;
	int before = handled;
	provides_at = before + 5;
	CHECK(reads() == 1 && handled >= before + 5);
}

/* ------------------------------------------------------------------ signals of another thread */

static pthread_t main_thread;
static _Atomic int is_over;

static void *send_signals(void *unused) {
	(void) unused;
	while (!is_over) {
		struct timespec pause = { 0, 300000 };
		nanosleep(&pause, NULL);
		pthread_kill(main_thread, SIGUSR1);
	}
	return NULL;
}

static void run(void (*work)(void *), uint64_t us) {
	linger_t linger = launch(work, us, NULL);
	finish(&linger, us);
	CHECK(linger.is_complete && !linger.error);
}

static void nothing(void *unused) {
	(void) unused;
}

/* ------------------------------------------------------------------ one signal only */

/* One that comes while the function waits interrupts its call, whatever the library is doing just then with the kernel
 * thread: in its handler, between slices, about to go on. Blocked outside, so that it is the function's. */
enum { ROUNDS = 500 };
static long main_tid;
static _Atomic int waits;

static bool is_reading(void) {
	char path[64], line[64];
	snprintf(path, sizeof path, "/proc/self/task/%ld/syscall", main_tid);
	FILE *file = fopen(path, "r");
	CHECK(file);
	bool is = fgets(line, sizeof line, file) && !strncmp(line, "0 0x", 4);
	fclose(file);
	return is;
}

static void *send_one_at_a_time(void *unused) {
	(void) unused;
	unsigned random = 1;
	for (int i = 0; i < ROUNDS; i++) {
		while (!waits || !is_reading())
			usleep(50);
		waits = 0;
		random = random * 1103515245 + 12345;
		usleep(random >> 16 & 255);
		pthread_kill(main_thread, SIGUSR1);
	}
	return NULL;
}

static void block(int how) {
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	CHECK(!pthread_sigmask(how, &set, NULL));
}

static void read_often(void *unused) {
	(void) unused;
	block(SIG_UNBLOCK);
	for (int i = 0; i < ROUNDS; i++) {
		int before = handled;
		waits = 1;
		errno = 0;
		CHECK(reads() == -1 && errno == EINTR && handled == before + 1);
	}
	block(SIG_BLOCK);
}

int main(void) {
	CHECK(!pipe(ends) && !pipe(other_ends));
	run(nothing, NO_LIMIT);
	install(SIGALRM, 0);
	every_ms(3);
	call_each(NULL);
	run(call_each, NO_LIMIT);
	run(call_each, 1000);
	run(call_each, 100);
	install(SIGALRM, SA_RESTART);
	read_on(NULL);
	run(read_on, NO_LIMIT);
	run(read_on, 500);
	every_ms(0);

	pthread_t sender;
	main_thread = pthread_self();
	install(SIGUSR1, 0);
	CHECK(!pthread_create(&sender, NULL, send_signals, NULL));
	call_each(NULL);
	run(call_each, NO_LIMIT);
	run(call_each, 200);
	install(SIGUSR1, SA_RESTART);
	run(read_on, 200);
	is_over = 1;
	CHECK(!pthread_join(sender, NULL));

	install(SIGUSR1, 0);
	main_tid = syscall(SYS_gettid);
	block(SIG_BLOCK);
	CHECK(!pthread_create(&sender, NULL, send_one_at_a_time, NULL));
	run(read_often, 100);
	CHECK(!pthread_join(sender, NULL));
	return 0;
}
