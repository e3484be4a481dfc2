/*
 * virtio-net on a real tap: every combination of offloads in both directions, compared with what a
 * packet socket sends and sees.
 */
#include "tests/unit/net_tap_rig.h"

static const uint8_t gso_types[FRAME_KINDS] = {1, 4, 5};
static const uint64_t gso_features[FRAME_KINDS] = {TSO4, TSO6, USO};

/* Chains that the device has. */
static unsigned held(struct rig *r)
{
	return RING - r->d.rings[0].nfree;
}

/* All of it comes, whole or in segments as was negotiated, with the checksums that belong to it. */
static void check_to_guest(struct rig *r, uint64_t features, enum frame_kind kind, bool ecn)
{
	const bool large =
	    features & CSUM && features & gso_features[kind] && (!ecn || features & ECN);
	unsigned packets = 0;
	size_t got = 0;

	give(r, 0, 20 - held(r));
	host_sends(r, kind, frame_guest_mac, PAYLOAD, gso_types[kind], ecn);
	while (got < PAYLOAD) {
		uint8_t h[VNET_HDR];
		const size_t n = guest_gets(r, 0, h), skip = frame_headers(r->frame);

		assert_true(frame_checks(r->frame, n, h[0] & 1));
		assert_true(features & CSUM || !h[0]);
		assert_int_equal(h[1], large ? gso_types[kind] | (ecn ? 0x80 : 0) : 0);
		if (large)
			assert_int_equal(le16_load(h + 4), SEGMENT);
		assert_true(got + n - skip <= PAYLOAD);
		assert_memory_equal(r->frame + skip, r->payload + got, n - skip);
		got += n - skip;
		packets++;
	}
	assert_int_equal(packets, large ? 1 : (PAYLOAD + SEGMENT - 1) / SEGMENT);
}

static void check_from_guest(struct rig *r, uint64_t features, enum frame_kind kind, bool csum,
			     bool gso)
{
	const bool good = (!csum || features & CSUM) &&
			  (!gso || (features & CSUM && features & gso_features[kind]));
	const size_t len = gso ? PAYLOAD : SEGMENT;
	struct virtio_net_stats before, after;
	ssize_t n;
	size_t skip;

	virtio_net_stats(r->dev, &before);
	guest_sends(r, 1, kind, len, csum, gso ? gso_types[kind] : 0);
	virtio_net_stats(r->dev, &after);
	assert_int_equal(after.tx_dropped - before.tx_dropped, !good);
	assert_int_equal(after.tx_packets - before.tx_packets, good);
	assert_int_equal(after.tx_spoofed, 0);
	if (!good)
		return;
	n = receive(r->packets, r->frame, sizeof(r->frame));
	assert_true(n > 10);
	assert_int_equal(r->frame[1], gso ? gso_types[kind] : 0);
	assert_int_equal(r->frame[0] & 1, csum);
	skip = frame_headers(r->frame + 10);
	assert_int_equal(n, 10 + skip + len);
	assert_true(frame_checks(r->frame + 10, (size_t)n - 10, csum));
	assert_memory_equal(r->frame + 10 + skip, r->payload, len);
}

static void test_offloads(void **state)
{
	static const uint64_t parts[] = {CSUM, TSO4, TSO6, ECN, USO, MRG};
	struct rig *r = *state;

	if (!r)
		skip();
	for (unsigned set = 0; set < 1u << ARRAY_LEN(parts); set++) {
		uint64_t features = 0;

		for (unsigned i = 0; i < ARRAY_LEN(parts); i++)
			features |= set >> i & 1 ? parts[i] : 0;
		start(r, features);
		features &= r->d.features;
		/* since Linux 6.2; without, the host cannot send it either */
		const bool uso = vdrv_offered(&r->d) & USO;
		for (unsigned kind = 0; kind < FRAME_KINDS; kind++) {
			if (kind != FRAME_UDP4 || uso)
				check_to_guest(r, features, (enum frame_kind)kind, false);
			if (kind != FRAME_UDP4)
				check_to_guest(r, features, (enum frame_kind)kind, true);
			for (unsigned how = 0; how < 4; how++) {
				if (how != 2) /* none large without a checksum left to do */
					check_from_guest(r, features, (enum frame_kind)kind,
							 how & 1, how & 2);
			}
		}
		vdrv_reset(&r->d);
	}
}

/* The host's own UDP is content with the checksums; both ways. */
static void test_udp_socket(void **state)
{
	const struct sockaddr_in here = {
	    .sin_family = AF_INET, .sin_port = htons(7777), .sin_addr.s_addr = htonl(0x0a090901)};
	const struct timeval patience = {.tv_sec = VDRV_WAIT_MS / 1000};
	struct rig *r = *state;
	uint8_t got[2000];
	int fd;

	if (!r)
		skip();
	set_address();
	start(r, CSUM | MRG | USO);
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	assert_int_equal(bind(fd, (const struct sockaddr *)&here, sizeof(here)), 0);
	guest_sends(r, 1, FRAME_UDP4, 1000, false, 0);
	guest_sends(r, 1, FRAME_UDP4, 1200, true, 0);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(receive(fd, got, sizeof(got)), i ? 1200 : 1000);
		assert_memory_equal(got, r->payload, i ? 1200 : 1000);
	}
	if ((r->d.features & USO) == USO) {
		guest_sends(r, 1, FRAME_UDP4, PAYLOAD, true, 5);
		for (size_t at = 0; at < PAYLOAD; at += SEGMENT) {
			const size_t n = MIN((size_t)SEGMENT, PAYLOAD - at);

			assert_int_equal(receive(fd, got, sizeof(got)), n);
			assert_memory_equal(got, r->payload + at, n);
		}
	}
	close(fd);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
	    T(test_offloads),
	    T(test_udp_socket),
	};

	own_network();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
