/*
 * qcow2 images in a temporary directory, and requests that are waited for: what the tests of
 * disk/qcow2 share.
 */
#ifndef TESTS_UNIT_QCOW2_FIXTURE_H
#define TESTS_UNIT_QCOW2_FIXTURE_H

#include "disk/qcow2/qcow2.h"
#include "tests/unit/raw_fixture.h"

/* Without an image yet; f->path is where it will be. */
static inline int qcow2_setup(void **state)
{
	static struct fixture f;
	struct err err = ERR_INIT;

	f = (struct fixture){0};
	*state = &f;
	alarm(WATCHDOG_S);
	if (temp_dir(f.dir, sizeof(f.dir)))
		return -1;
	snprintf(f.path, sizeof(f.path), "%s/disk.qcow2", f.dir);
	return loop_new(NULL, &f.loop, &err);
}

static inline int qcow2_teardown(void **state)
{
	struct fixture *f = *state;
	char cmd[256];

	fixture_close(f);
	loop_free(f->loop);
	alarm(0);
	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", f->dir);
	return system(cmd);
}

static inline void qcow2_make(struct fixture *f, struct qcow2_create_opts o)
{
	struct err err = ERR_INIT;

	o.path = f->path;
	o.has_size = true;
	unlink(f->path);
	if (qcow2_create(&o, &err))
		fail_msg("%s", err.msg);
}

static inline void qcow2_open(struct fixture *f, struct image_opts o)
{
	struct err err = ERR_INIT;

	o.format = IMAGE_QCOW2;
	if (fixture_open(f, o, &err))
		fail_msg("%s", err.msg);
}

/* `expect_leaks`: only corruption is a failure. */
static inline void qcow2_assert_sound(struct fixture *f, bool expect_leaks)
{
	struct qcow2_check_result res;
	struct err err = ERR_INIT;

	if (qcow2_check(f->path, 0, NULL, &res, &err))
		fail_msg("%s", err.msg);
	assert_int_equal(res.corruptions, 0);
	if (!expect_leaks)
		assert_int_equal(res.leaks, 0);
}

/* Runs a shell command; `%s` in it is the directory. False: it failed. */
static inline bool qcow2_shell(struct fixture *f, const char *cmd)
{
	char line[1200];

	snprintf(line, sizeof(line), "cd '%s' && { %s; } >out 2>&1", f->dir, cmd);
	return system(line) == 0;
}

#define QCOW2_TEST(fn) cmocka_unit_test_setup_teardown(fn, qcow2_setup, qcow2_teardown)

#endif
