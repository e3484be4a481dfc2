/* Components: their versions, and which is used. */
#include "control/component/component.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char root[64];

static int setup(void **state)
{
	const char *base = getenv("TMPDIR");

	(void)state;
	snprintf(root, sizeof(root), "%s/lodge-component-XXXXXX", base ? base : "/var/tmp");
	return mkdtemp(root) ? 0 : -1;
}

static int teardown(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf '%s'", root);
	return system(command);
}

static void folder(const char *path)
{
	char full[256];

	snprintf(full, sizeof(full), "%s/%s", root, path);
	assert_int_equal(mkdir(full, 0755), 0);
}

/* A file of 128 KiB with `bytes` at the offset. */
static void file(const char *path, unsigned offset, const char *bytes)
{
	char full[256];
	int fd;

	snprintf(full, sizeof(full), "%s/%s", root, path);
	fd = open(full, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 128 << 10), 0);
	assert_int_equal(pwrite(fd, bytes, strlen(bytes), offset), strlen(bytes));
	close(fd);
}

static void component(const char *version)
{
	char path[128];

	snprintf(path, sizeof(path), "cros-termina/%s", version);
	folder(path);
	snprintf(path, sizeof(path), "cros-termina/%s/vm_kernel", version);
	file(path, 0, "kernel");
	snprintf(path, sizeof(path), "cros-termina/%s/vm_rootfs.img", version);
	file(path, 1080, "\x53\xef");
}

/* ---- versions ---- */

static void what_is_a_version(void **state)
{
	static const char *const good[] = {"0",		"7",	"1.2",
					   "13429.0.0", "00.1", "99999999999999999999999999.1"};
	static const char *const bad[] = {"",	".",   "1.", "..", ".1", "1..2",      "1.x",
					  "v1", "1-2", "1 ", "+1", "-1", "lost+found"};
	char digits[COMPONENT_VERSION_MAX + 2];

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_true(version_valid(good[i]));
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_false(version_valid(bad[i]));
	memset(digits, '1', sizeof(digits));
	digits[COMPONENT_VERSION_MAX + 1] = '\0';
	assert_false(version_valid(digits));
	digits[COMPONENT_VERSION_MAX] = '\0';
	assert_true(version_valid(digits));
}

static void versions_are_in_order(void **state)
{
	static const char *const up[] = {"0",
					 "1",
					 "1.0",
					 "1.0.0",
					 "1.0.1",
					 "1.1",
					 "1.01",
					 "1.2",
					 "1.10",
					 "2",
					 "9.9",
					 "10",
					 "10.0",
					 "13429.7",
					 "99999999999999999999",
					 "100000000000000000000"};
	const size_t n = sizeof(up) / sizeof(up[0]);

	(void)state;
	for (size_t i = 0; i < n; i++) {
		for (size_t j = 0; j < n; j++) {
			int res = version_compare(up[i], up[j]);

			assert_int_equal((res > 0) - (res < 0), (i > j) - (i < j));
		}
	}
}

static void the_next_is_higher(void **state)
{
	static const char *const pairs[][2] = {
	    {"1", "2"},	      {"9", "10"},	   {"1.9", "1.10"},
	    {"1.09", "1.10"}, {"99.99", "99.100"}, {"0", "1"},
	};
	char next[COMPONENT_VERSION_MAX + 1], digits[COMPONENT_VERSION_MAX + 1];

	(void)state;
	for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
		assert_int_equal(version_next(pairs[i][0], next), 0);
		assert_string_equal(next, pairs[i][1]);
		assert_true(version_compare(next, pairs[i][0]) > 0);
	}
	memset(digits, '9', sizeof(digits));
	digits[COMPONENT_VERSION_MAX] = '\0';
	assert_int_equal(version_next(digits, next), -ERANGE);
}

/* ---- which is used ---- */

static void fails(int code, const char *text, const char *cure)
{
	struct component_paths paths = {0};
	struct err err = ERR_INIT;

	assert_int_equal(component_find(root, &paths, &err), -code);
	assert_non_null(strstr(err.msg, text));
	assert_non_null(strstr(err.msg, cure));
	assert_null(paths.kernel);
}

static void none_at_all(void **state)
{
	(void)state;
	fails(ENOENT, "/cros-termina", "lodge component install");
	folder("cros-termina");
	fails(ENOENT, "/cros-termina", "lodge component install");
	folder("cros-termina/latest");
	file("cros-termina/3", 0, "no folder");
	fails(ENOENT, "/cros-termina", "lodge component install");
}

static void the_highest_is_used(void **state)
{
	struct component_paths paths;
	struct err err = ERR_INIT;
	char want[128];

	(void)state;
	folder("cros-termina");
	component("9.2");
	component("10.1");
	component("10.0.7");
	component("x11");
	assert_int_equal(component_find(root, &paths, &err), 0);
	snprintf(want, sizeof(want), "%s/cros-termina/10.1/vm_kernel", root);
	assert_string_equal(paths.kernel, want);
	snprintf(want, sizeof(want), "%s/cros-termina/10.1/vm_rootfs.img", root);
	assert_string_equal(paths.rootfs, want);
	assert_string_equal(paths.fstype, "ext4");
	component_paths_free(&paths);
}

static void an_incomplete_one_is_no_reason_for_an_older(void **state)
{
	(void)state;
	folder("cros-termina");
	component("1");
	folder("cros-termina/2");
	fails(ENOENT, "cros-termina/2 is incomplete: it has no vm_kernel",
	      "lodge component install");
	file("cros-termina/2/vm_kernel", 0, "kernel");
	fails(ENOENT, "cros-termina/2 is incomplete: it has no vm_rootfs.img",
	      "lodge component install");
	file("cros-termina/2/vm_rootfs.img", 0, "nothing");
	fails(EINVAL, "cros-termina/2/vm_rootfs.img has no file system", "mke2fs");
}

static void a_root_that_cannot_be_read(void **state)
{
	(void)state;
	file("cros-termina", 0, "a file");
	fails(ENOTDIR, "/cros-termina", "Not a directory");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_is_a_version),
	    cmocka_unit_test(versions_are_in_order),
	    cmocka_unit_test(the_next_is_higher),
	    cmocka_unit_test_setup_teardown(none_at_all, setup, teardown),
	    cmocka_unit_test_setup_teardown(the_highest_is_used, setup, teardown),
	    cmocka_unit_test_setup_teardown(an_incomplete_one_is_no_reason_for_an_older, setup,
					    teardown),
	    cmocka_unit_test_setup_teardown(a_root_that_cannot_be_read, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
