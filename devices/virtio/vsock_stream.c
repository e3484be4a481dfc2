/*
 * virtio-vsock: packets of a connection, and its bytes on their way to the host. virtio 1.2
 * §5.10.6.3 (buffer space), §5.10.6.5, §5.10.6.6 (stream sockets). See vsock_priv.h.
 *
 * Bytes go from the guest's memory straight to the socket; what it does not take waits in the ring.
 */
#include "devices/virtio/vsock_priv.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static bool would_block(int code)
{
	return code == EAGAIN || code == EINTR || code == ENOBUFS || code == ENOMEM;
}

/* Bytes that the socket took, 0 when it takes none now, -errno when it is at its end. */
static long socket_send(const struct vsock_conn *c, struct iovec *iov, unsigned niov)
{
	const struct msghdr msg = {.msg_iov = iov, .msg_iovlen = niov};
	const ssize_t n = sendmsg(c->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n >= 0)
		return n;
	return would_block(errno) ? 0 : -errno;
}

/* The host's side takes no more: what the guest sends is thrown away, until it knows. */
static void host_gone(struct vsock_conn *c)
{
	c->host_gone = true;
	c->forwarded += c->buf_bytes;
	c->buf_bytes = 0;
	vsock_conn_send(c, VSOCK_SEND_SHUTDOWN);
}

/* ---- the ring ---- */

static int ring_append(struct vsock_conn *c, const struct iovec *iov, unsigned niov, size_t skip)
{
	if (!c->buf)
		c->buf = malloc(c->window);
	if (!c->buf)
		return -ENOMEM;
	for (unsigned i = 0; i < niov; i++) {
		const uint8_t *src = iov[i].iov_base;
		size_t len = iov[i].iov_len;

		if (skip >= len) {
			skip -= len;
			continue;
		}
		src += skip;
		len -= skip;
		skip = 0;
		while (len) {
			const uint32_t at = (c->buf_at + c->buf_bytes) % c->window;
			const size_t n = MIN(len, (size_t)(c->window - at));

			memcpy(c->buf + at, src, n);
			c->buf_bytes += (uint32_t)n;
			src += n;
			len -= n;
		}
	}
	return 0;
}

static unsigned ring_iovs(const struct vsock_conn *c, struct iovec iov[2])
{
	const uint32_t first = MIN(c->buf_bytes, c->window - c->buf_at);

	iov[0] = (struct iovec){.iov_base = c->buf + c->buf_at, .iov_len = first};
	iov[1] = (struct iovec){.iov_base = c->buf, .iov_len = c->buf_bytes - first};
	return iov[1].iov_len ? 2 : 1;
}

/* ---- bytes to the host ---- */

/* Tells the guest of its room when it may think that less than half is left. */
static void give_credit(struct vsock_conn *c)
{
	if (c->forwarded != c->told && c->received - c->told > c->window / 2)
		vsock_conn_send(c, VSOCK_SEND_CREDIT);
}

/* The guest will send no more, and the host has it all. */
static void end_if_sent(struct vsock_conn *c)
{
	if ((c->guest_shut & VSOCK_SHUT_SEND) && !c->buf_bytes)
		shutdown(c->fd, SHUT_WR);
}

void vsock_stream_flush(struct vsock_conn *c)
{
	struct iovec iov[2];
	long n;

	if (!c->buf_bytes)
		return;
	n = socket_send(c, iov, ring_iovs(c, iov));
	if (n < 0) {
		if (c->state == VSOCK_DRAINING)
			vsock_conn_close(c);
		else
			host_gone(c);
		return;
	}
	c->buf_at = (c->buf_at + (uint32_t)n) % c->window;
	c->buf_bytes -= (uint32_t)n;
	c->forwarded += (uint32_t)n;
	if (c->buf_bytes) {
		if (!vsock_wait_room(c)) {
			vsock_conn_reset(c);
			return;
		}
	} else if (c->state == VSOCK_DRAINING) {
		vsock_conn_close(c);
		return;
	}
	if (c->state == VSOCK_OPEN) {
		end_if_sent(c);
		give_credit(c);
	}
}

static void rw(struct vsock_conn *c, const struct iovec *iov, unsigned niov, uint32_t len)
{
	struct iovec copy[VIRTQ_SEGS_MAX];
	long n = 0;

	/* §5.10.6.3.1: no more than there is room for, and nothing after its own end. */
	if (len > c->window - (c->received - c->forwarded) || (c->guest_shut & VSOCK_SHUT_SEND)) {
		vsock_conn_reset(c);
		return;
	}
	c->received += len;
	if (c->host_gone) {
		c->forwarded += len;
		give_credit(c);
		return;
	}
	if (!c->buf_bytes && len) {
		memcpy(copy, iov, niov * sizeof(*iov));
		n = socket_send(c, copy, niov);
	}
	if (n < 0) {
		c->forwarded += len;
		host_gone(c);
		return;
	}
	c->forwarded += (uint32_t)n;
	if ((uint32_t)n < len) {
		if (ring_append(c, iov, niov, (size_t)n) || !vsock_wait_room(c)) {
			vsock_conn_reset(c);
			return;
		}
	}
	give_credit(c);
}

/* ---- ends ---- */

void vsock_stream_eof(struct vsock_conn *c)
{
	struct pollfd p = {.fd = c->fd};

	c->host_eof = true;
	c->readable = false;
	/* A half close, or the program has closed its socket? */
	if (poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLERR))) {
		c->host_gone = true;
	} else if (!vsock_wait_end(c)) {
		vsock_conn_reset(c);
		return;
	}
	vsock_conn_send(c, VSOCK_SEND_SHUTDOWN);
}

void vsock_stream_hangup(struct vsock_conn *c)
{
	switch (c->state) {
	case VSOCK_REQUESTED:
		vsock_conn_reset(c);
		break;
	case VSOCK_OPEN:
		/* what it has sent is still read */
		host_gone(c);
		break;
	default:
		vsock_conn_close(c);
		break;
	}
}

static void guest_shutdown(struct vsock_conn *c, uint32_t flags)
{
	c->guest_shut |= flags & VSOCK_SHUT_BOTH;
	if (c->guest_shut == VSOCK_SHUT_BOTH) {
		vsock_rst_conn(c);
		vsock_conn_gone(c);
		return;
	}
	if (flags & VSOCK_SHUT_RECV) {
		shutdown(c->fd, SHUT_RD);
		if (!vsock_wait_end(c)) {
			vsock_conn_reset(c);
			return;
		}
	}
	end_if_sent(c);
}

/* ---- packets ---- */

static void requested(struct vsock_conn *c, const struct vsock_packet *p)
{
	switch (p->op) {
	case VSOCK_OP_RESPONSE:
		c->state = VSOCK_OPEN;
		vsock_conn_deadline(c, 0);
		vsock_host_answer(c);
		break;
	case VSOCK_OP_RST:
		vsock_conn_close(c);
		break;
	default:
		vsock_conn_reset(c);
		break;
	}
}

void vsock_conn_packet(struct vsock_conn *c, const struct vsock_packet *p, const struct iovec *iov,
		       unsigned niov)
{
	c->peer_alloc = p->buf_alloc;
	c->peer_fwd = p->fwd_cnt;
	if (c->state == VSOCK_REQUESTED) {
		requested(c, p);
		return;
	}
	switch (p->op) {
	case VSOCK_OP_RW:
		rw(c, iov, niov, p->len);
		break;
	case VSOCK_OP_SHUTDOWN:
		guest_shutdown(c, p->flags);
		break;
	case VSOCK_OP_RST:
		vsock_conn_gone(c);
		break;
	case VSOCK_OP_CREDIT_UPDATE:
		break;
	case VSOCK_OP_CREDIT_REQUEST:
		vsock_conn_send(c, VSOCK_SEND_CREDIT);
		break;
	default: /* a second REQUEST or RESPONSE, or no operation at all */
		vsock_conn_reset(c);
		break;
	}
	if (c->state == VSOCK_OPEN)
		vsock_conn_activate(c); /* there may be credit again */
}
