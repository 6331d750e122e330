/* A document in another encoding is read, searched, checked against a schema, and written; and one that is not well-formed. */
#include "job.h"

#include <libxml/parser.h>
#include <libxml/relaxng.h>
#include <libxml/xpath.h>

static const char schema_text[] =
	"<element name='list' xmlns='http://relaxng.org/ns/structure/1.0' datatypeLibrary='http://www.w3.org/2001/XMLSchema-datatypes'>"
	"<zeroOrMore><element name='item'><attribute name='id'/><attribute name='kind'/><element name='name'><text/></element>"
	"<element name='value'><data type='integer'/></element></element></zeroOrMore></element>";

static void keep_quiet(void *unused, const char *message, ...) {
	(void) unused;
	(void) message;
}

static char *make_text(size_t *length, uint32_t seed) {
	char *text = NULL;
	FILE *stream = open_memstream(&text, length);
	REQUIRE(stream);
	fputs("<?xml version=\"1.0\" encoding=\"ISO-8859-2\"?><list>", stream);
	for (int i = 0; i < 300; i++)
		fprintf(stream, "<item id=\"%d\" kind=\"%c\"><name>n\xe4me &amp; %d</name><value>%u</value></item>", i, 'a' + i % 5, i,
			next_random(&seed) % 1000);
	fputs("</list>", stream);
	REQUIRE(!fclose(stream));
	return text;
}

static uint64_t add_found(uint64_t all, xmlDocPtr document) {
	xmlXPathContextPtr context = xmlXPathNewContext(document);
	xmlXPathObjectPtr found = xmlXPathEvalExpression(BAD_CAST "//item[@kind='c' and value > 500]/name", context);
	REQUIRE(found && found->nodesetval);
	for (int i = 0; i < found->nodesetval->nodeNr; i++) {
		xmlChar *content = xmlNodeGetContent(found->nodesetval->nodeTab[i]);
		all = digest_text(all, (char *) content);
		xmlFree(content);
	}
	xmlXPathFreeObject(found);
	xmlXPathFreeContext(context);
	return all;
}

static uint64_t add_validity(uint64_t all, xmlDocPtr document) {
	xmlRelaxNGParserCtxtPtr parser = xmlRelaxNGNewMemParserCtxt(schema_text, sizeof schema_text - 1);
	xmlRelaxNGPtr schema = xmlRelaxNGParse(parser);
	xmlRelaxNGValidCtxtPtr validator = xmlRelaxNGNewValidCtxt(schema);
	REQUIRE(schema && validator);
	REQUIRE(xmlRelaxNGValidateDoc(validator, document) == 0);
	xmlRelaxNGSetValidErrors(validator, keep_quiet, keep_quiet, NULL);
	xmlUnsetProp(xmlDocGetRootElement(document)->children, BAD_CAST "id");
	all = digest_number(all, (uint64_t) xmlRelaxNGValidateDoc(validator, document));
	xmlRelaxNGFreeValidCtxt(validator);
	xmlRelaxNGFree(schema);
	xmlRelaxNGFreeParserCtxt(parser);
	return all;
}

static uint64_t run(uint32_t seed) {
	size_t length;
	char *text = make_text(&length, seed);
	xmlDocPtr document = xmlReadMemory(text, (int) length, "list.xml", NULL, 0);
	REQUIRE(document);
	uint64_t all = add_found(DIGEST_START, document);
	xmlChar *dump;
	int dump_length;
	xmlDocDumpMemoryEnc(document, &dump, &dump_length, "UTF-8");
	all = digest(all, dump, (size_t) dump_length);
	xmlFree(dump);
	all = add_validity(all, document);
	xmlFreeDoc(document);
	REQUIRE(!xmlReadMemory(text, (int) length / 2, "half.xml", NULL, XML_PARSE_NOERROR));
	all = digest_text(all, xmlGetLastError()->message);
	xmlResetLastError();
	free(text);
	return all;
}

const struct job jobs[] = { { .name = "libxml2", .run = run }, { .name = NULL } };
