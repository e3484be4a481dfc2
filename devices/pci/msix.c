/*
 * MSI-X (PCI 3.0 §6.8.2): table of messages and pending bits of one function.
 *
 *   offset in the area   size
 *   0x000 + 16 * n         8  address of vector n (a multiple of 4)
 *   0x008 + 16 * n         4  data
 *   0x00c + 16 * n         4  control; bit 0: masked
 *   0x800                  8  pending bits
 *
 * A vector is `live` while a raise may go to the platform: MSI-X on, function and vector unmasked,
 * message handed over. Masking only ends that. The platform keeps the message, so that a raise on
 * its way arrives as a posted write would on a bus, and a guest that masks a vector, moves it to
 * another CPU and unmasks it costs one msi_set().
 *
 * Invariants
 *  1. A vector that is live has no pending bit for longer than a raise or an unmasking takes.
 *  2. A live vector's message is with the platform.
 *  3. Only while a vector is live does the function's ops->msix_direct() have its eventfd.
 *
 * Threads: `lock` for the table and for changes of what is live; pci_msix_raise() takes no lock.
 * `live` and `pending` are two flags of which each side sets one and then reads the other, raising:
 * pending, live; unmasking: live, pending. In sequentially consistent order at least one side sees
 * the other's, and whoever clears the pending bit delivers it.
 */
#include "base/bytes.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "devices/pci/pci_priv.h"
#include "devices/pci/pci_regs.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

_Static_assert(PCI_MSIX_MAX *PCI_MSIX_ENTRY_BYTES <= PCI_MSIX_PBA, "the table ends before the PBA");
_Static_assert(PCI_MSIX_MAX <= 64, "the pending bits are one word");

struct msix_vector {
	struct irq irq;
	_Atomic bool live;
	bool is_set; /* the platform has `msg` */
	struct msi_msg msg;
	uint8_t entry[PCI_MSIX_ENTRY_BYTES]; /* what the guest sees */
};

struct pci_msix {
	struct pci_dev *dev;
	const struct platform *plat;
	const char *name; /* of the function */
	unsigned bar;
	uint64_t offset; /* in the BAR */
	unsigned cap;	 /* in the configuration space */
	unsigned nvectors;

	_Atomic uint64_t pending;
	_Atomic unsigned offs; /* how often a message was taken from the platform */
	pthread_mutex_t lock;
	bool on, fmask; /* as in message control */
	struct log_limit refused;
	struct msix_vector vectors[PCI_MSIX_MAX];
};

static void fill_capability(struct pci_msix *m, uint8_t body[10])
{
	le16_store(body, (uint16_t)(m->nvectors - 1));
	le32_store(body + 2, (uint32_t)m->offset | m->bar);
	le32_store(body + 6, (uint32_t)(m->offset + PCI_MSIX_PBA) | m->bar);
}

int pci_dev_add_msix(struct pci_dev *dev, const struct platform *plat, unsigned bar,
		     uint64_t offset, unsigned vectors, struct err *err)
{
	struct irq irqs[PCI_MSIX_MAX];
	struct pci_msix *m;
	uint8_t body[10];
	int r;

	assert(vectors >= 1 && vectors <= PCI_MSIX_MAX && !dev->msix);
	assert(bar < PCI_BARS && is_aligned(offset, 8) &&
	       ck_range(offset, PCI_MSIX_BYTES, dev->bars[bar].size));

	m = calloc(1, sizeof(*m));
	if (!m)
		return err_sys(err, ENOMEM, "%s: MSI-X", dev->name);
	m->dev = dev;
	m->plat = plat;
	m->name = dev->name;
	m->bar = bar;
	m->offset = offset;
	m->nvectors = vectors;

	r = plat->ops->msi_alloc(plat->ctx, vectors, irqs, err);
	if (r) {
		free(m);
		return r;
	}
	for (unsigned i = 0; i < vectors; i++) {
		m->vectors[i].irq = irqs[i];
		m->vectors[i].entry[PCI_MSIX_ENTRY_CTRL] = PCI_MSIX_ENTRY_MASKED;
	}
	fill_capability(m, body);
	m->cap = pci_dev_add_cap(dev, PCI_CAP_MSIX, body, sizeof(body));
	if (!m->cap) {
		free(m);
		return err_set(err, ENOSPC, "%s: no room for the MSI-X capability", dev->name);
	}
	le16_store(dev->wmask + m->cap + PCI_MSIX_CONTROL,
		   PCI_MSIX_CONTROL_ON | PCI_MSIX_CONTROL_FMASK);
	pthread_mutex_init(&m->lock, NULL);
	dev->msix = m;
	return 0;
}

void pci_msix_free(struct pci_msix *m)
{
	if (!m)
		return;
	pthread_mutex_destroy(&m->lock);
	free(m);
}

/* Takes the pending bit away; true: it was there, and the caller has to deliver it. */
static bool pending_take(struct pci_msix *m, unsigned vector)
{
	uint64_t bit = UINT64_C(1) << vector;

	if (!(atomic_load(&m->pending) & bit))
		return false;
	return atomic_fetch_and(&m->pending, ~bit) & bit;
}

void pci_msix_raise(struct pci_dev *dev, unsigned vector)
{
	struct pci_msix *m = dev->msix;
	struct msix_vector *v;

	if (!m || vector >= m->nvectors) {
		if (atomic_load(&dev->intx_live))
			irq_raise(&dev->intx);
		return;
	}
	v = &m->vectors[vector];
	for (;;) {
		unsigned offs = atomic_load(&m->offs);

		if (atomic_load(&v->live)) {
			irq_raise(&v->irq);
			/* Else MSI-X may have been off by then, and the raise fallen through:
			 * better one too many. */
			if (atomic_load(&m->offs) == offs)
				return;
		}
		/* Partner: the store of `live` and pending_take() in vector_update_locked(). */
		atomic_fetch_or(&m->pending, UINT64_C(1) << vector);
		if (!atomic_load(&v->live) || !pending_take(m, vector))
			return;
	}
}

static void set_live_locked(struct pci_msix *m, unsigned vector, bool live)
{
	struct msix_vector *v = &m->vectors[vector];

	if (atomic_exchange(&v->live, live) != live && m->dev->ops->msix_direct)
		m->dev->ops->msix_direct(m->dev, vector, live ? v->irq.fd : -1);
}

void pci_msix_direct(struct pci_dev *dev, unsigned vector, void (*fn)(void *ctx, int irq_fd),
		     void *ctx)
{
	struct pci_msix *m = dev->msix;
	int fd = -1;

	AUTOLOCK(&m->lock);
	if (vector < m->nvectors && atomic_load(&m->vectors[vector].live))
		fd = m->vectors[vector].irq.fd;
	fn(ctx, fd);
}

/* Follows a change of the table entry or of message control. */
static void vector_update_locked(struct pci_msix *m, unsigned vector)
{
	struct msix_vector *v = &m->vectors[vector];
	struct msi_msg msg = {
	    .addr = le64_load(v->entry),
	    .data = le32_load(v->entry + 8),
	    .requester = (uint32_t)m->dev->slot << 3,
	};

	if (!m->on || m->fmask || (v->entry[PCI_MSIX_ENTRY_CTRL] & PCI_MSIX_ENTRY_MASKED)) {
		set_live_locked(m, vector, false);
		return;
	}
	if (!v->is_set || msg.addr != v->msg.addr || msg.data != v->msg.data) {
		int r = m->plat->ops->msi_set(m->plat->ctx, &v->irq, &msg);

		v->is_set = !r;
		if (r) {
			set_live_locked(m, vector, false);
			log_limited(&m->refused, LOG_LEVEL_WARN,
				    "%s: message of vector %u is refused: %s", m->name, vector,
				    strerror(-r));
			return;
		}
		v->msg = msg;
	}
	/* Partner: pending bit and load of `live` in pci_msix_raise(). */
	set_live_locked(m, vector, true);
	if (pending_take(m, vector))
		irq_raise(&v->irq);
}

static void vector_off_locked(struct pci_msix *m, unsigned vector)
{
	struct msix_vector *v = &m->vectors[vector];

	set_live_locked(m, vector, false);
	if (!v->is_set)
		return;
	/* Before the message goes: a raise that comes too late for it sees the count change. */
	atomic_fetch_add(&m->offs, 1);
	m->plat->ops->msi_set(m->plat->ctx, &v->irq, NULL);
	v->is_set = false;
}

void pci_msix_config_written(struct pci_dev *dev, unsigned offset, unsigned size)
{
	struct pci_msix *m = dev->msix;
	unsigned at = m->cap + PCI_MSIX_CONTROL;
	uint16_t control;
	bool on, fmask;

	if (offset >= at + 2 || offset + size <= at)
		return;
	control = le16_load(dev->config + at);
	on = control & PCI_MSIX_CONTROL_ON;
	fmask = control & PCI_MSIX_CONTROL_FMASK;

	AUTOLOCK(&m->lock);
	if (on == m->on && fmask == m->fmask)
		return;
	m->on = on;
	m->fmask = fmask;
	for (unsigned i = 0; i < m->nvectors; i++) {
		if (on)
			vector_update_locked(m, i);
		else
			vector_off_locked(m, i);
	}
}

bool pci_msix_on(const struct pci_dev *dev)
{
	return dev->msix &&
	       (le16_load(dev->config + dev->msix->cap + PCI_MSIX_CONTROL) & PCI_MSIX_CONTROL_ON);
}

bool pci_msix_touches(const struct pci_msix *m, unsigned bar, uint64_t offset, unsigned size)
{
	return m && bar == m->bar && offset < m->offset + PCI_MSIX_BYTES &&
	       offset + size > m->offset;
}

bool pci_msix_holds(const struct pci_msix *m, unsigned bar, uint64_t offset, unsigned size)
{
	return m && bar == m->bar && offset >= m->offset &&
	       ck_range(offset - m->offset, size, PCI_MSIX_BYTES);
}

static uint8_t area_byte_locked(const struct pci_msix *m, unsigned at)
{
	if (at < m->nvectors * PCI_MSIX_ENTRY_BYTES)
		return m->vectors[at / PCI_MSIX_ENTRY_BYTES].entry[at % PCI_MSIX_ENTRY_BYTES];
	if (at >= PCI_MSIX_PBA && at < PCI_MSIX_PBA + 8)
		return (uint8_t)(atomic_load(&m->pending) >> (8 * (at - PCI_MSIX_PBA)));
	return 0;
}

uint64_t pci_msix_read(struct pci_msix *m, uint64_t offset, unsigned size)
{
	unsigned at = (unsigned)(offset - m->offset);
	uint64_t value = 0;

	AUTOLOCK(&m->lock);
	for (unsigned i = 0; i < size; i++)
		value |= (uint64_t)area_byte_locked(m, at + i) << (8 * i);
	return value;
}

static void entry_write(uint8_t *entry, unsigned at, uint8_t byte)
{
	if (at == 0)
		byte &= 0xfc; /* messages are dwords */
	else if (at == PCI_MSIX_ENTRY_CTRL)
		byte &= PCI_MSIX_ENTRY_MASKED;
	else if (at > PCI_MSIX_ENTRY_CTRL)
		byte = 0;
	entry[at] = byte;
}

void pci_msix_write(struct pci_msix *m, uint64_t offset, unsigned size, uint64_t value)
{
	unsigned at = (unsigned)(offset - m->offset);
	unsigned end = MIN(at + size, m->nvectors * PCI_MSIX_ENTRY_BYTES);

	AUTOLOCK(&m->lock);
	for (unsigned i = at; i < end; i++)
		entry_write(m->vectors[i / PCI_MSIX_ENTRY_BYTES].entry, i % PCI_MSIX_ENTRY_BYTES,
			    (uint8_t)(value >> (8 * (i - at))));
	for (unsigned i = at / PCI_MSIX_ENTRY_BYTES; i * PCI_MSIX_ENTRY_BYTES < end; i++)
		vector_update_locked(m, i);
}
