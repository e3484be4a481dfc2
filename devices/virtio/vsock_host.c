/* virtio-vsock: the host's programs, on Unix sockets. See vsock.h for the convention. */
#include "base/cleanup.h"
#include "devices/virtio/vsock_priv.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- programs come in ---- */

static void retry(struct loop_timer *t)
{
	struct vsock *vs = container_of(t, struct vsock, accept_retry);

	vs->accept_waits = false;
	vsock_host_accept(vs);
}

/* There is room. */
static void admit(struct vsock *vs, int fd)
{
	struct vsock_conn *c = vsock_conn_new(vs, fd, VSOCK_GREETING);

	vsock_conn_deadline(c, VSOCK_SETUP_NS);
	vsock_conn_poll_in(c);
}

static void accepted(struct loop_op *op, int res)
{
	struct vsock *vs = container_of(op, struct vsock, accept);

	vs->accepting = false;
	if (vs->vl.stopping || vs->vl.broken) {
		if (res >= 0)
			close(res);
	} else if (res >= 0) {
		vs->waiting_fd = res; /* the guest may have filled the table meanwhile */
	} else if (res != -ECANCELED) {
		/* such as too many descriptors: again at once would be again in vain */
		vs->accept_waits = true;
		vs->accept_retry.fn = retry;
		loop_timer_arm(vs->vl.loop, &vs->accept_retry, loop_now_ns() + VSOCK_RETRY_NS);
	}
	vsock_host_accept(vs);
	virtio_loop_unhold(&vs->vl);
}

static bool has_room(const struct vsock *vs)
{
	return vs->nconns < vs->nconns_max;
}

void vsock_host_accept(struct vsock *vs)
{
	int fd;

	if (vs->vl.stopping || vs->vl.broken)
		return;
	while (has_room(vs) && (fd = vsock_own_next(vs)) >= 0)
		admit(vs, fd);
	if (vs->listen_fd < 0 || vs->accepting || vs->accept_waits || !has_room(vs))
		return;
	if (vs->waiting_fd >= 0) {
		admit(vs, steal_fd(&vs->waiting_fd));
		if (!has_room(vs))
			return;
	}
	vs->accepting = true;
	vs->accept.done = accepted;
	virtio_loop_hold(&vs->vl);
	loop_accept(vs->vl.loop, &vs->accept, vs->listen_fd);
}

void vsock_host_stop(struct vsock *vs)
{
	cleanup_fd(&vs->waiting_fd);
	vs->waiting_fd = -1;
	if (vs->accepting)
		loop_cancel(vs->vl.loop, &vs->accept);
	if (vs->accept_waits)
		loop_timer_disarm(vs->vl.loop, &vs->accept_retry);
	vs->accept_waits = false;
	if (vs->ticking)
		loop_timer_disarm(vs->vl.loop, &vs->tick);
	vs->ticking = false;
}

/* ---- the first line ---- */

/* "CONNECT <port>\n", the port in decimal. */
static bool parse_greeting(const uint8_t *line, unsigned len, uint32_t *ret_port)
{
	static const char word[] = "CONNECT ";
	const unsigned at = sizeof(word) - 1;
	uint64_t port = 0;

	if (len < at + 2 || memcmp(line, word, at) != 0 || line[len - 1] != '\n')
		return false;
	for (unsigned i = at; i < len - 1; i++) {
		if (line[i] < '0' || line[i] > '9')
			return false;
		port = port * 10 + (unsigned)(line[i] - '0');
		if (port > UINT32_MAX)
			return false;
	}
	*ret_port = (uint32_t)port;
	return true;
}

/*
 * Takes the line and nothing behind it, which is the guest's. 1: it is whole, 0: not yet, -1: it
 * will not come.
 */
static int read_greeting(struct vsock_conn *c)
{
	uint8_t *at = c->greeting + c->greeting_bytes;
	const size_t room = sizeof(c->greeting) - c->greeting_bytes;
	ssize_t n = recv(c->fd, at, room, MSG_PEEK | MSG_DONTWAIT);
	const uint8_t *end;

	if (n <= 0)
		return n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
	end = memchr(at, '\n', (size_t)n);
	if (end)
		n = end + 1 - at;
	if (recv(c->fd, at, (size_t)n, MSG_DONTWAIT) != n)
		return -1;
	c->greeting_bytes += (uint8_t)n;
	if (end)
		return 1;
	return c->greeting_bytes == sizeof(c->greeting) ? -1 : 0;
}

/* A port that no other connection to this port of the guest has. There are more than connections.
 */
static uint32_t local_port(struct vsock *vs, uint32_t guest_port)
{
	uint32_t port;

	do {
		port = VSOCK_PORT_FIRST | (vs->next_port++ & (VSOCK_PORT_FIRST - 1));
	} while (vsock_conn_find(vs, guest_port, port));
	return port;
}

void vsock_host_greeting(struct vsock_conn *c)
{
	uint32_t port;

	switch (read_greeting(c)) {
	case 0:
		vsock_conn_poll_in(c);
		return;
	case 1:
		if (parse_greeting(c->greeting, c->greeting_bytes, &port))
			break;
		/* fall through */
	default:
		vsock_conn_close(c);
		return;
	}
	c->state = VSOCK_REQUESTED;
	vsock_conn_bind(c, port, local_port(c->vs, port));
	vsock_conn_deadline(c, VSOCK_SETUP_NS);
	vsock_conn_send(c, VSOCK_SEND_REQUEST);
	if (!vsock_wait_end(c)) /* it may leave before the guest answers */
		vsock_conn_reset(c);
}

void vsock_host_answer(struct vsock_conn *c)
{
	char line[24];
	const int len = snprintf(line, sizeof(line), "OK %u\n", c->host_port);

	/* the first bytes into an empty socket: there is room, or the program is gone */
	if (send(c->fd, line, (size_t)len, MSG_DONTWAIT | MSG_NOSIGNAL) != len) {
		vsock_conn_reset(c);
		return;
	}
	vsock_wait_none(c); /* reading will tell */
	c->readable = true;
	vsock_conn_activate(c);
}

/* ---- the guest comes out ---- */

static int open_port(const struct vsock *vs, uint32_t port)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd, len;

	if (!vs->path)
		return -1;
	len = snprintf(addr.sun_path, sizeof(addr.sun_path), "%s_%u", vs->path, port);
	if (len < 0 || (size_t)len >= sizeof(addr.sun_path))
		return -1;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -1;
	if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr))) {
		close(fd);
		return -1;
	}
	return fd;
}

void vsock_host_connect(struct vsock *vs, const struct vsock_packet *p)
{
	struct vsock_conn *c = NULL;
	int fd = -1;

	if (has_room(vs))
		fd = vsock_own_is(vs, p->dst_port) ? vsock_own_connect(vs)
						   : open_port(vs, p->dst_port);
	if (fd >= 0)
		c = vsock_conn_new(vs, fd, VSOCK_OPEN);
	if (!c) {
		vsock_rst(vs, p);
		return;
	}
	vsock_conn_bind(c, p->src_port, p->dst_port);
	c->peer_alloc = p->buf_alloc;
	c->peer_fwd = p->fwd_cnt;
	vsock_conn_poll_in(c);
	vsock_conn_send(c, VSOCK_SEND_RESPONSE);
}
