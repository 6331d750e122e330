/* Digests, ciphers, and signatures that hold nothing random. The library is set up by each function, as it has to be by each
 * program. */
#include "job.h"

#include <gcrypt.h>

enum { LENGTH = 50000 };

static void set_up(void) {
	if (gcry_control(GCRYCTL_INITIALIZATION_FINISHED_P))
		return;
	REQUIRE(gcry_check_version(GCRYPT_VERSION));
	gcry_control(GCRYCTL_DISABLE_SECMEM, 0);
	gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
}

static uint64_t add_digests(uint64_t all, const void *text) {
	static const int kinds[] = { GCRY_MD_SHA512, GCRY_MD_WHIRLPOOL, GCRY_MD_BLAKE2S_256, GCRY_MD_CRC32 };
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		unsigned char bytes[64];
		gcry_md_hash_buffer(kinds[i], bytes, text, LENGTH);
		all = digest(all, bytes, gcry_md_get_algo_dlen(kinds[i]));
	}
	return all;
}

static uint64_t add_ciphers(uint64_t all, const char *text) {
	static const int kinds[] = { GCRY_CIPHER_TWOFISH, GCRY_CIPHER_CAMELLIA256, GCRY_CIPHER_SERPENT256 };
	char *packed = malloc(LENGTH);
	REQUIRE(packed);
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		gcry_cipher_hd_t cipher;
		REQUIRE(!gcry_cipher_open(&cipher, kinds[i], GCRY_CIPHER_MODE_CTR, 0));
		REQUIRE(!gcry_cipher_setkey(cipher, text, 32) && !gcry_cipher_setctr(cipher, text + 32, 16));
		REQUIRE(!gcry_cipher_encrypt(cipher, packed, LENGTH, text, LENGTH));
		all = digest(all, packed, LENGTH);
		REQUIRE(!gcry_cipher_setctr(cipher, text + 32, 16) && !gcry_cipher_decrypt(cipher, packed, LENGTH, NULL, 0));
		REQUIRE(!memcmp(packed, text, LENGTH));
		gcry_cipher_close(cipher);
	}
	free(packed);
	return all;
}

static uint64_t add_signature(uint64_t all, const unsigned char *text) {
	gcry_sexp_t key, data, signature;
	REQUIRE(!gcry_sexp_build(&key, NULL, "(private-key (ecc (curve Ed25519) (flags eddsa) (q %b) (d %b)))", 32,
		"\xd7\x5a\x98\x01\x82\xb1\x0a\xb7\xd5\x4b\xfe\xd3\xc9\x64\x07\x3a\x0e\xe1\x72\xf3\xda\xa6\x23\x25\xaf\x02\x1a\x68\xf7\x07\x51\x1a",
		32,
		"\x9d\x61\xb1\x9d\xef\xfd\x5a\x60\xba\x84\x4a\xf4\x92\xec\x2c\xc4\x44\x49\xc5\x69\x7b\x32\x69\x19\x70\x3b\xac\x03\x1c\xae\x7f\x60"));
	REQUIRE(!gcry_sexp_build(&data, NULL, "(data (flags eddsa) (hash-algo sha512) (value %b))", 64, text));
	REQUIRE(!gcry_pk_sign(&signature, data, key) && !gcry_pk_verify(signature, data, key));
	char printed[1000];
	size_t length = gcry_sexp_sprint(signature, GCRYSEXP_FMT_CANON, printed, sizeof printed);
	REQUIRE(length);
	gcry_sexp_release(data);
	REQUIRE(!gcry_sexp_build(&data, NULL, "(data (flags eddsa) (hash-algo sha512) (value %b))", 63, text));
	all = digest_text(all, gcry_strerror(gcry_pk_verify(signature, data, key)));
	gcry_sexp_release(data);
	gcry_sexp_release(signature);
	gcry_sexp_release(key);
	return digest(all, printed, length);
}

static uint64_t run(uint32_t seed) {
	set_up();
	char *text = malloc(LENGTH);
	REQUIRE(text);
	fill_with_text(text, LENGTH, seed);
	uint64_t all = add_signature(add_ciphers(add_digests(DIGEST_START, text), text), (unsigned char *) text);
	free(text);
	return all;
}

const struct job jobs[] = { { .name = "gcrypt", .run = run }, { .name = NULL } };
