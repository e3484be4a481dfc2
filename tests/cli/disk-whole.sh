# shellcheck shell=bash
# Part of tests/cli/disk: an end in the middle leaves the old file or the finished new one.

# writes PID: is it lodge by now (before, it ignores SIGINT), with a file open that has grown, and is neither its
# program nor the source?
writes() {
	local f
	[ "/proc/$1/exe" -ef "$lodge" ] || return
	for f in "/proc/$1/fd/"*; do
		[[ -f $f && -s $f && ! $f -ef $dir/src && ! $f -ef $lodge ]] && return 0
	done
	return 1
}

# interrupted SIGNAL COMMAND...: sends the signal as soon as the command has a file of its own open that
# has grown; its exit status is what is returned. One that was done before that is run again.
interrupted() {
	local signal=$1 pid i status
	shift
	for ((i = 0; i < 20; i++)); do
		env --default-signal=INT,HUP "$@" & # INT, which & alone would have ignored
		pid=$!
		until writes $pid; do
			kill -0 $pid 2>/dev/null || break
		done
		kill -"$signal" $pid 2>/dev/null
		wait $pid
		status=$?
		[ $status = 0 ] || return $status
		# it was too late: all was done
		if [[ " $* " == *" --force "* ]]; then echo precious >"$d/b"; else rm -f "$d/b"; fi
	done
}

fresh
yes lodge | head -c 400M >"$dir/src"
for signal in INT TERM HUP KILL; do
	number=$(kill -l $signal)
	# shellcheck disable=SC2046 # a number
	holds "convert ended by SIG$signal says so" ended_by $((128 + number)) interrupted $signal \
		"$lodge" disk convert --from raw --to raw "$dir/src" "$d/b"
	holds "convert ended by SIG$signal leaves nothing" names
done
not_interrupted() {
	"$lodge" disk convert --from raw --to raw "$dir/src" "$d/b" & # ignores SIGINT, as scripts expect
	pid=$!
	for ((i = 0; i < 500; i++)); do
		[ "/proc/$pid/exe" -ef "$lodge" ] && break
	done
	kill -INT $pid
	wait $pid && cmp "$dir/src" "$d/b" && rm "$d/b"
}
holds "an ignored SIGINT is ignored" not_interrupted
echo precious >"$d/b"
holds "convert --force ended by SIGINT" ended_by 130 interrupted INT "$lodge" disk convert --force --from raw --to raw "$dir/src" "$d/b"
holds "the old file is there" grep -q precious "$d/b"
holds "and nothing else" names b
rm "$d/b"
holds "create ended by SIGINT" ended_by 130 interrupted INT "$lodge" disk create -f raw -o preallocation=full "$d/a" 8G
holds "create ended by SIGINT leaves nothing" names
truncate -s 1M "$d/a"
holds "resize ended by SIGTERM" ended_by 143 interrupted TERM "$lodge" disk resize -f raw -o preallocation=full "$d/a" 8G
holds "resize ended by SIGTERM leaves the old size" test "$(stat -c %s "$d/a")" = 1048576

# ---- a full file system
fresh
if mount -t tmpfs -o size=8M lodge-test "$d" 2>/dev/null; then
	trap '[ $BASHPID = $$ ] && umount "$d" && rm -rf "$dir"' EXIT
	yes lodge | head -c 20M >"$dir/big"
	echo precious >"$d/old"
	refused 1 "No space left on device" disk convert --from raw --to raw "$dir/big" "$d/new"
	refused 1 "No space left on device" disk convert --force --from raw --to raw "$dir/big" "$d/old"
	refused 1 "No space left on device" disk create -f raw -o preallocation=full "$d/new" 20M
	refused 1 "No space left on device" disk create -f raw -o preallocation=falloc "$d/new" 20M
	refused 1 "$d/new" disk convert --from raw --to qcow2 "$dir/big" "$d/new"
	refused 1 "$d/new" disk create -f qcow2 -o preallocation=full "$d/new" 20M
	truncate -s 1M "$d/grow"
	refused 1 "No space left on device" disk resize -f raw -o preallocation=full "$d/grow" 20M
	holds "a resize that failed leaves the old size" test "$(stat -c %s "$d/grow")" = 1048576
	holds "a full file system leaves nothing half-made" names old grow
	holds "and the old file as it was" grep -q precious "$d/old"
	umount "$d"
	trap '[ $BASHPID = $$ ] && rm -rf "$dir"' EXIT
	rm "$dir/big"
else
	echo "SKIP full file system: no permission to mount"
	skipped=$((skipped + 1))
fi
file_size_limit() {
	(ulimit -f 1024 && "$lodge" disk convert --from raw --to raw "$dir/src" "$d/new")
}
yes lodge | head -c 4M >"$dir/src"
holds "a limit of the file size" ended_by 1 file_size_limit
holds "leaves nothing" names

# ---- locks: qemu-io holds the image as a running machine would
fresh
truncate -s 1M "$d/used" "$d/free"
mkfifo "$dir/fifo"
qemu-io -f raw "$d/used" <"$dir/fifo" >/dev/null 2>&1 &
holder=$!
exec 9>"$dir/fifo"
inode=$(stat -c %i "$d/used")
for ((i = 0; i < 500; i++)); do
	grep -q ":$inode 201 " /proc/locks && break
	sleep 0.01
done
refused 1 "$d/used: another process is writing to it" disk convert --from raw --to raw "$d/used" "$d/new"
refused 1 "$d/used: another process" disk convert --force --from raw --to raw "$d/free" "$d/used"
refused 1 "$d/used: another process" disk create --force -f raw "$d/used" 1M
refused 1 "$d/used: another process" disk resize -f raw "$d/used" 2M
refused 1 "$d/used: another process" disk discard-unused -f raw "$d/used"
refused 1 "$d/used: another process" disk map -f raw "$d/used"
prints "1 MiB" disk info -f raw "$d/used"
exec 9>&-
wait $holder
succeeds disk resize -f raw "$d/used" 2M

# a machine's qcow2 image can be looked at, and nothing more
qemu-img create -q -f qcow2 "$d/used.qcow2" 1M
qemu-io -f qcow2 "$d/used.qcow2" <"$dir/fifo" >/dev/null 2>&1 &
holder=$!
exec 9>"$dir/fifo"
inode=$(stat -c %i "$d/used.qcow2")
for ((i = 0; i < 500; i++)); do
	grep -q ":$inode 201 " /proc/locks && break
	sleep 0.01
done
prints "1 MiB" disk info -f qcow2 "$d/used.qcow2"
for command in check map discard-unused "snapshot list" "resize --shrink" "rebase --no-backing --unsafe"; do
	size=
	[[ $command == resize* ]] && size=512K
	# shellcheck disable=SC2086 # several words
	refused 1 "$d/used.qcow2: another process" disk $command -f qcow2 "$d/used.qcow2" $size
done
refused 1 "$d/used.qcow2: another process" disk convert --from qcow2 --to raw "$d/used.qcow2" "$d/new"
exec 9>&-
wait $holder
succeeds disk resize -f qcow2 "$d/used.qcow2" 2M
