/* For valgrind's memcheck: functions that are preempted, resumed, cancelled, and that allocate. argv[1] is the error
 * that one of them makes: none, uninitialised, heap, text, freed. */
#include "../c/check.h"

#include <string.h>

static int by_value(const void *one, const void *other) {
	int a = *(const int *) one, b = *(const int *) other;
	return (a > b) - (a < b);
}

/* In the library, on the heap and on the stack. */
static unsigned long library_work(unsigned seed) {
	unsigned long sum = 0;
	for (int round = 0; round < 50; round++) {
		int length = 50 + rand_r(&seed) % 50;
		int *values = malloc(length * sizeof *values);
		char *text = calloc(1, 16), words[] = "some words of text";
		CHECK(values && text);
		for (int i = 0; i < length; i++)
			values[i] = rand_r(&seed) % 1000;
		qsort(values, length, sizeof *values, by_value);
		for (int i = 0; i < length; i++) {
			char number[16];
			size_t used = strlen(text);
			snprintf(number, sizeof number, "%d,", values[i]);
			text = realloc(text, used + strlen(number) + 1);
			CHECK(text);
			strcpy(text + used, number);
		}
		for (char *word = strtok(words, " "); word; word = strtok(NULL, " "))
			sum += strlen(word);
		FILE *stream = tmpfile();
		CHECK(stream && fprintf(stream, "%.3f\n", values[0] / 7.0) > 0 && !fclose(stream));
		sum = sum * 31 + strlen(text);
		free(text);
		free(values);
	}
	return sum;
}

static void work(void *sum) {
	*(unsigned long *) sum = library_work(*(unsigned long *) sum);
}

static void work_for_ever(void *unused) {
	(void) unused;
	for (unsigned seed = 1;; seed++)
		library_work(seed);
}

static void yield(void *unused) {
	(void) unused;
	char words[] = "first second";
	CHECK(!strcmp(strtok(words, " "), "first"));
	pause();
	CHECK(!strcmp(strtok(NULL, " "), "second"));
}

/* The compiler would see these errors. */
__attribute__((noinline)) static void make_error(const char *which) {
	volatile int *volatile values = malloc(4 * sizeof *values);
	static volatile int sink;
	static volatile size_t length;
	CHECK(values);
	if (!strcmp(which, "heap"))
		sink = values[4];
	else if (!strcmp(which, "uninitialised") && values[0] > 3)
		dprintf(STDERR_FILENO, "more than three\n");
	else if (!strcmp(which, "text"))
		length += strlen(memset((void *) values, 'a', 4 * sizeof *values));
	free((void *) values);
	if (!strcmp(which, "freed"))
		sink = values[0];
	(void) sink, (void) length;
}

/* After an interruption: what memcheck knows of the stack and of the registers has to outlive it. */
static void err(void *which) {
	pause();
	library_work(2);
	make_error(which);
}

int main(int arguments, char *argv[]) {
	CHECK(arguments == 2);
	unsigned long preemptions = 0;
	for (unsigned long seed = 0; seed < 3; seed++) {
		unsigned long expected = library_work(seed), sum = seed;
		linger_t linger = launch(work, 500, &sum), yielded = launch(yield, NO_LIMIT, NULL);
		CHECK(yielded.is_yielded);
		preemptions += finish(&linger, 500);
		CHECK(sum == expected);
		finish(&yielded, NO_LIMIT);
		linger_t endless = launch(work_for_ever, 5000, NULL);
		CHECK(!endless.error && !endless.is_complete);
		resume(&endless, 3000);
		cancel(&endless);
		/* never run, and stopped at its own wish */
		linger = launch(work, 0, &sum);
		cancel(&linger);
		linger = launch(yield, NO_LIMIT, NULL);
		cancel(&linger);
	}
	CHECK(preemptions > 0);
	linger_t linger = launch(err, NO_LIMIT, argv[1]);
	finish(&linger, 2000);
	printf("%lu preemptions\n", preemptions);
	return 0;
}
