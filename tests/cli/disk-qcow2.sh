# shellcheck shell=bash
# Part of tests/cli/disk: every command on qcow2 images without a backing file.

fresh
whole() { # FILE: qemu-img finds nothing to complain about
	qemu-img check -q -f qcow2 "$1"
}

# ---- create
truncate -s 8M "$dir/zeroes"
for options in "" cluster_size=512 cluster_size=2M version=2 compat=0.10 compat=1.1 refcount_bits=1 refcount_bits=64 \
	extended_l2=on lazy_refcounts=on compression_type=zstd preallocation=metadata preallocation=falloc preallocation=full; do
	rm -f "$d/a"
	succeeds disk create -f qcow2 ${options:+-o $options} "$d/a" 8M
	holds "qemu-img check after create $options" whole "$d/a"
	holds "it is empty ($options)" same raw "$dir/zeroes" qcow2 "$d/a"
	holds "only it is there" names a
done
created_as_said() {
	rm -f "$d/a"
	"$lodge" disk create -f qcow2 -o cluster_size=128K -o refcount_bits=32 -o extended_l2=on -o lazy_refcounts=on \
		-o compression_type=zstd "$d/a" 10G && qemu-img info -f qcow2 --output=json "$d/a" | python3 -c '
import json, sys
o = json.load(sys.stdin)
s = o["format-specific"]["data"]
assert o["virtual-size"] == 10 << 30 and o["cluster-size"] == 128 << 10, o
assert s["refcount-bits"] == 32 and s["extended-l2"] and s["lazy-refcounts"], o
assert s["compression-type"] == "zstd" and s["compat"] == "1.1", o'
}
holds "all options arrive" created_as_said
refused 1 "exists" disk create -f qcow2 "$d/a" 1M
prints '"size_bytes": 1048576' disk create -f qcow2 --force --json "$d/a" 1M
holds "--force leaves one file" names a

for mode in falloc full; do
	succeeds disk create -f qcow2 -o preallocation=$mode -o extended_l2=on "$d/$mode" 8M
	holds "preallocation=$mode takes its space" test "$(blocks "$d/$mode")" -ge 8192
	holds "qemu-img check of it" whole "$d/$mode"
	holds "its data is there" same raw "$dir/zeroes" qcow2 "$d/$mode"
done

# ---- info, check, snapshot
info_agrees() {
	rm -f "$d/a"
	qemu-img create -q -f qcow2 -o "$1" "$d/a" 100M && qemu-img info -f qcow2 --output=json "$d/a" >"$dir/theirs" &&
		"$lodge" disk info -f qcow2 --json "$d/a" >"$dir/ours" && python3 - "$dir/ours" "$dir/theirs" <<-'PYTHON'
			import json, sys
			o = json.load(open(sys.argv[1]))
			t = json.load(open(sys.argv[2]))
			s = t["format-specific"]["data"]
			assert o["size_bytes"] == t["virtual-size"], (o, t)
			assert o["cluster_bytes"] == t["cluster-size"], (o, t)
			assert o["version"] == {"0.10": 2, "1.1": 3}[s["compat"]], (o, t)
			assert o["refcount_bits"] == s["refcount-bits"], (o, t)
			assert o["extended_l2"] == s.get("extended-l2", False), (o, t)
			assert o["lazy_refcounts"] == s.get("lazy-refcounts", False), (o, t)
			assert o["compression_type"] == s["compression-type"], (o, t)
			assert not o["dirty"] and not o["corrupt"] and o["backing"] is None, o
		PYTHON
}
for options in compat=0.10 cluster_size=512 extended_l2=on compression_type=zstd,lazy_refcounts=on refcount_bits=8; do
	holds "info agrees with qemu-img: $options" info_agrees $options
done
prints "size of the disk:" disk info -f qcow2 "$d/a"
prints "no errors" disk check -f qcow2 "$d/a"
prints "no snapshots" disk snapshot list -f qcow2 "$d/a"
qemu-img snapshot -c 'first "one"' "$d/a" && qemu-img snapshot -c two "$d/a"
prints 'first "one"' disk snapshot list -f qcow2 "$d/a"
holds "snapshot list --json" json \
	"[s['name'] for s in o['snapshots']] == ['first \"one\"', 'two'] and o['snapshots'][0]['size_bytes'] == 100 << 20" \
	snapshot list -f qcow2 --json "$d/a"
leaky() { # a cluster whose refcount nothing needs
	rm -f "$d/leak"
	qemu-img create -q -f qcow2 "$d/leak" 1M
	python3 - "$d/leak" <<-'PYTHON'
		import struct, sys
		with open(sys.argv[1], "r+b") as f:
		    f.seek(48); table = struct.unpack(">Q", f.read(8))[0]
		    f.seek(table); block = struct.unpack(">Q", f.read(8))[0]
		    f.seek(block + 2 * 10); f.write(b"\0\1")
		    f.truncate(11 * 65536)
	PYTHON
}
leaky
holds "check finds leaks" ended_by 3 "$lodge" disk check -f qcow2 "$d/leak"
prints "1 leaked cluster found, 1 repaired" disk check -f qcow2 --repair leaks "$d/leak"
holds "qemu-img check after the repair" whole "$d/leak"
broken() { # the L1 table's refcount is 0
	rm -f "$d/broken"
	qemu-img create -q -f qcow2 "$d/broken" 1M
	python3 - "$d/broken" <<-'PYTHON'
		import struct, sys
		with open(sys.argv[1], "r+b") as f:
		    f.seek(40); l1 = struct.unpack(">Q", f.read(8))[0]
		    f.seek(48); table = struct.unpack(">Q", f.read(8))[0]
		    f.seek(table); block = struct.unpack(">Q", f.read(8))[0]
		    f.seek(block + 2 * (l1 >> 16)); f.write(b"\0\0")
	PYTHON
}
broken
sum=$(sha256sum "$d/broken")
holds "check finds errors" ended_by 4 "$lodge" disk check -f qcow2 "$d/broken"
holds "check --json finds errors" ended_by 4 "$lodge" disk check -f qcow2 --json "$d/broken"
holds "check changes nothing" test "$sum" = "$(sha256sum "$d/broken")"
holds "check --repair all" "$lodge" disk check -f qcow2 --repair all "$d/broken"
holds "qemu-img check after the repair" whole "$d/broken"
head -c 1M /dev/urandom >"$d/random"
for command in info check map "snapshot list"; do
	# shellcheck disable=SC2086 # two words
	refused 1 "$d/random" disk $command -f qcow2 "$d/random"
done

# ---- resize
fresh
qemu-img create -q -f qcow2 "$d/a" 1M && qemu-io -f qcow2 -c 'write -P 7 0 1M' "$d/a" >/dev/null
succeeds disk resize -f qcow2 "$d/a" +9M
holds "qemu-img check after growing" whole "$d/a"
holds "its size is right" json "o['size_bytes'] == 10 << 20" info -f qcow2 --json "$d/a"
refused 1 "shrink" disk resize -f qcow2 "$d/a" 512K
succeeds disk resize -f qcow2 --shrink "$d/a" 512K
holds "qemu-img check after shrinking" whole "$d/a"

# ---- convert
fresh
data "$d/raw" 20M 0 1 1000 3000 10000 5 20479 1
for options in cluster_size=64K cluster_size=512 cluster_size=2M version=2 extended_l2=on preallocation=metadata \
	compression_type=zstd refcount_bits=1; do
	rm -f "$d/q" "$d/c" "$d/back"
	succeeds disk convert --from raw --to qcow2 -o $options "$d/raw" "$d/q"
	holds "qemu-img compare after convert ($options)" same raw "$d/raw" qcow2 "$d/q"
	holds "qemu-img check after convert ($options)" whole "$d/q"
	if [ $options != preallocation=metadata ]; then
		succeeds disk convert --from raw --to qcow2 --compress -o $options "$d/raw" "$d/c"
		holds "qemu-img compare after convert --compress ($options)" same raw "$d/raw" qcow2 "$d/c"
		holds "qemu-img check after convert --compress ($options)" whole "$d/c"
		succeeds disk convert --from qcow2 --to raw "$d/c" "$d/back"
		holds "and back" cmp "$d/raw" "$d/back"
	fi
	rm -f "$d/back"
	succeeds disk convert --from qcow2 --to raw "$d/q" "$d/back"
	holds "and back ($options)" cmp "$d/raw" "$d/back"
	# of clusters that are only allocated ahead qemu-img asks the file system, too
	[ $options = preallocation=metadata ] || holds "map agrees with qemu-img ($options)" like_qemu_map qcow2 "$d/q"
done
yes lodge | head -c 8M >"$d/text"
rm -f "$d/c"
succeeds disk convert --from raw --to qcow2 -c "$d/text" "$d/c"
holds "--compress makes it small" test "$(blocks "$d/c")" -lt 2000
of_qemu() { # OPTIONS: an image that qemu-img has made is read right
	rm -f "$d/q" "$d/back"
	qemu-img convert -f raw -O qcow2 "$@" "$d/raw" "$d/q" && "$lodge" disk convert --from qcow2 --to raw "$d/q" "$d/back" &&
		cmp "$d/raw" "$d/back"
}
holds "an image of qemu-img" of_qemu
holds "an image of qemu-img, compressed" of_qemu -c
holds "an image of qemu-img, compressed with zstd" of_qemu -c -o compression_type=zstd
holds "an image of qemu-img with subclusters" of_qemu -o extended_l2=on,cluster_size=128K
data "$d/huge" 1T 500000000 4
holds "convert of 1 TiB to qcow2 takes milliseconds" in_milliseconds convert "$lodge" disk convert --from raw --to qcow2 "$d/huge" "$d/hugeq"
holds "convert of 1 TiB from qcow2 takes milliseconds" in_milliseconds convert "$lodge" disk convert --from qcow2 --to raw "$d/hugeq" "$d/huge2"
holds "map of 1 TiB takes milliseconds" in_milliseconds map "$lodge" disk map -f qcow2 "$d/hugeq"
holds "create of 1 TiB takes milliseconds" in_milliseconds create "$lodge" disk create -f qcow2 "$d/hugec" 1T

# ---- interrupted
fresh
yes lodge | head -c 400M >"$dir/src"
for signal in INT TERM KILL; do
	holds "convert to qcow2 ended by SIG$signal" ended_by $((128 + $(kill -l $signal))) interrupted $signal \
		"$lodge" disk convert --from raw --to qcow2 "$dir/src" "$d/b"
	holds "convert to qcow2 ended by SIG$signal leaves nothing" names
done

room=$(($(df --output=avail -B 1G "$d" | tail -n 1) / 2)) # what the file system can give, to be busy with it for a while
for signal in INT KILL; do
	holds "create ended by SIG$signal" ended_by $((128 + $(kill -l $signal))) interrupted $signal \
		"$lodge" disk create -f qcow2 -o preallocation=full "$d/b" $((room < 100 ? room : 100))G
	holds "create ended by SIG$signal leaves nothing" names
done

# ---- discard-unused
fresh
data "$d/raw" 16M 100 500
qemu-img create -q -f qcow2 "$d/q" 16M
qemu-io -f qcow2 -c 'write -P 0 0 16M' "$d/q" >/dev/null
qemu-io -f qcow2 -c 'write -P 9 1M 300K' "$d/q" >/dev/null
qemu-img convert -f qcow2 -O raw "$d/q" "$d/before"
prints "given back" disk discard-unused -f qcow2 "$d/q"
holds "discard-unused keeps the contents" same raw "$d/before" qcow2 "$d/q"
holds "discard-unused gives space back" test "$(blocks "$d/q")" -lt 1500
holds "qemu-img check after discard-unused" whole "$d/q"
