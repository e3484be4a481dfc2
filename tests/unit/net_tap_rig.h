/* virtio-net on a real tap, in a network of its own: a packet socket is the host's side. */
#ifndef TESTS_UNIT_NET_TAP_RIG_H
#define TESTS_UNIT_NET_TAP_RIG_H

#include "base/checked.h"
#include "devices/virtio/net.h"
#include "tests/unit/loop_thread.h"
#include "tests/unit/net_frames.h"
#include "tests/unit/virtio_driver.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cmocka.h>

#define MMIO_GPA 0xd0000000
#define GSI	 6
#define RX_GPA	 (16 * MIB)
#define TX_GPA	 (24 * MIB)
#define CTRL_GPA (25 * MIB)
#define NAME	 "lodge-t0"
#define PAYLOAD	 20000
#define SEGMENT	 1400
#define RING	 64

#define BIT(n)	 (UINT64_C(1) << (n))
#define CSUM	 (BIT(0) | BIT(1))
#define TSO4	 (BIT(7) | BIT(11))
#define TSO6	 (BIT(8) | BIT(12))
#define ECN	 (BIT(9) | BIT(13))
#define USO	 (BIT(54) | BIT(55) | BIT(56))
#define MRG	 BIT(15)
#define ANNOUNCE BIT(21)
#define MQ	 BIT(22)
#define CONTROL	 (BIT(2) | BIT(16) | BIT(17) | BIT(18) | BIT(20) | BIT(23))

/* Work of the loop's ring interrupts a wait that has a deadline, as a signal would. */
static inline ssize_t receive(int fd, void *buf, size_t size)
{
	ssize_t n;

	do
		n = recv(fd, buf, size, 0);
	while (n < 0 && errno == EINTR);
	return n;
}

struct rig {
	struct fake_platform fp;
	struct loop_thread lt;
	struct virtio_dev *dev;
	struct virtio_transport *t;
	struct vdrv d;
	unsigned pairs;
	uint32_t buf_bytes;
	int packets; /* of the host's side, with headers */
	uint8_t payload[PAYLOAD], frame[80000];
};

static struct rig rig;

static inline void request(unsigned long code, struct ifreq *ifr)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	strcpy(ifr->ifr_name, NAME);
	assert_int_equal(ioctl(fd, code, ifr), 0);
	close(fd);
}

static inline void up(bool on)
{
	struct ifreq ifr = {.ifr_flags = on ? IFF_UP | IFF_RUNNING : 0};

	request(SIOCSIFFLAGS, &ifr);
}

static inline void set_address(void)
{
	struct ifreq ifr = {0};
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x0a090901)};

	memcpy(&ifr.ifr_addr, &in, sizeof(in));
	request(SIOCSIFADDR, &ifr);
}

/* The host has no address, so it says nothing by itself. */
static inline void prepare_interface(void)
{
	struct ifreq ifr = {0};
	int fd = open("/proc/sys/net/ipv6/conf/" NAME "/disable_ipv6", O_WRONLY | O_CLOEXEC);

	if (fd >= 0) {
		assert_int_equal(write(fd, "1", 1), 1);
		close(fd);
	}
	memcpy(ifr.ifr_hwaddr.sa_data, frame_host_mac, 6);
	ifr.ifr_hwaddr.sa_family = 1;
	request(SIOCSIFHWADDR, &ifr);
	up(true);
}

static inline int packet_socket(void)
{
	const int on = 1, size = 8 << 20;
	struct sockaddr_ll a = {.sll_family = AF_PACKET,
				.sll_protocol = htons(ETH_P_ALL),
				.sll_ifindex = (int)if_nametoindex(NAME)};
	const struct timeval patience = {.tv_sec = VDRV_WAIT_MS / 1000};
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0 && a.sll_ifindex > 0);
	assert_int_equal(setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)), 0);
	setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

static inline bool build(struct rig *r, const struct virtio_net_config *config, unsigned pairs)
{
	struct err err = ERR_INIT;
	struct tap tap;

	memset(r, 0, sizeof(*r));
	if (tap_open(NAME, pairs, true, &tap, &err)) {
		print_message("no tap: %s\n", err.msg);
		return false;
	}
	r->pairs = pairs;
	prepare_interface();
	r->packets = packet_socket();
	fake_platform_init(&r->fp, 32 * MIB);
	loop_thread_new(&r->lt, LOOP_AUTO);
	assert_int_equal(virtio_net_new(config, &tap, r->lt.loop, &r->dev, NULL), 0);
	assert_int_equal(virtio_mmio_new(&r->fp.plat, MMIO_GPA, GSI, r->dev, &r->t, NULL), 0);
	vdrv_init_mmio(&r->d, &r->fp, MMIO_GPA, GSI, 0x10000);
	loop_thread_start(&r->lt);
	for (size_t i = 0; i < PAYLOAD; i++)
		r->payload[i] = (uint8_t)(i * 7 + i / 251);
	return true;
}

static inline uint8_t control(struct rig *r, uint8_t class, uint8_t code, const void *data,
			      uint32_t len)
{
	const unsigned q = r->d.features & MQ ? 2 * r->pairs : 2;
	uint8_t *p = fake_mem(&r->fp, CTRL_GPA, 4096);
	const struct vbuf bufs[] = {
	    {CTRL_GPA, 2, false}, {CTRL_GPA + 16, len, false}, {CTRL_GPA + 4095, 1, true}};
	uint16_t head;
	uint32_t used;

	p[0] = class;
	p[1] = code;
	p[4095] = 0xff;
	memcpy(p + 16, data, len);
	assert_true(vring_add(&r->d.rings[q], bufs, 3, false) >= 0);
	vdrv_kick(&r->d, q);
	assert_true(vdrv_wait(&r->d, q, 1));
	assert_true(vring_take(&r->d.rings[q], &head, &used));
	return p[4095];
}

/* An answer on the control queue says that the device has begun. */
static inline void start(struct rig *r, uint64_t features)
{
	r->d.heap = 0x10000;
	assert_true(vdrv_start(&r->d, features | CONTROL | VDRV_V1,
			       features & MQ ? 2 * r->pairs + 1 : 3, RING));
	assert_int_equal(vdrv_status(&r->d), 0xf);
	r->buf_bytes = features & MRG ? 2000 : 70000;
	assert_int_equal(control(r, 0xee, 0, "", 1), 1);
}

static inline int setup_pairs(void **state, unsigned pairs)
{
	const struct virtio_net_config c = {.mac = {2, 1, 2, 3, 4, 5}, .mtu = 1500};

	*state = build(&rig, &c, pairs) ? &rig : NULL;
	return 0;
}

static inline int setup(void **state)
{
	return setup_pairs(state, 1);
}

static inline int setup_three(void **state)
{
	return setup_pairs(state, 3);
}

static inline int teardown(void **state)
{
	struct rig *r = *state;

	if (!r)
		return 0;
	virtio_transport_free(r->t);
	loop_thread_free(&r->lt);
	fake_platform_fini(&r->fp);
	close(r->packets);
	return 0;
}

/* ---- to the guest ---- */

static inline void give(struct rig *r, unsigned q, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		const unsigned at = r->d.rings[q].avail_idx % RING;
		const struct vbuf b = {RX_GPA + (uint64_t)at * r->buf_bytes, r->buf_bytes, true};

		assert_true(vring_add(&r->d.rings[q], &b, 1, false) >= 0);
	}
	vdrv_kick(&r->d, q);
}

static inline void host_sends(struct rig *r, enum frame_kind kind, const uint8_t *dst, size_t len,
			      uint8_t gso, bool ecn)
{
	uint8_t *f = r->frame + 10;
	size_t n;

	memset(r->frame, 0, 10);
	memcpy(f + (kind == FRAME_UDP4 ? 42 : kind == FRAME_TCP4 ? 54 : 74), r->payload, len);
	n = frame_build(f, kind, dst, frame_host_mac, len, false);
	r->frame[0] = 1;
	r->frame[1] = (uint8_t)(gso | (ecn ? 0x80 : 0));
	if (ecn)
		f[frame_headers(f) - 20 + 13] |= 0x80;
	le16_store(r->frame + 2, (uint16_t)frame_headers(f));
	le16_store(r->frame + 4, gso ? SEGMENT : 0);
	le16_store(r->frame + 6, (uint16_t)(14 + frame_ip_bytes(f)));
	le16_store(r->frame + 8, (uint16_t)frame_csum_offset(f));
	if (ecn) /* the partial checksum covers the pseudo header alone: it stays */
		assert_true(frame_checks(f, n, true));
	assert_int_equal(send(r->packets, r->frame, n + 10, 0), n + 10);
}

/* The next packet into r->frame; its length without the header. */
static inline size_t guest_gets(struct rig *r, unsigned q, uint8_t *ret_header)
{
	unsigned buffers = 1;
	size_t n = 0;

	for (unsigned i = 0; i < buffers; i++) {
		uint16_t head;
		uint32_t len;
		gpa_t gpa;

		if (!vring_used_waiting(&r->d.rings[q]))
			assert_true(vdrv_wait(&r->d, q, 1));
		assert_true(vring_take(&r->d.rings[q], &head, &len));
		gpa = le64_load((uint8_t *)fake_mem(&r->fp, r->d.rings[q].desc + 16ul * head, 8));
		memcpy(r->frame + n, fake_mem(&r->fp, gpa, len), len);
		n += len;
		if (!i)
			buffers = le16_load(r->frame + 10);
	}
	memcpy(ret_header, r->frame, VNET_HDR);
	memmove(r->frame, r->frame + VNET_HDR, n - VNET_HDR);
	return n - VNET_HDR;
}
/* ---- from the guest ---- */

static inline void guest_sends(struct rig *r, unsigned q, enum frame_kind kind, size_t len,
			       bool csum, uint8_t gso)
{
	uint8_t *h = fake_mem(&r->fp, TX_GPA, 80000), *f = h + VNET_HDR;
	size_t n, skip = kind == FRAME_UDP4 ? 42 : kind == FRAME_TCP4 ? 54 : 74;
	uint16_t head;
	uint32_t used;

	memset(h, 0, VNET_HDR);
	memcpy(f + skip, r->payload, len);
	n = frame_build(f, kind, frame_host_mac, frame_guest_mac, len, !csum);
	if (csum) {
		h[0] = 1;
		le16_store(h + 6, (uint16_t)(14 + frame_ip_bytes(f)));
		le16_store(h + 8, (uint16_t)frame_csum_offset(f));
	}
	h[1] = gso;
	le16_store(h + 2, 0xffff); /* no flag is for it, but with gso */
	if (gso) {
		le16_store(h + 2, (uint16_t)skip);
		le16_store(h + 4, SEGMENT);
	}
	assert_true(vring_add(&r->d.rings[q],
			      (struct vbuf[]){{TX_GPA, 33, false},
					      {TX_GPA + 33, (uint32_t)(VNET_HDR + n - 33), false}},
			      2, false) >= 0);
	vdrv_kick(&r->d, q);
	assert_true(vdrv_wait(&r->d, q, 1));
	assert_true(vring_take(&r->d.rings[q], &head, &used));
}

/* Skipped where no tap can be made. */
static inline void own_network(void)
{
	if (unshare(CLONE_NEWNET) && unshare(CLONE_NEWUSER | CLONE_NEWNET))
		print_message("no network of its own: %s\n", strerror(errno));
}

#endif
