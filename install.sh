#!/bin/sh
# Installs what `cargo build --release` has built, for C and C++: libinger.so, the headers, the files for
# pkg-config and CMake, and the manual page. Or removes them again.
#
# External commands: cat, cp, chmod, ln, mkdir, mv, rm, rmdir, sed.

set -eu
LC_ALL=C
export LC_ALL

source_directory=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

usage() {
	cat <<END
Usage: $0 [OPTION]...

Installs libinger for C and C++, as built by \`cargo build --release\`.

  --prefix=DIR     install under DIR, an absolute path
                   [that of ./configure, else /usr/local]
  --libdir=DIR     the library and pkgconfig/ [PREFIX/lib]
  --library=FILE   what to install [target/release/libinger.so]
  --uninstall      remove what an installation with the same options has put there
  --help, -h       print this text

Environment:
  DESTDIR  put before each path, for staged installations
END
}

fail() {
	printf '%s: %s\n' "$0" "$1" >&2
	exit 1
}

# ---- Options ----

# configured NAME: what ./configure has written, if it was run.
configured() {
	[ ! -f "$source_directory/config.mk" ] || sed -n "s/^$1 = //p" "$source_directory/config.mk"
}

prefix=$(configured prefix)
prefix=${prefix:-/usr/local}
libdir=
library=${CARGO_TARGET_DIR:-$source_directory/target}/release/libinger.so
uninstall=false
for argument; do
	case $argument in
	--prefix=*) prefix=${argument#*=} ;;
	--libdir=*) libdir=${argument#*=} ;;
	--library=*) library=${argument#*=} ;;
	--uninstall) uninstall=true ;;
	--help | -h)
		usage
		exit 0
		;;
	*)
		printf '%s: unknown argument: %s\nTry "%s --help".\n' "$0" "$argument" "$0" >&2
		exit 2
		;;
	esac
done
libdir=${libdir:-$prefix/lib}
for directory in "$prefix" "$libdir"; do
	case $directory in
	/*) ;;
	*) fail "not an absolute path: $directory" ;;
	esac
done
destdir=${DESTDIR:-}
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$source_directory/Cargo.toml")

# ---- What goes where ----

includedir=$prefix/include
mandir=$prefix/share/man/man3
cmakedir=$libdir/cmake/inger
manual_pages="linger_launch linger_launch_with linger_resume linger_cancel linger_cancel_reclaim linger_pause linger_defer \
linger_undefer linger_share_library linger_concurrency_limit linger_stats linger_backtrace linger_set_lock_wait_hook linger_error"

# put FILE DESTINATION MODE: replaced in one step, since programs may have the old one mapped.
put() {
	mkdir -p -- "$destdir${2%/*}"
	cp -- "$1" "$destdir$2.new"
	chmod "$3" "$destdir$2.new"
	mv -f -- "$destdir$2.new" "$destdir$2"
	printf 'installed %s\n' "$destdir$2"
}

# fill TEMPLATE DESTINATION
fill() {
	mkdir -p -- "$destdir${2%/*}"
	sed -e "s|@prefix@|$prefix|g" -e "s|@libdir@|$libdir|g" -e "s|@includedir@|$includedir|g" \
		-e "s|@version@|$version|g" "$1" >"$destdir$2.new"
	mv -f -- "$destdir$2.new" "$destdir$2"
	printf 'installed %s\n' "$destdir$2"
}

if $uninstall; then
	for file in "$libdir/libinger.so" "$includedir/libinger.h" "$includedir/inger.hpp" "$libdir/pkgconfig/inger.pc" \
		"$cmakedir/inger-config.cmake" "$cmakedir/inger-config-version.cmake" "$mandir/libinger.3"; do
		rm -f -- "$destdir$file"
	done
	for page in $manual_pages; do
		rm -f -- "$destdir$mandir/$page.3"
	done
	# The folders, where nobody else uses them.
	for directory in "$cmakedir" "$libdir/cmake" "$libdir/pkgconfig" "$libdir" "$includedir" "$mandir" \
		"$prefix/share/man" "$prefix/share"; do
		rmdir -- "$destdir$directory" 2>/dev/null || :
	done
	printf 'removed libinger from %s\n' "$destdir$prefix"
	exit 0
fi

[ -f "$library" ] || fail "$library is missing: run cargo build --release first"
put "$library" "$libdir/libinger.so" 755
put "$source_directory/include/libinger.h" "$includedir/libinger.h" 644
put "$source_directory/include/inger.hpp" "$includedir/inger.hpp" 644
fill "$source_directory/packaging/inger.pc.in" "$libdir/pkgconfig/inger.pc"
fill "$source_directory/packaging/inger-config.cmake.in" "$cmakedir/inger-config.cmake"
fill "$source_directory/packaging/inger-config-version.cmake.in" "$cmakedir/inger-config-version.cmake"
put "$source_directory/packaging/libinger.3" "$mandir/libinger.3" 644
for page in $manual_pages; do
	ln -sf libinger.3 "$destdir$mandir/$page.3"
done

[ -n "$destdir" ] || case $libdir in
/usr/lib | /usr/local/lib) printf 'Next, as root: ldconfig\n' ;;
*) printf 'Programs find the library there by -Wl,-rpath,%s\n' "$libdir" ;;
esac
