/* Floating point: modes, flags and registers last, whatever the launcher does meanwhile. */
#include "behaviour.h"

#include <fenv.h>
#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <setjmp.h>

static void rounding_modes(void) {
	static const int modes[] = { FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO };
	volatile double one = 1, three = 3;
	volatile long double long_one = 1, long_three = 3;
	for (int i = 0; i < 400; i++) {
		CHECK(!fesetround(modes[i % 4]));
		spin_us(5);
		double quotient = one / three;
		long double long_quotient = long_one / long_three;
		CHECK(fegetround() == modes[i % 4]);
		CHECK(!fesetround(FE_TONEAREST));
		if (i < 4)
			note("%a %La %.3f\n", quotient, long_quotient, rint(2.5));
	}
}

static void exception_flags(void) {
	volatile double zero = 0, one = 1, huge = DBL_MAX;
	for (int i = 0; i < 200; i++) {
		CHECK(!feclearexcept(FE_ALL_EXCEPT));
		spin_us(5);
		CHECK(!fetestexcept(FE_ALL_EXCEPT));
		volatile double result = one / zero;
		spin_us(5);
		CHECK(isinf(result) && fetestexcept(FE_DIVBYZERO | FE_OVERFLOW) == FE_DIVBYZERO);
		result = huge * huge;
		CHECK(fetestexcept(FE_OVERFLOW));
		fenv_t environment;
		CHECK(!feholdexcept(&environment) && !fetestexcept(FE_ALL_EXCEPT));
		CHECK(!feupdateenv(&environment) && fetestexcept(FE_DIVBYZERO | FE_OVERFLOW) == (FE_DIVBYZERO | FE_OVERFLOW));
	}
	CHECK(!feclearexcept(FE_ALL_EXCEPT));
}

static sigjmp_buf trapped;

static void on_trap(int number) {
	siglongjmp(trapped, number);
}

static void traps(void) {
	struct sigaction action = { .sa_handler = on_trap };
	CHECK(!sigaction(SIGFPE, &action, NULL));
	volatile double zero = 0;
	for (volatile int i = 0; i < 100; i++) {
		volatile int number = sigsetjmp(trapped, 1);
		if (!number) {
			CHECK(feenableexcept(FE_DIVBYZERO) >= 0 && fegetexcept() == FE_DIVBYZERO);
			spin_us(10);
			zero = 1 / zero;
			CHECK(0);
		}
		CHECK(number == SIGFPE && zero == 0 && fedisableexcept(FE_ALL_EXCEPT) >= 0);
		CHECK(!feclearexcept(FE_ALL_EXCEPT));
	}
	CHECK(signal(SIGFPE, SIG_DFL) == on_trap);
}

static void denormals(void) {
	unsigned saved = _mm_getcsr();
	volatile float tiny = FLT_MIN;
	for (int i = 0; i < 300; i++) {
		_mm_setcsr(i % 2 ? saved | 0x8040 : saved);
		spin_us(5);
		float result = tiny / 2;
		CHECK((result == 0) == (i % 2));
	}
	_mm_setcsr(saved);
}

static void long_sums(void) {
	long double sum = 0;
	double series = 0;
	float alternating = 0;
	for (int i = 1; i < 200000; i++) {
		sum += 1.0L / i;
		series += sin(i) / i + exp(-i / 1000.0) * log(i);
		alternating += (i % 2 ? 1.0f : -1.0f) / (float) i;
	}
	note("%La %a %a\n", sum, series, (double) alternating);
}

__attribute__((target("avx2"))) static void sum_vectors(void) {
	__m256d a = _mm256_set1_pd(0), b = _mm256_set_pd(1, 2, 3, 4), c = _mm256_set1_pd(1.0000001);
	__m256i n = _mm256_set1_epi64x(1);
	for (int i = 0; i < 300000; i++) {
		a = _mm256_add_pd(_mm256_mul_pd(a, c), b);
		n = _mm256_add_epi64(n, _mm256_slli_epi64(n, 1));
	}
	double doubles[4];
	long long words[4];
	_mm256_storeu_pd(doubles, a);
	_mm256_storeu_si256((__m256i *) words, n);
	note("%a %a %a %a %llx\n", doubles[0], doubles[1], doubles[2], doubles[3], words[0]);
}

static void vectors(void) {
	if (__builtin_cpu_supports("avx2"))
		sum_vectors();
	spin_us(300);
}

static void conversions(void) {
	char text[200];
	for (int i = 0; i < 1000; i++) {
		double value = pow(1.1, i) / 3, back;
		snprintf(text, sizeof text, "%.17g", value);
		CHECK((back = strtod(text, NULL)) == value);
		snprintf(text, sizeof text, "%La", (long double) value);
		CHECK(strtold(text, NULL) == (long double) value);
		if (i % 100 == 0)
			note("%.30g %e %a\n", value, value, nextafter(value, 0));
	}
}

const struct behaviour behaviours[] = {
	BEHAVIOUR(rounding_modes),
	BEHAVIOUR(exception_flags),
	BEHAVIOUR(traps),
	BEHAVIOUR(denormals),
	BEHAVIOUR(long_sums),
	BEHAVIOUR(vectors),
	BEHAVIOUR(conversions),
	{ NULL, NULL },
};
