/* The DSDT: the tree of devices, in ACPI machine language. */
#ifndef VMM_X86_DSDT_H
#define VMM_X86_DSDT_H

#include "vmm/arch.h"

#include <stddef.h>
#include <stdint.h>

/* Writes the body of the table (what follows its header). -ENOSPC. Pure. */
int dsdt_build(const struct arch_boot *boot, uint8_t *buf, size_t cap, size_t *ret_len);

#endif
