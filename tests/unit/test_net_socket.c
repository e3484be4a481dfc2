/*
 * virtio-net on a stream socket in the tap's place (the framing of passt(1)), its rate limits, and
 * what it lets a guest say about who it is.
 */
#include "base/checked.h"
#include "devices/virtio/net_priv.h"
#include "tests/unit/loop_thread.h"
#include "tests/unit/net_frames.h"
#include "tests/unit/virtio_driver.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MMIO_GPA 0xd0000000
#define GSI	 6
#define RX_GPA	 (16 * MIB)
#define TX_GPA	 (24 * MIB)
#define RING	 64
#define RX_BYTES 2048
#define GUEST_IP 0x0a090902

static const uint8_t mac[6] = {2, 1, 2, 3, 4, 5}, other_mac[6] = {2, 1, 2, 3, 4, 6};

struct rig {
	struct fake_platform fp;
	struct loop_thread lt;
	struct virtio_dev *dev;
	struct virtio_transport *t;
	struct vdrv d;
	int peer;
	uint8_t frame[70000], got[70000];
};

static struct rig rig;

static void start(struct rig *r)
{
	r->d.heap = 0x10000;
	assert_true(vdrv_start(&r->d, ~(UINT64_C(1) << 33), 3, RING));
	assert_int_equal(vdrv_status(&r->d), 0xf);
}

static struct rig *build(const struct virtio_net_config *config, int type)
{
	const struct timeval patience = {.tv_sec = VDRV_WAIT_MS / 1000};
	const int small = 20000;
	struct rig *r = &rig;
	struct tap tap;
	int fds[2];

	memset(r, 0, sizeof(*r));
	assert_int_equal(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds), 0);
	setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	setsockopt(fds[1], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (type == SOCK_STREAM)
		assert_int_equal(tap_adopt_stream(fds[0], &tap, NULL), 0);
	else
		assert_int_equal(tap_adopt(fds[0], &tap, NULL), 0);
	r->peer = fds[1];
	fake_platform_init(&r->fp, 32 * MIB);
	loop_thread_new(&r->lt, LOOP_AUTO);
	assert_int_equal(virtio_net_new(config, &tap, r->lt.loop, &r->dev, NULL), 0);
	assert_int_equal(virtio_mmio_new(&r->fp.plat, MMIO_GPA, GSI, r->dev, &r->t, NULL), 0);
	vdrv_init_mmio(&r->d, &r->fp, MMIO_GPA, GSI, 0x10000);
	loop_thread_start(&r->lt);
	start(r);
	for (size_t i = 0; i < sizeof(r->frame); i++)
		r->frame[i] = (uint8_t)(i * 7 + i / 251);
	return r;
}

static int setup(void **state)
{
	const struct virtio_net_config c = {.mac = {2, 1, 2, 3, 4, 5}, .may_spoof = true};

	*state = build(&c, SOCK_STREAM);
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

static void give(struct rig *r, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		const unsigned at = r->d.rings[0].avail_idx % RING;
		const struct vbuf b = {RX_GPA + (uint64_t)at * RX_BYTES, RX_BYTES, true};

		assert_true(vring_add(&r->d.rings[0], &b, 1, false) >= 0);
	}
	vdrv_kick(&r->d, 0);
}

/* One frame into r->got; its bytes. */
static size_t guest_gets(struct rig *r)
{
	unsigned buffers = 1;
	size_t n = 0;

	for (unsigned i = 0; i < buffers; i++) {
		uint16_t head;
		uint32_t len;
		gpa_t gpa;

		if (!vring_used_waiting(&r->d.rings[0]))
			assert_true(vdrv_wait(&r->d, 0, 1));
		assert_true(vring_take(&r->d.rings[0], &head, &len));
		gpa = le64_load((uint8_t *)fake_mem(&r->fp, r->d.rings[0].desc + 16ul * head, 8));
		memcpy(r->got + n, fake_mem(&r->fp, gpa, len), len);
		n += len;
		if (!i)
			buffers = le16_load(r->got + 10);
	}
	memmove(r->got, r->got + VNET_HDR, n - VNET_HDR);
	return n - VNET_HDR;
}

static void guest_sends(struct rig *r, const uint8_t *frame, size_t n)
{
	struct vring *ring = &r->d.rings[1];
	const unsigned at = ring->avail_idx % RING;
	const gpa_t gpa = TX_GPA + at * UINT64_C(70016);
	uint8_t *p = fake_mem(&r->fp, gpa, VNET_HDR + n);

	memset(p, 0, VNET_HDR);
	memcpy(p + VNET_HDR, frame, n);
	assert_true(
	    vring_add(ring, &(struct vbuf){gpa, (uint32_t)(VNET_HDR + n), false}, 1, false) >= 0);
	vdrv_kick(&r->d, 1);
}

static void reap_sent(struct rig *r, unsigned n)
{
	uint16_t head;
	uint32_t len;

	while (n--) {
		if (!vring_used_waiting(&r->d.rings[1]))
			assert_true(vdrv_wait(&r->d, 1, 1));
		assert_true(vring_take(&r->d.rings[1], &head, &len));
	}
}

static void peer_sends(struct rig *r, const void *p, size_t n)
{
	assert_int_equal(send(r->peer, p, n, MSG_NOSIGNAL), n);
}

/* Work of the loop's ring interrupts a wait that has a deadline, as a signal would. */
static ssize_t peer_receive(struct rig *r, void *p, size_t n, int flags)
{
	size_t got = 0;

	while (got < n) {
		const ssize_t m = recv(r->peer, (uint8_t *)p + got, n - got, flags);

		if (m < 0 && errno == EINTR)
			continue;
		if (m <= 0)
			return got ? (ssize_t)got : m;
		got += (size_t)m;
		if (!(flags & MSG_WAITALL))
			break;
	}
	return (ssize_t)got;
}

static void peer_gets(struct rig *r, const uint8_t *frame, size_t n)
{
	uint8_t len[4];

	assert_int_equal(peer_receive(r, len, 4, MSG_WAITALL), 4);
	assert_int_equal(be32_load(len), n);
	assert_int_equal(peer_receive(r, r->got, n, MSG_WAITALL), n);
	assert_memory_equal(r->got, frame, n);
}

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

/* ---- who the guest is ---- */

static void test_own_frames(void **state)
{
	uint8_t f[128], arp[64] = {0};

	(void)state;
	frame_build(f, FRAME_UDP4, frame_host_mac, frame_guest_mac, 20, true);
	assert_int_equal(net_frame_own(f, 62, mac, GUEST_IP), 34);
	assert_int_equal(net_frame_own(f, 62, mac, 0), 14);
	assert_int_equal(net_frame_own(f, 62, mac, GUEST_IP + 1), 0);
	assert_int_equal(net_frame_own(f, 62, other_mac, GUEST_IP), 0);
	assert_int_equal(net_frame_own(f, 33, mac, GUEST_IP), 0);
	assert_int_equal(net_frame_own(f, 13, mac, 0), 0);
	f[14] = 0x44; /* a header that is too short */
	assert_int_equal(net_frame_own(f, 62, mac, GUEST_IP), 0);
	f[14] = 0x45;
	/* no address yet: DHCP alone */
	memset(f + 26, 0, 4);
	assert_int_equal(net_frame_own(f, 62, mac, GUEST_IP), 0);
	be16_store(f + 36, 67);
	assert_int_equal(net_frame_own(f, 62, mac, GUEST_IP), 34);
	f[21] = 1; /* of a fragment */
	assert_int_equal(net_frame_own(f, 62, mac, GUEST_IP), 0);
	/* IPv6 is only asked for the MAC address */
	frame_build(f, FRAME_TCP6, frame_host_mac, frame_guest_mac, 20, true);
	assert_int_equal(net_frame_own(f, 64, mac, GUEST_IP), 14);

	memcpy(arp + 6, mac, 6);
	memcpy(arp + 12, "\x08\x06\0\1\x08\0\6\4\0\1", 10);
	memcpy(arp + 22, mac, 6);
	be32_store(arp + 28, GUEST_IP);
	assert_int_equal(net_frame_own(arp, 42, mac, GUEST_IP), 42);
	assert_int_equal(net_frame_own(arp, 41, mac, GUEST_IP), 0);
	be32_store(arp + 28, 0); /* a probe */
	assert_int_equal(net_frame_own(arp, 42, mac, GUEST_IP), 42);
	be32_store(arp + 28, GUEST_IP - 1);
	assert_int_equal(net_frame_own(arp, 42, mac, GUEST_IP), 0);
	assert_int_equal(net_frame_own(arp, 42, mac, 0), 42);
	arp[27]++;
	assert_int_equal(net_frame_own(arp, 42, mac, 0), 0);
	arp[27]--;
	/* behind tags, of which there may be two */
	for (unsigned tags = 1; tags <= 3; tags++) {
		memmove(arp + 16, arp + 12, 40);
		memcpy(arp + 12, "\x81\0\0\1", 4);
		assert_int_equal(net_frame_own(arp, 64, mac, GUEST_IP), 0);
		assert_int_equal(net_frame_own(arp, 64, mac, 0), tags < 3 ? 42 + 4 * tags : 0);
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
	    cmocka_unit_test(test_adopt),
	    TN(test_passt),
	    TN(test_limit_from_guest),
	    TN(test_limit_to_guest),
	    TN(test_limit_waits),
	    cmocka_unit_test(test_own_frames),
	    TN(test_spoofing),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
