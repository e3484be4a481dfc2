# shellcheck shell=bash
# Part of tests/cli/disk: images with backing files.

# chain: base.raw below mid.qcow2 below top.qcow2, each with data of its own
chain() {
	fresh
	data "$d/base.raw" 8M 0 2000 4000 100
	qemu-img create -q -f qcow2 -b base.raw -F raw "$d/mid.qcow2" &&
		qemu-io -f qcow2 -c 'write -P 1 1M 200K' -c 'write -z 3M 100K' "$d/mid.qcow2" >/dev/null &&
		qemu-img create -q -f qcow2 -b mid.qcow2 -F qcow2 "$d/top.qcow2" 10M &&
		qemu-io -f qcow2 -c 'write -P 2 1100K 50K' -c 'write -P 3 9M 10K' -c 'write -z 0 64K' "$d/top.qcow2" >/dev/null &&
		qemu-img convert -f qcow2 -O raw "$d/top.qcow2" "$d/flat"
}

# ---- create
chain
succeeds disk create -f qcow2 -b base.raw --backing-format raw "$d/new.qcow2"
holds "the size of the backing file" json "o['size_bytes'] == 8 << 20 and o['backing'] == 'base.raw' and o['backing_format'] == 'raw'" \
	info -f qcow2 --json "$d/new.qcow2"
holds "it shows the backing file" same raw "$d/base.raw" qcow2 "$d/new.qcow2"
succeeds disk create -f qcow2 --force -o backing=top.qcow2 -o backing_format=qcow2 "$d/new.qcow2" 12M
prints "base" disk info -f qcow2 "$d/mid.qcow2"

# ---- reading a chain
chain
refused 1 "backing" disk convert --from qcow2 --to raw "$d/top.qcow2" "$d/out"
refused 1 "backing" disk map -f qcow2 "$d/top.qcow2"
succeeds disk convert --from qcow2 --to raw --allow-backing "$d/top.qcow2" "$d/out"
holds "convert of a chain" cmp "$d/flat" "$d/out"
holds "map of a chain agrees with qemu-img" like_qemu_map qcow2 "$d/top.qcow2" --allow-backing
holds "map tells the depth" json "{e['depth'] for e in o['extents'] if e['kind'] == 'data'} == {0, 1, 2}" \
	map -f qcow2 --json --allow-backing "$d/top.qcow2"

# ---- convert on top of a backing file
succeeds disk convert --from qcow2 --to qcow2 --allow-backing -b base.raw --backing-format raw "$d/top.qcow2" "$d/diff.qcow2"
holds "convert to a difference" same raw "$d/flat" qcow2 "$d/diff.qcow2"
holds "qemu-img check of it" qemu-img check -q -f qcow2 "$d/diff.qcow2"
holds "it stores only what differs" test "$(blocks "$d/diff.qcow2")" -lt 1000
succeeds disk convert --from qcow2 --to qcow2 -c --allow-backing -b base.raw --backing-format raw "$d/top.qcow2" "$d/cdiff.qcow2"
holds "convert to a compressed difference" same raw "$d/flat" qcow2 "$d/cdiff.qcow2"

# ---- rebase
rebased() { # ARGUMENT...: the contents stay
	chain && cp "$d/base.raw" "$d/other.raw" && data "$d/other.raw" 8M 500 3000 &&
		"$lodge" disk rebase -f qcow2 --allow-backing "$@" "$d/top.qcow2" && same raw "$d/flat" qcow2 "$d/top.qcow2" &&
		qemu-img check -q -f qcow2 "$d/top.qcow2"
}
holds "rebase to the file below" rebased --backing base.raw --backing-format raw
holds "rebase to another file" rebased --backing other.raw --backing-format raw
holds "rebase to nothing" rebased --no-backing
no_backing_left() {
	json "o['backing'] is None" info -f qcow2 --json "$d/top.qcow2"
}
holds "nothing is below it" no_backing_left
chain
qemu-img create -q -f qcow2 "$d/empty.qcow2" 4M
holds "rebase to a short empty image" "$lodge" disk rebase -f qcow2 --allow-backing -b empty.qcow2 --backing-format qcow2 "$d/top.qcow2"
holds "the contents stay" same raw "$d/flat" qcow2 "$d/top.qcow2"
chain
cp "$d/mid.qcow2" "$d/moved.qcow2"
size=$(blocks "$d/top.qcow2")
succeeds disk rebase -f qcow2 --unsafe -b moved.qcow2 --backing-format qcow2 "$d/top.qcow2"
holds "--unsafe changes the name alone" test "$size" = "$(blocks "$d/top.qcow2")"
holds "the contents stay" same raw "$d/flat" qcow2 "$d/top.qcow2"
refused 1 "backing" disk rebase -f qcow2 --no-backing "$d/top.qcow2"
refused 1 "cannot be its own backing file" disk rebase -f qcow2 --allow-backing -b top.qcow2 --backing-format qcow2 "$d/top.qcow2"
refused 1 "does not exist" disk rebase -f qcow2 --allow-backing -b absent --backing-format raw "$d/top.qcow2"

fresh
qemu-img create -q -f raw "$d/short" 1M
data "$d/long" 8M 3000 200
qemu-img create -q -f qcow2 -b short -F raw "$d/top.qcow2" 8M
truncate -s 8M "$d/flat"
holds "rebase from a short file to a longer one" "$lodge" disk rebase -f qcow2 --allow-backing -b long --backing-format raw "$d/top.qcow2"
holds "what was behind its end stays zeroes" same raw "$d/flat" qcow2 "$d/top.qcow2"
holds "stored without space" test "$(blocks "$d/top.qcow2")" -lt 300

# ---- commit
chain
refused 1 "say --allow-backing if that is meant" disk commit -f qcow2 "$d/top.qcow2"
prints '"format": "qcow2"' disk commit -f qcow2 --allow-backing --json "$d/top.qcow2"
holds "the backing file has the contents" same raw "$d/flat" qcow2 "$d/mid.qcow2"
holds "so has the image" same raw "$d/flat" qcow2 "$d/top.qcow2"
holds "qemu-img check of the backing file" qemu-img check -q -f qcow2 "$d/mid.qcow2"
holds "qemu-img check of the image" qemu-img check -q -f qcow2 "$d/top.qcow2"
holds "the image is empty" json "not [e for e in o['extents'] if e['depth'] == 0 and e['kind'] == 'data']" \
	map -f qcow2 --json --allow-backing "$d/top.qcow2"
succeeds disk commit -f qcow2 --allow-backing "$d/mid.qcow2"
holds "commit into a raw image" same raw "$d/flat" raw "$d/base.raw"
fresh
succeeds disk create -f qcow2 "$d/a" 1M
refused 1 "has no backing file to commit to" disk commit -f qcow2 --allow-backing "$d/a"

# ---- a backing file that is the target
chain
refused 1 "another process" disk convert --force --from qcow2 --to raw --allow-backing "$d/mid.qcow2" "$d/base.raw"
holds "the chain is whole" same raw "$d/flat" qcow2 "$d/top.qcow2"

# ---- anything
holds "random commands on random chains" tests/cli/disk-torture 15

# ---- interrupted: the image shows what it showed, and the command can be given again
ended_midway() { # SIGNAL COMMAND ARGUMENT...
	local signal=$1 command=$2 pid
	shift 2
	env --default-signal=INT "$lodge" disk "$command" -f qcow2 --allow-backing "$@" "$d/top.qcow2" 2>/dev/null &
	pid=$!
	for ((i = 0; i < 500; i++)); do
		[ "/proc/$pid/exe" -ef "$lodge" ] && break
	done
	sleep 0.0$((RANDOM % 10))
	kill -"$signal" $pid 2>/dev/null
	wait $pid
	# of a killed process the kernel takes down its ring, and with it the files and locks, a little later
	for file in "$d"/*.qcow2; do
		for ((i = 0; i < 500; i++)); do
			grep -q ":$(stat -c %i "$file") " /proc/locks || break
			sleep 0.01
		done
	done
	qemu-img check -q -f qcow2 "$d/top.qcow2"
	status=$? # 3: leaked clusters alone, as a crash may leave
	[ $status = 0 ] || [ $status = 3 ] && same raw "$d/flat" qcow2 "$d/top.qcow2"
}
large_chain() {
	fresh
	qemu-img create -q -f qcow2 "$d/base.qcow2" 400M &&
		qemu-io -f qcow2 -c 'write -P 1 0 200M' "$d/base.qcow2" >/dev/null &&
		qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 "$d/top.qcow2" &&
		qemu-io -f qcow2 -c 'write -P 2 100M 250M' "$d/top.qcow2" >/dev/null &&
		qemu-img convert -f qcow2 -O raw "$d/top.qcow2" "$d/flat"
}
for signal in INT KILL; do
	large_chain
	holds "commit ended by SIG$signal" ended_midway $signal commit
	holds "commit given again" "$lodge" disk commit -f qcow2 --allow-backing "$d/top.qcow2"
	holds "the contents stay" same raw "$d/flat" qcow2 "$d/top.qcow2"
	holds "the backing file has them" same raw "$d/flat" qcow2 "$d/base.qcow2"
	large_chain
	holds "rebase ended by SIG$signal" ended_midway $signal rebase --no-backing
	holds "rebase given again" "$lodge" disk rebase -f qcow2 --allow-backing --no-backing "$d/top.qcow2"
	holds "the contents stay" same raw "$d/flat" qcow2 "$d/top.qcow2"
done
