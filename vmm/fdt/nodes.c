#include "vmm/fdt/nodes.h"
#include "base/checked.h"
#include "devices/legacy/legacy.h"
#include "devices/legacy/uart.h"
#include "devices/virtio/virtio.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#define UART_CLOCK_HZ  1843200
#define UART_SPEED     115200
#define RNG_SEED_BYTES 64
#define KEY_POWER      116 /* linux/input-event-codes.h */

/* Of a PCI range's first cell (IEEE 1275 PCI bus binding §2.2.1.1). */
#define PCI_RANGE_MEM32	   UINT32_C(0x02000000)
#define PCI_RANGE_MEM64	   UINT32_C(0x43000000) /* prefetchable */
#define PCI_REQUESTERS_MAX 0x10000
#define PCI_SLOT_SHIFT	   11

void fdt_root(struct dt *dt, const struct fdt_wiring *wiring)
{
	dt_text(dt, "model", "lodge");
	dt_text(dt, "compatible", "linux,dummy-virt");
	dt_u32(dt, "#address-cells", 2);
	dt_u32(dt, "#size-cells", 2);
	dt_u32(dt, "interrupt-parent", wiring->phandle);
}

/* One cell, as dt-schema's chosen.yaml has it, where that is enough; the kernel goes by the length.
 */
static void add_initrd(struct dt *dt, const struct arch_boot *boot)
{
	gpa_t end = boot->initrd + boot->initrd_bytes;

	if (end <= UINT32_MAX) {
		dt_u32(dt, "linux,initrd-start", (uint32_t)boot->initrd);
		dt_u32(dt, "linux,initrd-end", (uint32_t)end);
	} else {
		dt_u64(dt, "linux,initrd-start", boot->initrd);
		dt_u64(dt, "linux,initrd-end", end);
	}
}

int fdt_chosen(struct dt *dt, const struct arch_boot *boot, const char *stdout_path, bool seeds)
{
	uint8_t seed[RNG_SEED_BYTES + sizeof(uint64_t)];

	if (seeds && getrandom(seed, sizeof(seed), 0) != (ssize_t)sizeof(seed))
		return -EIO;
	dt_node(dt, "chosen");
	dt_text(dt, "bootargs", boot->cmdline);
	if (boot->initrd_bytes)
		add_initrd(dt, boot);
	if (stdout_path)
		dt_text(dt, "stdout-path", stdout_path);
	if (seeds) {
		dt_bytes(dt, "rng-seed", seed, RNG_SEED_BYTES);
		dt_bytes(dt, "kaslr-seed", seed + RNG_SEED_BYTES, sizeof(uint64_t));
	}
	dt_end(dt);
	memset(seed, 0, sizeof(seed));
	return 0;
}

void fdt_memory(struct dt *dt, uint64_t ram_bytes)
{
	struct arch_ram ram[ARCH_RAM_MAX];
	unsigned n = arch_ram_layout(ram_bytes, ram);

	for (unsigned i = 0; i < n; i++) {
		dt_node_at(dt, "memory", ram[i].gpa);
		dt_text(dt, "device_type", "memory");
		fdt_reg(dt, ram[i].gpa, ram[i].len_bytes);
		dt_end(dt);
	}
}

void fdt_reg(struct dt *dt, gpa_t gpa, uint64_t len_bytes)
{
	DT_CELLS(dt, "reg", DT_U64(gpa), DT_U64(len_bytes));
}

void fdt_interrupt(struct dt *dt, const struct fdt_wiring *wiring, unsigned gsi)
{
	uint32_t cells[FDT_IRQ_CELLS_MAX];

	wiring->specify(gsi, cells);
	dt_cells(dt, "interrupts", cells, wiring->cells);
}

const char *fdt_uart_path(const struct arch_boot *boot, char buf[FDT_PATH_MAX])
{
	struct device_place place;

	if (!boot->uart || !arch_device_place(boot->config, ARCH_UART, &place))
		return NULL;
	snprintf(buf, FDT_PATH_MAX, "/serial@%llx", (unsigned long long)place.base);
	return buf;
}

void fdt_uart(struct dt *dt, const struct arch_boot *boot, const struct fdt_wiring *wiring)
{
	struct device_place place;

	if (!boot->uart || !arch_device_place(boot->config, ARCH_UART, &place))
		return;
	dt_node_at(dt, "serial", place.base);
	dt_text(dt, "compatible", "ns16550a");
	dt_u32(dt, "clock-frequency", UART_CLOCK_HZ);
	dt_u32(dt, "current-speed", UART_SPEED);
	fdt_reg(dt, place.base, UART_PORTS);
	fdt_interrupt(dt, wiring, place.gsi);
	dt_end(dt);
}

/* misc/pvpanic-mmio.txt */
void fdt_pvpanic(struct dt *dt, const struct arch_boot *boot)
{
	struct device_place place;

	if (!boot->pvpanic || !arch_device_place(boot->config, ARCH_PVPANIC, &place))
		return;
	dt_node_at(dt, "pvpanic", place.base);
	dt_text(dt, "compatible", "qemu,pvpanic-mmio");
	fdt_reg(dt, place.base, PVPANIC_BYTES);
	dt_end(dt);
}

/* input/gpio-keys.yaml: a key that is an interrupt needs no GPIO. */
void fdt_power_key(struct dt *dt, const struct fdt_wiring *wiring, unsigned gsi)
{
	dt_node(dt, "gpio-keys");
	dt_text(dt, "compatible", "gpio-keys");
	dt_node(dt, "key-power");
	dt_text(dt, "label", "power");
	dt_u32(dt, "linux,code", KEY_POWER);
	fdt_interrupt(dt, wiring, gsi);
	dt_end(dt);
	dt_end(dt);
}

/* virtio/mmio.yaml */
void fdt_virtio_mmio(struct dt *dt, const struct arch_boot *boot, const struct fdt_wiring *wiring)
{
	unsigned gsi;
	gpa_t gpa;

	for (unsigned i = 0; i < boot->nmmio; i++) {
		arch_mmio_slot(i, &gpa, &gsi);
		dt_node_at(dt, "virtio", gpa);
		dt_text(dt, "compatible", "virtio,mmio");
		fdt_reg(dt, gpa, VIRTIO_MMIO_BYTES);
		fdt_interrupt(dt, wiring, gsi);
		dt_empty(dt, "dma-coherent");
		dt_end(dt);
	}
}

/* Every pin of slots that differ: each slot's pins begin one wire on from the last one's. */
static void add_pci_wires(struct dt *dt, const struct pci_host_config *pci,
			  const struct fdt_wiring *wiring)
{
	uint32_t map[PCI_INTX * PCI_INTX * (3 + 1 + 1 + 2 + FDT_IRQ_CELLS_MAX)];
	size_t n = 0;

	for (unsigned slot = 0; slot < PCI_INTX; slot++) {
		for (unsigned pin = 1; pin <= PCI_INTX; pin++) {
			map[n++] = slot << PCI_SLOT_SHIFT;
			map[n++] = 0;
			map[n++] = 0;
			map[n++] = pin;
			map[n++] = wiring->phandle;
			map[n++] = 0;
			map[n++] = 0;
			wiring->specify(pci->intx_gsi + (slot + pin - 1) % PCI_INTX, &map[n]);
			n += wiring->cells;
		}
	}
	dt_u32(dt, "#interrupt-cells", 1);
	DT_CELLS(dt, "interrupt-map-mask", (PCI_INTX - 1) << PCI_SLOT_SHIFT, 0, 0, 7);
	dt_cells(dt, "interrupt-map", map, n);
}

/* pci/host-generic-pci.yaml, pci/pci-msi.txt */
void fdt_pci(struct dt *dt, const struct pci_host_config *pci, const struct fdt_wiring *wiring,
	     uint32_t msi)
{
	dt_node_at(dt, "pcie", pci->ecam_gpa);
	dt_text(dt, "compatible", "pci-host-ecam-generic");
	dt_text(dt, "device_type", "pci");
	dt_u32(dt, "#address-cells", 3);
	dt_u32(dt, "#size-cells", 2);
	DT_CELLS(dt, "bus-range", 0, 0);
	dt_u32(dt, "linux,pci-domain", 0);
	dt_empty(dt, "dma-coherent");
	fdt_reg(dt, pci->ecam_gpa, PCI_ECAM_BYTES);
	DT_CELLS(dt, "ranges", PCI_RANGE_MEM32, DT_U64(pci->mem32_gpa), DT_U64(pci->mem32_gpa),
		 DT_U64(pci->mem32_len), PCI_RANGE_MEM64, DT_U64(pci->mem64_gpa),
		 DT_U64(pci->mem64_gpa), DT_U64(pci->mem64_len));
	if (pci->intx)
		add_pci_wires(dt, pci, wiring);
	if (msi)
		DT_CELLS(dt, "msi-map", 0, msi, 0, PCI_REQUESTERS_MAX);
	dt_end(dt);
}
