#include "pci.h"

static uint16_t select(unsigned slot, unsigned offset)
{
	outl(0xcf8, 0x80000000u | slot << 11 | (offset & 0xfc));
	return (uint16_t)(0xcfc + (offset & 3));
}

uint32_t pci_read(unsigned slot, unsigned offset, unsigned size)
{
	uint16_t port = select(slot, offset);

	return size == 1 ? inb(port) : size == 2 ? inw(port) : inl(port);
}

void pci_write(unsigned slot, unsigned offset, unsigned size, uint32_t value)
{
	uint16_t port = select(slot, offset);

	if (size == 1)
		outb(port, (uint8_t)value);
	else if (size == 2)
		outw(port, (uint16_t)value);
	else
		outl(port, value);
}

unsigned pci_find(uint16_t vendor, uint16_t device, unsigned from)
{
	for (unsigned slot = from; slot < 32; slot++) {
		if (pci_read(slot, PCI_VENDOR, 4) == ((uint32_t)device << 16 | vendor))
			return slot;
	}
	return PCI_NONE;
}

unsigned pci_cap(unsigned slot, uint8_t id, unsigned after)
{
	unsigned at = after ? after + 1 : PCI_CAP_POINTER;

	for (unsigned n = 0; n < 48; n++) {
		at = pci_read(slot, at, 1) & 0xfc;
		if (!at || pci_read(slot, at, 1) == id)
			return at;
		at++;
	}
	return 0;
}

uint64_t pci_bar(unsigned slot, unsigned bar)
{
	unsigned at = PCI_BAR0 + 4 * bar;
	uint32_t low = pci_read(slot, at, 4);
	uint64_t address = low & ~0xfu;

	if ((low & 6) == 4)
		address |= (uint64_t)pci_read(slot, at + 4, 4) << 32;
	return address;
}

void pci_enable(unsigned slot)
{
	uint32_t command = pci_read(slot, PCI_COMMAND, 2);

	pci_write(slot, PCI_COMMAND, 2, command | PCI_COMMAND_MEMORY | PCI_COMMAND_BUS_MASTER);
}
