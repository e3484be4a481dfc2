/* virtio-net on a datagram socket in the tap's place: packets, headers, link, ends. */
#include "base/checked.h"
#include "devices/virtio/net.h"
#include "tests/unit/loop_thread.h"
#include "tests/unit/virtio_driver.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define MMIO_GPA 0xd0000000
#define GSI	 6
#define HDR	 12
#define RX_GPA	 (2 * MIB)
#define TX_GPA	 (4 * MIB)
#define ALL	 (UINT64_MAX & ~(UINT64_C(1) << 33))

struct rig {
	struct fake_platform fp;
	struct loop_thread lt;
	struct virtio_dev *dev;
	struct virtio_transport *t;
	struct vdrv d;
	int peer;
	uint8_t packet[70000];
};

static int setup(void **state)
{
	static struct rig r;
	const struct virtio_net_config c = {
	    .mac = {2, 1, 2, 3, 4, 5}, .mtu = 1400, .may_spoof = true};
	struct tap tap;
	int fds[2];

	memset(&r, 0, sizeof(r));
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(tap_adopt(fds[0], &tap, NULL), 0);
	r.peer = fds[1];
	fake_platform_init(&r.fp, 8 * MIB);
	loop_thread_new(&r.lt, LOOP_AUTO);
	assert_int_equal(virtio_net_new(&c, &tap, r.lt.loop, &r.dev, NULL), 0);
	assert_int_equal(tap.queues, 0);
	assert_int_equal(virtio_mmio_new(&r.fp.plat, MMIO_GPA, GSI, r.dev, &r.t, NULL), 0);
	vdrv_init_mmio(&r.d, &r.fp, MMIO_GPA, GSI, 0x10000);
	loop_thread_start(&r.lt);
	assert_true(vdrv_start(&r.d, ALL, 3, 0));
	assert_int_equal(vdrv_status(&r.d), 0xf);
	for (size_t i = 0; i < sizeof(r.packet); i++)
		r.packet[i] = i < HDR ? 0 : (uint8_t)(i * 7 + i / 251);
	*state = &r;
	return 0;
}

static int teardown(void **state)
{
	struct rig *r = *state;

	virtio_transport_free(r->t);
	loop_thread_free(&r->lt);
	fake_platform_fini(&r->fp);
	if (r->peer >= 0)
		close(r->peer);
	return 0;
}

static void test_config(void **state)
{
	struct rig *r = *state;

	assert_int_equal(vdrv_id(&r->d), 1);
	assert_int_equal(vdrv_config(&r->d, 0, 4), 0x03020102);
	assert_int_equal(vdrv_config(&r->d, 4, 2), 0x0504);
	assert_int_equal(vdrv_config(&r->d, 6, 2), 1);
	assert_int_equal(vdrv_config(&r->d, 8, 2), 1);
	assert_int_equal(vdrv_config(&r->d, 10, 2), 1400);
}

static void give(struct rig *r, unsigned i, uint32_t len)
{
	const struct vbuf b = {RX_GPA + i * 4096, len, true};

	assert_true(vring_add(&r->d.rings[0], &b, 1, false) >= 0);
}

/* A packet of 2512 bytes is in three buffers of 1000. */
static void take_merged(struct rig *r)
{
	const uint32_t want[] = {1000, 1000, 512};
	uint32_t at = HDR;
	uint16_t head;
	uint32_t len;

	assert_true(vdrv_wait(&r->d, 0, 3));
	assert_int_equal(le16_load((uint8_t *)fake_mem(&r->fp, RX_GPA, HDR) + 10), 3);
	for (unsigned i = 0; i < 3; i++) {
		const uint32_t skip = i ? 0 : HDR;
		const uint8_t *p = fake_mem(&r->fp, RX_GPA + i * 4096, 1000);

		assert_true(vring_take(&r->d.rings[0], &head, &len));
		assert_int_equal(len, want[i]);
		assert_memory_equal(p + skip, r->packet + at, len - skip);
		at += len - skip;
	}
}

/* Of which the last came after the packet. */
static void test_receive_merged(void **state)
{
	struct rig *r = *state;

	give(r, 0, 1000);
	give(r, 1, 1000);
	vdrv_kick(&r->d, 0);
	assert_int_equal(send(r->peer, r->packet, 2512, 0), 2512);
	give(r, 2, 1000);
	vdrv_kick(&r->d, 0);
	take_merged(r);
}

/* After many that each fit into one buffer; then several at once, alternating. */
static void test_receive_long_after_plain(void **state)
{
	struct rig *r = *state;
	uint16_t head;
	uint32_t len;

	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < 40; i++) {
			r->packet[HDR + 20] = (uint8_t)i;
			give(r, 0, 1000);
			vdrv_kick(&r->d, 0);
			assert_int_equal(send(r->peer, r->packet, 100, 0), 100);
			assert_true(vdrv_wait(&r->d, 0, 1));
			assert_true(vring_take(&r->d.rings[0], &head, &len));
			assert_int_equal(len, 100);
			assert_memory_equal(fake_mem(&r->fp, RX_GPA + HDR, 88), r->packet + HDR,
					    88);
		}
		for (unsigned i = 0; i < 4; i++)
			give(r, i, 1000);
		assert_int_equal(send(r->peer, r->packet, 2512, 0), 2512);
		assert_int_equal(send(r->peer, r->packet, 100, 0), 100);
		vdrv_kick(&r->d, 0);
		take_merged(r);
		assert_true(vdrv_wait(&r->d, 0, 1));
		assert_true(vring_take(&r->d.rings[0], &head, &len));
		assert_int_equal(len, 100);
		assert_memory_equal(fake_mem(&r->fp, RX_GPA + 3 * 4096 + HDR, 88), r->packet + HDR,
				    88);
	}
}

static void transmit(struct rig *r, uint32_t len)
{
	const struct vbuf b[] = {{TX_GPA, 5, false}, {TX_GPA + 5, len - 5, false}};

	memcpy(fake_mem(&r->fp, TX_GPA, len), r->packet, len);
	assert_true(vring_add(&r->d.rings[1], b, 2, false) >= 0);
	vdrv_kick(&r->d, 1);
	assert_true(vdrv_wait(&r->d, 1, 1));
}

static void test_transmit(void **state)
{
	struct rig *r = *state;
	struct virtio_net_stats s;
	uint8_t got[2000];

	transmit(r, 1500);
	assert_int_equal(recv(r->peer, got, sizeof(got), 0), 1500);
	assert_memory_equal(got, r->packet, 1500);
	virtio_net_stats(r->dev, &s);
	assert_int_equal(s.tx_packets, 1);
	assert_int_equal(s.tx_bytes, 1488);
}

/* Segmentation that was not negotiated; checksums beyond the packet. */
static void test_bad_headers(void **state)
{
	struct rig *r = *state;
	struct virtio_net_stats s;
	uint8_t c;

	r->packet[0] = 1;
	r->packet[6] = r->packet[7] = 0xff;
	transmit(r, 1500);
	virtio_net_stats(r->dev, &s);
	assert_int_equal(s.tx_dropped, 1);
	assert_int_equal(s.tx_packets, 0);
	assert_int_equal(recv(r->peer, &c, 1, MSG_DONTWAIT), -1);
	assert_int_equal(vdrv_status(&r->d), 0xf);
}

static void test_short_chain(void **state)
{
	struct rig *r = *state;
	const struct vbuf b = {TX_GPA, 11, false};

	assert_true(vring_add(&r->d.rings[1], &b, 1, false) >= 0);
	vdrv_kick(&r->d, 1);
	assert_true(vdrv_wait_config(&r->d));
	assert_int_equal(vdrv_status(&r->d), 0x4f);
}

static void test_link_and_end(void **state)
{
	struct rig *r = *state;

	virtio_net_set_link(r->dev, false);
	assert_true(vdrv_wait_config(&r->d));
	assert_int_equal(vdrv_config(&r->d, 6, 2), 0);
	transmit(r, 100);
	virtio_net_set_link(r->dev, true);
	assert_true(vdrv_wait_config(&r->d));
	assert_int_equal(vdrv_config(&r->d, 6, 2), 1);
	give(r, 0, 2000);
	vdrv_kick(&r->d, 0);
	close(r->peer);
	r->peer = -1;
	assert_true(vdrv_wait_config(&r->d));
	assert_int_equal(vdrv_config(&r->d, 6, 2), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
	    T(test_config),	  T(test_receive_merged),
	    T(test_transmit),	  T(test_receive_long_after_plain),
	    T(test_bad_headers),  T(test_short_chain),
	    T(test_link_and_end),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
