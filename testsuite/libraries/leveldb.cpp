/* A database in memory; with small buffers, so that the library's own thread has to merge files, and with large ones. */
#include "job.h"

#include <leveldb/db.h>
#include <leveldb/env.h>
#include <leveldb/filter_policy.h>
#include <leveldb/write_batch.h>
#include <leveldb/helpers/memenv.h>

#include <memory>
#include <string>

static uint64_t use(uint32_t seed, std::size_t buffer_size) {
	std::unique_ptr<leveldb::Env> memory(leveldb::NewMemEnv(leveldb::Env::Default()));
	std::unique_ptr<const leveldb::FilterPolicy> filter(leveldb::NewBloomFilterPolicy(10));
	leveldb::Options options;
	options.env = memory.get();
	options.create_if_missing = true;
	options.write_buffer_size = buffer_size;
	options.filter_policy = filter.get();
	leveldb::DB *opened;
	REQUIRE(leveldb::DB::Open(options, "/base", &opened).ok());
	std::unique_ptr<leveldb::DB> base(opened);
	for (int i = 0; i < 3000; i++) {
		leveldb::WriteBatch batch;
		const std::string key = "key " + std::to_string(next_random(&seed) % 2000);
		batch.Put(key, std::string(50, char('a' + i % 26)) + std::to_string(i));
		batch.Delete("key " + std::to_string(i));
		REQUIRE(base->Write(leveldb::WriteOptions(), &batch).ok());
	}
	uint64_t all = DIGEST_START;
	std::unique_ptr<leveldb::Iterator> iterator(base->NewIterator(leveldb::ReadOptions()));
	for (iterator->SeekToFirst(); iterator->Valid(); iterator->Next()) {
		all = digest(all, iterator->key().data(), iterator->key().size());
		all = digest(all, iterator->value().data(), iterator->value().size());
	}
	REQUIRE(iterator->status().ok());
	std::string value;
	REQUIRE(base->Get(leveldb::ReadOptions(), "none", &value).IsNotFound());
	iterator.reset();
	base.reset();
	return all;
}

static uint64_t run(uint32_t seed) {
	return use(seed, 4 << 20);
}

static uint64_t run_merging(uint32_t seed) {
	return use(seed, 64 << 10);
}

const struct job jobs[] = { { "leveldb", run, false }, { "leveldb-merging", run_merging, true }, { nullptr, nullptr, false } };
