/* vhost-net on a kernel that only records: set-up, signals, reset, pause, link. */
#include "tests/unit/vhost_net_rig.h"

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

/* Where the entry of a queue's vector is masked. */
static void mask(struct fixture *f, unsigned queue, bool masked)
{
	const gpa_t table = f->d.common + 0x4000;

	fake_guest_write(&f->fp, DOORBELL_MMIO, table + 16 * (queue + 1) + 12, 4, masked);
}

/* The eventfd that the platform connects to the guest is the kernel's, but while it is masked. */
static void test_interrupts_go_straight(void **state)
{
	struct fixture *f = *state;
	int straight[6], fd;

	assert_true(start(f, ALL));
	for (unsigned i = 0; i < 6; i++) {
		straight[i] = fake_ring_of(i / 2, i & 1).call;
		for (unsigned k = 0; k < i; k++)
			assert_int_not_equal(straight[i], straight[k]);
		vdrv_queue_irqs(&f->d, i);
		assert_int_equal(eventfd_write(straight[i], 1), 0);
		assert_int_equal(vdrv_queue_irqs(&f->d, i), 1); /* the loop has no part in it */
	}
	for (unsigned n = 0; n < 20; n++) {
		mask(f, 3, true);
		fd = fake_ring_of(1, 1).call;
		assert_int_not_equal(fd, straight[3]);
		assert_int_equal(fake_ring_of(1, 0).call, straight[2]);
		assert_int_equal(eventfd_write(fd, 1), 0);
		loop_rounds(f->lt.loop);
		assert_int_equal(vdrv_queue_irqs(&f->d, 3), 0);
		mask(f, 3, false);
		assert_int_equal(vdrv_queue_irqs(&f->d, 3), 1);
		assert_int_equal(fake_ring_of(1, 1).call, straight[3]);
		/* what comes late at the first */
		assert_int_equal(eventfd_write(fd, 1), 0);
		loop_rounds(f->lt.loop);
		assert_int_equal(vdrv_queue_irqs(&f->d, 3), 1);
	}
}

static void test_interrupts_follow_the_vector(void **state)
{
	struct fixture *f = *state;
	int own, calls;

	assert_true(start(f, ALL));
	calls = fake_ring_of(0, 0).call;
	assert_int_equal(vdrv_queue_vector(&f->d, 0, 2), 2);
	assert_int_equal(fake_ring_of(0, 0).call, fake_ring_of(0, 1).call);
	assert_int_equal(vdrv_queue_vector(&f->d, 0, 0xffff), 0xffff);
	own = fake_ring_of(0, 0).call;
	assert_int_not_equal(own, calls);
	assert_int_not_equal(own, fake_ring_of(0, 1).call);
	assert_int_equal(vdrv_queue_vector(&f->d, 0, 1), 1);
	assert_int_equal(fake_ring_of(0, 0).call, calls);
	/* while nothing is set up, nothing is told; the next driver has no vector at first */
	vdrv_reset(&f->d);
	calls = (int)fake_calls();
	mask(f, 0, true);
	mask(f, 0, false);
	assert_int_equal(fake_calls(), calls);
	assert_true(start(f, ALL));
	mask(f, 0, true);
	assert_int_equal(fake_ring_of(0, 0).call, own);
}

static void test_no_interrupts_of_a_failure(void **state)
{
	struct fixture *f = *state;
	unsigned calls;

	fake_vhost_fail(VHOST_SET_VRING_ERR, 1, EFAULT);
	start(f, ALL);
	assert_int_equal(vdrv_status(&f->d) & 0x40, 0x40);
	fake_vhost_fail(0, -1, 0);
	calls = fake_calls();
	mask(f, 0, true);
	mask(f, 0, false);
	assert_int_equal(vdrv_queue_vector(&f->d, 0, 2), 2);
	assert_int_equal(fake_calls(), calls);
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

int main(void)
{
#define T1(f) cmocka_unit_test_setup_teardown(f, setup_one, teardown)
#define T3(f) cmocka_unit_test_setup_teardown(f, setup_three, teardown)
#define TP(f) cmocka_unit_test_setup_teardown(f, setup_pci, teardown)
	const struct CMUnitTest tests[] = {
	    T1(test_one_pair),
	    T3(test_several_pairs),
	    T3(test_driver_of_one_pair),
	    T3(test_pair_that_lacks_a_queue),
	    T1(test_only_what_was_negotiated),
	    T1(test_same_features_as_built_in),
	    T1(test_kernel_without_mergeable_buffers),
	    T3(test_interrupts_pass),
	    TP(test_interrupts_go_straight),
	    TP(test_interrupts_follow_the_vector),
	    TP(test_no_interrupts_of_a_failure),
	    T3(test_kernel_gives_up),
	    T3(test_reset_stops_it),
	    T3(test_pause_keeps_the_place),
	    T1(test_reset_while_paused),
	    T3(test_link),
	    T1(test_link_while_paused_or_off),
	    T3(test_link_and_pairs_at_once),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
