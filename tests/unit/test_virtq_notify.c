/* The split virtqueue: notifications both ways, and that none is lost between two threads. */
#include "tests/unit/virtq_rig.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

static void push_one(struct fixture *f)
{
	desc(f, 0, DATA_GPA, 8, VDESC_WRITE, 0);
	assert_int_equal(pop_head(f, 0), 1);
	virtq_push(f->vq, 0, 8);
}

static void test_nothing_pushed_nothing_to_notify(void **state)
{
	struct fixture *f = *state;

	for (unsigned event = 0; event < 2; event++) {
		make_queue(f, SIZE, event ? VDRV_EVENT : 0);
		vring_irq_on(&f->r, 1);
		assert_false(virtq_should_notify(f->vq));
		push_one(f);
		assert_true(virtq_should_notify(f->vq));
		assert_false(virtq_should_notify(f->vq));
	}
}

static void test_flag_suppresses_interrupts(void **state)
{
	struct fixture *f = *state;

	make_queue(f, SIZE, 0);
	vring_irq_off(&f->r);
	push_one(f);
	assert_false(virtq_should_notify(f->vq));
	vring_irq_on(&f->r, 1);
	push_one(f);
	assert_true(virtq_should_notify(f->vq));
}

/* With event index the flag says nothing. */
static void test_flag_means_nothing_with_event_idx(void **state)
{
	struct fixture *f = *state;

	vring_irq_on(&f->r, 1);
	le16_store(fake_mem(&f->fp, f->r.avail, 2), 1);
	push_one(f);
	assert_true(virtq_should_notify(f->vq));
}

/* Everywhere on the circle of indices, for batches of every length: exactly when used_event is
 * passed. */
static void test_used_event_is_exact(void **state)
{
	struct fixture *f = *state;
	uint16_t used = 0;

	for (unsigned step = 0; step < 3000; step++) {
		const unsigned batch = step % SIZE + 1;
		const uint16_t ahead = (uint16_t)(step * 7 % 40);
		/* from 10 behind to 29 ahead of where the batch starts */
		const uint16_t event = (uint16_t)(used + ahead - 10);
		const bool expect = ahead >= 10 && ahead - 10 < (int)batch;

		le16_store(fake_mem(&f->fp, f->r.avail + 4 + 2 * SIZE, 2), event);
		for (unsigned i = 0; i < batch; i++)
			push_one(f);
		used = (uint16_t)(used + batch);
		assert_int_equal(virtq_should_notify(f->vq), expect);
		/* fast round the circle */
		if (step % 100 == 0) {
			for (unsigned i = 0; i < 3000; i++)
				push_one(f);
			used = (uint16_t)(used + 3000);
			virtq_should_notify(f->vq);
		}
	}
}

static void check_kicks(struct fixture *f, uint64_t features)
{
	uint16_t old;

	make_queue(f, SIZE, features);
	desc(f, 0, DATA_GPA, 8, 0, 0);
	assert_false(virtq_kick_enable(f->vq));
	for (unsigned i = 0; i < 70000; i++) {
		/* waiting for work: the driver must kick */
		old = f->r.published_idx;
		vring_add_head(&f->r, 0);
		vring_publish(&f->r);
		assert_true(vring_wants_kick(&f->r, old));

		/* busy: it need not */
		virtq_kick_disable(f->vq);
		assert_int_equal(virtq_pop(f->vq, &f->chain), 1);
		old = f->r.published_idx;
		vring_add_head(&f->r, 0);
		vring_publish(&f->r);
		assert_false(vring_wants_kick(&f->r, old));

		/* work that came meanwhile is not missed */
		assert_true(virtq_kick_enable(f->vq));
		virtq_kick_disable(f->vq);
		assert_int_equal(virtq_pop(f->vq, &f->chain), 1);
		assert_false(virtq_kick_enable(f->vq));
		virtq_push(f->vq, 0, 0);
		virtq_push(f->vq, 0, 0);
	}
}

static void test_kicks_by_flag(void **state)
{
	check_kicks(*state, 0);
}

static void test_kicks_by_event_idx(void **state)
{
	check_kicks(*state, VDRV_EVENT);
}

/* ---- two threads ---- */

#define RACE_CHAINS 60000

struct race {
	struct fixture *f;
	_Atomic bool kicked;
	_Atomic bool notified;
	_Atomic bool lost;
};

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Sleeping, for a thread that is to be quick: until the other side rings, or it is clear that it
 * never will. */
static bool sleep_until(_Atomic bool *rung, _Atomic bool *lost)
{
	const uint64_t deadline = now_ms() + VDRV_WAIT_MS;

	for (unsigned spins = 0; !atomic_exchange(rung, false); spins++) {
		if (atomic_load(lost) || (spins % 1024 == 1023 && now_ms() > deadline)) {
			atomic_store(lost, true);
			return false;
		}
		if (spins > 100)
			sched_yield();
	}
	return true;
}

/* The device: sleeps until it is kicked, and only the suppression protocol keeps it from sleeping
 * for ever. */
static void *race_device(void *arg)
{
	struct race *race = arg;
	struct fixture *f = race->f;
	unsigned done = 0;

	while (done < RACE_CHAINS) {
		do {
			virtq_kick_disable(f->vq);
			while (virtq_pop(f->vq, &f->chain) == 1)
				virtq_push(f->vq, f->chain.head, done++);
			if (virtq_should_notify(f->vq))
				atomic_store(&race->notified, true);
			/* what was rung up to now is for chains that the next line sees */
			atomic_store_explicit(&race->kicked, false, memory_order_relaxed);
		} while (virtq_kick_enable(f->vq));
		if (done < RACE_CHAINS && !sleep_until(&race->kicked, &race->lost))
			break;
	}
	return NULL;
}

/* The driver: sleeps until it is notified, with an eye on the used ring only before it does. */
static void check_race(struct fixture *f, uint64_t features, uint16_t size)
{
	const struct vbuf buf = {DATA_GPA, 8, true};
	struct race race = {.f = f};
	unsigned sent = 0, got = 0;
	pthread_t device;
	uint16_t head, old;
	uint32_t len;

	make_queue(f, size, features);
	vring_irq_off(&f->r);
	assert_int_equal(pthread_create(&device, NULL, race_device, &race), 0);
	while (got < RACE_CHAINS && !atomic_load(&race.lost)) {
		old = f->r.published_idx;
		while (sent < RACE_CHAINS && vring_add(&f->r, &buf, 1, false) >= 0)
			sent++;
		if (f->r.avail_idx != old) {
			vring_publish(&f->r);
			if (vring_wants_kick(&f->r, old))
				atomic_store(&race.kicked, true);
		}
		atomic_store_explicit(&race.notified, false, memory_order_relaxed);
		vring_irq_on(&f->r, 1);
		if (!vring_used_waiting(&f->r) && !sleep_until(&race.notified, &race.lost))
			break;
		vring_irq_off(&f->r);
		while (vring_take(&f->r, &head, &len)) {
			if (len != got)
				atomic_store(&race.lost, true);
			got++;
		}
	}
	pthread_join(device, NULL);
	assert_false(race.lost);
	assert_int_equal(got, RACE_CHAINS);
}

static void test_no_notification_is_lost_with_flags(void **state)
{
	check_race(*state, 0, 1);
	check_race(*state, 0, SIZE);
}

static void test_no_notification_is_lost_with_event_idx(void **state)
{
	check_race(*state, VDRV_EVENT, 1);
	check_race(*state, VDRV_EVENT, SIZE);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
	    T(test_nothing_pushed_nothing_to_notify),
	    T(test_flag_suppresses_interrupts),
	    T(test_flag_means_nothing_with_event_idx),
	    T(test_used_event_is_exact),
	    T(test_kicks_by_flag),
	    T(test_kicks_by_event_idx),
	    T(test_no_notification_is_lost_with_flags),
	    T(test_no_notification_is_lost_with_event_idx),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
