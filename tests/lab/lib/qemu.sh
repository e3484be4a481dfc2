# shellcheck shell=bash
# The machine that the lab's host runs on, its job, and its snapshot.  Sourced after common.sh,
# debian.sh, l1.sh and guest.sh.

# Fixed sizes: a snapshot fits only a machine whose disks have the size that they had.
LAB_JOB_BYTES=$((4 << 30))
LAB_JOB_COMMAND_BYTES=$((1 << 20))
LAB_SCRATCH_SIZE=8G

# open_anonymous VARIABLE SIZE: sets VARIABLE to a descriptor of a sparse file without a name.
open_anonymous() {
	local -n anonymous=$1
	local path
	mkdir -p "$LAB_CACHE"
	path=$(mktemp "$LAB_CACHE/.anonymous.XXXXXX")
	exec {anonymous}<>"$path"
	rm -f "$path"
	truncate -s "$2" "/proc/self/fd/$anonymous"
}

# qemu_command CPUS MEMORY JOB-FD SCRATCH-FD: sets LAB_QEMU, the command line without what run.py adds.
qemu_command() {
	local cpus=$1 memory=$2 job=$3 scratch=$4

	qemu_base ''
	LAB_QEMU+=(-accel 'tcg,thread=multi' -M "$LAB_MACHINE" -smp "$((cpus + LAB_SPARE_CPUS))" -m "$memory")
	qemu_disks "$job" "$scratch"
	LAB_QEMU+=(-device virtio-serial-pci)
}

# qemu_command_icount SEED MEMORY JOB-FD [SCRATCH-FD]: the same with exact instruction counts.  One thread; time is
# the number of executed instructions; and nothing is answered by another thread of QEMU, which would
# happen at a different instruction every time: so the disks are memory (pmem), the port is emulated
# by the processor's own thread, and nothing arrives from outside.  Where the machine has no such memory the disks
# stay, with SCRATCH-FD: what the command reads from them costs a few more or less.
qemu_command_icount() {
	local seed=$1 memory=$2 job=$3 scratch=${4-} root guests
	root=$(l1_root)
	guests=$(guest_disk)
	qemu_base "lab.icount lab.$LAB_ICOUNT_DISKS"
	LAB_QEMU+=(-accel 'tcg,thread=single' -icount 'shift=0,sleep=off' -seed "$seed"
		-rtc 'base=2024-01-01T00:00:00,clock=vm' -smp 1)
	if [ "$LAB_ICOUNT_DISKS" = pmem ]; then
		LAB_QEMU+=(-M "$LAB_MACHINE,nvdimm=on" -m "$memory,slots=3,maxmem=256G")
		qemu_pmem root "$root/root.img" "$LAB_L1_IMAGE_SIZE"
		qemu_pmem guest "$guests/guest.img" "$LAB_GUEST_DISK_SIZE"
		qemu_pmem job "/proc/self/fd/$job" "$LAB_JOB_BYTES"
	else
		LAB_QEMU+=(-M "$LAB_MACHINE" -m "$memory")
		qemu_disks "$job" "$scratch"
	fi
	LAB_QEMU+=(-device 'virtio-serial-pci,ioeventfd=off')
}

# qemu_base APPEND: begins LAB_QEMU with what both have.
qemu_base() {
	local boot
	boot=$(l1_boot)
	LAB_QEMU=("$LAB_QEMU_BINARY" -no-user-config -nodefaults -no-reboot -display none -cpu "$LAB_CPU"
		-kernel "$boot/vmlinuz" -initrd "$boot/boot.cpio" -append "$LAB_APPEND $1")
}

# qemu_disks JOB-FD SCRATCH-FD: adds the disks as virtio disks.
qemu_disks() {
	local job=$1 scratch=$2 root guests job_read scratch_read
	root=$(l1_root)
	guests=$(guest_disk)
	# QEMU takes from a set only a descriptor with the access mode that it wants, and a disk it opens
	# for reading first.
	exec {job_read}<"/proc/self/fd/$job" {scratch_read}<"/proc/self/fd/$scratch"
	# shellcheck disable=SC2054 # commas belong to the options
	LAB_QEMU+=(
		-add-fd "fd=$job_read,set=1"
		-add-fd "fd=$scratch_read,set=2" -add-fd "fd=$scratch,set=2"
		-drive "file=$root/root.img,id=root,format=raw,if=none,readonly=on"
		-drive "file=$guests/guest.img,id=guest,format=raw,if=none,readonly=on"
		-drive 'file=/dev/fdset/1,id=job,format=raw,if=none,readonly=on,file.locking=off'
		-drive 'file=/dev/fdset/2,id=scratch,format=raw,if=none,cache=unsafe,discard=unmap,file.locking=off'
		-device virtio-blk-pci,drive=root -device virtio-blk-pci,drive=guest
		-device virtio-blk-pci,drive=job -device virtio-blk-pci,drive=scratch)
}

# qemu_pmem NAME FILE SIZE: adds a read-only disk that is memory.
qemu_pmem() {
	LAB_QEMU+=(-object "memory-backend-file,id=$1,mem-path=$2,size=$3,share=on,readonly=on"
		-device "nvdimm,memdev=$1,unarmed=on")
}

# build_dir: the build tree for the lab's architecture, within LAB_TOP: of another one, as the Makefile calls it.
build_dir() {
	if is_native; then echo build; else echo "build/${LAB_ARCH/#x86_64/x86}"; fi
}

# job_write FD STREAMS COMMAND...: the job's disk: a squashfs with the tests and, as build/, with the build tree
# less what is needed only to build, uncompressed; in the last 1 MiB the command (see job.py).
job_write() {
	local fd=$1 build
	local options=(-no-progress -quiet -no-xattrs -all-root -noI -noD -noF -noX -wildcards -e '... __pycache__')
	shift

	build=$(build_dir)
	(
		cd "$LAB_TOP" || exit
		# Others may be building at this moment: a file that vanishes is no error of ours.
		if [ -d "$build" ]; then
			mksquashfs "$build" "/proc/self/fd/$fd" -noappend "${options[@]}" lab arm64 x86 '... *.o' '... *.d' '... *.a'
			# Appending, it says at length what it finds; errors come apart.
			mksquashfs tests "/proc/self/fd/$fd" -root-becomes build -keep-as-directory -no-recovery "${options[@]}" >/dev/null
		else
			mksquashfs tests "/proc/self/fd/$fd" -keep-as-directory -noappend "${options[@]}"
		fi
	) </dev/null >&2
	truncate -s "$((LAB_JOB_BYTES - LAB_JOB_COMMAND_BYTES))" "/proc/self/fd/$fd"
	"$LAB_DIR/lib/job.py" "$@" >>"/proc/self/fd/$fd"
	truncate -s "$LAB_JOB_BYTES" "/proc/self/fd/$fd"
}

# snapshot_build DIR: boots the machine of LAB_CPUS and LAB_MEMORY up to its waiting agent, and saves
# it as DIR/state.
snapshot_build() {
	local dir=$1 job scratch
	open_anonymous job "$LAB_JOB_BYTES"
	open_anonymous scratch "$LAB_SCRATCH_SIZE"
	qemu_command "$LAB_CPUS" "$LAB_MEMORY" "$job" "$scratch"
	say "booting the lab's host to save it (${LAB_CPUS} CPUs, $LAB_MEMORY) ..."
	"$LAB_DIR/lib/run.py" snapshot --file "$dir/state" --out "$LAB_OUT_DIR" -- "${LAB_QEMU[@]}"
}

# snapshot: prints the directory of the saved state for LAB_CPUS and LAB_MEMORY; makes it when needed.
# The state holds the processor's clock rate, hence the processor in the key.
snapshot() {
	local boot
	boot=$(l1_boot)
	cached snapshot "$(hash_of "$boot" "$LAB_CPUS" "$LAB_MEMORY" "$LAB_CPU $LAB_JOB_BYTES $LAB_SCRATCH_SIZE" \
		"$LAB_MACHINE $LAB_APPEND" "$(declare -f qemu_command qemu_base qemu_disks)" "$LAB_DIR/lib/run.py" \
		"$("$LAB_QEMU_BINARY" --version)" "$(grep -m 1 'model name' /proc/cpuinfo)")" snapshot_build
}
