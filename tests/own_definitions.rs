//! A program that defines functions of the C library itself: inside functions they are the program's too. (Those whose
//! policy is "own copy, not preempted" once led to an address that was computed as if it lay in the C library.)

#[path = "support/c.rs"]
mod c;

use std::process::Command;

const LIBRARY: &str = r#"
#include <dirent.h>
#include <syslog.h>
void use_them(void) { openlog("x", 0, LOG_USER); closelog(); seekdir((DIR *) 16, 7); }
"#;

const PROGRAM: &str = r#"
#include <libinger.h>
#include <stdio.h>
#include <dirent.h>
#include <syslog.h>
#include <error.h>
#include <stdarg.h>
#include <time.h>

void use_them(void);
static int closed, sought;
void closelog(void) { closed++; }                                       /* has a row */
void seekdir(DIR *folder, long to) { (void) folder; sought += to; }     /* has none */

/* What the library needs for its own work it takes from the C library. */
int clock_gettime(clockid_t clock, struct timespec *now) { (void) clock; *now = (struct timespec) { 0 }; return 0; }
int vasprintf(char **text, const char *format, va_list list) { (void) format; (void) list; *text = NULL; return -1; }

static void spin(void *argument) {
	(void) argument;
	for (;;)
		;
}

static void report(void *argument) {
	error(0, 0, "number %d", *(int *) argument);
}

static void inside(void *argument) {
	(void) argument;
	use_them();
}

int main(void) {
	use_them();
	linger_t linger = launch(inside, UINT64_MAX, NULL);
	printf("error %d, closed %d, sought %d\n", linger.error, closed, sought);
	fflush(stdout);
	int number = 7;
	linger = launch(report, UINT64_MAX, &number);
	linger = launch(spin, 2000, NULL);
	printf("complete %d", linger.is_complete);
	return 0;
}
"#;

/// A heap on top of the C library's, as programs have it that count what they use.
const COUNTED_HEAP: &str = r#"
#include <libinger.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void __libc_free(void *);

static int taken, freed;
void *malloc(size_t size) { taken++; return __libc_malloc(size); }
void *calloc(size_t count, size_t size) { taken++; return __libc_calloc(count, size); }
void *realloc(void *block, size_t size) { return __libc_realloc(block, size); }
void free(void *block) { freed += !!block; __libc_free(block); }

enum { BLOCKS = 1000 };
static char *blocks[BLOCKS];

/* What is outside is changed and freed inside, and the other way round. */
static void inside(void *argument) {
	(void) argument;
	taken = freed = 0;
	for (int i = 0; i < BLOCKS; i++) {
		blocks[i] = realloc(blocks[i], 100 + i);
		if (i % 2)
			free(blocks[i]);
		char *copy = strdup(i % 2 ? "odd" : "even");
		if (i % 2)
			blocks[i] = copy;
		else
			free(copy);
	}
}

int main(void) {
	for (int i = 0; i < BLOCKS; i++)
		blocks[i] = calloc(1, 10 + i % 50);
	linger_t linger = launch(inside, 20, NULL);
	while (!linger.is_complete && !linger.error)
		resume(&linger, 20);
	/* The launcher may take some, too. */
	printf("error %d, %s", linger.error, taken >= BLOCKS && freed >= BLOCKS ? "counted" : "not counted");
	for (int i = 0; i < BLOCKS; i++)
		free(blocks[i]);
	/* Blocks are freed here without the library's knowing: what a function has is not told apart. */
	linger_options_t options = { .size_bytes = sizeof options, .tracks_heap = true };
	linger = linger_launch_with(&options, inside, 20, NULL);
	printf(", %s", strerror(linger.error));
	return 0;
}
"#;

#[test]
fn are_used_inside_too() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str| folder.path().join(name);
    std::fs::write(file("use.c"), LIBRARY).expect("the folder is new");
    std::fs::write(file("main.c"), PROGRAM).expect("the folder is new");
    let library = c::library_folder();
    c::run(c::compiler().args(["-fPIC", "-shared"]).arg(file("use.c")).arg("-o").arg(file("libuse.so")));
    c::run(
        c::compiler()
            .arg(file("main.c"))
            .arg("-o")
            .arg(file("main"))
            .arg("-L")
            .arg(folder.path())
            .arg("-luse")
            .arg("-L")
            .arg(&library)
            .arg("-linger"),
    );
    let paths = std::env::join_paths([folder.path(), &library]).expect("paths without colons");
    let output = c::run(Command::new(file("main")).env("LD_LIBRARY_PATH", paths));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "error 0, closed 2, sought 14\ncomplete 0");
    assert!(String::from_utf8_lossy(&output.stderr).ends_with(": number 7\n"), "{:?}", output.stderr);
}

#[test]
fn a_heap_may_stand_on_the_c_librarys() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str| folder.path().join(name);
    std::fs::write(file("main.c"), COUNTED_HEAP).expect("the folder is new");
    let library = c::library_folder();
    let mut compiler = c::compiler();
    c::run(compiler.arg(file("main.c")).arg("-o").arg(file("main")).arg("-L").arg(&library).arg("-linger"));
    let output = c::run(Command::new(file("main")).env("LD_LIBRARY_PATH", &library));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "error 0, counted, Function not implemented");
}
