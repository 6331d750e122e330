#include "job.h"

#include <re2/re2.h>
#include <re2/set.h>

#include <string>
#include <vector>

static uint64_t run(uint32_t seed) {
	std::string text(20000, ' ');
	fill_with_text(text.data(), text.size(), seed);
	uint64_t all = DIGEST_START;
	for (const char *pattern : { "(\\w+) (\\d+) (\\pL+)", "(?i)(TIME|and)\\s+(\\d*)", "((?:[a-z]+,? )+)(\\d)" }) {
		const RE2 compiled(pattern);
		REQUIRE(compiled.ok());
		re2::StringPiece rest(text), first;
		std::string second;
		while (RE2::FindAndConsume(&rest, compiled, &first, &second))
			all = digest(digest(all, first.data(), first.size()), second.data(), second.size());
		std::string replaced = text;
		all = digest_number(all, uint64_t(RE2::GlobalReplace(&replaced, compiled, "<\\2 \\1>")));
		all = digest(all, replaced.data(), replaced.size());
	}
	RE2::Set set(RE2::DefaultOptions, RE2::UNANCHORED);
	for (int i = 0; i < 100; i++)
		REQUIRE(set.Add(std::to_string(i) + " (and|or|[a-z]*t)", nullptr) == i);
	std::vector<int> matches;
	REQUIRE(set.Compile());
	set.Match(text, &matches);
	for (int match : matches)
		all = digest_number(all, uint64_t(match));
	RE2::Options quiet;
	quiet.set_log_errors(false);
	return digest_text(all, RE2("(a", quiet).error().c_str());
}

const struct job jobs[] = { { "re2", run, false }, { nullptr, nullptr, false } };
