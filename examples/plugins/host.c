/* Has plugins answer lines of text, in this process, without being at their mercy: each call gets 10 ms. Plugins are
 * Lua scripts, and libraries opened by dlopen(). One that loops is stopped. What it was doing to its variables does not
 * matter: the cancel puts a library back to what it was at first, and the plugin works again.
 *
 *     cargo build --release
 *     cc -shared -fPIC examples/plugins/distinct.c -o distinct.so
 *     cc -Iinclude $(pkg-config --cflags lua5.4) examples/plugins/host.c -Ltarget/release -linger -llua5.4 -ldl -o host
 *     LD_LIBRARY_PATH=target/release ./host ./distinct.so examples/plugins/{longest,calculate}.lua <<END
 *     to be or not to be
 *     a b c d e f g h i
 *     =6 * 7
 *     =(function() while true do end end)()
 *     END */
#include <libinger.h>

#include <dlfcn.h>
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The limit consists of slices so that on a busy machine a wait for the processor costs one, and not all the time. */
enum { SLICES = 10, SLICE_US = 1000, ARENA_BYTES = 16 << 20 };

/* What a script allocates: so much in one call, and nothing is left of it afterwards, cancelled or not. */
static struct {
	_Alignas(16) char memory[ARENA_BYTES];
	size_t used;
} arena;

struct call {
	const char *path;
	void *library;         /* null: a script */
	const char *line;
	char answer[200];
};

static void *allocate(void *unused, void *old, size_t old_bytes, size_t bytes) {
	(void) unused;
	if (!bytes)
		return NULL;
	if (old && bytes <= old_bytes)
		return old;
	if (bytes > ARENA_BYTES - arena.used)
		return NULL;
	void *new = arena.memory + arena.used;
	arena.used += (bytes + 15) & ~(size_t) 15;
	return old ? memcpy(new, old, old_bytes) : new;
}

/* The script gets the line as its argument and returns the answer. What else it may reach is not limited here: all of
 * Lua's libraries. */
static int run_script(lua_State *lua) {
	struct call *call = lua_touserdata(lua, 1);
	luaL_openlibs(lua);
	if (luaL_loadfile(lua, call->path))
		return lua_error(lua);
	lua_pushstring(lua, call->line);
	lua_call(lua, 1, 1);
	snprintf(call->answer, sizeof call->answer, "%s", luaL_tolstring(lua, -1, NULL));
	return 0;
}

static void call_script(struct call *call) {
	arena.used = 0;
	lua_State *lua = lua_newstate(allocate, NULL);
	if (!lua) {
		strcpy(call->answer, "no memory");
		return;
	}
	lua_pushcfunction(lua, run_script);
	lua_pushlightuserdata(lua, call);
	if (lua_pcall(lua, 1, 0, 0)) {
		const char *error = lua_type(lua, -1) == LUA_TSTRING ? lua_tostring(lua, -1) : "an error without a text";
		snprintf(call->answer, sizeof call->answer, "%s", error);
	}
	lua_close(lua);
}

/* dlsym() in here: such a function is called in this call's own copy of the library. */
static void call_library(struct call *call) {
	void (*answer)(const char *line, char *text, size_t bytes);
	*(void **) &answer = dlsym(call->library, "answer");
	if (answer)
		answer(call->line, call->answer, sizeof call->answer);
	else
		snprintf(call->answer, sizeof call->answer, "%s", dlerror());
}

/* The preemptible function. */
static void ask(void *argument) {
	struct call *call = argument;
	(call->library ? call_library : call_script)(call);
}

static bool ask_in_time(struct call *call) {
	linger_t linger = launch(ask, SLICE_US, call);
	for (int slices = 1; slices < SLICES && !linger.is_complete && !linger.error; slices++)
		resume(&linger, SLICE_US);
	if (linger.error) {
		fprintf(stderr, "%s: %s\n", call->path, linger_error());
		return false;
	}
	if (!linger.is_complete)
		snprintf(call->answer, sizeof call->answer, "stopped after %d ms", SLICES * SLICE_US / 1000);
	cancel(&linger);
	printf("  %s: %s\n", call->path, call->answer);
	return true;
}

static bool is_library(const char *path) {
	const char *suffix = strrchr(path, '.');
	return suffix && !strcmp(suffix, ".so");
}

int main(int argc, char *argv[]) {
	void **libraries = calloc((size_t) argc, sizeof *libraries);
	char *line = NULL;
	size_t room = 0;
	if (!libraries)
		return 1;
	for (int i = 1; i < argc; i++)
		if (is_library(argv[i]) && !(libraries[i] = dlopen(argv[i], RTLD_NOW | RTLD_LOCAL))) {
			fprintf(stderr, "%s\n", dlerror());
			return 1;
		}
	for (ssize_t length; (length = getline(&line, &room, stdin)) > 0;) {
		line[strcspn(line, "\n")] = '\0';
		printf("%s\n", line);
		for (int i = 1; i < argc; i++) {
			struct call call = { .path = argv[i], .library = libraries[i], .line = line };
			if (!ask_in_time(&call))
				return 1;
		}
	}
	free(line);
	free(libraries);
	return 0;
}
