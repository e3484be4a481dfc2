/* base/bytes: the order of bytes, at any alignment. */
#include "base/bytes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void little_endian(void **state)
{
	(void)state;
	assert_memory_equal(le16_put(0x1234).b, "\x34\x12", 2);
	assert_memory_equal(le32_put(0x12345678).b, "\x78\x56\x34\x12", 4);
	assert_memory_equal(le64_put(0x0102030405060708).b, "\x08\x07\x06\x05\x04\x03\x02\x01", 8);
}

static void big_endian(void **state)
{
	(void)state;
	assert_memory_equal(be16_put(0x1234).b, "\x12\x34", 2);
	assert_memory_equal(be32_put(0x12345678).b, "\x12\x34\x56\x78", 4);
	assert_memory_equal(be64_put(0x0102030405060708).b, "\x01\x02\x03\x04\x05\x06\x07\x08", 8);
}

static void get_is_the_inverse_of_put(void **state)
{
	static const uint64_t values[] = {0,	  1,	      0x80,	  0xff,
					  0x8000, 0xdeadbeef, UINT64_MAX, 0x8000000000000001};

	(void)state;
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		uint64_t v = values[i];

		assert_int_equal(le16_get(le16_put((uint16_t)v)), (uint16_t)v);
		assert_int_equal(be16_get(be16_put((uint16_t)v)), (uint16_t)v);
		assert_int_equal(le32_get(le32_put((uint32_t)v)), (uint32_t)v);
		assert_int_equal(be32_get(be32_put((uint32_t)v)), (uint32_t)v);
		assert_true(le64_get(le64_put(v)) == v);
		assert_true(be64_get(be64_put(v)) == v);
	}
}

static void load_and_store_at_any_address(void **state)
{
	uint8_t b[32];

	(void)state;
	for (size_t at = 0; at < 8; at++) {
		le32_store(b + at, 0xcafef00d);
		assert_memory_equal(b + at, "\x0d\xf0\xfe\xca", 4);
		assert_int_equal(le32_load(b + at), 0xcafef00d);
		be64_store(b + at, 0x1122334455667788);
		assert_memory_equal(b + at, "\x11\x22\x33\x44\x55\x66\x77\x88", 8);
		assert_true(be64_load(b + at) == 0x1122334455667788);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(little_endian),
	    cmocka_unit_test(big_endian),
	    cmocka_unit_test(get_is_the_inverse_of_put),
	    cmocka_unit_test(load_and_store_at_any_address),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
