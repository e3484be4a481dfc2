/*
 * virtio-vsock with the data path in the host's kernel: vhost-vsock (linux/vhost.h). The guest sees
 * the device of vsock.h; the host's programs use AF_VSOCK sockets, with the guest's cid.
 *
 * The kernel reads and writes the receive and transmit rings itself. What remains here is to set it
 * up, to pass its interrupts on (they go through the loop, so that the transport can mask them),
 * and the event queue, on which nothing is sent: events tell of migration only.
 *
 * Threads: opened and made by one thread; activated and reset on vCPU threads as virtio.h says; its
 * loop watches the kernel's signals.
 */
#ifndef DEVICES_VIRTIO_VHOST_VSOCK_H
#define DEVICES_VIRTIO_VHOST_VSOCK_H

#include "base/err.h"
#include "base/loop.h"
#include "devices/platform.h"
#include "devices/virtio/vhost.h"
#include "devices/virtio/virtio.h"

#define VHOST_VSOCK_DEVICE "/dev/vhost-vsock"

/* As vhost_open(). */
int vhost_vsock_open(const char *path, vhost_ioctl *ioctl, struct vhost *ret_vhost,
		     struct err *err);

/* -EADDRINUSE: another guest of this host has it. */
int vhost_vsock_set_cid(const struct vhost *vhost, uint32_t cid);

/*
 * Takes `vhost` over on success, `cid` being set on it already. `loop` does not run yet. -ENOMEM,
 * -EMFILE.
 */
int virtio_vhost_vsock_new(struct vhost *vhost, uint32_t cid, const struct platform *plat,
			   struct loop *loop, struct virtio_dev **ret_dev, struct err *err);

#endif
