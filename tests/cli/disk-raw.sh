# shellcheck shell=bash
# Part of tests/cli/disk: every command on raw images.

# ---- create
fresh
succeeds disk create -f raw "$d/a" 1T
takes_nothing() {
	[ "$(stat -c %s "$d/a")" = 1099511627776 ] && [ "$(blocks "$d/a")" = 0 ] && names a
}
holds "a new raw image is a hole" takes_nothing
refused 1 "exists; name another file, or replace it with --force" disk create -f raw "$d/a" 1M
prints '"size_bytes": 1048576' disk create -f raw --force --json "$d/a" 1M
holds "--force leaves one file" names a
for mode in falloc full; do
	succeeds disk create -f raw -o preallocation=$mode "$d/$mode" 3M
	holds "preallocation=$mode takes its space" test "$(blocks "$d/$mode")" -ge 3072
done
refused 1 "$d/no" disk create -f raw "$d/no/a" 1M
refused 1 "is a folder" disk create -f raw --force "$d" 1M
refused 1 "is no regular file" disk create -f raw --force /dev/null 1M
mode_kept() {
	chmod 0640 "$d/a" && "$lodge" disk create -f raw --force "$d/a" 2M && [ "$(stat -c %a "$d/a")" = 640 ]
}
holds "a replaced file keeps its mode" mode_kept
in_this_folder() {
	(cd "$d" && "$lodge" disk create -f raw here 1M && "$lodge" disk convert --from raw --to raw here there &&
		test -s there)
}
holds "names without a folder" in_this_folder

# ---- info, check, map
fresh
data "$d/a" 8M 1024 100 4096 4 8191 1
prints "8 MiB (8388608 bytes)" disk info -f raw "$d/a"
holds "info --json" json "o['format'] == 'raw' and o['size_bytes'] == 8 << 20 and o['allocated_bytes'] > 100000" \
	info -f raw --json "$d/a"
refused 1 "does not exist" disk info -f raw "$d/absent"
refused 1 "neither a file nor a block device" disk info -f raw /dev/null
refused 1 "is a directory" disk info -f raw "$d"
prints "no errors" disk check -f raw "$d/a"
holds "check --json" json "o['corruptions'] == 0 and o['leaks'] == 0" check -f raw --json "$d/a"
printf x >"$d/odd"
refused 1 "is it the right file?" disk check -f raw "$d/odd"
like_qemu_map() { # FORMAT FILE [ARGUMENT...]: what lodge calls data qemu calls data, too
	local format=$1 file=$2
	shift 2
	"$lodge" disk map -f "$format" --json "$@" "$file" >"$dir/ours" && qemu-img map -f "$format" --output=json "$file" >"$dir/theirs" &&
		python3 - "$dir/ours" "$dir/theirs" <<-'PYTHON'
			import json, sys
			ours = json.load(open(sys.argv[1]))
			theirs = json.load(open(sys.argv[2]))
			at = 0
			for e in ours["extents"]:
			    assert e["start"] == at and e["length"] > 0, e
			    at += e["length"]
			assert at == ours["size_bytes"]
			def pieces(extents, data):
			    out = []
			    for e in extents:
			        if not data(e):
			            continue
			        if out and out[-1][1] == e["start"]:
			            out[-1][1] += e["length"]
			        else:
			            out.append([e["start"], e["start"] + e["length"]])
			    return out
			a = pieces(ours["extents"], lambda e: e["kind"] == "data")
			b = pieces(theirs, lambda e: e["data"] and not e["zero"])
			assert a == b, (a, b)
		PYTHON
}
holds "map agrees with qemu-img" like_qemu_map raw "$d/a"
prints "start" disk map -f raw "$d/a"
holds "names that are no UTF-8 are valid JSON" json "o['size_bytes'] == 1 << 20" create -f raw --json "$d/$(printf 'x\377"\\\n')" 1M

refused 1 "makes it whole" disk convert --from raw --to raw "$d/odd" "$d/even"
succeeds disk resize -f raw "$d/odd" 512
succeeds disk convert --from raw --to raw "$d/odd" "$d/even"

# ---- resize
fresh
data "$d/a" 1M 0 4
succeeds disk resize -f raw "$d/a" +1M
prints '"size_bytes": 3145728' disk resize -f raw --json "$d/a" 3M
refused 1 "say --shrink if that is meant" disk resize -f raw "$d/a" 1M
succeeds disk resize -f raw --shrink "$d/a" 1M
holds "its size is right" test "$(stat -c %s "$d/a")" = 1048576
succeeds disk resize -f raw -o preallocation=full "$d/a" 2M
holds "preallocation=full takes its space" test "$(blocks "$d/a")" -ge 1024
refused 2 "only preallocation can be said here" disk resize -f raw -o version=2 "$d/a" 2M
refused 1 "does not exist" disk resize -f raw "$d/absent" 1M

# ---- convert
fresh
data "$d/a" 64M 0 1 1000 3000 40000 5 65535 1
before=$(sha256sum "$d/a" && stat -c '%Y %Z %b' "$d/a")
succeeds disk convert --from raw --to raw "$d/a" "$d/b"
holds "convert copies" cmp "$d/a" "$d/b"
holds "the holes stay holes" test "$(blocks "$d/b")" -le "$(($(blocks "$d/a") + 64))"
source_unchanged() {
	[ "$before" = "$(sha256sum "$d/a" && stat -c '%Y %Z %b' "$d/a")" ]
}
holds "the source is not changed" source_unchanged
cp --sparse=never "$d/a" "$d/full"
prints '"written_bytes"' disk convert --from raw --to raw --force --json "$d/full" "$d/b"
holds "convert copies over a file" cmp "$d/a" "$d/b"
holds "zeroes become holes" test "$(blocks "$d/b")" -le "$(($(blocks "$d/a") + 64))"
refused 1 "exists" disk convert --from raw --to raw "$d/a" "$d/b"
refused 1 "are the same file" disk convert --from raw --to raw --force "$d/a" "$d/a"
ln "$d/a" "$d/link"
refused 1 "are the same file" disk convert --from raw --to raw --force "$d/a" "$d/link"
refused 1 "does not exist" disk convert --from raw --to raw "$d/absent" "$d/c"
refused 1 "is a directory" disk convert --from raw --to raw "$d" "$d/c"
holds "what was refused made no file" names a b full link
in_milliseconds() { # NAME COMMAND...: half a second at most
	local start=${EPOCHREALTIME/./} name=$1
	shift
	"$@" || return 1
	echo "$name: $((${EPOCHREALTIME/./} - start)) microseconds"
	[ $((${EPOCHREALTIME/./} - start)) -lt 500000 ]
}
data "$d/huge" 1T 500000000 4
holds "convert of 1 TiB takes milliseconds" in_milliseconds convert "$lodge" disk convert --from raw --to raw "$d/huge" "$d/huge2"
holds "map of 1 TiB takes milliseconds" in_milliseconds map "$lodge" disk map -f raw "$d/huge"
holds "discard-unused of 1 TiB takes milliseconds" in_milliseconds discard "$lodge" disk discard-unused -f raw "$d/huge"

# ---- discard-unused
fresh
data "$d/a" 16M 100 500
cp --sparse=never "$d/a" "$d/b"
prints "given back" disk discard-unused -f raw "$d/b"
holds "discard-unused keeps the contents" cmp "$d/a" "$d/b"
holds "discard-unused gives space back" test "$(blocks "$d/b")" -le 600
fallocate -l 16M "$d/c"
holds "space that was only allocated is given back" json "o['freed_bytes'] >= 16 << 20 and o['allocated_bytes'] == 0" \
	discard-unused -f raw --json "$d/c"

# ---- progress
fresh
data "$d/a" 8M 0 8192
shows_progress() {
	"$lodge" disk convert --from raw --to raw --progress "$d/a" "$d/p" 2>&1 >/dev/null | grep -q "^convert: 100 %, 8 MiB of 8 MiB"
}
holds "--progress without a terminal" shows_progress
no_progress() {
	[ -z "$("$lodge" disk convert --from raw --to raw "$d/a" "$d/q" 2>&1)" ]
}
holds "no progress without a terminal" no_progress
on_a_terminal() { # the line is drawn again and again, and erased at the end
	data "$d/t" 300M 0 300000
	script -qec "'$lodge' disk convert --from raw --to raw -o preallocation=full '$d/t' '$d/u'" /dev/null >"$dir/drawn" </dev/null &&
		python3 - "$dir/drawn" <<-'PYTHON'
			import sys
			text = open(sys.argv[1], "rb").read()
			assert b"\n" not in text, text
			assert not text or text.endswith(b"\r\x1b[K"), text
		PYTHON
}
holds "progress on a terminal is one line" on_a_terminal
holds "--quiet on a terminal" test -z "$(script -qec "'$lodge' disk convert --quiet --force --from raw --to raw '$d/t' '$d/u'" /dev/null </dev/null)"
