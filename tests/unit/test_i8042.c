/* The i8042 as a driver's probe and a rebooting kernel see it. */
#include "devices/legacy/legacy.h"
#include "tests/unit/fake_platform.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static struct fake_platform fp;
static struct i8042 *dev;

static int setup(void **state)
{
	(void)state;
	fake_platform_init(&fp, 1 << 20);
	return i8042_new(&fp.plat, &dev, NULL);
}

static int teardown(void **state)
{
	(void)state;
	i8042_free(dev);
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

static unsigned reboots(void)
{
	return fake_events(&fp, MACHINE_REBOOT);
}

/* Sends a command; its answer has to be there at once. */
static uint8_t ask(uint8_t cmd)
{
	out(0x64, cmd);
	assert_int_equal(in(0x64) & 0x03, 0x01);
	return in(0x60);
}

static void controller_is_idle_at_start(void **state)
{
	(void)state;
	assert_int_equal(in(0x64) & 0x03, 0);
	assert_int_equal(in(0x64) & 0x10, 0x10); /* key lock open */
}

static void self_test_and_interface_test_pass(void **state)
{
	(void)state;
	assert_int_equal(ask(0xaa), 0x55);
	assert_int_equal(ask(0xab), 0x00);
	assert_int_equal(in(0x64) & 0x01, 0);
}

static void command_byte_is_kept(void **state)
{
	(void)state;
	out(0x64, 0x60);
	out(0x60, 0x47);
	assert_int_equal(ask(0x20), 0x47);
	assert_int_equal(ask(0x20), 0x47);
	out(0x64, 0xad);
	assert_int_equal(ask(0x20), 0x57);
	out(0x64, 0xae);
	out(0x64, 0xa7);
	assert_int_equal(ask(0x20), 0x67);
	out(0x64, 0xa8);
	assert_int_equal(ask(0x20), 0x47);
}

static void mouse_port_is_absent_without_waiting(void **state)
{
	(void)state;
	out(0x64, 0xd3);
	out(0x60, 0x5a);
	assert_int_equal(in(0x64) & 0x21, 0x01); /* an answer that is not the mouse's */
	assert_int_not_equal(in(0x60), 0x5a);
	assert_int_not_equal(ask(0xa9), 0x00);
}

static void keyboard_commands_go_nowhere(void **state)
{
	(void)state;
	out(0x60, 0xff);
	out(0x60, 0xf2);
	assert_int_equal(in(0x64) & 0x03, 0);
	out(0x64, 0xd4);
	out(0x60, 0xff);
	assert_int_equal(in(0x64) & 0x03, 0);
}

static void pulse_of_the_reset_line_reboots(void **state)
{
	(void)state;
	out(0x64, 0xff);
	assert_int_equal(reboots(), 0);
	out(0x64, 0xfe);
	assert_int_equal(reboots(), 1);
}

static void output_port_reboots_with_bit_0_clear(void **state)
{
	(void)state;
	assert_int_equal(ask(0xd0) & 0x01, 0x01);
	out(0x64, 0xd1);
	out(0x60, 0xdf);
	assert_int_equal(reboots(), 0);
	out(0x64, 0xd1);
	out(0x60, 0xde);
	assert_int_equal(reboots(), 1);
}

static void data_byte_without_command_does_not_reboot(void **state)
{
	(void)state;
	out(0x60, 0xfe);
	out(0x60, 0x00);
	assert_int_equal(reboots(), 0);
}

static void fast_reset_port_reboots(void **state)
{
	(void)state;
	assert_int_equal(in(0x92) & 0x02, 0x02);
	out(0x92, 0x02);
	assert_int_equal(reboots(), 0);
	out(0x92, 0x03);
	assert_int_equal(reboots(), 1);
}

static void port_61_reports_no_nmi_and_toggles_refresh(void **state)
{
	uint8_t first = in(0x61), second = in(0x61);

	(void)state;
	assert_int_equal(first & 0xc0, 0);
	assert_int_equal((first ^ second) & 0x10, 0x10);
	out(0x61, 0xff);
	assert_int_equal(in(0x61) & 0xc3, 0x03);
}

static void every_byte_everywhere_is_survived(void **state)
{
	(void)state;
	for (unsigned cmd = 0; cmd < 256; cmd++) {
		for (unsigned v = 0; v < 256; v += 5) {
			out(0x64, (uint8_t)cmd);
			out(0x60, (uint8_t)v);
			in(0x60);
			in(0x64);
		}
	}
	fake_guest_write(&fp, DOORBELL_PIO, 0x60, 2, 0xffff);
	fake_guest_read(&fp, DOORBELL_PIO, 0x60, 2);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(controller_is_idle_at_start),
	    TEST(self_test_and_interface_test_pass),
	    TEST(command_byte_is_kept),
	    TEST(mouse_port_is_absent_without_waiting),
	    TEST(keyboard_commands_go_nowhere),
	    TEST(pulse_of_the_reset_line_reboots),
	    TEST(output_port_reboots_with_bit_0_clear),
	    TEST(data_byte_without_command_does_not_reboot),
	    TEST(fast_reset_port_reboots),
	    TEST(port_61_reports_no_nmi_and_toggles_refresh),
	    TEST(every_byte_everywhere_is_survived),
	};

	return cmocka_run_group_tests_name("i8042", tests, NULL, NULL);
}
