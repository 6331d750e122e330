/* Objects, JSON, patterns, exceptions (longjmp), and calls of the program. */
#include "job.h"

#include <duktape.h>

static const char script[] =
	"var words = text.match(/\\w+/g).map(function (word) { return word.toUpperCase(); });\n"
	"var counts = {};\n"
	"words.forEach(function (word) { counts[word] = (counts[word] || 0) + 1; });\n"
	"var sorted = Object.keys(counts).sort(function (a, b) { return counts[b] - counts[a] || (a < b ? -1 : 1); });\n"
	"var caught = 0;\n"
	"for (var i = 0; i < 100; i++) {\n"
	"  try { if (i % 3) throw new RangeError('number ' + i); halve({}); }\n"
	"  catch (error) { caught += error.message.length; }\n"
	"}\n"
	"var copy = JSON.parse(JSON.stringify({ sorted: sorted, counts: counts, halves: [1, 2, 3].map(halve) }));\n"
	"var sum = 0;\n"
	"for (var i = 0; i < 3000; i++) sum = (sum * 31 + Math.floor(Math.sin(i) * 1e6)) | 0;\n"
	"JSON.stringify([copy, caught, sum, text.replace(/(\\w+), (\\d+)/g, '$2 $1'), new Date(0).toISOString()]);\n";

static duk_ret_t halve(duk_context *context) {
	duk_push_number(context, duk_require_number(context, 0) / 2);
	return 1;
}

static uint64_t run(uint32_t seed) {
	enum { LENGTH = 2000 };
	char text[LENGTH];
	fill_with_text(text, LENGTH, seed);
	duk_context *context = duk_create_heap_default();
	REQUIRE(context);
	duk_push_lstring(context, text, LENGTH);
	duk_put_global_string(context, "text");
	duk_push_c_function(context, halve, 1);
	duk_put_global_string(context, "halve");
	REQUIRE(!duk_peval_string(context, script));
	uint64_t all = digest_text(DIGEST_START, duk_get_string(context, -1));
	duk_pop(context);
	REQUIRE(duk_peval_string(context, "nothing.field"));
	all = digest_text(all, duk_safe_to_string(context, -1));
	duk_destroy_heap(context);
	return all;
}

const struct job jobs[] = { { .name = "duktape", .run = run }, { .name = NULL } };
