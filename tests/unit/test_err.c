/* base/err: the first error wins and stays one line. */
#include "base/err.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void set_gives_code_and_message(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(err_set(&err, ENOENT, "disk %s: no such %s", "a.img", "file"), -ENOENT);
	assert_int_equal(err.code, ENOENT);
	assert_string_equal(err.msg, "disk a.img: no such file");
}

static void sys_appends_the_reason(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(err_sys(&err, EACCES, "open %s", "/dev/kvm"), -EACCES);
	assert_string_equal(err.msg, "open /dev/kvm: Permission denied");
}

static void first_error_wins(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	err_set(&err, ENOENT, "first");
	assert_int_equal(err_set(&err, EIO, "second"), -EIO);
	assert_int_equal(err_sys(&err, EIO, "third"), -EIO);
	assert_int_equal(err.code, ENOENT);
	assert_string_equal(err.msg, "first");
}

static void prefix_adds_context(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	err_prefix(&err, "nothing is set");
	assert_int_equal(err.code, 0);
	err_set(&err, EINVAL, "too small");
	err_prefix(&err, "disk %d", 2);
	err_prefix(&err, "machine");
	assert_string_equal(err.msg, "machine: disk 2: too small");
	assert_int_equal(err.code, EINVAL);
}

static void null_is_accepted(void **state)
{
	(void)state;
	assert_int_equal(err_set(NULL, EIO, "x"), -EIO);
	assert_int_equal(err_sys(NULL, EIO, "x"), -EIO);
	err_prefix(NULL, "x");
}

static void long_messages_are_cut_visibly(void **state)
{
	char text[2 * ERR_MSG_MAX];
	struct err err;

	(void)state;
	memset(text, 'a', sizeof(text) - 1);
	text[sizeof(text) - 1] = 0;

	err = (struct err)ERR_INIT;
	err_set(&err, EIO, "%s", text);
	assert_int_equal(strlen(err.msg), ERR_MSG_MAX - 1);
	assert_string_equal(err.msg + ERR_MSG_MAX - 5, "a...");

	err = (struct err)ERR_INIT;
	err_sys(&err, EIO, "%s", text);
	assert_int_equal(strlen(err.msg), ERR_MSG_MAX - 1);

	err_prefix(&err, "%s", text);
	assert_int_equal(strlen(err.msg), ERR_MSG_MAX - 1);
	assert_string_equal(err.msg + ERR_MSG_MAX - 5, "a...");
}

static void control_characters_are_replaced(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	err_set(&err, ENOENT, "%s", "a\nb\033[31m\xc3\xa4\x7f");
	assert_string_equal(err.msg, "a?b?[31m\xc3\xa4?");
	err_prefix(&err, "x\ry");
	assert_string_equal(err.msg, "x?y: a?b?[31m\xc3\xa4?");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(set_gives_code_and_message),
	    cmocka_unit_test(sys_appends_the_reason),
	    cmocka_unit_test(first_error_wins),
	    cmocka_unit_test(prefix_adds_context),
	    cmocka_unit_test(null_is_accepted),
	    cmocka_unit_test(long_messages_are_cut_visibly),
	    cmocka_unit_test(control_characters_are_replaced),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
