/* Files that appear complete or not at all. */
#include "disk/create_file.h"
#include "disk/lock.h"

#include <dirent.h>
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

static char dir[64];
static char path[128];

static int setup(void **state)
{
	const char *base = getenv("TMPDIR");

	(void)state;
	snprintf(dir, sizeof(dir), "%s/lodge-create-XXXXXX", base ? base : "/var/tmp");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/disk", dir);
	return 0;
}

static int teardown(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf '%s'", dir);
	return system(command);
}

/* Names in the folder, hidden ones too. */
static unsigned count_names(void)
{
	DIR *d = opendir(dir);
	unsigned n = 0;

	assert_non_null(d);
	for (struct dirent *e; (e = readdir(d));)
		n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
	closedir(d);
	return n;
}

static void put(const char *name, const char *contents)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, contents, strlen(contents)), strlen(contents));
	close(fd);
}

static void expect_contents(const char *name, const char *contents)
{
	char buf[64] = "";
	int fd = open(name, O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(read(fd, buf, sizeof(buf) - 1), strlen(contents));
	assert_string_equal(buf, contents);
	close(fd);
}

static void begin_and_write(struct create_file *f, unsigned flags)
{
	struct err err = ERR_INIT;
	int fd;

	if (create_file_begin(f, path, flags, &err))
		fail_msg("%s", err.msg);
	fd = open(f->work_path, O_WRONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, "new", 3), 3);
	close(fd);
}

static void appears_at_commit(unsigned flags)
{
	struct err err = ERR_INIT;
	struct create_file f;

	begin_and_write(&f, flags);
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(create_file_commit(&f, &err), 0);
	expect_contents(path, "new");
	assert_int_equal(count_names(), 1);
}

static void nameless_appears_at_commit(void **state)
{
	(void)state;
	appears_at_commit(0);
}

static void named_appears_at_commit(void **state)
{
	(void)state;
	appears_at_commit(CREATE_FILE_NAMED);
}

static void abort_leaves_nothing(void **state)
{
	static const unsigned flags[] = {0, CREATE_FILE_NAMED};

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		struct create_file f;

		begin_and_write(&f, flags[i]);
		create_file_abort(&f);
		create_file_abort(&f);
		assert_int_equal(count_names(), 0);
	}
}

static void existing_is_kept(void **state)
{
	struct err err = ERR_INIT;
	struct create_file f;

	(void)state;
	put(path, "old");
	assert_int_equal(create_file_begin(&f, path, 0, &err), -EEXIST);
	assert_non_null(strstr(err.msg, "--force"));
	assert_non_null(strstr(err.msg, path));
	expect_contents(path, "old");
	assert_int_equal(count_names(), 1);
}

static void replaces_with_its_mode(void **state)
{
	static const unsigned flags[] = {0, CREATE_FILE_NAMED};

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		struct err err = ERR_INIT;
		struct create_file f;
		struct stat st;

		put(path, "old");
		begin_and_write(&f, flags[i] | CREATE_FILE_REPLACE);
		expect_contents(path, "old");
		assert_int_equal(create_file_commit(&f, &err), 0);
		expect_contents(path, "new");
		assert_int_equal(stat(path, &st), 0);
		assert_int_equal(st.st_mode & 0777, 0600);
		assert_int_equal(count_names(), 1);
		unlink(path);
	}
}

static void replaces_behind_a_link(void **state)
{
	struct err err = ERR_INIT;
	struct create_file f;
	char target[128];
	struct stat st;

	(void)state;
	snprintf(target, sizeof(target), "%s/target", dir);
	put(target, "old");
	assert_int_equal(symlink("target", path), 0);
	begin_and_write(&f, CREATE_FILE_REPLACE);
	assert_int_equal(create_file_commit(&f, &err), 0);
	expect_contents(target, "new");
	assert_int_equal(lstat(path, &st), 0);
	assert_true(S_ISLNK(st.st_mode));
}

static void one_in_use_is_kept(void **state)
{
	struct err err = ERR_INIT;
	struct create_file f;
	int fd;

	(void)state;
	put(path, "old");
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(image_lock(fd, true, &err), 0);
	assert_int_equal(create_file_begin(&f, path, CREATE_FILE_REPLACE, &err), -EAGAIN);
	assert_non_null(strstr(err.msg, path));
	close(fd);
	expect_contents(path, "old");
}

static void one_made_meanwhile_is_kept(void **state)
{
	static const unsigned flags[] = {0, CREATE_FILE_NAMED};

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		struct err err = ERR_INIT;
		struct create_file f;

		begin_and_write(&f, flags[i]);
		put(path, "theirs");
		assert_int_equal(create_file_commit(&f, &err), -EEXIST);
		expect_contents(path, "theirs");
		assert_int_equal(count_names(), 1);
		unlink(path);
	}
}

static void folders_are_refused(void **state)
{
	struct err err = ERR_INIT;
	struct create_file f;

	(void)state;
	assert_int_equal(create_file_begin(&f, dir, CREATE_FILE_REPLACE, &err), -EEXIST);
	err = (struct err)ERR_INIT;
	assert_int_equal(create_file_begin(&f, "/nowhere/at/all", 0, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "/nowhere/at"));
}

static void messages_get_the_final_name(void **state)
{
	struct err err = ERR_INIT;
	struct create_file f;

	(void)state;
	begin_and_write(&f, CREATE_FILE_NAMED);
	err_set(&err, ENOSPC, "writing %s: full", f.work_path);
	create_file_name_err(&f, &err);
	assert_null(strstr(err.msg, f.work_path));
	assert_non_null(strstr(err.msg, "/disk: full"));
	create_file_abort(&f);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(nameless_appears_at_commit), TEST(named_appears_at_commit),
	    TEST(abort_leaves_nothing),	      TEST(existing_is_kept),
	    TEST(replaces_with_its_mode),     TEST(replaces_behind_a_link),
	    TEST(one_in_use_is_kept),	      TEST(one_made_meanwhile_is_kept),
	    TEST(folders_are_refused),	      TEST(messages_get_the_final_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
