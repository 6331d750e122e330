/* Where functions stand, told to a file descriptor: in a library's copy, in pause(), and nowhere. */
#include "check.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <regex.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

/* Not inlined, so that each has a frame. */
#define FRAME __attribute__((noinline))

/* A search that takes minutes. */
FRAME static void search_for_long(void *is_found) {
	char text[121] = { 0 };
	memset(text, 'a', 120);
	regex_t regex;
	CHECK(!regcomp(&regex, "(a*)(a*)(a*)\\1\\2\\3b", REG_EXTENDED));
	*(bool *) is_found = regexec(&regex, text, 0, NULL, 0) == 0;
	regfree(&regex);
}

FRAME static void pauses(void *self) {
	linger_t *linger = self;
	CHECK(linger_backtrace(linger, STDERR_FILENO) == EINVAL);
	pause();
	linger->error = 0;
}

static char text[1 << 16];

/* What it writes, in `text`. */
static int backtrace_of(linger_t *linger) {
	int file = memfd_create("backtrace", 0);
	CHECK(file >= 0);
	int error = linger_backtrace(linger, file);
	ssize_t length = pread(file, text, sizeof text - 1, 0);
	CHECK(length >= 0);
	text[length] = '\0';
	close(file);
	return error;
}

static void in_a_library(void) {
	bool is_found = false;
	/* it has to get there, on a machine that is busy */
	linger_t linger = launch(search_for_long, 5000, &is_found);
	while (!backtrace_of(&linger) && !strstr(text, "regexec"))
		resume(&linger, 5000);
	for (int i = 0; i < 2; i++) {
		CHECK(backtrace_of(&linger) == 0);
		const char *library = strstr(text, "regexec"), *function = strstr(text, "search_for_long");
		CHECK(library && function && library < function);
		CHECK(strstr(function, "libtimetravel_function_base"));
		CHECK(linger.error == 0 && linger_backtrace(&linger, -1) == EBADF && *linger_error());
		resume(&linger, 1000);
		CHECK(!linger.is_complete && !linger.error);
	}
	cancel(&linger);
	CHECK(backtrace_of(&linger) == EINVAL && !*text);
}

static void in_pause(void) {
	/* the function looks at its own handle, while it runs */
	static linger_t linger;
	linger = launch(pauses, 0, &linger);
	CHECK(backtrace_of(&linger) == EINVAL && !*text);
	resume(&linger, NO_LIMIT);
	CHECK(linger.is_yielded && backtrace_of(&linger) == 0);
	CHECK(!strncmp(text, "   0: linger_pause ", 19) && strstr(text, "pauses"));
	resume(&linger, NO_LIMIT);
	CHECK(linger.is_complete && backtrace_of(&linger) == EINVAL);
}

static sigjmp_buf target;

static void jump_out(int signal) {
	siglongjmp(target, signal);
}

FRAME static void deeper(int levels) {
	char room[1000];
	*(volatile char *) room = levels;
	if (levels)
		deeper(levels - 1);
	else
		raise(SIGALRM);
	*(volatile char *) room = levels;
}

FRAME static void jumps_and_pauses(void *unused) {
	(void) unused;
	if (!sigsetjmp(target, 1))
		deeper(100);
	pause();
	for (volatile unsigned long count = 0;; count++)
		;
}

/* A handler of the program that is left by a jump leaves the preemption signal's, too: what that has interrupted is no
 * longer where the function stands. */
static void after_a_jump(void) {
	CHECK(signal(SIGALRM, jump_out) != SIG_ERR);
	linger_t linger = launch(jumps_and_pauses, NO_LIMIT, NULL);
	CHECK(linger.is_yielded && backtrace_of(&linger) == 0);
	CHECK(!strncmp(text, "   0: linger_pause ", 19) && strstr(text, "jumps_and_pauses") && !strstr(text, "deeper"));
	/* on a busy machine it may take a while to get out of there */
	while (resume(&linger, 1000), !backtrace_of(&linger) && strncmp(text, "   0: jumps_and_pauses ", 23))
		;
	CHECK(!linger.error && !strstr(text, "deeper"));
	cancel(&linger);
}

/* A function that writes where another stands can be stopped while it waits for a reader. */
static int ends[2];
static void writes(void *linger) {
	CHECK(linger_backtrace(linger, ends[1]) == 0);
}
static void to_a_full_pipe(void) {
	CHECK(!pipe(ends) && !fcntl(ends[1], F_SETFL, O_NONBLOCK));
	while (write(ends[1], text, sizeof text) > 0)
		;
	CHECK(!fcntl(ends[1], F_SETFL, 0) && !fcntl(ends[0], F_SETFL, O_NONBLOCK));
	linger_t linger = launch(jumps_and_pauses, NO_LIMIT, NULL), writing = launch(writes, 100000, &linger);
	CHECK(linger.is_yielded && !writing.is_complete && !writing.error);
	while (!writing.is_complete) {
		while (read(ends[0], text, sizeof text) > 0)
			;
		resume(&writing, 10000);
		CHECK(!writing.error);
	}
	cancel(&linger);
	close(ends[0]);
	close(ends[1]);
}

/* A file system may take nothing, without an error; here the kernel says so. */
static void to_what_takes_nothing(void) {
	int file = memfd_create("nothing", 0);
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_write, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned) file, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof filter / sizeof *filter, filter };
	CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) && !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
	linger_t linger = launch(jumps_and_pauses, NO_LIMIT, NULL);
	CHECK(linger_backtrace(&linger, file) == EIO && *linger_error());
	cancel(&linger);
}

int main(void) {
	in_a_library();
	in_pause();
	after_a_jump();
	to_a_full_pipe();
	to_what_takes_nothing();
	linger_t none = { 0 };
	CHECK(linger_backtrace(&none, STDERR_FILENO) == EINVAL && linger_backtrace(NULL, STDERR_FILENO) == EINVAL);
	return 0;
}
