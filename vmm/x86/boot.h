/* What the boot processor finds in memory, shared by boot.c (which writes it) and cpu.c. */
#ifndef VMM_X86_BOOT_H
#define VMM_X86_BOOT_H

#include "vmm/x86/layout.h"

/* Selectors that the 64-bit boot protocol asks for: __BOOT_CS and __BOOT_DS. */
#define X86_BOOT_CS   0x10
#define X86_BOOT_DS   0x18
#define X86_GDT_BYTES 32

/* Grows down from the zero page. */
#define X86_BOOT_STACK X86_ZERO_PAGE

#endif
