/* base/checked: at the edges of 64 bits. */
#include "base/checked.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define MAX64 UINT64_MAX

static void add(void **state)
{
	uint64_t r = 7;

	(void)state;
	assert_true(ck_add(MAX64 - 1, 1, &r));
	assert_true(r == MAX64);
	r = 7;
	assert_false(ck_add(MAX64, 1, &r));
	assert_false(ck_add(MAX64, MAX64, &r));
	assert_true(r == 7); /* untouched */
}

static void mul(void **state)
{
	uint64_t r = 7;

	(void)state;
	assert_true(ck_mul(UINT64_C(1) << 32, (UINT64_C(1) << 32) - 1, &r));
	assert_true(r == MAX64 - UINT32_MAX);
	assert_true(ck_mul(0, MAX64, &r));
	assert_true(r == 0);
	r = 7;
	assert_false(ck_mul(UINT64_C(1) << 32, UINT64_C(1) << 32, &r));
	assert_true(r == 7);
}

static void shl(void **state)
{
	uint64_t r = 7;

	(void)state;
	assert_true(ck_shl(1, 63, &r));
	assert_true(r == UINT64_C(1) << 63);
	assert_true(ck_shl(MAX64, 0, &r));
	assert_true(r == MAX64);
	r = 7;
	assert_false(ck_shl(2, 63, &r));
	assert_false(ck_shl(1, 64, &r));
	assert_false(ck_shl(0, 200, &r));
	assert_true(r == 7);
}

static void range(void **state)
{
	(void)state;
	assert_true(ck_range(0, 0, 0));
	assert_true(ck_range(10, 0, 10)); /* empty, at the limit */
	assert_true(ck_range(0, MAX64, MAX64));
	assert_true(ck_range(9, 1, 10));
	assert_false(ck_range(9, 2, 10));
	assert_false(ck_range(11, 0, 10));
	assert_false(ck_range(MAX64, 2, MAX64)); /* the sum would wrap to 1 */
	assert_false(ck_range(2, MAX64, MAX64));
}

static void alignment(void **state)
{
	(void)state;
	assert_true(is_pow2(1) && is_pow2(UINT64_C(1) << 63));
	assert_false(is_pow2(0) || is_pow2(3) || is_pow2(MAX64));
	assert_true(align_down(4097, 4096) == 4096 && align_down(4095, 4096) == 0);
	assert_true(align_up(4097, 4096) == 8192 && align_up(4096, 4096) == 4096);
	assert_true(align_up(0, 4096) == 0 && align_up(5, 1) == 5);
	assert_true(is_aligned(0, 512) && is_aligned(1024, 512) && !is_aligned(513, 512));
}

struct outer {
	int a;
	struct inner {
		int b;
	} in;
};

static void containers(void **state)
{
	struct outer o;
	int list[17];

	(void)state;
	assert_ptr_equal(container_of(&o.in, struct outer, in), &o);
	assert_int_equal(ARRAY_LEN(list), 17);
	assert_int_equal(MIN(3, 4), 3);
	assert_int_equal(MAX(3, 4), 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(add),   cmocka_unit_test(mul),	  cmocka_unit_test(shl),
	    cmocka_unit_test(range), cmocka_unit_test(alignment), cmocka_unit_test(containers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
