/* Which file system is on a disk. */
#include "base/filesystem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define DISK_BYTES (256 << 10)

static int disk_new(void)
{
	int fd = memfd_create("disk", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, DISK_BYTES), 0);
	return fd;
}

static void put(int fd, unsigned offset, const char *bytes, size_t len)
{
	assert_int_equal(pwrite(fd, bytes, len, offset), len);
}

static void blank_is_nothing(void **state)
{
	int fd = disk_new();
	bool mountable = true;

	(void)state;
	assert_null(filesystem_find(fd, &mountable));
	assert_true(mountable); /* untouched */
	close(fd);
}

static void short_file_is_nothing(void **state)
{
	int fd = disk_new();
	bool mountable;

	(void)state;
	assert_int_equal(ftruncate(fd, 3), 0);
	assert_null(filesystem_find(fd, &mountable));
	close(fd);
}

static void superblocks_are_told(void **state)
{
	static const struct {
		unsigned offset;
		const char *bytes, *name;
		bool mountable;
	} cases[] = {
	    {65600, "_BHRfS_M", "btrfs", true},
	    {1080, "\x53\xef", "ext4", true},
	    {0, "hsqs", "squashfs", true},
	    {0, "XFSB", "xfs", true},
	    {0, "QFI\xfb", "a qcow2 image", false},
	    {512, "EFI PART", "a GPT partition table", false},
	    {510, "\x55\xaa", "a partition table", false},
	    {4086, "SWAPSPACE2", "swap space", false},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int fd = disk_new();
		bool mountable = !cases[i].mountable;
		const char *name;

		put(fd, cases[i].offset, cases[i].bytes, strlen(cases[i].bytes));
		name = filesystem_find(fd, &mountable);
		assert_non_null(name);
		assert_string_equal(name, cases[i].name);
		assert_int_equal(mountable, cases[i].mountable);
		close(fd);
	}
}

/* A boot sector in front of a file system is no partition table. */
static void boot_sector_with_file_system(void **state)
{
	int fd = disk_new();
	bool mountable = false;

	(void)state;
	put(fd, 510, "\x55\xaa", 2);
	put(fd, 1080, "\x53\xef", 2);
	assert_string_equal(filesystem_find(fd, &mountable), "ext4");
	assert_true(mountable);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(blank_is_nothing),
	    cmocka_unit_test(short_file_is_nothing),
	    cmocka_unit_test(superblocks_are_told),
	    cmocka_unit_test(boot_sector_with_file_system),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
