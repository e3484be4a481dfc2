/* virtio-net on a real tap: queue pairs, filters, addresses, the link, and the tap's end. */
#include "tests/unit/net_tap_rig.h"

static bool set_pairs(struct rig *r, uint16_t n)
{
	uint8_t b[2];

	le16_store(b, n);
	return control(r, 4, 0, b, 2) == 0;
}

/* Flows come in by every queue that is on, and by none that is off. */
static void test_pairs(void **state)
{
	struct rig *r = *state;
	uint8_t h[VNET_HDR];

	if (!r)
		skip();
	for (unsigned round = 0; round < 2; round++) {
		start(r, CSUM | MRG | MQ);
		assert_int_equal(vdrv_config(&r->d, 8, 2), 3);
		assert_false(set_pairs(r, 0));
		assert_false(set_pairs(r, 4));
		for (uint16_t n = 3; n; n--) {
			assert_true(set_pairs(r, n));
			for (unsigned i = 0; i < n; i++) {
				/* tun sends a flow back where it came from */
				guest_sends(r, 2 * i + 1, FRAME_UDP4, 100 + i, true, 0);
				assert_true(receive(r->packets, r->frame, sizeof(r->frame)) > 0);
				assert_int_equal(be16_load(r->frame + 10 + 14 + 20 + 4), 108 + i);
			}
		}
		give(r, 0, RING);
		for (unsigned i = 0; i < 10; i++) {
			host_sends(r, FRAME_UDP4, frame_guest_mac, 300 + i, 0, false);
			assert_int_equal(guest_gets(r, 0, h), 342 + i);
		}
		assert_true(set_pairs(r, 3));
		vdrv_reset(&r->d);
	}
}

/* The marker comes, and nothing else came before it. */
static bool passes(struct rig *r, const uint8_t *dst)
{
	uint8_t h[VNET_HDR];
	size_t n;

	host_sends(r, FRAME_UDP4, dst, 500, 0, false);
	host_sends(r, FRAME_UDP4, frame_guest_mac, 600, 0, false);
	give(r, 0, 2);
	n = guest_gets(r, 0, h);
	if (n == 642)
		return false;
	assert_int_equal(n, 542);
	assert_memory_equal(r->frame, dst, 6);
	assert_int_equal(guest_gets(r, 0, h), 642);
	return true;
}

static void set_table(struct rig *r, unsigned unicast, unsigned multicast)
{
	uint8_t table[1000] = {0}, *p = table;

	le32_store(p, unicast);
	p += 4;
	for (unsigned i = 0; i < unicast; i++, p += 6)
		memcpy(p, (uint8_t[]){2, 7, 0, 0, 0, (uint8_t)i}, 6);
	le32_store(p, multicast);
	p += 4;
	for (unsigned i = 0; i < multicast; i++, p += 6)
		memcpy(p, (uint8_t[]){1, 0, 0x5e, 0, 0, (uint8_t)i}, 6);
	assert_int_equal(control(r, 1, 0, table, (uint32_t)(p - table)), 0);
}

static void test_filter(void **state)
{
	static const uint8_t all[6] = {255, 255, 255, 255, 255, 255};
	static const uint8_t in[6] = {2, 7, 0, 0, 0, 5}, out[6] = {2, 8, 0, 0, 0, 5};
	static const uint8_t group[6] = {1, 0, 0x5e, 0, 0, 19}, groups[6] = {1, 0, 0x5e, 9, 9, 9};
	const uint8_t off = 0, on = 1;
	struct rig *r = *state;

	if (!r)
		skip();
	start(r, CSUM | MRG);
	assert_true(passes(r, out)); /* it starts with all */
	assert_int_equal(control(r, 0, 0, &off, 1), 0);
	assert_false(passes(r, out));
	assert_true(passes(r, all));
	set_table(r, 6, 20); /* the kernel hashes those beyond 8 */
	assert_true(passes(r, in));
	assert_true(passes(r, group));
	assert_false(passes(r, out));
	assert_int_equal(control(r, 0, 1, &on, 1), 0);
	assert_true(passes(r, groups));
	set_table(r, 20, 0); /* more of interfaces than it compares: all pass, none is lost */
	assert_true(passes(r, in));
	set_table(r, 0, 0);
	assert_int_equal(control(r, 0, 5, &on, 1), 0);
	assert_int_equal(control(r, 0, 1, &off, 1), 0);
	assert_false(passes(r, all));
	assert_int_equal(control(r, 0, 0, &on, 1), 0);
	assert_true(passes(r, out));
}

/* The address is the machine's: the guest may say it again, but no other. */
static void test_mac(void **state)
{
	static const uint8_t other[6] = {2, 1, 2, 3, 4, 6};
	struct rig *r = *state;

	if (!r)
		skip();
	start(r, CSUM);
	assert_int_equal(control(r, 1, 1, frame_guest_mac, 6), 0);
	assert_int_equal(control(r, 1, 1, other, 6), 1);
	assert_int_equal(vdrv_config(&r->d, 0, 4), 0x03020102);
	assert_int_equal(vdrv_config(&r->d, 10, 2), 1500);
}

/* A checksum that the host is to put where the sender's address stands: it would change it. */
static void test_checksum_in_address(void **state)
{
	struct virtio_net_stats s;
	struct rig *r = *state;
	uint8_t *h;
	size_t n;

	if (!r)
		skip();
	start(r, CSUM);
	h = fake_mem(&r->fp, TX_GPA, 2000);
	for (unsigned offset = 5; offset <= 14; offset++) {
		uint16_t head;
		uint32_t used;

		memset(h, 0, VNET_HDR);
		h[0] = 1;
		le16_store(h + 8, (uint16_t)offset);
		n = frame_build(h + VNET_HDR, FRAME_TCP6, frame_host_mac, frame_guest_mac, 100,
				true);
		assert_true(vring_add(&r->d.rings[1],
				      &(struct vbuf){TX_GPA, (uint32_t)(VNET_HDR + n), false}, 1,
				      false) >= 0);
		vdrv_kick(&r->d, 1);
		assert_true(vdrv_wait(&r->d, 1, 1));
		assert_true(vring_take(&r->d.rings[1], &head, &used));
		virtio_net_stats(r->dev, &s);
		assert_int_equal(s.tx_spoofed, MIN(offset - 4, 9));
	}
}

/* Offloads that are turned off at run time: what waits in the tap from before is not delivered. */
static void test_offloads_off(void **state)
{
	struct virtio_net_stats s;
	struct rig *r = *state;
	uint8_t bits[8], h[VNET_HDR];

	if (!r)
		skip();
	start(r, CSUM | TSO4 | MRG);
	host_sends(r, FRAME_TCP4, frame_guest_mac, PAYLOAD, 1, false);
	le64_store(bits, 0);
	assert_int_equal(control(r, 5, 0, bits, 8), 0);
	give(r, 0, RING);
	host_sends(r, FRAME_TCP4, frame_guest_mac, 100, 0, false);
	assert_int_equal(guest_gets(r, 0, h), 154);
	assert_int_equal(h[0], 0);
	virtio_net_stats(r->dev, &s);
	assert_int_equal(s.rx_dropped, 1);
	le64_store(bits, BIT(8)); /* what was not negotiated */
	assert_int_equal(control(r, 5, 0, bits, 8), 1);
}

/* Down by the host: packets are lost, the tap is not. */
static void test_link(void **state)
{
	struct rig *r = *state;
	uint8_t h[VNET_HDR];

	if (!r)
		skip();
	start(r, CSUM | MRG);
	virtio_net_set_link(r->dev, false);
	assert_true(vdrv_wait_config(&r->d));
	assert_int_equal(vdrv_config(&r->d, 6, 2), 0);
	guest_sends(r, 1, FRAME_UDP4, 100, true, 0);
	virtio_net_set_link(r->dev, true);
	assert_true(vdrv_wait_config(&r->d));
	assert_int_equal(vdrv_config(&r->d, 6, 2), 1);
	up(false);
	guest_sends(r, 1, FRAME_UDP4, 200, true, 0);
	assert_int_equal(vdrv_config(&r->d, 6, 2), 1);
	up(true);
	assert_int_equal(recv(r->packets, h, sizeof(h), MSG_DONTWAIT), -1); /* ENETDOWN */
	guest_sends(r, 1, FRAME_UDP4, 300, true, 0);
	assert_int_equal(receive(r->packets, r->frame, sizeof(r->frame)), 10 + 342);
	give(r, 0, 2);
	host_sends(r, FRAME_UDP4, frame_guest_mac, 400, 0, false);
	assert_int_equal(guest_gets(r, 0, h), 442);
}

/* The driver is asked to announce itself until it says that it has; not while nobody would hear. */
static void test_announce(void **state)
{
	struct rig *r = *state;

	if (!r)
		skip();
	start(r, CSUM | MRG);
	virtio_net_announce(r->dev); /* which it did not negotiate */
	assert_int_equal(vdrv_config(&r->d, 6, 2), 1);
	start(r, CSUM | MRG | ANNOUNCE);
	virtio_net_announce(r->dev);
	assert_true(vdrv_wait_config(&r->d));
	assert_int_equal(vdrv_config(&r->d, 6, 2), 3);
	assert_int_equal(control(r, 3, 0, "", 0), 0);
	assert_int_equal(vdrv_config(&r->d, 6, 2), 1);
	assert_int_equal(control(r, 3, 1, "", 0), 1);
	virtio_net_set_link(r->dev, false);
	virtio_net_announce(r->dev);
	assert_int_equal(vdrv_config(&r->d, 6, 2), 0);
	virtio_net_set_link(r->dev, true);
	virtio_net_announce(r->dev);
	assert_int_equal(vdrv_config(&r->d, 6, 2), 3);
	start(r, CSUM | MRG | ANNOUNCE);
	assert_int_equal(vdrv_config(&r->d, 6, 2), 1);
}

/* Nothing left to do for the thread of a loop? */
static uint64_t cpu_ns(struct rig *r)
{
	struct timespec t;
	clockid_t clock;

	assert_int_equal(pthread_getcpuclockid(r->lt.thread, &clock), 0);
	assert_int_equal(clock_gettime(clock, &t), 0);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void test_deleted(void **state)
{
	const struct timespec while_ns = {.tv_nsec = 300000000};
	struct rig *r = *state;
	uint64_t before;
	char command[] = "ip link del " NAME;

	if (!r)
		skip();
	start(r, CSUM | MRG);
	give(r, 0, 4);
	assert_int_equal(system(command), 0);
	assert_true(vdrv_wait_config(&r->d));
	assert_int_equal(vdrv_config(&r->d, 6, 2), 0);
	guest_sends(r, 1, FRAME_UDP4, 100, true, 0);
	virtio_net_set_link(r->dev, true);
	assert_int_equal(vdrv_config(&r->d, 6, 2), 0);
	before = cpu_ns(r);
	nanosleep(&while_ns, NULL); /* what is measured is that time */
	assert_true(cpu_ns(r) - before < 100000000);
	start(r, CSUM | MRG);
	assert_int_equal(vdrv_config(&r->d, 6, 2), 0);
}

static void test_exclusive(void **state)
{
	struct rig *r = *state;
	struct err err = ERR_INIT;
	struct tap tap;

	if (!r)
		skip();
	assert_int_equal(tap_open(NAME, 1, true, &tap, &err), -EBUSY);
	assert_non_null(strstr(err.msg, NAME));
	assert_int_equal(tap_open(NAME, 1, false, &tap, NULL), -EINVAL); /* not multi_queue's */
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_pairs, setup_three, teardown),
	    T(test_filter),
	    T(test_mac),
	    T(test_checksum_in_address),
	    T(test_offloads_off),
	    T(test_link),
	    T(test_announce),
	    T(test_deleted),
	    cmocka_unit_test_setup_teardown(test_exclusive, setup_three, teardown),
	};

	own_network();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
