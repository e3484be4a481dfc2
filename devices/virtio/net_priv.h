/*
 * virtio-net from the inside: configuration space and life (net.c), the control queue (net_ctrl.c),
 * packets to the guest (net_rx.c) and from it (net_tx.c), the other side (net_port.c), who a guest
 * may say that it is (net_spoof.c), how much may pass (net_limit.c).
 *
 * Receiving. Chains are taken in advance into a window, so that one read spans as many as the
 * longest packet needs; the packet uses the first of them, the others serve the next. Behind the
 * window stands `sink`: what a packet has beyond the guest's buffers lands there and is copied
 * when the guest has given more, so that no packet is cut or lost for want of buffers.
 *
 *   slots:  [at ............ end)     chains, each a run of iovecs
 *   iov:    [iov_at .... iov_end)     their buffers in order, then one iovec for the sink
 *
 * Invariants
 *  1. Chains in a window, and the one that waits for the tap, are pulled and not pushed; a stop
 *     forgets them.
 *  2. Only the loop's thread touches a pair, from start to the end of stop. `mac`, `status` and
 *     counters are atomic.
 *  3. A pair that is off (§5.1.6.5.5) has no operation but one that was cancelled, no timer and no
 *     packet that waits to be sent.
 *  4. Of what the guest sends, only bytes that were copied are judged (`front`), and the copy is
 *     what is sent.
 */
#ifndef DEVICES_VIRTIO_NET_PRIV_H
#define DEVICES_VIRTIO_NET_PRIV_H

#include "base/token_bucket.h"
#include "devices/virtio/net.h"
#include "devices/virtio/net_port.h"
#include "devices/virtio/net_wire.h"
#include "devices/virtio/virtio_loop.h"

#define NET_QUEUE_SIZE 256
#define NET_BATCH      256 /* packets of a pair before others have their turn */

#define NET_HDR_BYTES  sizeof(struct net_hdr)
#define NET_PACKET_MAX (NET_HDR_BYTES + NET_FRAME_MAX)

/* One readv(2) takes IOV_MAX (1024) iovecs, the sink among them. Twice that, so that the window is
 * moved to the front only now and then. */
#define NET_WINDOW_IOVS	 1023
#define NET_WINDOW_SLOTS 512
#define NET_RX_IOVS	 (2 * NET_WINDOW_IOVS)
#define NET_RX_SLOTS	 (2 * NET_WINDOW_SLOTS)

/* Ethernet, two tags, the longest IPv4 header, or IPv6 with a neighbour advertisement and some
 * options */
#define NET_HEAD_BYTES 128

struct net_slot {
	uint16_t head;
	uint16_t niov;
	uint32_t bytes;
};

struct net_counters {
	_Atomic uint64_t packets, bytes, dropped;
};

/* Of all pairs of a device, one direction. */
struct net_limit {
	bool on;
	struct token_bucket bytes, packets;
};

/* What a queue has to pay before its next packet. */
struct net_owed {
	uint64_t bytes, packets;
	struct loop_timer timer; /* until it is worth asking again */
};

struct net_rx {
	struct loop_op op; /* waits for packets */
	bool polling;
	unsigned found; /* packets since it last waited */
	unsigned alone; /* waits in a row that brought one packet each */
	unsigned plain; /* packets in a row that were no longer than an Ethernet frame */
	struct net_owed owed;
	unsigned at, end;	  /* slots */
	unsigned iov_at, iov_end; /* iovecs */
	uint32_t room;		  /* bytes of the window */
	uint32_t pending;	  /* of a packet that is partly in the sink; 0: none */
	uint32_t pending_in;	  /* of them in the window already */
	struct net_slot slots[NET_RX_SLOTS];
	struct iovec iov[NET_RX_IOVS + 1];
	uint8_t sink[NET_PACKET_MAX];
};

struct net_tx {
	struct loop_op op; /* waits for the port to take packets */
	bool polling;
	struct net_owed owed;
	bool stalled; /* a packet waits: `head`, iov[first..first+n) */
	uint16_t head;
	unsigned first, n;
	uint32_t bytes; /* of the frame */
	struct {
		struct net_hdr hdr;
		uint8_t head[NET_HEAD_BYTES]; /* of the frame, as far as it goes */
	} front;
	struct iovec iov[1 + VIRTQ_SEGS_MAX]; /* room for `front` */
};

struct net_pair {
	struct net *net;
	unsigned index;
	bool on;
	struct net_counters rx_count, tx_count;
	_Atomic uint64_t tx_spoofed;
	struct net_rx rx;
	struct net_tx tx;
	struct net_port port;
};

/* What is done where packets are moved: here or in the kernel. */
struct net;
struct net_path {
	/* A pair that has both queues goes on or off, its tap queue with it. The loop's thread. */
	int (*pair_on)(struct net *net, unsigned pair);
	void (*pair_off)(struct net *net, unsigned pair);
	void (*link)(struct net *net); /* optional: the link's state changed; any thread */
};

/* Who the guest is, for net_spoof.c. */
struct net_own {
	uint8_t mac[6];
	uint32_t ipv4;		      /* host order; 0: unknown */
	uint32_t routed, routed_mask; /* likewise a network behind it; mask 0: none */
	uint8_t ipv6[VIRTIO_NET_IPV6_MAX + 1][16];
	unsigned nipv6; /* 0: all are its own */
};

/* Common to both backends. */
struct net {
	struct virtio_dev dev;
	struct virtio_loop vl;
	const struct net_path *path;
	struct tap tap;
	uint64_t config_mac;
	unsigned mtu;
	bool may_spoof;
	struct net_own own;
	struct net_limit rx_limit, tx_limit; /* the built-in path's */
	_Atomic uint64_t mac;		     /* the six bytes, the first lowest */
	_Atomic uint16_t status;	     /* NET_S_* */
	_Atomic uint64_t features;
	uint64_t offloads; /* of NET_GUEST_OFFLOADS, what the driver takes now; the loop's thread */
	unsigned ctrl_index; /* of the control queue, as negotiated; 0: none */
	unsigned pairs_on;
	bool queue_given[VIRTIO_QUEUES_MAX]; /* by the driver */

	/* the receive filter that the driver chose */
	bool rx_mode[NET_RX_MODES];
	bool filtered; /* the driver has turned promiscuous mode off */
	uint8_t macs[TAP_MACS_MAX - 2][6];
	unsigned nmacs;
	bool macs_over; /* there were more */
	struct iovec ctrl_iov[VIRTQ_SEGS_MAX];

	_Atomic bool gone;			/* the tap is */
	_Atomic bool refused;			/* the host did not give the driver what it needs */
	_Atomic bool unplugged;			/* by virtio_net_set_link() */
	struct net_pair *pairs;			/* of the built-in path */
	struct virtio_net_reconnect *reconnect; /* under way; the loop's thread */
};

static inline struct net *net_of(struct virtio_dev *dev)
{
	return (struct net *)((char *)dev - offsetof(struct net, dev));
}

static inline unsigned net_pairs(const struct net *net)
{
	return net->tap.queues;
}

static inline bool net_has(const struct net *net, uint64_t feature)
{
	return atomic_load_explicit(&net->features, memory_order_relaxed) & feature;
}

static inline bool net_link(const struct net *net)
{
	return atomic_load_explicit(&net->status, memory_order_relaxed) & NET_S_LINK_UP;
}

/* One writer, many readers. */
static inline void net_count(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

/* net.c: what both backends' devices have. */
int net_init(struct net *net, const struct virtio_net_config *config, const struct tap *tap,
	     const struct virtio_dev_ops *ops, const struct virtio_loop_ops *loop_ops,
	     const struct net_path *path, struct loop *loop, struct err *err);
void net_fini(struct net *net); /* also of one that is half built; not the memory */
/* -EINVAL: queues lack. */
int net_activated(struct net *net, uint64_t features, struct virtq *const *queues);
void net_deactivated(struct net *net);
/* The loop's thread, at its start: the driver has the first pair, or no link. */
void net_begin(struct net *net);
/* The host refuses what the driver needs (-errno): the link is down until the next reset, with a
 * line in the log. Any thread. */
void net_refused(struct net *net, int code);
void net_config_read(struct virtio_dev *dev, unsigned offset, void *buf, unsigned len);
void net_config_write(struct virtio_dev *dev, unsigned offset, const void *buf, unsigned len);
/* True: it changed. */
bool net_status(struct net *net, uint16_t clear, uint16_t set);
/* The tap is gone: the loop's thread. */
void net_gone(struct net *net);

/* An operation of the first pair has ended: the loop's thread. */
void net_reconnect_step(struct net *net);

/* net_ctrl.c */
void net_ctrl_start(struct net *net); /* as negotiated */
void net_ctrl_ready(struct net *net);
/* The first `n` pairs are on, the others off. */
int net_set_pairs(struct net *net, unsigned n);

/* net_rx.c, net_tx.c */
void net_rx_pump(struct net_pair *p);
void net_rx_off(struct net_pair *p);
void net_rx_stop(struct net_pair *p); /* cancels, forgets */
void net_tx_pump(struct net_pair *p);
void net_tx_off(struct net_pair *p); /* what waits is dropped, and the driver's again */
void net_tx_stop(struct net_pair *p);

/* net_spoof.c */
void net_own_init(struct net_own *own, const struct virtio_net_config *config);
/* Whether a frame that begins so names the guest as its sender: the bytes that say so, in front of
 * which no checksum may be put; 0: it does not. */
size_t net_frame_own(const struct net_own *own, const uint8_t *head, size_t len);

/* net_limit.c: 0 per second: no limit. */
void net_limit_init(struct net_limit *limit, uint64_t bytes_per_s, uint64_t packets_per_s);
/* False: not all of it yet, and the timer is armed. */
bool net_pay(struct net *net, struct net_limit *limit, struct net_owed *owed);

#endif
