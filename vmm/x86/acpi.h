/*
 * ACPI tables: how a kernel finds CPUs, interrupts, PCI, the power button and the way off.
 *
 * ACPI 6.4, hardware-reduced: RSDP, XSDT, FADT, MADT, MCFG, DSDT. There is no firmware and no fixed
 * ACPI hardware: sleep and reset are the registers of devices/legacy/acpi_pm.c, events come by a
 * generic event device.
 */
#ifndef VMM_X86_ACPI_H
#define VMM_X86_ACPI_H

#include "base/err.h"
#include "base/gmem.h"
#include "vmm/arch.h"

#include <stddef.h>
#include <stdint.h>

#define ACPI_TABLES_MAX 16384 /* 64 CPUs and 25 virtio-mmio devices take less than half */

/*
 * Builds all tables for address X86_ACPI; the RSDP is at the start. -ENOSPC: `cap` is too small.
 * Pure.
 */
int acpi_build(const struct arch_boot *boot, uint8_t *buf, size_t cap, size_t *ret_len);

/* acpi_build() into guest memory. */
int acpi_write(const struct gmem *mem, const struct arch_boot *boot, struct err *err);

#endif
