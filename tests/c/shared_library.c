#define _GNU_SOURCE
#include "shared.h"

#include <errno.h>
#include <execinfo.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int shared_add(int a, int b) {
	return a + b;
}

shared_binary *const table[] = { shared_add };

shared_binary *shared_from_table(void) {
	return table[0];
}

uintptr_t shared_address_of_add(void) {
	return (uintptr_t) shared_add;
}

long shared_twenty(long a, long b, long c, long d, long e, long f, long g, long h, long i, long j,
		long k, long l, long m, long n, long o, long p, long q, long r, long s, long t) {
	return a + 2 * (b + 2 * (c + 2 * (d + 2 * (e + 2 * (f + 2 * (g + 2 * (h + 2 * (i + 2 * (j
		+ 2 * (k + 2 * (l + 2 * (m + 2 * (n + 2 * (o + 2 * (p + 2 * (q + 2 * (r + 2 * (s + 2 * t))))))))))))))))));
}

double shared_doubles(double a, double b, double c, double d, double e, double f, double g, double h, double i, double j) {
	return a - b + c - d + e - f + g - h + i / j;
}

long double shared_long_double(long double a, long double b) {
	return a / b;
}

long double _Complex shared_complex(long double _Complex a, long double b) {
	return a * b;
}

struct shared_large shared_large(long first, struct shared_large large) {
	for (int i = 0; i < 9; i++)
		large.words[i] += first + i;
	return large;
}

struct shared_pair shared_pair(struct shared_pair pair) {
	return (struct shared_pair) { pair.integer + 1, pair.number / 2 };
}

__m256d shared_m256(__m256d a, __m256d b, __m256d c, __m256d d, __m256d e, __m256d f, __m256d g, __m256d h, __m256d i) {
	__m256d sums[3] = { a + b + c, d + e + f, g + h };
	return sums[0] + sums[1] * sums[2] - i;
}

__m512d shared_m512(__m512d a, __m512d b) {
	return a - b;
}

int shared_format(char *text, unsigned long size, const char *format, ...) {
	va_list list;
	va_start(list, format);
	int length = vsnprintf(text, size, format, list);
	va_end(list);
	return length;
}

__attribute__((naked)) long shared_rax(void) {
	__asm__("ret");
}

__attribute__((naked)) long shared_r10(void) {
	__asm__("mov %r10, %rax; ret");
}

int shared_inside, shared_done;
static int count;
static __thread int local = 5;

int shared_count(void) {
	return ++count;
}

int *shared_local(void) {
	return &local;
}

static uint64_t now_us(void) {
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t) now.tv_sec * 1000000 + (uint64_t) now.tv_nsec / 1000;
}

void shared_work(uint64_t us) {
	shared_inside++;
	for (uint64_t end = now_us() + us; now_us() < end;)
		;
	shared_inside--;
	shared_done++;
}

static void work_at_end(void *us) {
	shared_work((uintptr_t) us);
}

/* In the destructor of a key's value. */
void shared_work_at_end(uint64_t us) {
	static pthread_key_t key;
	static int made;
	if (!made)
		made = !pthread_key_create(&key, work_at_end);
	pthread_setspecific(key, (void *) us);
}

int shared_fail(int error) {
	errno = error;
	return -1;
}

int shared_errno(void) {
	return errno;
}

int shared_sleep(unsigned us) {
	uint64_t begin = now_us();
	return usleep(us) || now_us() - begin < us;
}

static void *in_thread(void *unused) {
	count++;
	return unused;
}

int shared_thread(void) {
	pthread_t thread;
	int before = count;
	return pthread_create(&thread, NULL, in_thread, NULL) || pthread_join(thread, NULL) || count != before + 1;
}

int shared_process(void) {
	int status;
	pid_t child = fork();
	if (!child)
		_exit(3);
	return child < 0 || waitpid(child, &status, 0) != child || WEXITSTATUS(status) != 3;
}

/* of the kernel thread, whose number is not the TCB's */
int shared_processors(void) {
	cpu_set_t set;
	return pthread_getaffinity_np(pthread_self(), sizeof set, &set) || CPU_COUNT(&set) < 1;
}

int shared_environment(void) {
	errno = 0;
	return getenv("PATH") == NULL || errno;
}

int shared_print(FILE *stream, const char *text) {
	return fputs(text, stream) < 0 || fflush(stream);
}

long shared_call(long (*function)(void *), void *argument) {
	return function(argument) + 1;
}

void shared_jump(jmp_buf target) {
	longjmp(target, 3);
}

static jmp_buf landing;

int shared_call_and_land(void (*function)(void *), void *argument) {
	volatile int before = count;
	int value = setjmp(landing);
	if (!value)
		function(argument);
	return value + count - before;
}

void shared_land(void) {
	longjmp(landing, 4);
}

int shared_backtrace(void **addresses, int length) {
	return backtrace(addresses, length);
}
