/* Descriptors that a cancelled function has opened are closed, if it was launched so: those that each function has opened. */
#include "policy.h"

#include <dirent.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>

typedef struct {
	size_t size_bytes, stack_size_bytes;
	bool counts_cpu_time, tracks_heap, tracks_descriptors;
	uint8_t reserved[5];
} linger_options_t;
linger_t linger_launch_with(const linger_options_t *, void (*)(void *), uint64_t us, void *);
void linger_cancel_reclaim(linger_t *);

static linger_t launch_tracked(void (*function)(void *), uint64_t us, void *argument) {
	linger_options_t options = { .size_bytes = sizeof options, .tracks_descriptors = true };
	linger_t linger = linger_launch_with(&options, function, us, argument);
	REQUIRE(!linger.error, linger.error);
	return linger;
}

/* What is opened is closed by a cancel, in mid-run and after, and by nothing else; and what has been closed is not
 * closed again, when it is somebody else's. */
enum { TIMES = 3 };
static int (*opens)(int made[2]);
static int made[TIMES][2], reused[2];
static void open_and_pause(void *unused) {
	(void) unused;
	for (int i = 0; i < TIMES; i++)
		REQUIRE(opens(made[i]) > 0, errno);
	linger_pause();
}
static void open_for_ever(void *unused) {
	(void) unused;
	for (;;) {
		int count = opens(made[0]);
		while (count > 0)
			close(made[0][--count]);
	}
}
static void open_and_return(void *unused) {
	(void) unused;
	REQUIRE(opens(made[0]) > 0, errno);
}
static void check(void) {
	/* what is set up once */
	int count = opens(reused);
	REQUIRE(count > 0, errno);
	int before = count_descriptors();
	for (int i = 0; i < 5; i++) {
		linger_t linger = launch_tracked(open_and_pause, UINT64_MAX, NULL);
		REQUIRE(linger.is_yielded && (int) count_descriptors() == before + TIMES * count, (int) count_descriptors());
		linger_cancel_reclaim(&linger);
		REQUIRE((int) count_descriptors() == before, (int) count_descriptors());
	}
	for (int i = 0; sliced && i < 300; i++) {
		linger_t linger = launch_tracked(open_for_ever, 5 + rand() % 60, NULL);
		linger_cancel_reclaim(&linger);
		REQUIRE((int) count_descriptors() == before, (int) count_descriptors());
	}
	linger_t linger = launch_tracked(open_and_return, UINT64_MAX, NULL);
	REQUIRE(linger.is_complete && (int) count_descriptors() == before + count);
	linger = launch_tracked(open_and_pause, UINT64_MAX, NULL);
	linger_cancel_reclaim(&linger);
	REQUIRE((int) count_descriptors() == before + count);
}

#define ONE(name, expression) \
	static int opens_##name(int made[2]) { \
		made[0] = (expression); \
		return made[0] >= 0; \
	} \
	static void check_##name(void) { \
		opens = opens_##name; \
		check(); \
	}
#define TWO(name, expression) \
	static int opens_##name(int made[2]) { \
		return (expression) ? -1 : 2; \
	} \
	static void check_##name(void) { \
		opens = opens_##name; \
		check(); \
	}
int __open_2(const char *, int);
int __openat_2(int, const char *, int);
static char template[32];
static char *fresh(void) {
	return strcpy(template, "made-XXXXXX.txt");
}
static char *fresh_whole(void) {
	return strcpy(template, "made-XXXXXX");
}
static int unlinked(int file) {
	unlink(template);
	return file;
}
static sigset_t none;
ONE(open, open("/dev/null", O_RDONLY))
ONE(openat, openat(AT_FDCWD, "/dev/null", O_RDONLY))
ONE(creat, creat("created", 0600))
ONE(open_2, __open_2("/dev/null", O_RDONLY))
ONE(openat_2, __openat_2(AT_FDCWD, "/dev/null", O_RDONLY))
ONE(socket, socket(AF_UNIX, SOCK_STREAM, 0))
ONE(dup, dup(0))
ONE(fcntl, fcntl(0, F_DUPFD_CLOEXEC, 5))
ONE(eventfd, eventfd(0, 0))
ONE(epoll_create, epoll_create(1))
ONE(epoll_create1, epoll_create1(0))
ONE(timerfd_create, timerfd_create(CLOCK_MONOTONIC, 0))
ONE(signalfd, signalfd(-1, &none, 0))
ONE(inotify_init, inotify_init())
ONE(inotify_init1, inotify_init1(0))
ONE(memfd_create, memfd_create("made", 0))
ONE(mkstemp, unlinked(mkstemp(fresh_whole())))
ONE(mkostemp, unlinked(mkostemp(fresh_whole(), 0)))
ONE(mkstemps, unlinked(mkstemps(fresh(), 4)))
ONE(mkostemps, unlinked(mkostemps(fresh(), 4, 0)))
TWO(pipe, pipe(made))
TWO(pipe2, pipe2(made, O_CLOEXEC))
TWO(socketpair, socketpair(AF_UNIX, SOCK_STREAM, 0, made))

static int listening, connected[64];
static int connect_to_ourselves(void) {
	struct sockaddr_un address = { AF_UNIX, "" };
	socklen_t length = sizeof address;
	REQUIRE(!getsockname(listening, (struct sockaddr *) &address, &length));
	int client = socket(AF_UNIX, SOCK_STREAM, 0);
	REQUIRE(!connect(client, (struct sockaddr *) &address, length), errno);
	return client;
}
static void listen_here(void) {
	struct sockaddr_un address = { AF_UNIX, "" };
	listening = socket(AF_UNIX, SOCK_STREAM, 0);
	REQUIRE(!bind(listening, (struct sockaddr *) &address, sizeof address.sun_family) && !listen(listening, 64));
}
static bool is_accept4;
static void accept_all(void *unused) {
	(void) unused;
	for (;;)
		REQUIRE((is_accept4 ? accept4(listening, NULL, NULL, SOCK_CLOEXEC) : accept(listening, NULL, NULL)) >= 0, errno);
}
/* It waits for one more, in which it is stopped. */
static void check_accepting(void) {
	listen_here();
	for (int round = 0; round < 5; round++) {
		for (int i = 0; i < 10; i++)
			connected[i] = connect_to_ourselves();
		int before = count_descriptors();
		linger_t linger = launch_tracked(accept_all, 20000, NULL);
		REQUIRE(!linger.is_complete);
		linger_resume(&linger, 1000);
		linger_cancel_reclaim(&linger);
		REQUIRE((int) count_descriptors() == before, (int) count_descriptors() - before);
		for (int i = 0; i < 10; i++)
			close(connected[i]);
	}
}
static void check_accept(void) {
	check_accepting();
}
static void check_accept4(void) {
	is_accept4 = true;
	check_accepting();
}

/* What it has closed, and what has the number then. */
static int closed;
static void open_and_close(void *unused) {
	(void) unused;
	closed = open("/dev/null", O_RDONLY);
	REQUIRE(closed >= 0 && !close(closed));
	REQUIRE(close(closed) == -1 && errno == EBADF);
	linger_pause();
}
static void check_close(void) {
	linger_t linger = launch_tracked(open_and_close, UINT64_MAX, NULL);
	REQUIRE(linger.is_yielded);
	int ours = open("/dev/null", O_RDONLY);
	REQUIRE(ours == closed);
	linger_cancel_reclaim(&linger);
	REQUIRE(fcntl(ours, F_GETFD) >= 0, errno);
}

/* The same, of what a stream or a folder was made of, and closed with it; open, it is closed by the cancel. */
static bool is_left_open;
static void close_with_stream(void *unused) {
	(void) unused;
	closed = open("/dev/null", O_RDONLY);
	FILE *stream = fdopen(closed, "r");
	REQUIRE(stream && getc(stream) == EOF);
	stream = freopen("/dev/zero", "r", stream);
	REQUIRE(stream && getc(stream) == 0 && fileno(stream) == closed);
	stream = freopen("/dev/null", "r", stream);
	REQUIRE(stream && (is_left_open || !fclose(stream)));
	linger_pause();
}
static void close_with_folder(void *unused) {
	(void) unused;
	closed = open(".", O_RDONLY | O_DIRECTORY);
	DIR *folder = fdopendir(closed);
	REQUIRE(folder && readdir(folder) && (is_left_open || !closedir(folder)));
	linger_pause();
}
static void close_folder(void *unused) {
	(void) unused;
	DIR *folder = opendir(".");
	REQUIRE(folder && readdir(folder));
	closed = dirfd(folder);
	REQUIRE(is_left_open || !closedir(folder));
	linger_pause();
}
static void close_folders(void *unused) {
	(void) unused;
	for (;;) {
		DIR *folder = opendir(".");
		REQUIRE(folder && readdir(folder) && !closedir(folder));
	}
}
static void check_closing(void (*function)(void *), const char *file) {
	int before = count_descriptors();
	is_left_open = true;
	linger_t linger = launch_tracked(function, UINT64_MAX, NULL);
	REQUIRE(linger.is_yielded && (int) count_descriptors() == before + 1);
	linger_cancel_reclaim(&linger);
	REQUIRE((int) count_descriptors() == before, (int) count_descriptors() - before);
	is_left_open = false;
	linger = launch_tracked(function, UINT64_MAX, NULL);
	REQUIRE(linger.is_yielded && (int) count_descriptors() == before);
	int ours = open(file, O_RDONLY);
	REQUIRE(ours == closed);
	linger_cancel_reclaim(&linger);
	REQUIRE(fcntl(ours, F_GETFD) >= 0, errno);
	close(ours);
}
static void check_fdopen(void) {
	check_closing(close_with_stream, "/dev/null");
}
static void check_folders(void) {
	check_closing(close_with_folder, ".");
	check_closing(close_folder, ".");
	int before = count_descriptors();
	for (int i = 0; sliced && i < 300; i++) {
		linger_t linger = launch_tracked(close_folders, 5 + rand() % 60, NULL);
		linger_cancel_reclaim(&linger);
		REQUIRE((int) count_descriptors() == before, (int) count_descriptors() - before);
	}
}

/* It has been closed by somebody else: the number is another file's. */
static void open_one(void *unused) {
	(void) unused;
	closed = open("/dev/null", O_RDONLY);
	linger_pause();
}
static void check_others(void) {
	linger_t linger = launch_tracked(open_one, UINT64_MAX, NULL);
	close(closed);
	int ours = open("/dev/zero", O_RDONLY);
	REQUIRE(linger.is_yielded && ours == closed);
	linger_cancel_reclaim(&linger);
	REQUIRE(fcntl(ours, F_GETFD) >= 0, errno);
}

/* Stopped again and again just when the kernel has opened a file. */
static volatile int kept[1000], kept_len;
static void open_many(void *unused) {
	(void) unused;
	for (kept_len = 0; kept_len < 1000; kept_len++)
		kept[kept_len] = open("/dev/null", O_RDONLY);
	for (;;)
		;
}
static void check_window(void) {
	int before = count_descriptors();
	for (int i = 0; i < (sliced ? 4000 : 1); i++) {
		linger_t linger = launch_tracked(open_many, 5 + rand() % 40, NULL);
		linger_cancel_reclaim(&linger);
		REQUIRE(i % 100 || (int) count_descriptors() == before, (int) count_descriptors() - before);
	}
	REQUIRE((int) count_descriptors() == before, (int) count_descriptors() - before);
}

/* A function that waits in open() is stopped like any other. */
static void open_fifo(void *unused) {
	(void) unused;
	REQUIRE(open("fifo", O_RDONLY) >= 0, errno);
}
static void check_fifo(void) {
	REQUIRE(!mkfifo("fifo", 0600), errno);
	linger_t linger = launch_tracked(open_fifo, 2000, NULL);
	REQUIRE(!linger.is_complete);
	int writer = open("fifo", O_RDWR);
	linger_resume(&linger, UINT64_MAX);
	REQUIRE(writer >= 0 && linger.is_complete);
	linger = launch_tracked(open_fifo, 2000, NULL);
	linger_cancel_reclaim(&linger);
}

#define CHECK_OF(name) { #name, #name, check_##name }
const struct check checks[] = {
	CHECK_OF(open), CHECK_OF(openat), CHECK_OF(creat), { "open_2", "__open_2", check_open_2 },
	{ "openat_2", "__openat_2", check_openat_2 }, CHECK_OF(socket), CHECK_OF(dup), CHECK_OF(fcntl), CHECK_OF(eventfd),
	CHECK_OF(epoll_create), CHECK_OF(epoll_create1), CHECK_OF(timerfd_create), CHECK_OF(signalfd), CHECK_OF(inotify_init),
	CHECK_OF(inotify_init1), CHECK_OF(memfd_create), CHECK_OF(mkstemp), CHECK_OF(mkostemp), CHECK_OF(mkstemps),
	CHECK_OF(mkostemps), CHECK_OF(pipe), CHECK_OF(pipe2), CHECK_OF(socketpair),
	{ "accept", "-", check_accept }, { "accept4", "-", check_accept4 },
	CHECK_OF(close), CHECK_OF(fdopen), { "folders", "opendir,closedir", check_folders },
	{ "others", "-", check_others }, { "window", "made", check_window }, { "fifo", "-", check_fifo },
	{ NULL, NULL, NULL },
};
