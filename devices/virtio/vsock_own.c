/*
 * virtio-vsock: streams of the process that the device is in, which need no path. See vsock.h.
 *
 * Its ends of socket pairs wait in a ring, from any thread, until the driver is there and the table
 * has room; then they are as programs that were accepted at the host's socket.
 */
#include "base/cleanup.h"
#include "devices/virtio/vsock_priv.h"

#include <sys/eventfd.h>
#include <sys/socket.h>

static void came(struct loop_watch *w)
{
	vsock_host_accept(container_of(w, struct vsock, own.watch));
}

static void unwatched(struct loop_watch *w)
{
	virtio_loop_unhold(&container_of(w, struct vsock, own.watch)->vl);
}

void vsock_own_init(struct vsock_own *own, const struct virtio_vsock_config *config)
{
	pthread_mutex_init(&own->lock, NULL);
	own->watch.fn = came;
	own->watch.stopped = unwatched;
	own->port = config->own_port;
	own->accepted = config->accepted;
	own->ctx = config->ctx;
	own->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

void vsock_own_fini(struct vsock_own *own)
{
	for (; own->nfds; own->nfds--, own->at++)
		close(own->fds[own->at % VSOCK_CONNS_MAX]);
	cleanup_fd(&own->event_fd);
	pthread_mutex_destroy(&own->lock);
}

void vsock_own_start(struct vsock *vs)
{
	virtio_loop_hold(&vs->vl);
	loop_watch(vs->vl.loop, &vs->own.watch, vs->own.event_fd);
}

void vsock_own_stop(struct vsock *vs)
{
	loop_unwatch(&vs->own.watch);
}

int vsock_own_next(struct vsock *vs)
{
	struct vsock_own *own = &vs->own;
	AUTOLOCK(&own->lock);

	if (!own->nfds)
		return -1;
	own->nfds--;
	return own->fds[own->at++ % VSOCK_CONNS_MAX];
}

void virtio_vsock_adopt(struct virtio_dev *dev, int fd)
{
	struct vsock_own *own = &container_of(dev, struct vsock, dev)->own;
	bool room;

	pthread_mutex_lock(&own->lock);
	room = own->nfds < VSOCK_CONNS_MAX;
	if (room)
		own->fds[(own->at + own->nfds++) % VSOCK_CONNS_MAX] = fd;
	pthread_mutex_unlock(&own->lock);
	if (room)
		eventfd_write(own->event_fd, 1);
	else
		close(fd);
}

bool vsock_own_is(const struct vsock *vs, uint32_t port)
{
	return vs->own.accepted && vs->own.port == port;
}

int vsock_own_connect(struct vsock *vs)
{
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
		return -1;
	if (!vs->own.accepted(vs->own.ctx, ends[1])) {
		close(ends[0]);
		close(ends[1]);
		return -1;
	}
	return ends[0];
}
