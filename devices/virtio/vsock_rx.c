/*
 * virtio-vsock: packets to the guest. See vsock_priv.h.
 *
 * Several of the guest's chains are taken at once and wait in the stash, so that one recvmsg(2)
 * fills them all, straight from the socket; a chain that stays empty serves the next packet.
 */
#include "devices/virtio/vsock_priv.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#define HDR_BYTES sizeof(struct vsock_hdr)

/* ---- the stash ---- */

static struct virtio_loop_queue *rx_queue(struct vsock *vs)
{
	return &vs->vl.queues[VSOCK_QUEUE_RX];
}

/* Is there a chain to send a packet with? */
static bool stash_fill(struct vsock *vs)
{
	struct virtio_loop_queue *q = rx_queue(vs);
	unsigned used = 0;

	if (vs->stash_at < vs->stash_end)
		return !vs->vl.broken;
	vs->stash_at = vs->stash_end = 0;
	while (vs->stash_end < VSOCK_STASH_CHAINS && VSOCK_STASH_IOVS - used >= VIRTQ_SEGS_MAX) {
		struct virtq_chain chain = {.iov = &vs->stash_iov[used], .max_iov = VIRTQ_SEGS_MAX};

		if (virtio_loop_pull(q, &chain) != 1)
			break;
		/* §5.10.6.2: buffers to write, that hold a header and something of a stream */
		if (chain.nread || chain.write_bytes <= HDR_BYTES) {
			virtio_loop_forget(q);
			virtio_loop_break(&vs->vl);
			break;
		}
		vs->stash[vs->stash_end++] = (struct vsock_slot){
		    .head = chain.head,
		    .iov = (uint16_t)used,
		    .niov = chain.nwrite,
		    .bytes = chain.write_bytes,
		};
		used += chain.nwrite;
	}
	return !vs->vl.broken && vs->stash_end;
}

void vsock_rx_drop(struct vsock *vs)
{
	for (; vs->stash_at < vs->stash_end; vs->stash_at++)
		virtio_loop_forget(rx_queue(vs));
	vs->nrsts = 0;
}

/* Gives the first chain of the stash to the guest, with `len` bytes behind the header. */
static void stash_send(struct vsock *vs, const struct vsock_hdr *hdr, uint32_t len)
{
	const struct vsock_slot *slot = &vs->stash[vs->stash_at++];
	const struct iovec *iov = &vs->stash_iov[slot->iov];
	const uint8_t *src = (const uint8_t *)hdr;
	size_t left = HDR_BYTES;

	for (; left; iov++) {
		const size_t n = MIN(left, iov->iov_len);

		memcpy(iov->iov_base, src, n);
		src += n;
		left -= n;
	}
	virtio_loop_push(rx_queue(vs), slot->head, (uint32_t)HDR_BYTES + len);
}

/* ---- headers ---- */

static void send_conn(struct vsock_conn *c, enum vsock_op op, uint32_t flags, uint32_t len)
{
	const struct vsock_hdr hdr = {
	    .src_cid = le64_put(VSOCK_CID_HOST),
	    .dst_cid = le64_put(c->vs->cid),
	    .src_port = le32_put(c->host_port),
	    .dst_port = le32_put(c->guest_port),
	    .len = le32_put(len),
	    .type = le16_put(VSOCK_TYPE_STREAM),
	    .op = le16_put((uint16_t)op),
	    .flags = le32_put(flags),
	    .buf_alloc = le32_put(c->window),
	    .fwd_cnt = le32_put(c->forwarded),
	};

	c->told = c->forwarded;
	c->pending &= (uint8_t)~VSOCK_SEND_CREDIT; /* every packet carries it */
	stash_send(c->vs, &hdr, len);
}

/* ---- resets that belong to no connection ---- */

static void rst_queue(struct vsock *vs, const struct vsock_rst *rst)
{
	/* Cannot be full, see VSOCK_RSTS_MAX; and if it were, a guest that takes no packets misses
	 * nothing. */
	if (vs->nrsts == VSOCK_RSTS_MAX)
		return;
	vs->rsts[(vs->rst_at + vs->nrsts++) % VSOCK_RSTS_MAX] = *rst;
	vsock_kick_pump(vs);
}

void vsock_rst(struct vsock *vs, const struct vsock_packet *p)
{
	const struct vsock_rst rst = {
	    .host_cid = p->dst_cid,
	    .host_port = p->dst_port,
	    .guest_port = p->src_port,
	    .type = p->type,
	};

	/* or two would answer each other for ever */
	if (p->op != VSOCK_OP_RST)
		rst_queue(vs, &rst);
}

void vsock_rst_conn(const struct vsock_conn *c)
{
	const struct vsock_rst rst = {
	    .host_cid = VSOCK_CID_HOST,
	    .host_port = c->host_port,
	    .guest_port = c->guest_port,
	    .type = VSOCK_TYPE_STREAM,
	};

	rst_queue(c->vs, &rst);
}

static void send_rsts(struct vsock *vs)
{
	while (vs->nrsts && stash_fill(vs)) {
		const struct vsock_rst *rst = &vs->rsts[vs->rst_at];
		const struct vsock_hdr hdr = {
		    .src_cid = le64_put(rst->host_cid),
		    .dst_cid = le64_put(vs->cid),
		    .src_port = le32_put(rst->host_port),
		    .dst_port = le32_put(rst->guest_port),
		    .type = le16_put(rst->type),
		    .op = le16_put(VSOCK_OP_RST),
		};

		stash_send(vs, &hdr, 0);
		vs->rst_at = (vs->rst_at + 1) % VSOCK_RSTS_MAX;
		vs->nrsts--;
	}
}

/* ---- a connection's turn ---- */

uint32_t vsock_credit(const struct vsock_conn *c)
{
	const uint32_t in_flight = c->sent - c->peer_fwd;

	return in_flight < c->peer_alloc ? c->peer_alloc - in_flight : 0;
}

static bool wants_read(const struct vsock_conn *c)
{
	return c->state == VSOCK_OPEN && c->readable && !c->host_eof &&
	       !(c->guest_shut & VSOCK_SHUT_RECV);
}

bool vsock_has_work(const struct vsock_conn *c)
{
	return c->pending || (wants_read(c) && (vsock_credit(c) || !c->asked));
}

/* One packet of those that carry no data. */
static void send_pending(struct vsock_conn *c)
{
	if (c->pending & VSOCK_SEND_REQUEST) {
		c->pending &= (uint8_t)~VSOCK_SEND_REQUEST;
		send_conn(c, VSOCK_OP_REQUEST, 0, 0);
	} else if (c->pending & VSOCK_SEND_RESPONSE) {
		c->pending &= (uint8_t)~VSOCK_SEND_RESPONSE;
		send_conn(c, VSOCK_OP_RESPONSE, 0, 0);
	} else if (c->pending & VSOCK_SEND_SHUTDOWN) {
		const uint32_t flags =
		    (c->host_eof ? VSOCK_SHUT_SEND : 0) | (c->host_gone ? VSOCK_SHUT_RECV : 0);

		c->pending &= (uint8_t)~VSOCK_SEND_SHUTDOWN;
		if (flags == VSOCK_SHUT_BOTH)
			vsock_conn_deadline(c, VSOCK_CLOSE_NS);
		send_conn(c, VSOCK_OP_SHUTDOWN, flags, 0);
	} else {
		send_conn(c, VSOCK_OP_CREDIT_UPDATE, 0, 0);
	}
}

/* The room behind the headers of the chains in the stash, up to `want` bytes. */
static unsigned read_iovs(struct vsock *vs, size_t want, size_t *ret_room)
{
	unsigned n = 0;
	size_t room = 0;

	for (unsigned i = vs->stash_at; i < vs->stash_end && room < want; i++) {
		const struct vsock_slot *slot = &vs->stash[i];
		size_t skip = HDR_BYTES;

		for (unsigned k = 0; k < slot->niov && room < want; k++) {
			const struct iovec *iov = &vs->stash_iov[slot->iov + k];
			size_t len = iov->iov_len;

			if (skip >= len) {
				skip -= len;
				continue;
			}
			len = MIN(len - skip, want - room);
			vs->read_iov[n++] = (struct iovec){
			    .iov_base = (uint8_t *)iov->iov_base + skip,
			    .iov_len = len,
			};
			room += len;
			skip = 0;
		}
	}
	*ret_room = room;
	return n;
}

/* One batch from the socket, a packet for each chain that it fills. */
static void read_batch(struct vsock_conn *c, uint32_t credit)
{
	struct vsock *vs = c->vs;
	struct msghdr msg = {.msg_iov = vs->read_iov};
	size_t room;
	ssize_t n;

	msg.msg_iovlen = read_iovs(vs, credit, &room);
	n = recvmsg(c->fd, &msg, MSG_DONTWAIT);
	if (n == 0) {
		vsock_stream_eof(c);
		return;
	}
	if (n < 0 && errno != EAGAIN && errno != EINTR && errno != ENOMEM) {
		vsock_conn_reset(c);
		return;
	}
	if (n < (ssize_t)room) {
		c->readable = false;
		vsock_conn_poll_in(c);
	}
	while (n > 0) {
		const uint32_t most = vs->stash[vs->stash_at].bytes - (uint32_t)HDR_BYTES;
		const uint32_t len = (uint32_t)MIN((size_t)n, (size_t)most);

		c->sent += len;
		send_conn(c, VSOCK_OP_RW, 0, len);
		n -= (ssize_t)len;
	}
}

static void turn(struct vsock_conn *c)
{
	uint32_t credit;

	if (c->pending) {
		send_pending(c);
		return;
	}
	if (!wants_read(c))
		return;
	credit = vsock_credit(c);
	c->asked = !credit;
	if (credit)
		read_batch(c, credit);
	else
		send_conn(c, VSOCK_OP_CREDIT_REQUEST, 0, 0);
}

void vsock_pump(struct vsock *vs)
{
	unsigned budget = VSOCK_PUMP_BATCHES;

	if (virtio_loop_paused(&vs->vl))
		return; /* ready() follows */
	send_rsts(vs);
	while (vs->active && budget && stash_fill(vs)) {
		struct vsock_conn *c = vs->active;

		budget--;
		vsock_conn_deactivate(c);
		turn(c);
		vsock_conn_activate(c);
	}
	if (vs->vl.broken) {
		vsock_conn_close_all(vs);
		return;
	}
	if (vs->active && !budget)
		vsock_kick_pump(vs);
	if (vs->nrsts < VSOCK_RSTS_FULL)
		vsock_tx_resume(vs);
}
