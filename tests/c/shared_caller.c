#include "shared.h"

static int count;

void caller_count(void) {
	count++;
	shared_count();
}

int caller_state(void) {
	return count;
}
