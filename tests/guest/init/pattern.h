/*
 * What test disks contain: each sector tells which one it is, so that a host that reads the image
 * afterwards can check every byte (tests/guest/pattern.py is the same in Python).
 *
 *   0    8    tag, little-endian: sector number (bits 0..39), generation (bits 40..63, never 0)
 *   8  504    table[start .. start + 504), start = (sector * 7 + generation * 3) % 512
 *
 * A sector of zeroes has tag 0. The table is 1024 bytes: x = x * 1103515245 + 12345 mod 2^32 from
 * x = 1, each byte being bits 16..23. The digest of a run of sectors is the sum of
 * tag * (index in the run + 1) mod 2^64.
 */
#ifndef TESTS_GUEST_INIT_PATTERN_H
#define TESTS_GUEST_INIT_PATTERN_H

#include <stddef.h>
#include <stdint.h>

#define SECTOR		512
#define PATTERN_NOTHING UINT64_MAX /* neither zeroes nor a pattern */

uint64_t pattern_tag(uint64_t sector, uint32_t generation);
void pattern_fill(void *buf, uint64_t tag);

/* The tag of a sector's content, or PATTERN_NOTHING. */
uint64_t pattern_read(const void *buf);

#endif
