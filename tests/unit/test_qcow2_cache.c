/* disk/qcow2/cache: bounded, what must stay stays, who goes first, dirty ones in order. */
#include "base/checked.h"
#include "disk/qcow2/cache.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define UNIT  512u
#define SLOTS 8u

static int setup(void **state)
{
	static struct q2_cache c;

	*state = &c;
	return q2_cache_init(&c, UNIT, SLOTS);
}

static int teardown(void **state)
{
	q2_cache_free(*state);
	return 0;
}

/* A piece as it is after it was read. */
static struct q2_table *add(struct q2_cache *c, uint64_t n)
{
	struct q2_table *t = q2_cache_take(c, n * UNIT);

	if (t) {
		assert_int_equal(t->state, Q2_TABLE_LOADING);
		t->state = Q2_TABLE_VALID;
		memset(t->data, (int)n, UNIT);
	}
	return t;
}

/* Looks without counting as a use. */
static bool has(const struct q2_cache *c, uint64_t n)
{
	for (unsigned i = 0; i < c->slots; i++) {
		if (c->tables[i].state != Q2_TABLE_EMPTY && c->tables[i].offset == n * UNIT)
			return true;
	}
	return false;
}

static void finds_what_was_added(void **state)
{
	struct q2_cache *c = *state;

	for (uint64_t n = 1; n <= SLOTS; n++)
		add(c, n * 1000);
	for (uint64_t n = 1; n <= SLOTS; n++)
		assert_int_equal(q2_cache_find(c, n * 1000 * UNIT)->data[7], (uint8_t)(n * 1000));
	assert_null(q2_cache_find(c, 77 * UNIT));
}

static void never_more_than_its_slots(void **state)
{
	struct q2_cache *c = *state;
	unsigned there = 0;

	for (uint64_t n = 1; n <= 1000; n++)
		assert_non_null(add(c, n));
	for (uint64_t n = 1; n <= 1000; n++)
		there += has(c, n);
	assert_int_equal(there, SLOTS);
	assert_true(has(c, 1000));
}

static void used_ones_outlive_unused_ones(void **state)
{
	struct q2_cache *c = *state;

	for (uint64_t n = 1; n <= SLOTS; n++)
		add(c, n);
	add(c, 100); /* the hand has passed all of them once */
	q2_cache_find(c, 5 * UNIT);
	for (uint64_t n = 101; n < 101 + SLOTS - 2; n++) {
		add(c, n);
		assert_true(has(c, 5));
	}
}

static void dirty_pinned_and_loading_ones_stay(void **state)
{
	struct q2_cache *c = *state;

	q2_cache_set_dirty(c, add(c, 1));
	add(c, 2)->pins++;
	q2_cache_take(c, 3 * UNIT); /* is being read */
	for (uint64_t n = 10; n < 200; n++)
		add(c, n);
	assert_true(has(c, 1) && has(c, 2) && has(c, 3));
}

static void nothing_is_taken_when_all_are_dirty(void **state)
{
	struct q2_cache *c = *state;

	for (uint64_t n = 1; n <= SLOTS; n++)
		q2_cache_set_dirty(c, add(c, n));
	assert_null(q2_cache_take(c, 100 * UNIT));
	q2_cache_pop_dirty(c);
	assert_non_null(q2_cache_take(c, 100 * UNIT));
	assert_false(has(c, 1));
}

static void dirty_ones_come_in_order_and_once(void **state)
{
	struct q2_cache *c = *state;

	for (uint64_t n = 1; n <= 4; n++)
		add(c, n);
	q2_cache_set_dirty(c, q2_cache_find(c, 3 * UNIT));
	q2_cache_set_dirty(c, q2_cache_find(c, 1 * UNIT));
	q2_cache_set_dirty(c, q2_cache_find(c, 3 * UNIT));
	assert_int_equal(c->ndirty, 2);
	assert_true(q2_cache_pop_dirty(c)->offset == 3 * UNIT);
	assert_true(q2_cache_pop_dirty(c)->offset == 1 * UNIT);
	assert_null(q2_cache_pop_dirty(c));
}

static void what_is_forgotten_is_not_written(void **state)
{
	struct q2_cache *c = *state;

	for (uint64_t n = 4; n < 8; n++)
		q2_cache_set_dirty(c, add(c, n));
	q2_cache_forget(c, 5 * UNIT, 2 * UNIT);
	assert_null(q2_cache_find(c, 5 * UNIT));
	assert_null(q2_cache_find(c, 6 * UNIT));
	assert_true(q2_cache_pop_dirty(c)->offset == 4 * UNIT);
	assert_true(q2_cache_pop_dirty(c)->offset == 7 * UNIT);
	assert_null(q2_cache_pop_dirty(c));
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(finds_what_was_added),
	    TEST(never_more_than_its_slots),
	    TEST(used_ones_outlive_unused_ones),
	    TEST(dirty_pinned_and_loading_ones_stay),
	    TEST(nothing_is_taken_when_all_are_dirty),
	    TEST(dirty_ones_come_in_order_and_once),
	    TEST(what_is_forgotten_is_not_written),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
