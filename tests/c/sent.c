/* SIGALRM that other threads send to a thread which launches functions, and to none else: ordinary signals do not queue,
 * and expiries of the library's are pending there all the time. None is lost, none comes twice, and each says who sent it. */
#include "check.h"

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

enum { SLICE_US = 60, SENDS = 1500, LONGEST_WAIT_S = 20 };

static pthread_t target;
static pid_t target_tid;
static volatile sig_atomic_t received, all_sent;
static volatile int expected_value;
static sem_t arrived;

static void check_code(int code) {
	CHECK(code == SI_TKILL || code == SI_QUEUE || code == SI_USER);
}

static void check_info(const siginfo_t *info) {
	check_code(info->si_code);
	CHECK(info->si_signo == SIGALRM && info->si_pid == getpid() && info->si_uid == getuid());
	CHECK(info->si_code != SI_QUEUE || info->si_value.sival_int == expected_value);
}

static void receive(int number, siginfo_t *info, void *context) {
	(void) number;
	(void) context;
	check_info(info);
	received++;
	CHECK(!sem_post(&arrived));
}

static void handle(void) {
	struct sigaction action;
	memset(&action, 0, sizeof action);
	action.sa_sigaction = receive;
	action.sa_flags = SA_SIGINFO;
	CHECK(!sigaction(SIGALRM, &action, NULL));
}

static sigset_t alarms(void) {
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	return set;
}

static void block_alarms(int how) {
	sigset_t set = alarms();
	CHECK(!pthread_sigmask(how, &set, NULL));
}

static void become_target(void) {
	target = pthread_self();
	target_tid = gettid();
	received = all_sent = 0;
	CHECK(!sem_init(&arrived, 0, 0));
}

static void send_one(int way) {
	expected_value = way;
	switch (way % 4) {
	case 0:
		CHECK(!pthread_kill(target, SIGALRM));
		break;
	case 1:
		CHECK(!tgkill(getpid(), target_tid, SIGALRM));
		break;
	case 2:
		CHECK(!kill(getpid(), SIGALRM));
		break;
	default:
		CHECK(!pthread_sigqueue(target, SIGALRM, (union sigval) { .sival_int = way }));
	}
}

static int sends = SENDS;
static bool at_once;

/* Each waits for the one before, and comes while that one's handler is running, or at any time later. */
static void *send_all(void *unused) {
	for (int i = 0; i < sends; i++) {
		int before = received;
		send_one(i);
		struct timespec limit;
		clock_gettime(CLOCK_REALTIME, &limit);
		limit.tv_sec += LONGEST_WAIT_S;
		CHECK(!sem_timedwait(&arrived, &limit) && received == before + 1);
		for (volatile int left = at_once ? 0 : i * 377 % 50000; left > 0; left--)
			;
	}
	all_sent = 1;
	return unused;
}

/* In a thread that blocks SIGALRM: what is sent to the process is the target's. */
static pthread_t start(void *(*body)(void *)) {
	pthread_t thread;
	sigset_t set = alarms(), old;
	CHECK(!pthread_sigmask(SIG_BLOCK, &set, &old));
	CHECK(!pthread_create(&thread, NULL, body, NULL));
	CHECK(!pthread_sigmask(SIG_SETMASK, &old, NULL));
	return thread;
}

static void end(pthread_t thread) {
	CHECK(!pthread_join(thread, NULL));
}

/* ------------------------------------------------------------------ to a handler */

static void await_all(void *unused) {
	(void) unused;
	unsigned long sum = 0, rounds = 0;
	while (!all_sent) {
		void *block = malloc(1 + rounds++ % 500);
		sum += block != NULL;
		free(block);
	}
	CHECK(sum == rounds);
}

static void to_a_handler(void) {
	handle();
	become_target();
	pthread_t sender = start(send_all);
	linger_t linger = launch(await_all, SLICE_US, NULL);
	unsigned long preemptions = finish(&linger, SLICE_US);
	CHECK(at_once || preemptions > 100);
	end(sender);
	CHECK(received == sends);
}

/* Handlers' frames do not pile up on the function's stack. */
static void at_once_to_a_handler(void) {
	at_once = true;
	sends = 10 * SENDS;
	to_a_handler();
	sends = SENDS;
	at_once = false;
}

/* ------------------------------------------------------------------ to who waits */

static void wait_for_all(void *unused) {
	(void) unused;
	sigset_t set = alarms();
	block_alarms(SIG_BLOCK);
	while (received < SENDS) {
		siginfo_t info;
		struct timespec moment = { 0, received % 2 * 20000 };
		if (sigtimedwait(&set, &info, &moment) == SIGALRM) {
			check_info(&info);
			received++;
			CHECK(!sem_post(&arrived));
		} else {
			CHECK(errno == EAGAIN);
		}
	}
}

static void compute(void *unused) {
	(void) unused;
	for (volatile int left = 30000; left > 0; left--)
		;
}

/* Between launches, of which expiries may be left. */
static void read_all(void) {
	sigset_t set = alarms();
	int descriptor = signalfd(-1, &set, SFD_CLOEXEC);
	CHECK(descriptor >= 0);
	for (int reads = 0; reads < SENDS; reads++) {
		struct signalfd_siginfo info;
		CHECK(read(descriptor, &info, sizeof info) == sizeof info && info.ssi_signo == SIGALRM);
		check_code(info.ssi_code);
		CHECK((pid_t) info.ssi_pid == getpid());
		received++;
		CHECK(!sem_post(&arrived));
		if (reads % 16 == 0) {
			linger_t linger = launch(compute, 20, NULL);
			finish(&linger, 20);
		}
	}
	close(descriptor);
}

static void to_who_waits(void) {
	become_target();
	pthread_t sender = start(send_all);
	linger_t linger = launch(wait_for_all, SLICE_US, NULL);
	finish(&linger, SLICE_US);
	end(sender);

	become_target();
	block_alarms(SIG_BLOCK);
	sender = start(send_all);
	wait_for_all(NULL);
	end(sender);

	become_target();
	sender = start(send_all);
	read_all();
	end(sender);
	CHECK(received == SENDS);
	handle();
	block_alarms(SIG_UNBLOCK);
	CHECK(received == SENDS);
}

/* ------------------------------------------------------------------ to a function that has it blocked */

static volatile sig_atomic_t is_blocked, is_sent;

static void *send_when_blocked(void *unused) {
	for (int i = 0; i < 300; i++) {
		while (!is_blocked)
			;
		is_blocked = 0;
		send_one(0);
		is_sent = 1;
	}
	return unused;
}

static void open_when_sent(void *unused) {
	(void) unused;
	for (int i = 0; i < 300; i++) {
		block_alarms(SIG_BLOCK);
		int before = received;
		is_sent = 0;
		is_blocked = 1;
		while (!is_sent)
			;
		CHECK(received == before);
		block_alarms(SIG_UNBLOCK);
		/* held by the library or pending in the kernel, it comes now */
		CHECK(received == before + 1);
	}
}

static void to_a_closed_mask(void) {
	handle();
	become_target();
	pthread_t sender = start(send_when_blocked);
	/* unsliced: were it stopped, its launcher would get the signal */
	linger_t linger = launch(open_when_sent, NO_LIMIT, NULL);
	CHECK(linger.is_complete);
	end(sender);
	become_target();
	sender = start(send_when_blocked);
	open_when_sent(NULL);
	end(sender);
}

/* ------------------------------------------------------------------ without a handler */

static void *send_once(void *unused) {
	static unsigned seed;
	usleep(200 + rand_r(&seed) % 300);
	send_one(0);
	return unused;
}

static void spin_sliced(void) {
	linger_t linger = launch(spin, SLICE_US, NULL);
	for (uint64_t end = now_us() + LONGEST_WAIT_S * 1000000; now_us() < end;) {
		CHECK(!linger.is_complete && linger.error == 0);
		resume(&linger, SLICE_US);
	}
}

static void to_the_default_action(void) {
	for (int i = 0; i < 100; i++) {
		pid_t child = fork();
		CHECK(child >= 0);
		if (!child) {
			signal(SIGALRM, SIG_DFL);
			become_target();
			start(send_once);
			spin_sliced();
			_exit(1);
		}
		int status;
		CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM);
	}
}

static void *send_many(void *unused) {
	for (int i = 0; i < SENDS; i++)
		send_one(0);
	all_sent = 1;
	return unused;
}

static void to_nobody(void) {
	signal(SIGALRM, SIG_IGN);
	become_target();
	pthread_t sender = start(send_many);
	linger_t linger = launch(await_all, SLICE_US, NULL);
	finish(&linger, SLICE_US);
	end(sender);
	handle();
	compute(NULL);
	CHECK(received == 0);
}

/* ------------------------------------------------------------------ to threads that come and go */

static volatile sig_atomic_t is_ready;

static void await_signal(void *unused) {
	(void) unused;
	while (!received)
		;
}

/* Sent around its first launch. */
static void *launch_and_end(void *unused) {
	become_target();
	block_alarms(SIG_UNBLOCK);
	is_ready = 1;
	linger_t linger = launch(await_signal, SLICE_US, NULL);
	finish(&linger, SLICE_US);
	return unused;
}

static void to_short_lived_threads(void) {
	handle();
	for (int i = 0; i < 300; i++) {
		is_ready = 0;
		pthread_t thread = start(launch_and_end);
		while (!is_ready)
			;
		for (volatile int left = i * 37 % 8000; left > 0; left--)
			;
		send_one(0);
		end(thread);
		CHECK(received == 1);
	}
}

/* To itself: it has come when the call returns, whatever the timer does. */
static void send_to_self(void *unused) {
	(void) unused;
	for (int i = 0; i < SENDS; i++) {
		int before = received;
		if (i % 4 == 2)
			CHECK(!raise(SIGALRM));
		else
			send_one(i);
		CHECK(received == before + 1);
	}
}

static void to_itself(void) {
	handle();
	become_target();
	linger_t linger = launch(send_to_self, NO_LIMIT, NULL);
	CHECK(linger.is_complete);
	target = pthread_self();
	send_to_self(NULL);
	/* in slices, where a function has the name that its thread has outside */
	received = 0;
	linger = launch(send_to_self, SLICE_US, NULL);
	finish(&linger, SLICE_US);
	CHECK(received == SENDS);
}

int main(void) {
	to_a_handler();
	at_once_to_a_handler();
	to_who_waits();
	to_a_closed_mask();
	to_the_default_action();
	to_nobody();
	to_short_lived_threads();
	to_itself();
	return 0;
}
