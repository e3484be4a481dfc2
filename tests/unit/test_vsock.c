/* virtio-vsock: connections, bytes, credit and ends, seen from both sides. */
#include "tests/unit/vsock_rig.h"

#include <time.h>

static void fill(uint8_t *p, size_t len, uint32_t seed)
{
	for (size_t i = 0; i < len; i++) {
		seed = seed * 1664525 + 1013904223;
		p[i] = (uint8_t)(seed >> 24);
	}
}

static void test_shows_its_cid(void **state)
{
	struct vsock_rig *r = *state;

	assert_int_equal(vdrv_id(&r->d), 19);
	assert_int_equal(vdrv_config(&r->d, 0, 4), CID);
	assert_int_equal(vdrv_config(&r->d, 4, 4), 0);
	assert_int_equal(vdrv_config(&r->d, 8, 4), 0);
	vdrv_set_config(&r->d, 0, 4, 7);
	assert_int_equal(vdrv_config(&r->d, 0, 4), CID);
}

static void test_host_connects(void **state)
{
	struct vsock_rig *r = *state;
	uint32_t port;
	const int fd = rig_host_to_guest(r, 8888, &port);
	char text[16];
	struct pkt k;

	host_write(fd, "ping", 4);
	k = rig_expect(r, RW, port, 8888);
	assert_int_equal(k.len, 4);
	assert_memory_equal(k.data, "ping", 4);
	rig_send_data(r, 8888, port, "pong!", 5);
	assert_true(host_read(fd, text, 5));
	assert_memory_equal(text, "pong!", 5);
	close(fd);
}

/* What follows the line at once is the guest's already, and a line may come in pieces. */
static void test_line_and_data_together(void **state)
{
	struct vsock_rig *r = *state;
	const int fd = host_connect(r->path);
	struct pkt k;

	host_write(fd, "CONN", 4);
	host_write(fd, "ECT 1024\nhello", 14);
	k = rig_recv(r);
	assert_int_equal(k.op, REQUEST);
	rig_send(r, 1024, k.src_port, RESPONSE, 0);
	k = rig_expect(r, RW, k.src_port, 1024);
	assert_int_equal(k.len, 5);
	assert_memory_equal(k.data, "hello", 5);
	close(fd);
}

static void test_wrong_lines(void **state)
{
	static const char *const lines[] = {
	    "CONNECT\n",
	    "CONNECT \n",
	    "CONNECT 4294967296\n",
	    "CONNECT -1\n",
	    "CONNECT 1 \n",
	    "connect 1024\n",
	    "\n",
	    "GET / HTTP/1.1\r\n",
	    "CONNECT 12a\n",
	    "CONNECT 00000000000000000000001\n",
	};
	struct vsock_rig *r = *state;

	for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
		const int fd = host_connect(r->path);

		host_write(fd, lines[i], strlen(lines[i]));
		host_expect_end(fd);
		close(fd);
	}
	assert_int_equal(vring_used_waiting(&r->d.rings[RX]), 0);
}

static void test_guest_refuses(void **state)
{
	struct vsock_rig *r = *state;
	const int fd = host_connect(r->path);
	struct pkt k;

	host_write(fd, "CONNECT 99\n", 11);
	k = rig_recv(r);
	rig_send(r, 99, k.src_port, RST, 0);
	host_expect_end(fd);
	close(fd);
}

static void test_guest_connects(void **state)
{
	struct vsock_rig *r = *state;
	const int listener = rig_listen(r, 7777);
	const int fd = rig_guest_to_host(r, listener, 5000, 7777);
	char text[8];
	struct pkt k;

	rig_send_data(r, 5000, 7777, "ready", 5);
	assert_true(host_read(fd, text, 5));
	assert_memory_equal(text, "ready", 5);
	host_write(fd, "go", 2);
	k = rig_expect(r, RW, 7777, 5000);
	assert_memory_equal(k.data, "go", 2);
	close(fd);
	close(listener);
}

static void test_guest_connects_to_nobody(void **state)
{
	struct vsock_rig *r = *state;

	rig_send(r, 5000, 1, REQUEST, 0);
	rig_expect(r, RST, 1, 5000);
	close(rig_listen(r, 2)); /* the socket is there, but nobody behind it */
	rig_send(r, 5000, 2, REQUEST, 0);
	rig_expect(r, RST, 2, 5000);
}

/* ---- many bytes ---- */

#define BULK (3 * MIB + 123)

struct bulk {
	int fd;
	uint8_t *data;
	bool send;
};

static void *bulk_host(void *arg)
{
	struct bulk *b = arg;
	size_t done = 0;

	while (done < BULK) {
		const ssize_t n = b->send ? write(b->fd, b->data + done, BULK - done)
					  : read(b->fd, b->data + done, BULK - done);

		if (n <= 0)
			break;
		done += (size_t)n;
	}
	return (void *)done;
}

static void test_many_bytes_to_the_host(void **state)
{
	struct vsock_rig *r = *state;
	uint8_t *data = malloc(BULK);
	struct bulk b = {.data = malloc(BULK)};
	uint32_t port, window, fwd = 0;
	size_t sent = 0;
	pthread_t thread;
	void *got;
	struct pkt k;

	fill(data, BULK, 1);
	b.fd = rig_host_to_guest(r, 10, &port);
	rig_send(r, 10, port, CREDIT_REQUEST, 0);
	k = rig_expect(r, CREDIT_UPDATE, port, 10);
	window = k.buf_alloc;
	assert_int_equal(k.fwd_cnt, 0);
	assert_int_equal(pthread_create(&thread, NULL, bulk_host, &b), 0);
	while (sent < BULK) {
		const uint32_t n = (uint32_t)MIN(MIN(BULK - sent, 65536),
						 (size_t)(window - ((uint32_t)sent - fwd)));

		if (n) {
			rig_send_data(r, 10, port, data + sent, n);
			sent += n;
			continue;
		}
		k = rig_expect(r, CREDIT_UPDATE, port, 10);
		assert_true(k.fwd_cnt <= sent);
		fwd = k.fwd_cnt;
	}
	pthread_join(thread, &got);
	assert_int_equal((size_t)got, BULK);
	assert_memory_equal(b.data, data, BULK);
	close(b.fd);
	free(b.data);
	free(data);
}

static void test_many_bytes_to_the_guest(void **state)
{
	struct vsock_rig *r = *state;
	struct bulk b = {.data = malloc(BULK), .send = true};
	struct pkt update = rig_pkt(11, 0, CREDIT_UPDATE);
	size_t got = 0;
	uint32_t port;
	pthread_t thread;
	void *sent;

	fill(b.data, BULK, 2);
	b.fd = rig_host_to_guest(r, 11, &port);
	update.dst_port = port;
	assert_int_equal(pthread_create(&thread, NULL, bulk_host, &b), 0);
	while (got < BULK) {
		const struct pkt k = rig_recv(r);

		if (k.op == CREDIT_REQUEST) {
			update.fwd_cnt = (uint32_t)got;
			rig_send_raw(r, &update, NULL, 0);
			continue;
		}
		assert_int_equal(k.op, RW);
		assert_true(k.len && k.len <= RX_BYTES);
		assert_true(got + k.len <= update.fwd_cnt + 65536u);
		assert_memory_equal(k.data, b.data + got, k.len);
		got += k.len;
	}
	pthread_join(thread, &sent);
	assert_int_equal((size_t)sent, BULK);
	close(b.fd);
	free(b.data);
}

/* A host program that does not read: the device takes the window, and not a byte more. */
static void test_window_is_a_limit(void **state)
{
	struct vsock_rig *r = *state;
	static uint8_t block[65536];
	uint32_t port, window, fwd;
	size_t sent = 0, got = 0;
	const int fd = rig_host_to_guest(r, 12, &port);
	struct pkt k;
	uint8_t c;

	rig_send(r, 12, port, CREDIT_REQUEST, 0);
	k = rig_expect(r, CREDIT_UPDATE, port, 12);
	window = k.buf_alloc;
	/* until no credit comes any more: the socket is full, then the window */
	for (;;) {
		rig_send(r, 12, port, CREDIT_REQUEST, 0);
		do
			k = rig_expect(r, CREDIT_UPDATE, port, 12);
		while (vring_used_waiting(&r->d.rings[RX]));
		fwd = k.fwd_cnt;
		if (sent - fwd == window)
			break;
		fill(block, sizeof(block), (uint32_t)sent);
		rig_send_data(r, 12, port, block,
			      (uint32_t)MIN(sizeof(block), window - (sent - fwd)));
		sent += MIN(sizeof(block), window - (sent - fwd));
	}
	assert_true(sent >= window);
	/* One more byte is against the rules: the connection is reset; what was taken is lost to
	 * nobody but this guest. */
	rig_send_data(r, 12, port, "x", 1);
	do
		k = rig_recv(r);
	while (k.op == CREDIT_UPDATE);
	assert_int_equal(k.op, RST);
	while (read(fd, &c, 1) == 1)
		got++;
	assert_int_equal(got, fwd);
	close(fd);
}

/* ---- ends ---- */

static void test_guest_half_close(void **state)
{
	struct vsock_rig *r = *state;
	uint32_t port;
	const int fd = rig_host_to_guest(r, 20, &port);
	char text[8];

	rig_send_data(r, 20, port, "last", 4);
	rig_send(r, 20, port, SHUTDOWN, SHUT_SEND);
	assert_true(host_read(fd, text, 4));
	host_expect_end(fd);
	/* the other way still works */
	host_write(fd, "answer", 6);
	assert_memory_equal(rig_expect(r, RW, port, 20).data, "answer", 6);
	/* and ends */
	rig_send(r, 20, port, SHUTDOWN, SHUT_SEND | SHUT_RECV);
	rig_expect(r, RST, port, 20);
	assert_int_equal(send(fd, "x", 1, MSG_NOSIGNAL), -1);
	close(fd);
}

static void test_host_half_close(void **state)
{
	struct vsock_rig *r = *state;
	uint32_t port;
	const int fd = rig_host_to_guest(r, 21, &port);
	char text[8];

	host_write(fd, "last", 4);
	shutdown(fd, SHUT_WR);
	assert_int_equal(rig_expect(r, RW, port, 21).len, 4);
	assert_int_equal(rig_expect(r, SHUTDOWN, port, 21).flags, SHUT_SEND);
	rig_send_data(r, 21, port, "answer", 6);
	assert_true(host_read(fd, text, 6));
	assert_memory_equal(text, "answer", 6);
	close(fd);
	/* now it takes none either */
	assert_int_equal(rig_expect(r, SHUTDOWN, port, 21).flags, SHUT_SEND | SHUT_RECV);
	rig_send(r, 21, port, RST, 0);
	rig_send(r, 21, port, CREDIT_REQUEST, 0);
	rig_expect(r, RST, port, 21); /* unknown */
}

static uint64_t cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* A half-closed program costs nothing, whether the guest owes it bytes or an answer; and its end is
 * noticed. */
static void test_half_closed_programs_are_quiet(void **state)
{
	struct vsock_rig *r = *state;
	static uint8_t block[65536];
	uint32_t port;
	const int idle = rig_host_to_guest(r, 21, &port), early = host_connect(r->path);
	uint32_t full_port;
	const int full = rig_host_to_guest(r, 23, &full_port);
	uint64_t before;
	struct pkt k;

	shutdown(idle, SHUT_WR);
	assert_int_equal(rig_expect(r, SHUTDOWN, port, 21).flags, SHUT_SEND);
	shutdown(full, SHUT_WR);
	assert_int_equal(rig_expect(r, SHUTDOWN, full_port, 23).flags, SHUT_SEND);
	for (unsigned i = 0; i < 4; i++) /* more than the socket takes, no more than the window */
		rig_send_data(r, 23, full_port, block, sizeof(block) - 1);
	host_write(early, "CONNECT 22\n", 11);
	shutdown(early, SHUT_WR);
	do
		k = rig_recv(r);
	while (k.op == CREDIT_UPDATE);
	assert_int_equal(k.op, REQUEST);
	before = cpu_ns();
	poll(NULL, 0, 200);
	assert_true(cpu_ns() - before < 100000000);
	close(early);
	rig_expect(r, RST, k.src_port, 22);
	close(idle);
	assert_int_equal(rig_expect(r, SHUTDOWN, port, 21).flags, SHUT_SEND | SHUT_RECV);
	close(full);
	assert_int_equal(rig_expect(r, SHUTDOWN, full_port, 23).flags, SHUT_SEND | SHUT_RECV);
}

static void test_host_closes(void **state)
{
	struct vsock_rig *r = *state;
	uint32_t port;
	const int fd = rig_host_to_guest(r, 22, &port);

	host_write(fd, "bye", 3);
	close(fd);
	assert_int_equal(rig_expect(r, RW, port, 22).len, 3);
	assert_int_equal(rig_expect(r, SHUTDOWN, port, 22).flags, SHUT_SEND | SHUT_RECV);
	/* what the guest sends on the way is dropped, no error */
	rig_send_data(r, 22, port, "late", 4);
	rig_send(r, 22, port, SHUTDOWN, SHUT_SEND | SHUT_RECV);
	rig_expect(r, RST, port, 22);
}

/* The guest sends much and closes at once; a slow program gets it all. */
static void test_bytes_outlive_the_guests_end(void **state)
{
	struct vsock_rig *r = *state;
	static uint8_t data[256 * KIB], got[256 * KIB];
	uint32_t port;
	const int fd = rig_host_to_guest(r, 23, &port), small = 4096;
	struct pkt k;

	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	fill(data, sizeof(data), 5);
	for (size_t at = 0; at < sizeof(data); at += 65536)
		rig_send_data(r, 23, port, data + at, 65536);
	rig_send(r, 23, port, SHUTDOWN, SHUT_SEND | SHUT_RECV);
	do
		k = rig_recv(r);
	while (k.op == CREDIT_UPDATE);
	assert_int_equal(k.op, RST);
	assert_true(host_read(fd, got, sizeof(got)));
	assert_memory_equal(got, data, sizeof(got));
	host_expect_end(fd);
	close(fd);
}

static void test_guest_reset(void **state)
{
	struct vsock_rig *r = *state;
	uint32_t port;
	const int fd = rig_host_to_guest(r, 24, &port);

	rig_send(r, 24, port, RST, 0);
	host_expect_end(fd);
	close(fd);
	assert_int_equal(vring_used_waiting(&r->d.rings[RX]), 0);
}

static void test_program_leaves_before_the_answer(void **state)
{
	struct vsock_rig *r = *state;
	const int fd = host_connect(r->path);
	struct pkt k;

	host_write(fd, "CONNECT 25\n", 11);
	k = rig_recv(r);
	assert_int_equal(k.op, REQUEST);
	close(fd);
	rig_expect(r, RST, k.src_port, 25);
}

/* A device reset ends the connections, and the driver that comes next finds a new device. */
static void test_device_reset(void **state)
{
	struct vsock_rig *r = *state;

	for (unsigned i = 0; i < 20; i++) {
		uint32_t port;
		const int fd = rig_host_to_guest(r, 26, &port);

		if (i & 1)
			host_write(fd, "unread", 6);
		vdrv_reset(&r->d);
		while (read(fd, &(char){0}, 1) > 0)
			;
		close(fd);
		assert_int_equal(virtio_vsock_conns(r->dev), 0);
		rig_start(r, RX_BUFFERS);
	}
}

/* A program that comes before the driver waits for it. */
static void test_connection_before_the_driver(void **state)
{
	struct vsock_rig *r = *state;
	struct pkt k;
	int fd;

	vdrv_reset(&r->d);
	fd = host_connect(r->path);
	host_write(fd, "CONNECT 27\n", 11);
	rig_start(r, RX_BUFFERS);
	k = rig_recv(r);
	assert_int_equal(k.op, REQUEST);
	assert_int_equal(k.dst_port, 27);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    BOTH(test_shows_its_cid),
	    BOTH(test_host_connects),
	    BOTH(test_line_and_data_together),
	    BOTH(test_wrong_lines),
	    BOTH(test_guest_refuses),
	    BOTH(test_guest_connects),
	    BOTH(test_guest_connects_to_nobody),
	    BOTH(test_many_bytes_to_the_host),
	    BOTH(test_many_bytes_to_the_guest),
	    BOTH(test_window_is_a_limit),
	    BOTH(test_guest_half_close),
	    BOTH(test_host_half_close),
	    BOTH(test_half_closed_programs_are_quiet),
	    BOTH(test_host_closes),
	    BOTH(test_bytes_outlive_the_guests_end),
	    BOTH(test_guest_reset),
	    BOTH(test_program_leaves_before_the_answer),
	    BOTH(test_device_reset),
	    BOTH(test_connection_before_the_driver),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
