/* libinger: call any function with a timeout, on the caller's own kernel thread (x86-64 Linux, glibc 2.34
 * and later).
 *
 *     linger_t linger = launch(function, 5000, argument);
 *     while (!linger.is_complete && !linger.error)
 *         resume(&linger, 5000);
 *
 * launch() returns when the function has returned or its time is up, whichever comes first. In the
 * second case it stopped wherever it was, in the middle of a C library if need be, and can be resumed
 * or cancelled, at any time, by any kernel thread. Meanwhile everybody else can use the same
 * libraries: each function runs against its own copy of every shared library of the program.
 *
 * Link with -linger. Nothing else is needed: no environment variable, no other flag. The program is
 * dynamically linked, PIE or not; or it opens libinger.so with dlopen().
 *
 * Units: budgets are in microseconds, of the monotonic clock. 0 does not run the function, UINT64_MAX
 * sets no limit.
 *
 * Errors: nothing prints, and nothing aborts on a mistake such as a null pointer. The handle's `error`
 * is 0 or an errno value, and linger_error() names the cause.
 *
 * What is shared, and what is not. The heap is the process's: memory allocated inside can be freed
 * outside, and the other way round. So are files, environment, signal handlers, and the program's own
 * variables. The libraries' variables are the function's (strtok()'s, rand()'s, setlocale()'s, errno):
 * as at the program's start, or as an earlier function that has returned left them. Functions of the
 * program's own are interrupted like all others: what they share with the launcher needs the care
 * that threads need. A launcher that waits for a lock (mutex, read-write lock, spin lock, pthread_once())
 * which a function holds where it was preempted lets that function go on, in slices of 50 us, until it has
 * released it; so a function may come to its end while its launcher waits. One that holds the lock in
 * pause(), or whose handle another kernel thread has, is waited for in vain: linger_defer() around the
 * section prevents that.
 *
 * The process: exit() inside a function ends it, fork() copies it, unfinished functions included.
 * SIGALRM preempts; the program can use it all the same, with alarm(), setitimer() and sigaction().
 *
 * Not supported: static linking of the C library, sanitizers, leaving a function by longjmp() or
 * by a C++ exception.
 *
 * Macros, to be defined before inclusion:
 *   LINGER_NO_PAUSE    pause() stays POSIX pause(2); linger_pause() stops a function
 *   LINGER_NO_ALIASES  launch, resume and cancel are not declared, only linger_launch and so on */
#ifndef LIBINGER_H
#define LIBINGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LINGER_ALIGNED(bytes) __attribute__((aligned(bytes)))

/**
 * A preemptible function: finished, stopped, or failed.
 *
 * It belongs to whoever launched it, may be moved and stored, but a copy and the original must not both
 * be used. One kernel thread uses it at a time; it need not always be the same. A handle that is
 * neither complete nor cancelled holds memory and a set of libraries until it is.
 *
 * A handle that is all zero has no function: resuming it fails with EINVAL, cancelling it does nothing.
 */
typedef struct LINGER_ALIGNED(8) {
    /**
     * The function has returned.
     */
    bool is_complete;
    /**
     * The function stopped last by itself, by pause(); not because its time was up.
     */
    bool is_yielded;
    /**
     * 0, or the errno value of what went wrong in the last call with this handle:
     * - EAGAIN: as many functions are unfinished as this process can have; see linger_concurrency_limit().
     * - EINVAL: the function is null, the handle has none, or it is running now.
     * - ENOMEM: there is no memory for another function.
     * - ECANCELED: the function was cancelled, maybe with the one that had launched it, or ended its thread
     *   (pthread_exit()) instead of returning.
     * - ENOSYS: this process cannot run preemptible functions; linger_error() says why.
     * - Others: the system refused a timer or the like, and linger_error() says what.
     */
    int error;
    /**
     * The library's own; null if there is nothing to resume or to cancel.
     */
    void *continuation;
} linger_t;

/**
 * How a function is to be launched: see linger_launch_with(). All zero but for the size: as linger_launch() does.
 */
typedef struct {
    /**
     * sizeof(linger_options_t). What a later version adds to the end is zero for programs that do not know it.
     */
    size_t size_bytes;
    /**
     * The function's stack has at least that many bytes, rounded up to whole pages; at least 64 KiB. 0: the usual 2 MiB.
     */
    size_t stack_size_bytes;
    /**
     * Budgets, those of its resumes included, are the processor time of the kernel thread that runs it
     * (CLOCK_THREAD_CPUTIME_ID), not elapsed time: sleeping and waiting do not count.
     */
    bool counts_cpu_time;
    /**
     * What the function allocates is noted, for linger_cancel_reclaim().
     */
    bool tracks_heap;
    /**
     * So are the descriptors that it opens.
     */
    bool tracks_descriptors;
    /**
     * For later versions: zero.
     */
    uint8_t reserved[5];
} linger_options_t;

/**
 * What the library has done in this process so far: see linger_stats().
 */
typedef struct {
    /**
     * Functions that have started.
     */
    uint64_t launches;
    /**
     * Functions that have returned.
     */
    uint64_t completions;
    /**
     * How often a function has stopped by itself, in pause().
     */
    uint64_t pauses;
    /**
     * How often a function was stopped because its time was up.
     */
    uint64_t preemptions;
    /**
     * Expiries that came where the function could not be stopped: it was, or was to be, a moment later.
     */
    uint64_t deferred;
    /**
     * Slices of the time of a thread that waited for a lock.
     */
    uint64_t donations;
    /**
     * Signals of the program's with the number of the library's own, SIGALRM, which were handed on.
     */
    uint64_t forwarded_signals;
    /**
     * Functions that were cancelled in mid-run, and those that ended with them.
     */
    uint64_t cancellations;
    /**
     * Functions of Rust programs among these whose stack is never used again.
     */
    uint64_t abandoned;
    /**
     * Sets of copies of libraries: made, ...
     */
    uint64_t libsets_made;
    /**
     * ...that hold an unfinished function now, ...
     */
    uint64_t libsets_in_use;
    /**
     * ...and that are never used again, because threads that were started in them have outlived their function.
     */
    uint64_t libsets_retired;
    /**
     * How late preemptions were: entry i counts those that came less than 2^i us, and not less than half of that, after
     * their deadline; the last one all that came later.
     */
    uint64_t overshoot[24];
} linger_stats_t;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Calls `function(argument)` on the calling kernel thread, for at most `us` microseconds.
 *
 * Returns when the function has returned, has called pause(), or its time is up. `us` 0 prepares the
 * function without running it; UINT64_MAX sets no limit. To the function it looks as if it ran
 * on a thread of its own: errno, thread-locals and the state of every shared library are its own;
 * heap, files, environment and the program's own variables are the process's. It may launch others.
 *
 * Errors:
 * In the handle's `error`; then nothing has run, unless `error` is ECANCELED.
 *
 * Safety:
 * `function` may be called with `argument`, now and on any kernel thread that resumes it; what the
 * argument points to stays valid until the handle is complete or cancelled. The function leaves by
 * returning or by pthread_exit(): no longjmp() and no C++ exception goes beyond it.
 */
linger_t linger_launch(void (*function)(void*), uint64_t us, void *argument);

/**
 * The same as linger_launch(), with these options; null: without.
 *
 * Errors:
 * As linger_launch(). EINVAL too if the options' size is none, or they ask for what this version does not know, by a byte that
 * is to be zero; ENOSYS if `tracks_heap` is asked for and the process has another malloc() than the C library's.
 *
 * Safety:
 * As for linger_launch(); and `options` points to a structure of its size.
 */
linger_t linger_launch_with(const linger_options_t *options, void (*function)(void*), uint64_t us, void *argument);

/**
 * Lets an unfinished function go on, on the calling kernel thread, for at most `us` microseconds.
 *
 * Returns when the function has returned, has called pause(), or its time is up. The time is
 * counted anew. Does nothing if `linger` is null or complete, or `us` is 0; UINT64_MAX sets no limit.
 *
 * Errors:
 * In the handle's `error`. A function that could not be resumed is still there unless `error` is
 * ECANCELED.
 *
 * Safety:
 * `linger` is null, or points to a handle that no other kernel thread uses now.
 */
void linger_resume(linger_t *linger, uint64_t us);

/**
 * Cancels an unfinished function: it never goes on, and its stack, thread-locals and libraries are used
 * again for other functions. So are those of the functions that were running inside it when it stopped, and of
 * others that it had launched, or had been the last to resume, and not finished: they are cancelled with it. Handles of
 * these that lie elsewhere say so when they are used next, by ECANCELED.
 *
 * Afterwards the handle's `error` is ECANCELED. Does nothing if `linger` is null, complete, or has no
 * function. What the function had allocated and not freed is leaked (but see linger_cancel_reclaim()), as are
 * descriptors that it had open (but for those of its stdio streams, which are closed, unwritten contents lost). If it holds
 * mutexes or read-write locks it goes on before, for up to a millisecond, until it has released them; what it holds then stays
 * taken, and who waits for that for a second is told on standard error. See linger_defer().
 *
 * Safety:
 * As for linger_resume(). And nothing outside uses, from now on, what lies on the function's stack or
 * in its thread-locals: what it has given to other threads, and what it has entered into lists that
 * live on.
 */
void linger_cancel(linger_t *linger);

/**
 * The same as linger_cancel(), and frees what the function had allocated and not freed, if it was launched with
 * `tracks_heap`, and closes what it had opened and not closed, with `tracks_descriptors`; so it does for those that are
 * cancelled with it.
 *
 * What counts is what the function has asked malloc() and its like for, itself or libraries in its name (strdup(), regcomp(),
 * operator new), and nobody has freed yet. Not counted are what threads of its own allocate, and what
 * libraries do that are shared. What functions that it has launched return is its. The child of a fork that comes while
 * another thread allocates in such a function frees nothing that was allocated before.
 *
 * Descriptors count that it gets from open(), openat(), creat(), socket(), socketpair(), accept(), pipe(), dup(), fcntl(),
 * eventfd(), epoll_create(), timerfd_create(), signalfd(), inotify_init(), memfd_create(), mkstemp(), opendir() and their
 * variants. Streams are closed in any case, with the descriptors that they were made of (fdopen()); what else the C library
 * opens for itself is not.
 *
 * Safety:
 * As for linger_cancel(). And nothing outside uses what the function had allocated, from now on: it has not put a pointer to
 * it where others look later. Nobody has freed it by a pointer to free() that was stored before the first launch.
 * The function has registered no frames for unwinding (__register_frame(), which compilers to memory call), and was not the
 * first to unwind, nor to unwind through them, after others had registered some: libgcc_s keeps what it has sorted. Nor has it
 * called Rust code that makes text of a backtrace, or panics with RUST_BACKTRACE set: Rust's standard library keeps what it has
 * read.
 * Nothing outside uses its descriptors, and nobody but the function has closed any of them, by close(), closedir() or with
 * the stream that it was made: not by close_range(), closefrom(), or dup2() to the number of one.
 */
void linger_cancel_reclaim(linger_t *linger);

/**
 * Stops the preemptible function that calls it; its launcher goes on, and may resume it.
 *
 * Returns 0 when it has been resumed. Outside a preemptible function it is POSIX pause(2): waits for a
 * signal's handler, and returns -1 with errno EINTR.
 */
int linger_pause(void);

/**
 * Defers preemption of the calling function: a timeout that comes meanwhile takes effect in the
 * matching linger_undefer(). Nests; takes a few ns. Outside a preemptible function it does nothing.
 *
 * For code that is to be done before the launcher goes on, or before a cancel: a launcher that waits for a lock which the
 * function holds lets it go on only if it was preempted there, and a cancelled one has a millisecond to
 * release what it holds.
 */
void linger_defer(void);

/**
 * Ends the innermost linger_defer().
 */
void linger_undefer(void);

/**
 * Shares the library of the file name `name` with all functions: every call of it runs in the one original, unpreempted.
 *
 * To be called before the first launch. For libraries that are configured once, or whose objects cross between
 * functions and their launchers; it does what the environment variable LIBGOTCHA_SHARED does, and adds to that. A name
 * that no library has is ignored.
 *
 * Errors:
 * Returns 0, or: EBUSY after the first launch; EINVAL if `name` is null; ENOMEM for more than 64 names.
 *
 * Safety:
 * `name` is null or a string.
 */
int linger_share_library(const char *name);

/**
 * How many functions can be unfinished at the same time, in the whole process.
 *
 * An upper bound until the limit has been met once: what the system grants is known only then.
 */
size_t linger_concurrency_limit(void);

/**
 * Tells what the library has done in this process so far, all kernel threads together.
 *
 * Writes `size_bytes` bytes, sizeof(linger_stats_t): what a later version adds to the end is left out for programs that do
 * not know it, and is zero for those that know more than the library.
 *
 * Safety:
 * `stats` points to that many bytes.
 */
void linger_stats(linger_stats_t *stats, size_t size_bytes);

/**
 * Writes where an unfinished function stands to the file descriptor `fd`: a line for each call that has
 * not returned, innermost first, to the base of the function's stack.
 *
 * Each line has a function's name, and the source file and line, or where these are not known the library
 * and the address in it, as addr2line(1) takes it. Lines, and names of functions that are not exported,
 * come from debug information: the file's own, or what is installed below /usr/lib/debug. Reading that
 * takes milliseconds, or a tenth of a second; a function that makes this call is not preempted meanwhile, but is
 * while it writes.
 *
 * Returns 0, or an errno value: EINVAL if the handle has no function that has started and not returned, or
 * it is running now; ECANCELED if it was cancelled with the one that had launched it; or why writing failed.
 *
 * Safety:
 * As for linger_resume().
 */
int linger_backtrace(linger_t *linger, int fd);

/**
 * Has `hook` called when a thread that launches functions has waited for a lock for a second, which one of
 * them may hold that does not go on meanwhile: it has paused, another kernel thread has its handle, or it
 * was cancelled. NULL: as at the program's start, a line on standard error says so.
 *
 * `message` says in a sentence who waits for whom, and lasts for the call. That goes for waits without a
 * deadline for mutexes, read-write locks and spin locks, and for other languages' locks that are made of futexes;
 * for pthread_once() only while functions are run on for it. Of those that do not tell who holds them the hook is
 * told whenever some function is unfinished or has been cancelled; the line is written once, if functions have been
 * cancelled.
 *
 * The hook runs on the thread that waits, in the call that waits, as a signal handler of the program would:
 * it is not preempted, pause() does nothing in it, and the thread goes on waiting when it has returned. It
 * is to take no lock that the thread may hold or wait for. To write to a descriptor or to abort is safe.
 */
void linger_set_lock_wait_hook(void (*hook)(const char *message));

/**
 * The cause of the calling thread's last failed call, as a sentence; "" if none has failed.
 *
 * The string is valid until the next failed call of this thread. Inside a preemptible function:
 * of that function's calls.
 */
const char *linger_error(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#ifdef __cplusplus
extern "C" {
#endif

#ifndef LINGER_NO_ALIASES
linger_t launch(void (*function)(void *), uint64_t us, void *argument);
void resume(linger_t *linger, uint64_t us);
void cancel(linger_t *linger);
#endif

#ifndef LINGER_NO_PAUSE
/* In files that include this header pause() is linger_pause(). The C library's own stays what it is to
 * everybody else: libinger.so exports no such name. */
int pause(void) __asm__("linger_pause");
#endif

#ifdef __cplusplus
}
#endif

#endif
