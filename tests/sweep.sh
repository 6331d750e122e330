#!/usr/bin/env bash
# Every shared library on the machine against the clone engine.  For each, in a process of its own: it is opened, copied
# into three libsets, of which two run beside each other and are rolled back, and every word that is relocated is compared
# with what the dynamic linker puts there (tests/c_clone/oracle.c).
#
# Takes minutes; by hand, or at night.

set -euo pipefail

usage() {
	cat <<-'END'
		Usage: tests/sweep.sh [-h] [-j JOBS] [-l FILE] [FOLDER-OR-LIBRARY]...

		Tries the libraries, by default those in /usr/lib/x86_64-linux-gnu, with the clone engine, and prints how many
		came to which end.  Exit status 0 if at least 99 in 100 of those that can be opened are all right.

		  -j JOBS  at a time (default: one for each processor)
		  -l FILE  keep what each one printed
		  -h       this help
	END
}

jobs=$(nproc)
log=
while getopts hj:l: option; do
	case $option in
		h) usage; exit ;;
		j) jobs=$OPTARG ;;
		l) log=$(realpath -- "$OPTARG") ;;
		*) usage >&2; exit 2 ;;
	esac
done
shift $((OPTIND - 1))
if (($# == 0)); then set -- /usr/lib/x86_64-linux-gnu; fi
arguments=()
for argument; do arguments+=("$(realpath -- "$argument")"); done

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
cargo build --release --quiet
target=$(cargo metadata --format-version 1 --no-deps --offline | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')

tmp=$(mktemp -d)
trap 'rm -rf -- "$tmp"' EXIT
cc -std=gnu11 -O2 -Iinclude tests/c_clone/oracle.c -o "$tmp/oracle" \
	-L"$target/release" -linger -Wl,-rpath,"$target/release"
mkdir "$tmp/results"

for argument in "${arguments[@]}"; do
	find "$argument" -maxdepth 1 -name '*.so*' \( -type f -o -type l \) -print0
done | xargs -0 -r realpath -z -- | sort -zu >"$tmp/libraries"

# One library: its end, and what was printed, in a file.
# shellcheck disable=SC2016
try='
	library=$1 result=$2/results/$(basename -- "$1").$$
	status=0
	LIBGOTCHA_LOADER=clone timeout -s KILL 120 "$2/oracle" "$library" >"$result.out" 2>&1 </dev/null || status=$?
	case $status in
		0) end="word for word" ;;
		10) end="different words" ;;
		11) end="cannot be opened" ;;
		12) end="refused" ;;
		13) end="no reference" ;;
		137) end="hung or killed" ;;
		*) end="crashed (status $status)" ;;
	esac
	printf "%s\t%s\n" "$end" "$library" >"$result.end"
	[ "$end" = "word for word" ] || printf "%s: %s: %s\n" "$library" "$end" "$(tail -n 1 "$result.out")"
'
xargs -0 -r -I '{}' -P "$jobs" sh -c "$try" sh '{}' "$tmp" <"$tmp/libraries"

if [[ -n $log ]]; then
	for end in "$tmp"/results/*.end; do
		printf '== %s\n' "$(tr '\t' ' ' <"$end")"
		cat -- "${end%.end}.out"
	done >"$log"
fi

cat "$tmp"/results/*.end | cut -f 1 | sort | uniq -c | sort -rn
all=$(cat "$tmp"/results/*.end | grep -vc '^cannot be opened' || true)
right=$(cat "$tmp"/results/*.end | grep -c '^word for word' || true)
printf '%d of %d libraries that can be opened are all right\n' "$right" "$all"
((all > 0 && 100 * right >= 99 * all))
