/* Tables, strings, closures, coroutines, errors (longjmp), and calls of the program. */
#include "job.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

static const char script[] =
	"local words = {}\n"
	"for word in text:gmatch('%w+') do words[#words + 1] = word:upper():reverse() end\n"
	"table.sort(words, function(a, b) if #a ~= #b then return #a < #b end return a < b end)\n"
	"local counts = setmetatable({}, { __index = function() return 0 end })\n"
	"for _, word in ipairs(words) do counts[word] = counts[word] + 1 end\n"
	"local lines = {}\n"
	"for _, word in ipairs(words) do lines[#lines + 1] = ('%-8s %5d %g'):format(word, counts[word], halve(counts[word])) end\n"
	"local function permutations(list, n)\n"
	"  n = n or #list\n"
	"  if n == 0 then coroutine.yield(table.concat(list, ' ')) end\n"
	"  for i = 1, n do\n"
	"    list[i], list[n] = list[n], list[i]\n"
	"    permutations(list, n - 1)\n"
	"    list[i], list[n] = list[n], list[i]\n"
	"  end\n"
	"end\n"
	"for line in coroutine.wrap(function() permutations({ 'a', 'b', 'c', 'd', 'e' }) end) do lines[#lines + 1] = line end\n"
	"for i = 1, 200 do\n"
	"  local ok, message = pcall(i % 2 == 0 and error or halve, { code = i })\n"
	"  lines[#lines + 1] = tostring(ok) .. (type(message) == 'table' and message.code or message)\n"
	"end\n"
	"collectgarbage()\n"
	"return table.concat(lines, '\\n')\n";

static int halve(lua_State *lua) {
	lua_pushnumber(lua, luaL_checknumber(lua, 1) / 2);
	return 1;
}

static uint64_t run(uint32_t seed) {
	enum { LENGTH = 3000 };
	char text[LENGTH];
	fill_with_text(text, LENGTH, seed);
	lua_State *lua = luaL_newstate();
	REQUIRE(lua);
	luaL_openlibs(lua);
	lua_pushlstring(lua, text, LENGTH);
	lua_setglobal(lua, "text");
	lua_register(lua, "halve", halve);
	REQUIRE(!luaL_dostring(lua, script));
	size_t length;
	const char *result = lua_tolstring(lua, -1, &length);
	uint64_t all = digest(DIGEST_START, result, length);
	REQUIRE(luaL_dostring(lua, "local nothing\nreturn nothing.field"));
	all = digest_text(all, lua_tostring(lua, -1));
	lua_close(lua);
	return all;
}

const struct job jobs[] = { { .name = "lua", .run = run }, { .name = NULL } };
