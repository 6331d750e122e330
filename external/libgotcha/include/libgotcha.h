/* libgotcha: a private copy of every shared library for each unit of work, and calls routed to it.
 *
 * A *libset* is a full set of copies of the program's shared libraries.  Libset 0, the *starting
 * libset*, is what the dynamic linker loaded.  libgotcha rewrites the global offset tables (GOTs)
 * of the starting libset so that each dynamic call goes through a 16-byte trampoline, which sends
 * it to the copy that belongs to the calling kernel thread's *next libset*.  Switching libsets is
 * one store to a thread-local word.
 *
 * A program links this library statically and steers it with the calls below: that code is the
 * *control library*.  Nothing happens before the first call of libgotcha_init() or
 * libgotcha_group_new(); a program that never calls them pays nothing.
 *
 * In this interface a libset is called by its historic name, *group*.
 *
 * Supported: x86-64 Linux, glibc 2.34 and later.  Everything else is refused with an error.
 *
 * Errors: calls that can fail return an error value, and libgotcha_error() names the cause.
 * Nothing prints, nothing aborts on a user's mistake.
 *
 * Environment, read once by libgotcha_init() and ignored in a set-user-ID program:
 *   LIBGOTCHA_NUMGROUPS  most libsets that may exist, besides the starting one (default: no cap
 *                        but what the engine can hold)
 *   LIBGOTCHA_LOADER     engine that makes the copies, and no other then: "clone", "dlmopen"
 *                        (default: "clone", and "dlmopen" where that cannot)
 *   LIBGOTCHA_SHARED     colon-separated file names of libraries that are not copied: their
 *                        functions, and callbacks that these make, run in the starting libset,
 *                        and are not preempted; they may be left by returning, longjmp() or an
 *                        exception
 *   LIBGOTCHA_SKIP       colon-separated names of programs in which libgotcha stays dormant
 *   LIBGOTCHA_TRACE      "libsets": a line on standard error for each libset made or retired, and
 *                        if the default engine cannot make them; "calls": for each call from inside
 *                        a libset, on a control library's thread pointer, that has a row in the
 *                        policy table or is a shared library's; "signals": for what the control
 *                        library does with the preemption signal; several with commas in between
 *   LIBGOTCHA_GDB        "1": debuggers are told of the clone engine's copies
 *   LIBGOTCHA_NOFSGSBASE set: thread pointers are set by a system call even where an instruction could
 */
#ifndef LIBGOTCHA_H
#define LIBGOTCHA_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A libset's number. */
typedef long libgotcha_group_t;

/* The starting libset. */
#define LIBGOTCHA_GROUP_SHARED ((libgotcha_group_t) 0)
/* No libset: the call failed. */
#define LIBGOTCHA_GROUP_ERROR ((libgotcha_group_t) -1)

/* Starts interception: walks the loaded objects, checks that the system is one this library knows,
 * and rewrites the GOTs.  Idempotent and thread-safe; a second call returns what the first did.
 * Returns 0, or a negative errno value: -ENOSYS unsupported system, -EBUSY another copy of this
 * library is at work in the process, -ECANCELED dormant by LIBGOTCHA_SKIP, -ENOMEM. */
int libgotcha_init(void);

/* The cause of the process's last failed call, as a sentence; "" if none failed. */
const char *libgotcha_error(void);

/* Takes a free libset, creating one if there is none.  Returns its number, or
 * LIBGOTCHA_GROUP_ERROR when the limit is reached or the engine failed. */
libgotcha_group_t libgotcha_group_new(void);

/* Returns `group` to its pristine state: all its libraries as they were just after they were
 * initialised.  Nothing may be running in it.  True on success; false if it cannot be renewed
 * (threads started in it still live), in which case it is retired: never handed out again. */
bool libgotcha_group_renew(libgotcha_group_t group);

/* Gives `group` back without rolling it back; a later libgotcha_group_new() may return it. */
void libgotcha_group_free(libgotcha_group_t group);

/* The number of libsets, besides the starting one, that can exist at the same time.  An upper
 * bound: it becomes exact once the engine has reached it. */
size_t libgotcha_group_limit(void);

/* This kernel thread's next libset: where its intercepted calls go. */
libgotcha_group_t libgotcha_group_thread_get(void);

/* Sets this kernel thread's next libset, and returns the previous one; LIBGOTCHA_GROUP_ERROR, and
 * no effect, if there is no such libset.  Code of a libset is to run on a thread control block of
 * its own (libgotcha_tcb_new) when it may be interleaved with other code of the same thread. */
libgotcha_group_t libgotcha_group_thread_set(libgotcha_group_t group);

/* The libset from which the control library was called: inside an intercepted call or a shared
 * function, the caller's; elsewhere the same as libgotcha_group_thread_get(). */
libgotcha_group_t libgotcha_group_caller(void);

/* Address of the definition of `name` (a function or data) in `group`'s copies, or NULL. */
void *libgotcha_group_symbol(libgotcha_group_t group, const char *name);

/* The same, from one library, named by its file name ("libz.so.1") or full path. */
void *libgotcha_group_symbol_from(libgotcha_group_t group, const char *name, const char *library);

/* Installs `hook`, called each time a call that was carried out in the starting libset on behalf
 * of another libset has finished; it runs in the caller's libset, just before the caller goes on.
 * NULL removes it.  The hook may make any call.  It is not called when such a call is left by longjmp(). */
void libgotcha_shared_hook(void (*hook)(void));

/* The functions of the C library that libgotcha overrides, as they were before: for the control
 * library's own use. */
int libgotcha_sigaction(int, const struct sigaction *, struct sigaction *);
int libgotcha_pthread_sigmask(int, const sigset_t *, sigset_t *);
void *libgotcha_dlsym(void *, const char *);

#ifdef __cplusplus
}
#endif
#endif
