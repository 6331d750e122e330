/* Calls of a library named in LIBGOTCHA_SHARED, from inside functions. */
#include "check.h"
#include "shared.h"

#include <complex.h>
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

/* ------------------------------------------------------------------ parameters and results */

__attribute__((target("avx"))) static void check_avx(void) {
	__m256d one = { 1, 2, 3, 4 }, two = { 10, 20, 30, 40 };
	__m256d result = shared_m256(one, two, one, one, one, one, two, one, two), expected = (one + two + one) + (one + one + one) * (two + one) - two;
	CHECK(!memcmp(&result, &expected, sizeof result));
}

__attribute__((target("avx512f"))) static void check_avx512(void) {
	__m512d one = { 1, 2, 3, 4, 5, 6, 7, 8 }, two = { 10, 20, 30, 40, 50, 60, 70, 80 };
	__m512d result = shared_m512(two, one), expected = two - one;
	CHECK(!memcmp(&result, &expected, sizeof result));
}

static long call_with(long (*function)(void), long rax, long r10) {
	register long chain __asm__("r10") = r10;
	__asm__ volatile("sub $128, %%rsp; call *%[function]; add $128, %%rsp" : "+a" (rax), "+r" (chain) : [function] "r" (function)
		: "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r11", "memory", "cc");
	return rax;
}

static void values(void) {
	CHECK(shared_add(3, 4) == 7);
	CHECK(shared_twenty(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1) == (1 << 20) - 1);
	CHECK(shared_doubles(1, 2, 3, 4, 5, 6, 7, 8, 9, 10) == -4 + 9.0 / 10);
	CHECK(shared_long_double(1, 3) == 1 / 3.0L);
	long double complex product = shared_complex(3 + 4 * I, 1.5L);
	CHECK(creall(product) == 4.5L && cimagl(product) == 6);
	struct shared_large large = { { 9, 8, 7, 6, 5, 4, 3, 2, 1 } };
	large = shared_large(100, large);
	for (int i = 0; i < 9; i++)
		CHECK(large.words[i] == 109);
	struct shared_pair pair = shared_pair((struct shared_pair) { 41, 5 });
	CHECK(pair.integer == 42 && pair.number == 2.5);
	if (__builtin_cpu_supports("avx"))
		check_avx();
	if (__builtin_cpu_supports("avx512f"))
		check_avx512();
	char text[100];
	CHECK(shared_format(text, sizeof text, "%d %s %.2f %ld %.1f %Lg", 1, "two", 3.25, 4l, 5.5, 6.5L) == 20);
	CHECK(!strcmp(text, "1 two 3.25 4 5.5 6.5"));
	CHECK(call_with(shared_rax, 0x123456789a, 0) == 0x123456789a);
	/* ld.so's lazy binding, outside, uses it */
	shared_r10();
	CHECK(call_with(shared_r10, 0, 0x123456789b) == 0x123456789b);
}

/* ------------------------------------------------------------------ state */

static void state(void) {
	int before = shared_count();
	CHECK(shared_count() == before + 1);
	errno = 1;
	CHECK(shared_errno() == 1 && shared_fail(EDOM) == -1 && errno == EDOM && shared_errno() == EDOM);
	/* everybody's address of a function leads the same way */
	CHECK(shared_address_of_add() == (uintptr_t) shared_add && shared_from_table() == shared_add);
	CHECK((uintptr_t) dlsym(RTLD_DEFAULT, "shared_add") == (uintptr_t) shared_add);
	CHECK(shared_from_table()(1, 2) == 3);
	/* a library that is not shared calls it too */
	before = shared_count();
	caller_count();
	CHECK(shared_count() == before + 2);
	int others = caller_state();
	caller_count();
	CHECK(caller_state() == others + 1);
}

static void policy(void) {
	CHECK(!shared_sleep(200));
	CHECK(!shared_thread());
	CHECK(!shared_process());
	CHECK(!shared_processors());
	errno = 2;
	CHECK(!shared_environment());
	FILE *own = tmpfile();
	char line[20] = "";
	CHECK(own && !shared_print(own, "text\n") && !fseek(own, 0, SEEK_SET) && fgets(line, sizeof line, own) && !fclose(own));
	CHECK(!strcmp(line, "text\n"));
}

/* ------------------------------------------------------------------ callbacks and ways out */

static long descend(void *depth) {
	long rest = (long) depth;
	return rest ? shared_call(descend, (void *) (rest - 1)) : shared_add(0, 0);
}

static long jump_out(void *target) {
	shared_jump(*(jmp_buf *) target);
	return 0;
}

/* leaves three calls, the outermost from below this function's frame */
static long jump_out_of_three(void *target) {
	return shared_call(jump_out, target);
}

static long land(void *unused) {
	(void) unused;
	shared_land();
	return 0;
}

static void land_from_inner_call(void *unused) {
	(void) unused;
	shared_count();
	shared_call(land, NULL);
}

static long jump_within(void *unused) {
	(void) unused;
	CHECK(shared_call_and_land(land_from_inner_call, NULL) == 4 + 1);
	return 10;
}

static void ways_out(void) {
	CHECK(descend((void *) 100) == 100);
	jmp_buf here;
	volatile int jumps = 0;
	int value = setjmp(here);
	if (jumps++ < 3)
		shared_call(jump_out_of_three, &here);
	CHECK(jumps == 4 && value == 3);
	value = setjmp(here);
	if (jumps++ < 7)
		shared_jump(here);
	CHECK(jumps == 8 && value == 3);
	CHECK(shared_call(jump_within, NULL) == 11);
}

static sigjmp_buf fault;

static void on_fault(int signal) {
	(void) signal;
	siglongjmp(fault, 5);
}

static long fail(void *unused) {
	*(volatile int *) unused = 1;
	return 0;
}

/* out of a handler that interrupts a callback */
static void faults(void) {
	struct sigaction action = { .sa_handler = on_fault }, before;
	CHECK(!sigaction(SIGSEGV, &action, &before));
	for (volatile int i = 0; i < 3; i++)
		if (!sigsetjmp(fault, 1)) {
			shared_call(fail, NULL);
			CHECK(false);
		}
	CHECK(!sigaction(SIGSEGV, &before, NULL));
	CHECK(shared_add(1, 1) == 2);
}

__attribute__((noinline)) static void backtraces(void) {
	void *addresses[50];
	int length = shared_backtrace(addresses, 50);
	bool found = false;
	for (int i = 0; i < length; i++)
		found |= (uintptr_t) addresses[i] - (uintptr_t) backtraces < 200;
	CHECK(found && length > 4);
}

/* ------------------------------------------------------------------ preemption */

static volatile int after;

static void work_inside(void *unused) {
	(void) unused;
	for (; after < 3; after++)
		shared_work(3000);
}

static long work_in_callback(void *unused) {
	(void) unused;
	shared_inside++;
	spin_us(3000);
	shared_inside--;
	shared_done++;
	return 0;
}

static void callback_inside(void *unused) {
	(void) unused;
	for (; after < 3; after++)
		shared_call(work_in_callback, NULL);
}

/* Never inside, and each time at once afterwards. */
static void preempted_after(void (*function)(void *)) {
	int at_once = 0;
	shared_done = after = 0;
	linger_t linger = launch(function, 300, NULL);
	for (; !linger.is_complete; resume(&linger, 300)) {
		CHECK(!linger.error && !shared_inside);
		at_once += shared_done == at_once + 1 && after == at_once;
	}
	CHECK(shared_done == 3 && after == 3 && at_once == 3);
}

static void work_at_end(void *unused) {
	(void) unused;
	shared_work_at_end(3000);
}

/* Nor in the library's destructors, which are called directly. */
static void not_preempted_at_end(void) {
	shared_done = 0;
	linger_t linger = launch(work_at_end, 300, NULL);
	for (; !linger.is_complete; resume(&linger, 300))
		CHECK(!linger.error && !shared_inside);
	CHECK(shared_done == 1);
}

/* Whatever way calls were left, nothing puts preemption off any more. */
static void ways_out_then_spin(void *unused) {
	ways_out();
	faults();
	spin(unused);
}

static void preempted_after_ways_out(void) {
	linger_t linger = launch(ways_out_then_spin, 1000, NULL);
	for (int i = 0; i < 10; i++) {
		CHECK(!linger.is_complete && !linger.is_yielded && !linger.error);
		resume(&linger, 1000);
	}
	cancel(&linger);
}

static void pause_in_callback_then(void *unused) {
	(void) unused;
	pause();
}

static long paused(void *unused) {
	pause_in_callback_then(unused);
	return 1;
}

static void calls_and_pauses(void *unused) {
	(void) unused;
	shared_call(paused, NULL);
	spin(NULL);
}

/* What a cancelled function has not returned from does not burden the next. */
static void cancelled_inside(void) {
	for (int i = 0; i < 20; i++) {
		linger_t linger = launch(calls_and_pauses, NO_LIMIT, NULL);
		CHECK(!linger.is_complete && linger.is_yielded);
		if (i % 2) {
			resume(&linger, 1000);
			CHECK(!linger.is_complete && !linger.is_yielded);
		}
		cancel(&linger);
	}
}

static void everything(void *rounds) {
	for (int i = 0; i < *(int *) rounds; i++) {
		values();
		state();
		ways_out();
		faults();
		backtraces();
		if (i % 10 == 0)
			policy();
	}
	CHECK(*shared_local() == 5 || *shared_local() == 6);
	*shared_local() = 6;
}

/* ------------------------------------------------------------------ in threads, and too deep */

static void *in_thread(void *depth) {
	values();
	return (void *) descend(depth);
}

static void threads_inside(void *depth) {
	pthread_attr_t attributes;
	pthread_t thread;
	void *result;
	CHECK(!pthread_attr_init(&attributes) && !pthread_attr_setstacksize(&attributes, 64 << 20));
	for (int i = 0; i < 10; i++) {
		CHECK(!pthread_create(&thread, &attributes, in_thread, depth) && !pthread_join(thread, &result));
		CHECK(result == depth);
	}
}

int main(void) {
	int rounds = 20;
	everything(&rounds);
	int before = shared_count(), others = caller_state();
	*shared_local() = 7;
	linger_t linger = launch(everything, NO_LIMIT, &rounds);
	CHECK(linger.is_complete);
	CHECK(shared_count() > before + 20 && *shared_local() == 7 && caller_state() == others);
	rounds = 1000;
	linger = launch(everything, 20, &rounds);
	unsigned long preemptions = finish(&linger, 20);
	CHECK(preemptions > 100);
	preempted_after(work_inside);
	preempted_after(callback_inside);
	not_preempted_at_end();
	preempted_after_ways_out();
	cancelled_inside();
	linger = launch(threads_inside, NO_LIMIT, (void *) 60000l);
	CHECK(linger.is_complete);
	printf("%lu preemptions\n", preemptions);
	return 0;
}
