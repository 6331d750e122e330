/* A database in memory, and one in a file of the current folder; callbacks into the program: a function, a collation, rows. */
#include "job.h"

#include <sqlite3.h>
#include <unistd.h>

static void half(sqlite3_context *context, int count, sqlite3_value **values) {
	(void) count;
	sqlite3_result_int64(context, sqlite3_value_int64(values[0]) / 2);
}

static int by_length(void *unused, int a_length, const void *a, int b_length, const void *b) {
	(void) unused;
	return a_length != b_length ? a_length - b_length : memcmp(a, b, (size_t) a_length);
}

static int add_row(void *all, int columns, char **values, char **names) {
	(void) names;
	for (int i = 0; i < columns; i++)
		*(uint64_t *) all = digest_text(*(uint64_t *) all, values[i] ? values[i] : "");
	return 0;
}

static uint64_t use(const char *path, uint32_t seed) {
	sqlite3 *database;
	REQUIRE(sqlite3_open(path, &database) == SQLITE_OK);
	REQUIRE(sqlite3_create_function(database, "half", 1, SQLITE_UTF8 | SQLITE_DETERMINISTIC, NULL, half, NULL, NULL) == SQLITE_OK);
	REQUIRE(sqlite3_create_collation(database, "by_length", SQLITE_UTF8, NULL, by_length) == SQLITE_OK);
	char statements[512];
	snprintf(statements, sizeof statements,
		"create table t (a integer primary key, b integer, c text);"
		"begin;"
		"with recursive n(i) as (select 1 union all select i + 1 from n where i < 1500)"
		" insert into t select i, (i * %u) %% 997, 'text ' || (i * i %% 1057) from n;"
		"commit;"
		"create index x on t (b);"
		"delete from t where a %% 11 = 3;", seed % 1000 + 3);
	REQUIRE(sqlite3_exec(database, statements, NULL, NULL, NULL) == SQLITE_OK);
	uint64_t all = DIGEST_START;
	REQUIRE(sqlite3_exec(database,
		"select c, count(*), sum(half(b)), avg(b) from t group by c order by 3 desc, 1 limit 300;"
		"select upper(c), b from t where b between 100 and 300 order by c collate by_length, a limit 200;"
		"select count(*) from t join t u on t.b = u.b;"
		"select json_group_array(b) from t where a < 100;"
		"pragma integrity_check;", add_row, &all, NULL) == SQLITE_OK);
	REQUIRE(sqlite3_exec(database, "select * from nothing", NULL, NULL, NULL) == SQLITE_ERROR);
	all = digest_text(all, sqlite3_errmsg(database));
	REQUIRE(sqlite3_close(database) == SQLITE_OK);
	return all;
}

static uint64_t run(uint32_t seed) {
	uint64_t all = use(":memory:", seed);
	char path[] = "base-XXXXXX";
	int file = mkstemp(path);
	REQUIRE(file >= 0 && !close(file));
	REQUIRE(use(path, seed) == all);
	REQUIRE(!unlink(path));
	return all;
}

const struct job jobs[] = { { .name = "sqlite3", .run = run }, { .name = NULL } };
