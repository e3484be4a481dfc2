# shellcheck shell=bash disable=SC2034 # for those who source this
# The lab on arm64: QEMU's virt machine with EL2 and a GICv3 with ITS.

LAB_DEB_ARCH=arm64
LAB_CACHE_PREFIX=arm64-
LAB_QEMU_PACKAGE=qemu-system-arm
LAB_QEMU_BINARY=qemu-system-aarch64
LAB_MACHINE=virt,virtualization=on,gic-version=3
# -cpu max is several times slower: TCG computes pointer authentication.
LAB_CPU=cortex-a72
LAB_SPARE_CPUS=0
LAB_APPEND='console=ttyAMA0 panic=-1 quiet mitigations=off'
# Without ACPI, which takes firmware, the virt machine has no NVDIMM.
LAB_ICOUNT_DISKS=virtio

LAB_L1_BOOT_MODULES=(virtio_pci virtio_blk overlay)
LAB_L1_MODULES=()

LAB_TINY_VARIANTS=(tiny)
LAB_TINY_MAKE=(ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu-)
LAB_TINY_TARGET=Image
LAB_TINY_FILES=(arch/arm64/boot/Image=Image .config=config)
LAB_TINY_UNUSED=('*/arch/[!a]*/*.[chS]' '*/arch/al*/*.[chS]' '*/arch/arc/*.[chS]')
LAB_TINY_PACKAGES=(gcc libc6-dev gcc-aarch64-linux-gnu)

# How the kernel tells its programs (ELF, 64 bits, little-endian, EM_AARCH64), and what runs them elsewhere.
LAB_QEMU_USER=qemu-aarch64
LAB_BINFMT_MAGIC='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
LAB_BINFMT_MASK='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
