/*
 * What the virtio transports share. virtio 1.2 §2.1 (status), §2.2 (features), §3.1
 * (initialisation). Invariants, threads and lock order: virtio_priv.h.
 */
#include "devices/virtio/virtio.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "devices/virtio/virtio_priv.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define CORE_FEATURES (VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | VIRTIO_F_VERSION_1)

/* What a driver may set; NEEDS_RESET is the device's. */
#define DRIVER_STATUS                                                                 \
	(VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_DRIVER_OK | \
	 VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_FAILED)

/* ---- devices ---- */

int virtio_dev_init(struct virtio_dev *dev, struct err *err)
{
	for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
		dev->kick_fd[i] = -1;
	for (unsigned i = 0; i < dev->nqueues; i++) {
		dev->kick_fd[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (dev->kick_fd[i] < 0) {
			int code = errno;

			virtio_dev_fini(dev);
			return err_sys(err, code, "%s: cannot make the doorbell of queue %u",
				       dev->name, i);
		}
	}
	return 0;
}

void virtio_dev_fini(struct virtio_dev *dev)
{
	for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++) {
		if (dev->kick_fd[i] >= 0)
			close(dev->kick_fd[i]);
		dev->kick_fd[i] = -1;
	}
}

void virtio_raise_queue(struct virtio_dev *dev, unsigned index)
{
	struct virtio_transport *t = dev->transport;

	atomic_fetch_or(&t->isr, VIRTIO_ISR_QUEUE);
	t->ops->notify_queue(t, index);
}

static void raise_config(struct virtio_transport *t)
{
	atomic_fetch_or(&t->isr, VIRTIO_ISR_CONFIG);
	t->ops->notify_config(t);
}

void virtio_raise_config(struct virtio_dev *dev)
{
	atomic_fetch_add(&dev->transport->config_generation, 1);
	raise_config(dev->transport);
}

void virtio_change_config(struct virtio_dev *dev, void (*change)(struct virtio_dev *dev))
{
	struct virtio_transport *t = dev->transport;

	pthread_mutex_lock(&t->lock);
	change(dev);
	atomic_fetch_add(&t->config_generation, 1);
	pthread_mutex_unlock(&t->lock);
	raise_config(t);
}

void virtio_raise_needs_reset(struct virtio_dev *dev)
{
	static struct log_limit limit;

	if (!atomic_exchange(&dev->transport->needs_reset, true)) {
		log_limited(
		    &limit, LOG_LEVEL_WARN,
		    "%s: the guest's driver broke the protocol; the device waits for a reset",
		    dev->name);
		raise_config(dev->transport);
	}
}

/* ---- features ---- */

static uint64_t offered(const struct virtio_transport *t)
{
	return t->dev->features | CORE_FEATURES;
}

uint32_t virtio_device_features(const struct virtio_transport *t)
{
	const uint32_t sel = t->regs.device_features_sel;

	return sel > 1 ? 0 : (uint32_t)(offered(t) >> (32 * sel));
}

uint32_t virtio_driver_features(const struct virtio_transport *t)
{
	const uint32_t sel = t->regs.driver_features_sel;

	return sel > 1 ? 0 : (uint32_t)(t->regs.driver_features >> (32 * sel));
}

void virtio_set_driver_features(struct virtio_transport *t, uint32_t value)
{
	struct virtio_regs *r = &t->regs;

	if (r->driver_features_sel > 1 || (r->status & VIRTIO_STATUS_FEATURES_OK))
		return;
	r->driver_features = virtio_set_half(r->driver_features, r->driver_features_sel, value);
}

static bool features_acceptable(const struct virtio_transport *t)
{
	const uint64_t f = t->regs.driver_features;

	return (f & VIRTIO_F_VERSION_1) && !(f & ~offered(t));
}

/* ---- status ---- */

static void free_queues(struct virtio_transport *t)
{
	for (unsigned i = 0; i < t->dev->nqueues; i++) {
		virtq_free(t->vqs[i]);
		t->vqs[i] = NULL;
	}
}

static int make_queues(struct virtio_transport *t)
{
	for (unsigned i = 0; i < t->dev->nqueues; i++) {
		const struct virtq_config *c = &t->regs.queues[i];
		int r;

		if (!c->enabled)
			continue;
		if (c->size > t->dev->queue_size_max)
			return -EINVAL;
		r = virtq_new(t->plat->mem, c, t->regs.driver_features, i, &t->vqs[i]);
		if (r < 0)
			return r;
	}
	return 0;
}

static void activate(struct virtio_transport *t)
{
	struct virtio_dev *dev = t->dev;
	int r;

	r = make_queues(t);
	if (r == 0)
		r = dev->ops->activate(dev, t->regs.driver_features, t->vqs);
	if (r < 0) {
		free_queues(t);
		virtio_raise_needs_reset(dev);
		return;
	}
	t->active = true;
}

static void reset(struct virtio_transport *t)
{
	if (t->active) {
		t->dev->ops->reset(t->dev);
		t->active = false;
	}
	free_queues(t);
	memset(&t->regs, 0, sizeof(t->regs));
	for (unsigned i = 0; i < t->dev->nqueues; i++)
		t->regs.queues[i].size = t->dev->queue_size_max;
	if (t->ops->reset)
		t->ops->reset(t);
	/* Last: until its reset returned, the device could set both. */
	atomic_store(&t->needs_reset, false);
	atomic_store(&t->isr, 0);
}

uint8_t virtio_status(const struct virtio_transport *t)
{
	return t->regs.status | (atomic_load(&t->needs_reset) ? VIRTIO_STATUS_NEEDS_RESET : 0);
}

void virtio_set_status(struct virtio_transport *t, uint8_t value)
{
	struct virtio_regs *r = &t->regs;
	uint8_t added;

	if (!value) {
		reset(t);
		return;
	}
	value &= DRIVER_STATUS;
	/* §2.1.1: a driver must not clear a bit. */
	if (r->status & ~value)
		return;
	added = value & ~r->status;

	if ((added & VIRTIO_STATUS_FEATURES_OK) &&
	    (!(value & VIRTIO_STATUS_DRIVER) || !features_acceptable(t))) {
		value &= ~VIRTIO_STATUS_FEATURES_OK;
	}
	if ((added & VIRTIO_STATUS_DRIVER_OK) && !(value & VIRTIO_STATUS_FEATURES_OK)) {
		value &= ~VIRTIO_STATUS_DRIVER_OK;
		added &= ~VIRTIO_STATUS_DRIVER_OK;
	}
	/* Before activation, so that a NEEDS_RESET in it finds DRIVER_OK set (§2.1.2). */
	r->status = value;
	if (added & VIRTIO_STATUS_DRIVER_OK)
		activate(t);
}

/* ---- queues ---- */

const struct virtq_config *virtio_queue(const struct virtio_transport *t)
{
	return t->regs.queue_sel < t->dev->nqueues ? &t->regs.queues[t->regs.queue_sel] : NULL;
}

struct virtq_config *virtio_queue_config(struct virtio_transport *t)
{
	struct virtq_config *c;

	/* DRIVER_OK rather than `active`: a failed activation thaws nothing. */
	if (t->regs.queue_sel >= t->dev->nqueues || (t->regs.status & VIRTIO_STATUS_DRIVER_OK))
		return NULL;
	c = &t->regs.queues[t->regs.queue_sel];
	return c->enabled ? NULL : c;
}

void virtio_kick(struct virtio_transport *t, uint64_t index)
{
	if (index < t->dev->nqueues)
		eventfd_write(t->dev->kick_fd[index], 1);
}

/* ---- device configuration space ---- */

void virtio_config_read(struct virtio_transport *t, uint64_t offset, void *buf, unsigned len)
{
	memset(buf, 0, len);
	if (offset < t->dev->config_len)
		t->dev->ops->config_read(t->dev, (unsigned)offset, buf, len);
}

void virtio_config_write(struct virtio_transport *t, uint64_t offset, const void *buf, unsigned len)
{
	if (offset < t->dev->config_len)
		t->dev->ops->config_write(t->dev, (unsigned)offset, buf, len);
}

/* ---- life ---- */

void virtio_transport_init(struct virtio_transport *t, const struct virtio_transport_ops *ops,
			   const struct platform *plat, struct virtio_dev *dev)
{
	t->ops = ops;
	t->plat = plat;
	t->dev = dev;
	pthread_mutex_init(&t->lock, NULL);
	dev->transport = t;
	reset(t);
}

void virtio_transport_fini(struct virtio_transport *t)
{
	t->dev->transport = NULL;
	pthread_mutex_destroy(&t->lock);
}

bool virtio_transport_pause(struct virtio_transport *t, void (*quiet)(void *ctx), void *ctx)
{
	AUTOLOCK(&t->lock);
	if (t->active)
		t->dev->ops->pause(t->dev, quiet, ctx);
	return t->active;
}

void virtio_transport_resume(struct virtio_transport *t)
{
	AUTOLOCK(&t->lock);
	if (t->active)
		t->dev->ops->resume(t->dev);
}

void virtio_transport_free(struct virtio_transport *t)
{
	struct virtio_dev *dev;

	if (!t)
		return;
	dev = t->dev;
	pthread_mutex_lock(&t->lock);
	reset(t);
	pthread_mutex_unlock(&t->lock);
	virtio_transport_fini(t);
	t->ops->free(t);
	dev->ops->free(dev);
}
