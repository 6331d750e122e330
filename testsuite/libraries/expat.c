#include "job.h"

#include <expat.h>

static void on_start(void *all, const char *name, const char **attributes) {
	*(uint64_t *) all = digest_text(*(uint64_t *) all, name);
	for (; *attributes; attributes++)
		*(uint64_t *) all = digest_text(*(uint64_t *) all, *attributes);
}

static void on_end(void *all, const char *name) {
	*(uint64_t *) all = digest_text(*(uint64_t *) all, name);
}

static void on_text(void *all, const char *text, int length) {
	*(uint64_t *) all = digest(*(uint64_t *) all, text, (size_t) length);
}

static void parse_line(XML_Parser parser, const char *line, enum XML_Status expected) {
	REQUIRE(XML_Parse(parser, line, (int) strlen(line), 0) == expected);
}

static uint64_t run(uint32_t seed) {
	uint64_t all = DIGEST_START;
	XML_Parser parser = XML_ParserCreateNS(NULL, '|');
	REQUIRE(parser);
	XML_SetHashSalt(parser, 1);
	XML_SetUserData(parser, &all);
	XML_SetElementHandler(parser, on_start, on_end);
	XML_SetCharacterDataHandler(parser, on_text);
	parse_line(parser, "<?xml version=\"1.0\" encoding=\"iso-8859-1\"?><!DOCTYPE list [<!ENTITY e \"an &#228; entity\">]>", XML_STATUS_OK);
	parse_line(parser, "<list xmlns='http://localhost/' xmlns:o='http://localhost/other'>", XML_STATUS_OK);
	for (int i = 0; i < 500; i++) {
		char line[200];
		snprintf(line, sizeof line, "<item id='%d' o:kind='%c'><name>n\xe4me &e;</name><o:value>%u</o:value></item>\n", i, 'a' + i % 5,
			next_random(&seed) % 1000);
		parse_line(parser, line, XML_STATUS_OK);
	}
	parse_line(parser, "</wrong>", XML_STATUS_ERROR);
	all = digest_text(all, XML_ErrorString(XML_GetErrorCode(parser)));
	XML_ParserFree(parser);
	return all;
}

const struct job jobs[] = { { .name = "expat", .run = run }, { .name = NULL } };
