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
	local pkg missing=()
	for pkg in "$@"; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$pkg" 2>/dev/null)" = installed ] || missing+=("$pkg")
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

# cached NAME KEY FUNCTION: prints the directory of a cache entry.  When it is not there,
# FUNCTION is called with an empty directory to fill, under the lock of NAME.
cached() {
	local name=$1 key=$2 build=$3
	local dir=$LAB_CACHE/$name-$key tmp

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
