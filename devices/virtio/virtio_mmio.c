/*
 * virtio over MMIO. virtio 1.2 §4.2, version 2 of the register layout.
 *
 *   0x000  registers: 32 bits, aligned; any other access reads 0 and writes nothing
 *   0x050  QueueNotify: an ioeventfd for each queue, by the value written
 *   0x100  device configuration space: any size, any alignment
 *
 * One edge-triggered interrupt. A bit of InterruptStatus is set before the edge, and each
 * notification makes an edge of its own, whatever bits were pending: an edge that the interrupt
 * controller merges with an earlier one is one whose handler has yet to read the status.
 *
 * Threads: see virtio_priv.h. The notify register takes no lock.
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "devices/virtio/virtio_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MMIO_MAGIC   0x74726976 /* "virt" */
#define MMIO_VERSION 2
#define MMIO_VENDOR  0x1af4

/* Registers, §4.2.2 table 4.1 */
enum {
	REG_MAGIC = 0x000,
	REG_VERSION = 0x004,
	REG_DEVICE_ID = 0x008,
	REG_VENDOR_ID = 0x00c,
	REG_DEVICE_FEATURES = 0x010,
	REG_DEVICE_FEATURES_SEL = 0x014,
	REG_DRIVER_FEATURES = 0x020,
	REG_DRIVER_FEATURES_SEL = 0x024,
	REG_QUEUE_SEL = 0x030,
	REG_QUEUE_NUM_MAX = 0x034,
	REG_QUEUE_NUM = 0x038,
	REG_QUEUE_READY = 0x044,
	REG_QUEUE_NOTIFY = 0x050,
	REG_INTERRUPT_STATUS = 0x060,
	REG_INTERRUPT_ACK = 0x064,
	REG_STATUS = 0x070,
	REG_QUEUE_DESC_LOW = 0x080,
	REG_QUEUE_DESC_HIGH = 0x084,
	REG_QUEUE_DRIVER_LOW = 0x090,
	REG_QUEUE_DRIVER_HIGH = 0x094,
	REG_QUEUE_DEVICE_LOW = 0x0a0,
	REG_QUEUE_DEVICE_HIGH = 0x0a4,
	REG_SHM_LEN_LOW = 0x0b0,
	REG_SHM_BASE_HIGH = 0x0bc,
	REG_CONFIG_GENERATION = 0x0fc,
	REG_CONFIG = 0x100,
};

struct virtio_mmio {
	struct virtio_transport t;
	gpa_t gpa;
	struct irq irq;
	unsigned doorbells; /* of queues 0..doorbells-1 there is an ioeventfd */
};

static struct virtio_mmio *mmio_of(struct virtio_transport *t)
{
	return container_of(t, struct virtio_mmio, t);
}

static uint32_t read_locked(struct virtio_transport *t, uint64_t reg)
{
	const struct virtq_config *q = virtio_queue(t);

	switch (reg) {
	case REG_MAGIC:
		return MMIO_MAGIC;
	case REG_VERSION:
		return MMIO_VERSION;
	case REG_DEVICE_ID:
		return t->dev->id;
	case REG_VENDOR_ID:
		return MMIO_VENDOR;
	case REG_DEVICE_FEATURES:
		return virtio_device_features(t);
	case REG_QUEUE_NUM_MAX:
		return q ? t->dev->queue_size_max : 0;
	case REG_QUEUE_READY:
		return q && q->enabled;
	case REG_STATUS:
		return virtio_status(t);
	case REG_CONFIG_GENERATION:
		return atomic_load(&t->config_generation);
	default:
		/* §4.2.2.1: a shared memory region that does not exist is all ones. */
		return reg >= REG_SHM_LEN_LOW && reg <= REG_SHM_BASE_HIGH ? UINT32_MAX : 0;
	}
}

/*
 * QueueReady. Until DRIVER_OK the driver may take a queue back (0); afterwards only a reset does
 * (§4.2.3.2 asks for the end of its use, which a reset gives).
 */
static void write_queue_ready(struct virtio_transport *t, uint32_t value)
{
	struct virtio_regs *r = &t->regs;

	if (r->queue_sel < t->dev->nqueues && !(r->status & VIRTIO_STATUS_DRIVER_OK))
		r->queues[r->queue_sel].enabled = value & 1;
}

static void write_queue_locked(struct virtio_transport *t, uint64_t reg, uint32_t value)
{
	struct virtq_config *q = virtio_queue_config(t);
	const bool high = reg & 4;

	if (!q)
		return;
	switch (reg) {
	case REG_QUEUE_NUM:
		q->size = value > UINT16_MAX ? 0 : (uint16_t)value;
		break;
	case REG_QUEUE_DESC_LOW:
	case REG_QUEUE_DESC_HIGH:
		q->desc = virtio_set_half(q->desc, high, value);
		break;
	case REG_QUEUE_DRIVER_LOW:
	case REG_QUEUE_DRIVER_HIGH:
		q->avail = virtio_set_half(q->avail, high, value);
		break;
	case REG_QUEUE_DEVICE_LOW:
	case REG_QUEUE_DEVICE_HIGH:
		q->used = virtio_set_half(q->used, high, value);
		break;
	default:
		break;
	}
}

static void write_locked(struct virtio_transport *t, uint64_t reg, uint32_t value)
{
	switch (reg) {
	case REG_DEVICE_FEATURES_SEL:
		t->regs.device_features_sel = value;
		break;
	case REG_DRIVER_FEATURES:
		virtio_set_driver_features(t, value);
		break;
	case REG_DRIVER_FEATURES_SEL:
		t->regs.driver_features_sel = value;
		break;
	case REG_QUEUE_SEL:
		t->regs.queue_sel = value > UINT16_MAX ? UINT16_MAX : (uint16_t)value;
		break;
	case REG_QUEUE_READY:
		write_queue_ready(t, value);
		break;
	case REG_STATUS:
		virtio_set_status(t, (uint8_t)value);
		break;
	default:
		write_queue_locked(t, reg, value);
		break;
	}
}

static uint64_t mmio_read(void *opaque, uint64_t offset, unsigned size)
{
	struct virtio_mmio *m = opaque;
	struct virtio_transport *t = &m->t;
	uint8_t buf[8] = {0};

	if (offset >= REG_CONFIG) {
		AUTOLOCK(&t->lock);
		virtio_config_read(t, offset - REG_CONFIG, buf, size);
		return le64_load(buf);
	}
	if (size != 4 || offset % 4)
		return 0;
	/* The interrupt handler's read: no lock, so that it never waits for another vCPU. */
	if (offset == REG_INTERRUPT_STATUS)
		return atomic_load(&t->isr);
	AUTOLOCK(&t->lock);
	return read_locked(t, offset);
}

static void mmio_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct virtio_mmio *m = opaque;
	struct virtio_transport *t = &m->t;
	uint8_t buf[8];

	if (offset >= REG_CONFIG) {
		le64_store(buf, value);
		AUTOLOCK(&t->lock);
		virtio_config_write(t, offset - REG_CONFIG, buf, size);
		return;
	}
	if (size != 4 || offset % 4)
		return;
	value &= UINT32_MAX;
	if (offset == REG_INTERRUPT_ACK) {
		atomic_fetch_and(&t->isr, ~(uint32_t)value);
		return;
	}
	if (offset == REG_QUEUE_NOTIFY) {
		virtio_kick(t, value);
		return;
	}
	AUTOLOCK(&t->lock);
	write_locked(t, offset, (uint32_t)value);
}

static const struct bus_ops mmio_bus_ops = {
    .read = mmio_read,
    .write = mmio_write,
};

static void mmio_raise(struct virtio_transport *t)
{
	irq_raise(&mmio_of(t)->irq);
}

static void mmio_notify_queue(struct virtio_transport *t, unsigned index)
{
	(void)index;
	mmio_raise(t);
}

static struct doorbell mmio_doorbell(const struct virtio_mmio *m, unsigned index)
{
	return (struct doorbell){
	    .space = DOORBELL_MMIO,
	    .addr = m->gpa + REG_QUEUE_NOTIFY,
	    .size = 4,
	    .has_match = true,
	    .match = index,
	    .fd = m->t.dev->kick_fd[index],
	};
}

static void mmio_free(struct virtio_transport *t)
{
	struct virtio_mmio *m = mmio_of(t);

	bus_remove(t->plat->mmio, m->gpa, m);
	for (unsigned i = 0; i < m->doorbells; i++) {
		struct doorbell bell = mmio_doorbell(m, i);

		t->plat->ops->doorbell_del(t->plat->ctx, &bell);
	}
	free(m);
}

static const struct virtio_transport_ops mmio_transport_ops = {
    .notify_queue = mmio_notify_queue,
    .notify_config = mmio_raise,
    .free = mmio_free,
};

int virtio_mmio_new(const struct platform *plat, gpa_t gpa, unsigned gsi, struct virtio_dev *dev,
		    struct virtio_transport **ret_transport, struct err *err)
{
	struct virtio_mmio *m = calloc(1, sizeof(*m));
	struct bus_range range;
	int r;

	if (!m)
		return err_set(err, ENOMEM, "%s: out of memory", dev->name);
	m->gpa = gpa;
	r = plat->ops->irq_connect(plat->ctx, gsi, &m->irq, err);
	if (r < 0) {
		err_prefix(err, "%s", dev->name);
		free(m);
		return r;
	}
	virtio_transport_init(&m->t, &mmio_transport_ops, plat, dev);
	range = (struct bus_range){
	    .base = gpa,
	    .len = VIRTIO_MMIO_BYTES,
	    .ops = &mmio_bus_ops,
	    .dev = m,
	    .name = dev->name,
	};
	r = bus_add(plat->mmio, &range, err);
	if (r < 0) {
		virtio_transport_fini(&m->t);
		free(m);
		return r;
	}
	/* A queue without an ioeventfd is kicked through the register. */
	while (m->doorbells < dev->nqueues) {
		struct doorbell bell = mmio_doorbell(m, m->doorbells);

		if (plat->ops->doorbell_add(plat->ctx, &bell) < 0)
			break;
		m->doorbells++;
	}
	*ret_transport = &m->t;
	return 0;
}
