/* A library with state: what its constructor allocates, and statics of its own. */
#include <stdlib.h>
#include <string.h>

static char *block;
static int counter;

__attribute__((constructor)) static void construct(void) {
	block = malloc(100);
	strcpy(block, "constructed");
}

char *constructed_block(void);
void constructed_replace(void);
int constructed_count(void);

char *constructed_block(void) {
	return block;
}

void constructed_replace(void) {
	char *replacement = malloc(200);
	strcpy(replacement, block);
	strcat(replacement, ", replaced");
	free(block);
	block = realloc(replacement, 300);
}

int constructed_count(void) {
	return ++counter;
}

#include <pthread.h>

int constructed_make_key(void);
int constructed_make_key(void) {
	pthread_key_t key;
	return pthread_key_create(&key, NULL);
}
