/* What virtio-net lets a guest say about who it is. */
#include "tests/unit/net_frames6.h"
#include "tests/unit/net_socket_rig.h"

static size_t frame_own(const uint8_t *f, size_t len, const uint8_t *from, uint32_t ipv4)
{
	struct virtio_net_config c = {.ipv4 = ipv4};
	struct net_own own;

	memcpy(c.mac, from, sizeof(c.mac));
	net_own_init(&own, &c);
	return net_frame_own(&own, f, len);
}

static void test_own_frames(void **state)
{
	uint8_t f[128], arp[64] = {0};

	(void)state;
	frame_build(f, FRAME_UDP4, frame_host_mac, frame_guest_mac, 20, true);
	assert_int_equal(frame_own(f, 62, mac, GUEST_IP), 34);
	assert_int_equal(frame_own(f, 62, mac, 0), 14);
	assert_int_equal(frame_own(f, 62, mac, GUEST_IP + 1), 0);
	assert_int_equal(frame_own(f, 62, other_mac, GUEST_IP), 0);
	assert_int_equal(frame_own(f, 33, mac, GUEST_IP), 0);
	assert_int_equal(frame_own(f, 13, mac, 0), 0);
	f[14] = 0x44; /* a header that is too short */
	assert_int_equal(frame_own(f, 62, mac, GUEST_IP), 0);
	f[14] = 0x45;
	/* no address yet: DHCP alone */
	memset(f + 26, 0, 4);
	assert_int_equal(frame_own(f, 62, mac, GUEST_IP), 0);
	be16_store(f + 36, 67);
	assert_int_equal(frame_own(f, 62, mac, GUEST_IP), 34);
	f[21] = 1; /* of a fragment */
	assert_int_equal(frame_own(f, 62, mac, GUEST_IP), 0);
	/* where nothing is known, IPv6 is only asked for the MAC address */
	frame_build(f, FRAME_TCP6, frame_host_mac, frame_guest_mac, 20, true);
	assert_int_equal(frame_own(f, 64, mac, 0), 14);
	assert_int_equal(frame_own(f, 64, mac, GUEST_IP), 0);

	memcpy(arp + 6, mac, 6);
	memcpy(arp + 12, "\x08\x06\0\1\x08\0\6\4\0\1", 10);
	memcpy(arp + 22, mac, 6);
	be32_store(arp + 28, GUEST_IP);
	assert_int_equal(frame_own(arp, 42, mac, GUEST_IP), 42);
	assert_int_equal(frame_own(arp, 41, mac, GUEST_IP), 0);
	be32_store(arp + 28, 0); /* a probe */
	assert_int_equal(frame_own(arp, 42, mac, GUEST_IP), 42);
	be32_store(arp + 28, GUEST_IP - 1);
	assert_int_equal(frame_own(arp, 42, mac, GUEST_IP), 0);
	assert_int_equal(frame_own(arp, 42, mac, 0), 42);
	arp[27]++;
	assert_int_equal(frame_own(arp, 42, mac, 0), 0);
	arp[27]--;
	/* behind tags, of which there may be two */
	for (unsigned tags = 1; tags <= 3; tags++) {
		memmove(arp + 16, arp + 12, 40);
		memcpy(arp + 12, "\x81\0\0\1", 4);
		assert_int_equal(frame_own(arp, 64, mac, GUEST_IP), 0);
		assert_int_equal(frame_own(arp, 64, mac, 0), tags < 3 ? 42 + 4 * tags : 0);
	}
}

/* Containers behind the guest send IPv4 from their network, and nothing else of theirs is seen. */
static void test_routed(void **state)
{
	struct virtio_net_config c = {
	    .ipv4 = GUEST_IP, .routed = 0x64735cc0, .routed_mask = 0xfffffff0};
	uint8_t f[128], arp[64] = {0};
	struct net_own own;

	(void)state;
	memcpy(c.mac, mac, sizeof(c.mac));
	net_own_init(&own, &c);
	frame_build(f, FRAME_UDP4, frame_host_mac, frame_guest_mac, 20, true);
	assert_int_equal(net_frame_own(&own, f, 62), 34);
	for (unsigned last = 0; last < 256; last++) {
		be32_store(f + 26, 0x64735c00 + last);
		assert_int_equal(net_frame_own(&own, f, 62), last >> 4 == 12 ? 34 : 0);
	}
	be32_store(f + 26, 0x64735cc5);
	assert_int_equal(net_frame_own(&own, f, 33), 0);
	f[14] = 0x44;
	assert_int_equal(net_frame_own(&own, f, 62), 0);
	f[14] = 0x45;
	f[6]++; /* another MAC */
	assert_int_equal(net_frame_own(&own, f, 62), 0);
	memcpy(arp + 6, mac, 6);
	memcpy(arp + 12, "\x08\x06\0\1\x08\0\6\4\0\1", 10);
	memcpy(arp + 22, mac, 6);
	be32_store(arp + 28, 0x64735cc5);
	assert_int_equal(net_frame_own(&own, arp, 42), 0);
}

/* Each frame as a guest may make it, at every length at which it may be cut off. */
static void test_ipv6(void **state)
{
	struct virtio_net_config c = {.mac = {2, 1, 2, 3, 4, 5}, .nipv6 = 1};
	struct frame6 cases[FRAMES6_MAX];
	const unsigned n = frames6_build(cases, c.mac);
	struct net_own own;

	(void)state;
	memcpy(c.ipv6[0], frame6_own, 16);
	net_own_init(&own, &c);
	for (unsigned i = 0; i < n; i++) {
		const struct frame6 *f = &cases[i];
		const size_t end = net_frame_own(&own, f->bytes, f->len);

		if ((end != 0) != f->good)
			fail_msg("%s: %zu", f->name, end);
		for (size_t len = 0; len < f->len; len++) {
			uint8_t *cut = malloc(len + !len); /* for the address sanitizer */

			memcpy(cut, f->bytes, len);
			if (net_frame_own(&own, cut, len) && !f->good)
				fail_msg("%s, of which %zu bytes", f->name, len);
			free(cut);
		}
	}
}

/* What is dropped is counted. */
static void test_spoofing(void **state)
{
	const struct virtio_net_config c = {.mac = {2, 1, 2, 3, 4, 5}, .ipv4 = GUEST_IP};
	struct rig *r = build(&c, SOCK_SEQPACKET);
	struct virtio_net_stats s;
	uint8_t f[1000];
	const size_t n = frame_build(f, FRAME_UDP4, frame_host_mac, frame_guest_mac, 100, true);

	*state = r;
	guest_sends(r, f, n);
	f[11]++;
	guest_sends(r, f, n);
	f[11]--;
	f[29]++;
	guest_sends(r, f, n);
	f[29]--;
	guest_sends(r, f, n);
	reap_sent(r, 4);
	virtio_net_stats(r->dev, &s);
	assert_int_equal(s.tx_packets, 2);
	assert_int_equal(s.tx_dropped, 2);
	assert_int_equal(s.tx_spoofed, 2);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(peer_receive(r, r->got, sizeof(r->got), 0), VNET_HDR + n);
		assert_memory_equal(r->got + VNET_HDR, f, n);
	}
	assert_int_equal(peer_receive(r, r->got, 1, MSG_DONTWAIT), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_own_frames),
	    cmocka_unit_test(test_routed),
	    cmocka_unit_test(test_ipv6),
	    cmocka_unit_test_teardown(test_spoofing, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
