/*
 * The common configuration structure of virtio over PCI. virtio 1.2 §4.1.4.3.
 *
 * Reads give the bytes of the structure, whatever their size and offset. A write counts when it has
 * the width of the register, or of half an address (§4.1.3.1).
 */
#include "base/cleanup.h"
#include "devices/virtio/virtio_pci_priv.h"

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
_Static_assert(sizeof(struct common_cfg) == VIRTIO_PCI_COMMON_BYTES, "common configuration");
_Static_assert(offsetof(struct common_cfg, device_status) == 0x14, "common configuration");
_Static_assert(offsetof(struct common_cfg, queue_select) == 0x16, "common configuration");
_Static_assert(offsetof(struct common_cfg, queue_desc) == 0x20, "common configuration");
_Static_assert(offsetof(struct common_cfg, queue_device) == 0x30, "common configuration");
#define COMMON(field)	     offsetof(struct common_cfg, field)
#define ACCESS(size, offset) ((uint64_t)(size) << 32 | (offset))

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

uint64_t virtio_pci_common_read(struct virtio_pci *p, uint64_t offset, unsigned size)
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

/* §4.1.5.1.2: a vector that does not exist reads back as NO_VECTOR. */
static uint16_t known_vector(const struct virtio_pci *p, uint64_t value)
{
	return value < p->vectors ? (uint16_t)value : PCI_NO_VECTOR;
}

/* A ring's address: whole, or either half (§4.1.3.1). */
static void write_addr(struct virtq_config *q, uint64_t offset, unsigned size, uint64_t value)
{
	const uint64_t half = offset & 7;
	gpa_t *reg;

	switch (offset - half) {
	case COMMON(queue_desc):
		reg = &q->desc;
		break;
	case COMMON(queue_driver):
		reg = &q->avail;
		break;
	case COMMON(queue_device):
		reg = &q->used;
		break;
	default:
		return;
	}
	if (size == 8 && half == 0)
		*reg = value;
	else if (size == 4 && half % 4 == 0)
		*reg = virtio_set_half(*reg, half == 4, (uint32_t)value);
}

static void write_queue_locked(struct virtio_transport *t, uint64_t offset, unsigned size,
			       uint64_t value)
{
	struct virtq_config *q = virtio_queue_config(t);

	if (!q)
		return;
	switch (ACCESS(size, offset)) {
	case ACCESS(2, COMMON(queue_size)):
		q->size = (uint16_t)value;
		break;
	case ACCESS(2, COMMON(queue_enable)):
		/* §4.1.4.3.2: a driver never writes 0. */
		if (value == 1)
			q->enabled = true;
		break;
	default:
		write_addr(q, offset, size, value);
		break;
	}
}

void virtio_pci_common_write(struct virtio_pci *p, uint64_t offset, unsigned size, uint64_t value)
{
	struct virtio_transport *t = &p->t;
	struct virtio_regs *r = &t->regs;

	AUTOLOCK(&t->lock);
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
		atomic_store(&p->config_vector, known_vector(p, value));
		break;
	case ACCESS(1, COMMON(device_status)):
		virtio_set_status(t, (uint8_t)value);
		if (virtio_status(t) & VIRTIO_STATUS_DRIVER_OK)
			virtio_pci_want_doorbells(p);
		break;
	case ACCESS(2, COMMON(queue_select)):
		r->queue_sel = (uint16_t)value;
		break;
	case ACCESS(2, COMMON(queue_msix_vector)):
		if (virtio_queue(t))
			virtio_pci_set_queue_vector(p, r->queue_sel, known_vector(p, value));
		break;
	default:
		write_queue_locked(t, offset, size, value);
		break;
	}
}
