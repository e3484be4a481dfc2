#include "vmm/x86/e820.h"
#include "base/checked.h"
#include "devices/pci/pci.h"
#include "vmm/arch.h"
#include "vmm/x86/layout.h"

unsigned e820_build(uint64_t ram_bytes, bool ecam, struct e820_range ret_map[E820_MAX])
{
	uint64_t low_end = MIN(ram_bytes, X86_HOLE);
	unsigned n = 0;

	ret_map[n++] = (struct e820_range){0, X86_LOW_RAM_END, E820_RAM};
	ret_map[n++] =
	    (struct e820_range){X86_LOW_RAM_END, X86_EBDA_END - X86_LOW_RAM_END, E820_RESERVED};
	ret_map[n++] = (struct e820_range){X86_ACPI, X86_ACPI_END - X86_ACPI, E820_RESERVED};
	ret_map[n++] = (struct e820_range){X86_HIGH_RAM, low_end - X86_HIGH_RAM, E820_RAM};
	if (ecam)
		ret_map[n++] = (struct e820_range){X86_ECAM, PCI_ECAM_BYTES, E820_RESERVED};
	if (ram_bytes > X86_HOLE)
		ret_map[n++] = (struct e820_range){X86_4G, ram_bytes - X86_HOLE, E820_RAM};
	return n;
}

unsigned arch_ram_layout(uint64_t bytes, struct arch_ram ret_ram[ARCH_RAM_MAX])
{
	ret_ram[0] = (struct arch_ram){0, MIN(bytes, X86_HOLE)};
	if (bytes <= X86_HOLE)
		return 1;
	ret_ram[1] = (struct arch_ram){X86_4G, bytes - X86_HOLE};
	return 2;
}

static uint64_t ram_end(uint64_t ram_bytes)
{
	return ram_bytes <= X86_HOLE ? X86_4G : X86_4G + ram_bytes - X86_HOLE;
}

void arch_pci_layout(uint64_t ram_bytes, struct pci_host_config *ret_config)
{
	*ret_config = (struct pci_host_config){
	    .ecam_gpa = X86_ECAM,
	    .mem32_gpa = X86_MEM32,
	    .mem32_len = X86_MEM32_LEN,
	    .mem64_gpa = align_up(ram_end(ram_bytes), X86_MEM64_LEN),
	    .mem64_len = X86_MEM64_LEN,
	    .ports = true,
	};
}

/* Pins that no PC device has a claim on; the first eight are beyond the reach of the old PICs. */
static const uint8_t mmio_gsis[] = {16, 17, 18, 19, 20, 21, 22, 23, 10, 11, 9, 6, 7, 3};

void arch_mmio_slot(unsigned n, gpa_t *ret_gpa, unsigned *ret_gsi)
{
	*ret_gpa = X86_VIRTIO_MMIO + (gpa_t)n * 0x1000;
	*ret_gsi = mmio_gsis[n % ARRAY_LEN(mmio_gsis)];
}
