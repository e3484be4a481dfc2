/*
 * A virtio-vsock device with its loop, a driver and a host's folder: what the tests of the device
 * share. The guest's packets are built by hand, from the specification's own offsets.
 */
#ifndef TESTS_UNIT_VSOCK_RIG_H
#define TESTS_UNIT_VSOCK_RIG_H

#include "base/checked.h"
#include "devices/virtio/vsock.h"
#include "tests/unit/loop_thread.h"
#include "tests/unit/virtio_driver.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#define MEM_BYTES  (32 * MIB)
#define HEAP	   0x10000
#define RX_GPA	   (8 * MIB)
#define TX_GPA	   (16 * MIB)
#define MMIO_GPA   0xd0000000
#define GSI	   6
#define CID	   42
#define OWN_PORT   4000
#define HDR	   44
#define RX_BYTES   4096
#define RX_BUFFERS 128
#define TX_BYTES   (HDR + 65536)
#define WAIT_MS	   20000
#define OK	   0xf
#define NEEDS	   0x40

enum { RX, TX, EVENT };

/* §5.10.6: operations */
enum { REQUEST = 1, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST };
enum { SHUT_RECV = 1, SHUT_SEND = 2 };

struct pkt {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port, len;
	uint16_t type, op;
	uint32_t flags, buf_alloc, fwd_cnt;
	const uint8_t *data; /* in guest memory, until the next rig_recv() */
};

struct vsock_rig {
	struct fake_platform fp;
	struct loop_thread lt;
	struct virtio_dev *dev;
	struct virtio_transport *t;
	struct pci_host *host;
	struct vdrv d;
	char folder[64], path[80];
	gpa_t rx_of[VRING_MAX]; /* buffer of each head */
	unsigned tx_next;
	int given[2];	    /* a pipe: descriptors of the guest's connections to OWN_PORT */
	atomic_bool refuse; /* them */
	gpa_t rx_back;	    /* the buffer to give back at the next rig_recv(); 0: none */
};

/* ---- the host's side ---- */

static inline void unix_address(struct sockaddr_un *a, const char *path)
{
	*a = (struct sockaddr_un){.sun_family = AF_UNIX};
	assert_true(strlen(path) < sizeof(a->sun_path));
	memcpy(a->sun_path, path, strlen(path) + 1);
}

static inline int host_listen(const char *path)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un a;

	unix_address(&a, path);
	unlink(path);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 1024), 0);
	return fd;
}

static inline int host_connect(const char *path)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un a;

	unix_address(&a, path);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

/* Reads exactly; false: the end came first. Fails the test at the deadline. */
static inline bool host_read(int fd, void *buf, size_t len)
{
	uint8_t *p = buf;

	while (len) {
		struct pollfd pfd = {.fd = fd, .events = POLLIN};
		ssize_t n;

		assert_int_equal(poll(&pfd, 1, WAIT_MS), 1);
		n = read(fd, p, len);
		if (n <= 0)
			return false;
		p += n;
		len -= (size_t)n;
	}
	return true;
}

static inline void host_write(int fd, const void *buf, size_t len)
{
	assert_int_equal(send(fd, buf, len, MSG_NOSIGNAL), (ssize_t)len);
}

static inline void host_expect_end(int fd)
{
	char c;

	assert_false(host_read(fd, &c, 1));
}

static inline int host_accept_port(int listener)
{
	struct pollfd pfd = {.fd = listener, .events = POLLIN};

	assert_int_equal(poll(&pfd, 1, WAIT_MS), 1);
	return accept(listener, NULL, NULL);
}

/* ---- the guest's side ---- */

static inline void rig_give(struct vsock_rig *r, gpa_t gpa)
{
	/* header and data apart, as older drivers have it, and together, as newer ones */
	const struct vbuf two[] = {{gpa, HDR, true}, {gpa + HDR, RX_BYTES, true}};
	const struct vbuf one[] = {{gpa, HDR + RX_BYTES, true}};
	const bool apart = gpa / 8192 & 1;
	const int head = vring_add(&r->d.rings[RX], apart ? two : one, apart ? 2 : 1, false);

	assert_true(head >= 0);
	r->rx_of[head] = gpa;
}

static inline void rig_give_all(struct vsock_rig *r, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		rig_give(r, RX_GPA + 8192 * i);
	vdrv_kick(&r->d, RX);
}

/* Driver on, with `n` receive buffers. */
static inline void rig_start(struct vsock_rig *r, unsigned n)
{
	r->d.heap = HEAP;
	r->rx_back = 0;
	assert_true(vdrv_start(&r->d, VDRV_EVENT | VDRV_INDIRECT, 3, 0));
	assert_int_equal(vdrv_status(&r->d), OK);
	rig_give_all(r, n);
}

static inline void pkt_put(uint8_t *p, const struct pkt *k)
{
	le64_store(p, k->src_cid);
	le64_store(p + 8, k->dst_cid);
	le32_store(p + 16, k->src_port);
	le32_store(p + 20, k->dst_port);
	le32_store(p + 24, k->len);
	le16_store(p + 28, k->type);
	le16_store(p + 30, k->op);
	le32_store(p + 32, k->flags);
	le32_store(p + 36, k->buf_alloc);
	le32_store(p + 40, k->fwd_cnt);
}

/* Reaps what the device has read. */
static inline void rig_reap(struct vsock_rig *r)
{
	uint16_t head;
	uint32_t len;

	while (vring_take(&r->d.rings[TX], &head, &len))
		assert_int_equal(len, 0);
}

/* Puts `have` bytes behind the header and offers the packet as it stands. */
static inline void rig_send_raw(struct vsock_rig *r, const struct pkt *k, const void *data,
				uint32_t have)
{
	/* places are used again when the device has read them: 64 of them, fewer in flight */
	rig_reap(r);
	while (r->d.rings[TX].nfree < r->d.rings[TX].size - 30) {
		assert_true(vdrv_wait(&r->d, TX, 1));
		rig_reap(r);
	}
	const gpa_t gpa = TX_GPA + (gpa_t)(r->tx_next++ % 64) * (128 * KIB);
	const struct vbuf bufs[] = {{gpa, HDR, false}, {gpa + HDR, have, false}};
	uint8_t *p = fake_mem(&r->fp, gpa, HDR + have);

	pkt_put(p, k);
	if (have)
		memcpy(p + HDR, data, have);
	assert_true(vring_add(&r->d.rings[TX], bufs, have ? 2 : 1, false) >= 0);
	vdrv_kick(&r->d, TX);
}

static inline struct pkt rig_pkt(uint32_t guest_port, uint32_t host_port, uint16_t op)
{
	return (struct pkt){.src_cid = CID,
			    .dst_cid = 2,
			    .src_port = guest_port,
			    .dst_port = host_port,
			    .type = 1,
			    .op = op,
			    .buf_alloc = 65536};
}

static inline void rig_send(struct vsock_rig *r, uint32_t guest_port, uint32_t host_port,
			    uint16_t op, uint32_t flags)
{
	struct pkt k = rig_pkt(guest_port, host_port, op);

	k.flags = flags;
	rig_send_raw(r, &k, NULL, 0);
}

static inline void rig_send_data(struct vsock_rig *r, uint32_t guest_port, uint32_t host_port,
				 const void *data, uint32_t len)
{
	struct pkt k = rig_pkt(guest_port, host_port, RW);

	k.len = len;
	rig_send_raw(r, &k, data, len);
}

/* The next packet from the device. */
static inline struct pkt rig_recv(struct vsock_rig *r)
{
	struct pkt k;
	uint16_t head;
	uint32_t len;
	const uint8_t *p;
	gpa_t gpa;

	if (r->rx_back) {
		rig_give(r, r->rx_back);
		vdrv_kick(&r->d, RX);
	}
	if (!vring_used_waiting(&r->d.rings[RX]))
		assert_true(vdrv_wait(&r->d, RX, 1));
	assert_true(vring_take(&r->d.rings[RX], &head, &len));
	gpa = r->rx_back = r->rx_of[head];
	p = fake_mem(&r->fp, gpa, HDR + RX_BYTES);
	k = (struct pkt){
	    .src_cid = le64_load(p),
	    .dst_cid = le64_load(p + 8),
	    .src_port = le32_load(p + 16),
	    .dst_port = le32_load(p + 20),
	    .len = le32_load(p + 24),
	    .type = le16_load(p + 28),
	    .op = le16_load(p + 30),
	    .flags = le32_load(p + 32),
	    .buf_alloc = le32_load(p + 36),
	    .fwd_cnt = le32_load(p + 40),
	    .data = p + HDR,
	};
	assert_int_equal(len, HDR + k.len);
	assert_int_equal(k.dst_cid, CID);
	return k;
}

static inline struct pkt rig_expect(struct vsock_rig *r, uint16_t op, uint32_t host_port,
				    uint32_t guest_port)
{
	const struct pkt k = rig_recv(r);

	assert_int_equal(k.op, op);
	assert_int_equal(k.src_port, host_port);
	assert_int_equal(k.dst_port, guest_port);
	return k;
}

/* A host program's connection to `guest_port`, accepted; returns its socket. */
static inline int rig_host_to_guest(struct vsock_rig *r, uint32_t guest_port, uint32_t *ret_port)
{
	char line[32], want[32];
	const int fd = host_connect(r->path);
	struct pkt k;

	host_write(fd, line, (size_t)snprintf(line, sizeof(line), "CONNECT %u\n", guest_port));
	k = rig_recv(r);
	assert_int_equal(k.op, REQUEST);
	assert_int_equal(k.dst_port, guest_port);
	assert_int_equal(k.src_cid, 2);
	assert_int_equal(k.type, 1);
	rig_send(r, guest_port, k.src_port, RESPONSE, 0);
	snprintf(want, sizeof(want), "OK %u\n", k.src_port);
	assert_true(host_read(fd, line, strlen(want)));
	assert_memory_equal(line, want, strlen(want));
	*ret_port = k.src_port;
	return fd;
}

/* The guest's connection to the host's listener at `host_port`. */
static inline int rig_guest_to_host(struct vsock_rig *r, int listener, uint32_t guest_port,
				    uint32_t host_port)
{
	rig_send(r, guest_port, host_port, REQUEST, 0);
	rig_expect(r, RESPONSE, host_port, guest_port);
	return host_accept_port(listener);
}

static inline int rig_listen(struct vsock_rig *r, uint32_t port)
{
	char path[108];

	snprintf(path, sizeof(path), "%s_%u", r->path, port);
	return host_listen(path);
}

/* ---- life ---- */

static inline bool rig_given(void *ctx, int fd)
{
	struct vsock_rig *r = ctx;

	return !atomic_load(&r->refuse) && write(r->given[1], &fd, sizeof(fd)) == sizeof(fd);
}

static inline void rig_plug(struct vsock_rig *r, enum vdrv_kind kind, enum loop_backend backend,
			    unsigned conns)
{
	const struct pci_host_config hc = {.ports = true,
					   .ecam_gpa = 0xe0000000,
					   .mem32_gpa = 0xc0000000,
					   .mem32_len = 0x1000000,
					   .mem64_gpa = 64 * GIB,
					   .mem64_len = GIB};
	struct virtio_vsock_config config = {
	    .cid = CID, .conns = conns, .accepted = rig_given, .ctx = r, .own_port = OWN_PORT};

	memset(r, 0, sizeof(*r));
	assert_int_equal(pipe(r->given), 0);
	snprintf(r->folder, sizeof(r->folder), "/tmp/test-vsock.XXXXXX");
	assert_non_null(mkdtemp(r->folder));
	snprintf(r->path, sizeof(r->path), "%s/v", r->folder);
	config.path = r->path;
	config.listen_fd = host_listen(r->path);
	fake_platform_init(&r->fp, MEM_BYTES);
	loop_thread_new(&r->lt, backend);
	assert_int_equal(virtio_vsock_new(&config, r->lt.loop, &r->dev, NULL), 0);
	if (kind == VDRV_MMIO) {
		assert_int_equal(virtio_mmio_new(&r->fp.plat, MMIO_GPA, GSI, r->dev, &r->t, NULL),
				 0);
		vdrv_init_mmio(&r->d, &r->fp, MMIO_GPA, GSI, HEAP);
	} else {
		assert_int_equal(pci_host_new(&r->fp.plat, &hc, &r->host, NULL), 0);
		assert_int_equal(virtio_pci_new(&r->fp.plat, r->host, r->dev, &r->t, NULL), 0);
		assert_true(vdrv_init_pci(&r->d, &r->fp, 1, HEAP));
	}
	loop_thread_start(&r->lt);
}

static inline void rig_unplug(struct vsock_rig *r)
{
	char command[128];

	virtio_transport_free(r->t);
	pci_host_free(r->host);
	loop_thread_free(&r->lt);
	fake_platform_fini(&r->fp);
	close(r->given[0]);
	close(r->given[1]);
	snprintf(command, sizeof(command), "rm -rf %s", r->folder);
	assert_int_equal(system(command), 0);
}

static inline int setup(void **state, enum vdrv_kind kind, enum loop_backend backend)
{
	static struct vsock_rig r;

	rig_plug(&r, kind, backend, 0);
	rig_start(&r, RX_BUFFERS);
	*state = &r;
	return 0;
}

static inline int setup_mmio(void **state)
{
	return setup(state, VDRV_MMIO, LOOP_AUTO);
}

static inline int setup_pci_epoll(void **state)
{
	return setup(state, VDRV_PCI, LOOP_EPOLL);
}

static inline int teardown(void **state)
{
	rig_unplug(*state);
	return 0;
}

#define BOTH(f)                                                   \
	cmocka_unit_test_setup_teardown(f, setup_mmio, teardown), \
	    cmocka_unit_test_setup_teardown(f, setup_pci_epoll, teardown)

#endif
