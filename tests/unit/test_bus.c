/* The bus: which device answers an address, and that ranges never overlap. */
#include "devices/bus.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

struct echo {
	uint64_t last_offset, last_value;
	unsigned last_size, writes;
	struct bus *bus; /* non-NULL: a write of 1 moves the device to `to` */
	uint64_t at, to;
};

static const struct bus_ops echo_ops;

static uint64_t echo_read(void *dev, uint64_t offset, unsigned size)
{
	struct echo *e = dev;

	e->last_offset = offset;
	e->last_size = size;
	return UINT64_C(0x8877665544332211);
}

static void echo_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct echo *e = dev;

	e->last_offset = offset;
	e->last_size = size;
	e->last_value = value;
	e->writes++;
	if (e->bus && value == 1) {
		struct bus_range r = {e->to, 16, &echo_ops, e, "echo"};

		assert_int_equal(bus_remove(e->bus, e->at, e), 0);
		assert_int_equal(bus_add(e->bus, &r, NULL), 0);
	}
}

static const struct bus_ops echo_ops = {echo_read, echo_write};

static struct bus *bus;

static int setup(void **state)
{
	(void)state;
	return bus_new("port", 0x10000, &bus);
}

static int teardown(void **state)
{
	(void)state;
	bus_free(bus);
	return 0;
}

static int add(struct echo *e, uint64_t base, uint64_t len, const char *name, struct err *err)
{
	struct bus_range r = {base, len, &echo_ops, e, name};

	return bus_add(bus, &r, err);
}

static void access_reaches_the_range_that_holds_it(void **state)
{
	struct echo a = {0}, b = {0};
	uint64_t v;

	(void)state;
	assert_int_equal(add(&b, 0x200, 16, "b", NULL), 0);
	assert_int_equal(add(&a, 0x100, 16, "a", NULL), 0);
	assert_true(bus_read(bus, 0x104, 2, &v));
	assert_int_equal(v, 0x2211);
	assert_int_equal(a.last_offset, 4);
	assert_int_equal(a.last_size, 2);
	assert_true(bus_write(bus, 0x208, 4, UINT64_C(0xaabbccdd11223344)));
	assert_int_equal(b.last_offset, 8);
	assert_int_equal(b.last_value, 0x11223344);
	assert_int_equal(a.writes, 0);
}

static void nothing_there_reads_as_ones(void **state)
{
	struct echo a = {0};
	uint64_t v = 0;

	(void)state;
	assert_int_equal(add(&a, 0x100, 16, "a", NULL), 0);
	assert_false(bus_read(bus, 0xff, 1, &v));
	assert_int_equal(v, 0xff);
	assert_false(bus_read(bus, 0x110, 4, &v));
	assert_int_equal(v, 0xffffffff);
	assert_false(bus_read(bus, UINT64_MAX, 8, &v));
	assert_true(v == UINT64_MAX);
	assert_false(bus_write(bus, 0x110, 1, 0));
	assert_int_equal(a.writes, 0);
}

static void access_across_an_edge_is_nobodys(void **state)
{
	struct echo a = {0}, b = {0};
	uint64_t v;

	(void)state;
	assert_int_equal(add(&a, 0x100, 16, "a", NULL), 0);
	assert_int_equal(add(&b, 0x110, 16, "b", NULL), 0);
	assert_false(bus_read(bus, 0x10e, 4, &v));
	assert_int_equal(v, 0xffffffff);
	assert_false(bus_write(bus, 0xfe, 4, 7));
	assert_false(bus_write(bus, 0x11f, 2, 7));
	assert_int_equal(a.writes + b.writes, 0);
}

static void sizes_outside_1_to_8_are_nobodys(void **state)
{
	struct echo a = {0};
	uint64_t v;

	(void)state;
	assert_int_equal(add(&a, 0x100, 64, "a", NULL), 0);
	assert_false(bus_read(bus, 0x100, 0, &v));
	assert_false(bus_read(bus, 0x100, 9, &v));
	assert_false(bus_write(bus, 0x100, 16, 0));
	assert_int_equal(a.writes, 0);
}

static void overlap_is_refused_and_named(void **state)
{
	static const struct {
		uint64_t base, len;
	} bad[] = {
	    {0x100, 16}, {0x10f, 1}, {0xff, 2}, {0xf0, 0x100}, {0x108, 4},
	};
	struct echo a = {0}, b = {0};

	(void)state;
	assert_int_equal(add(&a, 0x100, 16, "first", NULL), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct err err = ERR_INIT;

		assert_int_equal(add(&b, bad[i].base, bad[i].len, "second", &err), -EEXIST);
		assert_non_null(strstr(err.msg, "first"));
		assert_non_null(strstr(err.msg, "second"));
	}
	assert_int_equal(add(&b, 0x110, 16, "second", NULL), 0);
	assert_int_equal(add(&b, 0xf0, 16, "second", NULL), 0);
}

static void ranges_past_the_limit_are_refused(void **state)
{
	struct echo a = {0};
	struct bus *wide;
	struct bus_range top = {UINT64_MAX - 15, 16, &echo_ops, &a, "top"};
	struct bus_range wraps = {UINT64_MAX - 15, 17, &echo_ops, &a, "wraps"};
	uint64_t v;

	(void)state;
	assert_int_equal(add(&a, 0x100, 0, "empty", NULL), -EINVAL);
	assert_int_equal(add(&a, 0xffff, 2, "long", NULL), -EINVAL);
	assert_int_equal(add(&a, UINT64_MAX, 2, "wraps", NULL), -EINVAL);
	assert_int_equal(add(&a, 0xffff, 1, "last", NULL), 0);

	assert_int_equal(bus_new("memory", 0, &wide), 0);
	assert_int_equal(bus_add(wide, &wraps, NULL), -EINVAL);
	assert_int_equal(bus_add(wide, &top, NULL), 0);
	assert_true(bus_read(wide, UINT64_MAX, 1, &v));
	assert_false(bus_read(wide, UINT64_MAX, 2, &v));
	bus_free(wide);
}

static void a_full_bus_says_so(void **state)
{
	struct echo a = {0};
	struct err err = ERR_INIT;

	(void)state;
	for (unsigned i = 0; i < BUS_RANGES_MAX; i++)
		assert_int_equal(add(&a, i * 8, 8, "a", NULL), 0);
	assert_int_equal(add(&a, 0x8000, 8, "one more", &err), -ENOSPC);
	assert_non_null(strstr(err.msg, "one more"));
}

static void removed_range_no_longer_answers(void **state)
{
	struct echo a = {0}, b = {0};
	uint64_t v;

	(void)state;
	assert_int_equal(add(&a, 0x100, 16, "a", NULL), 0);
	assert_int_equal(add(&b, 0x110, 16, "b", NULL), 0);
	assert_int_equal(bus_remove(bus, 0x100, &b), -ENOENT);
	assert_int_equal(bus_remove(bus, 0x104, &a), -ENOENT);
	assert_int_equal(bus_remove(bus, 0x100, &a), 0);
	assert_int_equal(bus_remove(bus, 0x100, &a), -ENOENT);
	assert_false(bus_read(bus, 0x100, 1, &v));
	assert_true(bus_read(bus, 0x110, 1, &v));
}

static void a_device_may_move_itself_in_an_access(void **state)
{
	struct echo a = {.bus = bus, .at = 0x100, .to = 0x300};
	uint64_t v;

	(void)state;
	a.bus = bus;
	assert_int_equal(add(&a, 0x100, 16, "a", NULL), 0);
	assert_true(bus_write(bus, 0x100, 1, 1));
	assert_false(bus_read(bus, 0x100, 1, &v));
	assert_true(bus_read(bus, 0x300, 1, &v));
}

static _Atomic bool stop;

static void *reader(void *arg)
{
	uint64_t v, *answered = arg;

	while (!stop)
		if (bus_read(bus, 0x208, 1, &v))
			(*answered)++;
	return NULL;
}

static void accesses_go_on_while_ranges_change(void **state)
{
	struct echo fixed = {0}, moving = {0};
	uint64_t answered = 0;
	pthread_t t;

	(void)state;
	assert_int_equal(add(&fixed, 0x200, 16, "fixed", NULL), 0);
	stop = false;
	assert_int_equal(pthread_create(&t, NULL, reader, &answered), 0);
	for (unsigned i = 0; i < 20000; i++) {
		assert_int_equal(add(&moving, 0x100, 16, "moving", NULL), 0);
		assert_int_equal(bus_remove(bus, 0x100, &moving), 0);
	}
	stop = true;
	pthread_join(t, NULL);
	assert_int_equal(fixed.writes, 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(access_reaches_the_range_that_holds_it),
	    TEST(nothing_there_reads_as_ones),
	    TEST(access_across_an_edge_is_nobodys),
	    TEST(sizes_outside_1_to_8_are_nobodys),
	    TEST(overlap_is_refused_and_named),
	    TEST(ranges_past_the_limit_are_refused),
	    TEST(a_full_bus_says_so),
	    TEST(removed_range_no_longer_answers),
	    TEST(a_device_may_move_itself_in_an_access),
	    TEST(accesses_go_on_while_ranges_change),
	};

	return cmocka_run_group_tests_name("bus", tests, NULL, NULL);
}
