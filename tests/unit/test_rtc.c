/* The real-time clock: the guest reads the host's time, and keeps the time that it set. */
#include "devices/legacy/legacy.h"
#include "tests/unit/fake_platform.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

enum {
	SEC = 0x00,
	MIN = 0x02,
	HOUR = 0x04,
	WDAY = 0x06,
	MDAY = 0x07,
	MONTH = 0x08,
	YEAR = 0x09,
	A = 0x0a,
	B = 0x0b,
	C = 0x0c,
	D = 0x0d,
	CENTURY = 0x32,
};

#define B_24H	 0x02
#define B_BINARY 0x04
#define B_SET	 0x80

/* 2001-02-03 16:05:06, a Saturday */
#define SOME_DAY 981216306

static struct fake_platform fp;
static struct rtc *dev;

static int setup(void **state)
{
	(void)state;
	fake_platform_init(&fp, 1 << 20);
	return rtc_new(&fp.plat, &dev, NULL);
}

static int teardown(void **state)
{
	(void)state;
	rtc_free(dev);
	fake_platform_fini(&fp);
	return 0;
}

static uint8_t get(uint8_t reg)
{
	fake_guest_write(&fp, DOORBELL_PIO, 0x70, 1, reg);
	return (uint8_t)fake_guest_read(&fp, DOORBELL_PIO, 0x71, 1);
}

static void set(uint8_t reg, uint8_t v)
{
	fake_guest_write(&fp, DOORBELL_PIO, 0x70, 1, reg);
	fake_guest_write(&fp, DOORBELL_PIO, 0x71, 1, v);
}

static int bcd(uint8_t v)
{
	assert_true((v & 0xf) < 10 && v >> 4 < 10);
	return (v >> 4) * 10 + (v & 0xf);
}

static int number(uint8_t v)
{
	return get(B) & B_BINARY ? v : bcd(v);
}

/* As a kernel does: not during an update, and again when a second went by meanwhile. */
static time_t clock_read(void)
{
	struct tm tm;
	uint8_t sec;

	do {
		while (get(A) & 0x80)
			;
		memset(&tm, 0, sizeof(tm));
		sec = get(SEC);
		tm.tm_sec = number(sec);
		tm.tm_min = number(get(MIN));
		if (get(B) & B_24H) {
			tm.tm_hour = number(get(HOUR));
		} else {
			uint8_t hour = get(HOUR);

			tm.tm_hour = number(hour & 0x7f) % 12 + (hour & 0x80 ? 12 : 0);
		}
		tm.tm_mday = number(get(MDAY));
		tm.tm_mon = number(get(MONTH)) - 1;
		tm.tm_year = number(get(YEAR)) + 100 * number(get(CENTURY)) - 1900;
	} while (get(SEC) != sec);
	return timegm(&tm);
}

static void assert_clock_is(time_t expected)
{
	time_t now = clock_read();

	assert_in_range(now, expected, expected + 2);
}

static void clock_set_bcd(void)
{
	set(B, B_24H | B_SET);
	set(SEC, 0x06);
	set(MIN, 0x05);
	set(HOUR, 0x16);
	set(MDAY, 0x03);
	set(MONTH, 0x02);
	set(YEAR, 0x01);
	set(CENTURY, 0x20);
	set(B, B_24H);
}

static void clock_is_the_hosts(void **state)
{
	(void)state;
	assert_int_equal(get(B), B_24H);
	assert_clock_is(time(NULL));
}

static void binary_mode_is_the_same_time(void **state)
{
	(void)state;
	set(B, B_24H | B_BINARY);
	assert_clock_is(time(NULL));
}

static void twelve_hour_mode_is_the_same_time(void **state)
{
	(void)state;
	set(B, 0);
	assert_clock_is(time(NULL));
	set(B, B_BINARY);
	assert_clock_is(time(NULL));
}

static void noon_and_midnight_are_twelve(void **state)
{
	(void)state;
	clock_set_bcd();
	set(HOUR, 0x00);
	set(B, 0);
	assert_int_equal(get(HOUR), 0x12);
	set(HOUR, 0x92);
	assert_int_equal(get(HOUR), 0x92);
	set(B, B_24H);
	assert_int_equal(get(HOUR), 0x12);
}

static void time_that_is_set_goes_on_from_there(void **state)
{
	(void)state;
	clock_set_bcd();
	assert_clock_is(SOME_DAY);
	assert_int_equal(get(WDAY), 7);
}

static void time_stands_still_while_it_is_set(void **state)
{
	time_t host = time(NULL);

	(void)state;
	set(B, B_24H | B_SET);
	set(SEC, 0x30);
	while (time(NULL) < host + 1)
		assert_int_equal(get(SEC), 0x30);
	assert_int_equal(get(A) & 0x80, 0);
}

static void single_registers_may_be_set_alone(void **state)
{
	(void)state;
	clock_set_bcd();
	set(YEAR, 0x30);
	set(MONTH, 0x12);
	assert_int_equal(bcd(get(YEAR)), 30);
	assert_int_equal(bcd(get(CENTURY)), 20);
	assert_int_equal(bcd(get(MONTH)), 12);
	assert_int_equal(bcd(get(HOUR)), 16);
}

static void update_is_announced_before_the_second_changes(void **state)
{
	uint8_t before;

	(void)state;
	do
		before = get(SEC);
	while (!(get(A) & 0x80));
	while (get(A) & 0x80)
		;
	assert_int_not_equal(get(SEC), before);
}

static void memory_is_kept(void **state)
{
	(void)state;
	for (unsigned reg = 0x0e; reg < 0x80; reg++)
		if (reg != CENTURY)
			set((uint8_t)reg, (uint8_t)(reg * 3));
	for (unsigned reg = 0x0e; reg < 0x80; reg++)
		if (reg != CENTURY)
			assert_int_equal(get((uint8_t)reg), (uint8_t)(reg * 3));
}

static void nmi_bit_is_no_part_of_the_index(void **state)
{
	(void)state;
	set(0x40, 0x5a);
	assert_int_equal(get(0xc0), 0x5a);
}

static void status_says_valid_and_no_interrupt(void **state)
{
	(void)state;
	set(C, 0xff);
	set(D, 0x00);
	assert_int_equal(get(C), 0x00);
	assert_int_equal(get(D), 0x80);
	assert_int_equal(get(A) & 0x7f, 0x26);
}

static void nonsense_is_survived(void **state)
{
	(void)state;
	for (unsigned round = 0; round < 64; round++) {
		set(B, (uint8_t)(round * 2));
		for (unsigned reg = 0; reg < 0x80; reg++) {
			if (reg == B)
				continue;
			set((uint8_t)reg, 0xff);
			set((uint8_t)reg, (uint8_t)(round * 37));
			get((uint8_t)reg);
		}
	}
	fake_guest_write(&fp, DOORBELL_PIO, 0x70, 2, 0xffff);
	fake_guest_read(&fp, DOORBELL_PIO, 0x70, 2);
	clock_set_bcd();
	assert_clock_is(SOME_DAY);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(clock_is_the_hosts),
	    TEST(binary_mode_is_the_same_time),
	    TEST(twelve_hour_mode_is_the_same_time),
	    TEST(noon_and_midnight_are_twelve),
	    TEST(time_that_is_set_goes_on_from_there),
	    TEST(time_stands_still_while_it_is_set),
	    TEST(single_registers_may_be_set_alone),
	    TEST(update_is_announced_before_the_second_changes),
	    TEST(memory_is_kept),
	    TEST(nmi_bit_is_no_part_of_the_index),
	    TEST(status_says_valid_and_no_interrupt),
	    TEST(nonsense_is_survived),
	};

	return cmocka_run_group_tests_name("rtc", tests, NULL, NULL);
}
