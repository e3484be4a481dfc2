# shellcheck shell=bash
# Runs a command on this machine as the lab would run it in its host.  Sourced after common.sh.

# run_direct TIMEOUT COMMAND...: does not return.
run_direct() {
	local timeout=$1 assignments
	shift
	# Within the lab, the guest artefacts are there already.
	if [ -z "${LODGE_GUEST_KERNEL-}" ]; then
		assignments=$("$LAB_DIR/guest-image" --arch "$LAB_ARCH" --print)
		while IFS= read -r assignment; do
			export "${assignment?}"
		done <<<"$assignments"
	fi
	export LAB=0 LAB_OUT=$LAB_OUT_DIR
	mkdir -p "$LAB_OUT"
	cd "$LAB_TOP" || return
	[ "$timeout" != 0 ] || exec "$@"
	local status=0
	timeout --foreground --kill-after=10 "$timeout" "$@" || status=$?
	[ "$status" != 124 ] || say "time limit of $timeout s reached (--timeout) by: $*"
	exit "$status"
}
