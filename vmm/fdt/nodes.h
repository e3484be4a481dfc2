/*
 * The nodes of a device tree that do not depend on the architecture, by the bindings of Linux
 * Documentation/devicetree/bindings and dt-schema; chosen, memory and aliases by the Devicetree
 * Specification 0.4 §3. All of them stand in the root, whose addresses and sizes have two cells
 * each.
 */
#ifndef VMM_FDT_NODES_H
#define VMM_FDT_NODES_H

#include "devices/platform.h"
#include "vmm/arch.h"
#include "vmm/fdt/dt.h"

/* A tree larger than this is refused: a machine full of devices takes a quarter. */
#define FDT_BYTES_MAX (64 * 1024)

/* How the interrupt controller is told of an edge-triggered one. */
#define FDT_IRQ_CELLS_MAX 4
struct fdt_wiring {
	uint32_t phandle; /* of the controller */
	unsigned cells;	  /* its #interrupt-cells */
	void (*specify)(unsigned gsi, uint32_t ret_cells[FDT_IRQ_CELLS_MAX]);
};

/* Properties of the root; every interrupt is the controller's. */
void fdt_root(struct dt *dt, const struct fdt_wiring *wiring);

/* Command line, initrd, the console (`stdout_path` may be NULL), and with `seeds` what the kernel's
 * random numbers begin with: for kernels that take them out of the tree. */
int fdt_chosen(struct dt *dt, const struct arch_boot *boot, const char *stdout_path, bool seeds);

void fdt_memory(struct dt *dt, uint64_t ram_bytes);

/* "reg" of a device in memory. */
void fdt_reg(struct dt *dt, gpa_t gpa, uint64_t len_bytes);

/* "interrupts" of a device that has one. */
void fdt_interrupt(struct dt *dt, const struct fdt_wiring *wiring, unsigned gsi);

/* The serial port's path, in `buf`; NULL: there is none. */
#define FDT_PATH_MAX 40
const char *fdt_uart_path(const struct arch_boot *boot, char buf[FDT_PATH_MAX]);

/* Devices; each takes its place from arch_device_place(), and is left out where there is none. */
void fdt_uart(struct dt *dt, const struct arch_boot *boot, const struct fdt_wiring *wiring);
void fdt_pvpanic(struct dt *dt, const struct arch_boot *boot);
void fdt_power_key(struct dt *dt, const struct fdt_wiring *wiring, unsigned gsi);
void fdt_virtio_mmio(struct dt *dt, const struct arch_boot *boot, const struct fdt_wiring *wiring);

/* The PCI host, by ECAM; `msi` is the phandle of what takes its messages, 0: nothing does. Its
 * wires go to a controller whose addresses have two cells. */
void fdt_pci(struct dt *dt, const struct pci_host_config *pci, const struct fdt_wiring *wiring,
	     uint32_t msi);

#endif
