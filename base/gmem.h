/*
 * Guest memory: the only way to it from outside a vCPU.
 *
 * A guest-physical address (gpa_t) is an integer, a host address a pointer; they never mix. Every
 * access is checked for overflow and must lie in one region. What the guest may change at any
 * moment is copied once, the copy validated, and the copy used.
 *
 * Invariants: regions do not overlap and do not change after the first vCPU runs; the host
 * mappings outlive the gmem.
 *
 * Threads: set up by one thread; afterwards read-only and usable from all.
 */
#ifndef BASE_GMEM_H
#define BASE_GMEM_H

#include "base/bytes.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t gpa_t;

#define GMEM_REGIONS_MAX 8

struct gmem_region {
	gpa_t gpa;
	uint64_t len_bytes;
	uint8_t *host;		  /* mapping, not owned */
	int fd;			  /* what is mapped, not owned; -1: anonymous */
	uint64_t fd_offset_bytes; /* of the region's first byte in fd */
};

struct gmem;

int gmem_new(struct gmem **ret_mem);
void gmem_free(struct gmem *mem);

/* Adds a region. -EEXIST overlaps another, -EOVERFLOW wraps, -ENOSPC more than GMEM_REGIONS_MAX. */
int gmem_add(struct gmem *mem, const struct gmem_region *region, struct err *err);

/* The n-th region in ascending order of address; NULL past the last. */
const struct gmem_region *gmem_region_at(const struct gmem *mem, unsigned n);
uint64_t gmem_total_bytes(const struct gmem *mem);

/*
 * The host address of [gpa, gpa + len), or NULL unless it lies whole in one region. An empty range
 * gives NULL. gmem_ro() is for reading, gmem_rw() for writing as well: keeping them apart is what
 * makes dirty-page tracking possible. Contents may change under the reader at any time.
 */
const void *gmem_ro(const struct gmem *mem, gpa_t gpa, uint64_t len_bytes);
void *gmem_rw(const struct gmem *mem, gpa_t gpa, uint64_t len_bytes);

/* Copies. 0 or -EFAULT; nothing is copied on failure. */
int gmem_read(const struct gmem *mem, gpa_t gpa, void *dst, size_t len_bytes);
int gmem_write(const struct gmem *mem, gpa_t gpa, const void *src, size_t len_bytes);
int gmem_fill(const struct gmem *mem, gpa_t gpa, uint8_t byte, uint64_t len_bytes);

#endif
