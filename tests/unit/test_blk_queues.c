/* virtio-blk: breaches of the protocol, several queues, notifications, resets. */
#include "tests/unit/blk_fixture.h"

/* ---- breaches of the protocol ---- */

static void check_breach(struct fixture *f, const struct vbuf *bufs, unsigned n)
{
	struct blk_rig *rig = &f->rig;

	rig_start(rig, DEFAULT, QUEUES);
	vdrv_config_irqs(&rig->d);
	vring_add(&rig->d.rings[1], bufs, n, false);
	vdrv_kick(&rig->d, 1);
	assert_true(vdrv_wait_config(&rig->d));
	assert_int_equal(vdrv_status(&rig->d), STATUS_OK | STATUS_NEEDS);
	/* no queue takes anything any more */
	submitted(f);
	rig_add(rig, 0, T_IN, 0, DATA, 512);
	vring_publish(&rig->d.rings[0]);
	vdrv_notify(&rig->d, 0);
	vdrv_reset(&rig->d);
	assert_int_equal(vring_used_waiting(&rig->d.rings[0]), 0);
	assert_int_equal(submitted(f), 0);
	rig_start(rig, DEFAULT, QUEUES);
	assert_alive(f);
}

static void test_breaches_need_reset(void **state)
{
	struct fixture *f = *state;
	const gpa_t h = DATA, status = DATA + 64;
	const struct vbuf no_status[] = {{h, 16, false}, {DATA + 512, 512, false}};
	const struct vbuf no_header[] = {{DATA + 512, 512, true}, {status, 1, true}};
	const struct vbuf short_header[] = {{h, 15, false}, {status, 1, true}};
	const struct vbuf empty_status[] = {{h, 16, false}, {status, 0, true}};
	const struct vbuf outside[] = {
	    {h, 16, false}, {RIG_MEM_BYTES, 512, true}, {status, 1, true}};

	check_breach(f, no_status, 2);
	check_breach(f, no_header, 2);
	check_breach(f, short_header, 2);
	check_breach(f, empty_status, 2);
	check_breach(f, outside, 3);
}

/* ---- queues and notifications ---- */

static void test_each_queue_has_its_interrupt(void **state)
{
	struct fixture *f = *state;

	for (unsigned q = 0; q < QUEUES; q++)
		assert_int_equal(rig_do(&f->rig, q, T_OUT, q, DATA, 512), S_OK);
	assert_int_equal(submitted(f), QUEUES);
}

static void test_a_queue_may_be_left_out(void **state)
{
	struct fixture *f = *state;

	rig_start(&f->rig, DEFAULT, 2);
	vdrv_notify(&f->rig.d, 3);
	assert_int_equal(rig_do(&f->rig, 1, T_IN, 0, DATA, 512), S_OK);
}

static void test_one_interrupt_for_a_batch(void **state)
{
	struct fixture *f = *state;
	struct blk_rig *rig = &f->rig;

	fake_image_hold(&f->fi);
	for (unsigned i = 0; i < 32; i++)
		assert_true(rig_add(rig, 0, T_IN, i, DATA + 512 * i, 512));
	vring_irq_on(&rig->d.rings[0], 1);
	vdrv_kick(&rig->d, 0);
	assert_true(fake_image_wait_held(&f->fi, 32));
	vdrv_queue_irqs(&rig->d, 0);
	fake_image_release(&f->fi);
	/* the reset waits for them, and for their notification */
	vdrv_reset(&rig->d);
	assert_int_equal(vring_used_waiting(&rig->d.rings[0]), 32);
	assert_int_equal(vdrv_queue_irqs(&rig->d, 0), 1);
}

static void test_full_rings_of_all_queues(void **state)
{
	struct fixture *f = *state;
	struct blk_rig *rig = &f->rig;
	unsigned n = 0;

	fake_image_hold(&f->fi);
	for (unsigned q = 0; q < QUEUES; q++) {
		while (rig_add(rig, q, T_IN, n % DISK_SECTORS, DATA + 512 * (n % 1024), 512))
			n++;
		vdrv_kick(&rig->d, q);
	}
	assert_int_equal(n, QUEUES * 256);
	assert_true(fake_image_wait_held(&f->fi, n));
	fake_image_release(&f->fi);
	for (unsigned q = 0; q < QUEUES; q++)
		rig_finish(rig, q, 256);
	assert_alive(f);
}

/* A guest that answers every completion with a new request at once keeps nobody else waiting. */
static void test_busy_queue_starves_no_other(void **state)
{
	struct fixture *f = *state;
	struct blk_rig *rig = &f->rig;

	for (unsigned round = 0; round < 20; round++) {
		/* answered on the spot, without the image */
		while (rig_add(rig, 0, 99, 0, 0, 0))
			;
		vdrv_kick(&rig->d, 0);
		assert_int_equal(rig_do(rig, 1, T_IN, 0, DATA, 512), S_OK);
		rig_finish(rig, 0, 256);
	}
}

/* ---- reset ---- */

struct resetter {
	struct blk_rig *rig;
	_Atomic bool done;
};

static void *reset_thread(void *arg)
{
	struct resetter *r = arg;

	vdrv_reset(&r->rig->d);
	r->done = true;
	return NULL;
}

static void test_reset_waits_for_what_is_in_flight(void **state)
{
	struct fixture *f = *state;
	struct blk_rig *rig = &f->rig;
	struct resetter r = {.rig = rig};
	struct timespec until;
	pthread_t thread;
	uint16_t used;

	fake_image_hold(&f->fi);
	for (unsigned i = 0; i < 8; i++)
		assert_true(rig_add(rig, 0, T_IN, i, DATA + 512 * i, 512));
	vdrv_kick(&rig->d, 0);
	assert_true(fake_image_wait_held(&f->fi, 8));
	assert_int_equal(pthread_create(&thread, NULL, reset_thread, &r), 0);
	/* it must not come back while they are out */
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += 50 * 1000 * 1000;
	if (until.tv_nsec >= 1000 * 1000 * 1000) {
		until.tv_nsec -= 1000 * 1000 * 1000;
		until.tv_sec++;
	}
	assert_int_equal(pthread_timedjoin_np(thread, NULL, &until), ETIMEDOUT);
	assert_false(r.done);
	fake_image_release(&f->fi);
	assert_int_equal(pthread_join(thread, NULL), 0);

	/* and afterwards nothing moves any more */
	used = vring_used_waiting(&rig->d.rings[0]);
	assert_int_equal(used, 8);
	assert_int_equal(vdrv_status(&rig->d), 0);
	rig_start(rig, DEFAULT, QUEUES);
	assert_alive(f);
}

static void test_reset_over_and_over(void **state)
{
	struct fixture *f = *state;
	struct blk_rig *rig = &f->rig;

	for (unsigned i = 0; i < 300; i++) {
		const unsigned nqueues = i % QUEUES + 1;

		rig_start(rig, i & 1 ? DEFAULT : F_FLUSH, nqueues);
		for (unsigned q = 0; q < nqueues; q++) {
			for (unsigned k = 0; k < i % 50; k++)
				rig_add(rig, q, k % 7 ? T_IN : T_GET_ID, k, DATA + 512 * k, 512);
			vdrv_kick(&rig->d, q);
		}
		if (i % 3 == 0 && i % 50)
			assert_true(vdrv_wait(&rig->d, 0, 1));
		vdrv_reset(&rig->d);
		memset(mem(f, RIG_HEAP_GPA, 64 * KIB), 0, 64 * KIB);
	}
	rig_start(rig, DEFAULT, QUEUES);
	assert_alive(f);
}

/* The machine is taken down while requests are in flight. */
static void test_freed_while_in_flight(void **state)
{
	struct fixture *f = *state;
	struct blk_rig *rig = &f->rig;

	for (unsigned i = 0; i < 30; i++) {
		for (unsigned q = 0; q < QUEUES; q++) {
			while (rig_add(rig, q, T_OUT, 0, DATA, 4096))
				;
			vdrv_kick(&rig->d, q);
		}
		replug(f, &plain_disk, &plain_config);
		rig_start(rig, DEFAULT, QUEUES);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    BOTH(test_breaches_need_reset),
	    BOTH(test_each_queue_has_its_interrupt),
	    BOTH(test_a_queue_may_be_left_out),
	    BOTH(test_one_interrupt_for_a_batch),
	    BOTH(test_full_rings_of_all_queues),
	    BOTH(test_busy_queue_starves_no_other),
	    BOTH(test_reset_waits_for_what_is_in_flight),
	    BOTH(test_reset_over_and_over),
	    BOTH(test_freed_while_in_flight),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
