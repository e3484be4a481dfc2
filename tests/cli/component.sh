# shellcheck shell=bash
# Part of tests/cli/run: `lodge component`, whose files no machine starts here.

c="$dir/component"
versions="$c/cros-termina"
mkdir "$dir/tree"
echo of-the-root >"$dir/tree/file"
truncate -s 64M "$dir/fs"
mke2fs -q -t ext4 -d "$dir/tree" "$dir/fs"
# an ELF file whose one segment holds a HLT
python3 - "$dir/vmlinux" <<'PYTHON'
import struct, sys
head = b"\x7fELF\2\1\1".ljust(16, b"\0") + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0x100000, 64, 0, 0, 64, 56, 1, 0, 0, 0)
open(sys.argv[1], "wb").write(head + struct.pack("<IIQQQQQQ", 1, 5, 120, 0x100000, 0x100000, 1, 1, 1) + b"\xf4")
PYTHON

component() { # COMMAND ARGUMENT...
	local command=$1
	shift
	"$lodge" component "$command" --component-root "$c" "$@"
}
install=(component install --component-root "$c" --kernel "$dir/vmlinux" --root "$dir/fs")
versions_are() { # VERSION...: and nothing else is in the folder
	local have
	have=$(find "$versions" -mindepth 1 -maxdepth 1 -printf '%P\n' | sort | tr '\n' ' ')
	[ "$have" = "$*${*:+ }" ] || {
		echo "there are: $have"
		return 1
	}
}
list_says() { # EXPRESSION of `l`, the list
	component list --json | python3 -c "
import json, sys
l = json.load(sys.stdin)['components']
assert $1, l"
}

prints "" component list --component-root "$c"
refused 2 "--kernel is missing" component install
refused 2 "--root is missing" component install --kernel k
refused 2 "did you mean install?" component instal
refused 2 "'1..2' is no version" "${install[@]}" --version 1..2
refused 2 "neither raw nor qcow2" "${install[@]}" --format vmdk
refused 1 "is not a kernel" component install --component-root "$c" --kernel "$dir/fs" --root "$dir/fs"
refused 1 "$dir/none" component install --component-root "$c" --kernel "$dir/none" --root "$dir/fs"
refused 1 "$dir/none" component install --component-root "$c" --kernel "$dir/vmlinux" --root "$dir/none"
refused 1 "no file system that is known" component install --component-root "$c" --kernel "$dir/vmlinux" --root "$dir/disk"
refused 1 "$dir/none/there" component install --component-root "$dir/none/there" --kernel "$dir/vmlinux" --root "$dir/fs"
refused 1 "does not say its release" "${install[@]}" --modules /lib/modules
nothing_there() {
	! [ -e "$c" ]
}
holds "what is refused leaves nothing" nothing_there

prints "$versions/1" "${install[@]}"
prints "$versions/2" "${install[@]}"
prints "$versions/1.9" "${install[@]}" --version 1.9 --quiet
prints '"version": "2.9"' "${install[@]}" --version 2.9 --json
prints "$versions/2.10" "${install[@]}"
refused 1 "2.10 is there already; name another version, or replace it with --force" "${install[@]}" --version 2.10
holds "versions are numbers" list_says "[v['version'] for v in l] == ['2.10', '2.9', '2', '1.9', '1']"
holds "the highest is used" list_says "[v['used'] for v in l] == [True] + 4 * [False] and all(v['complete'] for v in l)"
holds "its sizes" list_says "l[0]['rootfs_bytes'] == 64 << 20 and l[0]['rootfs_allocated_bytes'] < 8 << 20"
same_files() { # VERSION
	cmp "$dir/vmlinux" "$versions/$1/vm_kernel" && cmp "$dir/fs" "$versions/$1/vm_rootfs.img" &&
		[ "$(stat -c %a "$versions/$1" "$versions/$1"/* | tr '\n' ' ')" = "755 644 644 " ]
}
holds "a component is what it was made of" same_files 2.10
with_umask() {
	(umask 077 && component install --kernel "$dir/vmlinux" --root "$dir/fs" --version 1.1 --quiet && same_files 1.1)
}
holds "others can read it, whatever the umask" with_umask

mkdir "$versions/3" "$versions/x4" "$versions/5."
: >"$versions/9"
: >"$versions/3/vm_kernel"
holds "an incomplete one is the highest, and lacks its kernel" \
	list_says "l[0]['version'] == '3' and l[0]['used'] and not l[0]['complete'] and l[0]['lacks'] == 'vm_kernel'"
prints "used, but incomplete: no vm_kernel" component list --component-root "$c"
refused 1 "3 is there already" "${install[@]}" --version 3
prints "$versions/3" "${install[@]}" --version 3 --force
holds "--force replaces it whole" same_files 3
rm -r "$versions/x4" "$versions/5." "$versions/9"

from_qcow2() {
	"$lodge" disk convert --from raw --to qcow2 "$dir/fs" "$dir/fs.qcow2" &&
		component install --kernel "$dir/vmlinux" --root "$dir/fs.qcow2" --format qcow2 --version 1.2 --quiet && same_files 1.2
}
holds "a qcow2 image becomes raw" from_qcow2
refused 1 "say --format qcow2" component install --component-root "$c" --kernel "$dir/vmlinux" --root "$dir/fs.qcow2"

# ---- ends in the middle: what has a version's name is whole
truncate -s 64M "$dir/large"
dd if=/dev/urandom of="$dir/large" bs=1M count=256 status=none
mke2fs -q -t ext4 -E nodiscard -O '^has_journal' "$dir/large" 2>/dev/null
killed() {
	local i version
	for i in 1 2 3 4 5 6 7 8; do
		"$lodge" component install --component-root "$c" --kernel "$dir/vmlinux" --root "$dir/large" --version "7.$i" \
			>"$dir/ignored" 2>&1 &
		sleep "0.0$i"
		kill -KILL $! 2>/dev/null
		wait $! 2>/dev/null
	done
	for version in "$versions"/7.*; do
		[ ! -e "$version" ] || cmp "$dir/large" "$version/vm_rootfs.img" || return
	done
	rm -rf "$versions"/7.*
	same_files 2.10
}
holds "killed while it copies" killed
cleaned() {
	component install --kernel "$dir/vmlinux" --root "$dir/fs" --version 3.1 --quiet && versions_are 1 1.1 1.2 1.9 2 2.10 2.9 3 3.1
}
holds "the next one removes what is left" cleaned
interrupted() {
	local pid got
	"$lodge" component install --component-root "$c" --kernel "$dir/vmlinux" --root "$dir/large" --version 8 --progress \
		>"$dir/ignored" 2>"$dir/progress" &
	pid=$!
	until ls -d "$versions"/.lodge-new.*/vm_rootfs.img >"$dir/ignored" 2>&1; do
		kill -0 $pid 2>/dev/null || break
	done
	kill -TERM $pid 2>/dev/null
	wait $pid
	got=$?
	[ $got = 0 ] && rm -r "$versions/8" && return # it was too quick for a signal
	[ $got = 143 ] && grep -q "nothing has been installed" "$dir/progress" && versions_are 1 1.1 1.2 1.9 2 2.10 2.9 3 3.1
}
holds "a signal ends it, and leaves nothing" interrupted
at_once() {
	local pids=() pid done=0 busy=0
	for i in 1 2 3 4; do
		component install --kernel "$dir/vmlinux" --root "$dir/large" --quiet >"$dir/at.$i" 2>&1 &
		pids+=($!)
	done
	for pid in "${pids[@]}"; do
		wait "$pid" && done=$((done + 1)) || busy=$((busy + 1))
	done
	[ $((done + busy)) = 4 ] && [ $done -ge 1 ] && [ "$(grep -l "another .* is at work" "$dir"/at.? | wc -l)" = $busy ] &&
		[ "$(component list | wc -l)" = $((10 + done)) ]
}
holds "of several at once each is whole or refused" at_once
rm -rf "$c" "$dir/large"

# ---- start --termina, as far as no server is asked
refused 2 "--kernel does not go with --termina" start t --termina --kernel k --disk path=d,format=raw
refused 2 "--root does not go with --termina" start t --termina --root path=d,format=raw
refused 2 "--no-agent does not go with --termina" start t --termina --no-agent --disk path=d,format=raw
refused 2 "keeps its data on the first disk; say --disk" start t --termina
refused 2 "keeps its data on the first disk" start t --termina --disk path=d,format=raw,ro=on
refused 2 "belongs to pool" start t --termina --net passt,containers=on
refused 2 "no absolute path" serve --socket s --runtime-dir /r --component-root c
