# shellcheck shell=bash
# What every script of the lab shares: messages, the cache and its locks, and the
# packages that the machine itself needs.  Sourced by scripts that did `set -euo pipefail`.
# No function here is called as a condition (`f || ...`): bash would ignore errors within it.
#
# Cache invariants:
#  1. An entry is a directory `<name>-<key>`; it appears complete (rename) or not at all.
#  2. Only the holder of `<name>.lock` builds entries of that name, so every
#     `.tmp.<name>.*` that it finds is left over from a killed build.
#  3. A key is a hash of everything that the content depends on; entries never change.  Code enters
#     it as bash's own rendering of the functions (`declare -f`), so that comments do not count.

shopt -s inherit_errexit

LAB_DIR=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034 # for those who source this
LAB_TOP=$(cd -- "$LAB_DIR/../.." && pwd)
LAB_CACHE=${LODGE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/lodge}/lab
# Days after which an entry of an older recipe, unused since, is removed.
LAB_CACHE_KEEP_DAYS=14

# say MESSAGE: progress on standard error.
say() {
	printf 'lab: %s\n' "$*" >&2
}

# die MESSAGE: the lab itself failed (exit 125, as distinct from the command's own status).
die() {
	printf 'lab: error: %s\n' "$*" >&2
	exit 125
}

# hash_of STRING-OR-FILE...: one short key for all arguments; a file stands for its content.
hash_of() {
	local arg
	for arg in "$@"; do
		if [ -f "$arg" ]; then
			cat -- "$arg"
		else
			printf '%s\n' "$arg"
		fi
	done | sha256sum | cut -c 1-16
}

# step NAME COMMAND...: runs a long command with its output in a log; says that it began, how
# long it took, and on failure shows the end of the log.
step() {
	local name=$1 log start fd
	shift
	log=$(mktemp)
	exec {fd}<>"$log"
	rm -f "$log" # only the descriptor remains, so that nothing is left behind
	start=$SECONDS
	say "$name ..."
	if ! "$@" >&"$fd" 2>&1 </dev/null; then
		tail -n 30 "/proc/self/fd/$fd" >&2
		die "$name failed (the end of its output is above)"
	fi
	exec {fd}>&-
	say "$name: done in $((SECONDS - start)) s"
}

# need_packages PACKAGE...: installs the Debian packages that are missing, or names them when
# not root.
need_packages() {
	local pkg native installed missing=()
	native=$(dpkg --print-architecture)
	# shellcheck disable=SC2016 # dpkg's own variables
	installed=$(dpkg-query -W -f '${Package} ${Architecture} ${db:Status-Status}\n' "$@" 2>/dev/null) || true
	for pkg in "$@"; do
		[[ $installed =~ (^|$'\n')"$pkg "($native|all)" installed" ]] || missing+=("$pkg")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	[ "$(id -u)" = 0 ] || die "missing packages; as root: apt-get install --no-install-recommends ${missing[*]}"
	apt_lists
	step "installing ${missing[*]}" env DEBIAN_FRONTEND=noninteractive \
		apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}"
}

# apt_lists: makes sure that apt knows packages at all (fresh containers come without lists).
apt_lists() {
	[ -n "$(apt-cache madison base-files 2>/dev/null)" ] && return 0
	step "apt-get update" apt-get -o DPkg::Lock::Timeout=300 update
}

# use_arch ARCH: sets what depends on the lab's architecture: LAB_ARCH, and the variables of lib/arch-ARCH.sh.
use_arch() {
	LAB_ARCH=$1
	[ "$LAB_ARCH" != aarch64 ] || LAB_ARCH=arm64
	case $LAB_ARCH in
	x86_64 | arm64) ;;
	*)
		printf "%s: there is no lab of the architecture '%s'; x86_64 and arm64 are there\n" "${0##*/}" "$1" >&2
		exit 2
		;;
	esac
	# shellcheck source=tests/lab/lib/arch-x86_64.sh
	. "$LAB_DIR/lib/arch-$LAB_ARCH.sh"
}

# is_native: is this machine of the lab's architecture?
is_native() {
	[ "$(dpkg --print-architecture)" = "$LAB_DEB_ARCH" ]
}

# cache_path NAME KEY: the directory of a cache entry; NAME stands for another thing in each architecture.
cache_path() {
	printf '%s\n' "$LAB_CACHE/$LAB_CACHE_PREFIX$1-$2"
}

# cached NAME KEY FUNCTION: prints the directory of a cache entry.  When it is not there,
# FUNCTION is called with an empty directory to fill, under the lock of NAME.
cached() {
	local name=$LAB_CACHE_PREFIX$1 build=$3 dir tmp
	dir=$(cache_path "$1" "$2")

	if [ ! -d "$dir" ]; then
		mkdir -p "$LAB_CACHE"
		(
			if ! flock -n 9; then
				say "waiting for another run that is building $name ..."
				flock 9
			fi
			[ ! -d "$dir" ] || exit 0
			rm -rf "$LAB_CACHE/.tmp.$name".*
			tmp=$(mktemp -d "$LAB_CACHE/.tmp.$name.XXXXXX")
			chmod 755 "$tmp"
			trap 'rm -rf "$tmp"' EXIT
			"$build" "$tmp" >&2 9>&-
			mv -T "$tmp" "$dir"
			trap - EXIT
			cache_expire "$name" "$dir"
		) 9>"$LAB_CACHE/$name.lock"
	fi
	touch -c "$dir" 2>/dev/null || true
	printf '%s\n' "$dir"
}

# cache_expire NAME KEEP: removes entries of NAME, other than KEEP, that were not used lately.
cache_expire() {
	find "$LAB_CACHE" -mindepth 1 -maxdepth 1 -type d -name "$1-*" ! -path "$2" \
		-mtime "+$LAB_CACHE_KEEP_DAYS" -exec rm -rf {} +
}
