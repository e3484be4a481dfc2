/*
 * The configuration space of one function: header, BARs, capability list.
 *
 * Threads: set up by one thread; afterwards the host's lock guards `config`.
 */
#include "devices/pci/pci.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "devices/pci/pci_priv.h"
#include "devices/pci/pci_regs.h"

#include <assert.h>
#include <stdatomic.h>
#include <string.h>

/* Marks a full capability list; no capability starts at an odd offset. */
#define CAPS_FULL 0xff

void pci_dev_init(struct pci_dev *dev, const struct pci_dev_ops *ops, const char *name,
		  const struct pci_ids *ids)
{
	uint8_t *c = dev->config;

	dev->ops = ops;
	dev->name = name;
	le16_store(c + PCI_REG_VENDOR, ids->vendor);
	le16_store(c + PCI_REG_DEVICE, ids->device);
	c[PCI_REG_REVISION] = ids->revision;
	c[PCI_REG_CLASS] = (uint8_t)ids->class_code;
	c[PCI_REG_CLASS + 1] = (uint8_t)(ids->class_code >> 8);
	c[PCI_REG_CLASS + 2] = (uint8_t)(ids->class_code >> 16);
	le16_store(c + PCI_REG_SUBSYS_VENDOR, ids->subsystem_vendor);
	le16_store(c + PCI_REG_SUBSYS, ids->subsystem);

	/* Header type 0, one function; interrupt pin 0: message interrupts only, until the host
	 * has a wire. */
	dev->intx.fd = -1;
	le16_store(dev->wmask + PCI_REG_COMMAND, PCI_COMMAND_WRITABLE);
	dev->wmask[PCI_REG_CACHE_LINE] = 0xff;
	dev->wmask[PCI_REG_IRQ_LINE] = 0xff;
}

void pci_dev_set_bar(struct pci_dev *dev, unsigned index, uint64_t size, bool is_64)
{
	unsigned reg = PCI_REG_BAR0 + 4 * index;
	uint64_t mask = ~(size - 1);

	assert(index + is_64 < PCI_BARS);
	assert(is_pow2(size) && size >= 4096 && (is_64 || size < 4 * GIB));

	dev->bars[index] = (struct pci_bar){.size = size, .is_64 = is_64};
	le32_store(dev->wmask + reg, (uint32_t)mask);
	if (is_64) {
		dev->config[reg] |= PCI_BAR_64;
		le32_store(dev->wmask + reg + 4, (uint32_t)(mask >> 32));
	}
}

gpa_t pci_dev_bar_gpa(const struct pci_dev *dev, unsigned index)
{
	unsigned reg = PCI_REG_BAR0 + 4 * index;
	gpa_t gpa = le32_load(dev->config + reg) & ~PCI_BAR_FLAGS;

	if (dev->bars[index].is_64)
		gpa |= (gpa_t)le32_load(dev->config + reg + 4) << 32;
	return gpa;
}

void pci_dev_set_bar_gpa(struct pci_dev *dev, unsigned index, gpa_t gpa)
{
	unsigned reg = PCI_REG_BAR0 + 4 * index;
	uint32_t flags = le32_load(dev->config + reg) & PCI_BAR_FLAGS;

	le32_store(dev->config + reg, (uint32_t)gpa | flags);
	if (dev->bars[index].is_64)
		le32_store(dev->config + reg + 4, (uint32_t)(gpa >> 32));
}

uint8_t pci_dev_add_cap(struct pci_dev *dev, uint8_t id, const void *body, unsigned len)
{
	unsigned at = dev->next_cap ? dev->next_cap : PCI_FIRST_CAP;
	unsigned link = PCI_REG_CAP_PTR;
	unsigned end = at + 2 + len, next;

	if (end > PCI_CONFIG_BYTES)
		return 0;
	while (dev->config[link])
		link = dev->config[link] + 1u;
	dev->config[link] = (uint8_t)at;
	dev->config[at] = id;
	memcpy(dev->config + at + 2, body, len);
	dev->config[PCI_REG_STATUS] |= PCI_STATUS_CAPS;

	next = (unsigned)align_up(end, 4);
	dev->next_cap = next < PCI_CONFIG_BYTES ? (uint8_t)next : CAPS_FULL;
	return (uint8_t)at;
}

void pci_intx_update(struct pci_dev *dev)
{
	bool live = dev->intx.fd >= 0 && !pci_msix_on(dev) &&
		    !(le16_load(dev->config + PCI_REG_COMMAND) & PCI_COMMAND_INTX_OFF);

	/* What was raised while it was off has been dropped: better one edge too many. */
	if (atomic_exchange(&dev->intx_live, live) != live && live)
		irq_raise(&dev->intx);
}

void pci_dev_fini(struct pci_dev *dev)
{
	if (dev->host)
		pci_host_remove(dev->host, dev);
	pci_msix_free(dev->msix);
	dev->msix = NULL;
}
