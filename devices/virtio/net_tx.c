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
 * §5.1.6.2: what the driver may ask for, for a packet of `len` bytes. Makes the header one that
 * says nothing else.
 */
static bool header_good(const struct net *net, struct net_hdr *h, uint32_t len)
{
	const uint32_t start = le16_get(h->csum_start), offset = le16_get(h->csum_offset);

	h->flags &= NET_HDR_NEEDS_CSUM;
	h->num_buffers = le16_put(0);
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

/* Copies the header out of the chain and puts the copy in its place. */
static void split_header(struct net_tx *tx, unsigned nread)
{
	uint8_t *to = (uint8_t *)&tx->hdr;
	size_t left = NET_HDR_BYTES;
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
	tx->iov[tx->first] = (struct iovec){.iov_base = &tx->hdr, .iov_len = NET_HDR_BYTES};
}

/* ---- packets ---- */

static void polled(struct loop_op *op, int res);

static void wait_for_room(struct net_pair *p)
{
	struct net_tx *tx = &p->tx;

	tx->stalled = true;
	if (tx->polling)
		return;
	tx->polling = true;
	tx->op.done = polled;
	virtio_loop_hold(&p->net->vl);
	loop_poll(p->net->vl.loop, &tx->op, p->fd, POLLOUT);
}

bool net_tx_error_is_end(int error)
{
	return error == EBADFD || error == EBADF || error == ENODEV || error == EPIPE ||
	       error == ECONNRESET || error == ENOTCONN || error == ECONNREFUSED;
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

/* False: the tap takes no more now. */
static bool transmit(struct net_pair *p)
{
	struct net_tx *tx = &p->tx;
	ssize_t n = -1;

	if (p->on && net_link(p->net) && !atomic_load(&p->net->gone)) {
		n = writev(p->fd, &tx->iov[tx->first], (int)tx->n);
		if (n < 0 && errno == EAGAIN) {
			wait_for_room(p);
			return false;
		}
		if (n < 0 && net_tx_error_is_end(errno))
			net_gone(p->net);
	}
	done(p, n >= 0);
	return true;
}

/* A chain was taken into iov[1..]. -EPROTO: it is no packet. */
static int take(struct net_pair *p, const struct virtq_chain *chain)
{
	struct net_tx *tx = &p->tx;

	if (chain->nwrite || chain->read_bytes < NET_HDR_BYTES)
		return -EPROTO;
	tx->head = chain->head;
	tx->bytes = chain->read_bytes - (uint32_t)NET_HDR_BYTES;
	split_header(tx, chain->nread);
	return 0;
}

void net_tx_pump(struct net_pair *p)
{
	struct virtio_loop_queue *q = tx_queue(p);
	struct virtio_loop *vl = &p->net->vl;
	struct virtq_chain chain = {.iov = &p->tx.iov[1], .max_iov = VIRTQ_SEGS_MAX};

	if (virtio_loop_paused(vl) || vl->broken || (p->tx.stalled && !transmit(p)))
		return;
	for (unsigned budget = NET_BATCH; budget; budget--) {
		if (virtio_loop_pull(q, &chain) != 1)
			return;
		if (take(p, &chain)) {
			virtio_loop_forget(q);
			virtio_loop_break(vl);
			return;
		}
		if (!header_good(p->net, &p->tx.hdr, p->tx.bytes))
			done(p, false);
		else if (!transmit(p))
			return;
	}
	virtio_loop_again(q);
}

static void polled(struct loop_op *op, int res)
{
	struct net_pair *p = container_of(op, struct net_pair, tx.op);
	struct virtio_loop *vl = &p->net->vl;

	(void)res;
	p->tx.polling = false;
	if (!vl->stopping)
		net_tx_pump(p);
	virtio_loop_unhold(vl);
}

void net_tx_stop(struct net_pair *p)
{
	loop_cancel(p->net->vl.loop, &p->tx.op);
	if (p->tx.stalled)
		virtio_loop_forget(tx_queue(p));
	p->tx.stalled = false;
}
