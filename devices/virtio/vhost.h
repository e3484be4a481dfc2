/*
 * What devices have in common whose rings the host's kernel serves: vhost (linux/vhost.h,
 * drivers/vhost/vhost.c).
 *
 * A `struct vhost` is one descriptor of such a kernel device, with rings from 0. vhost_rings are
 * the signals of all rings of a virtio device, whatever descriptors they belong to: ring i is its
 * queue i. The kernel takes doorbells from dev->kick_fd. Its interrupts go straight to the
 * transport's eventfd where and while that has one (virtio_dev_ops.queue_irq), else through the
 * device's loop, so that the transport can mask them.
 *
 * Threads: vhost_* calls: any, one at a time for each ring, of the process that opened it.
 * vhost_rings: made by one thread; start and stop on the loop's; `lock`, below all others, for
 * where interrupts go.
 */
#ifndef DEVICES_VIRTIO_VHOST_H
#define DEVICES_VIRTIO_VHOST_H

#include "base/err.h"
#include "devices/virtio/virtio_loop.h"

/* ioctl(2), or what a test has in its place. */
typedef int vhost_ioctl(int fd, unsigned long request, void *arg);

struct vhost {
	int fd;
	vhost_ioctl *ioctl;
	uint64_t features; /* the kernel's */
};

#define VHOST_INIT       \
	{                \
		.fd = -1 \
	}

/* What the core offers to every driver, so that a kernel without it cannot serve. No macro:
 * linux/vhost.h calls the numbers of these bits by the names that the core has for their masks. */
extern const uint64_t vhost_needs;

/* For messages. */
struct vhost_names {
	const char *device;  /* "vsock" */
	const char *module;  /* "vhost_vsock" */
	const char *instead; /* what else the user can ask for: "backend=..." */
};

/*
 * Opens `path` and makes it this process's. -ENOENT, -EACCES: the message says what to do;
 * -EOPNOTSUPP: the kernel lacks some of vhost_needs. `ioctl` NULL: the real one.
 */
int vhost_open(const char *path, const struct vhost_names *names, vhost_ioctl *ioctl,
	       struct vhost *ret_vhost, struct err *err);
void vhost_close(struct vhost *vhost); /* what is not open is accepted */

/* All these: 0 or -errno. */
int vhost_call(const struct vhost *vhost, unsigned long request, void *arg);
int vhost_set_features(const struct vhost *vhost, uint64_t features);
int vhost_set_memory(const struct vhost *vhost, const struct gmem *mem);

/* How far the driver's chains are taken: an index of the available ring. While the ring has no
 * backend. */
int vhost_get_base(const struct vhost *vhost, unsigned ring, uint16_t *ret_base);
int vhost_set_base(const struct vhost *vhost, unsigned ring, uint16_t base);

struct vhost_rings;

struct vhost_signal {
	struct vhost_rings *owner;
	struct loop_watch watch;
	int fd; /* eventfd; -1: none */
};

struct vhost_rings {
	struct virtio_loop *vl;
	unsigned n;
	void (*failed)(struct virtio_loop *vl);
	struct vhost_signal calls[VIRTIO_QUEUES_MAX]; /* the kernel has used something */
	struct vhost_signal error;		      /* it cannot go on with a ring */

	pthread_mutex_t lock;
	struct {
		const struct vhost *vhost; /* that serves the queue; NULL: it is not set up */
		unsigned ring;
		int irq_fd; /* the transport's; -1: none */
	} routes[VIRTIO_QUEUES_MAX];
};

/*
 * The first `n` queues of vl->dev. `failed` is called on the loop's thread when the kernel gives a
 * ring up: the driver broke its rules. -EMFILE.
 */
int vhost_rings_init(struct vhost_rings *rings, struct virtio_loop *vl, unsigned n,
		     void (*failed)(struct virtio_loop *vl), struct err *err);
void vhost_rings_fini(struct vhost_rings *rings); /* also of one that is zeroed or half built */

/* From virtio_loop_ops.starting and .stopping. */
void vhost_rings_start(struct vhost_rings *rings);
void vhost_rings_stop(struct vhost_rings *rings);

/* Gives ring `ring` of `vhost`, which stays where it is until the stop, all that it needs to serve
 * `vq` from its beginning. */
int vhost_rings_set(struct vhost_rings *rings, const struct vhost *vhost, unsigned ring,
		    const struct virtq *vq);

/* Of no ring is the kernel told anything more, until it is set again; a stop does that as well. */
void vhost_rings_unset(struct vhost_rings *rings);

/* As virtio_dev_ops.queue_irq. */
void vhost_rings_irq(struct vhost_rings *rings, unsigned queue, int irq_fd);

/* For what the driver offered while the kernel did not listen. */
void vhost_rings_kick(const struct vhost_rings *rings, unsigned first, unsigned n);

#endif
