# shellcheck shell=bash disable=SC2034 # for those who source this
# The lab on x86-64: QEMU's TCG emulates SVM with nested paging.

LAB_DEB_ARCH=amd64
LAB_CACHE_PREFIX=''
LAB_QEMU_PACKAGE=qemu-system-x86
LAB_QEMU_BINARY=qemu-system-x86_64
LAB_MACHINE=q35
# XSAVE is off: TCG lets a nested guest's XSETBV pass without the exit that KVM needs to see it, so guests found
# XSAVE inconsistent, warned at length, and went without it anyway.
LAB_CPU=max,xsave=off,avx=off,avx2=off,f16c=off,fma=off,mpx=off,pku=off
# Processors beside those that the command gets. Where a processor executes FXRSTOR, QEMU (seen in 7.2) clears the
# IGNNE# flag of processor 0, in the word that also tells whether processor 0 runs a guest and with nested paging, and
# takes no lock for it: a VMRUN or #VMEXIT there at that moment goes wrong. Guests died of triple faults from it, and
# L1 with them. So nothing of the command runs on processor 0.
LAB_SPARE_CPUS=1
LAB_APPEND='console=ttyS0 panic=-1 quiet mitigations=off tsc=reliable clocksource=tsc'
LAB_ICOUNT_DISKS=pmem

# Modules that L1 needs before it has its root, and those that make it a host.
LAB_L1_BOOT_MODULES=(virtio_pci virtio_blk nfit nd_pmem overlay)
LAB_L1_MODULES=(kvm-amd)

# The tiny kernels: what a build leaves, as `path in the source=name`, sources that it does not read,
# and the compiler.
LAB_TINY_VARIANTS=(tiny fdt)
LAB_TINY_MAKE=()
LAB_TINY_TARGET=bzImage
LAB_TINY_FILES=(arch/x86/boot/bzImage=bzImage vmlinux=vmlinux .config=config)
LAB_TINY_UNUSED=('*/arch/[!x]*/*.[chS]' '*/arch/xtensa/*.[chS]')
LAB_TINY_PACKAGES=(gcc libc6-dev)

# How the kernel tells its programs (ELF, 64 bits, little-endian, EM_X86_64), and what runs them elsewhere.
LAB_QEMU_USER=qemu-x86_64
LAB_BINFMT_MAGIC='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x3e\x00'
LAB_BINFMT_MASK='\xff\xff\xff\xff\xff\xfe\xfe\xfc\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
