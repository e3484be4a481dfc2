/* virtio-vsock: streams of the device's own process, and a machine that is paused. */
#include "tests/unit/loop_barrier.h"
#include "tests/unit/vsock_rig.h"

#include <sys/mman.h>
#include <sys/resource.h>

static int adopt(struct vsock_rig *r)
{
	int ends[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	virtio_vsock_adopt(r->dev, ends[1]);
	return ends[0];
}

/* As rig_host_to_guest(). */
static int own_to_guest(struct vsock_rig *r, uint32_t guest_port, uint32_t *ret_port)
{
	char line[32], want[32];
	const int fd = adopt(r);
	struct pkt k;

	host_write(fd, line, (size_t)snprintf(line, sizeof(line), "CONNECT %u\n", guest_port));
	k = rig_recv(r);
	assert_int_equal(k.op, REQUEST);
	assert_int_equal(k.dst_port, guest_port);
	rig_send(r, guest_port, k.src_port, RESPONSE, 0);
	snprintf(want, sizeof(want), "OK %u\n", k.src_port);
	assert_true(host_read(fd, line, strlen(want)));
	assert_memory_equal(line, want, strlen(want));
	*ret_port = k.src_port;
	return fd;
}

static int take_given(struct vsock_rig *r)
{
	int fd;

	assert_true(host_read(r->given[0], &fd, sizeof(fd)));
	return fd;
}

static int guest_to_own(struct vsock_rig *r, uint32_t guest_port)
{
	rig_send(r, guest_port, OWN_PORT, REQUEST, 0);
	rig_expect(r, RESPONSE, OWN_PORT, guest_port);
	return take_given(r);
}

/* ---- adopted ---- */

static void test_adopted_streams(void **state)
{
	struct vsock_rig *r = *state;
	uint32_t port;
	const int fd = own_to_guest(r, 8888, &port);
	char text[8];

	host_write(fd, "ping", 4);
	assert_memory_equal(rig_expect(r, RW, port, 8888).data, "ping", 4);
	rig_send_data(r, 8888, port, "pong!", 5);
	assert_true(host_read(fd, text, 5));
	assert_memory_equal(text, "pong!", 5);
	rig_send(r, 8888, port, SHUTDOWN, SHUT_SEND | SHUT_RECV);
	rig_expect(r, RST, port, 8888);
	host_expect_end(fd);
	close(fd);
}

static void test_adopted_is_refused(void **state)
{
	struct vsock_rig *r = *state;
	const int fd = adopt(r), wrong = adopt(r);
	struct pkt k;

	host_write(fd, "CONNECT 99\n", 11);
	k = rig_recv(r);
	rig_send(r, 99, k.src_port, RST, 0);
	host_expect_end(fd);
	host_write(wrong, "what?\n", 6);
	host_expect_end(wrong);
	close(fd);
	close(wrong);
}

/* Before the driver it waits; with a driver that goes it ends, and the next finds those that
 * waited. */
static void test_adopted_waits_for_the_driver(void **state)
{
	struct vsock_rig *r = *state;
	uint32_t port;
	int before, early;
	struct pkt k;

	before = own_to_guest(r, 1, &port);
	vdrv_reset(&r->d);
	host_expect_end(before);
	early = adopt(r);
	host_write(early, "CONNECT 27\n", 11);
	rig_start(r, RX_BUFFERS);
	k = rig_recv(r);
	assert_int_equal(k.op, REQUEST);
	assert_int_equal(k.dst_port, 27);
	close(early);
	close(before);
}

/* More than the table holds: the others have their turn when there is room. */
static void test_adopted_waits_for_room(void **state)
{
	static struct vsock_rig r;
	uint32_t ports[2];
	int fd[3];
	(void)state;

	rig_plug(&r, VDRV_MMIO, LOOP_AUTO, 2);
	rig_start(&r, RX_BUFFERS);
	fd[0] = own_to_guest(&r, 1, &ports[0]);
	fd[1] = own_to_guest(&r, 2, &ports[1]);
	fd[2] = adopt(&r);
	host_write(fd[2], "CONNECT 3\n", 10);
	loop_rounds(r.lt.loop);
	assert_int_equal(vring_used_waiting(&r.d.rings[RX]), 0);
	rig_send(&r, 1, ports[0], RST, 0);
	host_expect_end(fd[0]);
	assert_int_equal(rig_recv(&r).dst_port, 3);
	for (unsigned i = 0; i < 3; i++)
		close(fd[i]);
	rig_unplug(&r);
}

/* Nobody takes them: the waiting line has an end, and the rest ends with the device. */
static void test_too_many_adopted(void **state)
{
	static int fds[VSOCK_CONNS_MAX];
	struct vsock_rig *r = *state;
	int last;

	vdrv_reset(&r->d);
	for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++) {
		fds[i] = adopt(r);
		host_write(fds[i], "CONNECT 1\n", 10);
	}
	last = adopt(r);
	host_expect_end(last);
	close(last);
	rig_start(r, RX_BUFFERS);
	assert_int_equal(rig_recv(r).op, REQUEST);
	for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++)
		close(fds[i]);
}

/* From another thread, while the driver comes and goes. */
static void *adopt_many(void *arg)
{
	struct vsock_rig *r = arg;

	for (unsigned i = 0; i < 300; i++) {
		const int fd = adopt(r);

		(void)!send(fd, "CONNECT 5\n", 10, MSG_NOSIGNAL);
		close(fd);
	}
	return NULL;
}

static void test_adopting_and_resets(void **state)
{
	struct vsock_rig *r = *state;
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, adopt_many, r), 0);
	for (unsigned i = 0; i < 30; i++) {
		vdrv_reset(&r->d);
		rig_start(r, RX_BUFFERS);
	}
	pthread_join(thread, NULL);
	vdrv_reset(&r->d);
	assert_int_equal(virtio_vsock_conns(r->dev), 0);
}

/* ---- the process's own port ---- */

static void test_guest_connects_to_the_process(void **state)
{
	struct vsock_rig *r = *state;
	const int fd = guest_to_own(r, 5000);
	char text[8];

	rig_send_data(r, 5000, OWN_PORT, "ready", 5);
	assert_true(host_read(fd, text, 5));
	assert_memory_equal(text, "ready", 5);
	host_write(fd, "go", 2);
	assert_memory_equal(rig_expect(r, RW, OWN_PORT, 5000).data, "go", 2);
	close(fd);
	assert_int_equal(rig_expect(r, SHUTDOWN, OWN_PORT, 5000).flags, SHUT_SEND | SHUT_RECV);
}

static void test_the_process_refuses(void **state)
{
	struct vsock_rig *r = *state;

	atomic_store(&r->refuse, true);
	for (unsigned i = 0; i < 50; i++) {
		rig_send(r, 5000 + i, OWN_PORT, REQUEST, 0);
		rig_expect(r, RST, OWN_PORT, 5000 + i);
	}
	assert_int_equal(virtio_vsock_conns(r->dev), 0);
}

/* A program that listens at that path is not asked. */
static void test_own_port_hides_the_path(void **state)
{
	struct vsock_rig *r = *state;
	const int listener = rig_listen(r, OWN_PORT);
	struct pollfd p = {.fd = listener, .events = POLLIN};

	close(guest_to_own(r, 6000));
	assert_int_equal(poll(&p, 1, 0), 0);
	close(listener);
}

/* ---- pause ---- */

static void pause_it(struct vsock_rig *r)
{
	struct news quiet = NEWS_INIT;

	assert_true(virtio_transport_pause(r->t, news_tell, &quiet));
	news_wait(&quiet);
}

/* An access to the guest's memory ends the test program. */
static void guard(struct vsock_rig *r, int protection)
{
	assert_int_equal(mprotect(fake_mem(&r->fp, 0, MEM_BYTES), MEM_BYTES, protection), 0);
}

static void test_pause_with_open_connections(void **state)
{
	struct vsock_rig *r = *state;
	const int listener = rig_listen(r, 7777);
	uint32_t port;
	const int in = rig_host_to_guest(r, 10, &port),
		  out = rig_guest_to_host(r, listener, 11, 7777);
	char text[16];
	struct pkt k;
	int new;

	for (unsigned i = 0; i < 10; i++) {
		pause_it(r);
		guard(r, PROT_NONE);
		/* everything that the host can do */
		host_write(in, "while paused", 12);
		host_write(out, "as well", 7);
		new = host_connect(r->path);
		host_write(new, "CONNECT 12\n", 11);
		vdrv_notify(&r->d, RX);
		vdrv_notify(&r->d, TX);
		loop_rounds(r->lt.loop);
		guard(r, PROT_READ | PROT_WRITE);
		assert_int_equal(vring_used_waiting(&r->d.rings[RX]), 0);
		/* what the guest had on its way is taken afterwards */
		rig_send_data(r, 10, port, "from before", 11);
		loop_rounds(r->lt.loop);
		assert_int_equal(recv(in, text, 1, MSG_DONTWAIT), -1);
		virtio_transport_resume(r->t);

		for (unsigned got = 0; got != 7;) {
			k = rig_recv(r);
			if (k.op == REQUEST) {
				assert_int_equal(k.dst_port, 12);
				rig_send(r, 12, k.src_port, RST, 0);
				got |= 1;
			} else if (k.dst_port == 10) {
				assert_int_equal(k.len, 12);
				assert_memory_equal(k.data, "while paused", 12);
				got |= 2;
			} else {
				assert_int_equal(k.len, 7);
				assert_memory_equal(k.data, "as well", 7);
				got |= 4;
			}
		}
		assert_true(host_read(in, text, 11));
		assert_memory_equal(text, "from before", 11);
		host_expect_end(new);
		close(new);
	}
	close(in);
	close(out);
	close(listener);
}

/* Nothing is lost when it comes down in the middle of much. */
#define BULK (4 * MIB)

static void *write_bulk(void *arg)
{
	static uint8_t data[BULK];
	const int fd = *(int *)arg;

	for (size_t i = 0; i < BULK; i++)
		data[i] = (uint8_t)(i * 7 + (i >> 8));
	for (size_t done = 0; done < BULK;) {
		const ssize_t n = send(fd, data + done, BULK - done, MSG_NOSIGNAL);

		if (n <= 0)
			return NULL;
		done += (size_t)n;
	}
	return arg;
}

static void test_pause_amid_bytes(void **state)
{
	struct vsock_rig *r = *state;
	struct pkt update = rig_pkt(11, 0, CREDIT_UPDATE);
	uint32_t got = 0, next = 0;
	pthread_t thread;
	void *all;
	int fd;

	fd = rig_host_to_guest(r, 11, &update.dst_port);
	assert_int_equal(pthread_create(&thread, NULL, write_bulk, &fd), 0);
	while (got < BULK) {
		struct pkt k;

		if (got >= next) {
			next += BULK / 20;
			pause_it(r);
			guard(r, PROT_NONE);
			loop_rounds(r->lt.loop);
			guard(r, PROT_READ | PROT_WRITE);
			virtio_transport_resume(r->t);
		}
		k = rig_recv(r);
		if (k.op == CREDIT_REQUEST) {
			update.fwd_cnt = got;
			rig_send_raw(r, &update, NULL, 0);
			continue;
		}
		assert_int_equal(k.op, RW);
		for (uint32_t i = 0; i < k.len; i++, got++) {
			if (k.data[i] != (uint8_t)(got * 7 + (got >> 8)))
				fail_msg("byte %u differs", got);
		}
	}
	pthread_join(thread, &all);
	assert_non_null(all);
	close(fd);
}

/* The end of a machine that is paused, with connections. */
static void test_reset_while_paused(void **state)
{
	struct vsock_rig *r = *state;
	uint32_t port;
	const int fd = rig_host_to_guest(r, 20, &port);

	host_write(fd, "unread", 6);
	pause_it(r);
	vdrv_reset(&r->d);
	assert_int_equal(virtio_vsock_conns(r->dev), 0);
	while (read(fd, &(char){0}, 1) > 0)
		;
	close(fd);
	rig_start(r, RX_BUFFERS); /* as new */
	close(rig_host_to_guest(r, 21, &port));
}

/* Both ends of all connections are in this process: more than the 1024 that are usual. */
static int raise_limit(void **state)
{
	struct rlimit limit;

	(void)state;
	if (getrlimit(RLIMIT_NOFILE, &limit))
		return -1;
	limit.rlim_cur = limit.rlim_max;
	return setrlimit(RLIMIT_NOFILE, &limit);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    BOTH(test_adopted_streams),
	    BOTH(test_adopted_is_refused),
	    BOTH(test_adopted_waits_for_the_driver),
	    cmocka_unit_test(test_adopted_waits_for_room),
	    BOTH(test_too_many_adopted),
	    BOTH(test_adopting_and_resets),
	    BOTH(test_guest_connects_to_the_process),
	    BOTH(test_the_process_refuses),
	    BOTH(test_own_port_hides_the_path),
	    BOTH(test_pause_with_open_connections),
	    BOTH(test_pause_amid_bytes),
	    BOTH(test_reset_while_paused),
	};
	return cmocka_run_group_tests(tests, raise_limit, NULL);
}
