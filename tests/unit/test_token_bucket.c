/* base/token_bucket: on a clock of the test's own. */
#include "base/token_bucket.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define S  UINT64_C(1000000000)
#define MS UINT64_C(1000000)

#define MAX64 UINT64_MAX

/* Takes `n` again and again, waiting as told; returns how many takes are done before `end_ns`. */
static uint64_t take_until(struct token_bucket *b, uint64_t n, uint64_t now_ns, uint64_t end_ns)
{
	uint64_t taken = 0;

	while (now_ns < end_ns) {
		const uint64_t wait_ns = token_bucket_take(b, n, now_ns);

		if (!wait_ns)
			taken++;
		now_ns += wait_ns;
	}
	return taken;
}

static void test_no_limit(void **state)
{
	struct token_bucket b;

	(void)state;
	token_bucket_init(&b, 0, 1);
	assert_false(token_bucket_limits(&b));
	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(token_bucket_take(&b, MAX64, 5), 0);
}

static void test_burst_then_rate(void **state)
{
	struct token_bucket b;

	(void)state;
	token_bucket_init(&b, 1000, 50);
	assert_true(token_bucket_limits(&b));
	for (unsigned i = 0; i < 50; i++)
		assert_int_equal(token_bucket_take(&b, 1, S), 0);
	/* a token comes in each ms; a bit of one is enough, the rest is debt */
	assert_int_equal(token_bucket_take(&b, 1, S), 1);
	assert_int_equal(token_bucket_take(&b, 1, S + 1), 0);
	assert_int_equal(token_bucket_take(&b, 1, S + 1), MS);
	assert_int_equal(token_bucket_take(&b, 1, S + MS), 1);
	assert_int_equal(token_bucket_take(&b, 1, S + MS + 1), 0);
}

static void test_burst_of_100_ms(void **state)
{
	struct token_bucket b;

	(void)state;
	token_bucket_init(&b, 1000, 0);
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(token_bucket_take(&b, 1, S), 0);
	assert_int_not_equal(token_bucket_take(&b, 1, S), 0);
	/* and not less than one */
	token_bucket_init(&b, 3, 0);
	assert_int_equal(token_bucket_take(&b, 1, S), 0);
	assert_int_not_equal(token_bucket_take(&b, 1, S), 0);
}

static void test_idle_saves_no_more_than_the_burst(void **state)
{
	struct token_bucket b;

	(void)state;
	token_bucket_init(&b, 1000, 10);
	assert_int_equal(take_until(&b, 1, S, S + 1), 10);
	assert_int_equal(take_until(&b, 1, 1000 * S, 1000 * S + 1), 10);
}

/* Three times the burst in one: it passes, and is paid for. */
static void test_longer_than_the_burst(void **state)
{
	struct token_bucket b;

	(void)state;
	token_bucket_init(&b, 1000, 100);
	assert_int_equal(token_bucket_take(&b, 300, S), 0);
	assert_int_equal(token_bucket_take(&b, 1, S), 200 * MS + 1);
	assert_int_equal(token_bucket_take(&b, 1, S + 200 * MS), 1);
	assert_int_equal(token_bucket_take(&b, 1, S + 200 * MS + 1), 0);
}

/* Rates that divide nothing evenly, over a day: burst + rate * time, and one beside. */
static void test_no_drift(void **state)
{
	static const uint64_t rates[] = {1, 3, 7, 11, 13};
	const uint64_t day_s = 86400;

	(void)state;
	for (unsigned i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
		struct token_bucket b;

		token_bucket_init(&b, rates[i], 1);
		assert_in_range(take_until(&b, 1, S, S + day_s * S), rates[i] * day_s,
				rates[i] * day_s + 2);
	}
}

/* Asked each 7 ns, when each time a part of a token comes in. */
static void test_asked_often(void **state)
{
	struct token_bucket b;
	unsigned taken = 0;

	(void)state;
	token_bucket_init(&b, 999983, 1);
	for (uint64_t now = S; now < S + S / 100; now += 7)
		taken += token_bucket_take(&b, 1, now) == 0;
	assert_in_range(taken, 9999, 10001);
}

static void test_edges_of_64_bits(void **state)
{
	struct token_bucket b;

	(void)state;
	token_bucket_init(&b, MAX64, MAX64);
	assert_int_equal(token_bucket_take(&b, MAX64, 0), 0);
	assert_int_equal(token_bucket_take(&b, 1, 0), 1);
	assert_int_equal(token_bucket_take(&b, MAX64, MAX64), 0);
	assert_int_equal(token_bucket_take(&b, 1, MAX64), 1);

	token_bucket_init(&b, 1, 1);
	assert_int_equal(token_bucket_take(&b, MAX64, 0), 0);
	assert_true(token_bucket_take(&b, 1, 0) == MAX64);
	assert_true(token_bucket_take(&b, 1, MAX64) == MAX64);

	/* the debt has a floor, and is not turned into credit */
	for (unsigned i = 0; i < 1000; i++)
		token_bucket_spend(&b, MAX64, MAX64);
	assert_true(token_bucket_wait_ns(&b, MAX64) == MAX64);
	token_bucket_init(&b, MAX64, 0);
	assert_int_equal(token_bucket_wait_ns(&b, MAX64), 0);
}

static void test_debt_has_a_floor(void **state)
{
	struct token_bucket b;

	(void)state;
	token_bucket_init(&b, 1, 1);
	b.level = -((__int128)1 << 120) + 5; /* after 2^26 takes of 2^64 */
	token_bucket_spend(&b, MAX64, 0);
	assert_true(b.level == -((__int128)1 << 120));
	assert_true(token_bucket_take(&b, 1, S) == MAX64);
}

static void test_clock_goes_back(void **state)
{
	struct token_bucket b;

	(void)state;
	token_bucket_init(&b, 1000, 1);
	assert_int_equal(token_bucket_take(&b, 1, 1000 * S), 0);
	/* nothing comes in, and nothing waits for the old time */
	assert_int_equal(token_bucket_take(&b, 1, S), 1);
	assert_int_equal(token_bucket_take(&b, 1, S + 1), 0);
	assert_int_equal(token_bucket_take(&b, 1, S + 1), MS);
}

static void test_wait_takes_nothing(void **state)
{
	struct token_bucket b;

	(void)state;
	token_bucket_init(&b, 1000, 1);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(token_bucket_wait_ns(&b, S), 0);
	token_bucket_spend(&b, 3, S);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(token_bucket_wait_ns(&b, S), 2 * MS + 1);
}

/* What is spent at once after an hour finds a full bucket, not the hour as well. */
static void test_idle_pays_for_no_spending(void **state)
{
	struct token_bucket b;

	(void)state;
	token_bucket_init(&b, 1000, 10);
	token_bucket_spend(&b, 1, S);
	token_bucket_spend(&b, 15, 3600 * S);
	assert_int_equal(token_bucket_wait_ns(&b, 3600 * S), 5 * MS + 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_no_limit),
	    cmocka_unit_test(test_burst_then_rate),
	    cmocka_unit_test(test_burst_of_100_ms),
	    cmocka_unit_test(test_idle_saves_no_more_than_the_burst),
	    cmocka_unit_test(test_longer_than_the_burst),
	    cmocka_unit_test(test_no_drift),
	    cmocka_unit_test(test_asked_often),
	    cmocka_unit_test(test_edges_of_64_bits),
	    cmocka_unit_test(test_debt_has_a_floor),
	    cmocka_unit_test(test_clock_goes_back),
	    cmocka_unit_test(test_wait_takes_nothing),
	    cmocka_unit_test(test_idle_pays_for_no_spending),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
