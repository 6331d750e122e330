/* Transforms there and back, of lengths for which there is fast code and of others. */
#include "job.h"

#include <fftw3.h>
#include <math.h>

static uint64_t add_transform(uint64_t all, int n, int m, uint32_t seed) {
	size_t length = (size_t) n * (size_t) m;
	fftw_complex *in = fftw_malloc(length * sizeof *in), *out = fftw_malloc(length * sizeof *out);
	REQUIRE(in && out);
	fftw_plan there = fftw_plan_dft_2d(n, m, in, out, FFTW_FORWARD, FFTW_ESTIMATE);
	fftw_plan back = fftw_plan_dft_2d(n, m, out, in, FFTW_BACKWARD, FFTW_ESTIMATE);
	REQUIRE(there && back);
	uint32_t state = seed;
	for (size_t i = 0; i < length; i++) {
		in[i][0] = next_random(&state) % 1000;
		in[i][1] = sin((double) i);
	}
	fftw_execute(there);
	all = digest(all, out, length * sizeof *out);
	fftw_execute(back);
	all = digest(all, in, length * sizeof *in);
	state = seed;
	for (size_t i = 0; i < length; i++)
		REQUIRE(fabs(in[i][0] / (double) length - next_random(&state) % 1000) < 1e-6);
	fftw_destroy_plan(there);
	fftw_destroy_plan(back);
	fftw_free(in);
	fftw_free(out);
	return all;
}

static uint64_t run(uint32_t seed) {
	uint64_t all = add_transform(DIGEST_START, 64, 64, seed);
	all = add_transform(all, 1, 4096, seed);
	all = add_transform(all, 1, 1009, seed);
	return add_transform(all, 30, 77, seed);
}

const struct job jobs[] = { { .name = "fftw", .run = run }, { .name = NULL } };
