/* virtio-blk with limits: bytes and operations a second, of all queues together. */
#include "tests/unit/blk_fixture.h"

#include "devices/virtio/blk_limit.h"

#include <semaphore.h>

#define S  UINT64_C(1000000000)
#define MS UINT64_C(1000000)

/* ---- on a clock of the test's own ---- */

/* How many requests of `bytes` pass in `span_ns` when all waits are kept. */
static uint64_t pass(struct blk_limit *l, uint64_t bytes, uint64_t from_ns, uint64_t span_ns)
{
	uint64_t now_ns = from_ns, n = 0;

	while (now_ns < from_ns + span_ns) {
		n++;
		now_ns += blk_limit_spend(l, bytes, now_ns);
	}
	return n;
}

static void test_rates_are_met(void **state)
{
	struct blk_limit l;

	(void)state;
	/* the burst is 100 ms worth */
	blk_limit_init(&l, 0, 1000);
	assert_in_range(pass(&l, 1 * MIB, S, 100 * S), 100100 - 2, 100100 + 2);
	blk_limit_init(&l, 10 * MIB, 0);
	assert_in_range(pass(&l, 4096, S, 100 * S), 2560 * 100 + 256 - 4, 2560 * 100 + 256 + 4);
	/* both: the narrower one */
	blk_limit_init(&l, 10 * MIB, 100);
	assert_in_range(pass(&l, 4096, S, 100 * S), 10010 - 2, 10010 + 2);
	assert_in_range(pass(&l, 1 * MIB, 101 * S, 100 * S), 1000 - 2, 1001 + 2);
	/* far more in a ms than one */
	blk_limit_init(&l, 0, 1000000);
	assert_in_range(pass(&l, 0, S, S), 1100000 - 1001, 1100000 + 1);
}

static void test_no_limit(void **state)
{
	struct blk_limit l;

	(void)state;
	blk_limit_init(&l, 0, 0);
	assert_false(l.on);
	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(blk_limit_spend(&l, UINT64_MAX, S), 0);
}

/* ---- a device ---- */

#define OPS 100 /* and a burst of 10 */

static const struct virtio_blk_config ops_config = {
    .serial = SERIAL, .queues = QUEUES, .ops_per_s = OPS};
/* Stands still for hours after the first request of a MiB. */
static const struct virtio_blk_config stuck_config = {
    .serial = SERIAL, .queues = QUEUES, .bytes_per_s = 64};

static void limit(struct fixture *f, const struct virtio_blk_config *config)
{
	replug(f, &plain_disk, config);
	rig_start(&f->rig, DEFAULT, QUEUES);
}

static void add(struct fixture *f, unsigned q, unsigned n, uint32_t len)
{
	for (unsigned i = 0; i < n; i++)
		assert_true(rig_add(&f->rig, q, T_IN, 0, DATA, len));
}

/* The longest that a host under load may add. */
#define SLACK_NS (20 * S)

static void test_operations_a_second(void **state)
{
	struct fixture *f = *state;
	uint64_t took_ns;

	limit(f, &ops_config);
	took_ns = loop_now_ns();
	add(f, 0, 40, 512);
	rig_finish(&f->rig, 0, 40);
	took_ns = loop_now_ns() - took_ns;
	/* 10 at once, then one each 10 ms, one ahead */
	assert_in_range(took_ns, 290 * MS, 300 * MS + SLACK_NS);
	assert_int_equal(submitted(f), 40);
}

static void test_bytes_a_second(void **state)
{
	static const struct virtio_blk_config config = {
	    .serial = SERIAL, .queues = QUEUES, .bytes_per_s = 10 * MIB};
	struct fixture *f = *state;
	uint64_t took_ns;

	limit(f, &config);
	took_ns = loop_now_ns();
	add(f, 0, 64, 64 * KIB);
	rig_finish(&f->rig, 0, 64);
	took_ns = loop_now_ns() - took_ns;
	/* 4 MiB: 1 MiB at once, the last 64 KiB ahead */
	assert_in_range(took_ns, 293 * MS, 300 * MS + SLACK_NS);
}

/* Each has more than enough waiting: one limit for all, and a turn for each. */
static void test_queues_share_one_limit(void **state)
{
	struct fixture *f = *state;
	const uint64_t start_ns = loop_now_ns();

	limit(f, &ops_config);
	for (unsigned q = 0; q < QUEUES; q++)
		add(f, q, 200, 512);
	for (unsigned q = 0; q < QUEUES; q++)
		vdrv_kick(&f->rig.d, q);
	for (unsigned q = QUEUES; q-- > 0;)
		assert_true(vdrv_wait(&f->rig.d, q, 5));
	for (unsigned q = 0; q < QUEUES; q++)
		assert_true(vring_used_waiting(&f->rig.d.rings[q]) < 200);
	vdrv_reset(&f->rig.d);
	/* the burst, one ahead, and one each 10 ms */
	assert_in_range(submitted(f), 20, 10 + 1 + (loop_now_ns() - start_ns) / (10 * MS));
}

static void test_flushes_and_discards_are_operations(void **state)
{
	struct fixture *f = *state;
	uint64_t took_ns;

	limit(f, &ops_config);
	rig_range(&f->rig, DATA, 0, 0, 8, 0);
	took_ns = loop_now_ns();
	for (unsigned i = 0; i < 10; i++) {
		assert_int_equal(rig_do(&f->rig, 0, T_FLUSH, 0, 0, 0), S_OK);
		assert_int_equal(rig_do(&f->rig, 0, T_DISCARD, 0, DATA, 16), S_OK);
	}
	assert_true(loop_now_ns() - took_ns >= 90 * MS);
}

/* ---- while it waits ---- */

/* Leaves the device waiting for hours, with requests in the rings. */
static void get_stuck(struct fixture *f)
{
	limit(f, &stuck_config);
	assert_int_equal(rig_do(&f->rig, 0, T_IN, 0, DATA, 1 * MIB), S_OK);
	assert_int_equal(submitted(f), 1);
	for (unsigned q = 0; q < QUEUES; q++) {
		add(f, q, 3, 512);
		vdrv_kick(&f->rig.d, q);
	}
}

static void test_reset_while_it_waits(void **state)
{
	struct fixture *f = *state;

	get_stuck(f);
	vdrv_reset(&f->rig.d);
	/* nor is the debt forgotten */
	rig_start(&f->rig, DEFAULT, QUEUES);
	add(f, 1, 1, 512);
	vdrv_kick(&f->rig.d, 1);
	vdrv_reset(&f->rig.d);
	assert_int_equal(submitted(f), 0);
}

static void test_freed_while_it_waits(void **state)
{
	struct fixture *f = *state;

	get_stuck(f);
	limit(f, &plain_config);
	assert_alive(f);
}

static void post_quiet(void *ctx)
{
	sem_post(ctx);
}

static void test_pause_while_it_waits(void **state)
{
	struct fixture *f = *state;
	struct virtio_dev *dev;
	sem_t quiet;

	assert_int_equal(sem_init(&quiet, 0, 0), 0);
	get_stuck(f);
	dev = f->rig.dev;
	dev->ops->pause(dev, post_quiet, &quiet);
	assert_int_equal(sem_wait(&quiet), 0);
	dev->ops->resume(dev);
	vdrv_reset(&f->rig.d);
	assert_int_equal(submitted(f), 0);

	/* and a wait that ends in a pause: what was held back comes after it */
	limit(f, &ops_config);
	dev = f->rig.dev;
	add(f, 2, 30, 512);
	vdrv_kick(&f->rig.d, 2);
	assert_true(vdrv_wait(&f->rig.d, 2, 10));
	dev->ops->pause(dev, post_quiet, &quiet);
	assert_int_equal(sem_wait(&quiet), 0);
	assert_true(vring_used_waiting(&f->rig.d.rings[2]) < 30);
	dev->ops->resume(dev);
	assert_true(vdrv_wait(&f->rig.d, 2, 30));
	sem_destroy(&quiet);
}

struct resize {
	struct virtio_blk_resize r;
	sem_t done;
};

static void resize_done(struct virtio_blk_resize *r)
{
	sem_post(&container_of(r, struct resize, r)->done);
}

/* It may fail, as the image will have it; it must not wait for hours. */
static void test_resize_while_it_waits(void **state)
{
	struct fixture *f = *state;
	struct resize r = {.r = {.grow.size_bytes = 2 * DISK_BYTES, .done = resize_done}};

	assert_int_equal(sem_init(&r.done, 0, 0), 0);
	get_stuck(f);
	virtio_blk_resize(f->rig.dev, &r.r);
	assert_int_equal(sem_wait(&r.done), 0);
	vdrv_reset(&f->rig.d);
	assert_int_equal(submitted(f), 0);
	sem_destroy(&r.done);
}

/* A wait of hours is slept through. */
static void test_waits_without_spinning(void **state)
{
	const struct timespec span = {.tv_nsec = 200 * 1000 * 1000};
	struct fixture *f = *state;
	struct timespec cpu0, cpu1;

	get_stuck(f);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu0);
	nanosleep(&span, NULL);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu1);
	assert_true((uint64_t)(cpu1.tv_sec - cpu0.tv_sec) * S + (uint64_t)cpu1.tv_nsec <
		    (uint64_t)cpu0.tv_nsec + 50 * MS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_rates_are_met), cmocka_unit_test(test_no_limit),
	    BOTH(test_operations_a_second),	  BOTH(test_bytes_a_second),
	    BOTH(test_queues_share_one_limit),	  BOTH(test_flushes_and_discards_are_operations),
	    BOTH(test_reset_while_it_waits),	  BOTH(test_freed_while_it_waits),
	    BOTH(test_pause_while_it_waits),	  BOTH(test_resize_while_it_waits),
	    BOTH(test_waits_without_spinning),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
