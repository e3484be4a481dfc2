/*
 * Nonsense to every port and every device register: any value, any size, any offset. Spared are the
 * registers by which a guest ends the machine, and the interrupt controllers, which are KVM's.
 */
#include "lib/x86/pci.h"

#define PORTS	    0x1000
#define ACCESSES    6000 /* to each range of memory-mapped registers */
#define VIRTIO_MMIO UINT64_C(0xe8000000)
#define ECAM	    UINT64_C(0xe0000000)
#define PCI_BARS    6

static uint64_t state = 0x9e3779b97f4a7c15;

static uint64_t noise(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

/* Half of the values are small or round: those get further than noise does. */
static uint64_t value(void)
{
	uint64_t v = noise();

	switch (v >> 60 & 7) {
	case 0:
		return v & 0xff;
	case 1:
		return 0;
	case 2:
		return UINT64_MAX;
	case 3:
		return UINT64_C(1) << (v & 63);
	default:
		return v;
	}
}

static bool spared(unsigned first, unsigned size)
{
	static const struct {
		uint16_t first, last;
	} ports[] = {
	    {0x20, 0x21}, {0x40, 0x43},	  {0x61, 0x61},	  {0x64, 0x64},	  {0x92, 0x92},
	    {0xa0, 0xa1}, {0x4d0, 0x4d1}, {0x505, 0x505}, {0x600, 0x603}, {0xcf9, 0xcf9},
	};

	for (size_t i = 0; i < sizeof(ports) / sizeof(ports[0]); i++) {
		if (first <= ports[i].last && first + size > ports[i].first)
			return true;
	}
	return false;
}

static void ports(void)
{
	for (unsigned port = 0; port < PORTS; port++) {
		uint16_t p = (uint16_t)port;

		if (!spared(port, 1)) {
			outb(p, (uint8_t)value());
			inb(p);
		}
		if (!spared(port, 2)) {
			outw(p, (uint16_t)value());
			inw(p);
		}
		if (!spared(port, 4)) {
			outl(p, (uint32_t)value());
			inl(p);
		}
	}
}

static void registers(uint64_t base, uint64_t len)
{
	for (unsigned i = 0; i < ACCESSES; i++) {
		uint64_t r = noise(), gpa = base + (r >> 8) % (len - 8);

		switch (r & 7) {
		case 0:
			mmio_write8(gpa, (uint8_t)value());
			break;
		case 1:
			mmio_write16(gpa, (uint16_t)value());
			break;
		case 2:
			mmio_write32(gpa, (uint32_t)value());
			break;
		case 3:
			mmio_write64(gpa, value());
			break;
		case 4:
			mmio_read8(gpa);
			break;
		case 5:
			mmio_read16(gpa);
			break;
		case 6:
			mmio_read32(gpa);
			break;
		default:
			mmio_read64(gpa);
			break;
		}
	}
}

static void bars(unsigned slot)
{
	for (unsigned bar = 0; bar < PCI_BARS; bar++) {
		uint64_t base = pci_bar(slot, bar);

		if (base && !(pci_read(slot, PCI_BAR0 + 4 * bar, 4) & 1))
			registers(base, 0x4000);
		if ((pci_read(slot, PCI_BAR0 + 4 * bar, 4) & 6) == 4)
			bar++;
	}
}

void payload_main(void)
{
	print("hostile\n");
	for (unsigned slot = 0; slot < 32; slot++) {
		if ((pci_read(slot, PCI_VENDOR, 4) & 0xffff) != 0xffff) {
			pci_enable(slot);
			bars(slot);
		}
	}
	if (pci_read(0, PCI_VENDOR, 4) == UINT32_MAX)
		registers(VIRTIO_MMIO, 0x4000);
	else
		registers(ECAM, 0x8000); /* the first functions: bases move, vectors change */
	ports();
	print_reset();
	print("\nsurvived\n");
}
