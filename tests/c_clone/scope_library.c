/* A library that the scopes program builds under several names: -DNAME="..." tells them apart. Its references may
 * all be bound to other libraries' definitions. */
#include <stdio.h>

#ifndef NO_HELPER
const char *helper(void) {
	return NAME;
}
const char *helper_of_a_table(void) {
	return NAME;
}
const char *helper_of_a_constant(void) {
	return NAME;
}
const char *variable = NAME;
const char *variable_by_pointer = NAME;
#else
extern const char *helper(void), *helper_of_a_table(void), *helper_of_a_constant(void);
extern const char *variable, *variable_by_pointer;
#endif

/* one in the process, whoever has it */
__asm__(
	".data\n"
	".type unique_marker, @gnu_unique_object\n"
	".size unique_marker, 8\n"
	".globl unique_marker\n"
	".balign 8\n"
	"unique_marker: .quad 0\n"
	".text");
extern const char *unique_marker;

/* defined by few */
#ifdef CALLS_BACK
const char *callback(void) {
	return NAME;
}
#define CALL_BACK callback()
#else
extern const char *callback(void) __attribute__((weak));
#define CALL_BACK callback ? callback() : "none"
#endif

static const char *(*volatile table[])(void) = { helper_of_a_table };
static const char *(*const volatile constants[])(void) = { helper_of_a_constant };
static const char **volatile pointer = &variable_by_pointer;

const char *needed_describe(char *to, int room);

const char *DESCRIBE(char *to, int room) {
	if (!unique_marker)
		unique_marker = NAME;
	int used = snprintf(to, room, "%s: %s %s %s %s %s %s %s\n", NAME, helper(), table[0](), constants[0](), variable, *pointer,
		CALL_BACK, unique_marker);
#ifdef NEEDS
	return needed_describe(to + used, room - used);
#else
	(void) used;
	return to;
#endif
}
