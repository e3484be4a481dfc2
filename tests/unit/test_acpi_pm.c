/* ACPI power management: switching off, resetting, and the power button. */
#include "devices/legacy/legacy.h"
#include "tests/unit/fake_platform.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static struct fake_platform fp;
static struct acpi_pm *dev;

static int setup(void **state)
{
	(void)state;
	fake_platform_init(&fp, 1 << 20);
	return acpi_pm_new(
	    &fp.plat, &(struct device_place){.base = ACPI_PM_PORT, .gsi = ACPI_PM_GSI}, &dev, NULL);
}

static int teardown(void **state)
{
	(void)state;
	acpi_pm_free(dev);
	fake_platform_fini(&fp);
	return 0;
}

static uint8_t in(unsigned port)
{
	return (uint8_t)fake_guest_read(&fp, DOORBELL_PIO, port, 1);
}

static void out(unsigned port, uint8_t v)
{
	fake_guest_write(&fp, DOORBELL_PIO, port, 1, v);
}

static void s5_switches_off(void **state)
{
	(void)state;
	out(ACPI_PM_SLEEP_CONTROL, ACPI_PM_S5_TYPE << 2 | 1 << 5);
	assert_int_equal(fake_events(&fp, MACHINE_POWEROFF), 1);
}

static void other_sleep_states_do_nothing(void **state)
{
	(void)state;
	for (unsigned type = 0; type < 8; type++)
		if (type != ACPI_PM_S5_TYPE)
			out(ACPI_PM_SLEEP_CONTROL, (uint8_t)(type << 2 | 1 << 5));
	out(ACPI_PM_SLEEP_CONTROL, ACPI_PM_S5_TYPE << 2); /* without SLP_EN */
	assert_int_equal(fake_events(&fp, MACHINE_POWEROFF), 0);
}

static void sleep_type_reads_back_and_enable_does_not(void **state)
{
	(void)state;
	out(ACPI_PM_SLEEP_CONTROL, 0x2 << 2 | 1 << 5);
	assert_int_equal(in(ACPI_PM_SLEEP_CONTROL), 0x2 << 2);
	assert_int_equal(in(ACPI_PM_SLEEP_STATUS), 0);
}

static void only_the_reset_value_resets(void **state)
{
	(void)state;
	out(ACPI_PM_RESET, 0);
	out(ACPI_PM_RESET, 0xfe);
	assert_int_equal(fake_events(&fp, MACHINE_REBOOT), 0);
	out(ACPI_PM_RESET, ACPI_PM_RESET_VALUE);
	assert_int_equal(fake_events(&fp, MACHINE_REBOOT), 1);
}

static void power_button_interrupts_and_is_read_once(void **state)
{
	(void)state;
	assert_int_equal(in(ACPI_PM_EVENT), 0);
	acpi_pm_press_power(dev);
	assert_int_equal(fake_irq_taken(&fp, ACPI_PM_GSI), 1);
	assert_int_equal(in(ACPI_PM_EVENT), ACPI_PM_EVENT_POWER);
	assert_int_equal(in(ACPI_PM_EVENT), 0);
	assert_int_equal(fake_irq_taken(&fp, ACPI_PM_GSI), 0);
}

static void the_guest_cannot_press_the_button(void **state)
{
	(void)state;
	out(ACPI_PM_EVENT, 0xff);
	assert_int_equal(in(ACPI_PM_EVENT), 0);
	assert_int_equal(fake_irq_taken(&fp, ACPI_PM_GSI), 0);
}

static void no_interrupt_line_is_an_error(void **state)
{
	struct acpi_pm *other = NULL;

	(void)state;
	fp.irq_error = ENOSPC;
	assert_int_equal(
	    acpi_pm_new(&fp.plat, &(struct device_place){.base = ACPI_PM_PORT, .gsi = ACPI_PM_GSI},
			&other, NULL),
	    -ENOSPC);
	assert_null(other);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(s5_switches_off),
	    TEST(other_sleep_states_do_nothing),
	    TEST(sleep_type_reads_back_and_enable_does_not),
	    TEST(only_the_reset_value_resets),
	    TEST(power_button_interrupts_and_is_read_once),
	    TEST(the_guest_cannot_press_the_button),
	    TEST(no_interrupt_line_is_an_error),
	};

	return cmocka_run_group_tests_name("acpi_pm", tests, NULL, NULL);
}
