/* virtio-net: packets from the guest. See net_priv.h. */
#include "base/checked.h"
#include "devices/virtio/net_priv.h"

#include <errno.h>
#include <string.h>

static struct virtio_loop_queue *tx_queue(struct net_pair *p)
{
	return &p->net->vl.queues[2 * p->index + 1];
}

/* ---- headers ---- */

/* The feature that a kind of segmentation needs; 0: no such kind. */
static uint64_t gso_needs(uint8_t type)
{
	switch (type & ~NET_GSO_ECN) {
	case NET_GSO_TCPV4:
		return NET_F_HOST_TSO4;
	case NET_GSO_TCPV6:
		return NET_F_HOST_TSO6;
	case NET_GSO_UDP_L4:
		return type & NET_GSO_ECN ? 0 : NET_F_HOST_USO;
	default:
		return 0;
	}
}

/*
 * §5.1.6.2: what the driver may ask for, for a frame of `len` bytes. Makes the header one that
 * says nothing else: Linux's tun looks at fields that no flag is for.
 */
static bool header_good(const struct net *net, struct net_hdr *h, uint32_t len)
{
	const uint32_t start = le16_get(h->csum_start), offset = le16_get(h->csum_offset);

	h->flags &= NET_HDR_NEEDS_CSUM;
	h->num_buffers = (struct le16){0};
	if (!h->flags)
		h->csum_start = h->csum_offset = (struct le16){0};
	if (h->gso_type == NET_GSO_NONE)
		h->hdr_len = h->gso_size = (struct le16){0};
	if (len < NET_ETH_MIN || len > NET_FRAME_MAX)
		return false;
	if (h->flags) {
		if (!net_has(net, NET_F_CSUM) || start + offset + 2 > len)
			return false;
	}
	if (h->gso_type == NET_GSO_NONE)
		return true;
	if ((h->gso_type & NET_GSO_ECN) && !net_has(net, NET_F_HOST_ECN))
		return false;
	return h->flags && net_has(net, gso_needs(h->gso_type)) && le16_get(h->gso_size) &&
	       le16_get(h->hdr_len) <= len;
}

/* Copies what is judged out of the chain and puts the copy in its place. */
static void split_front(struct net_tx *tx, unsigned nread)
{
	const size_t bytes = MIN(sizeof(tx->front), NET_HDR_BYTES + tx->bytes);
	uint8_t *to = (uint8_t *)&tx->front;
	size_t left = bytes;
	unsigned i = 1;

	while (left) {
		struct iovec *iov = &tx->iov[i];
		const size_t n = MIN(left, iov->iov_len);

		memcpy(to, iov->iov_base, n);
		to += n;
		left -= n;
		iov->iov_base = (uint8_t *)iov->iov_base + n;
		iov->iov_len -= n;
		if (!iov->iov_len)
			i++;
	}
	/* the copy is checked and sent: the compiler must not read the guest's again */
	atomic_signal_fence(memory_order_seq_cst);
	tx->first = i - 1;
	tx->n = nread + 1 - tx->first;
	tx->iov[tx->first] = (struct iovec){.iov_base = &tx->front, .iov_len = bytes};
}

/* The frame's sender is the guest, and no checksum that is asked for would change that. */
static bool sender_good(const struct net *net, const struct net_tx *tx)
{
	const struct net_hdr *h = &tx->front.hdr;
	size_t end;

	if (net->may_spoof)
		return true;
	end = net_frame_own(&net->own, tx->front.head, MIN(tx->bytes, sizeof(tx->front.head)));
	return end &&
	       (!h->flags || (size_t)le16_get(h->csum_start) + le16_get(h->csum_offset) >= end);
}

/* ---- packets ---- */

static void polled(struct loop_op *op, int res);

static void wait_for_room(struct net_pair *p)
{
	struct net_tx *tx = &p->tx;

	if (tx->polling)
		return;
	tx->polling = true;
	tx->op.done = polled;
	virtio_loop_hold(&p->net->vl);
	loop_poll(p->net->vl.loop, &tx->op, p->port.fd, POLLOUT);
}

static void done(struct net_pair *p, bool sent)
{
	p->tx.stalled = false;
	if (sent) {
		net_count(&p->tx_count.packets, 1);
		net_count(&p->tx_count.bytes, p->tx.bytes);
	} else {
		net_count(&p->tx_count.dropped, 1);
	}
	virtio_loop_push(tx_queue(p), p->tx.head, 0);
}

/* False: not now. */
static bool transmit(struct net_pair *p)
{
	struct net_tx *tx = &p->tx;
	struct net *net = p->net;
	int r = -EPIPE;

	if (p->on && net_link(net) && !atomic_load(&net->gone)) {
		tx->stalled = true;
		if (!net_pay(net, &net->tx_limit, &tx->owed))
			return false;
		r = net_port_write(&p->port, &tx->iov[tx->first], tx->n, tx->bytes);
		if (r == -EAGAIN) {
			wait_for_room(p);
			return false;
		}
		if (r == -EPIPE)
			net_gone(net);
	}
	done(p, !r);
	return true;
}

/* A chain was taken into iov[1..]. -EPROTO: it is no packet, -EINVAL: none that may be sent. */
static int take(struct net_pair *p, const struct virtq_chain *chain)
{
	struct net_tx *tx = &p->tx;

	if (chain->nwrite || chain->read_bytes < NET_HDR_BYTES)
		return -EPROTO;
	tx->head = chain->head;
	tx->bytes = chain->read_bytes - (uint32_t)NET_HDR_BYTES;
	split_front(tx, chain->nread);
	if (!header_good(p->net, &tx->front.hdr, tx->bytes))
		return -EINVAL;
	if (!sender_good(p->net, tx)) {
		net_count(&p->tx_spoofed, 1);
		return -EINVAL;
	}
	tx->owed.packets = 1;
	tx->owed.bytes = tx->bytes;
	return 0;
}

/* What the port has of a frame that the driver has back already. False: not all is sent. */
static bool flush(struct net_pair *p)
{
	int r = 0;

	if (p->on && !atomic_load(&p->net->gone))
		r = net_port_flush(&p->port);
	if (r == -EAGAIN)
		wait_for_room(p);
	else if (r)
		net_gone(p->net);
	return r != -EAGAIN;
}

static void paid(struct loop_timer *t)
{
	net_tx_pump(container_of(t, struct net_pair, tx.owed.timer));
}

void net_tx_pump(struct net_pair *p)
{
	struct virtio_loop_queue *q = tx_queue(p);
	struct virtio_loop *vl = &p->net->vl;
	struct virtq_chain chain = {.iov = &p->tx.iov[1], .max_iov = VIRTQ_SEGS_MAX};

	p->tx.owed.timer.fn = paid;
	if (virtio_loop_paused(vl) || vl->broken || !flush(p) || (p->tx.stalled && !transmit(p)))
		return;
	for (unsigned budget = NET_BATCH; budget; budget--) {
		int r = virtio_loop_pull(q, &chain);

		if (r != 1)
			break;
		r = take(p, &chain);
		if (r == -EPROTO) {
			virtio_loop_forget(q);
			virtio_loop_break(vl);
			return;
		}
		if (r)
			done(p, false);
		else if (!transmit(p))
			return;
		if (budget == 1)
			virtio_loop_again(q);
	}
	flush(p); /* the rest of the last frame waits for room, if there is one */
}

static void polled(struct loop_op *op, int res)
{
	struct net_pair *p = container_of(op, struct net_pair, tx.op);
	struct virtio_loop *vl = &p->net->vl;

	(void)res;
	p->tx.polling = false;
	if (!vl->stopping)
		net_tx_pump(p);
	net_reconnect_step(p->net);
	virtio_loop_unhold(vl);
}

static void cancel(struct net_pair *p)
{
	loop_cancel(p->net->vl.loop, &p->tx.op);
	loop_timer_disarm(p->net->vl.loop, &p->tx.owed.timer);
}

void net_tx_off(struct net_pair *p)
{
	cancel(p);
	if (p->tx.stalled)
		done(p, false);
}

void net_tx_stop(struct net_pair *p)
{
	cancel(p);
	if (p->tx.stalled)
		virtio_loop_forget(tx_queue(p));
	p->tx.stalled = false;
}
