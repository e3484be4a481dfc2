/* base/gmem: every range that does not lie whole in one region is refused. */
#include "base/gmem.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define LOW	 0x1000
#define LOW_LEN	 0x3000
#define HIGH	 0x100000000
#define HIGH_LEN 0x2000

static uint8_t low[LOW_LEN], high[HIGH_LEN];

static struct gmem *mem;

static int add(gpa_t gpa, uint64_t len, uint8_t *host)
{
	struct gmem_region r = {.gpa = gpa, .len_bytes = len, .host = host, .fd = -1};
	struct err err = ERR_INIT;
	int code = gmem_add(mem, &r, &err);

	assert_int_equal(err.code, -code);
	return code;
}

static int setup(void **state)
{
	(void)state;
	memset(low, 0x11, sizeof(low));
	memset(high, 0x22, sizeof(high));
	if (gmem_new(&mem))
		return -1;
	assert_int_equal(add(HIGH, HIGH_LEN, high), 0);
	assert_int_equal(add(LOW, LOW_LEN, low), 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	gmem_free(mem);
	gmem_free(NULL);
	return 0;
}

static void regions_are_in_order(void **state)
{
	(void)state;
	assert_true(gmem_region_at(mem, 0)->gpa == LOW);
	assert_true(gmem_region_at(mem, 1)->gpa == HIGH);
	assert_null(gmem_region_at(mem, 2));
	assert_true(gmem_total_bytes(mem) == LOW_LEN + HIGH_LEN);
}

static void addresses_inside(void **state)
{
	(void)state;
	assert_ptr_equal(gmem_ro(mem, LOW, 1), low);
	assert_ptr_equal(gmem_ro(mem, LOW, LOW_LEN), low);
	assert_ptr_equal(gmem_rw(mem, LOW + LOW_LEN - 1, 1), low + LOW_LEN - 1);
	assert_ptr_equal(gmem_rw(mem, HIGH + 5, HIGH_LEN - 5), high + 5);
}

static void addresses_outside(void **state)
{
	static const struct {
		gpa_t gpa;
		uint64_t len;
	} bad[] = {
	    {0, 1},
	    {LOW - 1, 1},
	    {LOW - 1, 2},
	    {LOW, LOW_LEN + 1},
	    {LOW + LOW_LEN, 1},
	    {LOW + LOW_LEN - 1, 2},
	    {LOW, 0},
	    {LOW, UINT64_MAX},
	    {LOW + 1, UINT64_MAX},
	    {LOW, HIGH + HIGH_LEN - LOW}, /* across the hole */
	    {UINT64_MAX, 1},
	    {UINT64_MAX, UINT64_MAX},
	    {UINT64_MAX - 1, LOW + 3},	     /* wraps into the region */
	    {LOW + 1, UINT64_MAX - LOW + 1}, /* ends where it wraps to 1 */
	    {HIGH + HIGH_LEN, 1},
	};
	char b[1] = {7};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_null(gmem_ro(mem, bad[i].gpa, bad[i].len));
		assert_null(gmem_rw(mem, bad[i].gpa, bad[i].len));
		if (!bad[i].len)
			continue;
		assert_int_equal(gmem_read(mem, bad[i].gpa, b, bad[i].len), -EFAULT);
		assert_int_equal(gmem_write(mem, bad[i].gpa, b, bad[i].len), -EFAULT);
		assert_int_equal(gmem_fill(mem, bad[i].gpa, 0, bad[i].len), -EFAULT);
	}
	assert_int_equal(b[0], 7);
}

static void copies(void **state)
{
	char b[8] = "";

	(void)state;
	assert_int_equal(gmem_write(mem, LOW + 100, "guest", 6), 0);
	assert_memory_equal(low + 100, "guest", 6);
	assert_int_equal(low[99], 0x11);
	assert_int_equal(low[106], 0x11);
	assert_int_equal(gmem_read(mem, LOW + 100, b, 6), 0);
	assert_string_equal(b, "guest");
	assert_int_equal(gmem_fill(mem, HIGH + HIGH_LEN - 2, 0xee, 2), 0);
	assert_memory_equal(high + HIGH_LEN - 3, "\x22\xee\xee", 3);
	/* nothing to copy is no fault, wherever */
	assert_int_equal(gmem_read(mem, 0, b, 0), 0);
	assert_int_equal(gmem_write(mem, UINT64_MAX, b, 0), 0);
}

static void bad_regions_are_refused(void **state)
{
	uint8_t *host = low;

	(void)state;
	assert_int_equal(add(LOW, 1, host), -EEXIST);
	assert_int_equal(add(LOW + LOW_LEN - 1, 10, host), -EEXIST);
	assert_int_equal(add(0, LOW + 1, host), -EEXIST);
	assert_int_equal(add(0, HIGH + HIGH_LEN, host), -EEXIST); /* around both */
	assert_int_equal(add(UINT64_MAX, 2, host), -EOVERFLOW);
	assert_int_equal(add(UINT64_MAX, 1, host), -EOVERFLOW);
	assert_int_equal(add(0, 0, host), -EINVAL);
	assert_int_equal(add(0, 1, NULL), -EINVAL);
	assert_true(gmem_total_bytes(mem) == LOW_LEN + HIGH_LEN);
}

static void neighbours_touch_but_do_not_join(void **state)
{
	(void)state;
	assert_int_equal(add(0, LOW, high), 0);
	assert_int_equal(add(LOW + LOW_LEN, 0x1000, high), 0);
	assert_true(gmem_region_at(mem, 0)->gpa == 0);
	assert_null(gmem_ro(mem, LOW - 1, 2)); /* two mappings: no single host range */
}

static void at_most_so_many_regions(void **state)
{
	(void)state;
	for (unsigned i = 2; i < GMEM_REGIONS_MAX; i++)
		assert_int_equal(add(HIGH + i * 0x10000, 0x1000, low), 0);
	assert_int_equal(add(0, 1, low), -ENOSPC);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(regions_are_in_order),	   TEST(addresses_inside),
	    TEST(addresses_outside),	   TEST(copies),
	    TEST(bad_regions_are_refused), TEST(neighbours_touch_but_do_not_join),
	    TEST(at_most_so_many_regions),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
