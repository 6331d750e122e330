/* Input and output: no call is cut short, none fails with EINTR, and none returns before its time. */
#include "behaviour.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/uio.h>

enum { LENGTH = 1 << 18 };
static char sent[LENGTH], received[LENGTH];

static void start_thread(pthread_t *thread, void *(*body)(void *), void *argument) {
	CHECK(!pthread_create(thread, NULL, body, argument));
}

static void end_thread(pthread_t thread) {
	CHECK(!pthread_join(thread, NULL));
}

/* ------------------------------------------------------------------ pipes */

static int ends[2];

/* By pieces of uneven sizes, with waits between them. */
static void *feed(void *unused) {
	for (size_t done = 0, piece = 1; done < LENGTH; done += piece) {
		piece = piece * 7 % 40009;
		if (piece > LENGTH - done)
			piece = LENGTH - done;
		CHECK(write(ends[1], sent + done, piece) == (ssize_t) piece);
		sleep_us(200);
	}
	CHECK(!close(ends[1]));
	return unused;
}

static void pipe_blocking_read(void) {
	CHECK(!pipe(ends));
	fill(sent, LENGTH, 1);
	pthread_t thread;
	start_thread(&thread, feed, NULL);
	size_t length = 0;
	for (ssize_t got; (got = read(ends[0], received + length, LENGTH - length + !(LENGTH - length))) != 0;) {
		CHECK(got > 0);
		length += (size_t) got;
	}
	end_thread(thread);
	CHECK(!close(ends[0]) && length == LENGTH);
	note_bytes(received, length);
}

static void *drain(void *unused) {
	size_t length = 0;
	for (ssize_t got; (got = read(ends[0], received + length, 5000)) > 0;) {
		length += (size_t) got;
		sleep_us(100);
		if (LENGTH - length < 5000)
			break;
	}
	CHECK(read(ends[0], received + length, LENGTH - length) == (ssize_t) (LENGTH - length));
	return unused;
}

/* More than the pipe holds: a blocking write writes it all. */
static void pipe_blocking_write(void) {
	CHECK(!pipe(ends));
	fill(sent, LENGTH, 2);
	pthread_t thread;
	start_thread(&thread, drain, NULL);
	CHECK(write(ends[1], sent, LENGTH) == LENGTH);
	end_thread(thread);
	CHECK(!close(ends[0]) && !close(ends[1]));
	note_bytes(received, LENGTH);
}

static void pipe_nonblocking(void) {
	CHECK(!pipe2(ends, O_NONBLOCK));
	fill(sent, LENGTH, 3);
	size_t written = 0, got = 0;
	unsigned long full = 0, empty = 0;
	while (got < LENGTH) {
		for (ssize_t length; written < LENGTH; written += (size_t) length)
			if ((length = write(ends[1], sent + written, LENGTH - written)) < 0) {
				CHECK(errno == EAGAIN);
				full++;
				break;
			}
		for (ssize_t length;; got += (size_t) length)
			if ((length = read(ends[0], received + got, 3001)) < 0) {
				CHECK(errno == EAGAIN);
				empty++;
				break;
			}
	}
	CHECK(!close(ends[0]) && !close(ends[1]));
	note("full %lu empty %lu ", full, empty);
	note_bytes(received, got);
}

static void *write_late(void *unused) {
	sleep_us(5000);
	CHECK(write(ends[1], "x", 1) == 1);
	return unused;
}

static void waits_for_readiness(void) {
	CHECK(!pipe(ends));
	int epoll = epoll_create1(0);
	struct epoll_event event = { .events = EPOLLIN, .data = { .fd = ends[0] } }, happened;
	CHECK(epoll >= 0 && !epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &event));
	for (int way = 0; way < 5; way++) {
		pthread_t thread;
		start_thread(&thread, write_late, NULL);
		struct pollfd polled = { .fd = ends[0], .events = POLLIN };
		fd_set set;
		FD_ZERO(&set);
		FD_SET(ends[0], &set);
		struct timespec minute = { 60, 0 };
		int ready = way == 0 ? poll(&polled, 1, -1)
			: way == 1 ? ppoll(&polled, 1, &minute, NULL)
			: way == 2 ? select(ends[0] + 1, &set, NULL, NULL, NULL)
			: way == 3 ? pselect(ends[0] + 1, &set, NULL, NULL, &minute, NULL)
			: epoll_wait(epoll, &happened, 1, 60000);
		CHECK(ready == 1);
		char byte;
		CHECK(read(ends[0], &byte, 1) == 1);
		end_thread(thread);
		note("%d: %c\n", way, byte);
	}
	CHECK(!close(epoll) && !close(ends[0]) && !close(ends[1]));
}

static void waits_for_their_time(void) {
	CHECK(!pipe(ends));
	int epoll = epoll_create1(0);
	struct epoll_event event = { .events = EPOLLIN, .data = { .fd = ends[0] } }, happened;
	CHECK(epoll >= 0 && !epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &event));
	for (int way = 0; way < 8; way++) {
		uint64_t start = now_us();
		struct pollfd polled = { .fd = ends[0], .events = POLLIN };
		struct timespec time = { 0, 8000000 }, end;
		struct timeval value = { 0, 8000 };
		CHECK(!clock_gettime(CLOCK_MONOTONIC, &end));
		end.tv_nsec += 8000000;
		end.tv_sec += end.tv_nsec / 1000000000;
		end.tv_nsec %= 1000000000;
		int result = way == 0 ? poll(&polled, 1, 8)
			: way == 1 ? ppoll(&polled, 1, &time, NULL)
			: way == 2 ? select(0, NULL, NULL, NULL, &value)
			: way == 3 ? pselect(0, NULL, NULL, NULL, &time, NULL)
			: way == 4 ? epoll_wait(epoll, &happened, 1, 8)
			: way == 5 ? nanosleep(&time, &time)
			: way == 6 ? clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL)
			: usleep(8000);
		CHECK(result == 0 && now_us() - start >= 8000);
	}
	CHECK(!close(epoll) && !close(ends[0]) && !close(ends[1]));
}

/* A FIFO is opened when both sides are there. */
static char fifo[64];

static void *open_late(void *unused) {
	sleep_us(3000);
	int file = open(fifo, O_WRONLY);
	CHECK(file >= 0);
	sleep_us(3000);
	CHECK(write(file, "through", 7) == 7 && !close(file));
	return unused;
}

static void fifos(void) {
	snprintf(fifo, sizeof fifo, "/tmp/behaviour-fifo-%d", (int) getpid());
	CHECK(!mkfifo(fifo, 0600));
	pthread_t thread;
	start_thread(&thread, open_late, NULL);
	int file = open(fifo, O_RDONLY);
	char text[16] = "";
	CHECK(file >= 0 && read(file, text, sizeof text) == 7 && read(file, text + 7, 1) == 0);
	end_thread(thread);
	CHECK(!close(file) && !unlink(fifo));
	note("%s\n", text);
}

/* ------------------------------------------------------------------ sockets */

static void *serve(void *listener) {
	int connection = accept(*(int *) listener, NULL, NULL);
	CHECK(connection >= 0);
	static char buffer[LENGTH];
	for (ssize_t got; (got = recv(connection, buffer, sizeof buffer, 0)) != 0;) {
		CHECK(got > 0);
		sleep_us(50);
		CHECK(send(connection, buffer, (size_t) got, 0) == got);
	}
	CHECK(!close(connection));
	return NULL;
}

static int listen_on_loopback(struct sockaddr_in *address) {
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	*address = (struct sockaddr_in) { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t length = sizeof *address;
	CHECK(listener >= 0 && !bind(listener, (struct sockaddr *) address, length));
	CHECK(!listen(listener, 5) && !getsockname(listener, (struct sockaddr *) address, &length));
	return listener;
}

static void *send_all(void *connection) {
	CHECK(send(*(int *) connection, sent, LENGTH, 0) == LENGTH);
	CHECK(!shutdown(*(int *) connection, SHUT_WR));
	return NULL;
}

/* All three parties are threads of the function, or the function. */
static void tcp_echo(void) {
	struct sockaddr_in address;
	int listener = listen_on_loopback(&address), connection = socket(AF_INET, SOCK_STREAM, 0);
	fill(sent, LENGTH, 4);
	pthread_t server, sender;
	start_thread(&server, serve, &listener);
	CHECK(!connect(connection, (struct sockaddr *) &address, sizeof address));
	start_thread(&sender, send_all, &connection);
	CHECK(recv(connection, received, LENGTH, MSG_WAITALL) == LENGTH);
	char byte;
	CHECK(recv(connection, &byte, 1, 0) == 0);
	end_thread(sender);
	end_thread(server);
	CHECK(!close(connection) && !close(listener));
	note_bytes(received, LENGTH);
}

static void *connect_late(void *address) {
	sleep_us(5000);
	int connection = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(!connect(connection, (struct sockaddr *) address, sizeof(struct sockaddr_in)));
	sleep_us(5000);
	CHECK(send(connection, "late", 4, 0) == 4 && !close(connection));
	return NULL;
}

static void accepting(void) {
	struct sockaddr_in address;
	int listener = listen_on_loopback(&address);
	pthread_t thread;
	start_thread(&thread, connect_late, &address);
	int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	char text[8] = "";
	CHECK(connection >= 0 && recv(connection, text, sizeof text, 0) == 4);
	end_thread(thread);
	CHECK(!close(connection) && !close(listener));
	note("%s\n", text);
}

static void nonblocking_sockets(void) {
	struct sockaddr_in address;
	int listener = listen_on_loopback(&address), connection = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	CHECK(!connect(connection, (struct sockaddr *) &address, sizeof address) || errno == EINPROGRESS);
	struct pollfd polled = { .fd = connection, .events = POLLOUT };
	CHECK(poll(&polled, 1, 60000) == 1 && polled.revents == POLLOUT);
	int error = -1;
	socklen_t length = sizeof error;
	CHECK(!getsockopt(connection, SOL_SOCKET, SO_ERROR, &error, &length) && error == 0);
	int accepted = accept(listener, NULL, NULL);
	char byte;
	CHECK(accepted >= 0 && recv(connection, &byte, 1, 0) < 0 && errno == EAGAIN);
	for (int i = 0; i < 200; i++) {
		CHECK(send(accepted, "n", 1, 0) == 1);
		polled = (struct pollfd) { .fd = connection, .events = POLLIN };
		CHECK(poll(&polled, 1, 60000) == 1 && recv(connection, &byte, 1, 0) == 1 && byte == 'n');
		CHECK(recv(connection, &byte, 1, 0) < 0 && errno == EAGAIN);
	}
	/* nobody there */
	CHECK(!close(accepted) && !close(connection) && !close(listener));
	connection = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(connect(connection, (struct sockaddr *) &address, sizeof address) < 0 && errno == ECONNREFUSED);
	CHECK(!close(connection));
}

static void socket_time_limits(void) {
	int pair[2];
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	struct timeval limit = { 0, 20000 };
	CHECK(!setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
	CHECK(!setsockopt(pair[0], SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit));
	char byte;
	uint64_t start = now_us();
	CHECK(recv(pair[0], &byte, 1, 0) < 0 && errno == EAGAIN && now_us() - start >= 19000);
	start = now_us();
	while (send(pair[0], sent, LENGTH, 0) > 0)
		;
	CHECK(errno == EAGAIN && now_us() - start >= 19000);
	CHECK(!close(pair[0]) && !close(pair[1]));
}

static void *answer(void *socket) {
	char message[100];
	for (ssize_t got; (got = recv(*(int *) socket, message, sizeof message, 0)) > 1;) {
		sleep_us(100);
		CHECK(send(*(int *) socket, message, (size_t) got, 0) == got);
	}
	return NULL;
}

static void datagrams_and_descriptors(void) {
	int pair[2];
	CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
	pthread_t thread;
	start_thread(&thread, answer, &pair[1]);
	char message[100];
	for (size_t length = 2; length < 60; length++) {
		fill(message, length, (unsigned) length);
		CHECK(send(pair[0], message, length, 0) == (ssize_t) length);
		CHECK(recv(pair[0], message, sizeof message, 0) == (ssize_t) length);
		note_bytes(message, length);
	}
	CHECK(send(pair[0], "", 1, 0) == 1);
	end_thread(thread);

	union { struct cmsghdr header; char bytes[CMSG_SPACE(sizeof(int))]; } control;
	memset(&control, 0, sizeof control);
	struct iovec part = { message, 1 };
	struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
	control.header = (struct cmsghdr) { CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
	memcpy(CMSG_DATA(&control.header), &pair[0], sizeof(int));
	CHECK(sendmsg(pair[0], &header, 0) == 1);
	header.msg_controllen = sizeof control;
	CHECK(recvmsg(pair[1], &header, MSG_CMSG_CLOEXEC) == 1);
	int passed;
	memcpy(&passed, CMSG_DATA(&control.header), sizeof passed);
	CHECK(send(passed, "p", 1, 0) == 1 && recv(pair[1], message, 1, 0) == 1 && *message == 'p');
	CHECK(!close(passed) && !close(pair[0]) && !close(pair[1]));
}

/* ------------------------------------------------------------------ files */

static int temporary(void) {
	char name[] = "/tmp/behaviour-XXXXXX";
	int file = mkstemp(name);
	CHECK(file >= 0 && !unlink(name));
	return file;
}

static void files(void) {
	int file = temporary(), other = temporary();
	fill(sent, LENGTH, 5);
	struct iovec parts[] = { { sent, 1000 }, { sent + 1000, LENGTH - 1000 } };
	CHECK(writev(file, parts, 2) == LENGTH);
	CHECK(pread(file, received, LENGTH, 0) == LENGTH && !memcmp(sent, received, LENGTH));
	CHECK(pwrite(file, "changed", 7, 12345) == 7 && lseek(file, 0, SEEK_SET) == 0);
	off_t offset = 0;
	CHECK(sendfile(other, file, &offset, LENGTH) == LENGTH && offset == LENGTH);
	CHECK(lseek(other, 12340, SEEK_SET) == 12340 && read(other, received, LENGTH) == LENGTH - 12340);
	note_bytes(received, LENGTH - 12340);
	CHECK(!ftruncate(other, 100) && lseek(other, 0, SEEK_END) == 100);
	off_t from = 0;
	CHECK(copy_file_range(file, &from, other, NULL, 50000, 0) == 50000 && !fsync(other) && !fdatasync(file));
	struct stat status;
	CHECK(!fstat(other, &status) && status.st_size == 50100);
	CHECK(!close(file) && !close(other));
}

static void streams(void) {
	FILE *file = fdopen(temporary(), "w+");
	CHECK(file);
	for (int i = 0; i < 3000; i++)
		CHECK(fprintf(file, "line %d %.3f %s\n", i, i / 7.0, i % 2 ? "odd" : "even") > 0);
	rewind(file);
	char *line = NULL;
	size_t size = 0, lines = 0;
	double sum = 0;
	while (getline(&line, &size, file) > 0) {
		int number;
		double value;
		char word[5];
		CHECK(sscanf(line, "line %d %lf %4s", &number, &value, word) == 3 && number == (int) lines++);
		sum += value;
	}
	free(line);
	CHECK(feof(file) && !ferror(file) && !fseek(file, 100, SEEK_SET) && ungetc('u', file) == 'u' && getc(file) == 'u');
	CHECK(ftell(file) == 100 && !fclose(file));
	char *text = NULL;
	file = open_memstream(&text, &size);
	for (int i = 0; i < 1000; i++)
		CHECK(fputs("memory ", file) >= 0 && putc('0' + i % 10, file) >= 0);
	CHECK(!fclose(file));
	note("%zu lines %.6f ", lines, sum);
	note_bytes(text, size);
	free(text);
}

static int locked_file;

static void *unlock_late(void *file) {
	sleep_us(5000);
	CHECK(!flock(*(int *) file, LOCK_UN));
	return NULL;
}

static void file_locks(void) {
	char name[] = "/tmp/behaviour-XXXXXX";
	locked_file = mkstemp(name);
	int other = open(name, O_RDWR);
	CHECK(locked_file >= 0 && other >= 0 && !unlink(name));
	CHECK(!flock(locked_file, LOCK_EX) && flock(other, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK);
	pthread_t thread;
	start_thread(&thread, unlock_late, &locked_file);
	CHECK(!flock(other, LOCK_EX));
	end_thread(thread);

	/* a child's record lock */
	int to_parent[2], to_child[2];
	CHECK(!pipe(to_parent) && !pipe(to_child));
	char byte;
	pid_t child = fork();
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	if (!child) {
		CHECK(!fcntl(other, F_SETLKW, &lock) && write(to_parent[1], "l", 1) == 1 && read(to_child[0], &byte, 1) == 1);
		sleep_us(5000);
		_exit(0);
	}
	CHECK(read(to_parent[0], &byte, 1) == 1 && fcntl(other, F_SETLK, &lock) < 0 && (errno == EAGAIN || errno == EACCES));
	CHECK(write(to_child[1], "l", 1) == 1 && !fcntl(other, F_SETLKW, &lock) && status_of(child) == 0);
	CHECK(!close(to_child[0]) && !close(to_child[1]) && !close(to_parent[0]) && !close(to_parent[1]) && !close(other) && !close(locked_file));
}

/* ------------------------------------------------------------------ other descriptors */

static void *count_up(void *counter) {
	for (int i = 0; i < 50; i++) {
		sleep_us(100);
		CHECK(!eventfd_write(*(int *) counter, 1));
	}
	return NULL;
}

static void counters_and_timers(void) {
	int counter = eventfd(0, EFD_SEMAPHORE);
	pthread_t thread;
	start_thread(&thread, count_up, &counter);
	eventfd_t value;
	for (int i = 0; i < 50; i++)
		CHECK(!eventfd_read(counter, &value) && value == 1);
	end_thread(thread);
	int timer = timerfd_create(CLOCK_MONOTONIC, 0);
	struct itimerspec time = { { 0, 2000000 }, { 0, 2000000 } };
	uint64_t start = now_us(), expirations, sum = 0;
	CHECK(timer >= 0 && !timerfd_settime(timer, 0, &time, NULL));
	while (sum < 5) {
		CHECK(read(timer, &expirations, sizeof expirations) == sizeof expirations && expirations > 0);
		sum += expirations;
	}
	CHECK(now_us() - start >= 10000 && !close(timer) && !close(counter));
}

const struct behaviour behaviours[] = {
	BEHAVIOUR(pipe_blocking_read),
	BEHAVIOUR(pipe_blocking_write),
	BEHAVIOUR(pipe_nonblocking),
	BEHAVIOUR(waits_for_readiness),
	BEHAVIOUR(waits_for_their_time),
	BEHAVIOUR(fifos),
	BEHAVIOUR(tcp_echo),
	BEHAVIOUR(accepting),
	BEHAVIOUR(nonblocking_sockets),
	BEHAVIOUR(socket_time_limits),
	BEHAVIOUR(datagrams_and_descriptors),
	BEHAVIOUR(files),
	BEHAVIOUR(streams),
	BEHAVIOUR(file_locks),
	BEHAVIOUR(counters_and_timers),
	{ NULL, NULL },
};
