/* virtio-vsock under guests that break the rules: that guest alone suffers, and bounds hold. */
#include "tests/unit/vsock_rig.h"

static void assert_alive(struct vsock_rig *r)
{
	uint32_t port;
	const int fd = rig_host_to_guest(r, 4242, &port);

	assert_int_equal(vdrv_status(&r->d), OK);
	rig_send(r, 4242, port, RST, 0);
	host_expect_end(fd);
	close(fd);
}

static void restart(struct vsock_rig *r)
{
	vdrv_reset(&r->d);
	rig_start(r, RX_BUFFERS);
	assert_alive(r);
}

static void expect_needs_reset(struct vsock_rig *r)
{
	assert_true(vdrv_wait_config(&r->d));
	assert_int_equal(vdrv_status(&r->d), OK | NEEDS);
	restart(r);
}

static void test_packets_for_no_connection(void **state)
{
	static const uint16_t ops[] = {0, RESPONSE, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST,
				       8, 0xffff};
	struct vsock_rig *r = *state;

	for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
		rig_send(r, 100, 200, ops[i], 0xffffffff);
		rig_expect(r, RST, 200, 100);
	}
	rig_send(r, 100, 200, RST, 0); /* no answer to this one */
	assert_alive(r);
}

static void test_wrong_cids_and_types(void **state)
{
	struct vsock_rig *r = *state;
	struct pkt k = rig_pkt(100, 200, REQUEST), got;

	k.src_cid = CID + 1; /* another guest's name */
	rig_send_raw(r, &k, NULL, 0);
	k.src_cid = CID | UINT64_C(1) << 32;
	rig_send_raw(r, &k, NULL, 0);
	k.src_cid = CID;
	k.dst_cid = CID + 1;
	rig_send_raw(r, &k, NULL, 0);
	got = rig_recv(r);
	assert_int_equal(got.op, RST);
	assert_int_equal(got.src_cid, CID + 1);
	k.dst_cid = 2;
	k.type = 2;
	rig_send_raw(r, &k, NULL, 0);
	got = rig_recv(r);
	assert_int_equal(got.op, RST);
	assert_int_equal(got.type, 2);
	assert_alive(r);
}

static void test_length_beyond_the_data(void **state)
{
	static const uint32_t lens[] = {11, 4096, 65537, 0x80000000, 0xffffffff};
	struct vsock_rig *r = *state;

	for (size_t i = 0; i < ARRAY_LEN(lens); i++) {
		uint32_t port;
		const int fd = rig_host_to_guest(r, 50, &port);
		struct pkt k = rig_pkt(50, port, RW);

		k.len = lens[i];
		rig_send_raw(r, &k, "0123456789", 10);
		rig_expect(r, RST, port, 50);
		host_expect_end(fd); /* and not a byte of it */
		close(fd);
	}
	assert_alive(r);
}

/* More bytes than the header says: they are not the stream's. */
static void test_data_beyond_the_length(void **state)
{
	struct vsock_rig *r = *state;
	uint32_t port;
	const int fd = rig_host_to_guest(r, 51, &port);
	struct pkt k = rig_pkt(51, port, RW);
	char text[8];

	k.len = 3;
	rig_send_raw(r, &k, "0123456789", 10);
	rig_send(r, 51, port, SHUTDOWN, SHUT_SEND);
	assert_true(host_read(fd, text, 3));
	assert_memory_equal(text, "012", 3);
	host_expect_end(fd);
	close(fd);
}

static void test_wrong_operation_on_a_connection(void **state)
{
	static const uint16_t ops[] = {0, REQUEST, RESPONSE, 8, 0xffff};
	struct vsock_rig *r = *state;

	for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
		uint32_t port;
		const int fd = rig_host_to_guest(r, 52, &port);

		rig_send(r, 52, port, ops[i], 0);
		rig_expect(r, RST, port, 52);
		host_expect_end(fd);
		close(fd);
	}
	assert_alive(r);
}

static void test_data_after_its_end(void **state)
{
	struct vsock_rig *r = *state;
	uint32_t port;
	const int fd = rig_host_to_guest(r, 53, &port);

	rig_send(r, 53, port, SHUTDOWN, SHUT_SEND);
	rig_send_data(r, 53, port, "more", 4);
	rig_expect(r, RST, port, 53);
	host_expect_end(fd);
	close(fd);
}

/* Credit that the guest makes up: it gets its own buffers filled, no more. */
static void test_credit_out_of_thin_air(void **state)
{
	struct vsock_rig *r = *state;
	uint32_t port;
	const int fd = rig_host_to_guest(r, 54, &port);
	struct pkt k = rig_pkt(54, port, CREDIT_UPDATE);

	for (unsigned i = 0; i < 200; i++) {
		k.buf_alloc = i & 1 ? 0xffffffff : 0;
		k.fwd_cnt = i * 0x12345678u;
		rig_send_raw(r, &k, NULL, 0);
		assert_int_equal(send(fd, "abcdefgh", 8, MSG_NOSIGNAL | MSG_DONTWAIT), 8);
	}
	k.buf_alloc = 65536;
	k.fwd_cnt = 0;
	for (size_t got = 0; got < 1600;) {
		struct pkt p;

		rig_send_raw(r, &k, NULL, 0);
		p = rig_recv(r);
		if (p.op == RW)
			got += p.len;
	}
	rig_send(r, 54, port, RST, 0);
	host_expect_end(fd);
	close(fd);
	assert_int_equal(vdrv_status(&r->d), OK);
}

/* A guest that floods and takes no answers: the device stops taking, and goes on when it may. */
static void test_flood_without_buffers(void **state)
{
	struct vsock_rig *r = *state;
	unsigned rsts = 0, sent = 0;

	vdrv_reset(&r->d);
	rig_start(r, 0);
	/* far more than there is room for; the queue fills when the device has stopped */
	for (; sent < 2000; sent++) {
		const gpa_t gpa = TX_GPA + 64 * sent;
		const struct vbuf buf = {gpa, HDR, false};
		const struct pkt k = rig_pkt(sent, 1, RW);

		rig_reap(r);
		pkt_put(fake_mem(&r->fp, gpa, HDR), &k);
		if (vring_add(&r->d.rings[TX], &buf, 1, false) < 0) {
			vdrv_kick(&r->d, TX);
			if (sent >= 600) /* 256 answers, and a queue that is full */
				break;
			if (!vring_used_waiting(&r->d.rings[TX]))
				usleep(1000);
			if (r->d.rings[TX].nfree == 0 && sent >= 256 + 256)
				break;
			sent--;
			continue;
		}
		vdrv_kick(&r->d, TX);
	}
	assert_true(sent >= 256 && sent < 2000);
	rig_give_all(r, RX_BUFFERS);
	while (rsts < sent) {
		assert_int_equal(rig_recv(r).op, RST);
		rsts++;
	}
	assert_alive(r);
}

static void test_table_is_bounded(void **state)
{
	struct vsock_rig *r = *state;
	enum { MANY = 32 };
	int fds[MANY], listener, more;
	uint32_t ports[MANY];

	rig_unplug(r);
	rig_plug(r, VDRV_MMIO, LOOP_AUTO, MANY);
	rig_start(r, RX_BUFFERS);
	listener = rig_listen(r, 7);
	for (unsigned i = 0; i < MANY; i++)
		fds[i] = i & 1 ? rig_guest_to_host(r, listener, 1000 + i, 7)
			       : rig_host_to_guest(r, 60, &ports[i]);
	/* full: the guest is refused, the host's program waits */
	rig_send(r, 2000, 7, REQUEST, 0);
	rig_expect(r, RST, 7, 2000);
	more = host_connect(r->path);
	host_write(more, "CONNECT 61\n", 11);
	rig_send(r, 2001, 7, REQUEST, 0);
	rig_expect(r, RST, 7, 2001);
	/* room again */
	rig_send(r, 60, ports[0], RST, 0);
	assert_int_equal(rig_recv(r).dst_port, 61);
	for (unsigned i = 0; i < MANY; i++)
		close(fds[i]);
	close(more);
	close(listener);
}

static void test_thousand_connections(void **state)
{
	struct vsock_rig *r = *state;
	const int listener = rig_listen(r, 7);

	for (unsigned i = 0; i < 1000; i++) {
		/* ports are used again and again */
		const int fd = rig_guest_to_host(r, listener, 1000 + i % 3, 7);

		if (i % 3 == 0) {
			rig_send(r, 1000 + i % 3, 7, RST, 0);
			host_expect_end(fd);
			close(fd);
		} else {
			if (i % 3 == 1)
				close(fd);
			rig_send(r, 1000 + i % 3, 7, SHUTDOWN, SHUT_SEND | SHUT_RECV);
			while (rig_recv(r).op != RST)
				;
			if (i % 3 == 2)
				close(fd);
		}
	}
	close(listener);
	assert_alive(r);
}

/* ---- descriptors ---- */

static void test_short_header(void **state)
{
	struct vsock_rig *r = *state;
	const struct vbuf buf = {TX_GPA, HDR - 1, false};

	vring_add(&r->d.rings[TX], &buf, 1, false);
	vdrv_kick(&r->d, TX);
	expect_needs_reset(r);
}

static void test_writable_packet(void **state)
{
	struct vsock_rig *r = *state;
	const struct vbuf bufs[] = {{TX_GPA, HDR, false}, {TX_GPA + 64, 10, true}};

	vring_add(&r->d.rings[TX], bufs, 2, false);
	vdrv_kick(&r->d, TX);
	expect_needs_reset(r);
}

static void bad_receive_buffer(struct vsock_rig *r, const struct vbuf *buf)
{
	int fd;
	char c;

	vdrv_reset(&r->d);
	rig_start(r, 0);
	vring_add(&r->d.rings[RX], buf, 1, false);
	vdrv_kick(&r->d, RX);
	fd = host_connect(r->path); /* so that the device wants one */
	host_write(fd, "CONNECT 1\n", 10);
	assert_true(vdrv_wait_config(&r->d));
	assert_int_equal(vdrv_status(&r->d), OK | NEEDS);
	while (read(fd, &c, 1) > 0) /* the end */
		;
	close(fd);
	restart(r);
}

static void test_receive_buffers_that_are_none(void **state)
{
	struct vsock_rig *r = *state;

	bad_receive_buffer(r, &(struct vbuf){RX_GPA, 4096, false});
	bad_receive_buffer(r, &(struct vbuf){RX_GPA, HDR, true});
	bad_receive_buffer(r, &(struct vbuf){RX_GPA, 1, true});
	bad_receive_buffer(r, &(struct vbuf){MEM_BYTES - 10, 4096, true});
}

/* Header and data in single bytes: legal, and both ways work. */
static void test_scattered_packets(void **state)
{
	struct vsock_rig *r = *state;
	struct vbuf bufs[HDR + 4];
	const struct pkt request = rig_pkt(70, 1, REQUEST);
	uint8_t *p;
	uint16_t head;
	uint32_t len;

	vdrv_reset(&r->d);
	rig_start(r, 0);
	pkt_put(fake_mem(&r->fp, TX_GPA, HDR), &request);
	for (unsigned i = 0; i < HDR; i++)
		bufs[i] = (struct vbuf){TX_GPA + i, 1, false};
	assert_true(vring_add(&r->d.rings[TX], bufs, HDR, true) >= 0);
	for (unsigned i = 0; i < HDR + 4; i++)
		bufs[i] = (struct vbuf){RX_GPA + i, 1, true};
	assert_true(vring_add(&r->d.rings[RX], bufs, HDR + 4, true) >= 0);
	vdrv_kick(&r->d, RX);
	vdrv_kick(&r->d, TX);
	assert_true(vdrv_wait(&r->d, RX, 1));
	assert_true(vring_take(&r->d.rings[RX], &head, &len));
	assert_int_equal(len, HDR);
	p = fake_mem(&r->fp, RX_GPA, HDR);
	assert_int_equal(le16_load(p + 30), RST);
	assert_int_equal(le32_load(p + 20), 70);
}

static void test_config_is_checked(void **state)
{
	char path[VSOCK_PATH_MAX + 2];
	struct virtio_vsock_config c = {.cid = 2, .listen_fd = -1};
	struct virtio_dev *dev;
	struct err err = ERR_INIT;
	(void)state;

	assert_int_equal(virtio_vsock_new(&c, NULL, &dev, NULL), -EINVAL);
	c.cid = 0xffffffff;
	assert_int_equal(virtio_vsock_new(&c, NULL, &dev, NULL), -EINVAL);
	c.cid = 3;
	c.conns = VSOCK_CONNS_MAX + 1;
	assert_int_equal(virtio_vsock_new(&c, NULL, &dev, NULL), -EINVAL);
	c.conns = 1;
	memset(path, 'x', sizeof(path));
	path[VSOCK_PATH_MAX + 1] = '\0';
	c.path = path;
	assert_int_equal(virtio_vsock_new(&c, NULL, &dev, &err), -ENAMETOOLONG);
	assert_non_null(strstr(err.msg, "longer than 96 bytes"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    BOTH(test_packets_for_no_connection),
	    BOTH(test_wrong_cids_and_types),
	    BOTH(test_length_beyond_the_data),
	    BOTH(test_data_beyond_the_length),
	    BOTH(test_wrong_operation_on_a_connection),
	    BOTH(test_data_after_its_end),
	    BOTH(test_credit_out_of_thin_air),
	    BOTH(test_flood_without_buffers),
	    BOTH(test_thousand_connections),
	    BOTH(test_short_header),
	    BOTH(test_writable_packet),
	    BOTH(test_receive_buffers_that_are_none),
	    BOTH(test_scattered_packets),
	    cmocka_unit_test_setup_teardown(test_table_is_bounded, setup_mmio, teardown),
	    cmocka_unit_test(test_config_is_checked),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
