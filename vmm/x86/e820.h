/*
 * The map of memory that the kernel gets in the zero page (ACPI 6.4 §15; Linux
 * Documentation/x86/zero-page.rst).
 */
#ifndef VMM_X86_E820_H
#define VMM_X86_E820_H

#include <stdbool.h>
#include <stdint.h>

enum e820_type {
	E820_RAM = 1,
	E820_RESERVED = 2,
};

struct e820_range {
	uint64_t base, len;
	enum e820_type type;
};

#define E820_MAX 8

/* The map of a machine with so much RAM, in ascending order; returns the number of entries. With
 * `ecam`, PCI's configuration space is reserved (Linux wants to see that before it uses it). */
unsigned e820_build(uint64_t ram_bytes, bool ecam, struct e820_range ret_map[E820_MAX]);

#endif
