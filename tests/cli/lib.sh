# shellcheck shell=bash
# What the tests of the command line share; sourced from the top folder. Sets $lodge and the
# temporary folder $dir, and counts.

export LC_ALL=C

lodge=${LODGE_BINARY:-$PWD/build/lodge}
dir=$(mktemp -d)
trap '[ $BASHPID = $$ ] && rm -rf "$dir"' EXIT # not in a child that a signal ends before its exec
passed=0 failed=0 skipped=0

ok() {
	echo "ok   $1"
	passed=$((passed + 1))
}

fail() {
	echo "FAIL $1: $2"
	sed 's/^/  out: /' "$dir/out"
	sed 's/^/  err: /' "$dir/err"
	failed=$((failed + 1))
}

# refused STATUS TEXT ARGUMENT...: one line on stderr that has TEXT, nothing on stdout, this exit status
refused() {
	local status=$1 text=$2 got
	shift 2
	"$lodge" "$@" >"$dir/out" 2>"$dir/err" </dev/null
	got=$?
	if [ $got != "$status" ]; then
		fail "$*" "exit status $got, not $status"
	elif [ "$(wc -l <"$dir/err")" != 1 ]; then
		fail "$*" "not one line"
	elif ! grep -qF -- "$text" "$dir/err"; then
		fail "$*" "'$text' is not said"
	elif [ -s "$dir/out" ]; then
		fail "$*" "there is output"
	else
		ok "$* -> $(cat "$dir/err")"
	fi
}

# prints TEXT ARGUMENT...: exit status 0, TEXT on stdout, nothing on stderr
prints() {
	local text=$1 got
	shift
	"$lodge" "$@" >"$dir/out" 2>"$dir/err" </dev/null
	got=$?
	if [ $got != 0 ]; then
		fail "$*" "exit status $got"
	elif ! grep -qF -- "$text" "$dir/out"; then
		fail "$*" "'$text' is not printed"
	elif [ -s "$dir/err" ]; then
		fail "$*" "there are errors"
	else
		ok "$*"
	fi
}

# succeeds ARGUMENT...: exit status 0, and nothing is printed
succeeds() {
	local got
	"$lodge" "$@" >"$dir/out" 2>"$dir/err" </dev/null
	got=$?
	if [ $got != 0 ]; then
		fail "$*" "exit status $got"
	elif [ -s "$dir/out" ] || [ -s "$dir/err" ]; then
		fail "$*" "something is printed"
	else
		ok "$*"
	fi
}

# holds NAME COMMAND...
holds() {
	local name=$1
	shift
	if "$@" >"$dir/out" 2>"$dir/err"; then
		ok "$name"
	else
		fail "$name" "$*"
	fi
}

# the sum, and the exit status
finish() {
	echo "$passed passed, $failed failed, $skipped skipped"
	[ $failed = 0 ]
}
