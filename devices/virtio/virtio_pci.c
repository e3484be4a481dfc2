/*
 * virtio over PCI. virtio 1.2 §4.1, modern only.
 *
 * BAR 0, 32 KiB:
 *   0x0000  common configuration   (VIRTIO_PCI_CAP_COMMON_CFG)
 *   0x1000  ISR status, 1 byte     (VIRTIO_PCI_CAP_ISR_CFG)
 *   0x2000  device configuration   (VIRTIO_PCI_CAP_DEVICE_CFG)
 *   0x3000  doorbells, 4 bytes for each queue (VIRTIO_PCI_CAP_NOTIFY_CFG): ioeventfds that follow
 *           the BAR wherever the guest moves it, once there is a driver
 *   0x4000  MSI-X table and pending bits
 *
 * Vectors: as many as queues and one more; where MSI-X is off and the host has a wire, INTx.
 *
 * Threads: see virtio_priv.h. The vectors are written by vCPU threads and read by the loop thread,
 * so they are atomic. bar_mapped() runs under the PCI host's lock.
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "devices/virtio/virtio_pci_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define VIRTIO_PCI_VENDOR      0x1af4
#define VIRTIO_PCI_DEVICE_BASE 0x1040 /* §4.1.2: plus the device type */
#define VIRTIO_PCI_REVISION    1
#define VIRTIO_PCI_SUBSYSTEM   0x40 /* §4.1.2.1: at least this for a modern device */
#define PCI_CAP_ID_VENDOR      0x09

#define BAR	    0
#define BAR_BYTES   0x8000
#define REGION_MASK 0x0fffu
#define BAR_COMMON  0x0000
#define BAR_ISR	    0x1000
#define BAR_DEVICE  0x2000
#define BAR_NOTIFY  0x3000
#define BAR_MSIX    0x4000

#define NOTIFY_MULTIPLIER 4

/* §4.1.4 */
enum cfg_type {
	CFG_COMMON = 1,
	CFG_NOTIFY = 2,
	CFG_ISR = 3,
	CFG_DEVICE = 4,
	CFG_PCI = 5,
};

/*
 * Capability (§4.1.4), after the id and the link that the PCI floor writes
 *   2  1  cap_len    of the whole capability
 *   3  1  cfg_type
 *   4  1  bar
 *   5  1  id         of several of one type; 0
 *   8  4  offset     in the BAR
 *  12  4  length
 *  16  4  notify: multiplier; pci_cfg: the window onto the BAR
 */
struct cap_body {
	uint8_t cap_len;
	uint8_t cfg_type;
	uint8_t bar;
	uint8_t id;
	uint8_t padding[2];
	struct le32 offset;
	struct le32 length;
	struct le32 extra;
};
#define CAP_LINK_BYTES 2
#define CAP_BAR	       4 /* from the start of the capability */
#define CAP_OFFSET     8
#define CAP_LENGTH     12
#define CAP_DATA       16
#define CAP_BYTES      16
#define CAP_BYTES_LONG 20
_Static_assert(sizeof(struct cap_body) == CAP_BYTES_LONG - CAP_LINK_BYTES, "capability");
_Static_assert(offsetof(struct cap_body, bar) == CAP_BAR - CAP_LINK_BYTES, "capability");
_Static_assert(offsetof(struct cap_body, offset) == CAP_OFFSET - CAP_LINK_BYTES, "capability");
_Static_assert(offsetof(struct cap_body, extra) == CAP_DATA - CAP_LINK_BYTES, "capability");

static struct virtio_pci *vpci_of(struct pci_dev *pci)
{
	return container_of(pci, struct virtio_pci, pci);
}

/* ---- BAR 0 ---- */

static uint64_t bar_read(struct pci_dev *pci, unsigned bar, uint64_t offset, unsigned size)
{
	struct virtio_pci *p = vpci_of(pci);
	const uint64_t at = offset & REGION_MASK;
	uint8_t buf[8] = {0};

	if (bar != BAR)
		return 0;
	switch (offset - at) {
	case BAR_COMMON:
		return virtio_pci_common_read(p, at, size);
	case BAR_ISR:
		/* Reading clears (§4.1.4.5). */
		return at ? 0 : atomic_exchange(&p->t.isr, 0);
	case BAR_DEVICE: {
		AUTOLOCK(&p->t.lock);
		virtio_config_read(&p->t, at, buf, size);
		return le64_load(buf);
	}
	default:
		return 0;
	}
}

static void bar_write(struct pci_dev *pci, unsigned bar, uint64_t offset, unsigned size,
		      uint64_t value)
{
	struct virtio_pci *p = vpci_of(pci);
	const uint64_t at = offset & REGION_MASK;
	uint8_t buf[8];

	if (bar != BAR)
		return;
	if (size < 8)
		value &= (UINT64_C(1) << (8 * size)) - 1;
	switch (offset - at) {
	case BAR_COMMON:
		virtio_pci_common_write(p, at, size, value);
		break;
	case BAR_DEVICE: {
		le64_store(buf, value);
		AUTOLOCK(&p->t.lock);
		virtio_config_write(&p->t, at, buf, size);
		break;
	}
	case BAR_NOTIFY:
		/* The address says which queue; what is written repeats it (§4.1.5.2). */
		if (at % NOTIFY_MULTIPLIER == 0)
			virtio_kick(&p->t, at / NOTIFY_MULTIPLIER);
		break;
	default:
		break;
	}
}

static struct doorbell pci_doorbell(const struct virtio_pci *p, unsigned index)
{
	return (struct doorbell){
	    .space = DOORBELL_MMIO,
	    .addr = p->bells_gpa + BAR_NOTIFY + (uint64_t)index * NOTIFY_MULTIPLIER,
	    .fd = p->t.dev->kick_fd[index],
	};
}

static void del_doorbells_locked(struct virtio_pci *p)
{
	const struct platform *plat = p->t.plat;

	for (unsigned i = 0; i < p->t.dev->nqueues; i++) {
		struct doorbell bell = pci_doorbell(p, i);

		if (p->has_doorbell[i])
			plat->ops->doorbell_del(plat->ctx, &bell);
		p->has_doorbell[i] = false;
	}
}

/* A queue whose doorbell is refused is kicked through bar_write(). */
static void add_doorbells_locked(struct virtio_pci *p)
{
	const struct platform *plat = p->t.plat;

	if (!p->bells_wanted || !p->bells_gpa)
		return;
	for (unsigned i = 0; i < p->t.dev->nqueues; i++) {
		struct doorbell bell = pci_doorbell(p, i);

		p->has_doorbell[i] = plat->ops->doorbell_add(plat->ctx, &bell) == 0;
	}
}

static void bar_mapped(struct pci_dev *pci, unsigned bar, gpa_t gpa, bool mapped)
{
	struct virtio_pci *p = vpci_of(pci);

	if (bar != BAR)
		return;
	AUTOLOCK(&p->bells_lock);
	del_doorbells_locked(p);
	p->bells_gpa = mapped ? gpa : 0;
	add_doorbells_locked(p);
}

void virtio_pci_want_doorbells(struct virtio_pci *p)
{
	AUTOLOCK(&p->bells_lock);
	if (p->bells_wanted)
		return;
	p->bells_wanted = true;
	add_doorbells_locked(p);
}

/* ---- the window onto BAR 0 in configuration space (§4.1.4.9) ---- */

/* Where the window points, if to something that it may reach. */
static bool window_target(const struct virtio_pci *p, uint32_t *ret_offset, unsigned *ret_size)
{
	const uint8_t *cap = p->pci.config + p->window;
	const uint32_t offset = le32_load(cap + CAP_OFFSET), len = le32_load(cap + CAP_LENGTH);

	if (cap[CAP_BAR] != BAR || (len != 1 && len != 2 && len != 4) || offset % len ||
	    !ck_range(offset, len, BAR_MSIX))
		return false;
	*ret_offset = offset;
	*ret_size = len;
	return true;
}

static bool window_data_hit(const struct virtio_pci *p, unsigned offset, unsigned size)
{
	const unsigned data = p->window + CAP_DATA;

	return offset < data + 4 && data < offset + size;
}

static void config_read(struct pci_dev *pci, unsigned offset, unsigned size)
{
	struct virtio_pci *p = vpci_of(pci);
	uint32_t at;
	unsigned len;

	if (window_data_hit(p, offset, size) && window_target(p, &at, &len)) {
		le32_store(pci->config + p->window + CAP_DATA,
			   (uint32_t)bar_read(pci, BAR, at, len));
	}
}

static void config_written(struct pci_dev *pci, unsigned offset, unsigned size)
{
	struct virtio_pci *p = vpci_of(pci);
	uint32_t at;
	unsigned len;

	if (window_data_hit(p, offset, size) && window_target(p, &at, &len))
		bar_write(pci, BAR, at, len, le32_load(pci->config + p->window + CAP_DATA));
}

/* ---- vectors ---- */

/* The table's lock is held, which changes of queue_vector are made under as well. */
static void direct_locked(const struct virtio_pci *p, unsigned index, int irq_fd)
{
	struct virtio_dev *dev = p->t.dev;

	if (dev->ops->queue_irq)
		dev->ops->queue_irq(dev, index, irq_fd);
}

static void msix_direct(struct pci_dev *pci, unsigned vector, int irq_fd)
{
	const struct virtio_pci *p = vpci_of(pci);

	for (unsigned i = 0; i < p->t.dev->nqueues; i++) {
		if (atomic_load(&p->queue_vector[i]) == vector)
			direct_locked(p, i, irq_fd);
	}
}

struct vector_change {
	struct virtio_pci *p;
	unsigned index;
	uint16_t vector;
};

static void change_locked(void *ctx, int irq_fd)
{
	const struct vector_change *c = ctx;

	atomic_store(&c->p->queue_vector[c->index], c->vector);
	direct_locked(c->p, c->index, irq_fd);
}

void virtio_pci_set_queue_vector(struct virtio_pci *p, unsigned index, uint16_t vector)
{
	struct vector_change c = {.p = p, .index = index, .vector = vector};

	pci_msix_direct(&p->pci, vector, change_locked, &c);
}

static const struct pci_dev_ops pci_ops = {
    .bar_read = bar_read,
    .bar_write = bar_write,
    .bar_mapped = bar_mapped,
    .config_read = config_read,
    .config_written = config_written,
    .msix_direct = msix_direct,
};

/* ---- transport ---- */

static void pci_notify_queue(struct virtio_transport *t, unsigned index)
{
	struct virtio_pci *p = container_of(t, struct virtio_pci, t);

	pci_msix_raise(&p->pci, atomic_load(&p->queue_vector[index]));
}

static void pci_notify_config(struct virtio_transport *t)
{
	struct virtio_pci *p = container_of(t, struct virtio_pci, t);

	pci_msix_raise(&p->pci, atomic_load(&p->config_vector));
}

static void pci_reset(struct virtio_transport *t)
{
	struct virtio_pci *p = container_of(t, struct virtio_pci, t);

	atomic_store(&p->config_vector, PCI_NO_VECTOR);
	for (unsigned i = 0; i < t->dev->nqueues; i++) {
		if (p->pci.msix)
			virtio_pci_set_queue_vector(p, i, PCI_NO_VECTOR);
		else /* it is being made */
			atomic_store(&p->queue_vector[i], PCI_NO_VECTOR);
	}
}

static void pci_free(struct virtio_transport *t)
{
	struct virtio_pci *p = container_of(t, struct virtio_pci, t);

	pci_dev_fini(&p->pci); /* takes the BAR, and so the doorbells, away */
	pthread_mutex_destroy(&p->bells_lock);
	free(p);
}

static const struct virtio_transport_ops pci_transport_ops = {
    .notify_queue = pci_notify_queue,
    .notify_config = pci_notify_config,
    .reset = pci_reset,
    .free = pci_free,
};

struct region {
	enum cfg_type type;
	uint32_t offset, length;
};

static uint8_t add_cap(struct virtio_pci *p, const struct region *r)
{
	const bool is_long = r->type == CFG_NOTIFY || r->type == CFG_PCI;
	const struct cap_body body = {
	    .cap_len = is_long ? CAP_BYTES_LONG : CAP_BYTES,
	    .cfg_type = (uint8_t)r->type,
	    .bar = BAR,
	    .offset = le32_put(r->offset),
	    .length = le32_put(r->length),
	    .extra = le32_put(r->type == CFG_NOTIFY ? NOTIFY_MULTIPLIER : 0),
	};

	return pci_dev_add_cap(&p->pci, PCI_CAP_ID_VENDOR, &body, body.cap_len - CAP_LINK_BYTES);
}

static int add_caps(struct virtio_pci *p)
{
	const struct virtio_dev *dev = p->t.dev;
	const struct region regions[] = {
	    {CFG_COMMON, BAR_COMMON, VIRTIO_PCI_COMMON_BYTES},
	    {CFG_ISR, BAR_ISR, 1},
	    {CFG_DEVICE, BAR_DEVICE, dev->config_len},
	    {CFG_NOTIFY, BAR_NOTIFY, dev->nqueues * NOTIFY_MULTIPLIER},
	    {CFG_PCI, 0, 0},
	};

	for (size_t i = 0; i < ARRAY_LEN(regions); i++) {
		uint8_t at;

		if (regions[i].type == CFG_DEVICE && !regions[i].length)
			continue;
		at = add_cap(p, &regions[i]);
		if (!at)
			return -ENOSPC;
		if (regions[i].type == CFG_PCI)
			p->window = at;
	}
	p->pci.wmask[p->window + CAP_BAR] = 0xff;
	memset(p->pci.wmask + p->window + CAP_OFFSET, 0xff, CAP_BYTES_LONG - CAP_OFFSET);
	return 0;
}

static uint32_t class_of(uint32_t id)
{
	switch (id) {
	case VIRTIO_ID_NET:
		return 0x020000; /* network, Ethernet */
	case VIRTIO_ID_BLOCK:
		return 0x018000; /* mass storage, other */
	case VIRTIO_ID_VSOCK:
		return 0x078000; /* communication, other */
	default:
		return 0xff0000; /* fits no class */
	}
}

int virtio_pci_new(const struct platform *plat, struct pci_host *host, struct virtio_dev *dev,
		   struct virtio_transport **ret_transport, struct err *err)
{
	const struct pci_ids ids = {
	    .vendor = VIRTIO_PCI_VENDOR,
	    .device = (uint16_t)(VIRTIO_PCI_DEVICE_BASE + dev->id),
	    .subsystem_vendor = VIRTIO_PCI_VENDOR,
	    .subsystem = VIRTIO_PCI_SUBSYSTEM,
	    .revision = VIRTIO_PCI_REVISION,
	    .class_code = class_of(dev->id),
	};
	struct virtio_pci *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return err_set(err, ENOMEM, "%s: out of memory", dev->name);
	p->vectors = dev->nqueues + 1;
	pthread_mutex_init(&p->bells_lock, NULL);
	virtio_transport_init(&p->t, &pci_transport_ops, plat, dev);
	pci_dev_init(&p->pci, &pci_ops, dev->name, &ids);
	pci_dev_set_bar(&p->pci, BAR, BAR_BYTES, false);
	r = add_caps(p);
	if (r < 0)
		err_set(err, ENOSPC, "%s: no room for its PCI capabilities", dev->name);
	else
		r = pci_dev_add_msix(&p->pci, plat, BAR, BAR_MSIX, p->vectors, err);
	if (r == 0)
		r = pci_host_add(host, &p->pci, err);
	if (r < 0) {
		virtio_transport_fini(&p->t);
		pci_dev_fini(&p->pci);
		pthread_mutex_destroy(&p->bells_lock);
		free(p);
		return r;
	}
	*ret_transport = &p->t;
	return 0;
}
