/*
 * The physical address space of an x86 machine.
 *
 *   0x0000_0500   GDT of the boot processor
 *   0x0000_7000   zero page (struct boot_params)
 *   0x0000_9000   page tables: PML4, PDPT, 4 page directories
 *   0x0001_f000   setup_data: random seed; a link to the device tree
 *   0x0002_0000   kernel command line
 *   0x0009_fc00   end of low RAM; the rest of the first 640 KiB is where a BIOS keeps its EBDA
 *   0x000e_0000   ACPI: RSDP first, tables after it; or the device tree
 *   0x000f_fff0   where a processor starts after a reset
 *   0x0010_0000   RAM, with the kernel, to 3 GiB at most
 *   0xc000_0000   PCI, 32-bit BARs
 *   0xe000_0000   PCI ECAM, bus 0
 *   0xe800_0000   virtio-mmio, one page a device
 *   0xe8ff_0000   power management, pvpanic and the serial port, a page each, where a
 *                 device tree names them
 *   0xfec0_0000   IOAPIC
 *   0xfee0_0000   local APIC
 *   0xfffb_c000   pages that KVM needs on Intel for real mode
 *   0x1_0000_0000 RAM beyond 3 GiB, then PCI's 64-bit BARs
 *
 * Wired interrupts (GSI = IOAPIC pin): 4 COM1, 5 power management, virtio-mmio see mmio_gsis.
 */
#ifndef VMM_X86_LAYOUT_H
#define VMM_X86_LAYOUT_H

#include <stdint.h>

#define X86_GDT		 UINT64_C(0x500)
#define X86_ZERO_PAGE	 UINT64_C(0x7000)
#define X86_PAGE_TABLES	 UINT64_C(0x9000)
#define X86_SETUP_DATA	 UINT64_C(0x1f000)
#define X86_CMDLINE	 UINT64_C(0x20000)
#define X86_LOW_RAM_END	 UINT64_C(0x9fc00)
#define X86_EBDA_END	 UINT64_C(0xa0000)
#define X86_ACPI	 UINT64_C(0xe0000)
#define X86_FDT		 X86_ACPI /* in place of them */
#define X86_ACPI_END	 UINT64_C(0x100000)
#define X86_RESET_VECTOR UINT64_C(0xffff0)
#define X86_HIGH_RAM	 UINT64_C(0x100000)
#define X86_HOLE	 UINT64_C(0xc0000000)
#define X86_MEM32	 UINT64_C(0xc0000000)
#define X86_MEM32_LEN	 UINT64_C(0x20000000)
#define X86_ECAM	 UINT64_C(0xe0000000)
#define X86_VIRTIO_MMIO	 UINT64_C(0xe8000000)
#define X86_FDT_POWER	 UINT64_C(0xe8ff0000)
#define X86_FDT_PVPANIC	 UINT64_C(0xe8ff1000)
#define X86_FDT_UART	 UINT64_C(0xe8ff2000)
#define X86_IOAPIC	 UINT64_C(0xfec00000)
#define X86_LAPIC	 UINT64_C(0xfee00000)
#define X86_IDENTITY_MAP UINT64_C(0xfffbc000)
#define X86_TSS		 UINT64_C(0xfffbd000)
#define X86_4G		 UINT64_C(0x100000000)
#define X86_MEM64_LEN	 UINT64_C(0x100000000)

#define X86_IOAPIC_PINS 24

#endif
