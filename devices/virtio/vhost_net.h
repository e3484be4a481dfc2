/*
 * virtio-net whose packets the host's kernel moves: vhost-net on a tap (linux/vhost.h,
 * drivers/vhost/net.c). The guest sees the device of net.h; configuration space, control queue,
 * link and announcement are that one's.
 *
 * For each queue pair the kernel wants a descriptor of its own, with the pair's queues as rings 0
 * and 1. A pair is served while it has a backend: its queue of the tap. While the guest's link is
 * down, or the machine pauses, it has none: what the driver sends waits in its ring, what comes for
 * it in the tap. VHOST_NET_F_VIRTIO_NET_HDR is never set: the headers are the tap's.
 *
 * A guest that breaks the rings' rules takes the device to NEEDS_RESET. When the tap goes away
 * underneath, the guest sees its link go down.
 *
 * virtio_net_set_link() may be called from any thread; virtio_net_stats() tells nothing: the kernel
 * counts, at the tap.
 *
 * Threads: opened and made by one thread; activated on vCPU threads as virtio.h says; all else on
 * its loop.
 */
#ifndef DEVICES_VIRTIO_VHOST_NET_H
#define DEVICES_VIRTIO_VHOST_NET_H

#include "devices/platform.h"
#include "devices/virtio/net.h"
#include "devices/virtio/vhost.h"

#define VHOST_NET_DEVICE "/dev/vhost-net"

struct vhost_net {
	struct vhost pairs[VIRTIO_NET_PAIRS_MAX];
	unsigned n; /* that are open */
};

#define VHOST_NET_INIT \
	{              \
		.n = 0 \
	}

/*
 * Opens `path` for each of `pairs` queue pairs, 1 to VIRTIO_NET_PAIRS_MAX. As vhost_open(), and
 * -EINVAL.
 */
int vhost_net_open(const char *path, unsigned pairs, vhost_ioctl *ioctl,
		   struct vhost_net *ret_vhost, struct err *err);
void vhost_net_close(struct vhost_net *vhost); /* what is not open is accepted */

/*
 * Takes `tap` and `vhost` over on success; a queue pair for each of the tap's queues. `loop`, which
 * does not run yet, serves the control queue. -EINVAL: a number is out of range, `vhost` has other
 * than the tap's number of pairs, or the tap is a socket; -ENOMEM, -EMFILE.
 */
int virtio_vhost_net_new(const struct virtio_net_config *config, struct tap *tap,
			 struct vhost_net *vhost, const struct platform *plat, struct loop *loop,
			 struct virtio_dev **ret_dev, struct err *err);

#endif
