# shellcheck shell=bash
# Part of tests/cli/disk: help, and arguments that are wrong.

prints "usage: lodge disk COMMAND" disk --help
prints "usage: lodge disk COMMAND" help disk
prints "discard-unused" disk -h
for command in create info check resize convert map rebase commit snapshot discard-unused; do
	prints "usage: lodge disk $command" disk $command --help
	prints "usage: lodge disk $command" help disk $command
done
no_command() {
	"$lodge" disk >"$dir/o" 2>"$dir/e"
	[ $? = 2 ] && [ ! -s "$dir/o" ] && grep -q "usage: lodge disk" "$dir/e"
}
holds "disk alone: usage on stderr, exit status 2" no_command
refused 2 "did you mean convert?" disk convrt
refused 2 "unknown command 'frobnicate'" disk frobnicate
refused 2 "never guessed; add -f raw or -f qcow2" disk info "$d/a"
refused 2 "add --from raw or --from qcow2" disk convert --to raw "$d/a" "$d/b"
refused 2 "add --to raw or --to qcow2" disk convert --from raw "$d/a" "$d/b"
refused 2 "unknown format 'vmdk'; it is raw or qcow2" disk info -f vmdk "$d/a"
refused 2 "PATH is missing" disk info -f raw
refused 2 "PATH SIZE is missing" disk resize -f raw
refused 2 "SIZE is missing" disk resize -f raw "$d/a"
refused 2 "the size is missing" disk create -f raw "$d/a"
refused 2 "unexpected argument 'c'" disk convert --from raw --to raw a b c
refused 2 "did you mean --shrink?" disk resize -f raw --shrnk a 1G
refused 2 "unknown option --force" disk info -f raw --force a
refused 2 "'10X' is not a size" disk create -f raw "$d/a" 10X
refused 2 "the next that is: 1024" disk create -f raw "$d/a" 1000
refused 2 "cannot be empty" disk create -f raw "$d/a" 0
refused 2 "did you mean cluster_size?" disk create -f qcow2 -o clustersize=64K "$d/a" 1G
refused 2 "is not a power of two from 512 to 2M" disk create -f qcow2 -o cluster_size=100K "$d/a" 1G
refused 2 "a raw image has none" disk create -f raw -o cluster_size=64K "$d/a" 1G
refused 2 "cannot have a backing file" disk create -f raw -b x --backing-format raw "$d/a" 1G
refused 2 "the format of the backing file x must be stated" disk create -f qcow2 -b x "$d/a" 1G
refused 2 "a raw image cannot be compressed" disk convert --from raw --to raw --compress "$d/a" "$d/b"
refused 2 "only qcow2 can have one" disk rebase -f raw --no-backing "$d/a"
refused 2 "the new backing file is missing" disk rebase -f qcow2 "$d/a"
refused 2 "only qcow2 can have one" disk commit -f raw "$d/a"
refused 2 "a raw image has no snapshots" disk snapshot list -f raw "$d/a"
refused 2 "'make' is not known" disk snapshot make -f qcow2 "$d/a"
refused 2 "neither leaks nor all" disk check -f qcow2 --repair some "$d/a"
refused 2 "exclude each other" disk convert --from raw --to raw -pq "$d/a" "$d/b"
holds "wrong arguments make no file" names

# ---- documentation
disk_words() { # every option, and every option of images
	for command in create info check resize convert map rebase commit snapshot discard-unused; do
		"$lodge" disk $command --help | grep -oE '^  (-., |    )--[a-z-]+|^  [a-z_0-9]+=' | grep -oE -- '--[a-z-]+|[a-z_0-9]+='
	done | sort -u
}
every_option_is_documented() {
	local missing=0 name word
	for word in $(disk_words); do
		name=${word#--}
		grep -qE "(Fl Fl|Cm) ${name%=}( |\$)" man/lodge-disk.1 || {
			echo "$word is not in man/lodge-disk.1"
			missing=1
		}
		grep -qF -- "$word" control/completion/lodge.bash || {
			echo "$word is not in control/completion/lodge.bash"
			missing=1
		}
	done
	[ $missing = 0 ] && [ "$(disk_words | wc -l)" -ge 20 ]
}
holds "every option of disk is in the man page and in the completion" every_option_is_documented
help_fits() {
	for command in create info check resize convert map rebase commit snapshot discard-unused; do
		"$lodge" disk $command --help
	done | awk 'length > 100 { print; bad = 1 } END { exit bad }'
}
holds "help's lines have at most 100 characters" help_fits
