/* In a libset, libraries' references are bound to what they are bound to in base, however these were opened. */
#include "../c/check.h"

#include <dlfcn.h>
#include <string.h>

typedef const char *describer(char *, int);

struct library {
	const char *path;
	int mode;
	describer *describe;
};

/* each has the same names */
static struct library local[] = {
	{ "./local.so", RTLD_LAZY | RTLD_LOCAL, NULL },
	{ "./other_local.so", RTLD_LAZY | RTLD_LOCAL, NULL },
	{ "./deep.so", RTLD_NOW | RTLD_DEEPBIND, NULL },
	{ "./symbolic.so", RTLD_LAZY | RTLD_LOCAL, NULL },
	{ NULL, 0, NULL },
};
static struct library global[] = {
	{ "./local.so", RTLD_NOW | RTLD_LOCAL, NULL },
	{ "./deep.so", RTLD_NOW | RTLD_DEEPBIND, NULL },
	/* from here on this one's definitions come first */
	{ "./global.so", RTLD_NOW | RTLD_GLOBAL, NULL },
	{ "./other_local.so", RTLD_LAZY | RTLD_LOCAL, NULL },
	{ "./user.so", RTLD_NOW | RTLD_LOCAL, NULL },
	{ "./lazy_user.so", RTLD_LAZY | RTLD_LOCAL, NULL },
	{ "./symbolic.so", RTLD_LAZY | RTLD_LOCAL, NULL },
	{ NULL, 0, NULL },
};
enum { ROOM = 4096 };
static struct library *libraries;

static void open_all(void *unused) {
	(void) unused;
	for (struct library *library = libraries; library->path; library++) {
		void *handle = dlopen(library->path, library->mode);
		if (!handle)
			dprintf(STDERR_FILENO, "%s\n", dlerror());
		CHECK(handle);
		library->describe = (describer *) dlsym(handle, "describe");
		CHECK(library->describe);
	}
}

static void describe_all(void *to) {
	char *text = to;
	for (struct library *library = libraries; library->path; library++) {
		library->describe(text, ROOM - (text - (char *) to));
		text += strlen(text);
	}
}

static void nothing(void *unused) {
	(void) unused;
}

/* argv[1]: which libraries; argv[2]: are they opened "before" there are libsets, "after", or "inside" a function? */
int main(int count, char *argv[]) {
	static char outside[ROOM], inside[ROOM];
	CHECK(count == 3);
	libraries = !strcmp(argv[1], "local") ? local : global;
	if (!strcmp(argv[2], "before"))
		open_all(NULL);
	linger_t linger = launch(!strcmp(argv[2], "inside") ? open_all : nothing, NO_LIMIT, NULL);
	CHECK(linger.is_complete);
	if (!strcmp(argv[2], "after"))
		open_all(NULL);
	/* first inside: nothing that is bound lazily has been called yet */
	linger = launch(describe_all, NO_LIMIT, inside);
	CHECK(linger.is_complete);
	describe_all(outside);
	printf("outside:\n%sinside:\n%s", outside, inside);
	return strcmp(inside, outside) ? 1 : 0;
}
