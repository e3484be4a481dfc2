/* What the files of the kernel loader share. Messages here do not name the file: kernel.c puts
 * "kernel PATH: " before them. */
#ifndef VMM_BOOT_KERNEL_PRIV_H
#define VMM_BOOT_KERNEL_PRIV_H

#include "base/err.h"
#include "base/gmem.h"
#include "vmm/boot/kernel.h"
#include "vmm/boot/unpack.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Nothing of a kernel goes below: there lie the zero page, tables and firmware's old places. */
#define KERNEL_LOWEST_GPA (UINT64_C(1) << 20)

/* The largest kernel image that Linux maps on x86-64 (KERNEL_IMAGE_SIZE): also the limit for what a
 * payload, or a packed Image, may unpack to. */
#define KERNEL_UNPACKED_MAX (UINT64_C(1) << 30)

/* ---- ELF (elf.c) -------------------------------------------------------------------------- */

/* vmlinux has four or five; a linker script of one's own a few more. */
#define ELF_SEGMENTS_MAX 32

/* The ELF header and the program headers stand in the first bytes of the file. */
#define ELF_HEAD_MAX 8192

struct elf_segment {
	gpa_t gpa;
	uint64_t mem_bytes;   /* what follows the file's bytes is zero */
	uint64_t file_offset; /* of file_bytes <= mem_bytes */
	uint64_t file_bytes;
};

struct elf_image {
	struct elf_segment segments[ELF_SEGMENTS_MAX]; /* disjoint, at KERNEL_LOWEST_GPA or above */
	unsigned nsegments;
	gpa_t entry;	  /* within a segment */
	gpa_t start, end; /* of all segments, in pages */
};

bool elf_is(const uint8_t *head, size_t len_bytes);

/* What machine an ELF file is for, in words; NULL: one that is not known, or the file ends before
 * it says so. */
const char *elf_machine(const uint8_t *head, size_t len_bytes);

/*
 * Reads the headers in the first `len_bytes` (ELF_HEAD_MAX, or the whole file when that is less)
 * of an ELF file of file_bytes. -ENOEXEC: not for this machine, not a program, damaged; -EBADMSG:
 * truncated.
 */
int elf_parse(const uint8_t *head, size_t len_bytes, uint64_t file_bytes,
	      struct elf_image *ret_image, struct err *err);

/* Does memory reach far enough? -ENOMEM with a message that says how much is needed. */
int elf_fits(const struct elf_image *image, const struct gmem *mem, struct err *err);

/* Places those of the file's bytes [offset, offset + len) that belong to segments. */
int elf_place(const struct elf_image *image, const struct gmem *mem, uint64_t offset,
	      const uint8_t *data, uint64_t len_bytes);

/* -ENOMEM unless [start, end) lies whole in one region of memory. */
int kernel_fits(const struct gmem *mem, gpa_t start, gpa_t end, struct err *err);

/* ---- bzImage (bzimage.c) ------------------------------------------------------------------ */

struct bzimage {
	unsigned version;     /* boot protocol, 0x020f */
	uint64_t code_offset; /* protected-mode part, in the file */
	uint64_t code_bytes;
	uint64_t payload_offset; /* in the file; within the protected-mode part */
	uint64_t payload_bytes;
	bool entry_64; /* has the 64-bit entry at 0x200 of the protected-mode part */
	bool relocatable;
	gpa_t preferred;
	uint64_t alignment;  /* power of two */
	uint64_t init_bytes; /* what an image that unpacks itself needs from its load address on */
	gpa_t initrd_max;
	unsigned header_bytes; /* from BZIMAGE_HEADER_OFFSET on */
	char release[128];
};

#define BZIMAGE_HEADER_OFFSET 0x1f1

bool bzimage_is(const uint8_t *file, uint64_t len_bytes);
int bzimage_parse(const uint8_t *file, uint64_t len_bytes, struct bzimage *ret_image,
		  struct err *err);
int bzimage_load(const struct bzimage *image, const uint8_t *file, const struct gmem *mem,
		 struct kernel_loaded *ret_loaded, struct err *err);

/* ---- Image of 64-bit Arm (image.c) -------------------------------------------------------- */

struct arm64_image {
	enum unpack_format format;     /* UNPACK_NONE: the file is the Image */
	uint64_t offset, packed_bytes; /* of the Image, packed or not, in the file */
	uint64_t text_offset;	       /* from a multiple of 2 MiB to the Image's start */
	uint64_t mem_bytes;	       /* from its start on; 0: an old kernel that does not say */
};

/* Is it an Image, or what one comes packed in? */
bool image_is(const uint8_t *file, uint64_t len_bytes);
/* -ENOEXEC: not for this machine, or nothing of the kind is packed in it; -EBADMSG: damaged. */
int image_parse(const uint8_t *file, uint64_t len_bytes, struct arm64_image *ret_image,
		struct err *err);
/* `fd` is the file as well. */
int image_load(const struct arm64_image *image, const uint8_t *file, int fd, const struct gmem *mem,
	       struct kernel_loaded *ret_loaded, struct err *err);
/* Shows the unpacked bytes to `sink`, until it says -ECANCELED or there are no more. */
void image_show(const struct arm64_image *image, const uint8_t *file, struct unpack_sink *sink);

#endif
