/* A library with variables that the program refers to; for variables.c. */
#include "variables.h"

int setting = 1, constructed;
struct section sections[3] = { { "zero", &sections[0] }, { "one", &sections[1] }, { "two", &sections[2] } };
int (*operation)(void) = count_call;

static int counted;

__attribute__((constructor)) static void construct(void) {
	constructed++;
}

int library_setting(void) {
	return setting;
}

void library_set(int value) {
	setting = value;
}

int library_constructed(void) {
	return constructed;
}

struct section *library_section(int index) {
	return &sections[index];
}

int library_operate(void) {
	return operation();
}

int library_operates(int (*expected)(void)) {
	return operation == expected;
}

int count_call(void) {
	return ++counted;
}

int calls(void) {
	return counted;
}
