/*
 * virtio-net on a stream socket in the tap's place (the framing of passt(1)), and its rate limits.
 */
#include "tests/unit/net_socket_rig.h"

/* ---- streams ---- */

static void test_stream_to_guest(void **state)
{
	static const size_t sizes[] = {60, 1514, 14, 9000, 65549};
	struct rig *r = *state;
	uint8_t len[4];

	give(r, 60);
	for (unsigned i = 0; i < ARRAY_LEN(sizes); i++) {
		be32_store(len, (uint32_t)sizes[i]);
		/* the length in parts, the frame in parts */
		peer_sends(r, len, 1);
		peer_sends(r, len + 1, 3);
		peer_sends(r, r->frame, 7);
		peer_sends(r, r->frame + 7, sizes[i] - 7);
		assert_int_equal(guest_gets(r), sizes[i]);
		assert_memory_equal(r->got, r->frame, sizes[i]);
	}
}

/* Several in one write, more than the guest has buffers for at first. */
static void test_stream_burst(void **state)
{
	static uint8_t burst[30 * 1004];
	struct rig *r = *state;

	for (unsigned i = 0; i < 30; i++) {
		be32_store(burst + 1004 * i, 1000);
		memset(burst + 1004 * i + 4, (int)i, 1000);
	}
	give(r, 3);
	peer_sends(r, burst, sizeof(burst));
	for (unsigned i = 0; i < 30; i++) {
		if (i >= 3)
			give(r, 1);
		assert_int_equal(guest_gets(r), 1000);
		assert_int_equal(r->got[0], i);
		assert_int_equal(r->got[999], i);
	}
}

/* More than the socket holds: nothing is lost or torn, in whatever pieces it is taken. */
static void test_stream_from_guest(void **state)
{
	struct rig *r = *state;

	assert_int_equal(vdrv_offered(&r->d) & (NET_F_CSUM | NET_F_HOST_TSO4 | NET_F_CTRL_RX), 0);
	for (unsigned i = 0; i < 20; i++)
		guest_sends(r, r->frame + i, 60000 + i);
	for (unsigned i = 0; i < 20; i++)
		peer_gets(r, r->frame + i, 60000 + i);
	reap_sent(r, 20);
	guest_sends(r, r->frame, 60);
	peer_gets(r, r->frame, 60);
}

/* A frame that was begun is finished, though the driver that sent it is gone. */
static void test_stream_reset_in_frame(void **state)
{
	struct rig *r = *state;

	guest_sends(r, r->frame, 65000);
	reap_sent(r, 1); /* the driver has it back: the rest is the device's */
	vdrv_reset(&r->d);
	memset(fake_mem(&r->fp, TX_GPA, 65012), 0xee, 65012);
	start(r);
	guest_sends(r, r->frame + 1, 100);
	peer_gets(r, r->frame, 65000);
	peer_gets(r, r->frame + 1, 100);
}

static void check_down(struct rig *r)
{
	assert_true(vdrv_wait_config(&r->d));
	assert_int_equal(vdrv_config(&r->d, 6, 2), 0);
	assert_int_equal(vdrv_status(&r->d), 0xf);
	guest_sends(r, r->frame, 100);
	reap_sent(r, 1);
}

static void test_stream_too_long(void **state)
{
	struct rig *r = *state;
	uint8_t len[4];

	give(r, 4);
	be32_store(len, NET_FRAME_MAX + 1);
	peer_sends(r, len, 4);
	check_down(r);
}

static void test_stream_empty(void **state)
{
	struct rig *r = *state;

	give(r, 4);
	peer_sends(r, "\0\0\0", 4);
	check_down(r);
}

static void test_stream_end(void **state)
{
	struct rig *r = *state;

	give(r, 4);
	peer_sends(r, "\0\0\1", 3); /* in the middle of a frame */
	close(r->peer);
	r->peer = -1;
	check_down(r);
}

struct reconnect {
	struct virtio_net_reconnect r;
	atomic_bool done;
};

static void reconnect_done(struct virtio_net_reconnect *r)
{
	atomic_store(&container_of(r, struct reconnect, r)->done, true);
}

/* Another stream in place of the present one, whatever state that is in. */
static void reconnect(struct rig *r)
{
	const struct timeval patience = {.tv_sec = VDRV_WAIT_MS / 1000};
	struct reconnect rc = {.r.done = reconnect_done};
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	setsockopt(fds[1], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	virtio_net_reconnect(r->dev, &rc.r, fds[0]);
	while (!atomic_load(&rc.done))
		poll(NULL, 0, 1);
	if (r->peer >= 0)
		close(r->peer);
	r->peer = fds[1];
}

static void check_both_ways(struct rig *r)
{
	uint8_t len[4];

	give(r, 4);
	be32_store(len, 300);
	peer_sends(r, len, 4);
	peer_sends(r, r->frame, 300);
	assert_int_equal(guest_gets(r), 300);
	assert_memory_equal(r->got, r->frame, 300);
	guest_sends(r, r->frame + 5, 200);
	peer_gets(r, r->frame + 5, 200);
}

/* In the middle of a frame each way, the guest waiting for packets. */
static void test_reconnect_after_end(void **state)
{
	struct rig *r = *state;

	give(r, 4);
	peer_sends(r, "\0\0\1", 3);
	guest_sends(r, r->frame, 65000); /* more than the socket takes */
	close(r->peer);
	r->peer = -1;
	assert_true(vdrv_wait_config(&r->d));
	assert_int_equal(vdrv_config(&r->d, 6, 2), 0);
	reap_sent(r, 1);
	reconnect(r);
	assert_true(vdrv_wait_config(&r->d));
	/* up, and the driver is to tell the network */
	assert_int_equal(vdrv_config(&r->d, 6, 2), 3);
	check_both_ways(r);
}

/* The former has not been seen to end: the device waits for its packets, and for room in it. */
static void test_reconnect_before_end(void **state)
{
	struct rig *r = *state;

	check_both_ways(r);
	for (int i = 0; i < 4; i++)
		guest_sends(r, r->frame, 65000);
	reconnect(r);
	assert_int_equal(vdrv_config(&r->d, 6, 2) & 1, 1);
	/* what the former did not take of a frame is not the other's */
	for (int i = 0; i < 4; i++) {
		uint8_t len[4];

		if (peer_receive(r, len, 4, MSG_PEEK | MSG_DONTWAIT) != 4)
			break;
		peer_gets(r, r->frame, 65000);
	}
	reap_sent(r, 4);
	check_both_ways(r);
}

/* The driver is not there, or there again. */
static void test_reconnect_and_reset(void **state)
{
	struct rig *r = *state;

	vdrv_reset(&r->d);
	reconnect(r);
	start(r);
	check_both_ways(r);
	close(r->peer);
	r->peer = -1;
	vdrv_reset(&r->d);
	start(r);
	reconnect(r);
	check_both_ways(r);
}

/* A cable that is not plugged in stays so. */
static void test_reconnect_unplugged(void **state)
{
	struct rig *r = *state;

	virtio_net_set_link(r->dev, false);
	assert_true(vdrv_wait_config(&r->d));
	reconnect(r);
	assert_int_equal(vdrv_config(&r->d, 6, 2) & 1, 0);
	virtio_net_set_link(r->dev, true);
	assert_int_equal(vdrv_config(&r->d, 6, 2) & 1, 1);
	check_both_ways(r);
}

static void test_adopt(void **state)
{
	struct err err = ERR_INIT;
	struct tap tap;
	int fds[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(tap_adopt_stream(fds[0], &tap, &err), -EINVAL);
	close(fds[0]);
	close(fds[1]);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(tap_adopt(fds[0], &tap, &err), -EINVAL);
	close(fds[0]);
	close(fds[1]);
}

/* passt(1) wants an interface to go out by. */
static bool has_default_route(void)
{
	FILE *f = fopen("/proc/net/route", "re");
	char line[256];
	unsigned to = 1;

	while (f && to && fgets(line, sizeof(line), f))
		if (sscanf(line, "%*s %x", &to) != 1)
			to = 1;
	if (f)
		fclose(f);
	return !to;
}

/* The real one answers who has the gateway's address, in frames that only this understands. */
static void test_passt(void **state)
{
	static const uint8_t none[6];
	const struct virtio_net_config c = {.mac = {2, 1, 2, 3, 4, 5}, .ipv4 = GUEST_IP};
	struct rig *r = build(&c, SOCK_STREAM);
	uint8_t arp[42] = {0};
	char fd[12];
	size_t n;
	int status;
	pid_t pid;

	*state = r;
	if (!has_default_route())
		skip();
	snprintf(fd, sizeof(fd), "%d", r->peer);
	pid = fork();
	if (!pid) {
		fcntl(r->peer, F_SETFD, 0);
		execlp("passt", "passt", "-q", "-f", "-1", "-F", fd, "-a", "10.9.9.2", "-n", "24",
		       "-g", "10.9.9.1", "--mtu", "1500", "-t", "none", "-u", "none", NULL);
		_exit(127);
	}
	assert_true(pid > 0);
	close(r->peer);
	r->peer = -1;
	give(r, 60);
	memset(arp, 0xff, 6);
	memcpy(arp + 6, mac, 6);
	memcpy(arp + 12, "\x08\x06\0\1\x08\0\6\4\0\1", 10);
	memcpy(arp + 22, mac, 6);
	be32_store(arp + 28, GUEST_IP);
	be32_store(arp + 38, GUEST_IP - 1);
	guest_sends(r, arp, sizeof(arp));
	reap_sent(r, 1);
	do {
		if (!vring_used_waiting(&r->d.rings[0]) && !vdrv_wait(&r->d, 0, 1))
			break;
		if (!(vdrv_config(&r->d, 6, 2) & 1))
			break;
		n = guest_gets(r);
	} while (n < 42 || be16_load(r->got + 12) != 0x806);
	kill(pid, SIGTERM);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		skip();
	assert_memory_equal(r->got, mac, 6);
	assert_int_equal(be16_load(r->got + 20), 2);
	assert_int_equal(be32_load(r->got + 28), GUEST_IP - 1);
	assert_memory_not_equal(r->got + 22, none, 6);
}

/* ---- limits ---- */

#define PER_S 2000

/* 100 packets more than the burst take at least their time. */
static void test_limit_from_guest(void **state)
{
	const struct virtio_net_config c = {
	    .mac = {2, 1, 2, 3, 4, 5}, .may_spoof = true, .tx_packets_per_s = PER_S};
	struct rig *r = build(&c, SOCK_STREAM);
	const unsigned n = PER_S / 10 + 100;
	const uint64_t begin = loop_now_ns();

	*state = r;
	for (unsigned i = 0; i < n; i++) {
		guest_sends(r, r->frame + i, 100);
		reap_sent(r, 1);
		peer_gets(r, r->frame + i, 100);
	}
	assert_true(loop_now_ns() - begin >= UINT64_C(95) * 1000000000 / PER_S);
}

static void test_limit_to_guest(void **state)
{
	const struct virtio_net_config c = {
	    .mac = {2, 1, 2, 3, 4, 5}, .may_spoof = true, .rx_bytes_per_s = 1000000};
	struct rig *r = build(&c, SOCK_STREAM);
	const uint64_t begin = loop_now_ns();
	uint8_t len[4];

	*state = r;
	be32_store(len, 1000);
	for (unsigned i = 0; i < 200; i++) { /* of which 100 are the burst */
		give(r, 1);
		peer_sends(r, len, 4);
		peer_sends(r, r->frame + i, 1000);
		assert_int_equal(guest_gets(r), 1000);
		assert_memory_equal(r->got, r->frame + i, 1000);
	}
	assert_true(loop_now_ns() - begin >= UINT64_C(90000000));
}

static void quiet(void *ctx)
{
	atomic_store((_Atomic bool *)ctx, true);
}

/* A packet that has to wait for an hour keeps neither a pause nor a reset. */
static void test_limit_waits(void **state)
{
	const struct virtio_net_config c = {
	    .mac = {2, 1, 2, 3, 4, 5}, .may_spoof = true, .tx_bytes_per_s = 1};
	struct rig *r = build(&c, SOCK_STREAM);
	_Atomic bool is_quiet = false;

	*state = r;
	guest_sends(r, r->frame, 4000);
	guest_sends(r, r->frame, 4001);
	peer_gets(r, r->frame, 4000);
	reap_sent(r, 1);
	assert_true(virtio_transport_pause(r->t, quiet, &is_quiet));
	while (!atomic_load(&is_quiet))
		sched_yield();
	virtio_transport_resume(r->t);
	vdrv_reset(&r->d);
	start(r);
	guest_sends(r, r->frame, 100);
	assert_int_equal(peer_receive(r, r->got, 1, MSG_DONTWAIT), -1);
}

int main(void)
{
#define T(f)  cmocka_unit_test_setup_teardown(f, setup, teardown)
#define TN(f) cmocka_unit_test_teardown(f, teardown)
	const struct CMUnitTest tests[] = {
	    T(test_stream_to_guest),
	    T(test_stream_burst),
	    T(test_stream_from_guest),
	    T(test_stream_reset_in_frame),
	    T(test_stream_too_long),
	    T(test_stream_empty),
	    T(test_stream_end),
	    T(test_reconnect_after_end),
	    T(test_reconnect_before_end),
	    T(test_reconnect_and_reset),
	    T(test_reconnect_unplugged),
	    cmocka_unit_test(test_adopt),
	    TN(test_passt),
	    TN(test_limit_from_guest),
	    TN(test_limit_to_guest),
	    TN(test_limit_waits),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
