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
#
# There is one processor more than asked for, number 0, and the command never runs on it. Where a
# processor executes FXRSTOR, QEMU (seen in 7.2) clears the IGNNE# flag of processor 0, in the word
# that also tells whether processor 0 runs a guest and with nested paging, and takes no lock for it: a
# VMRUN or #VMEXIT there at that moment goes wrong. Guests died of triple faults from it, and L1 with them.
qemu_command() {
	local cpus=$1 memory=$2 job=$3 scratch=$4 root guests job_read scratch_read

	root=$(l1_root)
	guests=$(guest_disk)
	# QEMU takes from a set only a descriptor with the access mode that it wants, and a disk it opens
	# for reading first.
	exec {job_read}<"/proc/self/fd/$job" {scratch_read}<"/proc/self/fd/$scratch"
	qemu_base ''
	# shellcheck disable=SC2054 # commas belong to the options
	LAB_QEMU+=(-accel 'tcg,thread=multi' -M q35 -smp "$((cpus + 1))" -m "$memory"
		-add-fd "fd=$job_read,set=1"
		-add-fd "fd=$scratch_read,set=2" -add-fd "fd=$scratch,set=2"
		-drive "file=$root/root.img,id=root,format=raw,if=none,readonly=on"
		-drive "file=$guests/guest.img,id=guest,format=raw,if=none,readonly=on"
		-drive 'file=/dev/fdset/1,id=job,format=raw,if=none,readonly=on,file.locking=off'
		-drive 'file=/dev/fdset/2,id=scratch,format=raw,if=none,cache=unsafe,discard=unmap,file.locking=off'
		-device virtio-blk-pci,drive=root -device virtio-blk-pci,drive=guest
		-device virtio-blk-pci,drive=job -device virtio-blk-pci,drive=scratch
		-device virtio-serial-pci)
}

# qemu_command_icount SEED MEMORY JOB-FD: the same with exact instruction counts.  One thread; time is
# the number of executed instructions; and nothing is answered by another thread of QEMU, which would
# happen at a different instruction every time: so the disks are memory (pmem), the port is emulated
# by the processor's own thread, and nothing arrives from outside.
qemu_command_icount() {
	local seed=$1 memory=$2 job=$3 root guests
	root=$(l1_root)
	guests=$(guest_disk)
	qemu_base lab.icount
	LAB_QEMU+=(-accel 'tcg,thread=single' -icount 'shift=0,sleep=off' -seed "$seed"
		-rtc 'base=2024-01-01T00:00:00,clock=vm'
		-M 'q35,nvdimm=on' -smp 1 -m "$memory,slots=3,maxmem=256G")
	qemu_pmem root "$root/root.img" "$LAB_L1_IMAGE_SIZE"
	qemu_pmem guest "$guests/guest.img" "$LAB_GUEST_DISK_SIZE"
	qemu_pmem job "/proc/self/fd/$job" "$LAB_JOB_BYTES"
	LAB_QEMU+=(-device 'virtio-serial-pci,ioeventfd=off')
}

# L1's processor.  XSAVE is off: TCG lets a nested guest's XSETBV pass without the exit that KVM
# needs to see it, so guests found XSAVE inconsistent, warned at length, and went without it anyway.
LAB_CPU=max,xsave=off,avx=off,avx2=off,f16c=off,fma=off,mpx=off,pku=off

# qemu_base APPEND: begins LAB_QEMU with what both have.
qemu_base() {
	local append='console=ttyS0 panic=-1 quiet mitigations=off tsc=reliable clocksource=tsc' boot
	boot=$(l1_boot)
	LAB_QEMU=(qemu-system-x86_64 -no-user-config -nodefaults -no-reboot -display none -cpu "$LAB_CPU"
		-kernel "$boot/vmlinuz" -initrd "$boot/boot.cpio" -append "$append $1")
}

# qemu_pmem NAME FILE SIZE: adds a read-only disk that is memory.
qemu_pmem() {
	LAB_QEMU+=(-object "memory-backend-file,id=$1,mem-path=$2,size=$3,share=on,readonly=on"
		-device "nvdimm,memdev=$1,unarmed=on")
}

# job_write FD STREAMS COMMAND...: the job's disk: a squashfs with the tests and with the build tree
# less what is needed only to build, uncompressed; in the last 1 MiB the command (see job.py).
job_write() {
	local fd=$1 parts=()
	shift

	[ ! -d "$LAB_TOP/build" ] || parts+=(build)
	(
		cd "$LAB_TOP"
		# Others may be building at this moment: a file that vanishes is no error of ours.
		mksquashfs "${parts[@]}" tests "/proc/self/fd/$fd" -keep-as-directory -noappend -no-progress \
			-quiet -no-xattrs -all-root -noI -noD -noF -noX \
			-wildcards -e build/lab '... *.o' '... *.d' '... *.a' '... __pycache__' </dev/null >&2
	)
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
		"$(declare -f qemu_command qemu_base)" "$LAB_DIR/lib/run.py" \
		"$(qemu-system-x86_64 --version)" "$(grep -m 1 'model name' /proc/cpuinfo)")" snapshot_build
}
