/* A plugin: how many different words are in a line? Its table has eight places, and is empty between two calls. Its
 * mistake: when the table is full, it looks for a place for ever. */
#include <stdio.h>
#include <string.h>

enum { PLACES = 8, LONGEST = 20 };

static char table[PLACES][LONGEST];

static int add(const char *word, size_t length) {
	if (length >= LONGEST)
		length = LONGEST - 1;
	size_t place = (unsigned char) *word % PLACES;
	while (*table[place] && (strncmp(table[place], word, length) || table[place][length]))
		place = (place + 1) % PLACES;
	int is_new = !*table[place];
	memcpy(table[place], word, length);
	return is_new;
}

void answer(const char *line, char *text, size_t bytes) {
	int count = 0;
	while (*(line += strspn(line, " "))) {
		size_t length = strcspn(line, " ");
		count += add(line, length);
		line += length;
	}
	snprintf(text, bytes, "%d different words", count);
	memset(table, 0, sizeof table);
}
