/* The life of a handle: launch, timeout, resume, pause, cancel, and every misuse that is to be harmless. */
#include "check.h"

#include <string.h>

static void increment(void *counter) {
	++*(int *) counter;
}

static void completion(void) {
	int counter = 0;
	linger_t linger = launch(increment, 1000000, &counter);
	CHECK(linger.is_complete && !linger.is_yielded && linger.error == 0 && linger.continuation == NULL);
	CHECK(counter == 1);
	resume(&linger, 1000);
	resume(&linger, 0);
	CHECK(linger.is_complete && linger.error == 0 && counter == 1);
	cancel(&linger);
	CHECK(linger.is_complete && linger.error == 0);
}

static void timeout(void) {
	uint64_t start = now_us();
	linger_t linger = launch(spin, 20000, NULL);
	uint64_t took = now_us() - start;
	CHECK(!linger.is_complete && !linger.is_yielded && linger.error == 0 && linger.continuation);
	CHECK(took >= 20000 && took < 2000000);
	start = now_us();
	resume(&linger, 20000);
	CHECK(now_us() - start >= 20000);
	CHECK(!linger.is_complete && linger.error == 0);
	cancel(&linger);
	CHECK(linger.error == ECANCELED);
}

static void sum(void *result) {
	unsigned long total = 0;
	for (unsigned long i = 1; i <= 3000000; i++) {
		total += i;
		__asm__ volatile("" : "+r" (total));
	}
	*(unsigned long *) result = total;
}

static void resumption(void) {
	unsigned long result = 0;
	linger_t linger = launch(sum, 50, &result);
	CHECK(linger.error == 0);
	CHECK(finish(&linger, 50) >= 3);
	CHECK(result == 3000000ul * 3000001 / 2);
}

static void yield_twice(void *steps) {
	for (int i = 0; i < 2; i++) {
		++*(int *) steps;
		if (pause())
			*(int *) steps = -100;
	}
	++*(int *) steps;
}

static void yielding(void) {
	int steps = 0;
	linger_t linger = launch(yield_twice, NO_LIMIT, &steps);
	CHECK(linger.is_yielded && !linger.is_complete && steps == 1);
	resume(&linger, NO_LIMIT);
	CHECK(linger.is_yielded && !linger.is_complete && steps == 2);
	resume(&linger, NO_LIMIT);
	CHECK(!linger.is_yielded && linger.is_complete && steps == 3);
}

static void yield_then_spin(void *unused) {
	linger_pause();
	spin(unused);
}

static void yield_and_timeout_differ(void) {
	linger_t linger = launch(yield_then_spin, 10000, NULL);
	CHECK(linger.is_yielded);
	resume(&linger, 1000);
	CHECK(!linger.is_yielded && !linger.is_complete && linger.error == 0);
	cancel(&linger);
	CHECK(!linger.is_yielded);
}

static void budgets(void) {
	int counter = 0;
	linger_t linger = launch(increment, 0, &counter);
	CHECK(!linger.is_complete && !linger.is_yielded && linger.error == 0 && counter == 0);
	resume(&linger, 0);
	CHECK(!linger.is_complete && linger.error == 0 && counter == 0);
	resume(&linger, NO_LIMIT);
	CHECK(linger.is_complete && counter == 1);

	linger = launch(increment, 0, &counter);
	cancel(&linger);
	CHECK(linger.error == ECANCELED && counter == 1);

	linger = launch(increment, NO_LIMIT, &counter);
	CHECK(linger.is_complete && counter == 2);
	/* as good as none */
	linger = launch(increment, NO_LIMIT - 1, &counter);
	CHECK(linger.is_complete && counter == 3);
}

static void misuse(void) {
	linger_t linger = launch(NULL, 1000, NULL);
	CHECK(!linger.is_complete && linger.error == EINVAL && !linger.continuation);
	CHECK(strstr(linger_error(), "null"));
	resume(&linger, 1000);
	CHECK(linger.error == EINVAL);
	cancel(&linger);
	CHECK(!linger.is_complete);

	resume(NULL, 1000);
	cancel(NULL);

	linger_t nothing = { 0 };
	resume(&nothing, 1000);
	CHECK(nothing.error == EINVAL && !nothing.is_complete);
	linger_t nothing_again = { 0 };
	cancel(&nothing_again);
	CHECK(nothing_again.error == 0);

	linger = launch(spin, 100, NULL);
	linger_t copy = linger;
	cancel(&linger);
	resume(&linger, 1000);
	CHECK(linger.error == ECANCELED && !linger.is_complete);
	cancel(&linger);
	CHECK(linger.error == ECANCELED);
	/* not allowed, and found out, also when the next function uses all that this one had */
	linger = launch(spin, 100, NULL);
	resume(&copy, 1000);
	CHECK(copy.error == ECANCELED && *linger_error() && !copy.continuation);
	cancel(&copy);
	CHECK(copy.error == ECANCELED);
	CHECK(!linger.error && linger.continuation);
	cancel(&linger);
}

static linger_t self;

static void use_own_handle(void *done) {
	pause();
	resume(&self, 1000);
	*(int *) done = self.error == EINVAL;
	cancel(&self);
	*(int *) done += self.error == EINVAL && self.continuation;
}

static void own_handle(void) {
	int done = 0;
	self = launch(use_own_handle, NO_LIMIT, &done);
	CHECK(self.is_yielded);
	resume(&self, NO_LIMIT);
	CHECK(self.is_complete && done == 2);
}

static void draw(void *value) {
	*(int *) value = rand();
}

static void spoil(void *unused) {
	char text[] = "a b";
	strtok(text, " ");
	srand(12345);
	rand();
	errno = ERANGE;
	spin(unused);
}

static void cancellation(void) {
	int clean = -1, after = -1;
	CHECK(launch(draw, NO_LIMIT, &clean).is_complete);
	for (int i = 0; i < 50; i++) {
		linger_t linger = launch(spoil, 500, NULL);
		CHECK(!linger.is_complete && linger.error == 0);
		cancel(&linger);
		CHECK(!linger.is_complete && linger.error == ECANCELED && !linger.continuation);
		CHECK(launch(draw, NO_LIMIT, &after).is_complete);
	}
	CHECK(after == clean);
}

static void section(void *left) {
	linger_defer();
	linger_defer();
	spin_us(5000);
	linger_undefer();
	spin_us(5000);
	*(volatile int *) left = 1;
	linger_undefer();
	*(volatile int *) left = 2;
	spin(NULL);
}

static void deferral(void) {
	int left = 0;
	linger_defer();
	linger_undefer();
	linger_t linger = launch(section, 500, &left);
	CHECK(!linger.is_complete && left == 1);
	resume(&linger, 500);
	CHECK(left == 2);
	cancel(&linger);
}

/* Preserves what a function call preserves. */
static void registers(void) {
	errno = 4711;
	linger_t linger = launch(spin, 300, NULL);
	CHECK(errno == 4711);
	resume(&linger, 300);
	CHECK(errno == 4711);
	cancel(&linger);
	CHECK(errno == 4711);
}

static void statistics(void) {
	linger_stats_t before, after, more[2], less;
	linger_stats(&before, sizeof before);
	CHECK(before.launches > 0 && before.preemptions > 0 && before.libsets_made > 0);
	linger_t linger = launch(spin, 1000, NULL);
	cancel(&linger);
	linger_stats(&after, sizeof after);
	CHECK(after.launches == before.launches + 1 && after.preemptions == before.preemptions + 1);
	CHECK(after.cancellations == before.cancellations + 1 && after.libsets_in_use == before.libsets_in_use);
	/* of a program that knows more, or less */
	memset(more, 1, sizeof more);
	linger_stats(more, sizeof more);
	CHECK(more[0].launches == after.launches && !more[1].launches && !more[1].overshoot[23]);
	less.completions = 12345;
	linger_stats(&less, sizeof less.launches);
	CHECK(less.launches == after.launches && less.completions == 12345);
}

int main(void) {
	CHECK(*linger_error() == '\0');
	completion();
	timeout();
	resumption();
	yielding();
	yield_and_timeout_differ();
	budgets();
	misuse();
	own_handle();
	cancellation();
	deferral();
	registers();
	CHECK(linger_concurrency_limit() >= 11);
	statistics();
	return 0;
}
