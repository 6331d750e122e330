#include "job.h"

#include <gmp.h>

static uint64_t add(uint64_t all, const mpz_t number) {
	char *digits = mpz_get_str(NULL, 36, number);
	all = digest_text(all, digits);
	void (*release)(void *, size_t);
	mp_get_memory_functions(NULL, NULL, &release);
	release(digits, strlen(digits) + 1);
	return all;
}

static uint64_t run(uint32_t seed) {
	mpz_t a, b, c;
	mpz_inits(a, b, c, NULL);
	gmp_randstate_t random;
	gmp_randinit_mt(random);
	gmp_randseed_ui(random, seed);
	mpz_fac_ui(a, 500 + seed % 100);
	uint64_t all = add(DIGEST_START, a);
	mpz_urandomb(b, random, 20000);
	mpz_mul(c, a, b);
	all = add(all, c);
	mpz_gcdext(a, b, NULL, a, c);
	all = add(all, a);
	mpz_urandomb(a, random, 512);
	mpz_nextprime(a, a);
	mpz_urandomb(b, random, 500);
	mpz_powm(c, b, a, a);
	REQUIRE(!mpz_cmp(b, c));
	mpz_sqrt(c, a);
	all = add(add(all, a), c);
	char printed[400];
	gmp_snprintf(printed, sizeof printed, "%Zd %.50Ff", c, (mpf_t) { { ._mp_prec = 2, ._mp_d = (mp_limb_t[3]) { 0 } } });
	all = digest_text(all, printed);
	gmp_randclear(random);
	mpz_clears(a, b, c, NULL);
	return all;
}

const struct job jobs[] = { { .name = "gmp", .run = run }, { .name = NULL } };
