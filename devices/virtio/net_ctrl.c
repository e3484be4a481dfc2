/*
 * virtio-net: the control queue, virtio 1.2 §5.1.6.5. What it asks for becomes the tap's: offloads,
 * queues, filter. See net_priv.h.
 */
#include "base/checked.h"
#include "base/log.h"
#include "devices/virtio/net_priv.h"

#include <string.h>

/* One command takes a header, a table of addresses for each kind, and a byte back. */
#define CTRL_BATCH 64

/* ---- the tap, as it is asked for ---- */

static unsigned offloads_of(uint64_t features)
{
	static const struct {
		uint64_t feature;
		unsigned offload;
	} table[] = {
	    {NET_F_GUEST_CSUM, TAP_CSUM}, {NET_F_GUEST_TSO4, TAP_TSO4},
	    {NET_F_GUEST_TSO6, TAP_TSO6}, {NET_F_GUEST_ECN, TAP_ECN},
	    {NET_F_GUEST_USO4, TAP_USO4}, {NET_F_GUEST_USO6, TAP_USO6},
	};
	unsigned offloads = 0;

	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		if (features & table[i].feature)
			offloads |= table[i].offload;
	}
	return offloads;
}

/* Adds the driver's addresses of one kind: those of interfaces are to come first, see tap.h. */
static unsigned table_to_filter(const struct net *net, uint8_t (*macs)[6], unsigned n,
				bool multicast)
{
	for (unsigned i = 0; i < net->nmacs; i++) {
		if ((net->macs[i][0] & 1) == multicast)
			memcpy(macs[n++], net->macs[i], 6);
	}
	return n;
}

static int apply_filter(struct net *net)
{
	uint8_t macs[TAP_MACS_MAX][6];
	const uint64_t mac = htole64(atomic_load(&net->mac));
	const bool *mode = net->rx_mode;
	unsigned n = 0;

	if (!net->filtered || net->macs_over || mode[NET_RX_PROMISC] || mode[NET_RX_ALLUNI])
		return tap_set_filter(&net->tap, NULL, 0, false);
	if (!mode[NET_RX_NOUNI]) {
		memcpy(macs[n++], &mac, 6);
		n = table_to_filter(net, macs, n, false);
	}
	if (!mode[NET_RX_NOBCAST])
		memset(macs[n++], 0xff, 6);
	if (!mode[NET_RX_NOMULTI])
		n = table_to_filter(net, macs, n, true);
	if (!n) /* none at all, which for a tap were all */
		memset(macs[n++], 0, 6);
	return tap_set_filter(&net->tap, macs, n, mode[NET_RX_ALLMULTI] && !mode[NET_RX_NOMULTI]);
}

/* What waits in the tap may have been made for what was allowed before; net_rx.c drops that. */
static int set_offloads(struct net *net, uint64_t wanted)
{
	net->offloads = wanted & NET_GUEST_OFFLOADS;
	return tap_set_offloads(&net->tap, offloads_of(wanted));
}

int net_set_pairs(struct net *net, unsigned n)
{
	int r = 0;

	while (net->pairs_on > n)
		net->path->pair_off(net, --net->pairs_on);
	while (net->pairs_on < n && !r) {
		r = net->path->pair_on(net, net->pairs_on);
		net->pairs_on += !r;
	}
	return r;
}

void net_ctrl_start(struct net *net)
{
	static struct log_limit limit;
	int r;

	memset(net->rx_mode, 0, sizeof(net->rx_mode));
	net->filtered = net->macs_over = false;
	net->nmacs = 0;
	r = apply_filter(net);
	if (!r)
		r = set_offloads(net, atomic_load(&net->features));
	if (r && !atomic_load(&net->gone))
		log_limited(&limit, LOG_LEVEL_WARN, "network: tap %s: %s", net->tap.name,
			    strerrordesc_np(-r));
}

/* ---- commands ---- */

struct command {
	uint8_t class, code;
	struct iovec *iov; /* what is behind the header */
	size_t len;
};

/* The next bytes of a command, copied out, or passed over (NULL); false: there are not so many. */
static bool command_take(struct command *c, void *buf, size_t len)
{
	uint8_t *to = buf;

	if (len > c->len)
		return false;
	c->len -= len;
	while (len) {
		const size_t n = MIN(len, c->iov->iov_len);

		if (to) {
			memcpy(to, c->iov->iov_base, n);
			to += n;
		}
		len -= n;
		c->iov->iov_base = (uint8_t *)c->iov->iov_base + n;
		c->iov->iov_len -= n;
		if (!c->iov->iov_len)
			c->iov++;
	}
	atomic_signal_fence(memory_order_seq_cst);
	return true;
}

/* §5.1.6.5.1 */
static bool receive_mode(struct net *net, struct command *c)
{
	uint8_t on;

	if (!net_has(net, NET_F_CTRL_RX) || c->code >= NET_RX_MODES || !command_take(c, &on, 1) ||
	    on > 1)
		return false;
	if (c->code > NET_RX_ALLMULTI && !net_has(net, NET_F_CTRL_RX_EXTRA))
		return false;
	net->rx_mode[c->code] = on;
	/* §5.1.6.5.1.1: it starts promiscuous */
	net->filtered |= c->code == NET_RX_PROMISC && !on;
	return !apply_filter(net);
}

/* One of the two tables: what does not fit makes the filter let all pass. */
static bool take_table(struct net *net, struct command *c)
{
	struct le32 count;
	uint32_t n;

	if (!command_take(c, &count, sizeof(count)))
		return false;
	n = le32_get(count);
	if (n > c->len / 6)
		return false;
	for (; n && net->nmacs < ARRAY_LEN(net->macs); n--)
		command_take(c, net->macs[net->nmacs++], 6);
	net->macs_over |= n;
	return command_take(c, NULL, (size_t)n * 6);
}

/* Of interfaces, and of groups. */
static bool take_tables(struct net *net, struct command *c)
{
	bool good = take_table(net, c);

	return good && take_table(net, c);
}

/* §5.1.6.5.2 */
static bool addresses(struct net *net, struct command *c)
{
	uint64_t mac = 0;

	if (c->code == NET_MAC_TABLE_SET) {
		if (!net_has(net, NET_F_CTRL_RX))
			return false;
		net->nmacs = 0;
		net->macs_over = false;
		if (!take_tables(net, c)) {
			net->macs_over = true; /* half a table filters too much */
			apply_filter(net);
			return false;
		}
		return !apply_filter(net);
	}
	if (c->code != NET_MAC_ADDR_SET || !net_has(net, NET_F_CTRL_MAC_ADDR) || c->len != 6 ||
	    !command_take(c, &mac, 6))
		return false;
	mac = le64toh(mac);
	if (!mac || (mac & 1)) /* none, or of a group */
		return false;
	if (!net->may_spoof && mac != net->config_mac)
		return false;
	atomic_store(&net->mac, mac);
	return !apply_filter(net);
}

/* §5.1.6.5.5 */
static bool queue_pairs(struct net *net, struct command *c)
{
	struct le16 pairs;
	unsigned n;

	if (c->code != NET_MQ_VQ_PAIRS_SET || !net_has(net, NET_F_MQ) ||
	    !command_take(c, &pairs, sizeof(pairs)))
		return false;
	n = le16_get(pairs);
	for (unsigned i = 0; i < 2 * MIN(n, net_pairs(net)); i++) {
		if (!net->queue_given[i])
			return false;
	}
	return n && n <= net_pairs(net) && !net_set_pairs(net, n);
}

/* §5.1.6.5.6 */
static bool offloads(struct net *net, struct command *c)
{
	struct le64 wanted;
	uint64_t on;

	if (c->code != NET_GUEST_OFFLOADS_SET || !net_has(net, NET_F_CTRL_GUEST_OFFLOADS) ||
	    !command_take(c, &wanted, sizeof(wanted)))
		return false;
	on = le64_get(wanted);
	if (on & ~(atomic_load(&net->features) & NET_GUEST_OFFLOADS))
		return false;
	return !set_offloads(net, on);
}

/* §5.1.6.5.4 */
static bool announced(struct net *net, const struct command *c)
{
	if (c->code != NET_ANNOUNCE_ACK || !net_has(net, NET_F_GUEST_ANNOUNCE))
		return false;
	net_status(net, NET_S_ANNOUNCE, 0);
	return true;
}

static bool command(struct net *net, struct command *c)
{
	uint8_t head[2];

	if (!command_take(c, head, sizeof(head)))
		return false;
	c->class = head[0];
	c->code = head[1];
	switch (c->class) {
	case NET_CTRL_RX:
		return receive_mode(net, c);
	case NET_CTRL_MAC:
		return addresses(net, c);
	case NET_CTRL_ANNOUNCE:
		return announced(net, c);
	case NET_CTRL_MQ:
		return queue_pairs(net, c);
	case NET_CTRL_GUEST_OFFLOADS:
		return offloads(net, c);
	default:
		return false;
	}
}

void net_ctrl_ready(struct net *net)
{
	struct virtio_loop_queue *q = &net->vl.queues[net->ctrl_index];
	struct virtq_chain chain = {.iov = net->ctrl_iov, .max_iov = VIRTQ_SEGS_MAX};

	for (unsigned budget = CTRL_BATCH; budget; budget--) {
		struct command c;
		uint8_t *ack;

		if (virtio_loop_pull(q, &chain) != 1)
			return;
		if (!chain.nwrite) { /* no room for an answer */
			virtio_loop_forget(q);
			virtio_loop_break(&net->vl);
			return;
		}
		ack = chain.iov[chain.nread].iov_base;
		c = (struct command){.iov = chain.iov, .len = chain.read_bytes};
		*ack = command(net, &c) ? NET_CTRL_OK : NET_CTRL_ERR;
		virtio_loop_push(q, chain.head, 1);
	}
	virtio_loop_again(q);
}
