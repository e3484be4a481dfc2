/* vhost-vsock. virtio 1.2 §5.10, linux/vhost.h. See vhost_vsock.h. */
#include "devices/virtio/vhost_vsock.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "devices/virtio/virtio_loop.h"
#include "devices/virtio/vsock.h"
#include "devices/virtio/vsock_wire.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

/* What the core offers: the kernel is to have it all. Stands before the kernel's header, which
 * calls the numbers of these bits by the same names. */
static const uint64_t vhost_needs =
    VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | VIRTIO_F_VERSION_1;

#include <linux/vhost.h>

/* The rings that the kernel serves: receive and transmit. */
#define VHOST_RINGS 2

struct vhost_signal {
	struct vhost_dev *owner;
	struct loop_watch watch;
	int fd;
};

struct vhost_dev {
	struct virtio_dev dev;
	struct virtio_loop vl;
	struct vhost_vsock vhost;
	uint32_t cid;
	const struct gmem *mem;
	struct vhost_signal calls[VHOST_RINGS]; /* the kernel has used something */
	struct vhost_signal error;		/* it cannot go on with a ring */
};

static struct vhost_dev *vhost_of(struct virtio_dev *dev)
{
	return container_of(dev, struct vhost_dev, dev);
}

/* ---- the kernel's side ---- */

static int real_ioctl(int fd, unsigned long request, void *arg)
{
	return ioctl(fd, request, arg);
}

static int call(const struct vhost_vsock *v, unsigned long request, void *arg)
{
	return v->ioctl(v->fd, request, arg) < 0 ? -errno : 0;
}

int vhost_vsock_open(const char *path, vhost_ioctl *ioctl_fn, struct vhost_vsock *ret_vhost,
		     struct err *err)
{
	autofd int fd = open(path, O_RDWR | O_CLOEXEC);
	struct vhost_vsock v = {.fd = fd, .ioctl = ioctl_fn ? ioctl_fn : real_ioctl};
	__u64 features = 0;
	int r;

	if (fd < 0 && (errno == EACCES || errno == EPERM))
		return err_set(err, errno,
			       "no permission to open %s; run as root or give your group access",
			       path);
	if (fd < 0)
		return err_sys(err, errno, "vsock: %s (modprobe vhost_vsock?)", path);
	r = call(&v, VHOST_SET_OWNER, NULL);
	if (r < 0)
		return err_sys(err, -r, "vsock: %s: cannot be owned", path);
	r = call(&v, VHOST_GET_FEATURES, &features);
	if (r < 0)
		return err_sys(err, -r, "vsock: %s: no features", path);
	if ((features & vhost_needs) != vhost_needs)
		return err_set(err, EOPNOTSUPP,
			       "vsock: %s has features %#llx, which lack %#llx; use "
			       "backend=builtin,socket=PATH",
			       path, (unsigned long long)features,
			       (unsigned long long)(vhost_needs & ~features));
	v.features = features;
	v.fd = steal_fd(&fd);
	*ret_vhost = v;
	return 0;
}

void vhost_vsock_close(struct vhost_vsock *vhost)
{
	cleanup_fd(&vhost->fd);
	vhost->fd = -1;
}

int vhost_vsock_set_cid(const struct vhost_vsock *vhost, uint32_t cid)
{
	__u64 v = cid;

	return call(vhost, VHOST_VSOCK_SET_GUEST_CID, &v);
}

static int set_running(const struct vhost_vsock *v, int running)
{
	return call(v, VHOST_VSOCK_SET_RUNNING, &running);
}

static int set_memory(const struct vhost_dev *d)
{
	uint64_t space[(sizeof(struct vhost_memory) +
			GMEM_REGIONS_MAX * sizeof(struct vhost_memory_region)) /
		       sizeof(uint64_t)] = {0};
	struct vhost_memory *table = (struct vhost_memory *)space;
	const struct gmem_region *r;

	for (unsigned i = 0; (r = gmem_region_at(d->mem, i)); i++) {
		table->regions[i] = (struct vhost_memory_region){
		    .guest_phys_addr = r->gpa,
		    .memory_size = r->len_bytes,
		    .userspace_addr = (uintptr_t)r->host,
		};
		table->nregions = i + 1;
	}
	return call(&d->vhost, VHOST_SET_MEM_TABLE, table);
}

static int set_ring(const struct vhost_dev *d, unsigned index, const struct virtq *vq)
{
	const struct virtq_rings rings = virtq_rings(vq);
	struct vhost_vring_state state = {.index = index, .num = virtq_size(vq)};
	struct vhost_vring_addr addr = {
	    .index = index,
	    .desc_user_addr = (uintptr_t)rings.desc,
	    .avail_user_addr = (uintptr_t)rings.avail,
	    .used_user_addr = (uintptr_t)rings.used,
	};
	struct vhost_vring_file file = {.index = index};
	int r = call(&d->vhost, VHOST_SET_VRING_NUM, &state);

	state.num = 0; /* a ring begins where a driver begins */
	if (!r)
		r = call(&d->vhost, VHOST_SET_VRING_BASE, &state);
	if (!r)
		r = call(&d->vhost, VHOST_SET_VRING_ADDR, &addr);
	file.fd = d->dev.kick_fd[index];
	if (!r)
		r = call(&d->vhost, VHOST_SET_VRING_KICK, &file);
	file.fd = d->calls[index].fd;
	if (!r)
		r = call(&d->vhost, VHOST_SET_VRING_CALL, &file);
	file.fd = d->error.fd;
	if (!r)
		r = call(&d->vhost, VHOST_SET_VRING_ERR, &file);
	return r;
}

/* ---- its signals, on the loop ---- */

static void called(struct loop_watch *w, uint64_t count)
{
	struct vhost_signal *s = container_of(w, struct vhost_signal, watch);
	struct vhost_dev *d = s->owner;

	(void)count;
	/* The kernel has looked whether the driver wants it. */
	virtio_raise_queue(&d->dev, (unsigned)(s - d->calls));
}

static void failed(struct loop_watch *w, uint64_t count)
{
	struct vhost_signal *s = container_of(w, struct vhost_signal, watch);

	(void)count;
	virtio_loop_break(&s->owner->vl);
}

static void unwatched(struct loop_watch *w)
{
	virtio_loop_unhold(&container_of(w, struct vhost_signal, watch)->owner->vl);
}

static void watch(struct vhost_dev *d, struct vhost_signal *s,
		  void (*fn)(struct loop_watch *w, uint64_t count))
{
	s->watch = (struct loop_watch){.fn = fn, .stopped = unwatched};
	virtio_loop_hold(&d->vl);
	loop_watch(d->vl.loop, &s->watch, s->fd);
}

static void starting(struct virtio_loop *vl)
{
	struct vhost_dev *d = container_of(vl, struct vhost_dev, vl);

	for (unsigned i = 0; i < VHOST_RINGS; i++)
		watch(d, &d->calls[i], called);
	watch(d, &d->error, failed);
}

static void stopping(struct virtio_loop *vl)
{
	struct vhost_dev *d = container_of(vl, struct vhost_dev, vl);

	for (unsigned i = 0; i < VHOST_RINGS; i++)
		loop_unwatch(&d->calls[i].watch);
	loop_unwatch(&d->error.watch);
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

/* For what the driver offered while the kernel did not listen. */
static void kick_all(struct vhost_dev *d)
{
	for (unsigned i = 0; i < VHOST_RINGS; i++)
		eventfd_write(d->dev.kick_fd[i], 1);
}

static int activate(struct virtio_dev *dev, uint64_t features, struct virtq *const *queues)
{
	struct vhost_dev *d = vhost_of(dev);
	struct virtq *ours[VSOCK_QUEUES] = {[VSOCK_QUEUE_EVENT] = queues[VSOCK_QUEUE_EVENT]};
	__u64 chosen = features & d->vhost.features;
	int r;

	if (!queues[VSOCK_QUEUE_RX] || !queues[VSOCK_QUEUE_TX])
		return -EINVAL;
	r = call(&d->vhost, VHOST_SET_FEATURES, &chosen);
	if (!r)
		r = set_memory(d);
	for (unsigned i = 0; i < VHOST_RINGS && !r; i++)
		r = set_ring(d, i, queues[i]);
	if (!r)
		r = set_running(&d->vhost, 1);
	if (r)
		return r;
	virtio_loop_start(&d->vl, ours);
	kick_all(d);
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
	kick_all(d);
	virtio_loop_resume(&d->vl);
}

static void drop(struct virtio_dev *dev)
{
	struct vhost_dev *d = vhost_of(dev);

	vhost_vsock_close(&d->vhost);
	for (unsigned i = 0; i < VHOST_RINGS; i++)
		cleanup_fd(&d->calls[i].fd);
	cleanup_fd(&d->error.fd);
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
    .free = drop,
};

static int make_signal(struct vhost_dev *d, struct vhost_signal *s, struct err *err)
{
	s->owner = d;
	s->fd = eventfd(0, EFD_CLOEXEC);
	return s->fd < 0 ? err_sys(err, errno, "vsock: eventfd") : 0;
}

int virtio_vhost_vsock_new(struct vhost_vsock *vhost, uint32_t cid, const struct platform *plat,
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
	d->error.fd = -1;
	for (unsigned i = 0; i < VHOST_RINGS; i++)
		d->calls[i].fd = -1;
	virtio_loop_init(&d->vl, &loop_ops, &d->dev, loop);
	r = virtio_dev_init(&d->dev, err);
	for (unsigned i = 0; i < VHOST_RINGS && !r; i++)
		r = make_signal(d, &d->calls[i], err);
	if (!r)
		r = make_signal(d, &d->error, err);
	if (r < 0) {
		drop(&d->dev);
		return r;
	}
	d->vhost = *vhost;
	vhost->fd = -1;
	*ret_dev = &d->dev;
	return 0;
}
