/* Streams, regular expressions, locales and facets, exceptions. */
#include "job.h"

#include <chrono>
#include <ctime>
#include <exception>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <locale>
#include <map>
#include <memory>
#include <regex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

static std::string text_of(std::size_t length, uint32_t seed) {
	std::string text(length, ' ');
	fill_with_text(text.data(), length, seed);
	return text;
}

static uint64_t add(uint64_t all, const std::string &text) {
	return digest(all, text.data(), text.size());
}

/* ---------------------------------------------------------------------------------------------------- iostream */

static uint64_t run_iostream(uint32_t seed) {
	std::istringstream words(text_of(5000, seed));
	std::ostringstream out;
	std::map<std::string, int> counts;
	for (std::string word; words >> word;)
		counts[word]++;
	for (const auto &[word, count] : counts)
		out << std::left << std::setw(12) << word << std::right << std::hex << std::showbase << std::setw(8) << count << '\n';
	for (int i = 0; i < 300; i++) {
		double number = next_random(&seed) / 1000.0, read = 0;
		std::stringstream both;
		both << std::setprecision(17) << number;
		both >> read;
		REQUIRE(read == number);
		out << std::scientific << number << ' ' << std::fixed << number << ' ' << std::boolalpha << (number > 5000) << '\n';
	}
	std::istringstream wrong("12 abc");
	int first = 0, second = 0;
	wrong >> first >> second;
	REQUIRE(wrong.fail() && first == 12);
	std::ifstream none("/nonexistent");
	REQUIRE(!none);
	std::ifstream exact("/proc/self/exe", std::ios::binary);
	std::vector<char> head(2000);
	REQUIRE(exact.read(head.data(), std::streamsize(head.size())));
	return digest(add(DIGEST_START, out.str()), head.data(), head.size());
}

/* ---------------------------------------------------------------------------------------------------- regex */

static uint64_t run_regex(uint32_t seed) {
	const std::string text = text_of(1500, seed);
	uint64_t all = DIGEST_START;
	for (const char *pattern : { "(\\w+) (\\d+) (?!is)(\\w+)", "([a-z]+), (?:and|or)", "\\b(t\\w*|u\\w*)\\b" }) {
		const std::regex compiled(pattern, std::regex::icase);
		for (std::sregex_iterator match(text.begin(), text.end(), compiled), end; match != end; ++match)
			all = digest_number(add(all, match->str()), uint64_t(match->position(1)));
		all = add(all, std::regex_replace(text, compiled, "<$1>"));
	}
	try {
		std::regex wrong("(a[b");
	} catch (const std::regex_error &error) {
		all = digest_text(all, error.what());
	}
	return all;
}

/* ---------------------------------------------------------------------------------------------------- locale */

struct dotted : std::numpunct<char> {
	char do_thousands_sep() const override { return '.'; }
	char do_decimal_point() const override { return ','; }
	std::string do_grouping() const override { return "\3"; }
	std::string do_truename() const override { return "ja"; }
};

static uint64_t run_locale(uint32_t seed) {
	uint64_t all = DIGEST_START;
	for (int i = 0; i < 40; i++) {
		const std::locale named(i % 2 ? "C.UTF-8" : "C"), own(named, new dotted);
		std::ostringstream out;
		out.imbue(own);
		const std::time_t time = next_random(&seed) * 100;
		std::tm parts;
		REQUIRE(gmtime_r(&time, &parts));
		out << 1234567 << ' ' << 1234.5 << ' ' << std::boolalpha << true << ' ' << std::put_money(123456) << ' '
			<< std::put_time(&parts, "%A %d %B %Y %T") << '\n';
		all = add(all, out.str());
		std::istringstream in("1.234.567 1,5");
		in.imbue(own);
		long whole = 0;
		double fraction = 0;
		REQUIRE(in >> whole >> fraction && whole == 1234567 && fraction == 1.5);
		REQUIRE(std::isalpha('a', named) && std::toupper('a', own) == 'A');
		REQUIRE(std::use_facet<std::collate<char>>(named).compare("a", "a" + 1, "b", "b" + 1) < 0);
		all = add(all, named.name());
		const std::string bytes = "n\xc3\xa4me";
		const char *read;
		wchar_t wide[10], *written;
		std::mbstate_t state{};
		const std::locale utf8("C.UTF-8");
		const auto &convert = std::use_facet<std::codecvt<wchar_t, char, std::mbstate_t>>(utf8);
		REQUIRE(convert.in(state, bytes.data(), bytes.data() + bytes.size(), read, wide, wide + 10, written) == convert.ok);
		REQUIRE(std::wstring(wide, written) == L"n\u00e4me");
	}
	try {
		std::locale none("xx_XX");
	} catch (const std::runtime_error &error) {
		all = digest_text(all, error.what());
	}
	return all;
}

/* ---------------------------------------------------------------------------------------------------- exceptions */

struct counted {
	explicit counted(int *count) : count(count) { ++*count; }
	~counted() { --*count; }
	int *count;
};

struct odd : std::logic_error {
	using std::logic_error::logic_error;
};

static void descend(int depth, int *alive, uint32_t seed) {
	counted here(alive);
	std::unique_ptr<std::string> held(new std::string(std::size_t(depth), 'x'));
	if (depth)
		descend(depth - 1, alive, seed);
	else if (seed % 3 == 0)
		throw odd("odd " + std::to_string(seed));
	else if (seed % 3 == 1)
		(void) std::string().at(seed);
	else
		throw seed;
}

static uint64_t run_exceptions(uint32_t seed) {
	uint64_t all = DIGEST_START;
	int alive = 0;
	for (uint32_t i = 0; i < 200; i++) {
		std::exception_ptr kept;
		try {
			try {
				descend(int(i % 20), &alive, seed + i);
			} catch (const odd &error) {
				std::throw_with_nested(std::runtime_error("outer"));
			} catch (...) {
				kept = std::current_exception();
				throw;
			}
		} catch (const std::out_of_range &error) {
			all = digest_text(all, error.what());
		} catch (const std::exception &error) {
			all = digest_text(all, error.what());
			try {
				std::rethrow_if_nested(error);
			} catch (const std::exception &nested) {
				all = digest_text(all, nested.what());
			}
		} catch (uint32_t number) {
			all = digest_number(all, number);
		}
		REQUIRE(!alive && std::uncaught_exceptions() == 0);
		try {
			if (kept)
				std::rethrow_exception(kept);
		} catch (...) {
			all = digest_number(all, i);
		}
	}
	return all;
}

const struct job jobs[] = { { "iostream", run_iostream, false }, { "regex", run_regex, false }, { "locale", run_locale, false }, { "exceptions", run_exceptions, false },
	{ nullptr, nullptr, false } };
