/* Patterns, translated to machine code. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "job.h"

#include <pcre2.h>

enum { LENGTH = 20000 };

static uint64_t add_matches(uint64_t all, const char *pattern, const char *text) {
	int error;
	PCRE2_SIZE offset;
	pcre2_code *code = pcre2_compile((PCRE2_SPTR) pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_MULTILINE, &error, &offset, NULL);
	REQUIRE(code && !pcre2_jit_compile(code, PCRE2_JIT_COMPLETE));
	size_t jit_size;
	REQUIRE(!pcre2_pattern_info(code, PCRE2_INFO_JITSIZE, &jit_size) && jit_size);
	pcre2_match_context *context = pcre2_match_context_create(NULL);
	pcre2_jit_stack *stack = pcre2_jit_stack_create(32 << 10, 512 << 10, NULL);
	pcre2_jit_stack_assign(context, NULL, stack);
	pcre2_match_data *match = pcre2_match_data_create_from_pattern(code, NULL);
	for (PCRE2_SIZE at = 0;;) {
		int count = pcre2_match(code, (PCRE2_SPTR) text, LENGTH, at, 0, match, context);
		all = digest_number(all, (uint64_t) count);
		if (count < 0)
			break;
		const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(match);
		all = digest(all, ends, 2 * (size_t) count * sizeof *ends);
		at = ends[1] > ends[0] ? ends[1] : ends[1] + 1;
	}
	pcre2_match_data_free(match);
	pcre2_jit_stack_free(stack);
	pcre2_match_context_free(context);
	pcre2_code_free(code);
	return all;
}

static uint64_t run(uint32_t seed) {
	char *text = malloc(LENGTH);
	REQUIRE(text);
	fill_with_text(text, LENGTH, seed);
	uint64_t all = add_matches(DIGEST_START, "(\\w+) (?<number>\\d+) (?!is)(\\w+)", text);
	all = add_matches(all, "^(?:\\p{L}+[ ,]*)++$", text);
	all = add_matches(all, "(?i)(TIME|and)\\s+(?=\\d*(\\d)\\s)|not(?=\\n)", text);
	all = add_matches(all, "(a|an|and) ([^,]*),(?1)?", text);
	free(text);
	return all;
}

const struct job jobs[] = { { .name = "pcre2", .run = run }, { .name = NULL } };
