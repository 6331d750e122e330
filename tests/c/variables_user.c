/* A library that refers to another one's variables; for variables.c. */
#include "variables.h"

int user_setting(void) {
	return setting;
}

struct section *user_section(int index) {
	return &sections[index];
}
