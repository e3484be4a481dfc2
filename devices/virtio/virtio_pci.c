/*
 * virtio over PCI. virtio 1.2 §4.1, modern only.
 *
 * BAR 0, 32 KiB:
 *   0x0000  common configuration   (VIRTIO_PCI_CAP_COMMON_CFG)
 *   0x1000  ISR status, 1 byte     (VIRTIO_PCI_CAP_ISR_CFG)
 *   0x2000  device configuration   (VIRTIO_PCI_CAP_DEVICE_CFG)
 *   0x3000  doorbells, 4 bytes for each queue (VIRTIO_PCI_CAP_NOTIFY_CFG): ioeventfds that follow
 *           the BAR wherever the guest moves it
 *   0x4000  MSI-X table and pending bits
 *
 * Vectors: as many as queues and one more; there is no INTx.
 *
 * Threads: see virtio_priv.h. The vectors are written by vCPU threads and read by the loop thread,
 * so they are atomic. bar_mapped() runs under the PCI host's lock.
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "devices/pci/pci.h"
#include "devices/virtio/virtio_priv.h"

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

/* Common configuration (§4.1.4.3), as the guest reads it. */
struct common_cfg {
	struct le32 device_feature_select; /* 0x00 */
	struct le32 device_feature;	   /* 0x04 */
	struct le32 driver_feature_select; /* 0x08 */
	struct le32 driver_feature;	   /* 0x0c */
	struct le16 config_msix_vector;	   /* 0x10 */
	struct le16 num_queues;		   /* 0x12 */
	uint8_t device_status;		   /* 0x14 */
	uint8_t config_generation;	   /* 0x15 */
	struct le16 queue_select;	   /* 0x16 */
	struct le16 queue_size;		   /* 0x18 */
	struct le16 queue_msix_vector;	   /* 0x1a */
	struct le16 queue_enable;	   /* 0x1c */
	struct le16 queue_notify_off;	   /* 0x1e */
	struct le64 queue_desc;		   /* 0x20 */
	struct le64 queue_driver;	   /* 0x28 */
	struct le64 queue_device;	   /* 0x30 */
	struct le16 queue_notify_data;	   /* 0x38: NOTIFICATION_DATA is not offered */
	struct le16 queue_reset;	   /* 0x3a: RING_RESET is not offered */
};
_Static_assert(sizeof(struct common_cfg) == 0x3c, "common configuration");
_Static_assert(offsetof(struct common_cfg, device_status) == 0x14, "common configuration");
_Static_assert(offsetof(struct common_cfg, queue_select) == 0x16, "common configuration");
_Static_assert(offsetof(struct common_cfg, queue_desc) == 0x20, "common configuration");
_Static_assert(offsetof(struct common_cfg, queue_device) == 0x30, "common configuration");
#define COMMON(field)	     offsetof(struct common_cfg, field)
#define ACCESS(size, offset) ((uint64_t)(size) << 32 | (offset))

struct virtio_pci {
	struct virtio_transport t;
	struct pci_dev pci;
	unsigned vectors;
	_Atomic uint16_t config_vector;
	_Atomic uint16_t queue_vector[VIRTIO_QUEUES_MAX];
	uint8_t window; /* offset of the pci_cfg capability */

	/* Under the PCI host's lock. */
	bool mapped;
	gpa_t bar_gpa;
	bool has_doorbell[VIRTIO_QUEUES_MAX];
};

static struct virtio_pci *vpci_of(struct pci_dev *pci)
{
	return container_of(pci, struct virtio_pci, pci);
}

/* ---- common configuration ---- */

static void common_fill_locked(struct virtio_pci *p, struct common_cfg *c)
{
	struct virtio_transport *t = &p->t;
	const struct virtio_regs *r = &t->regs;
	const struct virtq_config *q = virtio_queue(t);

	*c = (struct common_cfg){
	    .device_feature_select = le32_put(r->device_features_sel),
	    .device_feature = le32_put(virtio_device_features(t)),
	    .driver_feature_select = le32_put(r->driver_features_sel),
	    .driver_feature = le32_put(virtio_driver_features(t)),
	    .config_msix_vector = le16_put(atomic_load(&p->config_vector)),
	    .num_queues = le16_put((uint16_t)t->dev->nqueues),
	    .device_status = virtio_status(t),
	    .config_generation = (uint8_t)atomic_load(&t->config_generation),
	    .queue_select = le16_put(r->queue_sel),
	    .queue_msix_vector = le16_put(PCI_NO_VECTOR),
	};
	if (!q)
		return;
	c->queue_size = le16_put(q->size);
	c->queue_msix_vector = le16_put(atomic_load(&p->queue_vector[r->queue_sel]));
	c->queue_enable = le16_put(q->enabled);
	c->queue_notify_off = le16_put(r->queue_sel);
	c->queue_desc = le64_put(q->desc);
	c->queue_driver = le64_put(q->avail);
	c->queue_device = le64_put(q->used);
}

/* §4.1.5.1.2: a vector that does not exist reads back as NO_VECTOR. */
static void set_vector(const struct virtio_pci *p, _Atomic uint16_t *reg, uint64_t value)
{
	atomic_store(reg, value < p->vectors ? (uint16_t)value : PCI_NO_VECTOR);
}

/* A 64-bit register: whole, or either half (§4.1.3.1). */
static void set_addr(gpa_t *reg, uint64_t at, unsigned size, uint64_t value)
{
	if (size == 8 && at == 0)
		*reg = value;
	else if (size == 4 && at % 4 == 0)
		*reg = virtio_set_half(*reg, at == 4, (uint32_t)value);
}

static void write_queue_locked(struct virtio_pci *p, uint64_t offset, unsigned size, uint64_t value)
{
	struct virtq_config *q = virtio_queue_config(&p->t);

	if (!q)
		return;
	switch (offset) {
	case COMMON(queue_size):
		if (size == 2)
			q->size = (uint16_t)value;
		break;
	case COMMON(queue_msix_vector):
		if (size == 2)
			set_vector(p, &p->queue_vector[p->t.regs.queue_sel], value);
		break;
	case COMMON(queue_enable):
		/* §4.1.4.3.2: a driver never writes 0. */
		if (size == 2 && value == 1)
			q->enabled = true;
		break;
	case COMMON(queue_desc)... COMMON(queue_desc) + 7:
		set_addr(&q->desc, offset - COMMON(queue_desc), size, value);
		break;
	case COMMON(queue_driver)... COMMON(queue_driver) + 7:
		set_addr(&q->avail, offset - COMMON(queue_driver), size, value);
		break;
	case COMMON(queue_device)... COMMON(queue_device) + 7:
		set_addr(&q->used, offset - COMMON(queue_device), size, value);
		break;
	default:
		break;
	}
}

/* A write counts when it has the width of the register (§4.1.3.1). */
static void common_write_locked(struct virtio_pci *p, uint64_t offset, unsigned size,
				uint64_t value)
{
	struct virtio_transport *t = &p->t;
	struct virtio_regs *r = &t->regs;

	switch (ACCESS(size, offset)) {
	case ACCESS(4, COMMON(device_feature_select)):
		r->device_features_sel = (uint32_t)value;
		break;
	case ACCESS(4, COMMON(driver_feature_select)):
		r->driver_features_sel = (uint32_t)value;
		break;
	case ACCESS(4, COMMON(driver_feature)):
		virtio_set_driver_features(t, (uint32_t)value);
		break;
	case ACCESS(2, COMMON(config_msix_vector)):
		set_vector(p, &p->config_vector, value);
		break;
	case ACCESS(1, COMMON(device_status)):
		virtio_set_status(t, (uint8_t)value);
		break;
	case ACCESS(2, COMMON(queue_select)):
		r->queue_sel = (uint16_t)value;
		break;
	default:
		write_queue_locked(p, offset, size, value);
		break;
	}
}

/* ---- BAR 0 ---- */

static uint64_t common_read(struct virtio_pci *p, uint64_t offset, unsigned size)
{
	union {
		struct common_cfg c;
		uint8_t bytes[sizeof(struct common_cfg) + 8];
	} u = {.bytes = {0}};

	if (offset >= sizeof(u.c))
		return 0;
	AUTOLOCK(&p->t.lock);
	common_fill_locked(p, &u.c);
	return le64_load(u.bytes + offset) & (UINT64_MAX >> (64 - 8 * size));
}

static uint64_t bar_read(struct pci_dev *pci, unsigned bar, uint64_t offset, unsigned size)
{
	struct virtio_pci *p = vpci_of(pci);
	const uint64_t at = offset & REGION_MASK;
	uint8_t buf[8] = {0};

	if (bar != BAR)
		return 0;
	switch (offset - at) {
	case BAR_COMMON:
		return common_read(p, at, size);
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
	case BAR_COMMON: {
		AUTOLOCK(&p->t.lock);
		common_write_locked(p, at, size, value);
		break;
	}
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
	    .addr = p->bar_gpa + BAR_NOTIFY + (uint64_t)index * NOTIFY_MULTIPLIER,
	    .fd = p->t.dev->kick_fd[index],
	};
}

static void del_doorbells(struct virtio_pci *p)
{
	const struct platform *plat = p->t.plat;

	for (unsigned i = 0; i < p->t.dev->nqueues; i++) {
		struct doorbell bell = pci_doorbell(p, i);

		if (p->has_doorbell[i])
			plat->ops->doorbell_del(plat->ctx, &bell);
		p->has_doorbell[i] = false;
	}
	p->mapped = false;
}

/* A queue whose doorbell is refused is kicked through bar_write(). */
static void bar_mapped(struct pci_dev *pci, unsigned bar, gpa_t gpa, bool mapped)
{
	struct virtio_pci *p = vpci_of(pci);
	const struct platform *plat = p->t.plat;

	if (bar != BAR)
		return;
	if (p->mapped)
		del_doorbells(p);
	if (!mapped)
		return;
	p->mapped = true;
	p->bar_gpa = gpa;
	for (unsigned i = 0; i < p->t.dev->nqueues; i++) {
		struct doorbell bell = pci_doorbell(p, i);

		p->has_doorbell[i] = plat->ops->doorbell_add(plat->ctx, &bell) == 0;
	}
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

static const struct pci_dev_ops pci_ops = {
    .bar_read = bar_read,
    .bar_write = bar_write,
    .bar_mapped = bar_mapped,
    .config_read = config_read,
    .config_written = config_written,
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
	for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
		atomic_store(&p->queue_vector[i], PCI_NO_VECTOR);
}

static void pci_free(struct virtio_transport *t)
{
	struct virtio_pci *p = container_of(t, struct virtio_pci, t);

	if (p->mapped)
		del_doorbells(p);
	pci_dev_fini(&p->pci);
	free(p);
}

static const struct virtio_transport_ops pci_transport_ops = {
    .notify_queue = pci_notify_queue,
    .notify_config = pci_notify_config,
    .reset = pci_reset,
    .free = pci_free,
};

static int add_cap(struct virtio_pci *p, enum cfg_type type, uint32_t offset, uint32_t length,
		   uint8_t *ret_at)
{
	const bool is_long = type == CFG_NOTIFY || type == CFG_PCI;
	const struct cap_body body = {
	    .cap_len = is_long ? CAP_BYTES_LONG : CAP_BYTES,
	    .cfg_type = (uint8_t)type,
	    .bar = BAR,
	    .offset = le32_put(offset),
	    .length = le32_put(length),
	    .extra = le32_put(type == CFG_NOTIFY ? NOTIFY_MULTIPLIER : 0),
	};

	*ret_at = pci_dev_add_cap(&p->pci, PCI_CAP_ID_VENDOR, &body, body.cap_len - CAP_LINK_BYTES);
	return *ret_at ? 0 : -ENOSPC;
}

static int add_caps(struct virtio_pci *p)
{
	const struct virtio_dev *dev = p->t.dev;
	uint8_t at;
	int r;

	r = add_cap(p, CFG_COMMON, BAR_COMMON, sizeof(struct common_cfg), &at);
	if (r == 0)
		r = add_cap(p, CFG_ISR, BAR_ISR, 1, &at);
	if (r == 0 && dev->config_len)
		r = add_cap(p, CFG_DEVICE, BAR_DEVICE, dev->config_len, &at);
	if (r == 0)
		r = add_cap(p, CFG_NOTIFY, BAR_NOTIFY, dev->nqueues * NOTIFY_MULTIPLIER, &at);
	if (r == 0)
		r = add_cap(p, CFG_PCI, 0, 0, &p->window);
	if (r < 0)
		return r;
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
		if (p->mapped)
			del_doorbells(p);
		virtio_transport_fini(&p->t);
		pci_dev_fini(&p->pci);
		free(p);
		return r;
	}
	*ret_transport = &p->t;
	return 0;
}
