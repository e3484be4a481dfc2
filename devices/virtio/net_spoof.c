/*
 * virtio-net: does a frame of the guest's come from the guest? Ethernet (IEEE 802.3, 802.1Q), ARP
 * (RFC 826), IPv4 (RFC 791). Pure: it looks at a copy of the frame's first bytes only.
 *
 * IPv6 addresses are not judged: the guest makes its own.
 */
#include "devices/virtio/net_priv.h"

#include <string.h>

#define MAC_BYTES  6
#define TAG_BYTES  4
#define TAGS_MAX   2
#define ARP_BYTES  28 /* for Ethernet and IPv4 */
#define IPV4_BYTES 20 /* without options */

enum { ETHER_IPV4 = 0x0800, ETHER_ARP = 0x0806, ETHER_RARP = 0x8035 };
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
static bool arp_own(const uint8_t *arp, const uint8_t *mac, uint32_t ipv4, bool reverse)
{
	static const uint8_t kind[] = {0, 1, 8, 0, MAC_BYTES, 4};
	const uint32_t sender = be32_load(arp + 14);

	if (memcmp(arp, kind, sizeof(kind)) != 0 || memcmp(arp + 8, mac, MAC_BYTES) != 0)
		return false;
	return reverse || !ipv4 || !sender || sender == ipv4;
}

/* A guest without an address asks for one: UDP to port 67 (RFC 2131 §4.1), not in fragments. */
static bool is_dhcp(const uint8_t *ip, size_t len)
{
	const size_t at = 4 * (size_t)(ip[0] & 15);

	return ip[9] == 17 && !(be16_load(ip + 6) & 0x3fff) && at + 4 <= len &&
	       be16_load(ip + at + 2) == 67;
}

static bool ipv4_own(const uint8_t *ip, size_t len, uint32_t ipv4)
{
	const uint32_t source = be32_load(ip + 12);

	if (ip[0] >> 4 != 4 || (ip[0] & 15) < IPV4_BYTES / 4)
		return false;
	return source == ipv4 || (!source && is_dhcp(ip, len));
}

size_t net_frame_own(const uint8_t *head, size_t len, const uint8_t *mac, uint32_t ipv4)
{
	size_t at;
	unsigned type;

	if (len < NET_ETH_MIN || memcmp(head + MAC_BYTES, mac, MAC_BYTES) != 0)
		return 0;
	type = ether_type(head, len, &at);
	switch (type) {
	case 0:
		return 0;
	case ETHER_ARP:
	case ETHER_RARP:
		if (len < at + ARP_BYTES || !arp_own(head + at, mac, ipv4, type == ETHER_RARP))
			return 0;
		return at + ARP_BYTES;
	case ETHER_IPV4:
		if (!ipv4)
			return at;
		if (len < at + IPV4_BYTES || !ipv4_own(head + at, len - at, ipv4))
			return 0;
		return at + IPV4_BYTES;
	default:
		return at;
	}
}

size_t net_frame_routed(const uint8_t *head, size_t len, const uint8_t *mac, uint32_t network,
			uint32_t mask)
{
	size_t at;

	if (!mask || len < NET_ETH_MIN || memcmp(head + MAC_BYTES, mac, MAC_BYTES) != 0 ||
	    ether_type(head, len, &at) != ETHER_IPV4 || len < at + IPV4_BYTES)
		return 0;
	if (head[at] >> 4 != 4 || (head[at] & 15) < IPV4_BYTES / 4 ||
	    (be32_load(head + at + 12) & mask) != network)
		return 0;
	return at + IPV4_BYTES;
}
