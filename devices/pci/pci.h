/*
 * PCI: functions on bus 0 of one host bridge, reached through configuration mechanism #1 (ports
 * 0xcf8/0xcfc) and ECAM.
 *
 * PCI Local Bus 3.0, PCI Express Base 2.0 §7.2.2 (ECAM), PCI Firmware 3.1 (MCFG).
 *
 * Layout of a function: `config` holds the bytes that the guest reads, `wmask` which bits it may
 * write. BARs are memory BARs (32 or 64 bits); the host places them at start, so that a guest
 * without firmware finds them assigned, and follows when the guest moves them.
 *
 * Threads: config accesses and BAR accesses come from vCPU threads. Config accesses are serialised
 * by the host's lock; BAR accesses are not.
 */
#ifndef DEVICES_PCI_PCI_H
#define DEVICES_PCI_PCI_H

#include "base/err.h"
#include "devices/platform.h"

#include <stdint.h>

#define PCI_CONFIG_BYTES 256
#define PCI_BARS	 6
#define PCI_SLOTS	 32
#define PCI_MSIX_MAX	 64 /* vectors of one function: one a queue and one for configuration */
#define PCI_NO_VECTOR	 0xffff
#define PCI_INTX	 4

struct pci_dev;
struct pci_host;
struct pci_msix;

struct pci_dev_ops {
	/* Access to a BAR, below the MSI-X structures. Any size 1..8, any offset within the BAR. */
	uint64_t (*bar_read)(struct pci_dev *dev, unsigned bar, uint64_t offset, unsigned size);
	void (*bar_write)(struct pci_dev *dev, unsigned bar, uint64_t offset, unsigned size,
			  uint64_t value);
	/* Optional: the BAR was placed at `gpa` or, with mapped false, is leaving it (doorbells).
	 */
	void (*bar_mapped)(struct pci_dev *dev, unsigned bar, gpa_t gpa, bool mapped);
	/* Optional: configuration bytes with a side effect (virtio's pci_cfg_data). Called before
	 * the read takes `config` and after the write changed it. */
	void (*config_read)(struct pci_dev *dev, unsigned offset, unsigned size);
	void (*config_written)(struct pci_dev *dev, unsigned offset, unsigned size);
	/* Optional: whoever raises `vector` may signal eventfd `irq_fd` in place of
	 * pci_msix_raise(); -1: not any more, when this returns. The lock of the MSI-X table is
	 * held. */
	void (*msix_direct)(struct pci_dev *dev, unsigned vector, int irq_fd);
};

struct pci_bar {
	uint64_t size; /* 0: absent */
	bool is_64;
	gpa_t gpa; /* where it is mapped now; meaningful while mapped */
	bool mapped;
};

struct pci_dev {
	const struct pci_dev_ops *ops;
	const char *name;
	struct pci_host *host; /* set by pci_host_add() */
	uint8_t slot;
	uint8_t config[PCI_CONFIG_BYTES];
	uint8_t wmask[PCI_CONFIG_BYTES];
	struct pci_bar bars[PCI_BARS];
	uint8_t next_cap; /* where the next capability goes; 0: 0x40 */
	struct pci_msix *msix;
	struct irq intx;	/* the wire of its pin INTA#; fd -1: it has none */
	_Atomic bool intx_live; /* the wire is what interrupts: it is not off, nor MSI-X on */
};

struct pci_ids {
	uint16_t vendor, device;
	uint16_t subsystem_vendor, subsystem;
	uint8_t revision;
	uint32_t class_code; /* 24 bits: class, subclass, interface */
};

/* Fills a zeroed pci_dev. */
void pci_dev_init(struct pci_dev *dev, const struct pci_dev_ops *ops, const char *name,
		  const struct pci_ids *ids);

/* `size` is a power of two of at least 4096. A 64-bit BAR takes index and index + 1. */
void pci_dev_set_bar(struct pci_dev *dev, unsigned index, uint64_t size, bool is_64);

/* Appends a capability (id, next, body of `len` bytes); returns its offset, 0 when full. The body
 * is read-only; callers set wmask where it is not. */
uint8_t pci_dev_add_cap(struct pci_dev *dev, uint8_t id, const void *body, unsigned len);

/* Adds MSI-X: `vectors` entries in BAR `bar` from `offset` (table, then at +0x800 the pending bits;
 * 4 KiB in all). The host handles accesses there. */
int pci_dev_add_msix(struct pci_dev *dev, const struct platform *plat, unsigned bar,
		     uint64_t offset, unsigned vectors, struct err *err);

/*
 * Raises a vector from any thread: delivered, or kept as a pending bit while masked or while MSI-X
 * is off. Vectors out of range (PCI_NO_VECTOR) do nothing, or pull the wire where the function has
 * one and MSI-X is off.
 */
void pci_msix_raise(struct pci_dev *dev, unsigned vector);

/*
 * Calls `fn` with the eventfd of `vector`, as msix_direct() does and apart from it; -1 also for
 * vectors out of range.
 */
void pci_msix_direct(struct pci_dev *dev, unsigned vector, void (*fn)(void *ctx, int irq_fd),
		     void *ctx);

/* Frees what pci_dev_* allocated; the struct itself is the caller's. */
void pci_dev_fini(struct pci_dev *dev);

struct pci_host_config {
	gpa_t ecam_gpa;	 /* 1 MiB: bus 0 */
	gpa_t mem32_gpa; /* window for 32-bit BARs */
	uint64_t mem32_len;
	gpa_t mem64_gpa; /* window for 64-bit BARs */
	uint64_t mem64_len;
	bool ports; /* configuration mechanism #1 and the reset port of a PC as well */
	/*
	 * Wires for functions without MSI-X: slot N is on number intx_gsi + N % PCI_INTX. They are
	 * edges, one for each raise after what it tells of stands in the device's registers: so
	 * sharing them loses nothing.
	 */
	bool intx;
	unsigned intx_gsi;
};

#define PCI_ECAM_BYTES (UINT64_C(1) << 20)

/* Makes the host bridge (slot 0) and registers ECAM, and 0xcf8/0xcfc, on the buses. */
int pci_host_new(const struct platform *plat, const struct pci_host_config *config,
		 struct pci_host **ret_host, struct err *err);
void pci_host_free(struct pci_host *host);

/* Puts a function into the next free slot, places its BARs and maps them. -ENOSPC: slots are full.
 * The device must outlive the host. */
int pci_host_add(struct pci_host *host, struct pci_dev *dev, struct err *err);

#endif
