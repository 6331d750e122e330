/* Waits: a preemption never shows, neither as EINTR nor as a wait that is cut short. */
#include "policy.h"

#include <aio.h>
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <threads.h>

ssize_t __read_chk(int, void *, size_t, size_t), __recv_chk(int, void *, size_t, size_t, int);
ssize_t __recvfrom_chk(int, void *, size_t, size_t, int, struct sockaddr *, socklen_t *);
int __poll_chk(struct pollfd *, nfds_t, int, size_t), __ppoll_chk(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *, size_t);

enum { WAIT_US = 6000 };
static struct sembuf up = { 0, 1, 0 }, down = { 0, -1, 0 };
static struct text {
	long type;
	char bytes[64];
} text = { 1, "text" };

/* ------------------------------------------------------------------ waits for time */

#define SLEEPS(name, ...) \
	static void sleep_##name(void *unused) { \
		(void) unused; \
		uint64_t start = now_us(); \
		__VA_ARGS__; \
		uint64_t slept = now_us() - start; \
		REQUIRE(slept >= WAIT_US - 1000 && slept < 3000000, slept); \
	} \
	static void check_##name(void) { \
		inside(sleep_##name, NULL); \
		/* what the expiry of a slice hits outside is not cut short either */ \
		for (int i = 0; i < 5; i++) { \
			inside(nothing, NULL); \
			sleep_##name(NULL); \
		} \
		REQUIRE(!sliced || preemptions, preemptions); \
	}
static struct timespec wait_time = { 0, WAIT_US * 1000 };
static struct timespec in_future(clockid_t clock) {
	struct timespec at;
	clock_gettime(clock, &at);
	at.tv_nsec += WAIT_US * 1000;
	if (at.tv_nsec >= 1000000000) {
		at.tv_nsec -= 1000000000;
		at.tv_sec++;
	}
	return at;
}
static int pipe_of(void) {
	static int ends[2];
	if (!ends[0])
		REQUIRE(!pipe(ends));
	return ends[0];
}
static int epoll_of(void) {
	static int epoll = -1;
	if (epoll < 0) {
		epoll = epoll_create1(0);
		struct epoll_event event = { .events = EPOLLIN };
		REQUIRE(!epoll_ctl(epoll, EPOLL_CTL_ADD, pipe_of(), &event));
	}
	return epoll;
}
SLEEPS(nanosleep, REQUIRE(!nanosleep(&wait_time, NULL), errno))
SLEEPS(clock_nanosleep, REQUIRE(!clock_nanosleep(CLOCK_MONOTONIC, 0, &wait_time, NULL)))
SLEEPS(usleep, REQUIRE(!usleep(WAIT_US)))
SLEEPS(sleep, REQUIRE(!sleep(1)))
SLEEPS(thrd_sleep, REQUIRE(!thrd_sleep(&wait_time, NULL)))
SLEEPS(poll, struct pollfd p = { pipe_of(), POLLIN, 0 }; int n = poll(&p, 1, WAIT_US / 1000); REQUIRE(n == 0, errno))
SLEEPS(__poll_chk, struct pollfd p = { pipe_of(), POLLIN, 0 }; int n = __poll_chk(&p, 1, WAIT_US / 1000, sizeof p); REQUIRE(n == 0, errno))
SLEEPS(ppoll, struct pollfd p = { pipe_of(), POLLIN, 0 }; REQUIRE(!ppoll(&p, 1, &wait_time, NULL)))
SLEEPS(__ppoll_chk, struct pollfd p = { pipe_of(), POLLIN, 0 }; REQUIRE(!__ppoll_chk(&p, 1, &wait_time, NULL, sizeof p)))
SLEEPS(select, fd_set set; FD_ZERO(&set); FD_SET(pipe_of(), &set); struct timeval t = { 0, WAIT_US }; REQUIRE(!select(pipe_of() + 1, &set, NULL, NULL, &t)))
SLEEPS(pselect, fd_set set; FD_ZERO(&set); FD_SET(pipe_of(), &set); REQUIRE(!pselect(pipe_of() + 1, &set, NULL, NULL, &wait_time, NULL)))
SLEEPS(epoll_wait, struct epoll_event e; REQUIRE(!epoll_wait(epoll_of(), &e, 1, WAIT_US / 1000)))
SLEEPS(epoll_pwait, struct epoll_event e; REQUIRE(!epoll_pwait(epoll_of(), &e, 1, WAIT_US / 1000, NULL)))
SLEEPS(epoll_pwait2, struct epoll_event e; REQUIRE(!epoll_pwait2(epoll_of(), &e, 1, &wait_time, NULL)))
SLEEPS(sem_timedwait, sem_t s; sem_init(&s, 0, 0); struct timespec at = in_future(CLOCK_REALTIME); REQUIRE(sem_timedwait(&s, &at) == -1 && errno == ETIMEDOUT, errno))
SLEEPS(sem_clockwait, sem_t s; sem_init(&s, 0, 0); struct timespec at = in_future(CLOCK_MONOTONIC); REQUIRE(sem_clockwait(&s, CLOCK_MONOTONIC, &at) == -1 && errno == ETIMEDOUT, errno))
SLEEPS(semtimedop, int id = semget(IPC_PRIVATE, 1, 0600); int r = semtimedop(id, &down, 1, &wait_time); int e = errno; semctl(id, 0, IPC_RMID); REQUIRE(r == -1 && e == EAGAIN, e))
/* The kernel counts these in ticks, of at most 10 ms, and the first is partly over. */
static void with_timeout(int socket) {
	struct timeval t = { 0, WAIT_US + 10000 };
	REQUIRE(!setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t) && !setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t));
}
static int pair_of(int end) {
	static int ends[2];
	if (!ends[0]) {
		REQUIRE(!socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
		with_timeout(ends[0]);
		with_timeout(ends[1]);
	}
	return ends[end];
}
static char buffer[64];
static struct iovec vector = { buffer, sizeof buffer };
static struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1 };
static struct mmsghdr messages = { .msg_hdr = { .msg_iov = &vector, .msg_iovlen = 1 } };
#define TIMES_OUT(expression) ({ long r = (expression); REQUIRE(r == -1 && errno == EAGAIN, errno); })
SLEEPS(recv, TIMES_OUT(recv(pair_of(0), buffer, 64, 0)))
SLEEPS(__recv_chk, TIMES_OUT(__recv_chk(pair_of(0), buffer, 64, 64, 0)))
SLEEPS(recvfrom, TIMES_OUT(recvfrom(pair_of(0), buffer, 64, 0, NULL, NULL)))
SLEEPS(__recvfrom_chk, TIMES_OUT(__recvfrom_chk(pair_of(0), buffer, 64, 64, 0, NULL, NULL)))
SLEEPS(recvmsg, TIMES_OUT(recvmsg(pair_of(0), &message, 0)))
SLEEPS(recvmmsg, TIMES_OUT(recvmmsg(pair_of(0), &messages, 1, 0, NULL)))
SLEEPS(read, TIMES_OUT(read(pair_of(0), buffer, 64)))
SLEEPS(__read_chk, TIMES_OUT(__read_chk(pair_of(0), buffer, 64, 64)))
SLEEPS(readv, TIMES_OUT(readv(pair_of(0), &vector, 1)))
/* the other way the socket is full */
static int full(void) {
	static bool filled;
	if (!filled) {
		static char much[4096];
		while (send(pair_of(1), much, sizeof much, MSG_DONTWAIT) > 0)
			;
		filled = true;
	}
	return pair_of(1);
}
SLEEPS(send, TIMES_OUT(send(full(), buffer, 64, 0)))
SLEEPS(sendto, TIMES_OUT(sendto(full(), buffer, 64, 0, NULL, 0)))
SLEEPS(sendmsg, TIMES_OUT(sendmsg(full(), &message, 0)))
SLEEPS(sendmmsg, TIMES_OUT(sendmmsg(full(), &messages, 1, 0)))
SLEEPS(write, TIMES_OUT(write(full(), buffer, 64)))
SLEEPS(writev, TIMES_OUT(writev(full(), &vector, 1)))
static struct sockaddr_un address = { .sun_family = AF_UNIX };
static int listener(void) {
	static int socket_of = -1;
	if (socket_of < 0) {
		socket_of = socket(AF_UNIX, SOCK_STREAM, 0);
		/* no path: the kernel chooses an abstract name */
		REQUIRE(!bind(socket_of, (struct sockaddr *) &address, sizeof(sa_family_t)) && !listen(socket_of, 0));
		socklen_t length = sizeof address;
		REQUIRE(!getsockname(socket_of, (struct sockaddr *) &address, &length));
		with_timeout(socket_of);
	}
	return socket_of;
}
SLEEPS(accept, TIMES_OUT(accept(listener(), NULL, NULL)))
SLEEPS(accept4, TIMES_OUT(accept4(listener(), NULL, NULL, 0)))
static int connecting(void) {
	static int queued = -1;
	listener();
	if (queued < 0) {
		queued = socket(AF_UNIX, SOCK_STREAM, 0);
		REQUIRE(!connect(queued, (struct sockaddr *) &address, sizeof(sa_family_t) + 6));
	}
	int waiting = socket(AF_UNIX, SOCK_STREAM, 0);
	with_timeout(waiting);
	return waiting;
}
SLEEPS(connect, int s = connecting(); int r = connect(s, (struct sockaddr *) &address, sizeof(sa_family_t) + 6); REQUIRE(r == -1 && (errno == EAGAIN || errno == EINPROGRESS), errno); close(s))

/* Interrupted late, it waits for the rest of the timeout only. */
enum { LONG_US = 1000000 };
static void connect_for_long(void *slept_us) {
	int waiting = connecting();
	struct timeval timeout = { LONG_US / 1000000, LONG_US % 1000000 }, after;
	REQUIRE(!setsockopt(waiting, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout));
	uint64_t start = now_us();
	REQUIRE(connect(waiting, (struct sockaddr *) &address, sizeof(sa_family_t) + 6) == -1 && errno == EAGAIN, errno);
	*(uint64_t *) slept_us = now_us() - start;
	socklen_t length = sizeof after;
	REQUIRE(!getsockopt(waiting, SOL_SOCKET, SO_SNDTIMEO, &after, &length));
	REQUIRE(after.tv_sec == timeout.tv_sec && after.tv_usec == timeout.tv_usec);
}
static void check_late_interruption(void) {
	uint64_t slept_us = 0;
	linger_t linger = linger_launch(connect_for_long, LONG_US * 9 / 10, &slept_us);
	REQUIRE(!linger.is_complete && !linger.error, linger.error);
	linger_resume(&linger, UINT64_MAX);
	REQUIRE(linger.is_complete && slept_us >= LONG_US - 1000 && slept_us < LONG_US * 18 / 10, slept_us);
}

/* ------------------------------------------------------------------ waits for events */

static int event_us = WAIT_US;
static void (*raise_event)(void);
static volatile bool awaited;
static void *later(void *unused) {
	while (!awaited || (sliced && !preemptions))
		usleep(100);
	usleep(event_us);
	raise_event();
	return unused;
}
#define AWAITS(name, event, ...) \
	static void event_##name(void) { \
		event; \
	} \
	static void await_##name(void *unused) { \
		(void) unused; \
		awaited = true; \
		__VA_ARGS__; \
	} \
	static void check_##name(void) { \
		pthread_t thread; \
		raise_event = event_##name; \
		prepare(); \
		REQUIRE(!pthread_create(&thread, NULL, later, NULL)); \
		inside(await_##name, NULL); \
		REQUIRE(!pthread_join(thread, NULL)); \
		REQUIRE(!sliced || preemptions, preemptions); \
	}
static sem_t semaphore;
static int semaphores, queue;
static mqd_t posix_queue;
static struct aiocb request;
static int request_pipe[2];
/* They outlive the process, however that ends: another one waits for its end. */
static void discard_at_end(void) {
	int alive[2];
	REQUIRE(!pipe(alive));
	pid_t child = fork();
	REQUIRE(child >= 0);
	if (child) {
		close(alive[0]);
		return;
	}
	close(alive[1]);
	while (read(alive[0], buffer, 1) < 0)
		;
	semctl(semaphores, 0, IPC_RMID);
	msgctl(queue, IPC_RMID, NULL);
	_exit(0);
}
static void prepare(void) {
	sem_init(&semaphore, 0, 0);
	semaphores = semget(IPC_PRIVATE, 1, 0600);
	queue = msgget(IPC_PRIVATE, 0600);
	REQUIRE(semaphores >= 0 && queue >= 0);
	discard_at_end();
}
AWAITS(sem_wait, sem_post(&semaphore), REQUIRE(!sem_wait(&semaphore), errno))
AWAITS(semop, semop(semaphores, &up, 1), int r = semop(semaphores, &down, 1); int e = errno; REQUIRE(!r, e))
AWAITS(msgrcv, msgsnd(queue, &text, sizeof text.bytes, 0), struct text t; long r = msgrcv(queue, &t, sizeof t.bytes, 0, 0); int e = errno; REQUIRE(r == 64, e))
AWAITS(msgsnd, msgrcv(queue, &text, sizeof text.bytes, 0, 0),
	while (!msgsnd(queue, &text, sizeof text.bytes, IPC_NOWAIT)); int r = msgsnd(queue, &text, sizeof text.bytes, 0); int e = errno; REQUIRE(!r, e))
static void open_queue(void) {
	struct mq_attr limits = { .mq_maxmsg = 1, .mq_msgsize = 64 };
	/* several of these programs run at the same time */
	char name[32];
	snprintf(name, sizeof name, "/inger-waits-%d", (int) getpid());
	posix_queue = mq_open(name, O_CREAT | O_EXCL | O_RDWR, 0600, &limits);
	if (posix_queue == (mqd_t) -1)
		SKIP("no POSIX message queues here");
	mq_unlink(name);
}
#define QUEUES(name, event, ...) \
	AWAITS(name, event, __VA_ARGS__) \
	static void check_queue_##name(void) { \
		open_queue(); \
		check_##name(); \
	}
static struct timespec far(void) {
	struct timespec at;
	clock_gettime(CLOCK_REALTIME, &at);
	at.tv_sec += 10;
	return at;
}
QUEUES(mq_receive, mq_send(posix_queue, "x", 1, 0), REQUIRE(mq_receive(posix_queue, buffer, 64, NULL) == 1, errno))
QUEUES(mq_timedreceive, mq_send(posix_queue, "x", 1, 0), struct timespec at = far(); REQUIRE(mq_timedreceive(posix_queue, buffer, 64, NULL, &at) == 1, errno))
QUEUES(mq_send, mq_receive(posix_queue, buffer, 64, NULL), REQUIRE(!mq_send(posix_queue, "x", 1, 0)); REQUIRE(!mq_send(posix_queue, "y", 1, 0), errno))
QUEUES(mq_timedsend, mq_receive(posix_queue, buffer, 64, NULL), struct timespec at = far(); REQUIRE(!mq_send(posix_queue, "x", 1, 0)); REQUIRE(!mq_timedsend(posix_queue, "y", 1, 0, &at), errno))
AWAITS(aio_suspend, REQUIRE(write(request_pipe[1], "x", 1) == 1), REQUIRE(!pipe(request_pipe));
	request = (struct aiocb) { .aio_fildes = request_pipe[0], .aio_buf = buffer, .aio_nbytes = 1 };
	const struct aiocb *list[] = { &request }; REQUIRE(!aio_read(&request)); REQUIRE(!aio_suspend(list, 1, NULL), errno))
static volatile int signals;
static void on_signal(int signal) {
	(void) signal;
	signals++;
}
static pthread_t waiting;
static volatile bool is_woken;
/* once is not enough: a signal that comes before pause() is not waited for */
static void wake_by_signals(void) {
	while (!is_woken) {
		pthread_kill(waiting, SIGUSR1);
		usleep(20000);
	}
}
AWAITS(pause, wake_by_signals(), int r = (pause)(); is_woken = true; REQUIRE(r == -1 && errno == EINTR && signals > 0, signals))
static void check_pause_handled(void) {
	signal(SIGUSR1, on_signal);
	waiting = pthread_self();
	event_us = 20000;
	check_pause();
}

/* A large write to a pipe is not reported in part because of a preemption. */
static int long_pipe[2];
static void write_much(void *unused) {
	(void) unused;
	static char much[4 << 20];
	ssize_t length = write(long_pipe[1], much, sizeof much);
	REQUIRE(length == sizeof much, length);
}
static void *read_much(void *unused) {
	static char part[4096];
	for (size_t length = 0; length < 4 << 20; ) {
		ssize_t count = read(long_pipe[0], part, sizeof part);
		REQUIRE(count > 0);
		length += count;
		if (length % 65536 == 0)
			usleep(100);
	}
	return unused;
}
static void check_long_write(void) {
	pthread_t thread;
	REQUIRE(!pipe(long_pipe) && !pthread_create(&thread, NULL, read_much, NULL));
	inside(write_much, NULL);
	pthread_join(thread, NULL);
}

/* From a file to a socket, likewise... */
static ssize_t (*send_file)(int, int, off_t *, size_t);
static void send_much(void *unused) {
	(void) unused;
	int file = memfd_create("much", 0);
	REQUIRE(file >= 0 && !ftruncate(file, 4 << 20));
	ssize_t length = send_file(long_pipe[1], file, NULL, 4 << 20);
	REQUIRE(length == 4 << 20, length);
}
static void check_transfer(void (*transfer)(void *), void *(*other)(void *)) {
	pthread_t thread;
	REQUIRE(!pthread_create(&thread, NULL, other, NULL));
	inside(transfer, NULL);
	pthread_join(thread, NULL);
}
static void check_sendfile(void) {
	REQUIRE(!socketpair(AF_UNIX, SOCK_STREAM, 0, long_pipe));
	send_file = sendfile;
	check_transfer(send_much, read_much);
}
static void check_sendfile64(void) {
	REQUIRE(!socketpair(AF_UNIX, SOCK_STREAM, 0, long_pipe));
	send_file = sendfile64;
	check_transfer(send_much, read_much);
}
/* ...and what is received at once. */
static void receive_much(void *unused) {
	(void) unused;
	static char much[1 << 20];
	ssize_t length = recv(long_pipe[0], much, sizeof much, MSG_WAITALL);
	REQUIRE(length == sizeof much, length);
}
static void *write_in_parts(void *unused) {
	static char part[4096];
	for (size_t length = 0; length < 1 << 20; length += sizeof part) {
		REQUIRE(write(long_pipe[1], part, sizeof part) == sizeof part);
		usleep(50);
	}
	return unused;
}
static void check_receive_all(void) {
	REQUIRE(!socketpair(AF_UNIX, SOCK_STREAM, 0, long_pipe));
	check_transfer(receive_much, write_in_parts);
}
static void receive_message(void *unused) {
	(void) unused;
	char message[100];
	ssize_t length = recv(long_pipe[0], message, sizeof message, MSG_WAITALL);
	REQUIRE(length == 7, length);
}
static void *write_late(void *unused) {
	usleep(5000);
	REQUIRE(write(long_pipe[1], "message", 7) == 7);
	return unused;
}
/* A message is whole, however short. */
static void check_receive_message(void) {
	REQUIRE(!socketpair(AF_UNIX, SOCK_DGRAM, 0, long_pipe));
	check_transfer(receive_message, write_late);
}

#define SAME(name) { #name, #name, check_##name }
const struct check checks[] = {
	SAME(nanosleep), SAME(clock_nanosleep), SAME(usleep), SAME(sleep), SAME(thrd_sleep), SAME(poll), SAME(__poll_chk), SAME(ppoll),
	SAME(__ppoll_chk), SAME(select), SAME(pselect), SAME(epoll_wait), SAME(epoll_pwait), SAME(epoll_pwait2), SAME(sem_timedwait),
	SAME(sem_clockwait), SAME(semtimedop), SAME(recv), SAME(__recv_chk), SAME(recvfrom), SAME(__recvfrom_chk), SAME(recvmsg),
	SAME(recvmmsg), SAME(read), SAME(__read_chk), SAME(readv), SAME(send), SAME(sendto), SAME(sendmsg), SAME(sendmmsg), SAME(write),
	SAME(writev), SAME(accept), SAME(accept4), SAME(connect), { "late_interruption", "connect", check_late_interruption }, SAME(sem_wait), SAME(semop), SAME(msgrcv), SAME(msgsnd),
	{ "mq_receive", "mq_receive", check_queue_mq_receive }, { "mq_timedreceive", "mq_timedreceive", check_queue_mq_timedreceive },
	{ "mq_send", "mq_send", check_queue_mq_send }, { "mq_timedsend", "mq_timedsend", check_queue_mq_timedsend },
	SAME(aio_suspend), { "pause", "pause", check_pause_handled }, { "long_write", "write", check_long_write },
	SAME(sendfile), SAME(sendfile64), { "receive_all", "recv", check_receive_all }, { "receive_message", "-", check_receive_message },
	{ NULL, NULL, NULL },
};
