/* virtio-net with a socket in the tap's place: `peer` is its other end. */
#ifndef TESTS_UNIT_NET_SOCKET_RIG_H
#define TESTS_UNIT_NET_SOCKET_RIG_H

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

static inline void start(struct rig *r)
{
	r->d.heap = 0x10000;
	assert_true(vdrv_start(&r->d, ~(UINT64_C(1) << 33), 3, RING));
	assert_int_equal(vdrv_status(&r->d), 0xf);
}

static inline struct rig *build(const struct virtio_net_config *config, int type)
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

static inline int setup(void **state)
{
	const struct virtio_net_config c = {.mac = {2, 1, 2, 3, 4, 5}, .may_spoof = true};

	*state = build(&c, SOCK_STREAM);
	return 0;
}

static inline int teardown(void **state)
{
	struct rig *r = *state;

	virtio_transport_free(r->t);
	loop_thread_free(&r->lt);
	fake_platform_fini(&r->fp);
	if (r->peer >= 0)
		close(r->peer);
	return 0;
}

static inline void give(struct rig *r, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		const unsigned at = r->d.rings[0].avail_idx % RING;
		const struct vbuf b = {RX_GPA + (uint64_t)at * RX_BYTES, RX_BYTES, true};

		assert_true(vring_add(&r->d.rings[0], &b, 1, false) >= 0);
	}
	vdrv_kick(&r->d, 0);
}

/* One frame into r->got; its bytes. */
static inline size_t guest_gets(struct rig *r)
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

static inline void guest_sends(struct rig *r, const uint8_t *frame, size_t n)
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

static inline void reap_sent(struct rig *r, unsigned n)
{
	uint16_t head;
	uint32_t len;

	while (n--) {
		if (!vring_used_waiting(&r->d.rings[1]))
			assert_true(vdrv_wait(&r->d, 1, 1));
		assert_true(vring_take(&r->d.rings[1], &head, &len));
	}
}

static inline void peer_sends(struct rig *r, const void *p, size_t n)
{
	assert_int_equal(send(r->peer, p, n, MSG_NOSIGNAL), n);
}

/* Work of the loop's ring interrupts a wait that has a deadline, as a signal would. */
static inline ssize_t peer_receive(struct rig *r, void *p, size_t n, int flags)
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

static inline void peer_gets(struct rig *r, const uint8_t *frame, size_t n)
{
	uint8_t len[4];

	assert_int_equal(peer_receive(r, len, 4, MSG_WAITALL), 4);
	assert_int_equal(be32_load(len), n);
	assert_int_equal(peer_receive(r, r->got, n, MSG_WAITALL), n);
	assert_memory_equal(r->got, frame, n);
}

#endif
