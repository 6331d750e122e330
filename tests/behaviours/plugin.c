/* Opened at run time. */
#include <math.h>

static int constructed, calls;
static __thread int local = 3;
static int *destroyed;

__attribute__((constructor)) static void construct(void) {
	constructed = 5;
}

__attribute__((destructor)) static void destroy(void) {
	if (destroyed)
		++*destroyed;
}

void plugin_tell_end(int *count);
int plugin_state(void);
double plugin_compute(double value);

void plugin_tell_end(int *count) {
	destroyed = count;
}

int plugin_state(void) {
	return constructed * 100 + local++ * 10 + calls++;
}

double plugin_compute(double value) {
	for (int i = 0; i < 1000; i++)
		value = cos(value);
	return value;
}
