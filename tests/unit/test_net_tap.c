/*
 * virtio-net on a real tap, in a network of its own: every combination of offloads in both
 * directions, compared with what a packet socket sends and sees; several queue pairs, filters, the
 * link, the tap's end. Skipped where no tap can be made.
 */
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

#define BIT(n)	(UINT64_C(1) << (n))
#define CSUM	(BIT(0) | BIT(1))
#define TSO4	(BIT(7) | BIT(11))
#define TSO6	(BIT(8) | BIT(12))
#define ECN	(BIT(9) | BIT(13))
#define USO	(BIT(54) | BIT(55) | BIT(56))
#define MRG	BIT(15)
#define MQ	BIT(22)
#define CONTROL (BIT(2) | BIT(16) | BIT(17) | BIT(18) | BIT(20) | BIT(23))

/* Work of the loop's ring interrupts a wait that has a deadline, as a signal would. */
static ssize_t receive(int fd, void *buf, size_t size)
{
	ssize_t n;

	do
		n = recv(fd, buf, size, 0);
	while (n < 0 && errno == EINTR);
	return n;
}

static const uint8_t gso_types[FRAME_KINDS] = {1, 4, 5};
static const uint64_t gso_features[FRAME_KINDS] = {TSO4, TSO6, USO};

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

static void request(unsigned long code, struct ifreq *ifr)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	strcpy(ifr->ifr_name, NAME);
	assert_int_equal(ioctl(fd, code, ifr), 0);
	close(fd);
}

static void up(bool on)
{
	struct ifreq ifr = {.ifr_flags = on ? IFF_UP | IFF_RUNNING : 0};

	request(SIOCSIFFLAGS, &ifr);
}

static void set_address(void)
{
	struct ifreq ifr = {0};
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x0a090901)};

	memcpy(&ifr.ifr_addr, &in, sizeof(in));
	request(SIOCSIFADDR, &ifr);
}

/* The host has no address, so it says nothing by itself. */
static void prepare_interface(void)
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

static int packet_socket(void)
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

static bool build(struct rig *r, const struct virtio_net_config *config, unsigned pairs)
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

static uint8_t control(struct rig *r, uint8_t class, uint8_t code, const void *data, uint32_t len)
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
static void start(struct rig *r, uint64_t features)
{
	r->d.heap = 0x10000;
	assert_true(vdrv_start(&r->d, features | CONTROL | VDRV_V1,
			       features & MQ ? 2 * r->pairs + 1 : 3, RING));
	assert_int_equal(vdrv_status(&r->d), 0xf);
	r->buf_bytes = features & MRG ? 2000 : 70000;
	assert_int_equal(control(r, 0xee, 0, "", 1), 1);
}

static int setup_pairs(void **state, unsigned pairs)
{
	const struct virtio_net_config c = {.mac = {2, 1, 2, 3, 4, 5}, .mtu = 1500};

	*state = build(&rig, &c, pairs) ? &rig : NULL;
	return 0;
}

static int setup(void **state)
{
	return setup_pairs(state, 1);
}

static int setup_three(void **state)
{
	return setup_pairs(state, 3);
}

static int teardown(void **state)
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

static void give(struct rig *r, unsigned q, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		const unsigned at = r->d.rings[q].avail_idx % RING;
		const struct vbuf b = {RX_GPA + (uint64_t)at * r->buf_bytes, r->buf_bytes, true};

		assert_true(vring_add(&r->d.rings[q], &b, 1, false) >= 0);
	}
	vdrv_kick(&r->d, q);
}

static void host_sends(struct rig *r, enum frame_kind kind, const uint8_t *dst, size_t len,
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
static size_t guest_gets(struct rig *r, unsigned q, uint8_t *ret_header)
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

/* ---- from the guest ---- */

static void guest_sends(struct rig *r, unsigned q, enum frame_kind kind, size_t len, bool csum,
			uint8_t gso)
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
		features &= r->d.features; /* USO: as far as the kernel has it */
		for (unsigned kind = 0; kind < FRAME_KINDS; kind++) {
			if (kind != FRAME_UDP4 || r->d.features & USO || !(set & 16))
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

/* ---- the control queue ---- */

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
	    T(test_offloads),
	    T(test_udp_socket),
	    cmocka_unit_test_setup_teardown(test_pairs, setup_three, teardown),
	    T(test_filter),
	    T(test_mac),
	    T(test_checksum_in_address),
	    T(test_offloads_off),
	    T(test_link),
	    T(test_deleted),
	    cmocka_unit_test_setup_teardown(test_exclusive, setup_three, teardown),
	};

	if (unshare(CLONE_NEWNET) && unshare(CLONE_NEWUSER | CLONE_NEWNET))
		print_message("no network of its own: %s\n", strerror(errno));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
