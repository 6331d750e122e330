# The cases of testsuite/programs, and what they work on. Sourced by it. A case prints nothing that differs from run to run.

generate_data() {
	python=$(python3 -c 'import sys; print(sys.executable)' 2>/dev/null) || python=
	export python
	awk 'BEGIN { srand(7); for (i = 0; i < 60000; i++) printf "%d %08x key%05d %.6f\n", i, rand() * 4294967296, rand() * 30000, rand() }' \
		>"$data/table"
	cat "$here"/../src/*.rs "$here"/../external/libgotcha/src/*.c "$here"/../*.md >"$data/text"
	head -c 3000000 <(cat "$data/text" "$data/table" "$data/text") >"$data/mixed"
	cat >"$data/program.c" <<-'END'
		#include <math.h>
		#include <stdio.h>
		#include <stdlib.h>
		#include <string.h>

		static int compare(const void *a, const void *b) {
			return strcmp(*(char *const *) a, *(char *const *) b);
		}

		int main(int argc, char **argv) {
			double sum = 0;
			for (int i = 1; i < 100000; i++)
				sum += sin(i) / i;
			char *words[] = { "one", "two", "three", "four", "five" };
			qsort(words, 5, sizeof *words, compare);
			printf("%.9f %s %s %d\n", sum, words[0], words[4], argc);
			return argv[argc] ? 1 : 7;
		}
	END
}

# ---------------------------------------------------------------------------------------------------- shells and small tools

try bash <<'END'
declare -A count
while read -r _ _ key _; do count[$key]=$((${count[$key]:-0} + 1)); done < <(head -n 3000 "$data/table")
for key in "${!count[@]}"; do echo "$key ${count[$key]}"; done | sort | sha256sum
children=()
for i in {1..40}; do (exit $((i % 7))) & children+=($!); done
total=0
for child in "${children[@]}"; do status=0; wait "$child" || status=$?; total=$((total + status)); done
echo "statuses $total"
trap 'echo usr1' USR1
kill -USR1 $$
coproc cat
echo through >&"${COPROC[1]}"
read -r line <&"${COPROC[0]}"
echo "$line"
if read -r -t 0.1 line < <(sleep 1); then echo read; else echo "timed out $?"; fi
f() { local n=$1; if ((n)); then f $((n - 1)); else echo deep; fi; }
f 200
echo "$(seq 5 | while read -r n; do printf '%s,' $((n * n)); done)"
bash -c 'kill -TERM $$'
echo "killed $?"
cat nothing 2>&1
exit 9
END

try tools <<'END'
mkdir -p a/b; cp "$data/text" a/text; ln a/text a/b/hard; ln -s ../text a/b/soft
ls -lR --time-style=+ a | sed 's/ root / /g' | wc -l
find a -type f | sort
date -d '2024-02-29 12:00:00 + 1 year' +%F
date -u -d @1234567890
tr a-z A-Z <a/text | tee a/upper | cksum
diff a/text a/upper | wc -l
sed -n 's/fn \([a-z_]*\).*/\1/p' a/text | sort -u | head -n 5
grep -c unsafe a/text
tar -C a --sort=name --mtime=@0 --owner=0 --group=0 -cf - . | sha256sum
cut -d' ' -f3 "$data/table" | uniq -c | sort -rn | head -n 3
od -c a/text | tail -n 2
seq 100000 | paste -sd+ | cksum
stat -c %s a/text
nl a/text | tail -n 1
factor 123456789012345678
id -u; uname -s; printenv LC_ALL
ls nowhere
END

try sort <<'END'
sort -k3,3 -k1,1n "$data/table" >sorted
sort -c -k3,3 sorted && echo sorted
sort --parallel=2 -S 1M -k4,4g "$data/table" | sha256sum
sort -u -k3,3 "$data/table" | wc -l
shuf --random-source="$data/mixed" "$data/table" | sha256sum
join <(cut -d' ' -f1,2 "$data/table" | sort) <(cut -d' ' -f1,3 "$data/table" | sort) | tail -n 1
END

try gawk gawk <<'END'
gawk '{ sum[$3] += $4; n++ } END { PROCINFO["sorted_in"] = "@ind_str_asc"; for (key in sum) printf "%s %.6f\n", key, sum[key]; print n }' "$data/table"
gawk 'BEGIN { for (i = 0; i < 20; i++) print i |& "sort -r"; close("sort -r", "to"); while (("sort -r" |& getline line) > 0) print line }'
gawk '{ gsub(/[aeiou]+/, "<&>"); length_sum += length } END { print length_sum, toupper(substr($0, 1, 10)) }' "$data/text"
gawk -M 'BEGIN { print 2 ^ 300 }' 2>/dev/null
gawk 'BEGIN { print strftime("%F", 0, 1); exit 4 }'
END

try perl perl <<'END'
perl -e '
	my (%count, $words);
	open my $file, "<", "$ENV{data}/text" or die;
	while (<$file>) { $count{lc $1}++, $words++ while /(\w+)/g }
	print "$words ", join(" ", map { "$_:$count{$_}" } (sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count)[0 .. 20]), "\n";
	my $pid = open my $pipe, "-|";
	if (!$pid) { print "from the child $_\n" for 1 .. 3; exit 5 }
	print <$pipe>; close $pipe; print "status ", $? >> 8, "\n";
	my $caught = 0;
	local $SIG{ALRM} = sub { $caught++; die "alarm\n" };
	eval { alarm 1; 1 while 1 }; print "caught $caught $@";
	print join(",", map { sprintf "%.3f", sin $_ } 1 .. 10), "\n";
	system("echo", "system"); print `echo backquotes`;
	die "the end\n";
'
END

try busybox busybox <<'END'
busybox sh -c 'for i in $(busybox seq 50); do echo $i; done | busybox sort -rn | busybox head -n 3'
busybox md5sum <"$data/mixed"
busybox gzip -c "$data/text" | busybox gunzip | busybox cksum
busybox awk '{ s += $1 } END { print s }' "$data/table"
END

try others bc jq <<'END'
echo 'scale=300; 4*a(1)' | bc -l
seq 2000 | jq -c -s '[.[] | select(. % 7 == 0)] | add, length'
printf 'puts [expr {[llength [split [read [open $env(data)/text]] \n]]}]\nputs [regexp -all {fn} [read [open $env(data)/text]]]' | tclsh 2>/dev/null
lua -e 'local t = {} for i = 1, 50000 do t[i] = (i * 7919) % 10007 end table.sort(t) print(t[1], t[25000], #t, ("x"):rep(3))' 2>/dev/null
exit 0
END

# ---------------------------------------------------------------------------------------------------- compression, digests

try xz xz <<'END'
xz -k -c -6 "$data/mixed" >mixed.xz; xz -dc mixed.xz | cmp - "$data/mixed"; xz -T2 -c "$data/text" | xz -dc | cksum
xz -t mixed.xz; xz --robot -l mixed.xz | cut -f 3-7
END

try gzip gzip <<'END'
gzip -n -9 -c "$data/mixed" >mixed.gz; gzip -dc mixed.gz | cmp - "$data/mixed"; gzip -1 -n -c <"$data/table" | sha256sum
head -c 1000 mixed.gz | gzip -dc | wc -c
END

try bzip2 bzip2 <<'END'
bzip2 -c "$data/mixed" >mixed.bz2; bzip2 -dc mixed.bz2 | cmp - "$data/mixed"
END

try zstd zstd <<'END'
zstd -q -T2 -5 -c "$data/mixed" >mixed.zst; zstd -q -dc mixed.zst | cmp - "$data/mixed"
END

try digests openssl <<'END'
sha256sum "$data/mixed" | cut -d' ' -f1; sha1sum <"$data/mixed"; md5sum <"$data/mixed"; b2sum <"$data/mixed"
for digest in sha512 sha3-256 blake2s256; do openssl dgst -"$digest" <"$data/mixed"; done
openssl enc -aes-256-cbc -pbkdf2 -iter 2000 -k secret -S 0102030405060708 -in "$data/mixed" | sha256sum
openssl genrsa 1024 2>/dev/null | openssl rsa -check -noout 2>/dev/null
END

# ---------------------------------------------------------------------------------------------------- databases, repositories, compilers, networks

try sqlite3 sqlite3 <<'END'
sqlite3 base.db <<'SQL'
.mode csv
create table t (id integer primary key, hex text, key text, value real);
.separator " "
.import '| cat $data/table' t
insert into t select id + 60000, hex, key || 'x', value / 2 from t where id < 40000;
create index by_key on t (key);
select count(*), sum(id), round(sum(value), 4), min(key), max(key) from t;
select key, count(*) c from t group by key order by c desc, key limit 5;
update t set value = value + 1 where key like 'key0%';
delete from t where id % 3 = 0;
select count(*), round(total(value), 4) from t;
with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000) select sum(i), max(i) from n;
create virtual table f using fts5(body);
insert into f select key || ' ' || hex from t limit 5000;
select count(*) from f where f match 'key00001*';
pragma integrity_check;
vacuum;
SQL
sqlite3 base.db 'select count(*) from t; select nothing'
echo "status $?"
sqlite3 base.db .dump | sha256sum
rm base.db
END

try git git <<'END'
export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_DATE='2024-01-01T00:00:00Z' GIT_COMMITTER_DATE='2024-01-01T00:00:00Z'
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=c GIT_COMMITTER_EMAIL=c@d
git init -q -b main r; cd r
for i in 1 2 3 4 5 6; do
	split -n l/20 "$data/text" part.; echo "$i" >"new$i"; sed -i "${i}0,\$s/ the / teh $i /" part.a[a-e]
	git add -A; git commit -q -m "commit $i"
done
git checkout -q -b side HEAD~3; echo side >side; git add side; git commit -q -m side
git checkout -q main; git merge -q -m merge side
git log --oneline --graph; git diff --stat HEAD~4; git blame part.aa | cut -c 1-8 | sort | uniq -c
git gc -q; git fsck --strict; git grep -c unsafe | head -n 3
git clone -q . ../c; git -C ../c log -1 --format=%H; git rev-parse HEAD^{tree}; git archive HEAD | sha256sum
git show nothing
status=$?
cd ..; rm -rf r c
exit $status
END

try gcc gcc <<'END'
gcc -O2 -Wall -S "$data/program.c" -o program.s
gcc -O2 -c "$data/program.c" -o program.o
as program.s -o assembled.o
gcc program.o -o program -lm -Wl,--build-id=none; ./program a b; echo "status $?"
objdump -d program.o | tail -n +4 | sha256sum; nm program.o; readelf -s program.o | tail -n 5; strip program; size assembled.o
ar rcD lib.a program.o assembled.o; ar t lib.a
echo 'int main( {' >wrong.c; gcc wrong.c
END

try g++ g++ <<'END'
cat >program.cpp <<'CPP'
#include <future>
#include <iomanip>
#include <iostream>
#include <map>
#include <regex>
#include <vector>

thread_local int own = 5;

int main() {
	const std::string text = "the quick brown fox jumps over the lazy dog and the end";
	const std::regex word("(\\w+)");
	std::map<std::string, int> count;
	for (std::sregex_iterator match(text.begin(), text.end(), word), end; match != end; ++match)
		count[match->str()]++;
	for (auto &[key, number] : count)
		std::cout << key << ' ' << number << '\n';
	std::vector<std::future<long>> sums;
	for (int i = 0; i < 8; i++)
		sums.push_back(std::async(std::launch::async, [i] {
			long sum = 0;
			for (long j = 0; j < 1000000; j++)
				sum += j % (i + 1);
			return sum + ++own;
		}));
	for (auto &sum : sums)
		std::cout << sum.get() << '\n';
	try {
		throw std::runtime_error("thrown");
	} catch (const std::exception &error) {
		std::cout << error.what() << std::setprecision(10) << 3.14159265358979 << std::endl;
	}
	std::cerr << "error\n";
	return own;
}
CPP
g++ -std=c++17 -O1 -pthread program.cpp -o program -Wl,--build-id=none && ./program
END

try rustc rustc <<'END'
cat >program.rs <<'RS'
use std::{collections::BTreeMap, sync::mpsc, thread};
fn main() {
    let (sender, receiver) = mpsc::channel();
    let threads: Vec<_> = (0..4u64)
        .map(|i| { let sender = sender.clone(); thread::spawn(move || sender.send((i, (0..100_000).map(|n| n * i).sum::<u64>()))) })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
    drop(sender);
    println!("{:?}", receiver.iter().collect::<BTreeMap<_, _>>());
    std::panic::catch_unwind(|| panic!("caught")).unwrap_err();
    std::process::exit(4);
}
RS
rustc -O program.rs -o program && ./program 2>&1 | grep -v '^thread'
status=${PIPESTATUS[0]}; rm program; exit $status
END

try vim vim <<'END'
cp "$data/text" text; vim -es -u NONE -i NONE -c '%s/fn \(\w\+\)/function \1/g' -c 'g/unsafe/m0' -c wq text
END

try cmake cmake gcc <<'END'
cp "$data/program.c" .; printf 'cmake_minimum_required(VERSION 3.10)\nproject(program C)\nadd_executable(program program.c)\ntarget_link_libraries(program m)\n' >CMakeLists.txt
cmake -S . -B built >/dev/null && cmake --build built | tail -n 1; built/program; status=$?; rm -rf built; exit $status
END

try node node <<'END'
node -e '
	const crypto = require("crypto"), fs = require("fs");
	let sum = 0; for (let i = 0; i < 1e7; i++) sum += i % 7;
	console.log(sum, crypto.createHash("sha256").update(fs.readFileSync(process.env.data + "/mixed")).digest("hex"));
	setTimeout(() => console.log("later"), 50);
	fs.readFile(process.env.data + "/text", (error, text) => console.log(text.length));
'
END

try make make gcc <<'END'
printf 'all: x y z\nx: ; @echo $@; sleep 0.05\ny: x ; @echo $@ >y; cat y\nz: y ; @echo $(shell seq 5 | tail -n 1)\nbad: ; false\n' >Makefile
make -j2; make bad; echo "status $?"
END

try curl curl python3 <<'END'
cp "$data/mixed" .
$python - >port <<'PY' &
import http.server, sys
class Handler(http.server.SimpleHTTPRequestHandler):
	def log_message(self, *arguments):
		pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
PY
server=$!
until [[ -s port ]]; do sleep 0.05; done
url=http://127.0.0.1:$(<port)
curl -sS "$url/mixed" | sha256sum
curl -sS -o got -w '%{http_code} %{size_download}\n' "$url/mixed"; cmp got mixed
curl -sS -Z --no-progress-meter -o 'p#1' "$url/mixed?[1-6]" 2>/dev/null; cmp p3 mixed
curl -sS -f "$url/absent" >nothing 2>&1; echo "status $?"
curl -sS -m 5 http://127.0.0.1:1/ >/dev/null 2>&1; echo "status $?"
kill $server; wait $server 2>/dev/null; echo "server $?"
rm got nothing p* mixed
END

# ---------------------------------------------------------------------------------------------------- Python

try python python3 <<'END'
$python - <<'PY'
import hashlib, json, os, queue, random, re, signal, subprocess, sys, threading, time, zlib
text = open(os.environ["data"] + "/text").read()
random.seed(1)
tree = {str(i): [random.random() for _ in range(20)] for i in range(500)}
assert json.loads(json.dumps(tree)) == tree
print(hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest())
print(len(re.findall(r"\b(\w+)_(\w+)\(([^()]*)\)", text)), re.sub(r"(a+)(b?)", r"\2\1", "aaabab"))
packed = zlib.compress(text.encode(), 9)
print(zlib.crc32(packed), zlib.decompress(packed).decode() == text)
results, jobs = [], queue.Queue()
lock = threading.Lock()
def work():
    while (job := jobs.get()) is not None:
        digest = hashlib.md5(str(job).encode() * 1000).hexdigest()
        with lock:
            results.append((job, digest))
threads = [threading.Thread(target=work) for _ in range(6)]
for thread in threads: thread.start()
for job in range(300): jobs.put(job)
for _ in threads: jobs.put(None)
for thread in threads: thread.join()
print(hashlib.md5(repr(sorted(results)).encode()).hexdigest())
event = threading.Event()
threading.Timer(0.05, event.set).start()
print(event.wait(10), event.is_set())
print(subprocess.run(["sh", "-c", "cat; exit 3"], input=b"piped", capture_output=True))
hits = []
signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
while len(hits) < 5: pass
signal.setitimer(signal.ITIMER_REAL, 0)
print("alarms")
before = time.monotonic(); time.sleep(0.05); print(time.monotonic() - before >= 0.05)
pid = os.fork()
if pid == 0:
    os._exit(17)
print(os.waitpid(pid, 0)[1] >> 8)
def deep(n): return n and 1 + deep(n - 1)
sys.setrecursionlimit(20000); print(deep(15000))
sys.exit(6)
PY
END

# Its own regression tests: what has become of them, without what they took.
python_tests() {
	try "long-python-$1" python3 <<-END
		\$python -c 'import test.test_$1' 2>/dev/null || exit 0
		\$python -m test -q test_$1 2>&1 | grep -E '^(Result|Total tests|FAIL|ERROR)'
	END
}
for module in json re zlib hashlib sqlite3 threading queue select subprocess signal; do python_tests "$module"; done
