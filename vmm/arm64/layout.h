/*
 * The physical address space of a 64-bit Arm machine.
 *
 *   0x0800_0000   GIC distributor
 *   0x0801_0000   GICv2: CPU interface
 *   0x0808_0000   GICv3: ITS
 *   0x080a_0000   GICv3: redistributors, 128 KiB a CPU
 *   0x0900_0000   serial port
 *   0x0901_0000   real-time clock
 *   0x0902_0000   pvpanic
 *   0x0a00_0000   virtio-mmio, one page a device
 *   0x1000_0000   PCI, 32-bit BARs
 *   0x3f00_0000   PCI ECAM, bus 0
 *   0x4000_0000   RAM: the kernel first, behind it the device tree, the initramfs last
 *   behind it     PCI's 64-bit BARs
 *
 * Wired interrupts (GSI = shared peripheral interrupt of the GIC, its number less 32): 1 serial
 * port, 2 power key, 4 to 7 PCI, virtio-mmio from 16 up.
 */
#ifndef VMM_ARM64_LAYOUT_H
#define VMM_ARM64_LAYOUT_H

#include <stdint.h>

#define ARM64_GICD	  UINT64_C(0x08000000)
#define ARM64_GICC	  UINT64_C(0x08010000)
#define ARM64_ITS	  UINT64_C(0x08080000)
#define ARM64_GICR	  UINT64_C(0x080a0000)
#define ARM64_UART	  UINT64_C(0x09000000)
#define ARM64_RTC	  UINT64_C(0x09010000)
#define ARM64_PVPANIC	  UINT64_C(0x09020000)
#define ARM64_VIRTIO_MMIO UINT64_C(0x0a000000)
#define ARM64_MEM32	  UINT64_C(0x10000000)
#define ARM64_MEM32_LEN	  UINT64_C(0x20000000)
#define ARM64_ECAM	  UINT64_C(0x3f000000)
#define ARM64_RAM	  UINT64_C(0x40000000)
#define ARM64_MEM64_LEN	  UINT64_C(0x100000000)

#define ARM64_GICD_BYTES UINT64_C(0x10000)
#define ARM64_GICC_BYTES UINT64_C(0x2000)
#define ARM64_ITS_BYTES	 UINT64_C(0x20000)
#define ARM64_GICR_BYTES UINT64_C(0x20000) /* of a CPU */

#define ARM64_SPIS	64 /* wired interrupts */
#define ARM64_UART_SPI	1
#define ARM64_POWER_SPI 2
#define ARM64_PCI_SPI	4
#define ARM64_MMIO_SPI	16
#define ARM64_MMIO_SPIS 32

/* Private interrupts of a CPU (PPI numbers), as KVM and the Base System Architecture have them. */
#define ARM64_PPI_PMU	       7
#define ARM64_PPI_GIC	       9
#define ARM64_PPI_TIMER_HYP    10
#define ARM64_PPI_TIMER_VIRT   11
#define ARM64_PPI_TIMER_SECURE 13
#define ARM64_PPI_TIMER_PHYS   14

#define ARM64_DTB_BLOCK UINT64_C(0x200000)

#endif
