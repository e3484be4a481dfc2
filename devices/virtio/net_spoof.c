/*
 * virtio-net: does a frame of the guest's come from the guest? Ethernet (IEEE 802.3, 802.1Q), ARP
 * (RFC 826), IPv4 (RFC 791), IPv6 (RFC 8200) with neighbour discovery (RFC 4861). Pure: it looks at
 * a copy of the frame's first bytes only.
 */
#include "devices/virtio/net_priv.h"

#include <string.h>

#define MAC_BYTES  6
#define TAG_BYTES  4
#define TAGS_MAX   2
#define ARP_BYTES  28 /* for Ethernet and IPv4 */
#define IPV4_BYTES 20 /* without options */
#define IPV6_BYTES 40

enum { ETHER_IPV4 = 0x0800, ETHER_IPV6 = 0x86dd, ETHER_ARP = 0x0806, ETHER_RARP = 0x8035 };
enum { ETHER_VLAN = 0x8100, ETHER_QINQ = 0x88a8, ETHER_QINQ_OLD = 0x9100 };

static bool is_tag(unsigned type)
{
	return type == ETHER_VLAN || type == ETHER_QINQ || type == ETHER_QINQ_OLD;
}

/* The type behind the tags, and where its data begins; 0: too many tags, or too short. */
static unsigned ether_type(const uint8_t *head, size_t len, size_t *ret_at)
{
	size_t at = 2 * (size_t)MAC_BYTES;

	for (unsigned tags = 0; tags <= TAGS_MAX && at + 2 <= len; tags++, at += TAG_BYTES) {
		const unsigned type = be16_load(head + at);

		if (!is_tag(type)) {
			*ret_at = at + 2;
			return type;
		}
	}
	return 0;
}

/* Hardware type and length, protocol type and length, operation, sender's two, target's two. */
static bool arp_own(const struct net_own *own, const uint8_t *arp, bool reverse)
{
	static const uint8_t kind[] = {0, 1, 8, 0, MAC_BYTES, 4};
	const uint32_t sender = be32_load(arp + 14);

	if (memcmp(arp, kind, sizeof(kind)) != 0 || memcmp(arp + 8, own->mac, MAC_BYTES) != 0)
		return false;
	return reverse || !own->ipv4 || !sender || sender == own->ipv4;
}

/* A guest without an address asks for one: UDP to port 67 (RFC 2131 §4.1), not in fragments. */
static bool is_dhcp(const uint8_t *ip, size_t len)
{
	const size_t at = 4 * (size_t)(ip[0] & 15);

	return ip[9] == 17 && !(be16_load(ip + 6) & 0x3fff) && at + 4 <= len &&
	       be16_load(ip + at + 2) == 67;
}

static bool ipv4_own(const struct net_own *own, const uint8_t *ip, size_t len)
{
	const uint32_t source = be32_load(ip + 12);

	if (ip[0] >> 4 != 4 || (ip[0] & 15) < IPV4_BYTES / 4)
		return false;
	if (own->routed_mask && (source & own->routed_mask) == own->routed)
		return true;
	return source == own->ipv4 || (!source && is_dhcp(ip, len));
}

/* ---- IPv6 ---- */

enum { IPV6_HOP_BY_HOP = 0, IPV6_ROUTING = 43, IPV6_ICMP = 58, IPV6_DESTINATION = 60 };
enum {
	ICMP_ROUTER_ADVERT = 134,
	ICMP_NEIGHBOUR_SOLICIT = 135,
	ICMP_NEIGHBOUR_ADVERT = 136,
	ICMP_REDIRECT = 137,
};

#define ICMP_TARGET 8 /* of what neighbours say: where the address begins that it is about */

static const uint8_t unspecified[16];

static bool ipv6_known(const struct net_own *own, const uint8_t address[16])
{
	for (unsigned i = 0; i < own->nipv6; i++) {
		if (!memcmp(address, own->ipv6[i], 16))
			return true;
	}
	return false;
}

/* The header behind those of options, and where it begins; -1: it is too far to be seen. */
static int ipv6_upper(const uint8_t *ip, size_t len, size_t *ret_at)
{
	unsigned next = ip[6];
	size_t at = IPV6_BYTES;

	while (next == IPV6_HOP_BY_HOP || next == IPV6_ROUTING || next == IPV6_DESTINATION) {
		if (at + 2 > len)
			return -1;
		next = ip[at];
		at += 8 * ((size_t)ip[at + 1] + 1);
	}
	*ret_at = at;
	return (int)next;
}

/* The guest tells of its own addresses alone, or asks whether it may have them, and tells of no way
 * to others. What is behind a header of a fragment counts for nothing in neighbour discovery (RFC
 * 6980). The bytes that were looked at; 0: no. */
static size_t icmp_own(const struct net_own *own, const uint8_t *ip, size_t len, size_t at)
{
	if (at >= len || ip[at] == ICMP_ROUTER_ADVERT || ip[at] == ICMP_REDIRECT)
		return 0;
	if (ip[at] != ICMP_NEIGHBOUR_ADVERT &&
	    (ip[at] != ICMP_NEIGHBOUR_SOLICIT || memcmp(ip + 8, unspecified, 16) != 0))
		return at + 1;
	if (at + ICMP_TARGET + 16 > len || !ipv6_known(own, ip + at + ICMP_TARGET))
		return 0;
	return at + ICMP_TARGET + 16;
}

static size_t ipv6_own(const struct net_own *own, const uint8_t *ip, size_t len)
{
	const uint8_t *source = ip + 8;
	size_t at;
	int upper;

	if (len < IPV6_BYTES || ip[0] >> 4 != 6)
		return 0;
	upper = ipv6_upper(ip, len, &at);
	if (upper < 0)
		return 0;
	/* one that has no address yet asks whether it may have it (RFC 4862) */
	if (!ipv6_known(own, source) &&
	    (upper != IPV6_ICMP || memcmp(source, unspecified, sizeof(unspecified)) != 0))
		return 0;
	return upper == IPV6_ICMP ? icmp_own(own, ip, len, at) : IPV6_BYTES;
}

/* RFC 4291 appendix A */
static void link_local(const uint8_t mac[MAC_BYTES], uint8_t ret[16])
{
	memset(ret, 0, 16);
	ret[0] = 0xfe;
	ret[1] = 0x80;
	memcpy(ret + 8, mac, 3);
	ret[8] ^= 2;
	ret[11] = 0xff;
	ret[12] = 0xfe;
	memcpy(ret + 13, mac + 3, 3);
}

/* ---- */

void net_own_init(struct net_own *own, const struct virtio_net_config *config)
{
	*own = (struct net_own){
	    .ipv4 = config->ipv4, .routed = config->routed, .routed_mask = config->routed_mask};
	memcpy(own->mac, config->mac, sizeof(own->mac));
	if (!config->ipv4 && !config->nipv6)
		return;
	memcpy(own->ipv6, config->ipv6, sizeof(config->ipv6));
	own->nipv6 = config->nipv6;
	link_local(config->mac, own->ipv6[own->nipv6++]);
}

size_t net_frame_own(const struct net_own *own, const uint8_t *head, size_t len)
{
	size_t at, n;
	unsigned type;

	if (len < NET_ETH_MIN || memcmp(head + MAC_BYTES, own->mac, MAC_BYTES) != 0)
		return 0;
	type = ether_type(head, len, &at);
	switch (type) {
	case 0:
		return 0;
	case ETHER_ARP:
	case ETHER_RARP:
		if (len < at + ARP_BYTES || !arp_own(own, head + at, type == ETHER_RARP))
			return 0;
		return at + ARP_BYTES;
	case ETHER_IPV4:
		if (!own->ipv4)
			return at;
		if (len < at + IPV4_BYTES || !ipv4_own(own, head + at, len - at))
			return 0;
		return at + IPV4_BYTES;
	case ETHER_IPV6:
		if (!own->nipv6)
			return at;
		n = ipv6_own(own, head + at, len - at);
		return n ? at + n : 0;
	default:
		return at;
	}
}
