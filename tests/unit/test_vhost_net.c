/* vhost-net on a kernel that only records what it is told, and in part on a real tap. */
#include "base/bytes.h"
#include "devices/virtio/vhost_net.h"
#include "tests/unit/fake_vhost_net.h"
#include "tests/unit/loop_barrier.h"
#include "tests/unit/loop_thread.h"

#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
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
	struct virtio_dev *dev;
	struct virtio_transport *t;
	struct vdrv d;
	unsigned pairs;
	int tap_fds[FAKE_PAIRS];
};

/* What takes no call of a tap but to be closed. */
static struct tap make_tap(unsigned queues)
{
	struct tap tap = {.queues = queues, .name = "fake"};

	for (unsigned i = 0; i < TAP_QUEUES_MAX; i++) {
		tap.fds[i] = i < queues ? open("/dev/null", O_RDWR | O_CLOEXEC) : -1;
		assert_true(i >= queues || tap.fds[i] >= 0);
	}
	return tap;
}

static void build(struct fixture *f, struct tap *tap)
{
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
	assert_int_equal(virtio_mmio_new(&f->fp.plat, MMIO_GPA, GSI, f->dev, &f->t, NULL), 0);
	vdrv_init_mmio(&f->d, &f->fp, MMIO_GPA, GSI, HEAP);
	loop_thread_start(&f->lt);
}

static int setup_pairs(void **state, unsigned pairs)
{
	static struct fixture f;
	struct tap tap = make_tap(pairs);

	memset(&f, 0, sizeof(f));
	fake_vhost_init();
	build(&f, &tap);
	*state = &f;
	return 0;
}

static int setup_one(void **state)
{
	return setup_pairs(state, 1);
}

static int setup_three(void **state)
{
	return setup_pairs(state, 3);
}

static int teardown(void **state)
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
	fake_platform_fini(&f->fp);
	return 0;
}

static bool start(struct fixture *f, uint64_t wanted)
{
	const unsigned queues = wanted & MQ ? 2 * f->pairs + 1 : 3;
	bool r;

	f->d.heap = HEAP;
	r = vdrv_start(&f->d, wanted, queues, 64);
	loop_rounds(f->lt.loop);
	return r;
}

/* The status in configuration space. */
static bool link_is_up(struct fixture *f)
{
	return vdrv_config(&f->d, 6, 2) & 1;
}

/* A command of the control queue, which is queue `q`; its answer. */
static uint8_t control(struct fixture *f, unsigned q, uint8_t class, uint8_t code, const void *data,
		       uint32_t len)
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

static uint8_t set_pairs(struct fixture *f, unsigned n)
{
	uint8_t data[2];

	le16_store(data, (uint16_t)n);
	return control(f, 2 * f->pairs, 4, 0, data, 2);
}

/* Was it rung since the last call? */
static bool rung(int eventfd)
{
	struct pollfd p = {.fd = eventfd, .events = POLLIN};
	eventfd_t n;

	return poll(&p, 1, 0) == 1 && !eventfd_read(eventfd, &n);
}

/* ---- set-up ---- */

static void assert_set_up(struct fixture *f, unsigned pair)
{
	const struct fake_pair *p = &kernel.pairs[pair];

	assert_int_equal(p->features, FOR_VHOST);
	assert_int_equal(p->nregions, 2);
	assert_int_equal(p->regions[0].memory_size, 8 * MIB);
	assert_ptr_equal((void *)(uintptr_t)p->regions[0].userspace_addr, fake_mem(&f->fp, 0, 1));
	assert_int_equal(p->regions[1].guest_phys_addr, HOLE_GPA);
	for (unsigned i = 0; i < 2; i++) {
		const struct fake_ring r = fake_ring_of(pair, i);
		const struct vring *v = &f->d.rings[2 * pair + i];

		assert_int_equal(r.num, 64);
		assert_int_equal(r.base, 0);
		assert_ptr_equal((void *)(uintptr_t)r.addr.desc_user_addr,
				 fake_mem(&f->fp, v->desc, 1));
		assert_ptr_equal((void *)(uintptr_t)r.addr.avail_user_addr,
				 fake_mem(&f->fp, v->avail, 1));
		assert_ptr_equal((void *)(uintptr_t)r.addr.used_user_addr,
				 fake_mem(&f->fp, v->used, 1));
		assert_int_equal(r.kick, f->dev->kick_fd[2 * pair + i]);
		assert_true(r.call >= 0 && r.error >= 0 && r.call != r.error);
	}
}

static void test_one_pair(void **state)
{
	struct fixture *f = *state;

	assert_true(start(f, ALL));
	assert_int_equal(vdrv_status(&f->d), 0xf);
	assert_int_equal(vdrv_id(&f->d), 1);
	assert_int_equal(vdrv_config(&f->d, 0, 4), MAC_READ);
	assert_set_up(f, 0);
	assert_int_equal(fake_ring_of(0, 0).backend, f->tap_fds[0]);
	assert_int_equal(fake_ring_of(0, 1).backend, f->tap_fds[0]);
	/* for what the driver did before there was a backend */
	assert_true(rung(fake_ring_of(0, 0).kick));
	assert_true(rung(fake_ring_of(0, 1).kick));
}

static void test_several_pairs(void **state)
{
	struct fixture *f = *state;

	assert_true(start(f, ALL));
	assert_int_equal(vdrv_config(&f->d, 8, 2), 3);
	for (unsigned i = 0; i < 3; i++) {
		assert_set_up(f, i);
		assert_int_equal(fake_served(i), i == 0);
	}
	assert_int_equal(set_pairs(f, 3), 0);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(fake_ring_of(i, 0).backend, f->tap_fds[i]);
		assert_int_equal(fake_ring_of(i, 1).backend, f->tap_fds[i]);
	}
	assert_int_equal(set_pairs(f, 4), 1);
	assert_int_equal(set_pairs(f, 0), 1);
	assert_true(fake_served(2));
	assert_int_equal(set_pairs(f, 1), 0);
	assert_true(fake_served(0));
	assert_false(fake_served(1));
	assert_false(fake_served(2));
}

/* A driver that knows one pair has its control queue where the second pair's are otherwise. */
static void test_driver_of_one_pair(void **state)
{
	struct fixture *f = *state;
	const uint8_t ack = 1;

	assert_true(start(f, ALL & ~MQ));
	assert_true(fake_served(0));
	assert_int_equal(fake_ring_of(1, 0).num, 0);
	assert_int_equal(control(f, 2, 3, 0, &ack, 1), 0);
	assert_false(fake_served(1));
}

static void test_pair_that_lacks_a_queue(void **state)
{
	struct fixture *f = *state;

	/* the queues 0 to 3, and neither the third pair nor a control queue */
	f->d.heap = HEAP;
	assert_true(vdrv_start(&f->d, ALL, 4, 64));
	loop_rounds(f->lt.loop);
	assert_true(fake_served(0));
	assert_int_equal(fake_ring_of(2, 0).num, 0);
	f->d.heap = HEAP;
	vdrv_start(&f->d, ALL, 1, 64);
	assert_int_equal(vdrv_status(&f->d) & 0x40, 0x40);
	assert_false(fake_served(0));
}

static void test_only_what_was_negotiated(void **state)
{
	struct fixture *f = *state;

	assert_true(start(f, 0));
	assert_int_equal(kernel.pairs[0].features, VDRV_V1);
}

static void test_same_features_as_built_in(void **state)
{
	struct fixture *f = *state;
	struct tap tap = make_tap(1);
	struct virtio_dev *dev;

	assert_int_equal(virtio_net_new(&config, &tap, f->lt.loop, &dev, NULL), 0);
	assert_int_equal(f->dev->features, dev->features);
	assert_true(dev->features & MRG);
	dev->ops->free(dev);
}

static void test_kernel_without_mergeable_buffers(void **state)
{
	struct tap tap = make_tap(1);
	struct vhost_net v = VHOST_NET_INIT;
	struct fixture *f = *state;
	struct virtio_dev *dev;

	kernel.npairs = 0;
	kernel.features &= ~MRG;
	assert_int_equal(vhost_net_open("/dev/null", 1, fake_ioctl, &v, NULL), 0);
	assert_int_equal(
	    virtio_vhost_net_new(&config, &tap, &v, &f->fp.plat, f->lt.loop, &dev, NULL), 0);
	assert_int_equal(dev->features, f->dev->features & ~MRG);
	dev->ops->free(dev);
}

/* ---- signals ---- */

static void test_interrupts_pass(void **state)
{
	struct fixture *f = *state;

	assert_true(start(f, ALL));
	vdrv_queue_irqs(&f->d, 0);
	for (unsigned i = 0; i < 60; i++) {
		uint64_t irqs = 0;

		assert_int_equal(eventfd_write(fake_ring_of(i % 3, i & 1).call, 1), 0);
		for (unsigned ms = 0; !irqs && ms < VDRV_WAIT_MS; ms++) {
			irqs = vdrv_queue_irqs(&f->d, 0);
			if (!irqs)
				usleep(1000);
		}
		assert_true(irqs);
	}
}

static void test_kernel_gives_up(void **state)
{
	struct fixture *f = *state;

	assert_true(start(f, ALL));
	assert_int_equal(eventfd_write(fake_ring_of(0, 1).error, 1), 0);
	assert_true(vdrv_wait_config(&f->d));
	assert_int_equal(vdrv_status(&f->d), 0xf | 0x40);
	assert_true(start(f, ALL));
	assert_int_equal(vdrv_status(&f->d), 0xf);
	assert_true(fake_served(0));
}

/* ---- reset, pause ---- */

static void test_reset_stops_it(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 50; i++) {
		assert_true(start(f, ALL));
		if (i & 1)
			assert_int_equal(set_pairs(f, 3), 0);
		eventfd_write(fake_ring_of(0, 0).call, 1);
		assert_true(fake_served(0));
		vdrv_reset(&f->d);
		for (unsigned k = 0; k < 3; k++)
			assert_false(fake_served(k));
	}
}

static void do_pause(struct fixture *f)
{
	struct news quiet = NEWS_INIT;

	assert_true(virtio_transport_pause(f->t, news_tell, &quiet));
	news_wait(&quiet);
}

static void do_resume(struct fixture *f)
{
	virtio_transport_resume(f->t);
	loop_rounds(f->lt.loop);
}

/* The kernel's place in the rings is read when it has stopped, and told before it goes on. */
static void test_pause_keeps_the_place(void **state)
{
	struct fixture *f = *state;
	static const unsigned long order[] = {
	    VHOST_NET_SET_BACKEND,
	    VHOST_NET_SET_BACKEND,
	    VHOST_GET_VRING_BASE,
	    VHOST_GET_VRING_BASE,
	};
	static const unsigned long back[] = {
	    VHOST_SET_VRING_BASE,
	    VHOST_SET_VRING_BASE,
	    VHOST_NET_SET_BACKEND,
	    VHOST_NET_SET_BACKEND,
	};

	assert_true(start(f, ALL));
	assert_int_equal(set_pairs(f, 2), 0);
	for (unsigned i = 0; i < 50; i++) {
		unsigned calls = fake_calls();

		for (unsigned k = 0; k < 4; k++) {
			AUTOLOCK(&kernel.lock);
			kernel.pairs[k / 2].rings[k & 1].base = 65530 + i + k;
		}
		do_pause(f);
		assert_int_equal(fake_calls(), calls + 8);
		for (unsigned k = 0; k < 8; k++)
			assert_int_equal(fake_call(calls + k), order[k % 4]);
		for (unsigned k = 0; k < 2; k++) {
			AUTOLOCK(&kernel.lock);
			kernel.pairs[k].rings[0].base = kernel.pairs[k].rings[1].base = 0;
		}
		for (unsigned k = 0; k < 4; k++)
			rung(fake_ring_of(k / 2, k & 1).kick);
		calls = fake_calls();
		eventfd_write(fake_ring_of(0, 0).call, 1);
		loop_rounds(f->lt.loop);
		assert_int_equal(fake_calls(), calls);
		do_resume(f);
		assert_int_equal(fake_calls(), calls + 8);
		for (unsigned k = 0; k < 8; k++)
			assert_int_equal(fake_call(calls + k), back[k % 4]);
		for (unsigned k = 0; k < 4; k++) {
			const struct fake_ring r = fake_ring_of(k / 2, k & 1);

			assert_int_equal(r.base, (uint16_t)(65530 + i + k));
			assert_int_equal(r.backend, f->tap_fds[k / 2]);
			assert_true(rung(r.kick));
		}
		assert_false(fake_served(2));
	}
	assert_int_equal(set_pairs(f, 3), 0); /* the control queue goes on as well */
}

static void test_reset_while_paused(void **state)
{
	struct fixture *f = *state;
	struct news quiet = NEWS_INIT;

	assert_true(start(f, ALL));
	kernel.pairs[0].rings[0].base = 9;
	do_pause(f);
	vdrv_reset(&f->d);
	assert_false(fake_served(0));
	assert_false(virtio_transport_pause(f->t, news_tell, &quiet));
	assert_true(start(f, ALL));
	assert_true(fake_served(0));
	assert_int_equal(fake_ring_of(0, 0).base, 0);
}

/* ---- the link ---- */

static void test_link(void **state)
{
	struct fixture *f = *state;

	assert_true(start(f, ALL));
	virtio_net_set_link(f->dev, false);
	assert_false(fake_served(0));
	assert_true(vdrv_wait_config(&f->d));
	assert_false(link_is_up(f));
	assert_int_equal(set_pairs(f, 2), 0);
	assert_false(fake_served(0));
	assert_false(fake_served(1));
	virtio_net_set_link(f->dev, true);
	assert_true(link_is_up(f));
	assert_true(fake_served(0));
	assert_true(fake_served(1));
	assert_false(fake_served(2));
}

static void test_link_while_paused_or_off(void **state)
{
	struct fixture *f = *state;

	virtio_net_set_link(f->dev, false);
	assert_true(start(f, ALL));
	assert_false(fake_served(0));
	do_pause(f);
	virtio_net_set_link(f->dev, true);
	assert_false(fake_served(0));
	do_resume(f);
	assert_true(fake_served(0));
	kernel.pairs[0].rings[1].base = 40000;
	do_pause(f);
	kernel.pairs[0].rings[1].base = 0;
	virtio_net_set_link(f->dev, false);
	do_resume(f);
	assert_false(fake_served(0));
	virtio_net_set_link(f->dev, true);
	assert_true(fake_served(0));
	assert_int_equal(fake_ring_of(0, 1).base, 40000);
	vdrv_reset(&f->d);
	virtio_net_set_link(f->dev, false);
	virtio_net_set_link(f->dev, true);
	assert_false(fake_served(0));
}

static void *flip_link(void *arg)
{
	struct fixture *f = arg;

	for (unsigned i = 0; i < 300; i++)
		virtio_net_set_link(f->dev, i & 1);
	return NULL;
}

static void test_link_and_pairs_at_once(void **state)
{
	struct fixture *f = *state;
	pthread_t thread;

	assert_true(start(f, ALL));
	assert_int_equal(pthread_create(&thread, NULL, flip_link, f), 0);
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(set_pairs(f, 1 + i % 3), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_true(link_is_up(f));
	assert_int_equal(set_pairs(f, 2), 0);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(fake_served(i), i < 2);
}

/* ---- refusals ---- */

static void test_refused_set_up(void **state)
{
	static const unsigned long requests[] = {
	    VHOST_SET_FEATURES,	  VHOST_SET_MEM_TABLE,	VHOST_SET_VRING_NUM,  VHOST_SET_VRING_BASE,
	    VHOST_SET_VRING_ADDR, VHOST_SET_VRING_KICK, VHOST_SET_VRING_CALL, VHOST_SET_VRING_ERR,
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < 2 * ARRAY_LEN(requests); i++) {
		const unsigned long request = requests[i / 2];
		const bool of_ring =
		    request != VHOST_SET_FEATURES && request != VHOST_SET_MEM_TABLE;

		fake_vhost_fail(request, of_ring ? (int)(i & 1) : -1, EFAULT);
		start(f, ALL);
		assert_int_equal(vdrv_status(&f->d) & 0x40, 0x40);
		for (unsigned k = 0; k < 3; k++)
			assert_false(fake_served(k));
		fake_vhost_fail(0, -1, 0);
	}
	assert_true(start(f, ALL));
	assert_int_equal(vdrv_status(&f->d), 0xf);
	assert_true(fake_served(0));
}

/* The driver lives, without a link, and the next one has it again. */
static void test_refused_backend(void **state)
{
	struct fixture *f = *state;

	for (int ring = 0; ring < 2; ring++) {
		fake_vhost_fail(VHOST_NET_SET_BACKEND, ring, EBADFD);
		assert_true(start(f, ALL));
		assert_int_equal(vdrv_status(&f->d), 0xf);
		assert_false(fake_served(0));
		assert_false(link_is_up(f));
		fake_vhost_fail(0, -1, 0);
		virtio_net_set_link(f->dev, true);
		assert_false(link_is_up(f));
		assert_true(start(f, ALL));
		assert_true(link_is_up(f));
		assert_true(fake_served(0));
	}
}

static void test_refused_pair(void **state)
{
	struct fixture *f = *state;

	assert_true(start(f, ALL));
	fake_vhost_fail(VHOST_NET_SET_BACKEND, 1, ENOMEM);
	assert_int_equal(set_pairs(f, 2), 1);
	assert_true(fake_served(0));
	assert_false(fake_served(1));
	assert_true(link_is_up(f));
	fake_vhost_fail(0, -1, 0);
	assert_int_equal(set_pairs(f, 2), 0);
	assert_true(fake_served(1));
}

static void test_refused_pause_and_resume(void **state)
{
	static const unsigned long requests[] = {
	    VHOST_GET_VRING_BASE,
	    VHOST_SET_VRING_BASE,
	    VHOST_NET_SET_BACKEND,
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_LEN(requests); i++) {
		assert_true(start(f, ALL));
		assert_true(fake_served(0));
		fake_vhost_fail(requests[i], -1, EFAULT);
		do_pause(f);
		do_resume(f);
		assert_false(fake_served(0));
		assert_false(link_is_up(f));
		fake_vhost_fail(0, -1, 0);
	}
	fake_vhost_fail(VHOST_NET_SET_BACKEND, -1, EFAULT);
	assert_true(start(f, ALL));
	fake_vhost_fail(0, -1, 0);
	assert_true(start(f, ALL));
	virtio_net_set_link(f->dev, false);
	fake_vhost_fail(VHOST_NET_SET_BACKEND, -1, EFAULT);
	virtio_net_set_link(f->dev, true);
	assert_false(link_is_up(f));
	fake_vhost_fail(0, -1, 0);
}

/* A kernel that does not let go of the rings is made to. */
static void test_kernel_does_not_stop(void **state)
{
	struct fixture *f = *state;

	assert_true(start(f, ALL));
	kernel.fail_unbind = true;
	fake_vhost_fail(VHOST_NET_SET_BACKEND, 1, EIO);
	vdrv_reset(&f->d);
	assert_int_equal(fcntl(kernel.pairs[0].fd, F_GETFD), -1);
	assert_int_not_equal(fcntl(kernel.pairs[1].fd, F_GETFD), -1);
	start(f, ALL);
	assert_int_equal(vdrv_status(&f->d) & 0x40, 0x40);
}

static void test_opening_fails(void **state)
{
	struct vhost_net v = VHOST_NET_INIT;
	struct err err = ERR_INIT;
	(void)state;

	fake_vhost_init();
	assert_int_equal(vhost_net_open("/no/such", 1, fake_ioctl, &v, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "modprobe vhost_net"));
	assert_int_equal(vhost_net_open("/dev/null", 0, fake_ioctl, &v, NULL), -EINVAL);
	assert_int_equal(vhost_net_open("/dev/null", 8, fake_ioctl, &v, NULL), -EINVAL);
	err = (struct err)ERR_INIT;
	kernel.features = VDRV_V1;
	assert_int_equal(vhost_net_open("/dev/null", 1, fake_ioctl, &v, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.msg, "backend=builtin"));
	fake_vhost_fail(VHOST_SET_OWNER, -1, EBUSY);
	assert_int_equal(vhost_net_open("/dev/null", 2, fake_ioctl, &v, NULL), -EBUSY);
	assert_int_equal(v.n, 0);
	fake_vhost_init();
	assert_int_equal(vhost_net_open("/dev/null", 7, fake_ioctl, &v, NULL), 0);
	assert_int_equal(v.n, 7);
	vhost_net_close(&v);
	assert_int_equal(v.n, 0);
	for (unsigned i = 0; i < 7; i++)
		assert_int_equal(fcntl(kernel.pairs[i].fd, F_GETFD), -1);
}

/* What is refused stays the caller's. */
static void test_making_fails(void **state)
{
	struct fixture *f = *state;
	const struct virtio_net_config bad = {.mac = {1, 1, 2, 3, 4, 5}};
	struct vhost_net v = VHOST_NET_INIT;
	struct tap tap = make_tap(2);
	struct virtio_dev *dev = NULL;
	struct err err = ERR_INIT;
	struct stat_fds {
		int zero;
	} before = {fcntl(0, F_GETFD)};

	kernel.npairs = 0;
	assert_int_equal(vhost_net_open("/dev/null", 1, fake_ioctl, &v, NULL), 0);
#define NEW(c) virtio_vhost_net_new(c, &tap, &v, &f->fp.plat, f->lt.loop, &dev, &err)
	assert_int_equal(NEW(&config), -EINVAL);
	vhost_net_close(&v);
	assert_int_equal(vhost_net_open("/dev/null", 2, fake_ioctl, &v, NULL), 0);
	assert_int_equal(NEW(&bad), -EINVAL);
	tap.socket = true;
	err = (struct err)ERR_INIT;
	assert_int_equal(NEW(&config), -EINVAL);
	assert_non_null(strstr(err.msg, "backend=builtin"));
#undef NEW
	assert_null(dev);
	assert_int_equal(fcntl(0, F_GETFD), before.zero);
	assert_int_equal(v.n, 2);
	assert_int_equal(tap.queues, 2);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_not_equal(fcntl(v.pairs[i].fd, F_GETFD), -1);
		assert_int_not_equal(fcntl(tap.fds[i], F_GETFD), -1);
	}
	vhost_net_close(&v);
	tap_close(&tap);
}

/* ---- a real tap ---- */

static void delete_interface(const char *name)
{
	struct {
		struct nlmsghdr head;
		struct ifinfomsg info;
	} m = {
	    .head = {.nlmsg_len = sizeof(m),
		     .nlmsg_type = RTM_DELLINK,
		     .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK},
	    .info = {.ifi_index = (int)if_nametoindex(name)},
	};
	struct {
		struct nlmsghdr head;
		struct nlmsgerr error;
	} answer;
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	assert_true(fd >= 0 && m.info.ifi_index > 0);
	assert_int_equal(send(fd, &m, sizeof(m), 0), sizeof(m));
	assert_true(recv(fd, &answer, sizeof(answer), 0) >= (ssize_t)sizeof(answer));
	assert_int_equal(answer.error.error, 0);
	close(fd);
}

static void test_tap_deleted(void **state)
{
	static struct fixture f;
	const uint8_t on = 1;
	void *s = &f;
	struct tap tap;

	(void)state;
	/* a network of our own, where this process may make one */
	if ((unshare(CLONE_NEWNET) && unshare(CLONE_NEWUSER | CLONE_NEWNET)) ||
	    tap_open("vhost0", 2, false, &tap, NULL)) {
		skip();
		return;
	}
	memset(&f, 0, sizeof(f));
	fake_vhost_init();
	build(&f, &tap);
	assert_true(start(&f, ALL));
	assert_int_equal(set_pairs(&f, 2), 0);
	assert_int_equal(control(&f, 4, 0, 1, &on, 1), 0); /* all of a group */
	assert_int_equal(set_pairs(&f, 1), 0);
	assert_int_equal(set_pairs(&f, 2), 0);
	assert_true(link_is_up(&f));
	vdrv_config_irqs(&f.d);
	delete_interface("vhost0");
	assert_true(vdrv_wait_config(&f.d));
	assert_false(link_is_up(&f));
	loop_rounds(f.lt.loop);
	assert_false(fake_served(0));
	assert_false(fake_served(1));
	assert_int_equal(vdrv_status(&f.d), 0xf);
	virtio_net_set_link(f.dev, true);
	assert_false(link_is_up(&f));
	start(&f, ALL);
	assert_false(link_is_up(&f));
	assert_false(fake_served(0));
	teardown(&s);
}

int main(void)
{
#define T1(f) cmocka_unit_test_setup_teardown(f, setup_one, teardown)
#define T3(f) cmocka_unit_test_setup_teardown(f, setup_three, teardown)
	const struct CMUnitTest tests[] = {
	    T1(test_one_pair),
	    T3(test_several_pairs),
	    T3(test_driver_of_one_pair),
	    T3(test_pair_that_lacks_a_queue),
	    T1(test_only_what_was_negotiated),
	    T1(test_same_features_as_built_in),
	    T1(test_kernel_without_mergeable_buffers),
	    T3(test_interrupts_pass),
	    T3(test_kernel_gives_up),
	    T3(test_reset_stops_it),
	    T3(test_pause_keeps_the_place),
	    T1(test_reset_while_paused),
	    T3(test_link),
	    T1(test_link_while_paused_or_off),
	    T3(test_link_and_pairs_at_once),
	    T3(test_refused_set_up),
	    T1(test_refused_backend),
	    T3(test_refused_pair),
	    T1(test_refused_pause_and_resume),
	    T3(test_kernel_does_not_stop),
	    cmocka_unit_test(test_opening_fails),
	    T1(test_making_fails),
	    cmocka_unit_test(test_tap_deleted),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
