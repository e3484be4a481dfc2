/*
 * Kernel images: what is in the file, and how it gets into guest memory. Which machine they are for
 * is the caller's to say; nothing here depends on the host's.
 *
 * x86-64:
 * bzImage (Linux Documentation/x86/boot.rst, protocol 2.08 and up): the compressed payload is
 * unpacked by us where the format is one of ours (gzip, xz, lzma, lz4, zstd), which is many
 * times faster than the guest doing it and skips KASLR's relocation pass; other formats are entered
 * at the 64-bit entry and unpack themselves. ELF: a 64-bit x86 vmlinux (or a test payload), entered
 * at e_entry.
 *
 * 64-bit Arm: Image (Linux Documentation/arm64/booting.rst), as it is, packed with any of the
 * formats above (Image.gz), or within an EFI zboot image; entered at its start.
 *
 * The file is untrusted: every offset and size is checked against the file and the memory.
 */
#ifndef VMM_BOOT_KERNEL_H
#define VMM_BOOT_KERNEL_H

#include "base/err.h"
#include "base/gmem.h"

#include <stdbool.h>
#include <stdint.h>

enum kernel_machine {
	KERNEL_FOR_X86_64,
	KERNEL_FOR_ARM64,
};

enum kernel_format {
	KERNEL_BZIMAGE,
	KERNEL_ELF,
	KERNEL_IMAGE, /* 64-bit Arm, packed or not */
};

/* bytes of a bzImage's setup header, from offset 0x1f1 of the file and of the zero page */
#define KERNEL_SETUP_HEADER_MAX 0x90

struct kernel;

/* Opens and validates. The message names the file and what is wrong: empty, truncated, for another
 * architecture (which), not a kernel at all, too old a boot protocol. */
int kernel_open(const char *path, enum kernel_machine machine, struct kernel **ret_kernel,
		struct err *err);
void kernel_close(struct kernel *kernel);

enum kernel_format kernel_format(const struct kernel *kernel);

/* The release ("6.1.0-37-cloud-amd64") or NULL where the file does not say. A packed Image is
 * unpacked for it. */
const char *kernel_release(const struct kernel *kernel);

struct kernel_loaded {
	gpa_t entry;	  /* 64-bit entry point */
	gpa_t start, end; /* what the kernel takes, with its bss and scratch space */
	uint8_t
	    setup_header[KERNEL_SETUP_HEADER_MAX]; /* bzImage: bytes for the zero page at 0x1f1 */
	unsigned setup_header_len;		   /* 0: ELF without one */
	gpa_t initrd_max;			   /* highest address an initrd may reach */
};

/* Puts the kernel into guest memory, which must be zero there still, at the address it was linked
 * for. -ENOMEM: does not fit (the message says how much memory is needed); -EBADMSG, -ENOEXEC: its
 * payload is damaged or for another machine. */
int kernel_load(struct kernel *kernel, const struct gmem *mem, struct kernel_loaded *ret_loaded,
		struct err *err);

#endif
