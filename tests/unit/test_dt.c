/* The writer of device trees. */
#include "tests/unit/fdt_reader.h"
#include "vmm/fdt/dt.h"

#include <errno.h>

static void nodes_and_properties_come_back(void **state)
{
	struct dt dt;
	size_t len = 0;
	int bytes;

	(void)state;
	dt_init(&dt, tree, sizeof(tree));
	dt_text(&dt, "model", "a");
	dt_node_at(&dt, "thing", UINT64_C(0x123456789a));
	dt_u32(&dt, "one", 1);
	dt_u64(&dt, "long", UINT64_C(0x123456789a));
	DT_CELLS(&dt, "cells", 1, DT_U64(UINT64_C(2) << 32 | 3), 4);
	DT_TEXTS(&dt, "texts", "one\0two");
	dt_empty(&dt, "flag");
	dt_end(&dt);
	assert_int_equal(dt_finish(&dt, &len), 0);
	assert_int_equal(len, fdt_totalsize(tree));
	assert_int_equal(fdt_check_full(tree, len), 0);
	assert_text("/", "model", "a");
	CELLS("/thing@123456789a", "one", 1);
	CELLS("/thing@123456789a", "long", 0x12, 0x3456789a);
	CELLS("/thing@123456789a", "cells", 1, 2, 3, 4);
	assert_memory_equal(property("/thing@123456789a", "texts", &bytes), "one\0two", 8);
	assert_int_equal(bytes, 8);
	(void)property("/thing@123456789a", "flag", &bytes);
	assert_int_equal(bytes, 0);
}

static void too_small_a_buffer_is_an_error_at_the_end(void **state)
{
	size_t len = 77;
	struct dt dt;

	(void)state;
	for (size_t cap = 0; cap < 200; cap++) {
		memset(tree, 0xee, sizeof(tree));
		dt_init(&dt, tree, cap);
		dt_node(&dt, "a-node-with-a-long-name");
		for (unsigned i = 0; i < 16; i++)
			dt_u64(&dt, "property", i);
		dt_end(&dt);
		assert_int_equal(dt_finish(&dt, &len), -ENOSPC);
		assert_int_equal(len, 77);
		assert_int_equal(tree[cap], 0xee);
	}
}

static void a_tree_that_is_none_is_refused(void **state)
{
	size_t len;
	struct dt dt;

	(void)state;
	dt_init(&dt, tree, sizeof(tree));
	dt_node(&dt, "left-open");
	assert_int_equal(dt_finish(&dt, &len), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(nodes_and_properties_come_back),
	    cmocka_unit_test(too_small_a_buffer_is_an_error_at_the_end),
	    cmocka_unit_test(a_tree_that_is_none_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
