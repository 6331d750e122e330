/* The library that tests share: its functions run in the starting libset, whoever calls them. */
#ifndef SHARED_H
#define SHARED_H

#include <immintrin.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* parameters and results of all classes */
int shared_add(int, int);
long shared_twenty(long, long, long, long, long, long, long, long, long, long,
	long, long, long, long, long, long, long, long, long, long);
double shared_doubles(double, double, double, double, double, double, double, double, double, double);
long double shared_long_double(long double, long double);
long double _Complex shared_complex(long double _Complex, long double);
struct shared_large {
	long words[9];
};
struct shared_large shared_large(long first, struct shared_large);
struct shared_pair {
	long integer;
	double number;
};
struct shared_pair shared_pair(struct shared_pair);
/* nine of them: one is on the stack */
__attribute__((target("avx"))) __m256d shared_m256(__m256d, __m256d, __m256d, __m256d, __m256d, __m256d, __m256d, __m256d, __m256d);
__attribute__((target("avx512f"))) __m512d shared_m512(__m512d, __m512d);
int shared_format(char *text, unsigned long size, const char *format, ...);
/* what these registers hold when they are called */
long shared_rax(void), shared_r10(void);

/* state: one copy */
extern int shared_inside, shared_done;
int shared_count(void);
int *shared_local(void);
void shared_work(uint64_t us);
void shared_work_at_end(uint64_t us);
int shared_fail(int error);
int shared_errno(void);

/* what has a row in the policy table: 0 if all is as it should be */
int shared_sleep(unsigned us);
int shared_thread(void);
int shared_process(void);
int shared_processors(void);
int shared_environment(void);
int shared_print(FILE *stream, const char *text);

/* in another library, which is not shared: calls shared_count(), and counts that; its own count */
void caller_count(void);
int caller_state(void);

/* addresses */
typedef int shared_binary(int, int);
shared_binary *shared_from_table(void);
uintptr_t shared_address_of_add(void);

/* callbacks, and ways out */
long shared_call(long (*function)(void *), void *argument);
void shared_jump(jmp_buf target);
int shared_call_and_land(void (*function)(void *), void *argument);
void shared_land(void);
int shared_backtrace(void **addresses, int length);
#ifdef __cplusplus
}
#endif

#endif
