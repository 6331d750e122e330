/* A library that scenarios build under several names: -DNAME="..." tells them apart. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#ifdef SLEEPS
/* linked with the program's library, whose dlsym() goes through interception */
void *next_getppid(void);
__attribute__((constructor)) static void construct(void) {
	usleep(300000);
	next_getppid();
}
#elif defined INTERPOSES
/* preloaded */
static pid_t (*real_getppid)(void);
__attribute__((constructor)) static void construct(void) {
	*(void **) &real_getppid = dlsym(RTLD_NEXT, "getppid");
}
pid_t getppid(void) {
	return real_getppid();
}
#else
/* through the PLT, so that scopes decide */
const char *helper(void) {
	return NAME;
}
const char *run(void) {
	return helper();
}
#ifdef PLUGIN
/* no library that is loaded with the program has these */
const char *plugin_helper(void) {
	return NAME;
}
const char *run_plugin(void) {
	return plugin_helper();
}
#endif
/* the C library has a function of this name and other parameters */
int warn(int level, const char *format) {
	return level + (format[0] == 'f');
}
void only_here(void) {
}
void *next_only_here(void) {
	return dlsym(RTLD_NEXT, "only_here");
}
void *next_getppid(void) {
	return dlsym(RTLD_NEXT, "getppid");
}
void *open_plugin(void) {
	return dlopen("plugin.so", RTLD_NOW);
}
#endif
