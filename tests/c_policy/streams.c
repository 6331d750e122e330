/* stdio follows the object: every function that takes or implies a FILE does inside a function, with
 * streams of the program, what it does outside; no stream of the program is ever found locked
 * between slices; and opening and closing leave nothing behind when they are cancelled. */
#include "policy.h"

#include <argp.h>
#include <dlfcn.h>
#include <err.h>
#include <error.h>
#include <grp.h>
#include <gshadow.h>
#include <mntent.h>
#include <netdb.h>
#include <pwd.h>
#include <shadow.h>
#include <signal.h>
#include <stdio_ext.h>
#include <wchar.h>

/* ------------------------------------------------------------------ the same inside as outside */

/* The program's: the third file, standard input, output and error all lie on files of their own. */
static FILE *stream;
static const char *const paths[] = { "stream", "input", "output", "error" };

static const char content[] =
	"root:x:0:0:root:/root:/bin/sh\nline two of the file\n12 34 56\n/dev/sda1 / ext4 rw 0 1\n";

static void write_content(const char *path) {
	int file = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
	REQUIRE(file >= 0);
	for (int i = 0; i < 50; i++)
		REQUIRE(write(file, content, sizeof content - 1) == sizeof content - 1);
	close(file);
}

static void open_all(void) {
	write_content(paths[0]);
	write_content(paths[1]);
	stream = fopen(paths[0], "r+");
	REQUIRE(stream && freopen(paths[1], "r", stdin) && freopen(paths[2], "w", stdout) && freopen(paths[3], "w", stderr));
}

static uint64_t mix(uint64_t hash, long value) {
	return (hash ^ (uint64_t) value) * 0x100000001b3;
}

static uint64_t close_all(void) {
	fclose(stream);
	fflush(stdout);
	fflush(stderr);
	uint64_t hash = 14695981039346656037u;
	for (int i = 0; i < 4; i++) {
		int file = open(paths[i], O_RDONLY);
		REQUIRE(file >= 0);
		static char buffer[1 << 16];
		for (ssize_t length; (length = read(file, buffer, sizeof buffer)) > 0; )
			for (ssize_t j = 0; j < length; j++)
				hash = mix(hash, buffer[j]);
		close(file);
	}
	return hash;
}

struct operation {
	const char *rows;
	long (*run)(FILE *);
	int rounds;
};
static uint64_t results;

static void run_operation(void *closure) {
	const struct operation *operation = closure;
	int rounds = sliced ? operation->rounds : 3;
	uint64_t hash = 0;
	for (int i = 0; i < rounds; i++)
		hash = mix(hash, operation->run(stream));
	results = hash;
}

static void look_at_locks(void) {
	FILE *const all[] = { stream, stdin, stdout, stderr };
	for (int i = 0; i < 4; i++) {
		REQUIRE(!ftrylockfile(all[i]), i);
		funlockfile(all[i]);
	}
}

static void compare(const struct operation *operation) {
	open_all();
	run_operation((void *) operation);
	uint64_t outside = mix(close_all(), results);
	open_all();
	inside_with(run_operation, (void *) operation, look_at_locks);
	uint64_t within = mix(close_all(), results);
	REQUIRE(outside == within);
}

static char text[256];
static wchar_t wide[256];
static int number;
static long with_list(int (*function)(FILE *, const char *, va_list), FILE *s, const char *format, ...) {
	va_list list;
	va_start(list, format);
	long result = function(s, format, list);
	va_end(list);
	return result;
}
static long with_wide_list(int (*function)(FILE *, const wchar_t *, va_list), FILE *s, const wchar_t *format, ...) {
	va_list list;
	va_start(list, format);
	long result = function(s, format, list);
	va_end(list);
	return result;
}
static long with_list_only(int (*function)(const char *, va_list), const char *format, ...) {
	va_list list;
	va_start(list, format);
	long result = function(format, list);
	va_end(list);
	return result;
}
static long with_wide_list_only(int (*function)(const wchar_t *, va_list), const wchar_t *format, ...) {
	va_list list;
	va_start(list, format);
	long result = function(format, list);
	va_end(list);
	return result;
}
static long void_with_list(void (*function)(const char *, va_list), const char *format, ...) {
	va_list list;
	va_start(list, format);
	errno = ENOENT;
	function(format, list);
	va_end(list);
	return 0;
}

/* Not in headers, or only with options that replace others. */
int _IO_feof(FILE *), _IO_ferror(FILE *), _IO_getc(FILE *), _IO_putc(int, FILE *), _IO_ungetc(int, FILE *),
	_IO_peekc_locked(FILE *), _IO_fputs(const char *, FILE *), _IO_puts(const char *), _IO_setvbuf(FILE *, char *, int, size_t),
	_IO_fflush(FILE *), _IO_ftrylockfile(FILE *), _IO_fgetpos(FILE *, fpos_t *), _IO_fsetpos(FILE *, const fpos_t *),
	_IO_flush_all(void), _IO_printf(const char *, ...), _IO_fprintf(FILE *, const char *, ...),
	_IO_vfprintf(FILE *, const char *, va_list), __vfscanf(FILE *, const char *, va_list),
	__isoc99_vfscanf(FILE *, const char *, va_list), __isoc99_vscanf(const char *, va_list),
	__isoc99_fscanf(FILE *, const char *, ...), __isoc99_scanf(const char *, ...),
	__isoc99_vfwscanf(FILE *, const wchar_t *, va_list), __isoc99_vwscanf(const wchar_t *, va_list),
	__isoc99_fwscanf(FILE *, const wchar_t *, ...), __isoc99_wscanf(const wchar_t *, ...),
	__printf_chk(int, const char *, ...), __fprintf_chk(FILE *, int, const char *, ...),
	__vprintf_chk(int, const char *, va_list), __vfprintf_chk(FILE *, int, const char *, va_list),
	__wprintf_chk(int, const wchar_t *, ...), __fwprintf_chk(FILE *, int, const wchar_t *, ...),
	__vwprintf_chk(int, const wchar_t *, va_list), __vfwprintf_chk(FILE *, int, const wchar_t *, va_list);
int scanf_original(const char *, ...) __asm__("scanf"), fscanf_original(FILE *, const char *, ...) __asm__("fscanf"),
	vscanf_original(const char *, va_list) __asm__("vscanf"), vfscanf_original(FILE *, const char *, va_list) __asm__("vfscanf"),
	wscanf_original(const wchar_t *, ...) __asm__("wscanf"), fwscanf_original(FILE *, const wchar_t *, ...) __asm__("fwscanf"),
	vwscanf_original(const wchar_t *, va_list) __asm__("vwscanf"), vfwscanf_original(FILE *, const wchar_t *, va_list) __asm__("vfwscanf");
char *_IO_fgets(char *, int, FILE *), *_IO_gets(char *), *gets(char *), *__gets_chk(char *, size_t),
	*__fgets_chk(char *, size_t, int, FILE *), *__fgets_unlocked_chk(char *, size_t, int, FILE *);
wchar_t *__fgetws_chk(wchar_t *, size_t, int, FILE *), *__fgetws_unlocked_chk(wchar_t *, size_t, int, FILE *);
size_t _IO_fread(void *, size_t, size_t, FILE *), _IO_fwrite(const void *, size_t, size_t, FILE *), _IO_sgetn(FILE *, void *, size_t),
	_IO_getline(FILE *, char *, size_t, int, int), _IO_getline_info(FILE *, char *, size_t, int, int, int *),
	__fread_chk(void *, size_t, size_t, size_t, FILE *), __fread_unlocked_chk(void *, size_t, size_t, size_t, FILE *);
ssize_t _IO_padn(FILE *, int, ssize_t);
long _IO_ftell(FILE *), _IO_seekoff(FILE *, long, int, int), _IO_seekpos(FILE *, long, int);
off64_t __fseeko64(FILE *, off64_t, int), __ftello64(FILE *);
void _IO_setbuffer(FILE *, char *, size_t), _IO_flockfile(FILE *), _IO_funlockfile(FILE *), _IO_flush_all_linebuffered(void),
	_IO_flush_all_linebuffered(void);
int __uflow(FILE *), __overflow(FILE *, int), __underflow(FILE *), __wuflow(FILE *), __woverflow(FILE *, wchar_t), __wunderflow(FILE *);
int printf_size(FILE *, const void *, const void *const *);
#ifdef putc_unlocked
#undef putc_unlocked
#undef getc_unlocked
#undef putchar_unlocked
#undef getchar_unlocked
#undef feof_unlocked
#undef ferror_unlocked
#undef fread_unlocked
#undef fwrite_unlocked
#endif

#define OPERATIONS(FAST, SLOW) \
	FAST(feof, feof(s)) FAST(ferror, ferror(s)) FAST(clearerr, (clearerr(s), 0)) FAST(_IO_feof, _IO_feof(s)) FAST(_IO_ferror, _IO_ferror(s)) \
	FAST(fgetc, fgetc(s)) FAST(getc, getc(s)) FAST(_IO_getc, _IO_getc(s)) FAST(getw, getw(s)) \
	FAST(fgetc_unlocked, fgetc_unlocked(s)) FAST(getc_unlocked, getc_unlocked(s)) \
	FAST(fputc, fputc('a', s)) FAST(putc, putc('b', s)) FAST(_IO_putc, _IO_putc('c', s)) FAST(putw, putw(7, s)) \
	FAST(fputc_unlocked, fputc_unlocked('d', s)) FAST(putc_unlocked, putc_unlocked('e', s)) \
	FAST(ungetc, (fgetc(s), ungetc('x', s))) FAST(_IO_ungetc, (fgetc(s), _IO_ungetc('x', s))) FAST(_IO_peekc_locked, _IO_peekc_locked(s)) \
	FAST(fgets, (long) fgets(text, 40, s)) FAST(_IO_fgets, (long) _IO_fgets(text, 40, s)) \
	FAST(fgets_unlocked, (long) fgets_unlocked(text, 40, s)) \
	FAST(__fgets_chk, (long) __fgets_chk(text, sizeof text, 40, s)) FAST(__fgets_unlocked_chk, (long) __fgets_unlocked_chk(text, sizeof text, 40, s)) \
	FAST(fputs, fputs("text\n", s)) FAST(_IO_fputs, _IO_fputs("text\n", s)) FAST(fputs_unlocked, fputs_unlocked("text\n", s)) \
	FAST(getline, ({ char *line = NULL; size_t room = 0; long length = getline(&line, &room, s); free(line); length; })) \
	FAST(getdelim, ({ char *line = NULL; size_t room = 0; long length = getdelim(&line, &room, ':', s); free(line); length; })) \
	FAST(__getdelim, ({ char *line = NULL; size_t room = 0; long length = __getdelim(&line, &room, ':', s); free(line); length; })) \
	FAST(fread, fread(text, 1, 20, s)) FAST(_IO_fread, _IO_fread(text, 1, 20, s)) FAST(fread_unlocked, fread_unlocked(text, 1, 20, s)) \
	FAST(__fread_chk, __fread_chk(text, sizeof text, 1, 20, s)) FAST(__fread_unlocked_chk, __fread_unlocked_chk(text, sizeof text, 1, 20, s)) \
	FAST(fwrite, fwrite("0123456789", 1, 10, s)) FAST(_IO_fwrite, _IO_fwrite("0123456789", 1, 10, s)) \
	FAST(fwrite_unlocked, fwrite_unlocked("0123456789", 1, 10, s)) \
	FAST(_IO_sgetn, _IO_sgetn(s, text, 20)) FAST(_IO_padn, _IO_padn(s, ' ', 20)) \
	FAST(_IO_getline, _IO_getline(s, text, 40, '\n', 1)) FAST(_IO_getline_info, _IO_getline_info(s, text, 40, '\n', 1, &number)) \
	FAST(__uflow, __uflow(s)) FAST(__underflow, __underflow(s)) FAST(__overflow, __overflow(s, 'o')) \
	FAST(__wuflow, (fwide(s, 1), __wuflow(s))) FAST(__wunderflow, (fwide(s, 1), __wunderflow(s))) FAST(__woverflow, (fwide(s, 1), __woverflow(s, L'w'))) \
	SLOW(fseek, fseek(s, 7, SEEK_SET)) SLOW(fseeko, fseeko(s, 7, SEEK_SET)) SLOW(fseeko64, fseeko64(s, 7, SEEK_SET)) SLOW(__fseeko64, __fseeko64(s, 7, SEEK_SET)) \
	SLOW(_IO_seekoff, _IO_seekoff(s, 7, SEEK_SET, 3)) SLOW(_IO_seekpos, _IO_seekpos(s, 7, 3)) \
	FAST(ftell, ftell(s)) FAST(ftello, ftello(s)) FAST(ftello64, ftello64(s)) FAST(__ftello64, __ftello64(s)) FAST(_IO_ftell, _IO_ftell(s)) \
	SLOW(rewind, (rewind(s), 0)) \
	FAST(fgetpos, ({ fpos_t at; fgetpos(s, &at); })) FAST(fgetpos64, ({ fpos64_t at; fgetpos64(s, &at); })) FAST(_IO_fgetpos, ({ fpos_t at; _IO_fgetpos(s, &at); })) \
	FAST(_IO_fgetpos64, ({ fpos64_t at; _IO_fgetpos(s, (void *) &at); })) \
	SLOW(fsetpos, ({ fpos_t at; fgetpos(s, &at); fsetpos(s, &at); })) SLOW(fsetpos64, ({ fpos64_t at; fgetpos64(s, &at); fsetpos64(s, &at); })) \
	SLOW(_IO_fsetpos, ({ fpos_t at; fgetpos(s, &at); _IO_fsetpos(s, &at); })) \
	SLOW(setbuf, (setbuf(s, NULL), fputc('u', s))) SLOW(setbuffer, (setbuffer(s, NULL, 0), fputc('u', s))) SLOW(_IO_setbuffer, (_IO_setbuffer(s, NULL, 0), fputc('u', s))) \
	FAST(setlinebuf, (setlinebuf(s), 0)) FAST(setvbuf, setvbuf(s, NULL, _IONBF, 0)) FAST(_IO_setvbuf, _IO_setvbuf(s, NULL, _IOLBF, 0)) \
	FAST(__fpurge, (__fpurge(s), 0)) FAST(fwide, fwide(s, 0)) \
	FAST(fgetwc, fgetwc(s)) FAST(getwc, getwc(s)) FAST(fgetwc_unlocked, fgetwc_unlocked(s)) FAST(getwc_unlocked, getwc_unlocked(s)) \
	FAST(fputwc, fputwc(L'a', s)) FAST(putwc, putwc(L'b', s)) FAST(fputwc_unlocked, fputwc_unlocked(L'c', s)) FAST(putwc_unlocked, putwc_unlocked(L'd', s)) \
	FAST(ungetwc, (fgetwc(s), ungetwc(L'x', s))) \
	FAST(fgetws, (long) fgetws(wide, 40, s)) FAST(fgetws_unlocked, (long) fgetws_unlocked(wide, 40, s)) \
	FAST(__fgetws_chk, (long) __fgetws_chk(wide, 256, 40, s)) FAST(__fgetws_unlocked_chk, (long) __fgetws_unlocked_chk(wide, 256, 40, s)) \
	FAST(fputws, fputws(L"wide\n", s)) FAST(fputws_unlocked, fputws_unlocked(L"wide\n", s)) \
	FAST(fprintf, fprintf(s, "%d %s %g\n", 1, "two", 3.0)) FAST(_IO_fprintf, _IO_fprintf(s, "%d %s %g\n", 1, "two", 3.0)) \
	FAST(__fprintf_chk, __fprintf_chk(s, 1, "%d %s %g\n", 1, "two", 3.0)) \
	FAST(vfprintf, with_list(vfprintf, s, "%d %s %g %d %d %d\n", 1, "two", 3.0, 4, 5, 6)) FAST(_IO_vfprintf, with_list(_IO_vfprintf, s, "%d %g\n", 1, 2.0)) \
	FAST(__vfprintf_chk, ({ long checked(FILE *f, const char *format, ...) { va_list list; va_start(list, format); long r = __vfprintf_chk(f, 1, format, list); va_end(list); return r; } checked(s, "%d %g\n", 1, 2.0); })) \
	FAST(fwprintf, fwprintf(s, L"%d %g\n", 1, 2.0)) FAST(vfwprintf, with_wide_list(vfwprintf, s, L"%d %g\n", 1, 2.0)) \
	FAST(__fwprintf_chk, __fwprintf_chk(s, 1, L"%d %g\n", 1, 2.0)) \
	FAST(__vfwprintf_chk, ({ long checked(FILE *f, const wchar_t *format, ...) { va_list list; va_start(list, format); long r = __vfwprintf_chk(f, 1, format, list); va_end(list); return r; } checked(s, L"%d %g\n", 1, 2.0); })) \
	FAST(fscanf, fscanf_original(s, "%d", &number)) FAST(__isoc99_fscanf, __isoc99_fscanf(s, "%d", &number)) \
	FAST(vfscanf, with_list(vfscanf_original, s, "%d", &number)) FAST(__vfscanf, with_list(__vfscanf, s, "%d", &number)) \
	FAST(__isoc99_vfscanf, with_list(__isoc99_vfscanf, s, "%d", &number)) \
	FAST(fwscanf, fwscanf_original(s, L"%d", &number)) FAST(__isoc99_fwscanf, __isoc99_fwscanf(s, L"%d", &number)) \
	FAST(vfwscanf, with_wide_list(vfwscanf_original, s, L"%d", &number)) FAST(__isoc99_vfwscanf, with_wide_list(__isoc99_vfwscanf, s, L"%d", &number)) \
	SLOW(fgetgrent, (long) !fgetgrent(s)) SLOW(fgetgrent_r, ({ struct group g, *p; fgetgrent_r(s, &g, text, sizeof text, &p); })) \
	SLOW(fgetpwent, (long) !fgetpwent(s)) SLOW(fgetpwent_r, ({ struct passwd g, *p; fgetpwent_r(s, &g, text, sizeof text, &p); })) \
	SLOW(fgetspent, (long) !fgetspent(s)) SLOW(fgetspent_r, ({ struct spwd g, *p; fgetspent_r(s, &g, text, sizeof text, &p); })) \
	SLOW(fgetsgent, (long) !fgetsgent(s)) SLOW(fgetsgent_r, ({ struct sgrp g, *p; fgetsgent_r(s, &g, text, sizeof text, &p); })) \
	SLOW(putgrent, ({ char *none[] = { NULL }; struct group g = { "name", "x", 7, none }; putgrent(&g, s); })) \
	SLOW(putpwent, ({ struct passwd g = { "name", "x", 7, 8, "gecos", "/", "/bin/sh" }; putpwent(&g, s); })) \
	SLOW(putspent, ({ struct spwd g = { "name", "x", 1, 2, 3, 4, 5, 6, 0 }; putspent(&g, s); })) \
	SLOW(putsgent, ({ char *none[] = { NULL }; struct sgrp g = { "name", "x", none, none }; putsgent(&g, s); })) \
	SLOW(getmntent, (long) !getmntent(s)) SLOW(getmntent_r, ({ struct mntent m; (long) !getmntent_r(s, &m, text, sizeof text); })) \
	SLOW(__getmntent_r, ({ struct mntent m; (long) !__getmntent_r(s, &m, text, sizeof text); })) \
	SLOW(addmntent, ({ struct mntent m = { "/dev/sdb", "/mnt", "ext4", "rw", 0, 0 }; addmntent(s, &m); })) \
	SLOW(argp_help, ({ static const struct argp parser = { .doc = "Does something." }; argp_help(&parser, s, ARGP_HELP_STD_HELP, "program"); 0; })) \
	SLOW(fflush, (fputc('f', s), fflush(s))) SLOW(_IO_fflush, (fputc('f', s), _IO_fflush(s))) SLOW(fflush_unlocked, (fputc('f', s), fflush_unlocked(s))) \
	 \
	FAST(flockfile, (flockfile(s), fputc('x', s), funlockfile(s), 0)) FAST(ftrylockfile, ({ long r = ftrylockfile(s); funlockfile(s); r; })) \
	FAST(_IO_flockfile, (_IO_flockfile(s), fputc('x', s), _IO_funlockfile(s), 0)) FAST(_IO_ftrylockfile, ({ long r = _IO_ftrylockfile(s); _IO_funlockfile(s); r; })) \
	FAST(getchar, getchar()) FAST(getchar_unlocked, getchar_unlocked()) FAST(getwchar, getwchar()) FAST(getwchar_unlocked, getwchar_unlocked()) \
	FAST(gets, (long) gets(text)) FAST(_IO_gets, (long) _IO_gets(text)) FAST(__gets_chk, (long) __gets_chk(text, sizeof text)) \
	FAST(scanf, scanf_original("%d", &number)) FAST(__isoc99_scanf, __isoc99_scanf("%d", &number)) \
	FAST(vscanf, with_list_only(vscanf_original, "%d", &number)) FAST(__isoc99_vscanf, with_list_only(__isoc99_vscanf, "%d", &number)) \
	FAST(wscanf, wscanf_original(L"%d", &number)) FAST(__isoc99_wscanf, __isoc99_wscanf(L"%d", &number)) \
	FAST(vwscanf, with_wide_list_only(vwscanf_original, L"%d", &number)) FAST(__isoc99_vwscanf, with_wide_list_only(__isoc99_vwscanf, L"%d", &number)) \
	FAST(putchar, putchar('p')) FAST(putchar_unlocked, putchar_unlocked('q')) FAST(putwchar, putwchar(L'r')) FAST(putwchar_unlocked, putwchar_unlocked(L's')) \
	FAST(puts, puts("put")) FAST(_IO_puts, _IO_puts("put")) FAST(printf, printf("%d %g\n", 1, 2.0)) FAST(_IO_printf, _IO_printf("%d %g\n", 1, 2.0)) \
	FAST(__printf_chk, __printf_chk(1, "%d %g\n", 1, 2.0)) FAST(vprintf, with_list_only(vprintf, "%d %g\n", 1, 2.0)) \
	FAST(__vprintf_chk, ({ long checked(const char *format, ...) { va_list list; va_start(list, format); long r = __vprintf_chk(1, format, list); va_end(list); return r; } checked("%d %g\n", 1, 2.0); })) \
	FAST(wprintf, wprintf(L"%d %g\n", 1, 2.0)) FAST(__wprintf_chk, __wprintf_chk(1, L"%d %g\n", 1, 2.0)) \
	FAST(vwprintf, with_wide_list_only(vwprintf, L"%d %g\n", 1, 2.0)) \
	FAST(__vwprintf_chk, ({ long checked(const wchar_t *format, ...) { va_list list; va_start(list, format); long r = __vwprintf_chk(1, format, list); va_end(list); return r; } checked(L"%d %g\n", 1, 2.0); })) \
	SLOW(perror, (errno = ENOENT, perror("message"), 0)) SLOW(psignal, (psignal(SIGTERM, "message"), 0)) \
	SLOW(psiginfo, ({ siginfo_t i = { .si_signo = SIGTERM }; psiginfo(&i, "message"); 0; })) \
	SLOW(warn, (errno = ENOENT, warn("%d", 1), 0)) SLOW(warnx, (warnx("%g", 2.0), 0)) SLOW(vwarn, void_with_list(vwarn, "%d", 1)) SLOW(vwarnx, void_with_list(vwarnx, "%d", 1)) \
	SLOW(herror, (h_errno = HOST_NOT_FOUND, herror("message"), 0)) \
	SLOW(error, ({ unsigned before = error_message_count; error(0, ENOENT, "%d", 1); error_message_count - before; })) SLOW(error_at_line, (error_at_line(0, ENOENT, "file", 7, "%g", 1.0), 0))

#define DEFINE(name, expression) \
	static long operation_##name(FILE *s) { \
		(void) s; \
		return (long) (expression); \
	}
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
OPERATIONS(DEFINE, DEFINE)
#define RUN(name, count) \
	static void check_##name(void) { \
		static const struct operation operation = { #name, operation_##name, count }; \
		compare(&operation); \
	}
#define RUN_FAST(name, expression) RUN(name, 100000)
#define RUN_SLOW(name, expression) RUN(name, 5000)
OPERATIONS(RUN_FAST, RUN_SLOW)

/* With its lock released, a function is preempted again. */
#define UNLOCKS(name, lock, unlock) \
	static void unlock_##name(void *unused) { \
		(void) unused; \
		for (int i = 0; i < 10; i++) { \
			lock(stdout); \
			unlock(stdout); \
		} \
		REQUIRE(is_preempted(10)); \
	} \
	static void check_##name(void) { \
		inside(unlock_##name, NULL); \
	}
UNLOCKS(unlock, flockfile, funlockfile)
UNLOCKS(IO_unlock, _IO_flockfile, _IO_funlockfile)

/* ------------------------------------------------------------------ closing */

/* What was closed is on no list: the C library would walk into memory that has another use now. Looked
 * up at run time, so that the linker does not copy the variable. */
static void look_at_list(void) {
	FILE **list = dlsym(RTLD_DEFAULT, "_IO_list_all");
	REQUIRE(list);
	for (FILE *open = *list; open; open = open->_chain)
		REQUIRE(open != stream);
}

static void closing_inside(void *unused) {
	(void) unused;
	REQUIRE(fputs("inside\n", stream) >= 0 && !fclose(stream));
}
static void check_fclose(void) {
	stream = tmpfile();
	int copy = dup(fileno(stream));
	fputs("outside\n", stream);
	inside(closing_inside, NULL);
	look_at_list();
	char buffer[64] = { 0 };
	REQUIRE(pread(copy, buffer, sizeof buffer, 0) == 15 && !strcmp(buffer, "outside\ninside\n"));
}

static void reopening_inside(void *unused) {
	(void) unused;
	REQUIRE(freopen("/dev/null", "w", stream) == stream && fputs("inside\n", stream) >= 0);
}
static void reopening64_inside(void *unused) {
	(void) unused;
	REQUIRE(freopen64("/dev/null", "w", stream) == stream && fputs("inside\n", stream) >= 0);
}
static void check_freopen64(void) {
	stream = tmpfile();
	fputs("outside\n", stream);
	inside(reopening64_inside, NULL);
	REQUIRE(fputs("outside\n", stream) >= 0 && !fclose(stream));
	look_at_list();
}
static void check_freopen(void) {
	stream = tmpfile();
	fputs("outside\n", stream);
	inside(reopening_inside, NULL);
	REQUIRE(fputs("outside\n", stream) >= 0 && !fclose(stream));
	look_at_list();
}

static void ending_inside(void *unused) {
	(void) unused;
	REQUIRE(endmntent(stream) == 1);
}
static void check_endmntent(void) {
	stream = setmntent("/proc/mounts", "r");
	REQUIRE(stream && getmntent(stream));
	inside(ending_inside, NULL);
	look_at_list();
}

static void waiting_inside(void *unused) {
	(void) unused;
	REQUIRE(pclose(stream) == 3 << 8);
}
static void check_pclose(void) {
	stream = popen("exit 3", "r");
	REQUIRE(stream);
	inside(waiting_inside, NULL);
	look_at_list();
}

static void all_inside(void *unused) {
	(void) unused;
	FILE *own = fopen("/dev/null", "w");
	REQUIRE(own && fputs("x", own) >= 0);
	fcloseall();
	_exit(0);
}
static void closing_all(void) {
	stream = fopen(paths[0], "w");
	fputs("outside\n", stream);
	inside(all_inside, NULL);
}
static void check_fcloseall(void) {
	REQUIRE(in_child(closing_all) == 0);
	int file = open(paths[0], O_RDONLY);
	char buffer[64] = { 0 };
	ssize_t length = read(file, buffer, sizeof buffer);
	REQUIRE(length == 8, length);
}

/* "All streams" are the function's own and the program's: what both hold is written out. */
#define FLUSHES(name, call) \
	static void flush_##name(void *own) { \
		*(FILE **) own = tmpfile(); \
		setlinebuf(*(FILE **) own); \
		fputs("inside", *(FILE **) own); \
		call; \
		char buffer[64]; \
		REQUIRE(pread(fileno(*(FILE **) own), buffer, sizeof buffer, 0) == 6); \
	} \
	static void check_##name(void) { \
		stream = tmpfile(); \
		setlinebuf(stream); \
		fputs("outside", stream); \
		FILE *own; \
		inside(flush_##name, &own); \
		char buffer[64]; \
		REQUIRE(pread(fileno(stream), buffer, sizeof buffer, 0) == 7); \
	}
FLUSHES(fflush_all, fflush(NULL))
FLUSHES(flushlbf_all, _flushlbf())
FLUSHES(IO_flush_all, _IO_flush_all())
FLUSHES(IO_flush_all_linebuffered, _IO_flush_all_linebuffered())

/* ------------------------------------------------------------------ opening: nothing is left behind */

#define LEAVES_NOTHING(name, ...) \
	static void forever_##name(void *unused) { \
		(void) unused; \
		for (;;) { \
			__VA_ARGS__; \
		} \
	} \
	static void check_##name(void) { \
		cancel_often(forever_##name, 20); \
		size_t before = count_descriptors(); \
		cancel_often(forever_##name, sliced ? 2000 : 200); \
		REQUIRE(count_descriptors() == before, count_descriptors() - before); \
	}
LEAVES_NOTHING(fopen, fclose(fopen("/dev/null", "r")))
LEAVES_NOTHING(fopen64, fclose(fopen64("/dev/null", "r")))
LEAVES_NOTHING(tmpfile, fclose(tmpfile()))
LEAVES_NOTHING(setmntent, endmntent(setmntent("/etc/passwd", "r")))

static void own_stream(void *unused) {
	(void) unused;
	ROUNDS(5000) {
		char *memory = NULL;
		size_t size = 0;
		FILE *own = open_memstream(&memory, &size);
		REQUIRE(own && fprintf(own, "%d %s", 1, "two") == 5 && !fclose(own) && size == 5 && !strcmp(memory, "1 two"));
		free(memory);
		own = fopen("/proc/self/stat", "r");
		int pid;
		REQUIRE(own && fscanf(own, "%d", &pid) == 1 && pid == getpid() && !fclose(own));
	}
}
static void check_own(void) {
	inside(own_stream, NULL);
}

/* ------------------------------------------------------------------ messages that end the process */

static int ending_status(void (*function)(void *), const char *message) {
	pid_t child = fork();
	if (!child) {
		REQUIRE(freopen(paths[3], "w", stderr));
		inside(function, NULL);
		_exit(98);
	}
	int status;
	REQUIRE(waitpid(child, &status, 0) == child);
	char buffer[256] = { 0 };
	int file = open(paths[3], O_RDONLY);
	REQUIRE(read(file, buffer, sizeof buffer - 1) >= 0);
	REQUIRE(strstr(buffer, message), status);
	return WIFSIGNALED(status) ? WTERMSIG(status) : status;
}
#define ENDS(name, expected, ...) \
	static void end_##name(void *unused) { \
		(void) unused; \
		errno = ENOENT; \
		__VA_ARGS__; \
	} \
	static void check_##name(void) { \
		REQUIRE(ending_status(end_##name, "the message") == (expected)); \
	}
static void call_verr(void (*function)(int, const char *, va_list), const char *format, ...) {
	va_list list;
	va_start(list, format);
	function(7, format, list);
}
void __assert(const char *, const char *, int);
void __assert_fail(const char *, const char *, unsigned, const char *), __assert_perror_fail(int, const char *, unsigned, const char *);
ENDS(err, 7 << 8, err(7, "the message"))
ENDS(errx, 7 << 8, errx(7, "the message"))
ENDS(verr, 7 << 8, call_verr(verr, "the message"))
ENDS(verrx, 7 << 8, call_verr(verrx, "the message"))
ENDS(assert_fail, SIGABRT, __assert_fail("the message", "file", 1, "function"))
ENDS(assert, SIGABRT, __assert("the message", "file", 1))
ENDS(assert_perror_fail, SIGABRT, __assert_perror_fail(ENOENT, "the message", 1, "function"))

#define LIST(name, expression) { #name, #name, check_##name },
const struct check checks[] = {
	OPERATIONS(LIST, LIST)
	{ "unlock", "funlockfile", check_unlock },
	{ "IO_unlock", "_IO_funlockfile", check_IO_unlock },
	{ "fclose", "fclose,_IO_fclose", check_fclose },
	{ "freopen", "freopen", check_freopen },
	{ "freopen64", "freopen64", check_freopen64 },
	{ "flush_all_streams", "fflush,_IO_fflush", check_fflush_all },
	{ "flush_lines", "_flushlbf", check_flushlbf_all },
	{ "flush_all", "_IO_flush_all", check_IO_flush_all },
	{ "flush_all_lines", "_IO_flush_all_linebuffered", check_IO_flush_all_linebuffered },
	{ "endmntent", "endmntent,__endmntent", check_endmntent },
	{ "pclose", "pclose", check_pclose },
	{ "fcloseall", "fcloseall", check_fcloseall },
	{ "open", "fopen,_IO_fopen", check_fopen },
	{ "open64", "fopen64", check_fopen64 },
	{ "tmpfile", "tmpfile,tmpfile64", check_tmpfile },
	{ "setmntent", "setmntent,__setmntent", check_setmntent },
	{ "own", "-", check_own },
	{ "err", "err", check_err },
	{ "errx", "errx", check_errx },
	{ "verr", "verr", check_verr },
	{ "verrx", "verrx", check_verrx },
	{ "assert_fail", "__assert_fail", check_assert_fail },
	{ "assert", "__assert", check_assert },
	{ "assert_perror_fail", "__assert_perror_fail", check_assert_perror_fail },
	{ NULL, NULL, NULL },
};
