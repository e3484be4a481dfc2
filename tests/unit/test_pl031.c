/* PL031: the host's time, and the guest's difference to it. */
#include "base/checked.h"
#include "devices/legacy/legacy.h"
#include "tests/unit/fake_platform.h"

#include <setjmp.h>
#include <stdarg.h>
#include <time.h>

#include <cmocka.h>

#define BASE UINT64_C(0x9010000)

static struct fake_platform fp;
static struct pl031 *dev;

static int setup(void **state)
{
	(void)state;
	fake_platform_init(&fp, 1 << 20);
	return pl031_new(&fp.plat, &(struct device_place){.mmio = true, .base = BASE}, &dev, NULL);
}

static int teardown(void **state)
{
	(void)state;
	pl031_free(dev);
	fake_platform_fini(&fp);
	return 0;
}

static uint64_t reg(unsigned at)
{
	return fake_guest_read(&fp, DOORBELL_MMIO, BASE + at, 4);
}

static void set(unsigned at, uint32_t v)
{
	fake_guest_write(&fp, DOORBELL_MMIO, BASE + at, 4, v);
}

static void tells_the_hosts_time(void **state)
{
	struct timespec before, after; /* not time(2), whose clock is behind by up to a tick */
	uint64_t told;

	(void)state;
	clock_gettime(CLOCK_REALTIME, &before);
	told = reg(0x00);
	clock_gettime(CLOCK_REALTIME, &after);
	assert_in_range(told, (uint64_t)before.tv_sec, (uint64_t)after.tv_sec);
	assert_int_equal(reg(0x0c), 1);
}

static void goes_on_from_where_it_is_set(void **state)
{
	(void)state;
	set(0x08, 1000);
	assert_in_range(reg(0x00), 1000, 1002);
	assert_int_equal(reg(0x08), 1000);
}

/* As the bus of primecells identifies it (arm,primecell). */
static void identifies_itself(void **state)
{
	uint32_t periph = 0, cell = 0;

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		periph |= (uint32_t)reg(0xfe0 + 4 * i) << (8 * i);
		cell |= (uint32_t)reg(0xff0 + 4 * i) << (8 * i);
	}
	assert_int_equal(periph, 0x00041031);
	assert_int_equal(cell, 0xb105f00d);
}

static void any_access_is_safe(void **state)
{
	(void)state;
	for (unsigned at = 0; at < PL031_BYTES; at++)
		for (unsigned size = 1; size <= 8 && at + size <= PL031_BYTES; size++) {
			fake_guest_write(&fp, DOORBELL_MMIO, BASE + at, size, UINT64_MAX);
			uint64_t v = fake_guest_read(&fp, DOORBELL_MMIO, BASE + at, size);

			assert_true(size >= 4 ? v <= UINT32_MAX : v >> (8 * size) == 0);
		}
	assert_int_equal(reg(0x10), 1);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(tells_the_hosts_time),
	    TEST(goes_on_from_where_it_is_set),
	    TEST(identifies_itself),
	    TEST(any_access_is_safe),
	};

	return cmocka_run_group_tests_name("pl031", tests, NULL, NULL);
}
