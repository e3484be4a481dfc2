/*
 * The PCI host bridge: bus 0, its two ways into configuration space, and where BARs are mapped.
 *
 * PCI 3.0 §3.2.2.3.2 (configuration mechanism #1), PCI Express 2.0 §7.2.2 (ECAM).
 *
 *   port 0xcf8, 4 bytes   address: bit 31 enable, 23-16 bus, 15-11 slot, 10-8 function, 7-2
 * register port 0xcf9, 1 byte    reset control: bit 2 from 0 to 1 resets the machine port 0xcfc,
 * 1-4 bytes data
 *
 * Functions have 256 bytes of configuration; the rest of ECAM's 4 KiB reads as 0, which says "no
 * extended capabilities". What is not there reads as all ones.
 *
 * Invariants
 *  1. A BAR is on the bus exactly while memory decoding is on, it lies whole in one of the two
 *     windows, and nothing else is there. One that found its place taken is tried again whenever
 *     any BAR moves.
 *  2. bar_mapped() calls alternate: placed, leaving, placed, ...
 *
 * Threads: vCPUs; `lock` for configuration space and mappings. Lock order: host, then the device's
 * locks, then the bus. BAR accesses take no lock here.
 */
#include "base/bytes.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "devices/pci/pci_priv.h"
#include "devices/pci/pci_regs.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

#define PORT_BASE   0xcf8
#define PORTS	    8
#define OFF_RESET   1
#define OFF_DATA    4
#define ADDR_ENABLE 0x80000000u
#define ADDR_KEPT   0x80fffffcu
#define RESET_CPU   0x04
#define RESET_KEPT  0x0e

#define BRIDGE_VENDOR 0x8086
#define BRIDGE_DEVICE 0x0d57
#define BRIDGE_CLASS  0x060000

/* What the bus calls: a BAR with its number. */
struct pci_window {
	struct pci_dev *dev;
	unsigned bar;
};

struct pci_slot {
	struct pci_dev *dev; /* NULL: empty */
	struct pci_window windows[PCI_BARS];
};

struct pci_host {
	const struct platform *plat;
	struct pci_host_config config;
	struct pci_dev bridge;

	pthread_mutex_t lock;
	uint32_t address;	      /* 0xcf8 */
	uint8_t reset_control;	      /* 0xcf9 */
	gpa_t mem32_next, mem64_next; /* where the next BAR is placed */
	struct log_limit taken;
	struct pci_slot slots[PCI_SLOTS];
};

static uint64_t all_ones(unsigned size)
{
	return size < 8 ? (UINT64_C(1) << (8 * size)) - 1 : UINT64_MAX;
}

/* ---- BARs ---- */

static uint64_t bar_read(void *ctx, uint64_t offset, unsigned size)
{
	const struct pci_window *w = ctx;
	struct pci_dev *dev = w->dev;

	if (!pci_msix_touches(dev->msix, w->bar, offset, size))
		return dev->ops->bar_read(dev, w->bar, offset, size);
	if (pci_msix_holds(dev->msix, w->bar, offset, size))
		return pci_msix_read(dev->msix, offset, size);
	return all_ones(size);
}

static void bar_write(void *ctx, uint64_t offset, unsigned size, uint64_t value)
{
	const struct pci_window *w = ctx;
	struct pci_dev *dev = w->dev;

	if (!pci_msix_touches(dev->msix, w->bar, offset, size))
		dev->ops->bar_write(dev, w->bar, offset, size, value);
	else if (pci_msix_holds(dev->msix, w->bar, offset, size))
		pci_msix_write(dev->msix, offset, size, value);
}

static const struct bus_ops bar_ops = {bar_read, bar_write};

static void bar_unmap_locked(struct pci_host *host, struct pci_dev *dev, unsigned i)
{
	struct pci_bar *bar = &dev->bars[i];

	if (!bar->mapped)
		return;
	if (dev->ops->bar_mapped)
		dev->ops->bar_mapped(dev, i, bar->gpa, false);
	bus_remove(host->plat->mmio, bar->gpa, &host->slots[dev->slot].windows[i]);
	bar->mapped = false;
}

static int bar_map_locked(struct pci_host *host, struct pci_dev *dev, unsigned i, gpa_t gpa,
			  struct err *err)
{
	struct pci_bar *bar = &dev->bars[i];
	struct bus_range range = {
	    .base = gpa,
	    .len = bar->size,
	    .ops = &bar_ops,
	    .dev = &host->slots[dev->slot].windows[i],
	    .name = dev->name,
	};
	int r = bus_add(host->plat->mmio, &range, err);

	if (r)
		return r;
	bar->gpa = gpa;
	bar->mapped = true;
	if (dev->ops->bar_mapped)
		dev->ops->bar_mapped(dev, i, gpa, true);
	return 0;
}

static bool in_windows(const struct pci_host *host, gpa_t gpa, uint64_t size)
{
	const struct pci_host_config *c = &host->config;

	return (gpa >= c->mem32_gpa && ck_range(gpa - c->mem32_gpa, size, c->mem32_len)) ||
	       (gpa >= c->mem64_gpa && ck_range(gpa - c->mem64_gpa, size, c->mem64_len));
}

/* Where the registers want the BAR to be; false: nowhere. */
static bool bar_wanted(const struct pci_host *host, const struct pci_dev *dev, unsigned i,
		       gpa_t *ret_gpa)
{
	if (!dev->bars[i].size || !(le16_load(dev->config + PCI_REG_COMMAND) & PCI_COMMAND_MEMORY))
		return false;
	*ret_gpa = pci_dev_bar_gpa(dev, i);
	return in_windows(host, *ret_gpa, dev->bars[i].size);
}

static void bars_map_wanted_locked(struct pci_host *host, struct pci_dev *dev)
{
	for (unsigned i = 0; i < PCI_BARS; i++) {
		struct err err = ERR_INIT;
		gpa_t gpa;

		if (dev->bars[i].mapped || !bar_wanted(host, dev, i, &gpa))
			continue;
		if (bar_map_locked(host, dev, i, gpa, &err))
			log_limited(&host->taken, LOG_LEVEL_WARN, "BAR %u not mapped: %s", i,
				    err.msg);
	}
}

/* The guest changed a BAR or the command register of `dev`. */
static void bars_follow_locked(struct pci_host *host, struct pci_dev *dev)
{
	bool moved = false;
	gpa_t gpa;

	for (unsigned i = 0; i < PCI_BARS; i++) {
		const struct pci_bar *bar = &dev->bars[i];

		if (!bar->mapped || (bar_wanted(host, dev, i, &gpa) && gpa == bar->gpa))
			continue;
		bar_unmap_locked(host, dev, i);
		moved = true;
	}
	bars_map_wanted_locked(host, dev);
	for (unsigned i = 0; moved && i < PCI_SLOTS; i++)
		if (host->slots[i].dev)
			bars_map_wanted_locked(host, host->slots[i].dev);
}

/* ---- configuration space ---- */

static struct pci_dev *find_locked(struct pci_host *host, unsigned slot, unsigned fn)
{
	return slot < PCI_SLOTS && fn == 0 ? host->slots[slot].dev : NULL;
}

static uint64_t config_read(struct pci_host *host, unsigned slot, unsigned fn, unsigned offset,
			    unsigned size)
{
	struct pci_dev *dev;
	uint64_t value = 0;

	AUTOLOCK(&host->lock);
	dev = find_locked(host, slot, fn);
	if (!dev || offset + size > PCI_FN_BYTES)
		return all_ones(size);
	if (offset >= PCI_CONFIG_BYTES)
		return 0;
	size = MIN(size, PCI_CONFIG_BYTES - offset);
	if (dev->ops->config_read)
		dev->ops->config_read(dev, offset, size);
	for (unsigned i = 0; i < size; i++)
		value |= (uint64_t)dev->config[offset + i] << (8 * i);
	return value;
}

static bool touches_bars(unsigned offset, unsigned size)
{
	return (offset < PCI_REG_COMMAND + 2 && offset + size > PCI_REG_COMMAND) ||
	       (offset < PCI_REG_BAR0 + 4 * PCI_BARS && offset + size > PCI_REG_BAR0);
}

static void config_write(struct pci_host *host, unsigned slot, unsigned fn, unsigned offset,
			 unsigned size, uint64_t value)
{
	struct pci_dev *dev;

	AUTOLOCK(&host->lock);
	dev = find_locked(host, slot, fn);
	if (!dev || offset >= PCI_CONFIG_BYTES)
		return;
	size = MIN(size, PCI_CONFIG_BYTES - offset);
	for (unsigned i = 0; i < size; i++) {
		uint8_t *byte = &dev->config[offset + i], mask = dev->wmask[offset + i];

		*byte = (uint8_t)((*byte & ~mask) | ((value >> (8 * i)) & mask));
	}
	if (touches_bars(offset, size))
		bars_follow_locked(host, dev);
	if (dev->msix)
		pci_msix_config_written(dev, offset, size);
	pci_intx_update(dev);
	if (dev->ops->config_written)
		dev->ops->config_written(dev, offset, size);
}

static uint64_t ecam_read(void *ctx, uint64_t offset, unsigned size)
{
	return config_read(ctx, (unsigned)(offset >> PCI_ECAM_SLOT_SHIFT),
			   (offset >> PCI_ECAM_FN_SHIFT) & 7, offset % PCI_FN_BYTES, size);
}

static void ecam_write(void *ctx, uint64_t offset, unsigned size, uint64_t value)
{
	unsigned reg = offset % PCI_FN_BYTES;

	if (reg + size <= PCI_FN_BYTES)
		config_write(ctx, (unsigned)(offset >> PCI_ECAM_SLOT_SHIFT),
			     (offset >> PCI_ECAM_FN_SHIFT) & 7, reg, size, value);
}

static const struct bus_ops ecam_ops = {ecam_read, ecam_write};

/* ---- ports ---- */

/* Register number with the data port's offset in it; false: no such bus. */
static bool port_target(struct pci_host *host, unsigned offset, uint32_t *ret_address)
{
	AUTOLOCK(&host->lock);
	*ret_address = host->address | (offset & 3);
	return (host->address & ADDR_ENABLE) && !((host->address >> 16) & 0xff);
}

static uint64_t address_read(struct pci_host *host, unsigned offset, unsigned size)
{
	AUTOLOCK(&host->lock);
	if (offset == OFF_RESET && size == 1)
		return host->reset_control;
	return host->address >> (8 * offset);
}

static uint64_t port_read(void *ctx, uint64_t offset, unsigned size)
{
	struct pci_host *host = ctx;
	uint32_t a;

	if (offset + size <= OFF_DATA)
		return address_read(host, (unsigned)offset, size);
	if (offset < OFF_DATA || !port_target(host, (unsigned)offset, &a))
		return all_ones(size);
	return config_read(host, (a >> 11) & 31, (a >> 8) & 7, a & 0xff, size);
}

static void reset_write(struct pci_host *host, uint8_t value)
{
	bool reset;

	pthread_mutex_lock(&host->lock);
	reset = (value & RESET_CPU) && !(host->reset_control & RESET_CPU);
	host->reset_control = value & RESET_KEPT;
	pthread_mutex_unlock(&host->lock);
	if (reset)
		host->plat->ops->machine_event(host->plat->ctx, MACHINE_REBOOT);
}

static void port_write(void *ctx, uint64_t offset, unsigned size, uint64_t value)
{
	struct pci_host *host = ctx;
	uint32_t a;

	if (offset >= OFF_DATA) {
		if (port_target(host, (unsigned)offset, &a))
			config_write(host, (a >> 11) & 31, (a >> 8) & 7, a & 0xff, size, value);
	} else if (offset == OFF_RESET && size == 1) {
		reset_write(host, (uint8_t)value);
	} else if (offset == 0 && size == 4) {
		AUTOLOCK(&host->lock);
		host->address = (uint32_t)value & ADDR_KEPT;
	}
}

static const struct bus_ops port_ops = {port_read, port_write};

/* ---- set-up ---- */

static const struct pci_dev_ops bridge_ops = {0};

static void slot_fill_locked(struct pci_host *host, unsigned slot, struct pci_dev *dev)
{
	host->slots[slot].dev = dev;
	for (unsigned i = 0; i < PCI_BARS; i++)
		host->slots[slot].windows[i] = (struct pci_window){dev, i};
	dev->host = host;
	dev->slot = (uint8_t)slot;
}

int pci_host_new(const struct platform *plat, const struct pci_host_config *config,
		 struct pci_host **ret_host, struct err *err)
{
	static const struct pci_ids ids = {
	    .vendor = BRIDGE_VENDOR,
	    .device = BRIDGE_DEVICE,
	    .class_code = BRIDGE_CLASS,
	};
	struct pci_host *host = calloc(1, sizeof(*host));
	struct bus_range ports = {PORT_BASE, PORTS, &port_ops, host, "PCI configuration ports"};
	struct bus_range ecam = {config->ecam_gpa, PCI_ECAM_BYTES, &ecam_ops, host, "PCI ECAM"};
	int r;

	if (!host)
		return err_sys(err, ENOMEM, "PCI host");
	pthread_mutex_init(&host->lock, NULL);
	host->plat = plat;
	host->config = *config;
	host->mem32_next = config->mem32_gpa;
	host->mem64_next = config->mem64_gpa;
	pci_dev_init(&host->bridge, &bridge_ops, "PCI host bridge", &ids);
	slot_fill_locked(host, 0, &host->bridge);

	r = config->ports ? bus_add(plat->pio, &ports, err) : 0;
	if (!r)
		r = bus_add(plat->mmio, &ecam, err);
	if (r) {
		pci_host_free(host);
		return r;
	}
	*ret_host = host;
	return 0;
}

void pci_host_remove(struct pci_host *host, struct pci_dev *dev)
{
	AUTOLOCK(&host->lock);
	for (unsigned i = 0; i < PCI_BARS; i++)
		bar_unmap_locked(host, dev, i);
	host->slots[dev->slot].dev = NULL;
	dev->host = NULL;
}

void pci_host_free(struct pci_host *host)
{
	if (!host)
		return;
	if (host->config.ports)
		bus_remove(host->plat->pio, PORT_BASE, host);
	bus_remove(host->plat->mmio, host->config.ecam_gpa, host);
	for (unsigned i = 0; i < PCI_SLOTS; i++)
		if (host->slots[i].dev)
			pci_host_remove(host, host->slots[i].dev);
	pthread_mutex_destroy(&host->lock);
	free(host);
}

/* Takes `size` bytes, aligned to their size, from a window. */
static bool window_take(gpa_t *next, gpa_t window_gpa, uint64_t window_len, uint64_t size,
			gpa_t *ret_gpa)
{
	gpa_t gpa;

	if (!ck_add(*next, size - 1, &gpa))
		return false;
	gpa = align_down(gpa, size);
	if (gpa < window_gpa || !ck_range(gpa - window_gpa, size, window_len))
		return false;
	*next = gpa + size;
	*ret_gpa = gpa;
	return true;
}

static int bar_place_locked(struct pci_host *host, struct pci_dev *dev, unsigned i, struct err *err)
{
	const struct pci_host_config *c = &host->config;
	uint64_t size = dev->bars[i].size;
	gpa_t gpa;

	if (!(dev->bars[i].is_64 &&
	      window_take(&host->mem64_next, c->mem64_gpa, c->mem64_len, size, &gpa)) &&
	    !window_take(&host->mem32_next, c->mem32_gpa, c->mem32_len, size, &gpa))
		return err_set(err, ENOSPC,
			       "%s: BAR %u of %" PRIu64 " bytes does not fit into the PCI windows",
			       dev->name, i, size);
	pci_dev_set_bar_gpa(dev, i, gpa);
	return bar_map_locked(host, dev, i, gpa, err);
}

/* The wire of a function that has interrupts. */
static int intx_connect(struct pci_host *host, struct pci_dev *dev, struct err *err)
{
	const struct platform *plat = host->plat;
	int r;

	if (!host->config.intx || !dev->msix)
		return 0;
	r = plat->ops->irq_connect(plat->ctx, host->config.intx_gsi + dev->slot % PCI_INTX,
				   &dev->intx, err);
	if (r)
		return r;
	dev->config[PCI_REG_IRQ_PIN] = 1;
	atomic_store(&dev->intx_live, true);
	return 0;
}

int pci_host_add(struct pci_host *host, struct pci_dev *dev, struct err *err)
{
	uint16_t command;
	unsigned slot = 0;
	int r = 0;

	pthread_mutex_lock(&host->lock);
	while (slot < PCI_SLOTS && host->slots[slot].dev)
		slot++;
	if (slot == PCI_SLOTS) {
		pthread_mutex_unlock(&host->lock);
		return err_set(err, ENOSPC, "%s: all %d PCI slots are taken", dev->name, PCI_SLOTS);
	}
	slot_fill_locked(host, slot, dev);
	r = intx_connect(host, dev, err);
	command = le16_load(dev->config + PCI_REG_COMMAND) | PCI_COMMAND_MEMORY;
	le16_store(dev->config + PCI_REG_COMMAND, command);
	for (unsigned i = 0; !r && i < PCI_BARS; i++)
		if (dev->bars[i].size)
			r = bar_place_locked(host, dev, i, err);
	pthread_mutex_unlock(&host->lock);
	if (r)
		pci_host_remove(host, dev);
	return r;
}
