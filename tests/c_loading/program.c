/* What libraries mean to the dynamic linker, they mean after libsets exist too. One scenario a run. */
#define _GNU_SOURCE
#include <libinger.h>

#include <dlfcn.h>
#include <execinfo.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define REQUIRE(condition) do { \
	if (!(condition)) { \
		printf("line %d: %s (%s)\n", __LINE__, #condition, linger_error()); \
		exit(1); \
	} \
} while (0)

const char *run(void);
int warn(int level, const char *format);
void *next_only_here(void);
void *next_getppid(void);
void *open_plugin(void);

static void nothing(void *unused) {
	(void) unused;
}
static void spin(void *unused) {
	(void) unused;
	for (;;)
		__asm__ volatile ("");
}
static void launch_to_end(void) {
	linger_t handle = linger_launch(nothing, 5000000, NULL);
	REQUIRE(handle.is_complete);
}
static void launch_and_keep(void) {
	linger_t handle = linger_launch(spin, 1000, NULL);
	REQUIRE(!handle.error && !handle.is_complete);
}

typedef const char *runner(void);
static runner *open_runner(const char *path, int mode, const char *name) {
	void *library = dlopen(path, mode);
	REQUIRE(library);
	return (runner *) dlsym(library, name);
}

/* Two plug-ins with functions of one name keep their own. */
static void scope_local(void) {
	runner *a = open_runner("./a.so", RTLD_NOW | RTLD_LOCAL, "run_plugin"), *b = open_runner("./b.so", RTLD_NOW | RTLD_LOCAL, "run_plugin");
	launch_to_end();
	REQUIRE(!strcmp(a(), "a") && !strcmp(b(), "b"));
}
static void scope_lazy(void) {
	runner *a = open_runner("./a.so", RTLD_LAZY | RTLD_LOCAL, "run_plugin"), *b = open_runner("./b.so", RTLD_LAZY | RTLD_LOCAL, "run_plugin");
	launch_to_end();
	REQUIRE(!strcmp(a(), "a") && !strcmp(b(), "b"));
}
/* The program is linked with a library that defines helper() too. */
static void scope_deep(void) {
	launch_to_end();
	runner *b = open_runner("./b.so", RTLD_NOW | RTLD_DEEPBIND, "run"), *c = open_runner("./a.so", RTLD_LAZY | RTLD_DEEPBIND, "run");
	REQUIRE(!strcmp(b(), "b") && !strcmp(c(), "a") && !strcmp(run(), "main"));
}

/* More libsets after a dlopen(), as many as without. */
static void late(void) {
	launch_and_keep();
	runner *a = open_runner("./a.so", RTLD_NOW, "run");
	for (int i = 0; i < 4; i++)
		launch_and_keep();
	REQUIRE(!strcmp(a(), "main"));
}

static void call_warn(void *result) {
	*(int *) result = warn(3, "f");
}
static void same_name(void) {
	int result = 0;
	REQUIRE(warn(3, "f") == 4);
	linger_t handle = linger_launch(call_warn, 5000000, &result);
	REQUIRE(handle.is_complete && result == 4);
	REQUIRE(warn(3, "f") == 4);
}

static void next(void) {
	launch_to_end();
	dlerror();
	REQUIRE(!next_only_here());
	const char *cause = dlerror();
	REQUIRE(cause && strstr(cause, "only_here"));
	REQUIRE(next_getppid());
	void *library = dlopen("./a.so", RTLD_NOW);
	REQUIRE(library);
	void *(*late_next)(void);
	*(void **) &late_next = dlsym(library, "next_getppid");
	REQUIRE(late_next() == next_getppid());
	*(void **) &late_next = dlsym(library, "next_only_here");
	REQUIRE(!late_next());
}

static void call_getppid(void *result) {
	*(pid_t *) result = getppid();
}
static void preloaded(void) {
	pid_t parent = 0;
	linger_t handle = linger_launch(call_getppid, 5000000, &parent);
	REQUIRE(handle.is_complete && parent == getppid());
}

static void *open_slowly(void *unused) {
	REQUIRE(dlopen("./slow.so", RTLD_NOW));
	return unused;
}
static void constructor_beside_launch(void) {
	launch_and_keep();
	pthread_t thread;
	REQUIRE(!pthread_create(&thread, NULL, open_slowly, NULL));
	usleep(100000);
	launch_and_keep();
	pthread_join(thread, NULL);
	launch_and_keep();
}

static void describe(void *unused) {
	(void) unused;
	void *(*volatile function)(void) = open_plugin;
	Dl_info info;
	REQUIRE(dladdr((void *) function, &info) && !strcmp(info.dli_sname, "open_plugin"));
	void *map = NULL;
	REQUIRE(dladdr1((void *) function, &info, &map, RTLD_DL_LINKMAP) && map);
	void *addresses[] = { (void *) function };
	char **lines = backtrace_symbols(addresses, 1);
	REQUIRE(lines && strstr(lines[0], "open_plugin+0"));
	free(lines);
}
static void addresses(void) {
	describe(NULL);
	linger_t handle = linger_launch(describe, 5000000, NULL);
	REQUIRE(handle.is_complete);
	describe(NULL);
}

static void closed_descriptors(void) {
	launch_and_keep();
	closefrom(3);
	launch_and_keep();
}

/* Run with a relative LD_LIBRARY_PATH. */
static void relative_path(void) {
	REQUIRE(!chdir("/"));
	launch_to_end();
	REQUIRE(!strcmp(run(), "main"));
}

static void *plugin_inside;
static void open_inside(void *unused) {
	(void) unused;
	plugin_inside = open_plugin();
}
static void search_path(void) {
	launch_to_end();
	REQUIRE(!dlopen("plugin.so", RTLD_NOW));
	REQUIRE(open_plugin());
	linger_t handle = linger_launch(open_inside, 5000000, NULL);
	REQUIRE(handle.is_complete && plugin_inside);
}

/* Thread-locals of libraries that are opened after the first launch, in static storage and not. */
static const char *const tls_paths[] = { "./tls_static.so", "./tls_dynamic.so", "./tls_descriptor.so" };
enum { TLS_PATHS = sizeof tls_paths / sizeof *tls_paths };
static int (*look)(void);
static void (*change)(void);
static void open_tls(void *path) {
	void *library = dlopen(path, RTLD_NOW);
	REQUIRE(library);
	*(void **) &look = dlsym(library, "look");
	*(void **) &change = dlsym(library, "change");
}
static void require_fresh_and_change(void *pauses) {
	REQUIRE(look() == 0);
	change();
	REQUIRE(look() != 0);
	if (pauses)
		linger_pause();
}
static void cancel_changes(void (*function)(void *), void *argument) {
	for (int i = 0; i < 5; i++) {
		linger_t handle = linger_launch(function, UINT64_MAX, argument);
		REQUIRE(!handle.error && handle.is_yielded);
		linger_cancel(&handle);
	}
}
static void *look_on_thread(void *unused) {
	require_fresh_and_change(NULL);
	return unused;
}
static void look_by_thread(void *unused) {
	pthread_t thread;
	REQUIRE(!pthread_create(&thread, NULL, look_on_thread, unused));
	pthread_join(thread, NULL);
	linger_pause();
}
/* ...on the TCB of a function that has ended, and whose libset has been rolled back before. */
static void tls_opened_by_program(void) {
	launch_to_end();
	linger_t handle = linger_launch((void (*)(void *)) (void *) linger_pause, UINT64_MAX, NULL);
	linger_cancel(&handle);
	for (size_t i = 0; i < TLS_PATHS; i++) {
		open_tls((void *) tls_paths[i]);
		REQUIRE(look() == 0);
		change();
		cancel_changes(require_fresh_and_change, "");
		cancel_changes(look_by_thread, NULL);
		REQUIRE(look() != 0);
	}
}
static void open_look_change(void *path) {
	open_tls(path);
	require_fresh_and_change(path);
}
static void tls_opened_inside(void) {
	launch_to_end();
	for (size_t i = 0; i < TLS_PATHS; i++) {
		cancel_changes(open_look_change, (void *) tls_paths[i]);
		REQUIRE(look() == 0);
	}
}
static void pause_and_look(void *unused) {
	(void) unused;
	for (int i = 0; i < TLS_PATHS; i++) {
		linger_pause();
		REQUIRE(look() == 0);
		change();
	}
}
/* ...by a function that is paused meanwhile; its libset has no copy of them yet. */
static void tls_opened_while_paused(void) {
	linger_t handle = linger_launch(pause_and_look, UINT64_MAX, NULL);
	for (size_t i = 0; i < TLS_PATHS; i++) {
		open_tls((void *) tls_paths[i]);
		change();
		linger_resume(&handle, UINT64_MAX);
		REQUIRE(!handle.error && look() != 0);
	}
	REQUIRE(handle.is_complete);
	cancel_changes(require_fresh_and_change, "");
}
static void *open_on_thread(void *path) {
	open_tls(path);
	require_fresh_and_change(NULL);
	return NULL;
}
static void open_by_thread(void *path) {
	pthread_t thread;
	REQUIRE(!pthread_create(&thread, NULL, open_on_thread, path));
	pthread_join(thread, NULL);
	require_fresh_and_change(path);
}
/* ...by a thread that a function has started. */
static void tls_opened_by_thread(void) {
	launch_to_end();
	cancel_changes(open_by_thread, (void *) tls_paths[0]);
}

static const struct {
	const char *name;
	void (*run)(void);
} scenarios[] = {
	{ "scope_local", scope_local }, { "scope_lazy", scope_lazy }, { "scope_deep", scope_deep }, { "late", late },
	{ "same_name", same_name }, { "next", next }, { "preloaded", preloaded },
	{ "constructor_beside_launch", constructor_beside_launch }, { "addresses", addresses },
	{ "closed_descriptors", closed_descriptors }, { "relative_path", relative_path }, { "search_path", search_path },
	{ "tls_opened_by_program", tls_opened_by_program }, { "tls_opened_inside", tls_opened_inside },
	{ "tls_opened_while_paused", tls_opened_while_paused }, { "tls_opened_by_thread", tls_opened_by_thread },
};

int main(int count, char **arguments) {
	for (size_t i = 0; count == 2 && i < sizeof scenarios / sizeof *scenarios; i++)
		if (!strcmp(scenarios[i].name, arguments[1])) {
			scenarios[i].run();
			fflush(stdout);
			_exit(0);
		}
	return 2;
}
