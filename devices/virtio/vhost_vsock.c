/* vhost-vsock. virtio 1.2 §5.10, linux/vhost.h. See vhost_vsock.h. */
#include "devices/virtio/vhost_vsock.h"

#include "base/checked.h"
#include "devices/virtio/vsock.h"
#include "devices/virtio/vsock_wire.h"

#include <errno.h>
#include <linux/vhost.h>
#include <stdlib.h>
#include <string.h>

/* The rings that the kernel serves: receive and transmit. */
#define VHOST_RINGS 2

struct vhost_dev {
	struct virtio_dev dev;
	struct virtio_loop vl;
	struct vhost vhost;
	struct vhost_rings rings;
	uint32_t cid;
	const struct gmem *mem;
};

static struct vhost_dev *vhost_of(struct virtio_dev *dev)
{
	return container_of(dev, struct vhost_dev, dev);
}

/* ---- the kernel's side ---- */

int vhost_vsock_open(const char *path, vhost_ioctl *ioctl_fn, struct vhost *ret_vhost,
		     struct err *err)
{
	static const struct vhost_names names = {
	    .device = "vsock",
	    .module = "vhost_vsock",
	    .instead = "backend=builtin,socket=PATH",
	};

	return vhost_open(path, &names, ioctl_fn, ret_vhost, err);
}

int vhost_vsock_set_cid(const struct vhost *vhost, uint32_t cid)
{
	__u64 v = cid;

	return vhost_call(vhost, VHOST_VSOCK_SET_GUEST_CID, &v);
}

static int set_running(const struct vhost *v, int running)
{
	return vhost_call(v, VHOST_VSOCK_SET_RUNNING, &running);
}

/* ---- on the loop ---- */

static void starting(struct virtio_loop *vl)
{
	vhost_rings_start(&container_of(vl, struct vhost_dev, vl)->rings);
}

static void stopping(struct virtio_loop *vl)
{
	vhost_rings_stop(&container_of(vl, struct vhost_dev, vl)->rings);
}

static void ready(struct virtio_loop_queue *q)
{
	(void)q; /* the event queue: nothing is sent on it */
}

static const struct virtio_loop_ops loop_ops = {
    .pulled = 1 << VSOCK_QUEUE_EVENT,
    .ready = ready,
    .starting = starting,
    .stopping = stopping,
};

/* ---- the device ---- */

static void config_read(struct virtio_dev *dev, unsigned offset, void *buf, unsigned len)
{
	const struct vsock_config_wire c = {.guest_cid = le64_put(vhost_of(dev)->cid)};

	memset(buf, 0, len);
	if (offset < sizeof(c))
		memcpy(buf, (const uint8_t *)&c + offset, MIN(len, sizeof(c) - offset));
}

static void config_write(struct virtio_dev *dev, unsigned offset, const void *buf, unsigned len)
{
	(void)dev;
	(void)offset;
	(void)buf;
	(void)len;
}

static int activate(struct virtio_dev *dev, uint64_t features, struct virtq *const *queues)
{
	struct vhost_dev *d = vhost_of(dev);
	struct virtq *ours[VSOCK_QUEUES] = {[VSOCK_QUEUE_EVENT] = queues[VSOCK_QUEUE_EVENT]};
	int r;

	if (!queues[VSOCK_QUEUE_RX] || !queues[VSOCK_QUEUE_TX])
		return -EINVAL;
	r = vhost_set_features(&d->vhost, features & d->vhost.features);
	if (!r)
		r = vhost_set_memory(&d->vhost, d->mem);
	for (unsigned i = 0; i < VHOST_RINGS && !r; i++)
		r = vhost_rings_set(&d->rings, &d->vhost, i, queues[i]);
	if (!r)
		r = set_running(&d->vhost, 1);
	if (r) {
		vhost_rings_unset(&d->rings);
		return r;
	}
	virtio_loop_start(&d->vl, ours);
	vhost_rings_kick(&d->rings, 0, VHOST_RINGS);
	return 0;
}

static void reset(struct virtio_dev *dev)
{
	struct vhost_dev *d = vhost_of(dev);

	/* When this returns the kernel touches the rings no more. */
	set_running(&d->vhost, 0);
	virtio_loop_stop(&d->vl);
}

/* The kernel keeps its connections, and its place in the rings. */
static void vhost_pause(struct virtio_dev *dev, void (*quiet)(void *ctx), void *ctx)
{
	struct vhost_dev *d = vhost_of(dev);

	set_running(&d->vhost, 0);
	virtio_loop_pause(&d->vl, quiet, ctx);
}

static void vhost_resume(struct virtio_dev *dev)
{
	struct vhost_dev *d = vhost_of(dev);

	set_running(&d->vhost, 1);
	vhost_rings_kick(&d->rings, 0, VHOST_RINGS);
	virtio_loop_resume(&d->vl);
}

static void queue_irq(struct virtio_dev *dev, unsigned index, int irq_fd)
{
	vhost_rings_irq(&vhost_of(dev)->rings, index, irq_fd);
}

static void drop(struct virtio_dev *dev)
{
	struct vhost_dev *d = vhost_of(dev);

	vhost_close(&d->vhost);
	vhost_rings_fini(&d->rings);
	virtio_loop_fini(&d->vl);
	virtio_dev_fini(dev);
	free(d);
}

static const struct virtio_dev_ops ops = {
    .config_read = config_read,
    .config_write = config_write,
    .activate = activate,
    .reset = reset,
    .pause = vhost_pause,
    .resume = vhost_resume,
    .queue_irq = queue_irq,
    .free = drop,
};

int virtio_vhost_vsock_new(struct vhost *vhost, uint32_t cid, const struct platform *plat,
			   struct loop *loop, struct virtio_dev **ret_dev, struct err *err)
{
	struct vhost_dev *d = calloc(1, sizeof(*d));
	int r;

	if (!d)
		return err_set(err, ENOMEM, "vsock: out of memory");
	d->dev.ops = &ops;
	d->dev.name = "vhost-vsock";
	d->dev.id = VIRTIO_ID_VSOCK;
	d->dev.nqueues = VSOCK_QUEUES;
	d->dev.queue_size_max = VSOCK_QUEUE_SIZE;
	d->dev.config_len = sizeof(struct vsock_config_wire);
	d->cid = cid;
	d->mem = plat->mem;
	d->vhost.fd = -1;
	virtio_loop_init(&d->vl, &loop_ops, &d->dev, loop);
	r = virtio_dev_init(&d->dev, err);
	if (!r)
		r = vhost_rings_init(&d->rings, &d->vl, VHOST_RINGS, virtio_loop_break, err);
	if (r < 0) {
		drop(&d->dev);
		return r;
	}
	d->vhost = *vhost;
	vhost->fd = -1;
	*ret_dev = &d->dev;
	return 0;
}
