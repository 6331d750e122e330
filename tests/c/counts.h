/* What a process has: for tests of what is left behind. */
#ifndef COUNTS_H
#define COUNTS_H

#include <dirent.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

static inline size_t count_entries(const char *path) {
	DIR *folder = opendir(path);
	if (!folder)
		abort();
	size_t count = 0;
	while (readdir(folder))
		count++;
	closedir(folder);
	return count;
}

static inline size_t count_descriptors(void) {
	return count_entries("/proc/self/fd");
}

static inline size_t count_mappings(void) {
	int file = open("/proc/self/maps", O_RDONLY);
	if (file < 0)
		abort();
	static char buffer[1 << 16];
	size_t lines = 0;
	for (ssize_t length; (length = read(file, buffer, sizeof buffer)) > 0;)
		for (ssize_t i = 0; i < length; i++)
			lines += buffer[i] == '\n';
	close(file);
	return lines;
}

#endif
