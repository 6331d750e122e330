/* What belongs to the process: its environment, options, end, identity and children; and the functions
 * that leave nothing behind when the function that called them is cancelled. */
#include "policy.h"

#include <getopt.h>
#include <grp.h>
#include <nl_types.h>
#include <pthread.h>
#include <pty.h>
#include <pwd.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <syslog.h>

/* ------------------------------------------------------------------ environment */

/* The function and its launcher change it in turns, and neither loses anything. */
static unsigned long turn;
static void change_outside(void) {
	char name[32];
	turn++;
	snprintf(name, sizeof name, "OUTSIDE_%lu", turn % 7);
	REQUIRE(!setenv(name, "x", 1));
	snprintf(name, sizeof name, "OUTSIDE_%lu", (turn + 3) % 7);
	REQUIRE(!unsetenv(name));
}
#define CHANGES(name, ...) \
	static void change_##name(void *unused) { \
		(void) unused; \
		int i = 0; \
		ROUNDS(400000) { \
			char variable[32], value[32]; \
			snprintf(variable, sizeof variable, "INSIDE_%d", i % 5); \
			snprintf(value, sizeof value, "%d", i); \
			i++; \
			__VA_ARGS__; \
		} \
	} \
	static void check_##name(void) { \
		setenv("FIXED_1", "1", 1); \
		setenv("FIXED_2", "2", 1); \
		inside_with(change_##name, NULL, change_outside); \
	}
CHANGES(setenv, REQUIRE(!setenv(variable, value, 1)); REQUIRE(getenv(variable) && !strcmp(getenv(variable), value)))
CHANGES(unsetenv, setenv(variable, value, 1); REQUIRE(!unsetenv(variable)); REQUIRE(!getenv(variable)))
static char put[5][64];
CHANGES(putenv, int j = i % 5; snprintf(put[j], sizeof put[j], "PUT_%d=%d", j, i);
	char *equals = strchr(put[j], '='); *equals = 0; unsetenv(put[j]); *equals = '=';
	REQUIRE(!putenv(put[j])); *equals = 0; char copy[64]; strcpy(copy, put[j]); *equals = '='; REQUIRE(getenv(copy)))
CHANGES(getenv, REQUIRE(getenv("FIXED_2") && getenv("FIXED_1")))
CHANGES(secure_getenv, REQUIRE(secure_getenv("FIXED_2") && secure_getenv("FIXED_1")))

static void clear(void *unused) {
	(void) unused;
	REQUIRE(!clearenv());
}
static void check_clearenv(void) {
	setenv("FIXED", "1", 1);
	inside(clear, NULL);
	REQUIRE(!getenv("FIXED") && !getenv("PATH"));
	setenv("FIXED", "2", 1);
	REQUIRE(!strcmp(getenv("FIXED"), "2"));
}

/* ------------------------------------------------------------------ options */

static char *words[] = { "program", "-abc", "-d", "value", NULL };
static const struct option long_options[] = { { "long", 0, NULL, 'l' }, { NULL, 0, NULL, 0 } };
#define PARSES(name, call) \
	static void parse_##name(void *unused) { \
		(void) unused; \
		int found = (call); \
		REQUIRE(found == 'b', found); \
	} \
	static void check_##name(void) { \
		REQUIRE((call) == 'a'); \
		inside(parse_##name, NULL); \
		REQUIRE((call) == 'c'); \
		REQUIRE((call) == 'd' && !strcmp(optarg, "value")); \
		REQUIRE((call) == -1 && optind == 4); \
	}
PARSES(getopt, getopt(4, words, "abcd:"))
PARSES(getopt_long, getopt_long(4, words, "abcd:", long_options, NULL))
PARSES(getopt_long_only, getopt_long_only(4, words, "abcd:", long_options, NULL))

/* ------------------------------------------------------------------ the end */

static int *witness;
static void note(void) {
	(*witness)++;
}
static void note_status(int status, void *by) {
	*witness += status + (int) (intptr_t) by;
}
static void call_exit(void *unused) {
	(void) unused;
	exit(5);
}
static void call_quick_exit(void *unused) {
	(void) unused;
	quick_exit(6);
}
static void child_exit(void) {
	atexit(note);
	inside(call_exit, NULL);
}
static void child_quick_exit(void) {
	at_quick_exit(note);
	inside(call_quick_exit, NULL);
}
static void share_witness(void) {
	witness = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	*witness = 0;
}
static void check_exit(void) {
	share_witness();
	REQUIRE(in_child(child_exit) == 5 << 8);
	REQUIRE(*witness == 1, *witness);
}
static void check_quick_exit(void) {
	share_witness();
	REQUIRE(in_child(child_quick_exit) == 6 << 8);
	REQUIRE(*witness == 1, *witness);
}
static void register_all(void *unused) {
	(void) unused;
	REQUIRE(!atexit(note));
}
static void register_status(void *unused) {
	(void) unused;
	REQUIRE(!on_exit(note_status, (void *) 10));
}
static void register_quick(void *unused) {
	(void) unused;
	REQUIRE(!at_quick_exit(note));
}
static void child_atexit(void) {
	inside(register_all, NULL);
	exit(0);
}
static void child_on_exit(void) {
	inside(register_status, NULL);
	exit(7);
}
static void child_at_quick_exit(void) {
	inside(register_quick, NULL);
	quick_exit(0);
}
static void check_atexit(void) {
	share_witness();
	REQUIRE(in_child(child_atexit) == 0);
	REQUIRE(*witness == 1, *witness);
}
static void check_on_exit(void) {
	share_witness();
	REQUIRE(in_child(child_on_exit) == 7 << 8);
	REQUIRE(*witness == 17, *witness);
}
static void check_at_quick_exit(void) {
	share_witness();
	REQUIRE(in_child(child_at_quick_exit) == 0);
	REQUIRE(*witness == 1, *witness);
}

/* ------------------------------------------------------------------ children */

static int forks;
static void count_fork(void) {
	forks++;
}
static void register_fork(void *unused) {
	(void) unused;
	REQUIRE(!pthread_atfork(count_fork, NULL, NULL));
}
static void child_nothing(void) {
	_exit(0);
}
static void check_atfork(void) {
	inside(register_fork, NULL);
	REQUIRE(in_child(child_nothing) == 0 && forks == 1, forks);
}

/* A child is a whole process: its function goes on, is still preempted, and can start threads. */
static void *thread(void *argument) {
	return argument;
}
static void go_on_in_child(void) {
	linger_t linger = linger_launch(call_exit, 0, NULL);
	REQUIRE(!linger.error);
	linger_cancel(&linger);
	pthread_t started;
	void *result;
	REQUIRE(!pthread_create(&started, NULL, thread, &forks) && !pthread_join(started, &result) && result == &forks);
	free(malloc(1000));
}
#define FORKS(name, call) \
	static void fork_by_##name(void *unused) { \
		(void) unused; \
		pid_t own = getpid(); \
		pid_t child = (call); \
		REQUIRE(child >= 0); \
		if (!child) { \
			REQUIRE(getpid() != own); \
			for (int i = 0; i < 100000; i++) \
				free(malloc(100)); \
			go_on_in_child(); \
			_exit(is_preempted(10) ? 0 : 9); \
		} \
		int status; \
		REQUIRE(waitpid(child, &status, 0) == child && status == 0, status); \
	} \
	static void check_##name(void) { \
		pthread_atfork(count_fork, NULL, NULL); \
		inside(fork_by_##name, NULL); \
		REQUIRE(forks == 1, forks); \
	}
FORKS(fork, fork())
static int terminal;
FORKS(forkpty, forkpty(&terminal, NULL, NULL, NULL))
static void fork_without_handlers(void *unused) {
	(void) unused;
	pid_t child = _Fork();
	REQUIRE(child >= 0);
	if (!child)
		_exit(0);
	int status;
	REQUIRE(waitpid(child, &status, 0) == child && status == 0, status);
}
/* Its child knows that it is another process: the preemption signal stays the library's. */
static void ignore_number(int signal) {
	(void) signal;
	_exit(8);
}
static void spin_for_ever(void *unused) {
	(void) unused;
	for (;;)
		;
}
static void check__Fork(void) {
	inside(fork_without_handlers, NULL);
	pid_t child = _Fork();
	REQUIRE(child >= 0);
	if (!child) {
		end_with_parent();
		signal(SIGALRM, ignore_number);
		linger_t linger = linger_launch(spin_for_ever, 3000, NULL);
		_exit(!linger.is_complete && !linger.error ? 0 : 9);
	}
	int status;
	REQUIRE(waitpid(child, &status, 0) == child && status == 0, status);
}
static void become_daemon(void *unused) {
	(void) unused;
	REQUIRE(!daemon(1, 1));
	*witness = is_preempted(10);
	_exit(0);
}
static void child_daemon(void) {
	inside(become_daemon, NULL);
}
static void check_daemon(void) {
	share_witness();
	REQUIRE(in_child(child_daemon) == 0);
	for (int i = 0; i < 2000 && !*witness; i++)
		usleep(5000);
	REQUIRE(*witness == 1);
}

/* Another program finds the preemption signal as this program has left it: ignored, blocked, or neither. */
enum { IGNORED = 1, BLOCKED = 2 };
bool run_specially(int argc, char **argv) {
	if (argc < 2 || (strcmp(argv[1], "--ignored") && strcmp(argv[1], "--state")))
		return false;
	struct sigaction action;
	sigset_t mask;
	sigaction(SIGALRM, NULL, &action);
	sigprocmask(SIG_BLOCK, NULL, &mask);
	int state = (action.sa_handler == SIG_IGN ? IGNORED : 0) | (sigismember(&mask, SIGALRM) ? BLOCKED : 0);
	_exit(strcmp(argv[1], "--state") ? state != IGNORED : state);
}
static char *again[] = { "program", "--ignored", NULL };
#define EXECUTES(name, call) \
	static void execute_##name(void *unused) { \
		(void) unused; \
		(call); \
		_exit(50); \
	} \
	static void child_##name(void) { \
		signal(SIGALRM, SIG_IGN); \
		inside(execute_##name, NULL); \
	} \
	static void child_outside_##name(void) { \
		signal(SIGALRM, SIG_IGN); \
		execute_##name(NULL); \
	} \
	static void check_##name(void) { \
		int status = in_child(child_##name); \
		REQUIRE(status == 0, status); \
		status = in_child(child_outside_##name); \
		REQUIRE(status == 0, status); \
	}
EXECUTES(execve, execve("/proc/self/exe", again, environ))
EXECUTES(execv, execv("/proc/self/exe", again))
EXECUTES(execvp, execvp("/proc/self/exe", again))
EXECUTES(execvpe, execvpe("/proc/self/exe", again, environ))
EXECUTES(fexecve, fexecve(open("/proc/self/exe", O_RDONLY), again, environ))
EXECUTES(execl, execl("/proc/self/exe", "program", "--ignored", NULL))
EXECUTES(execlp, execlp("/proc/self/exe", "program", "--ignored", NULL))
EXECUTES(execle, execle("/proc/self/exe", "program", "--ignored", NULL, environ))

static char *state_words[] = { "program", "--state", NULL };
static void set_state(int state) {
	sigset_t alarms;
	sigemptyset(&alarms);
	sigaddset(&alarms, SIGALRM);
	signal(SIGALRM, state & IGNORED ? SIG_IGN : SIG_DFL);
	REQUIRE(!sigprocmask(state & BLOCKED ? SIG_BLOCK : SIG_UNBLOCK, &alarms, NULL));
}
static int status_of(pid_t child) {
	int status;
	REQUIRE(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status), status);
	return WEXITSTATUS(status);
}
static int spawn_state(int (*spawn)(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *, char *const *, char *const *)) {
	pid_t child;
	REQUIRE(!spawn(&child, "/proc/self/exe", NULL, NULL, state_words, environ));
	return status_of(child);
}
static int vfork_state(void) {
	pid_t child = vfork();
	if (!child) {
		execv("/proc/self/exe", state_words);
		_exit(50);
	}
	return status_of(child);
}
/* by way of shells, to which /proc/self/exe is another program */
static char state_command[4200];
static const char *command(void) {
	char path[4096];
	ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
	REQUIRE(length > 0);
	path[length] = 0;
	snprintf(state_command, sizeof state_command, "exec '%s' --state", path);
	return state_command;
}
static int system_state(void) {
	int status = system(state_command);
	REQUIRE(WIFEXITED(status), status);
	return WEXITSTATUS(status);
}
static int popen_state(void) {
	FILE *stream = popen(state_command, "r");
	REQUIRE(stream);
	int status = pclose(stream);
	REQUIRE(WIFEXITED(status), status);
	return WEXITSTATUS(status);
}
#define FINDS(name, call) \
	static void find_##name(void *wanted) { \
		set_state(*(int *) wanted); \
		int found = (call); \
		REQUIRE(found == *(int *) wanted, found); \
	} \
	static void check_state_##name(void) { \
		command(); \
		for (int wanted = 0; wanted < 4; wanted++) { \
			set_state(0); \
			inside(find_##name, &wanted); \
			find_##name(&wanted); \
			inside(find_##name, &wanted); \
		} \
	}
FINDS(posix_spawn, spawn_state(posix_spawn))
FINDS(posix_spawnp, spawn_state(posix_spawnp))
FINDS(execv, vfork_state())
FINDS(system, system_state())
FINDS(popen, popen_state())

/* Programs are started while another thread's functions are timed. */
static volatile bool all_stopped;
static void *stop_many(void *unused) {
	for (int i = 0; i < 1000; i++) {
		linger_t linger = linger_launch(spin_for_ever, 300, NULL);
		REQUIRE(!linger.is_complete && !linger.error, linger.error);
		linger_cancel(&linger);
	}
	all_stopped = true;
	return unused;
}
static void check_other_functions(void) {
	set_state(IGNORED);
	pthread_t other;
	REQUIRE(!pthread_create(&other, NULL, stop_many, NULL));
	command();
	while (!all_stopped)
		REQUIRE(system_state() == IGNORED);
	REQUIRE(!pthread_join(other, NULL));
}

/* What system() does to the process is undone when it is given up, and its shell with it. */
static void wait_in_system(void *line) {
	system(line);
}
/* A shell has them ignored in what it starts in the background. */
static void die_of_interrupts(void) {
	signal(SIGINT, SIG_DFL);
	signal(SIGQUIT, SIG_DFL);
}
static void end_by(int signal) {
	int status;
	pid_t child = fork();
	if (!child) {
		raise(signal);
		_exit(0);
	}
	REQUIRE(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == signal, status);
}
static void *wait_in_thread(void *line) {
	system(line);
	return NULL;
}
static void check_given_up(void) {
	die_of_interrupts();
	for (int i = 0; i < 10; i++) {
		linger_t linger = linger_launch(wait_in_system, 3000 + rand() % 3000, "exec sleep 10");
		REQUIRE(!linger.is_complete && !linger.error, linger.error);
		REQUIRE(waitpid(-1, NULL, WNOHANG) == 0);
		linger_cancel(&linger);
		end_by(SIGINT);
		end_by(SIGQUIT);
		REQUIRE(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
	}
	pthread_t thread;
	REQUIRE(!pthread_create(&thread, NULL, wait_in_thread, "exec sleep 10"));
	usleep(20000);
	REQUIRE(!pthread_cancel(thread) && !pthread_join(thread, NULL));
	end_by(SIGINT);
	REQUIRE(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
}
static void use_system(void *unused) {
	(void) unused;
	REQUIRE(system(NULL) == 1 && system("exit 7") == 7 << 8 && system("kill -9 $$") == 9);
	sigset_t mask;
	REQUIRE(!sigprocmask(SIG_BLOCK, NULL, &mask) && !sigismember(&mask, SIGCHLD));
}
static void check_system(void) {
	die_of_interrupts();
	inside(use_system, NULL);
	use_system(NULL);
	end_by(SIGINT);
}

/* ------------------------------------------------------------------ identity */

/* Tells every thread of the process, the one that the function runs on among them. */
static void *wait_for_ever(void *unused) {
	(void) unused;
	for (;;)
		pause();
}
#define IDENTIFIES(name, call) \
	static void identify_##name(void *unused) { \
		(void) unused; \
		ROUNDS(3000) \
			(void) !(call); \
	} \
	static void check_##name(void) { \
		pthread_t other; \
		REQUIRE(!pthread_create(&other, NULL, wait_for_ever, NULL)); \
		inside(identify_##name, NULL); \
	}
IDENTIFIES(setuid, setuid(getuid()))
IDENTIFIES(setgid, setgid(getgid()))
IDENTIFIES(seteuid, seteuid(geteuid()))
IDENTIFIES(setegid, setegid(getegid()))
IDENTIFIES(setreuid, setreuid(-1, -1))
IDENTIFIES(setregid, setregid(-1, -1))
IDENTIFIES(setresuid, setresuid(-1, -1, -1))
IDENTIFIES(setresgid, setresgid(-1, -1, -1))
static gid_t groups[256];
IDENTIFIES(setgroups, setgroups(getgroups(256, groups), groups))
IDENTIFIES(initgroups, initgroups("root", 0))

/* ------------------------------------------------------------------ jumps */

/* Out of a function there is no way but its end: the attempt ends the process, and says so. */
void __longjmp_chk(jmp_buf, int) __attribute__((noreturn));
static jmp_buf target;
#define JUMPS(name) \
	static void jump_by_##name(void *unused) { \
		(void) unused; \
		/* it is known by then where the thread's stack is: to ask takes a descriptor, and memory */ \
		REQUIRE(!setrlimit(RLIMIT_NOFILE, &(struct rlimit) { 0, 0 })); \
		name(target, 1); \
	} \
	static void child_##name(void) { \
		if (!setjmp(target)) \
			inside(jump_by_##name, NULL); \
		_exit(0); \
	} \
	static void check_##name(void) { \
		int status = in_child(child_##name); \
		REQUIRE(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, status); \
	}
JUMPS(longjmp)
JUMPS(__longjmp_chk)

/* ------------------------------------------------------------------ the log */

/* One per process: opened outside under a name and with a copy on standard error, it is so inside. */
static int log_file;
static void open_log_file(void) {
	log_file = open("log", O_CREAT | O_RDWR, 0600);
	REQUIRE(log_file >= 0 && dup2(log_file, STDERR_FILENO) == STDERR_FILENO);
}
static bool logged(const char *line) {
	char found[4096] = { 0 };
	REQUIRE(pread(log_file, found, sizeof found - 1, 0) >= 0);
	return strstr(found, line) != NULL;
}
void __syslog_chk(int, int, const char *, ...), __vsyslog_chk(int, int, const char *, va_list);
static void log_list(const char *format, ...) {
	va_list list;
	va_start(list, format);
	vsyslog(LOG_INFO, format, list);
	va_end(list);
}
static void log_list_checked(const char *format, ...) {
	va_list list;
	va_start(list, format);
	__vsyslog_chk(LOG_INFO, 1, format, list);
	va_end(list);
}
#define LOGS(name, call) \
	static void log_##name(void *unused) { \
		(void) unused; \
		call; \
	} \
	static void check_##name(void) { \
		open_log_file(); \
		openlog("outside", LOG_PERROR, LOG_USER); \
		inside(log_##name, NULL); \
		REQUIRE(logged("outside: message 7")); \
	}
LOGS(syslog, syslog(LOG_INFO, "%s %d", "message", 7))
LOGS(__syslog_chk, __syslog_chk(LOG_INFO, 1, "%s %d", "message", 7))
LOGS(vsyslog, log_list("%s %d", "message", 7))
LOGS(__vsyslog_chk, log_list_checked("%s %d", "message", 7))
static void open_log(void *unused) {
	(void) unused;
	openlog("inside", LOG_PERROR, LOG_USER);
}
static void check_openlog(void) {
	open_log_file();
	inside(open_log, NULL);
	syslog(LOG_INFO, "message");
	REQUIRE(logged("inside: message"));
}
static void close_log(void *unused) {
	(void) unused;
	closelog();
}
static void check_closelog(void) {
	open_log_file();
	openlog("outside", LOG_PERROR, LOG_USER);
	inside(close_log, NULL);
	syslog(LOG_INFO, "message");
	REQUIRE(!logged("outside"));
}
static void mask_log(void *unused) {
	(void) unused;
	setlogmask(LOG_UPTO(LOG_ERR));
}
static void check_setlogmask(void) {
	inside(mask_log, NULL);
	REQUIRE(setlogmask(0) == LOG_UPTO(LOG_ERR));
}

/* ------------------------------------------------------------------ nothing left behind */

#define LEAVES_NOTHING(name, setup, ...) \
	static void forever_##name(void *unused) { \
		(void) unused; \
		setup; \
		for (;;) { \
			__VA_ARGS__; \
		} \
	} \
	static void check_##name(void) { \
		cancel_often(forever_##name, 50); \
		size_t descriptors = count_descriptors(), mappings = count_mappings(); \
		cancel_often(forever_##name, sliced ? 3000 : 300); \
		REQUIRE(count_descriptors() < descriptors + 1, count_descriptors() - descriptors); \
		REQUIRE(count_mappings() < mappings + 8, count_mappings() - mappings); \
	}
LEAVES_NOTHING(getpwnam, , getpwnam("root"))
LEAVES_NOTHING(getpwuid, , getpwuid(0))
static char text[4096];
LEAVES_NOTHING(getpwnam_r, struct passwd entry; struct passwd *p, getpwnam_r("root", &entry, text, sizeof text, &p))
LEAVES_NOTHING(getpwuid_r, struct passwd entry; struct passwd *p, getpwuid_r(0, &entry, text, sizeof text, &p))
LEAVES_NOTHING(getpwent, , setpwent(); getpwent(); endpwent())
LEAVES_NOTHING(getgrnam, , getgrnam("root"))
LEAVES_NOTHING(getgrgid, , getgrgid(0))
LEAVES_NOTHING(getgrnam_r, struct group entry; struct group *p, getgrnam_r("root", &entry, text, sizeof text, &p))
LEAVES_NOTHING(getgrgid_r, struct group entry; struct group *p, getgrgid_r(0, &entry, text, sizeof text, &p))
LEAVES_NOTHING(getgrent, , setgrent(); getgrent(); endgrent())
LEAVES_NOTHING(getgrouplist, int length = 256, length = 256; getgrouplist("root", 0, groups, &length))
LEAVES_NOTHING(tzset, setenv("TZ", "Europe/Berlin", 1), setenv("TZ", "Europe/Berlin", 1); tzset(); setenv("TZ", "UTC", 1); tzset())
LEAVES_NOTHING(catopen, , catclose(catopen("/tmp/inger-no-such-catalog", 0)))

#define SAME(name) { #name, #name, check_##name }
const struct check checks[] = {
	SAME(setenv), SAME(unsetenv), SAME(putenv), SAME(getenv), SAME(secure_getenv), SAME(clearenv),
	SAME(getopt), SAME(getopt_long), SAME(getopt_long_only),
	SAME(exit), SAME(quick_exit), { "atexit", "__cxa_atexit", check_atexit }, SAME(on_exit),
	{ "at_quick_exit", "__cxa_at_quick_exit", check_at_quick_exit }, { "atfork", "__register_atfork", check_atfork },
	SAME(longjmp), SAME(__longjmp_chk),
	SAME(fork), SAME(_Fork), SAME(forkpty), SAME(daemon),
	SAME(execve), SAME(execv), SAME(execvp), SAME(execvpe), SAME(fexecve), SAME(execl), SAME(execlp), SAME(execle),
	{ "posix_spawn", "posix_spawn", check_state_posix_spawn }, { "posix_spawnp", "posix_spawnp", check_state_posix_spawnp },
	{ "state_execv", "-", check_state_execv }, { "state_system", "system", check_state_system },
	{ "state_popen", "popen,_IO_popen", check_state_popen }, { "other_functions", "-", check_other_functions },
	{ "given_up", "system", check_given_up }, { "system", "-", check_system },
	SAME(setuid), SAME(setgid), SAME(seteuid), SAME(setegid), SAME(setreuid), SAME(setregid), SAME(setresuid),
	SAME(setresgid), SAME(setgroups), SAME(initgroups),
	SAME(getpwnam), SAME(getpwuid), SAME(getpwnam_r), SAME(getpwuid_r), { "getpwent", "getpwent,setpwent,endpwent", check_getpwent },
	SAME(getgrnam), SAME(getgrgid), SAME(getgrnam_r), SAME(getgrgid_r), { "getgrent", "getgrent,setgrent,endgrent", check_getgrent },
	SAME(getgrouplist), SAME(syslog), SAME(__syslog_chk), SAME(vsyslog), SAME(__vsyslog_chk), SAME(openlog), SAME(closelog), SAME(setlogmask),
	{ "tzset", "-", check_tzset }, { "catopen", "catopen,catclose", check_catopen },
	{ NULL, NULL, NULL },
};
