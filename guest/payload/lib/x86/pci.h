/* PCI as a payload sees it: bus 0, configuration mechanism #1. */
#ifndef GUEST_PAYLOAD_PCI_H
#define GUEST_PAYLOAD_PCI_H

#include "x86.h"

#define PCI_NONE	0xff
#define PCI_VENDOR	0x00
#define PCI_COMMAND	0x04
#define PCI_BAR0	0x10
#define PCI_CAP_POINTER 0x34

#define PCI_COMMAND_MEMORY     0x2
#define PCI_COMMAND_BUS_MASTER 0x4

uint32_t pci_read(unsigned slot, unsigned offset, unsigned size);
void pci_write(unsigned slot, unsigned offset, unsigned size, uint32_t value);

/* The first slot from `from` on with these ids; PCI_NONE: no such. */
unsigned pci_find(uint16_t vendor, uint16_t device, unsigned from);

/* The offset of the first capability after `after` (0: from the start) with this id; 0: none. */
unsigned pci_cap(unsigned slot, uint8_t id, unsigned after);

/* The address of a memory BAR; 0: unassigned. */
uint64_t pci_bar(unsigned slot, unsigned bar);
void pci_enable(unsigned slot);

#endif
