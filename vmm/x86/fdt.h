/*
 * The device tree of an x86 machine, for kernels with CONFIG_OF and without ACPI: Linux
 * arch/x86/kernel/devicetree.c and Documentation/devicetree/bindings x86/ce4100.txt,
 * interrupt-controller/intel,ce4100-ioapic.txt and intel,ce4100-lapic.yaml,
 * power/reset/syscon-poweroff.yaml. The kernel gets it as setup data of type SETUP_DTB
 * (Documentation/x86/boot.rst).
 */
#ifndef VMM_X86_FDT_H
#define VMM_X86_FDT_H

#include "vmm/arch.h"

/* -ENOSPC: `cap` is too small. Pure. */
int x86_fdt_build(const struct arch_boot *boot, uint64_t ram_bytes, void *buf, size_t cap,
		  size_t *ret_len);

#endif
