/*
 * A vhost-net device on a kernel that only records (fake_vhost_net.h), and its driver: what the
 * tests of vhost-net share. Set-up that fails fails the test.
 */
#ifndef TESTS_UNIT_VHOST_NET_RIG_H
#define TESTS_UNIT_VHOST_NET_RIG_H

#include "base/bytes.h"
#include "devices/virtio/vhost_net.h"
#include "tests/unit/fake_vhost_net.h"
#include "tests/unit/loop_barrier.h"
#include "tests/unit/loop_thread.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define MMIO_GPA  0xd0000000
#define GSI	  4
#define HEAP	  0x10000
#define CTRL_GPA  (4 * MIB)
#define HOLE_GPA  0x100000000
#define MRG	  (UINT64_C(1) << 15)
#define MQ	  (UINT64_C(1) << 22)
#define MAC_READ  0x03020102
#define ALL	  (UINT64_MAX & ~(UINT64_C(1) << 33))
#define FOR_VHOST (VDRV_V1 | VDRV_EVENT | VDRV_INDIRECT | MRG)

static const struct virtio_net_config config = {.mac = {2, 1, 2, 3, 4, 5}};

struct fixture {
	struct fake_platform fp;
	struct loop_thread lt;
	struct pci_host *host; /* NULL: MMIO */
	struct virtio_dev *dev;
	struct virtio_transport *t;
	struct vdrv d;
	unsigned pairs;
	int tap_fds[FAKE_PAIRS];
};

/* What takes no call of a tap but to be closed. */
static inline struct tap make_tap(unsigned queues)
{
	struct tap tap = {.queues = queues, .name = "fake"};

	for (unsigned i = 0; i < TAP_QUEUES_MAX; i++) {
		tap.fds[i] = i < queues ? open("/dev/null", O_RDWR | O_CLOEXEC) : -1;
		assert_true(i >= queues || tap.fds[i] >= 0);
	}
	return tap;
}

static inline void build(struct fixture *f, struct tap *tap, bool on_pci)
{
	const struct pci_host_config pci = {
	    .ports = true, .ecam_gpa = 0xe0000000, .mem32_gpa = 0xc0000000, .mem32_len = 16 * MIB};
	struct vhost_net v = VHOST_NET_INIT;

	f->pairs = tap->queues;
	memcpy(f->tap_fds, tap->fds, sizeof(f->tap_fds));
	fake_platform_init_hole(&f->fp, 8 * MIB, HOLE_GPA, MIB);
	loop_thread_new(&f->lt, LOOP_AUTO);
	assert_int_equal(vhost_net_open("/dev/null", f->pairs, fake_ioctl, &v, NULL), 0);
	assert_int_equal(
	    virtio_vhost_net_new(&config, tap, &v, &f->fp.plat, f->lt.loop, &f->dev, NULL), 0);
	assert_int_equal(v.n, 0);
	assert_int_equal(tap->queues, 0);
	if (on_pci) {
		assert_int_equal(pci_host_new(&f->fp.plat, &pci, &f->host, NULL), 0);
		assert_int_equal(virtio_pci_new(&f->fp.plat, f->host, f->dev, &f->t, NULL), 0);
		assert_true(vdrv_init_pci(&f->d, &f->fp, 1, HEAP));
	} else {
		assert_int_equal(virtio_mmio_new(&f->fp.plat, MMIO_GPA, GSI, f->dev, &f->t, NULL),
				 0);
		vdrv_init_mmio(&f->d, &f->fp, MMIO_GPA, GSI, HEAP);
	}
	loop_thread_start(&f->lt);
}

static inline int setup_pairs(void **state, unsigned pairs, bool on_pci)
{
	static struct fixture f;
	struct tap tap = make_tap(pairs);

	memset(&f, 0, sizeof(f));
	fake_vhost_init();
	build(&f, &tap, on_pci);
	*state = &f;
	return 0;
}

static inline int setup_one(void **state)
{
	return setup_pairs(state, 1, false);
}

static inline int setup_three(void **state)
{
	return setup_pairs(state, 3, false);
}

static inline int setup_pci(void **state)
{
	return setup_pairs(state, 3, true);
}

static inline int teardown(void **state)
{
	struct fixture *f = *state;

	virtio_transport_free(f->t);
	for (unsigned i = 0; i < f->pairs; i++) {
		assert_int_equal(fcntl(kernel.pairs[i].fd, F_GETFD), -1);
		assert_int_equal(fcntl(f->tap_fds[i], F_GETFD), -1);
		if (!kernel.fail)
			assert_false(fake_served(i));
	}
	loop_thread_free(&f->lt);
	pci_host_free(f->host);
	fake_platform_fini(&f->fp);
	return 0;
}

static inline bool start(struct fixture *f, uint64_t wanted)
{
	const unsigned queues = wanted & MQ ? 2 * f->pairs + 1 : 3;
	bool r;

	f->d.heap = HEAP;
	r = vdrv_start(&f->d, wanted, queues, 64);
	loop_rounds(f->lt.loop);
	return r;
}

/* The status in configuration space. */
static inline bool link_is_up(struct fixture *f)
{
	return vdrv_config(&f->d, 6, 2) & 1;
}

/* A command of the control queue, which is queue `q`; its answer. */
static inline uint8_t control(struct fixture *f, unsigned q, uint8_t class, uint8_t code,
			      const void *data, uint32_t len)
{
	const struct vbuf b[] = {{CTRL_GPA, 2 + len, false}, {CTRL_GPA + 64, 1, true}};
	uint8_t *p = fake_mem(&f->fp, CTRL_GPA, 65);
	uint16_t head;
	uint32_t used;

	p[0] = class;
	p[1] = code;
	memcpy(p + 2, data, len);
	p[64] = 0x55;
	assert_true(vring_add(&f->d.rings[q], b, 2, false) >= 0);
	vdrv_kick(&f->d, q);
	assert_true(vdrv_wait(&f->d, q, 1));
	assert_true(vring_take(&f->d.rings[q], &head, &used));
	return p[64];
}

static inline uint8_t set_pairs(struct fixture *f, unsigned n)
{
	uint8_t data[2];

	le16_store(data, (uint16_t)n);
	return control(f, 2 * f->pairs, 4, 0, data, 2);
}

/* Was it rung since the last call? */
static inline bool rung(int eventfd)
{
	struct pollfd p = {.fd = eventfd, .events = POLLIN};
	eventfd_t n;

	return poll(&p, 1, 0) == 1 && !eventfd_read(eventfd, &n);
}

static inline void do_pause(struct fixture *f)
{
	struct news quiet = NEWS_INIT;

	assert_true(virtio_transport_pause(f->t, news_tell, &quiet));
	news_wait(&quiet);
}

static inline void do_resume(struct fixture *f)
{
	virtio_transport_resume(f->t);
	loop_rounds(f->lt.loop);
}

#endif
