/*
 * virtio-net (virtio 1.2 §5.1) on a tap, or a socket in its place.
 *
 * Checksum and segmentation offloads both ways as far as the tap has them, mergeable receive
 * buffers, several queue pairs with the control queue, receive filters (in the kernel, with the
 * tap), link status and announcement. Packets go between the tap and the guest's memory by readv(2)
 * and writev(2), without a copy of ours but of what lies beyond the buffers that the guest has
 * given so far, and, from the guest, of the headers: the copy is checked, and the copy is sent.
 * From a stream they are copied once.
 *
 * Unless it may, a guest sends from no other address than its own: MAC, and, where an address of it
 * is known, IPv4 with ARP, and IPv6 with neighbour discovery (its known ones, and the link-local
 * one of its MAC, RFC 4291 appendix A); it is no router. Other frames are dropped and counted.
 *
 * A packet whose header is wrong or asks for what was not negotiated is dropped and counted; chains
 * that cannot hold a packet take the device to NEEDS_RESET. When the tap goes away underneath, the
 * guest sees its link go down; of a stream, until it has another.
 *
 * Threads: all queues on one loop.
 */
#ifndef DEVICES_VIRTIO_NET_H
#define DEVICES_VIRTIO_NET_H

#include "base/err.h"
#include "base/loop.h"
#include "devices/virtio/tap.h"
#include "devices/virtio/virtio.h"
#include "devices/virtio/virtio_loop.h"

#define VIRTIO_NET_PAIRS_MAX TAP_QUEUES_MAX
#define VIRTIO_NET_MTU_MIN   68 /* §5.1.4.1 */
#define VIRTIO_NET_MTU_MAX   65535

#define VIRTIO_NET_IPV6_MAX 4

struct virtio_net_config {
	uint8_t mac[6];	     /* a unicast address, not zero */
	unsigned mtu;	     /* 0: the driver's own choice */
	uint16_t queue_size; /* 0: 256 */

	bool may_spoof; /* the guest may send from any address, and change its own */
	/* The guest's, which it must keep to; IPv4 in host order, 0: unknown, and it may send from
	 * any. IPv6 likewise, if IPv4 is unknown too. */
	uint32_t ipv4;
	uint8_t ipv6[VIRTIO_NET_IPV6_MAX][16];
	unsigned nipv6;
	/* a network behind it, whose addresses are as good where IPv4 is known; mask 0: none */
	uint32_t routed, routed_mask;

	/* to the guest, and from it; 0: no limit. A tenth of a second's may come at once. */
	uint64_t rx_bytes_per_s, rx_packets_per_s;
	uint64_t tx_bytes_per_s, tx_packets_per_s;
};

struct virtio_net_stats {
	uint64_t rx_packets, rx_bytes, rx_dropped; /* to the guest; bytes without our header */
	uint64_t tx_packets, tx_bytes, tx_dropped;
	uint64_t tx_spoofed; /* of tx_dropped: not from the guest's own address */
	bool link_up;
};

/*
 * Takes `tap` over on success; a queue pair for each of its queues. `loop`, which does not run yet,
 * serves the device. -EINVAL: a number is out of range; -ENOMEM, -EMFILE.
 */
int virtio_net_new(const struct virtio_net_config *config, struct tap *tap, struct loop *loop,
		   struct virtio_dev **ret_dev, struct err *err);

/* Link up or down, as of a cable. While it is down packets of both sides are dropped. Any thread
 * but the loop's. */
void virtio_net_set_link(struct virtio_dev *dev, bool up);

/*
 * Puts `fd`, a stream socket, in place of a stream whose other end is gone, or will be soon: what
 * was under way is lost, the link goes up again where nothing else keeps it down, and the network
 * is told. Takes `fd` over. `done`, of the caller's, is called on the loop's thread; until then
 * there is no other, and the device is not freed. Any thread.
 */
struct virtio_net_reconnect {
	void (*done)(struct virtio_net_reconnect *r);
	struct virtio_loop_job job; /* private, as all below */
	struct virtio_dev *dev;
	int fd;
};
void virtio_net_reconnect(struct virtio_dev *dev, struct virtio_net_reconnect *r, int fd);

/* Asks the driver to tell the network where it is (§5.1.6.5.4), where it can and its link is up.
 * Any thread. */
void virtio_net_announce(struct virtio_dev *dev);

/* Any thread. */
void virtio_net_stats(struct virtio_dev *dev, struct virtio_net_stats *ret_stats);

#endif
