/* A library whose constructor and destructor have effects; for constructed.c. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static char *small, *large;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int registered, *at_exit;

static void lock(void) {
	pthread_mutex_lock(&mutex);
}
static void unlock(void) {
	pthread_mutex_unlock(&mutex);
}

__attribute__((constructor)) static void construct(void) {
	small = malloc(100);
	large = malloc(100000);
	memset(large, 7, 100000);
	pthread_atfork(lock, unlock, unlock);
}

__attribute__((destructor)) static void destruct(void) {
	free(small);
	free(large);
}

/* The constructor's block grows; what it held is kept. */
int grow(void) {
	large = realloc(large, 4000000);
	int kept = large[0] == 7 && large[99999] == 7;
	memset(large, 1, 4000000);
	return kept;
}

void take_lock(void) {
	lock();
}

static void count_exit(void) {
	++*at_exit;
	at_exit = NULL;
}

/* Once in a libset's life, count_exit() is registered for the process's end. */
void register_exit(int *counter) {
	at_exit = counter;
	if (!registered++)
		atexit(count_exit);
}
