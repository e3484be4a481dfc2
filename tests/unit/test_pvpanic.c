/* pvpanic: a guest that panics is heard. */
#include "devices/legacy/legacy.h"
#include "tests/unit/fake_platform.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static struct fake_platform fp;
static struct pvpanic *dev;

static int setup(void **state)
{
	(void)state;
	fake_platform_init(&fp, 1 << 20);
	return pvpanic_new(&fp.plat, &(struct device_place){.base = PVPANIC_PORT}, &dev, NULL);
}

static int teardown(void **state)
{
	(void)state;
	pvpanic_free(dev);
	fake_platform_fini(&fp);
	return 0;
}

static void out(uint8_t v)
{
	fake_guest_write(&fp, DOORBELL_PIO, PVPANIC_PORT, 1, v);
}

static void driver_finds_both_events(void **state)
{
	(void)state;
	assert_int_equal(fake_guest_read(&fp, DOORBELL_PIO, PVPANIC_PORT, 1), 0x3);
}

static void panic_is_reported(void **state)
{
	(void)state;
	out(0x1);
	assert_int_equal(fake_events(&fp, MACHINE_PANIC), 1);
	assert_int_equal(fake_events(&fp, MACHINE_CRASH_LOADED), 0);
}

static void crash_kernel_is_reported_and_is_no_panic(void **state)
{
	(void)state;
	out(0x2);
	assert_int_equal(fake_events(&fp, MACHINE_CRASH_LOADED), 1);
	assert_int_equal(fake_events(&fp, MACHINE_PANIC), 0);
}

static void unknown_events_are_ignored(void **state)
{
	(void)state;
	out(0x00);
	out(0xfc);
	assert_int_equal(fake_events(&fp, MACHINE_PANIC), 0);
	assert_int_equal(fake_events(&fp, MACHINE_CRASH_LOADED), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(driver_finds_both_events),
	    TEST(panic_is_reported),
	    TEST(crash_kernel_is_reported_and_is_no_panic),
	    TEST(unknown_events_are_ignored),
	};

	return cmocka_run_group_tests_name("pvpanic", tests, NULL, NULL);
}
