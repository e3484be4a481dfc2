/* Size and space of raw images. */
#include "disk/raw_tools.h"

#include "disk/lock.h"
#include "tests/unit/raw_fixture.h"

static char dir[200], path[256];

static int setup(void **state)
{
	(void)state;
	alarm(WATCHDOG_S);
	if (temp_dir(dir, sizeof(dir)))
		return -1;
	snprintf(path, sizeof(path), "%s/disk", dir);
	make_file(path, 1 * MIB);
	return 0;
}

static int rig_teardown(void **state)
{
	(void)state;
	unlink(path);
	return rmdir(dir);
}

static uint64_t size_of(void)
{
	struct raw_facts facts;
	struct err err = ERR_INIT;

	assert_int_equal(raw_facts(path, &facts, &err), 0);
	assert_false(facts.is_device);
	return facts.size_bytes;
}

static void grows_sparse(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(raw_resize(path, 1024 * GIB, false, RAW_PREALLOC_OFF, NULL, &err), 0);
	assert_int_equal(size_of(), 1024 * GIB);
	assert_true(file_blocks(path) < 100);
}

static void grows_with_space(void **state)
{
	struct raw_facts facts;
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(raw_resize(path, 3 * MIB, false, RAW_PREALLOC_FULL, NULL, &err), 0);
	assert_int_equal(raw_facts(path, &facts, &err), 0);
	assert_true(facts.allocated_bytes >= 2 * MIB);
	assert_true(facts.allocated_bytes < 3 * MIB);
}

static void shrinks_only_when_told(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(raw_resize(path, 4096, false, RAW_PREALLOC_OFF, NULL, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "--shrink"));
	assert_int_equal(size_of(), 1 * MIB);
	err = (struct err)ERR_INIT;
	assert_int_equal(raw_resize(path, 4096, true, RAW_PREALLOC_OFF, NULL, &err), 0);
	assert_int_equal(size_of(), 4096);
}

static void one_in_use_is_left_alone(void **state)
{
	struct err err = ERR_INIT;
	int fd = open(path, O_RDWR | O_CLOEXEC);

	(void)state;
	assert_int_equal(image_lock(fd, true, &err), 0);
	assert_int_equal(raw_resize(path, 2 * MIB, false, RAW_PREALLOC_OFF, NULL, &err), -EAGAIN);
	assert_non_null(strstr(err.msg, path));
	close(fd);
	assert_int_equal(size_of(), 1 * MIB);
}

static bool refuse(void *ctx, uint64_t done, uint64_t total)
{
	(void)ctx;
	assert_true(done <= total);
	return false;
}

static void interrupted_it_has_its_old_size(void **state)
{
	const struct tool_progress progress = {.at = refuse};
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(raw_resize(path, 64 * MIB, false, RAW_PREALLOC_FULL, &progress, &err),
			 -ECANCELED);
	assert_int_equal(size_of(), 1 * MIB);
}

static void others_than_files_are_refused(void **state)
{
	struct raw_facts facts;
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(raw_facts("/dev/null", &facts, &err), -EINVAL);
	err = (struct err)ERR_INIT;
	assert_int_equal(raw_facts("/nowhere", &facts, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "/nowhere"));
	err = (struct err)ERR_INIT;
	assert_int_equal(raw_resize(dir, MIB, false, RAW_PREALLOC_OFF, NULL, &err), -EISDIR);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, rig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(grows_sparse),
	    TEST(grows_with_space),
	    TEST(shrinks_only_when_told),
	    TEST(one_in_use_is_left_alone),
	    TEST(interrupted_it_has_its_old_size),
	    TEST(others_than_files_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
