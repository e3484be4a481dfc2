/*
 * virtio-vsock: room in a socket, and its end. See vsock_priv.h.
 *
 * An io_uring's poll always asks for EPOLLRDHUP as well (io_uring/poll.c: IO_POLL_UNMASK), which a
 * program that has half closed answers at once, for ever. So these two are waited for by an epoll
 * of the device's, and the loop polls that.
 */
#include "base/cleanup.h"
#include "devices/virtio/vsock_priv.h"

#include <sys/epoll.h>

#define EVENTS 64 /* taken at a time */

static void arm(struct vsock *vs)
{
	if (vs->wait_polled || !vs->nwaits || vs->vl.stopping)
		return;
	vs->wait_polled = true;
	virtio_loop_hold(&vs->vl);
	loop_poll(vs->vl.loop, &vs->wait, vs->wait_fd, POLLIN);
}

static bool control(struct vsock_conn *c, int operation, bool out)
{
	struct epoll_event e = {.events = out ? EPOLLOUT : 0, .data.ptr = c};

	c->waits_out = out;
	return !epoll_ctl(c->vs->wait_fd, operation, c->fd, &e);
}

/* False: the host lacks memory for it. */
static bool wait_for(struct vsock_conn *c, bool out)
{
	const int operation = c->waits ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;

	if (!control(c, operation, out))
		return false;
	c->vs->nwaits += !c->waits;
	c->waits = true;
	arm(c->vs);
	return true;
}

bool vsock_wait_end(struct vsock_conn *c)
{
	return c->waits || wait_for(c, false);
}

bool vsock_wait_room(struct vsock_conn *c)
{
	return c->waits_out || wait_for(c, true);
}

void vsock_wait_none(struct vsock_conn *c)
{
	if (!c->waits)
		return;
	control(c, EPOLL_CTL_DEL, false);
	c->waits = false;
	c->vs->nwaits--;
}

static void happened(struct vsock_conn *c, uint32_t events)
{
	if (events & (EPOLLHUP | EPOLLERR)) {
		vsock_wait_none(c);
		vsock_stream_hangup(c);
	} else if (c->waits_out && !control(c, EPOLL_CTL_MOD, false)) {
		vsock_conn_reset(c);
	} else {
		vsock_stream_flush(c);
	}
}

static void waited(struct loop_op *op, int res)
{
	struct vsock *vs = container_of(op, struct vsock, wait);
	struct epoll_event events[EVENTS];
	int n = res < 0 ? 0 : epoll_wait(vs->wait_fd, events, EVENTS, 0);

	vs->wait_polled = false;
	for (int i = 0; i < n; i++) {
		struct vsock_conn *c = events[i].data.ptr;

		if (c->waits)
			happened(c, events[i].events);
	}
	arm(vs);
	virtio_loop_unhold(&vs->vl);
}

void vsock_wait_init(struct vsock *vs)
{
	vs->wait.done = waited;
	vs->wait_fd = epoll_create1(EPOLL_CLOEXEC);
}

void vsock_wait_stop(struct vsock *vs)
{
	if (vs->wait_polled)
		loop_cancel(vs->vl.loop, &vs->wait);
}
