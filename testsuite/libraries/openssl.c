/* SHA-256 and others; RSA with a key that is found, and signs and decrypts; AES in three modes. */
#include "job.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/param_build.h>
#include <openssl/rsa.h>

enum { LENGTH = 100000 };

static unsigned char *text_of(uint32_t seed) {
	unsigned char *text = malloc(LENGTH);
	REQUIRE(text);
	fill_with_text((char *) text, LENGTH, seed);
	return text;
}

/* ---------------------------------------------------------------------------------------------------- digests */

static uint64_t run_digests(uint32_t seed) {
	unsigned char *text = text_of(seed), bytes[EVP_MAX_MD_SIZE];
	uint64_t all = DIGEST_START;
	static const char *const names[] = { "SHA256", "SHA256", "SHA512", "SHA3-256", "BLAKE2B512" };
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		EVP_MD *kind = EVP_MD_fetch(NULL, names[i], NULL);
		unsigned length;
		REQUIRE(kind && EVP_Digest(text, LENGTH - i, bytes, &length, kind, NULL));
		all = digest(all, bytes, length);
		EVP_MD_free(kind);
	}
	REQUIRE(PKCS5_PBKDF2_HMAC((char *) text, 20, text + 20, 16, 500, EVP_sha256(), 32, bytes));
	free(text);
	return digest(all, bytes, 32);
}

/* ---------------------------------------------------------------------------------------------------- RSA */

/* The next prime number that is 2 modulo 3. */
static BIGNUM *find_prime(uint32_t seed, int bits, BN_CTX *context) {
	unsigned char bytes[64];
	for (size_t i = 0; i < sizeof bytes; i++)
		bytes[i] = (unsigned char) next_random(&seed);
	BIGNUM *prime = BN_bin2bn(bytes, bits / 8, NULL);
	REQUIRE(prime && BN_set_bit(prime, bits - 1) && BN_set_bit(prime, bits - 2) && BN_set_bit(prime, 0));
	while (BN_mod_word(prime, 3) != 2 || BN_check_prime(prime, context, NULL) != 1)
		REQUIRE(BN_add_word(prime, 2));
	return prime;
}

/* Prime numbers, and so everything else, follow from the seed. */
static EVP_PKEY *make_key(uint32_t seed, int bits) {
	BN_CTX *context = BN_CTX_new();
	BIGNUM *p = find_prime(seed, bits / 2, context), *q = find_prime(seed + 1, bits / 2, context);
	BIGNUM *n = BN_new(), *e = BN_new(), *d = BN_new(), *totient = BN_new();
	REQUIRE(BN_mul(n, p, q, context) && BN_set_word(e, 3));
	REQUIRE(BN_sub(totient, n, p) && BN_sub(totient, totient, q) && BN_add_word(totient, 1));
	REQUIRE(BN_mod_inverse(d, e, totient, context));

	OSSL_PARAM_BLD *builder = OSSL_PARAM_BLD_new();
	REQUIRE(OSSL_PARAM_BLD_push_BN(builder, OSSL_PKEY_PARAM_RSA_N, n) && OSSL_PARAM_BLD_push_BN(builder, OSSL_PKEY_PARAM_RSA_E, e)
		&& OSSL_PARAM_BLD_push_BN(builder, OSSL_PKEY_PARAM_RSA_D, d));
	OSSL_PARAM *parameters = OSSL_PARAM_BLD_to_param(builder);
	EVP_PKEY_CTX *maker = EVP_PKEY_CTX_new_from_name(NULL, "RSA", NULL);
	EVP_PKEY *key = NULL;
	REQUIRE(EVP_PKEY_fromdata_init(maker) == 1 && EVP_PKEY_fromdata(maker, &key, EVP_PKEY_KEYPAIR, parameters) == 1);
	EVP_PKEY_CTX_free(maker);
	OSSL_PARAM_free(parameters);
	OSSL_PARAM_BLD_free(builder);
	BIGNUM *numbers[] = { p, q, n, e, d, totient };
	for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
		BN_free(numbers[i]);
	BN_CTX_free(context);
	return key;
}

static uint64_t run_rsa(uint32_t seed) {
	EVP_PKEY *key = make_key(seed, 1024);
	unsigned char *text = text_of(seed), signature[128], packed[128], unpacked[128];
	size_t length = sizeof signature, packed_length = sizeof packed, unpacked_length = sizeof unpacked;

	EVP_MD_CTX *signer = EVP_MD_CTX_new();
	REQUIRE(EVP_DigestSignInit(signer, NULL, EVP_sha256(), NULL, key) == 1);
	REQUIRE(EVP_DigestSign(signer, signature, &length, text, LENGTH) == 1);
	EVP_MD_CTX_free(signer);
	for (int is_wrong = 0; is_wrong < 2; is_wrong++) {
		EVP_MD_CTX *verifier = EVP_MD_CTX_new();
		REQUIRE(EVP_DigestVerifyInit(verifier, NULL, EVP_sha256(), NULL, key) == 1);
		REQUIRE((EVP_DigestVerify(verifier, signature, length, text, (size_t) (LENGTH - is_wrong)) == 1) == !is_wrong);
		EVP_MD_CTX_free(verifier);
	}
	REQUIRE(ERR_GET_LIB(ERR_get_error()) == ERR_LIB_RSA);
	ERR_clear_error();

	/* with random padding */
	EVP_PKEY_CTX *cipher = EVP_PKEY_CTX_new(key, NULL);
	REQUIRE(EVP_PKEY_encrypt_init(cipher) == 1 && EVP_PKEY_CTX_set_rsa_padding(cipher, RSA_PKCS1_OAEP_PADDING) == 1);
	REQUIRE(EVP_PKEY_encrypt(cipher, packed, &packed_length, text, 32) == 1);
	REQUIRE(EVP_PKEY_decrypt_init(cipher) == 1 && EVP_PKEY_CTX_set_rsa_padding(cipher, RSA_PKCS1_OAEP_PADDING) == 1);
	REQUIRE(EVP_PKEY_decrypt(cipher, unpacked, &unpacked_length, packed, packed_length) == 1);
	REQUIRE(unpacked_length == 32 && !memcmp(unpacked, text, 32));
	EVP_PKEY_CTX_free(cipher);
	EVP_PKEY_free(key);
	free(text);
	return digest(DIGEST_START, signature, length);
}

/* ---------------------------------------------------------------------------------------------------- AES */

static int apply(const char *name, int encrypts, const unsigned char *key, const unsigned char *in, int length, unsigned char *out) {
	EVP_CIPHER *kind = EVP_CIPHER_fetch(NULL, name, NULL);
	EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
	int written, last = 0;
	REQUIRE(kind && EVP_CipherInit_ex2(context, kind, key, key + 32, encrypts, NULL));
	REQUIRE(EVP_CipherUpdate(context, out, &written, in, length));
	/* GCM's decryption would have to be told a tag */
	if (encrypts || EVP_CIPHER_get_mode(kind) != EVP_CIPH_GCM_MODE)
		REQUIRE(EVP_CipherFinal_ex(context, out + written, &last));
	EVP_CIPHER_CTX_free(context);
	EVP_CIPHER_free(kind);
	return written + last;
}

static uint64_t run_aes(uint32_t seed) {
	static const char *const names[] = { "AES-256-CBC", "AES-128-CTR", "AES-256-GCM" };
	unsigned char *text = text_of(seed), *packed = malloc(LENGTH + 32), *unpacked = malloc(LENGTH + 32);
	uint64_t all = DIGEST_START;
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		int length = apply(names[i], 1, text, text, LENGTH, packed);
		all = digest(all, packed, (size_t) length);
		REQUIRE(apply(names[i], 0, text, packed, length, unpacked) == LENGTH && !memcmp(text, unpacked, LENGTH));
	}
	free(text);
	free(packed);
	free(unpacked);
	return all;
}

const struct job jobs[] = { { .name = "openssl-digests", .run = run_digests }, { .name = "openssl-rsa", .run = run_rsa }, { .name = "openssl-aes", .run = run_aes }, { .name = NULL } };
