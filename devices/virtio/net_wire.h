/* virtio-net on the wire. virtio 1.2 §5.1. */
#ifndef DEVICES_VIRTIO_NET_WIRE_H
#define DEVICES_VIRTIO_NET_WIRE_H

#include "base/bytes.h"

#include <stddef.h>

#define NET_BIT(n) (UINT64_C(1) << (n))

/* Feature bits, §5.1.3 */
#define NET_F_CSUM		  NET_BIT(0)
#define NET_F_GUEST_CSUM	  NET_BIT(1)
#define NET_F_CTRL_GUEST_OFFLOADS NET_BIT(2)
#define NET_F_MTU		  NET_BIT(3)
#define NET_F_MAC		  NET_BIT(5)
#define NET_F_GUEST_TSO4	  NET_BIT(7)
#define NET_F_GUEST_TSO6	  NET_BIT(8)
#define NET_F_GUEST_ECN		  NET_BIT(9)
#define NET_F_HOST_TSO4		  NET_BIT(11)
#define NET_F_HOST_TSO6		  NET_BIT(12)
#define NET_F_HOST_ECN		  NET_BIT(13)
#define NET_F_MRG_RXBUF		  NET_BIT(15)
#define NET_F_STATUS		  NET_BIT(16)
#define NET_F_CTRL_VQ		  NET_BIT(17)
#define NET_F_CTRL_RX		  NET_BIT(18)
#define NET_F_CTRL_RX_EXTRA	  NET_BIT(20)
#define NET_F_GUEST_ANNOUNCE	  NET_BIT(21)
#define NET_F_MQ		  NET_BIT(22)
#define NET_F_CTRL_MAC_ADDR	  NET_BIT(23)
#define NET_F_GUEST_USO4	  NET_BIT(54)
#define NET_F_GUEST_USO6	  NET_BIT(55)
#define NET_F_HOST_USO		  NET_BIT(56)

/* What the driver may turn on and off at run time (§5.1.6.5.6.1) */
#define NET_GUEST_OFFLOADS                                                          \
	(NET_F_GUEST_CSUM | NET_F_GUEST_TSO4 | NET_F_GUEST_TSO6 | NET_F_GUEST_ECN | \
	 NET_F_GUEST_USO4 | NET_F_GUEST_USO6)

/* Configuration space, §5.1.4 */
struct net_config_wire {
	uint8_t mac[6];
	struct le16 status; /* 0x06 */
	struct le16 max_virtqueue_pairs;
	struct le16 mtu; /* 0x0a */
};
_Static_assert(sizeof(struct net_config_wire) == 12, "configuration space");
_Static_assert(offsetof(struct net_config_wire, mtu) == 10, "configuration space");

#define NET_S_LINK_UP  1
#define NET_S_ANNOUNCE 2

/* In front of every packet, §5.1.6 */
struct net_hdr {
	uint8_t flags;
	uint8_t gso_type;
	struct le16 hdr_len; /* 0x02 */
	struct le16 gso_size;
	struct le16 csum_start; /* 0x06 */
	struct le16 csum_offset;
	struct le16 num_buffers; /* 0x0a */
};
_Static_assert(sizeof(struct net_hdr) == 12, "packet header");
_Static_assert(offsetof(struct net_hdr, num_buffers) == 10, "packet header");

#define NET_HDR_NEEDS_CSUM 1
#define NET_HDR_DATA_VALID 2

#define NET_GSO_NONE   0
#define NET_GSO_TCPV4  1
#define NET_GSO_TCPV6  4
#define NET_GSO_UDP_L4 5
#define NET_GSO_ECN    0x80

/* Control queue, §5.1.6.5: class, command, data, and one byte back */
enum net_ctrl_class {
	NET_CTRL_RX = 0,
	NET_CTRL_MAC = 1,
	NET_CTRL_ANNOUNCE = 3,
	NET_CTRL_MQ = 4,
	NET_CTRL_GUEST_OFFLOADS = 5,
};

/* of NET_CTRL_RX */
enum net_ctrl_rx {
	NET_RX_PROMISC,
	NET_RX_ALLMULTI,
	NET_RX_ALLUNI,
	NET_RX_NOMULTI,
	NET_RX_NOUNI,
	NET_RX_NOBCAST,
	NET_RX_MODES,
};

enum { NET_MAC_TABLE_SET = 0, NET_MAC_ADDR_SET = 1 };
enum { NET_ANNOUNCE_ACK = 0 };
enum { NET_MQ_VQ_PAIRS_SET = 0 };
enum { NET_GUEST_OFFLOADS_SET = 0 };

#define NET_CTRL_OK  0
#define NET_CTRL_ERR 1

/* Ethernet: addresses, VLAN tag, type; and the longest packet that a GSO header describes */
#define NET_ETH_MIN   14
#define NET_FRAME_MAX (18 + 65535)

#endif
