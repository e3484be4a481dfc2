/*
 * Placing boot data (kernel, initramfs) in guest memory that is still all zero.
 *
 * Most of the time until the guest runs goes into pages of guest memory that are touched for the
 * first time. So pages that would be zero are left alone, and where memory is a file (memfd) the
 * others are written through it: a page that write(2) fills is neither cleared first nor mapped
 * here, which is about half the price of a page fault and a copy.
 */
#ifndef VMM_BOOT_PLACE_H
#define VMM_BOOT_PLACE_H

#include "base/err.h"
#include "base/gmem.h"

#include <stddef.h>
#include <stdint.h>

/*
 * Writes [src, src + len) at `gpa`, which must be zero so far. Returns 0; -EFAULT: not whole in one
 * region of memory; or what writing to the memory's file gave (-ENOSPC, -ENOMEM: the host has no
 * memory left).
 */
int place_bytes(const struct gmem *mem, gpa_t gpa, const void *src, uint64_t len_bytes);

/*
 * The same from a file, [offset, offset + len) of it, without a copy of it in between; pages of
 * zeros are not spared. -ESTALE: the file has become shorter.
 */
int place_file(const struct gmem *mem, gpa_t gpa, int fd, uint64_t offset, uint64_t len_bytes);

/* Gathers small pieces on their way to consecutive addresses. */
#define PLACE_BUFFER_BYTES (UINT64_C(256) << 10)

struct placer {
	const struct gmem *mem;
	gpa_t gpa; /* of buf[0] */
	size_t fill;
	uint8_t *buf;
};

int placer_init(struct placer *p, const struct gmem *mem, gpa_t gpa);
void placer_fini(struct placer *p);
gpa_t placer_tell(const struct placer *p);
int placer_write(struct placer *p, const void *src, size_t len_bytes);

/* As many bytes of a file from its start on. -ESTALE: it has become shorter. */
int placer_copy(struct placer *p, int fd, uint64_t len_bytes);

/* What is still in the buffer goes to memory. */
int placer_flush(struct placer *p);

#endif
