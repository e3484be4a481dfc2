/* virtio-vsock: the table of connections, their polls and their ends. See vsock_priv.h. */
#include "base/cleanup.h"
#include "devices/virtio/vsock_priv.h"

#include <stdlib.h>
#include <unistd.h>

/* ---- the table ---- */

static struct vsock_conn **bucket(struct vsock *vs, uint32_t guest_port, uint32_t host_port)
{
	const uint32_t mixed = (guest_port ^ host_port * 0x9e3779b1u) * 0x85ebca6bu;

	return &vs->buckets[mixed >> 16 & (VSOCK_BUCKETS - 1)];
}

struct vsock_conn *vsock_conn_find(struct vsock *vs, uint32_t guest_port, uint32_t host_port)
{
	struct vsock_conn *c = *bucket(vs, guest_port, host_port);

	while (c && (c->guest_port != guest_port || c->host_port != host_port))
		c = c->next_hash;
	return c;
}

void vsock_conn_bind(struct vsock_conn *c, uint32_t guest_port, uint32_t host_port)
{
	struct vsock *vs = c->vs;
	struct vsock_conn **at = bucket(vs, guest_port, host_port);

	c->guest_port = guest_port;
	c->host_port = host_port;
	c->window = vs->large < VSOCK_WINDOW_LARGE ? VSOCK_WINDOW : VSOCK_WINDOW_SMALL;
	vs->large += c->window == VSOCK_WINDOW;
	c->next_hash = *at;
	*at = c;
}

static void unbind(struct vsock_conn *c)
{
	struct vsock_conn **at = bucket(c->vs, c->guest_port, c->host_port);

	while (*at && *at != c)
		at = &(*at)->next_hash;
	if (*at)
		*at = c->next_hash;
}

static void in_done(struct loop_op *op, int res);

struct vsock_conn *vsock_conn_new(struct vsock *vs, int fd, enum vsock_state state)
{
	struct vsock_conn *c = vs->free;

	if (c)
		vs->free = c->next_free;
	else if (vs->fresh < vs->nconns_max)
		c = &vs->conns[vs->fresh++];
	else
		return NULL;
	vs->nconns++;
	*c = (struct vsock_conn){
	    .vs = vs,
	    .state = state,
	    .fd = fd,
	    .in.done = in_done,
	};
	return c;
}

static void release(struct vsock_conn *c)
{
	struct vsock *vs = c->vs;

	if (c->in_polled)
		return;
	close(c->fd);
	vs->large -= c->window == VSOCK_WINDOW;
	vs->nconns--;
	c->state = VSOCK_FREE;
	c->next_free = vs->free;
	vs->free = c;
	vsock_host_accept(vs);
}

/* ---- ends ---- */

/* The guest's packets find it no more, and it has none for the guest. */
static void leave_guest(struct vsock_conn *c)
{
	if (c->state == VSOCK_REQUESTED || c->state == VSOCK_OPEN)
		unbind(c);
	vsock_conn_deactivate(c);
	c->pending = 0;
	c->deadline_ns = 0;
}

void vsock_conn_close(struct vsock_conn *c)
{
	if (c->state == VSOCK_CLOSED || c->state == VSOCK_FREE)
		return;
	leave_guest(c);
	vsock_wait_none(c);
	c->state = VSOCK_CLOSED;
	free(steal_ptr(&c->buf));
	c->buf_bytes = 0;
	if (c->in_polled)
		loop_cancel(c->vs->vl.loop, &c->in);
	release(c);
}

void vsock_conn_gone(struct vsock_conn *c)
{
	if (!c->buf_bytes) {
		vsock_conn_close(c);
		return;
	}
	leave_guest(c);
	c->state = VSOCK_DRAINING;
}

void vsock_conn_reset(struct vsock_conn *c)
{
	/* A REQUEST that has not gone out is a connection that the guest never heard of. */
	if (c->state == VSOCK_OPEN ||
	    (c->state == VSOCK_REQUESTED && !(c->pending & VSOCK_SEND_REQUEST)))
		vsock_rst_conn(c);
	vsock_conn_close(c);
}

void vsock_conn_close_all(struct vsock *vs)
{
	for (unsigned i = 0; i < vs->fresh; i++)
		vsock_conn_close(&vs->conns[i]);
}

/* ---- turns ---- */

void vsock_conn_activate(struct vsock_conn *c)
{
	struct vsock *vs = c->vs;

	if (c->active || !vsock_has_work(c))
		return;
	c->active = true;
	c->next_active = NULL;
	c->active_link = vs->active_tail;
	*vs->active_tail = c;
	vs->active_tail = &c->next_active;
	vsock_kick_pump(vs);
}

void vsock_conn_deactivate(struct vsock_conn *c)
{
	if (!c->active)
		return;
	c->active = false;
	*c->active_link = c->next_active;
	if (c->next_active)
		c->next_active->active_link = c->active_link;
	else
		c->vs->active_tail = c->active_link;
}

void vsock_conn_send(struct vsock_conn *c, uint8_t packets)
{
	c->pending |= packets;
	vsock_conn_activate(c);
}

/* ---- deadlines: looked at once a second while there are any ---- */

static void tick(struct loop_timer *t)
{
	struct vsock *vs = container_of(t, struct vsock, tick);
	const uint64_t now = loop_now_ns();
	bool more = false;

	vs->ticking = false;
	for (unsigned i = 0; i < vs->fresh; i++) {
		struct vsock_conn *c = &vs->conns[i];

		if (c->state == VSOCK_FREE || !c->deadline_ns)
			continue;
		if (virtio_loop_paused(&vs->vl))
			c->deadline_ns += VSOCK_TICK_NS; /* the guest's time stands still */
		if (c->deadline_ns <= now)
			vsock_conn_reset(c);
		else
			more = true;
	}
	if (more) {
		vs->ticking = true;
		loop_timer_arm(vs->vl.loop, &vs->tick, now + VSOCK_TICK_NS);
	}
}

void vsock_conn_deadline(struct vsock_conn *c, uint64_t ns)
{
	struct vsock *vs = c->vs;
	const uint64_t now = loop_now_ns();

	c->deadline_ns = ns ? now + ns : 0;
	if (!ns || vs->ticking)
		return;
	vs->ticking = true;
	vs->tick.fn = tick;
	loop_timer_arm(vs->vl.loop, &vs->tick, now + VSOCK_TICK_NS);
}

/* ---- its poll ---- */

void vsock_conn_poll_in(struct vsock_conn *c)
{
	if (c->in_polled)
		return;
	c->in_polled = true;
	virtio_loop_hold(&c->vs->vl);
	loop_poll(c->vs->vl.loop, &c->in, c->fd, POLLIN);
}

static void in_done(struct loop_op *op, int res)
{
	struct vsock_conn *c = container_of(op, struct vsock_conn, in);
	struct vsock *vs = c->vs;

	(void)res;
	c->in_polled = false;
	switch (c->state) {
	case VSOCK_GREETING:
		vsock_host_greeting(c);
		break;
	case VSOCK_OPEN:
		c->readable = true;
		vsock_conn_activate(c);
		break;
	case VSOCK_CLOSED:
		release(c);
		break;
	default:
		break;
	}
	virtio_loop_unhold(&vs->vl);
}
