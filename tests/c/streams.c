/* Standard I/O inside functions. The lines on standard output are counted and compared by the test
 * that runs this; argv[1] is a folder for files. */
#include "check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

enum { FUNCTIONS = 3, LINES = 10000 };

static void print_lines(void *name) {
	for (int i = 0; i < LINES; i++) {
		switch (i % 5) {
		case 0: printf("%s %d %s\n", (char *) name, i, "abcdefghijklmnopqrstuvwxyz"); break;
		case 1: fprintf(stdout, "%s %d abcdefghijklmnopqrstuvwxyz\n", (char *) name, i); break;
		case 2: {
			char line[100];
			snprintf(line, sizeof line, "%s %d abcdefghijklmnopqrstuvwxyz", (char *) name, i);
			puts(line);
			break;
		}
		case 3: {
			char line[100];
			snprintf(line, sizeof line, "%s %d abcdefghijklmnopqrstuvwxyz\n", (char *) name, i);
			fputs(line, stdout);
			break;
		}
		case 4: {
			char line[100];
			int length = snprintf(line, sizeof line, "%s %d abcdefghijklmnopqrstuvwxyz\n", (char *) name, i);
			fwrite(line, 1, (size_t) length, stdout);
			break;
		}
		}
	}
}

static void interleaved(void) {
	char names[FUNCTIONS][2] = { "a", "b", "c" };
	linger_t lingers[FUNCTIONS];
	unsigned long preemptions = 0;
	int line = 0;
	for (int i = 0; i < FUNCTIONS; i++)
		lingers[i] = launch(print_lines, 20, names[i]);
	for (int unfinished = 1; unfinished;) {
		unfinished = 0;
		for (int i = 0; i < FUNCTIONS; i++) {
			if (line < LINES)
				printf("main %d abcdefghijklmnopqrstuvwxyz\n", line++);
			resume(&lingers[i], 20);
			CHECK(lingers[i].error == 0);
			unfinished |= !lingers[i].is_complete;
			preemptions += !lingers[i].is_complete;
		}
	}
	while (line < LINES)
		printf("main %d abcdefghijklmnopqrstuvwxyz\n", line++);
	CHECK(preemptions > 30);
}

static void leave_open(void *path) {
	FILE *file = fopen((char *) path, "w");
	CHECK(file);
	fprintf(file, "left open by a function that returned\n");
}

static void open_and_pause(void *path) {
	FILE *file = fopen((char *) path, "w");
	CHECK(file);
	fprintf(file, "left open by a function that is paused\n");
	pause();
}

static void read_all(const char *path, char *text, size_t room) {
	FILE *file = fopen(path, "r");
	CHECK(file);
	text[fread(text, 1, room - 1, file)] = '\0';
	fclose(file);
}

static FILE *shared;

static void write_shared(void *unused) {
	(void) unused;
	for (int i = 0; i < 2000; i++)
		CHECK(fprintf(shared, "inside %d\n", i) > 0);
}

/* A stream that the launcher has opened, and uses meanwhile. */
static void launchers_stream(const char *path) {
	shared = fopen(path, "w+");
	CHECK(shared);
	linger_t linger = launch(write_shared, 20, NULL);
	int outside = 0;
	while (!linger.is_complete) {
		CHECK(fprintf(shared, "outside %d\n", outside++) > 0);
		resume(&linger, 20);
		CHECK(linger.error == 0);
	}
	CHECK(outside > 1);
	rewind(shared);
	char line[100];
	int seen_inside = 0, seen_outside = 0, number;
	while (fgets(line, sizeof line, shared)) {
		if (sscanf(line, "inside %d\n", &number) == 1)
			CHECK(number == seen_inside++);
		else
			CHECK(sscanf(line, "outside %d\n", &number) == 1 && number == seen_outside++);
	}
	CHECK(seen_inside == 2000 && seen_outside == outside);
	CHECK(!fclose(shared));
}

static FILE *from_inside;

static void open_for_launcher(void *path) {
	from_inside = fopen((char *) path, "w+");
	CHECK(from_inside && fputs("inside\n", from_inside) >= 0);
}

/* And the other way round, as long as the function that opened it was not cancelled. */
static void functions_stream(char *path) {
	CHECK(launch(open_for_launcher, NO_LIMIT, path).is_complete);
	CHECK(fputs("outside\n", from_inside) >= 0);
	CHECK(!fflush(from_inside));
	char text[100];
	read_all(path, text, sizeof text);
	CHECK(!strcmp(text, "inside\noutside\n"));
	CHECK(!fclose(from_inside));
}

static _Atomic bool is_waiting;
static _Atomic int written;

static ssize_t count_written(void *unused, const char *text, size_t length) {
	(void) unused;
	(void) text;
	written++;
	return length;
}
static void *wait_for_end(void *unused) {
	while (is_waiting)
		usleep(100);
	return unused;
}
static void leave_stream_and_thread(void *thread) {
	FILE *stream = fopencookie(NULL, "w", (cookie_io_functions_t) { .write = count_written });
	CHECK(stream && fputs("text", stream) >= 0);
	CHECK(!pthread_create(thread, NULL, wait_for_end, NULL));
}
static void nothing(void *unused) {
	(void) unused;
}
/* While a thread that a function has left behind may use and close its streams, functions that end leave them alone. */
static void threads_streams(void) {
	pthread_t thread;
	is_waiting = true;
	CHECK(launch(leave_stream_and_thread, NO_LIMIT, &thread).is_complete);
	CHECK(launch(nothing, NO_LIMIT, NULL).is_complete);
	CHECK(written == 0);
	is_waiting = false;
	CHECK(!pthread_join(thread, NULL));
	CHECK(launch(nothing, NO_LIMIT, NULL).is_complete);
	CHECK(written == 1);
}

/* ...and what it has left in a stream reaches the file when the process ends. */
static void *write_and_wait(void *path) {
	FILE *file = fopen((char *) path, "w");
	CHECK(file && fputs("left open by a thread\n", file) >= 0);
	is_waiting = true;
	for (;;)
		sleep(1);
	return NULL;
}
static void leave_writer(void *path) {
	pthread_t thread;
	CHECK(!pthread_create(&thread, NULL, write_and_wait, path));
	while (!is_waiting)
		usleep(100);
}

int main(int argc, char *argv[]) {
	CHECK(argc == 2 && !chdir(argv[1]));
	interleaved();

	char completed[] = "completed.txt", paused[] = "paused.txt", mixed[] = "mixed.txt", opened[] = "opened.txt";
	CHECK(launch(leave_open, NO_LIMIT, completed).is_complete);
	char text[100];
	read_all(completed, text, sizeof text);
	CHECK(!strcmp(text, "left open by a function that returned\n"));

	launchers_stream(mixed);
	functions_stream(opened);

	char threads[] = "threads.txt";
	threads_streams();

	linger_t linger = launch(open_and_pause, NO_LIMIT, paused);
	CHECK(linger.is_yielded);
	CHECK(launch(leave_writer, NO_LIMIT, threads).is_complete);
	/* the process ends with it paused, and a thread alive: the test reads the files */
	return 0;
}
