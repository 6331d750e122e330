/* Functions that launch functions. */
#include "check.h"

#include <string.h>

static void increment(void *counter) {
	++*(int *) counter;
}

static void launches(void *counter) {
	for (int i = 0; i < 3; i++) {
		linger_t inner = launch(increment, NO_LIMIT, counter);
		CHECK(inner.is_complete);
	}
}

static void times_out_inner(void *result) {
	linger_t inner = launch(spin, 1000, NULL);
	CHECK(!inner.is_complete && !inner.is_yielded && inner.error == 0);
	resume(&inner, 1000);
	CHECK(!inner.is_complete && inner.error == 0);
	cancel(&inner);
	CHECK(inner.error == ECANCELED);
	*(int *) result = 1;
}

/* The outer deadline passes while the inner function runs: the chain stops, and goes on, as one. */
static void inner_counts(void *counter) {
	for (int i = 0; i < 40; i++) {
		spin_us(100);
		++*(int *) counter;
	}
}

static void outer_of_count(void *counter) {
	linger_t inner = launch(inner_counts, NO_LIMIT, counter);
	CHECK(inner.is_complete);
	*(int *) counter += 100;
}

static void inner_yields(void *counter) {
	++*(int *) counter;
	pause();
	++*(int *) counter;
}

static void outer_of_yield(void *counter) {
	linger_t inner = launch(inner_yields, NO_LIMIT, counter);
	CHECK(inner.is_yielded && *(int *) counter == 1);
	pause();
	CHECK(*(int *) counter == 1);
	resume(&inner, NO_LIMIT);
	CHECK(inner.is_complete && *(int *) counter == 2);
}

static void outer_of_spin(void *unused) {
	(void) unused;
	char text[] = "outer text";
	strtok(text, " ");
	linger_t inner = launch(spin, NO_LIMIT, NULL);
	CHECK(inner.is_complete);
}

static void deep(void *depth) {
	if (--*(int *) depth) {
		linger_t inner = launch(deep, NO_LIMIT, depth);
		CHECK(inner.is_complete);
	} else {
		spin_us(3000);
	}
}

/* Stops two others, and puts the handle of one elsewhere. */
static linger_t escaped;
static void keeps_others(void *unused) {
	linger_t kept = launch(spin, 200, unused);
	CHECK(!kept.error);
	escaped = launch(spin, 0, unused);
	pause();
}

int main(void) {
	int counter = 0;
	CHECK(launch(launches, NO_LIMIT, &counter).is_complete && counter == 3);

	int result = 0;
	CHECK(launch(times_out_inner, NO_LIMIT, &result).is_complete && result == 1);

	counter = 0;
	linger_t linger = launch(outer_of_count, 300, &counter);
	CHECK(!linger.is_complete && finish(&linger, 300) >= 5 && counter == 140);

	counter = 0;
	linger = launch(outer_of_yield, NO_LIMIT, &counter);
	CHECK(linger.is_yielded && counter == 1);
	resume(&linger, NO_LIMIT);
	CHECK(linger.is_complete && counter == 2);

	/* cancelling the outer one ends the inner one: nothing is used up */
	for (int i = 0; i < 60; i++) {
		linger = launch(outer_of_spin, 300, NULL);
		CHECK(!linger.is_complete && linger.error == 0);
		cancel(&linger);
		CHECK(linger.error == ECANCELED);
	}

	/* so does it end those that it has stopped; their handles know */
	for (int i = 0; i < 30; i++) {
		linger = launch(keeps_others, NO_LIMIT, NULL);
		CHECK(linger.is_yielded);
		cancel(&linger);
		linger_t others[] = { launch(spin, 200, NULL), launch(spin, 200, NULL), launch(spin, 200, NULL) };
		linger_t copy = escaped;
		resume(&escaped, NO_LIMIT);
		CHECK(escaped.error == ECANCELED && !escaped.is_complete && !escaped.continuation && *linger_error());
		cancel(&copy);
		CHECK(copy.error == ECANCELED);
		for (int j = 0; j < 3; j++) {
			CHECK(!others[j].error);
			cancel(&others[j]);
		}
	}

	for (int i = 0; i < 5; i++) {
		int depth = 6;
		linger = launch(deep, 200, &depth);
		CHECK(!linger.is_complete);
		finish(&linger, 200);
		CHECK(depth == 0);
	}
	return 0;
}
