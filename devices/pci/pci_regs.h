/*
 * Configuration space of a type 0 function (PCI Local Bus 3.0 §6.1), and what else has numbers in
 * it.
 *
 * offset size
 *   0x00    2  vendor             0x0c  1  cache line size
 *   0x02    2  device             0x0d  1  latency timer
 *   0x04    2  command            0x0e  1  header type
 *   0x06    2  status             0x10 24  BARs
 *   0x08    1  revision           0x2c  2  subsystem vendor
 *   0x09    3  class code         0x2e  2  subsystem
 *   0x34    1  first capability   0x3c  1  interrupt line, 0x3d interrupt pin
 */
#ifndef DEVICES_PCI_PCI_REGS_H
#define DEVICES_PCI_PCI_REGS_H

#define PCI_REG_VENDOR	      0x00
#define PCI_REG_DEVICE	      0x02
#define PCI_REG_COMMAND	      0x04
#define PCI_REG_STATUS	      0x06
#define PCI_REG_REVISION      0x08
#define PCI_REG_CLASS	      0x09
#define PCI_REG_CACHE_LINE    0x0c
#define PCI_REG_BAR0	      0x10
#define PCI_REG_SUBSYS_VENDOR 0x2c
#define PCI_REG_SUBSYS	      0x2e
#define PCI_REG_CAP_PTR	      0x34
#define PCI_REG_IRQ_LINE      0x3c
#define PCI_REG_IRQ_PIN	      0x3d
#define PCI_FIRST_CAP	      0x40

#define PCI_COMMAND_MEMORY   0x0002
#define PCI_COMMAND_MASTER   0x0004
#define PCI_COMMAND_PARITY   0x0040
#define PCI_COMMAND_SERR     0x0100
#define PCI_COMMAND_INTX_OFF 0x0400
#define PCI_COMMAND_WRITABLE                                                               \
	(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_PARITY | PCI_COMMAND_SERR | \
	 PCI_COMMAND_INTX_OFF)
#define PCI_STATUS_CAPS 0x0010

#define PCI_BAR_64    0x4u
#define PCI_BAR_FLAGS 0xfu

/* MSI-X capability (§6.8.2): +2 message control, +4 table, +8 pending bits; low 3 bits: the BAR. */
#define PCI_CAP_MSIX	       0x11
#define PCI_MSIX_CONTROL       2
#define PCI_MSIX_CONTROL_FMASK 0x4000
#define PCI_MSIX_CONTROL_ON    0x8000
#define PCI_MSIX_ENTRY_BYTES   16
#define PCI_MSIX_ENTRY_CTRL    12
#define PCI_MSIX_ENTRY_MASKED  0x1

/* The area that pci_dev_add_msix() takes in its BAR. */
#define PCI_MSIX_PBA   0x800
#define PCI_MSIX_BYTES 0x1000

#define PCI_ECAM_SLOT_SHIFT 15
#define PCI_ECAM_FN_SHIFT   12
#define PCI_FN_BYTES	    4096 /* configuration bytes of one function in ECAM */

#endif
