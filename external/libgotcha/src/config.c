/* Environment, errors and trace: everything that is read once or said to the user. */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct config gotcha_config = { .libsets_max = SIZE_MAX };

/* Of the process, not of each thread: static thread-local storage is scarce in a shared object. */
static char cause[512];
static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

/* Variables of the original that switch things which no longer exist: global-variable interception
 * by page faults, its SIGSEGV forwarding, its treatment of dlsym and of a shared libc. */
static const char *const obsolete[] = {
	"LIBGOTCHA_NOGLOBALS", "LIBGOTCHA_ABORTSEGV", "LIBGOTCHA_NODYNAMIC", "LIBGOTCHA_SHAREDLIBC",
};
static const char *const known[] = {
	"LIBGOTCHA_NUMGROUPS", "LIBGOTCHA_LOADER", "LIBGOTCHA_SHARED", "LIBGOTCHA_SKIP", "LIBGOTCHA_TRACE",
	"LIBGOTCHA_NOFSGSBASE", "LIBGOTCHA_GDB",
#ifdef GOTCHA_TESTING
	"LIBGOTCHA_TEST_OFF",
#endif
};

int gotcha_fail(int error, const char *format, ...) {
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(cause, sizeof cause, format, arguments);
	va_end(arguments);
	return -error;
}

const char *libgotcha_error(void) {
	return cause;
}

void gotcha_trace(const char *what, const char *format, ...) {
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	char line[512];
	int used = snprintf(line, sizeof line, "libgotcha %ld.%06ld %s: ", (long) now.tv_sec, now.tv_nsec / 1000, what);
	va_list arguments;
	va_start(arguments, format);
	used += vsnprintf(line + used, sizeof line - used - 1, format, arguments);
	va_end(arguments);
	if (used > (int) sizeof line - 2)
		used = sizeof line - 2;
	line[used++] = '\n';
	if (write(STDERR_FILENO, line, used) < 0) {
		/* nowhere to report it */
	}
}

void gotcha_trace_failure(void) {
	if (gotcha_config.trace_libsets)
		gotcha_trace("libsets", "stays in the starting libset: %s", cause);
}

/* ------------------------------------------------------------------ trace of what happens inside functions
 *
 * Written where nothing may be called: in the middle of functions, in any libset, in signal handlers. So by system calls,
 * from the stack. */

struct line {
	char text[256];
	size_t length;
};

static void put(struct line *line, const char *text) {
	while (*text && line->length < sizeof line->text - 1)
		line->text[line->length++] = *text++;
}

static void put_number(struct line *line, int64_t number, int digits) {
	char text[24], *first = text + sizeof text;
	uint64_t rest = number < 0 ? -(uint64_t) number : (uint64_t) number;
	*--first = '\0';
	for (; rest || digits > 0; rest /= 10, digits--)
		*--first = '0' + rest % 10;
	if (number < 0)
		*--first = '-';
	put(line, first);
}

static void begin_line(struct line *line, const char *what) {
	struct timespec now;
	raw_syscall(SYS_clock_gettime, CLOCK_MONOTONIC, (long) &now, 0, 0);
	line->length = 0;
	put(line, "libgotcha ");
	put_number(line, now.tv_sec, 1);
	put(line, ".");
	put_number(line, now.tv_nsec / 1000, 6);
	put(line, " ");
	put(line, what);
	put(line, ": thread ");
	put_number(line, raw_syscall(SYS_gettid, 0, 0, 0, 0), 1);
	put(line, ": ");
}

static void end_line(struct line *line) {
	line->text[line->length++] = '\n';
	raw_syscall(SYS_write, STDERR_FILENO, (long) line->text, line->length, 0);
}

void libgotcha_trace_signal(const char *event, int64_t number, const char *unit) {
	if (!gotcha_config.trace_signals)
		return;
	struct line line;
	begin_line(&line, "signals");
	put(&line, event);
	put(&line, " ");
	put_number(&line, number, 1);
	put(&line, unit);
	end_line(&line);
}

/* Calls from inside functions that are carried out by the original libraries, or by a wrapper of ours: those of rows, and of
 * shared libraries.  Our own calls there are made in brackets. */
static bool is_traced_call(void) {
	return THIS.is_virtual && THIS.set && THIS.table != libgotcha_starting_table;
}

static void trace_call(const char *name, const char *suffix, const char *library) {
	struct line line;
	begin_line(&line, "calls");
	put(&line, "libset ");
	put_number(&line, THIS.set->number, 1);
	put(&line, ": ");
	put(&line, name);
	put(&line, suffix);
	put(&line, library);
	end_line(&line);
}

enum { TRACED_MAX = 1024 };
void *gotcha_traced_targets[TRACED_MAX];
static const struct row *traced[TRACED_MAX];
static size_t traced_len;

int gotcha_trace_calls_of(struct row *row) {
	for (size_t i = 0; i < traced_len; i++)
		if (traced[i] == row)
			return 0;
	void *entry = traced_len < TRACED_MAX ? gotcha_row_entry(traced_len) : NULL;
	if (!entry)
		return gotcha_fail(ENOMEM, "no room to trace calls of %s", row->name);
	gotcha_traced_targets[traced_len] = row->wrapper ? row->wrapper : row->base;
	traced[traced_len++] = row;
	row->wrapper = entry;
	return 0;
}

void gotcha_trace_row(size_t number) {
	if (is_traced_call())
		trace_call(traced[number]->name, "", "");
}

/* A function of a shared library, by the symbol that has its address. */
void gotcha_trace_slot(size_t slot) {
	if (!is_traced_call())
		return;
	uintptr_t function = (uintptr_t) gotcha_slot_function(slot);
	const struct object *object = gotcha_object_at(function);
	const char *name = "?";
	size_t length = object ? gotcha_object_symbols_len(object) : 0;
	for (size_t i = 1; i < length; i++)
		if (object->symbols[i].st_shndx != SHN_UNDEF && object->base + object->symbols[i].st_value == function)
			name = object->strings + object->symbols[i].st_name;
	trace_call(name, " of ", object ? object->name : "?");
}

/* ------------------------------------------------------------------ what is read */

static void warn(const char *variable, const char *value, const char *why) {
	char line[512];
	int used = snprintf(line, sizeof line, "libgotcha: %s=%s ignored: %s\n", variable, value, why);
	if (write(STDERR_FILENO, line, used < (int) sizeof line ? used : (int) sizeof line) < 0) {
		/* nowhere to report it */
	}
}

static void read_libsets_max(const char *value) {
	char *end;
	errno = 0;
	long number = strtol(value, &end, 10);
	if (errno || *end || end == value || number < 0)
		warn("LIBGOTCHA_NUMGROUPS", value, "not a number of libsets");
	else
		gotcha_config.libsets_max = number;
}

static const struct engine *const engines[] = { &gotcha_engine_clone, &gotcha_engine_dlmopen };
const struct engine *gotcha_engine = &gotcha_engine_clone;
const char *gotcha_engine_refusal;

static void read_engine(const char *value) {
	for (size_t i = 0; i < lengthof(engines); i++)
		if (!strcmp(value, engines[i]->name)) {
			gotcha_engine = engines[i];
			gotcha_config.engine_is_chosen = true;
			return;
		}
	warn("LIBGOTCHA_LOADER", value, "the engines are clone and dlmopen");
}

static void read_trace(const char *value) {
	char *list = strdup(value), *rest = list, *word;
	while (list && (word = strsep(&rest, ","))) {
		if (!strcmp(word, "libsets"))
			gotcha_config.trace_libsets = true;
		else if (!strcmp(word, "calls"))
			gotcha_config.trace_calls = true;
		else if (!strcmp(word, "signals"))
			gotcha_config.trace_signals = true;
		else if (*word)
			warn("LIBGOTCHA_TRACE", word, "the words are calls, libsets and signals");
	}
	free(list);
}

int gotcha_config_share(const char *name) {
	char *copy = gotcha_config.shared_len < lengthof(gotcha_config.shared) ? strdup(name) : NULL;
	if (!copy)
		return gotcha_fail(ENOMEM, "no room for another library that is not copied: %s", name);
	gotcha_config.shared[gotcha_config.shared_len++] = copy;
	return 0;
}

static void read_shared(const char *value) {
	char *list = strdup(value), *rest = list, *word;
	while (list && (word = strsep(&rest, ":")))
		if (*word && gotcha_config_share(word))
			warn("LIBGOTCHA_SHARED", word, "too many");
	free(list);
}

static bool skipped(const char *value) {
	char *list = strdup(value), *rest = list, *word;
	bool found = false;
	while (list && (word = strsep(&rest, ":")))
		found |= *word && !strcmp(word, program_invocation_short_name);
	free(list);
	return found;
}

static void warn_unknown(void) {
	for (char **variable = environ; *variable; variable++) {
		if (strncmp(*variable, "LIBGOTCHA_", 10))
			continue;
		size_t length = strcspn(*variable, "=");
		bool found = false;
		for (size_t i = 0; i < lengthof(known); i++)
			found |= strlen(known[i]) == length && !strncmp(*variable, known[i], length);
		for (size_t i = 0; i < lengthof(obsolete); i++)
			found |= strlen(obsolete[i]) == length && !strncmp(*variable, obsolete[i], length);
		if (!found) {
			char name[64];
			snprintf(name, sizeof name, "%.*s", (int) length, *variable);
			warn(name, (*variable)[length] ? *variable + length + 1 : "", "no such variable");
		}
	}
}

int gotcha_config_init(void) {
	if (getauxval(AT_SECURE))
		return 0;
	const char *value;
	if ((value = getenv("LIBGOTCHA_SKIP")) && skipped(value))
		return gotcha_fail(ECANCELED, "dormant in %s: listed in LIBGOTCHA_SKIP", program_invocation_short_name);
	if ((value = getenv("LIBGOTCHA_NUMGROUPS")))
		read_libsets_max(value);
	if ((value = getenv("LIBGOTCHA_LOADER")))
		read_engine(value);
	if ((value = getenv("LIBGOTCHA_SHARED")))
		read_shared(value);
	if ((value = getenv("LIBGOTCHA_TRACE")))
		read_trace(value);
	if ((value = getenv("LIBGOTCHA_GDB")) && strcmp(value, "0"))
		gotcha_config.tells_debugger = true;
	warn_unknown();
	return 0;
}

/* Under the lock, so is its holder's cancelability outside of it. */
static unsigned lock_depth;
static int cancelability;

/* Recursive: an engine's work may open libraries, whose constructors may open more. A pthread_cancel() of its
 * holder waits: files are opened under it, and an unwound holder would keep it.
 * Context: base or hosted only, so that its owner is a kernel thread. */
void gotcha_lock(void) {
	int before;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
	pthread_mutex_lock(&lock);
	if (!lock_depth++)
		cancelability = before;
}

void gotcha_unlock(void) {
	int after = --lock_depth ? PTHREAD_CANCEL_DISABLE : cancelability;
	pthread_mutex_unlock(&lock);
	pthread_setcancelstate(after, NULL);
}

/* In the child of a fork, by the thread that holds it: it has another tid here. */
void gotcha_lock_reset(void) {
	lock = (pthread_mutex_t) PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
	lock_depth = 0;
	pthread_setcancelstate(cancelability, NULL);
}
