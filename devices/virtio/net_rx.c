/* virtio-net: packets to the guest. See net_priv.h. */
#include "base/checked.h"
#include "devices/virtio/net_priv.h"

#include <errno.h>
#include <string.h>

#define ALONE_MAX   8
#define PLAIN_BYTES (NET_HDR_BYTES + 1514)
#define PLAIN_MIN   16

static struct virtio_loop_queue *rx_queue(struct net_pair *p)
{
	return &p->net->vl.queues[2 * p->index];
}

/* ---- the window ---- */

static void window_to_front(struct net_rx *rx)
{
	memmove(rx->slots, &rx->slots[rx->at], (rx->end - rx->at) * sizeof(rx->slots[0]));
	memmove(rx->iov, &rx->iov[rx->iov_at], (rx->iov_end - rx->iov_at) * sizeof(rx->iov[0]));
	rx->end -= rx->at;
	rx->iov_end -= rx->iov_at;
	rx->at = rx->iov_at = 0;
}

static bool window_full(const struct net_pair *p)
{
	const struct net_rx *rx = &p->rx;
	const unsigned slots = rx->end - rx->at;

	/* without mergeable buffers a packet has one chain */
	if (slots && !net_has(p->net, NET_F_MRG_RXBUF))
		return true;
	return slots == NET_WINDOW_SLOTS ||
	       slots == virtq_size(p->net->vl.queues[2 * p->index].vq) ||
	       rx->iov_end - rx->iov_at + VIRTQ_SEGS_MAX > NET_WINDOW_IOVS;
}

/* Takes chains until the window holds `want` bytes, as far as there are any. */
static void window_fill(struct net_pair *p, uint32_t want)
{
	struct virtio_loop_queue *q = rx_queue(p);
	struct net_rx *rx = &p->rx;

	while (rx->room < want && !window_full(p)) {
		struct virtq_chain chain = {.max_iov = VIRTQ_SEGS_MAX};

		if (rx->iov_end + VIRTQ_SEGS_MAX > NET_RX_IOVS || rx->end == NET_RX_SLOTS)
			window_to_front(rx);
		chain.iov = &rx->iov[rx->iov_end];
		if (virtio_loop_pull(q, &chain) != 1)
			return;
		/* §5.1.6.3.2: writable, at least the header's size */
		if (chain.nread || chain.write_bytes < NET_HDR_BYTES ||
		    chain.write_bytes > UINT32_MAX - rx->room) {
			virtio_loop_forget(q);
			virtio_loop_break(&p->net->vl);
			return;
		}
		rx->slots[rx->end++] = (struct net_slot){
		    .head = chain.head, .niov = chain.nwrite, .bytes = chain.write_bytes};
		rx->iov_end += chain.nwrite;
		rx->room += chain.write_bytes;
	}
}

/* Copies the packet's header out of the window, as far as the port wrote it there. */
static void window_header(const struct net_rx *rx, struct net_hdr *ret_hdr)
{
	uint8_t *to = (uint8_t *)ret_hdr;
	size_t left = sizeof(*ret_hdr);

	for (const struct iovec *iov = &rx->iov[rx->iov_at]; left; iov++) {
		const size_t n = MIN(left, iov->iov_len);

		memcpy(to, iov->iov_base, n);
		to += n;
		left -= n;
	}
	atomic_signal_fence(memory_order_seq_cst);
}

/* Copies into the window from `offset` on. */
static void window_write(struct net_rx *rx, size_t offset, const void *src, size_t len)
{
	const uint8_t *from = src;

	for (const struct iovec *iov = &rx->iov[rx->iov_at]; len; iov++) {
		size_t n;

		if (offset >= iov->iov_len) {
			offset -= iov->iov_len;
			continue;
		}
		n = MIN(len, iov->iov_len - offset);
		memcpy((uint8_t *)iov->iov_base + offset, from, n);
		from += n;
		len -= n;
		offset = 0;
	}
}

/* ---- packets ---- */

static void drop(struct net_pair *p)
{
	net_count(&p->rx_count.dropped, 1);
}

/* The feature that a driver needs for a kind of segmentation; 0: no such kind. */
static uint64_t gso_needs(uint8_t type)
{
	switch (type) {
	case NET_GSO_TCPV4:
		return NET_F_GUEST_TSO4;
	case NET_GSO_TCPV6:
		return NET_F_GUEST_TSO6;
	default:
		return 0;
	}
}

/*
 * §5.1.6.4.1: nothing that the driver did not negotiate, or has turned off since the packet came
 * into the tap. Makes the header one that says nothing else.
 */
static bool header_good(const struct net *net, struct net_hdr *h)
{
	const uint64_t has = net->offloads;
	const uint8_t type = h->gso_type & (uint8_t)~NET_GSO_ECN;

	if (!(has & NET_F_GUEST_CSUM)) {
		/* the packet lacks its checksum, or is known to be whole, which is not asked for */
		if (h->flags & NET_HDR_NEEDS_CSUM || h->gso_type != NET_GSO_NONE)
			return false;
		*h = (struct net_hdr){0};
		return true;
	}
	h->flags &= NET_HDR_NEEDS_CSUM | NET_HDR_DATA_VALID;
	if (h->gso_type == NET_GSO_NONE)
		return true;
	if ((h->gso_type & NET_GSO_ECN) && !(has & NET_F_GUEST_ECN))
		return false;
	if (type == NET_GSO_UDP_L4)
		return (has & (NET_F_GUEST_USO4 | NET_F_GUEST_USO6)) ==
		       (NET_F_GUEST_USO4 | NET_F_GUEST_USO6);
	return has & gso_needs(type);
}

/* The window holds a packet of `bytes`: gives its chains to the driver. */
static void deliver(struct net_pair *p, uint32_t bytes)
{
	struct net_rx *rx = &p->rx;
	uint32_t left = bytes;
	struct net_hdr hdr;
	unsigned n = 0;

	window_header(rx, &hdr);
	if (!header_good(p->net, &hdr)) {
		drop(p);
		return;
	}
	for (uint32_t sum = 0; sum < bytes; n++)
		sum += rx->slots[rx->at + n].bytes;
	hdr.num_buffers = le16_put((uint16_t)n);
	window_write(rx, 0, &hdr, sizeof(hdr));
	while (n--) {
		const struct net_slot *s = &rx->slots[rx->at++];
		const uint32_t used = MIN(left, s->bytes);

		left -= used;
		rx->room -= s->bytes;
		rx->iov_at += s->niov;
		virtio_loop_push(rx_queue(p), s->head, used);
	}
	net_count(&p->rx_count.packets, 1);
	net_count(&p->rx_count.bytes, bytes - NET_HDR_BYTES);
	rx->owed.packets = 1;
	rx->owed.bytes = bytes - NET_HDR_BYTES;
}

/* Has the rest of the packet found its place, or been given up? */
static bool finish_pending(struct net_pair *p)
{
	struct net_rx *rx = &p->rx;

	if (!rx->pending)
		return true;
	window_fill(p, rx->pending);
	if (p->net->vl.broken)
		return false;
	if (rx->room >= rx->pending) {
		const uint32_t bytes = rx->pending;

		window_write(rx, rx->pending_in, rx->sink, bytes - rx->pending_in);
		rx->pending = 0;
		deliver(p, bytes);
		return true;
	}
	if (!window_full(p))
		return false; /* ready() follows */
	rx->pending = 0;
	drop(p); /* longer than all that the driver can give */
	return true;
}

/*
 * Reads a packet into the window, what is behind `*ret_room` bytes of it into the sink. Segments
 * that come rarely are not what each packet should prepare for: the kernel looks at every iovec,
 * and where only frames came, those that hold one are all it gets.
 */
static ssize_t read_packet(struct net_pair *p, uint32_t *ret_room)
{
	const struct iovec sink = {.iov_base = p->rx.sink, .iov_len = sizeof(p->rx.sink)};
	struct net_rx *rx = &p->rx;
	unsigned end = rx->iov_end;
	struct iovec behind;
	ssize_t n;

	*ret_room = rx->room;
	if (rx->plain >= PLAIN_MIN) {
		end = rx->iov_at;
		*ret_room = 0;
		for (unsigned i = rx->at; i < rx->end && *ret_room < PLAIN_BYTES; i++) {
			end += rx->slots[i].niov;
			*ret_room += rx->slots[i].bytes;
		}
	}
	behind = rx->iov[end];
	rx->iov[end] = sink;
	n = net_port_read(&p->port, &rx->iov[rx->iov_at], end - rx->iov_at + 1);
	rx->iov[end] = behind;
	if (n > 0)
		rx->plain = n <= (ssize_t)PLAIN_BYTES ? rx->plain + 1 : 0;
	return n;
}

/* One packet. 1: there may be more, 0: none now, -EPIPE: the end. */
static int receive(struct net_pair *p)
{
	const struct iovec sink = {.iov_base = p->rx.sink, .iov_len = sizeof(p->rx.sink)};
	const bool link = net_link(p->net);
	struct net_rx *rx = &p->rx;
	uint32_t room = 0;
	ssize_t n;

	n = link ? read_packet(p, &room) : net_port_read(&p->port, &sink, 1);
	if (n == -EAGAIN)
		return 0;
	if (n == -EPIPE)
		return -EPIPE;
	if (!link || n < (ssize_t)(NET_HDR_BYTES + NET_ETH_MIN) || n > (ssize_t)NET_PACKET_MAX) {
		drop(p);
	} else if (n <= (ssize_t)room) {
		deliver(p, (uint32_t)n);
	} else {
		rx->pending = (uint32_t)n;
		rx->pending_in = room;
	}
	return 1;
}

/*
 * Where packets come one by one, as answers do, asking for a second in vain costs as much as the
 * first, and the guest hears of that one later. Now and then it is asked for, so that a stream is
 * seen.
 */
static bool comes_alone(const struct net_pair *p)
{
	/* of a stream a part is read ahead, of which no poll tells */
	return p->rx.found == 1 && p->rx.alone % ALONE_MAX && !p->port.stream;
}

static void wait_for_packets(struct net_pair *p)
{
	if (p->rx.polling)
		return;
	p->rx.alone = p->rx.found == 1 ? p->rx.alone + 1 : 0;
	p->rx.found = 0;
	p->rx.polling = true;
	virtio_loop_hold(&p->net->vl);
	loop_poll(p->net->vl.loop, &p->rx.op, p->port.fd, POLLIN);
}

static void polled(struct loop_op *op, int res)
{
	struct net_pair *p = container_of(op, struct net_pair, rx.op);
	struct virtio_loop *vl = &p->net->vl;

	(void)res; /* reading says what there is */
	p->rx.polling = false;
	if (!vl->stopping)
		net_rx_pump(p);
	net_reconnect_step(p->net);
	virtio_loop_unhold(vl);
}

static void paid(struct loop_timer *t)
{
	net_rx_pump(container_of(t, struct net_pair, rx.owed.timer));
}

void net_rx_pump(struct net_pair *p)
{
	struct virtio_loop *vl = &p->net->vl;
	int r;

	p->rx.op.done = polled;
	p->rx.owed.timer.fn = paid;
	if (!p->on || atomic_load(&p->net->gone))
		return;
	for (unsigned budget = NET_BATCH; budget; budget--) {
		if (virtio_loop_paused(vl) || vl->broken || !finish_pending(p))
			return;
		window_fill(p, NET_PACKET_MAX);
		if (vl->broken || p->rx.at == p->rx.end)
			return; /* ready() follows */
		if (!net_pay(p->net, &p->net->rx_limit, &p->rx.owed))
			return; /* paid() follows */
		r = comes_alone(p) ? 0 : receive(p);
		if (r < 0) {
			net_gone(p->net);
			return;
		}
		if (!r) {
			wait_for_packets(p);
			return;
		}
		p->rx.found++;
	}
	virtio_loop_again(rx_queue(p));
}

void net_rx_off(struct net_pair *p)
{
	loop_cancel(p->net->vl.loop, &p->rx.op);
	loop_timer_disarm(p->net->vl.loop, &p->rx.owed.timer);
}

void net_rx_stop(struct net_pair *p)
{
	struct net_rx *rx = &p->rx;

	net_rx_off(p);
	for (; rx->at < rx->end; rx->at++)
		virtio_loop_forget(rx_queue(p));
	rx->at = rx->end = rx->iov_at = rx->iov_end = 0;
	rx->room = rx->pending = 0;
}
