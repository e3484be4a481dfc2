/*
 * control/parse: sizes, numbers, lists, suggestions.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "control/options/parse.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void sizes(void **state)
{
	static const struct {
		const char *text;
		int rc;
		uint64_t bytes;
	} cases[] = {
	    {"0", 0, 0},
	    {"512", 0, 512},
	    {"4K", 0, 4 * KIB},
	    {"512M", 0, 512 * MIB},
	    {"512m", 0, 512 * MIB},
	    {"2G", 0, 2 * GIB},
	    {"1T", 0, 1024 * GIB},
	    {"18446744073709551615", 0, UINT64_MAX},
	    {"18446744073709551616", -ERANGE, 0},
	    {"18014398509481984K", -ERANGE, 0},
	    {"16777216T", -ERANGE, 0},
	    {"", -EINVAL, 0},
	    {"M", -EINVAL, 0},
	    {"512MB", -EINVAL, 0},
	    {"512 M", -EINVAL, 0},
	    {" 512M", -EINVAL, 0},
	    {"-1", -EINVAL, 0},
	    {"+1", -EINVAL, 0},
	    {"0x10", -EINVAL, 0},
	    {"1.5G", -EINVAL, 0},
	    {"512\v", -EINVAL, 0},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		uint64_t bytes = 77;

		assert_int_equal(parse_size(cases[i].text, &bytes), cases[i].rc);
		assert_int_equal(bytes, cases[i].rc ? 77 : cases[i].bytes);
	}
}

static void size_texts_are_exact(void **state)
{
	char text[PARSE_SIZE_TEXT_MAX];

	(void)state;
	assert_string_equal(parse_size_text(0, text), "0");
	assert_string_equal(parse_size_text(1536, text), "1536");
	assert_string_equal(parse_size_text(64 * MIB, text), "64M");
	assert_string_equal(parse_size_text(1025 * KIB, text), "1025K");
	assert_string_equal(parse_size_text(UINT64_MAX, text), "18446744073709551615");
	assert_string_equal(parse_size_text(UINT64_C(1) << 63, text), "8388608T");
}

static void numbers_have_bounds(void **state)
{
	unsigned value = 77;

	(void)state;
	assert_int_equal(parse_unsigned("64", 1, 64, &value), 0);
	assert_int_equal(value, 64);
	assert_int_equal(parse_unsigned("0", 1, 64, &value), -ERANGE);
	assert_int_equal(parse_unsigned("65", 1, 64, &value), -ERANGE);
	assert_int_equal(parse_unsigned("4294967297", 0, 64, &value), -ERANGE);
	assert_int_equal(parse_unsigned("4x", 1, 64, &value), -EINVAL);
	assert_int_equal(parse_unsigned("", 1, 64, &value), -EINVAL);
	assert_int_equal(parse_unsigned("-1", 1, 64, &value), -EINVAL);
	assert_int_equal(value, 64);
}

static void switches_are_on_or_off(void **state)
{
	bool on = false;

	(void)state;
	assert_int_equal(parse_switch("on", &on), 0);
	assert_true(on);
	assert_int_equal(parse_switch("off", &on), 0);
	assert_false(on);
	assert_int_equal(parse_switch("yes", &on), -EINVAL);
	assert_int_equal(parse_switch("", &on), -EINVAL);
	assert_int_equal(parse_switch("onn", &on), -EINVAL);
}

/* Reads one pair and compares it; `value` NULL: there must be none. */
static void expect_pair(const char **cursor, const char *key, const char *value)
{
	autofree char *k = NULL;
	autofree char *v = NULL;

	assert_int_equal(parse_pair(cursor, &k, &v, NULL), 1);
	assert_string_equal(k, key);
	if (value)
		assert_string_equal(v, value);
	else
		assert_null(v);
}

static void lists_of_pairs(void **state)
{
	const char *cursor = "path=a=b,format=raw,flag,empty=";
	char *k, *v;

	(void)state;
	expect_pair(&cursor, "path", "a=b");
	expect_pair(&cursor, "format", "raw");
	expect_pair(&cursor, "flag", NULL);
	expect_pair(&cursor, "empty", "");
	assert_int_equal(parse_pair(&cursor, &k, &v, NULL), 0);
}

static void doubled_comma_is_one(void **state)
{
	const char *cursor = "path=a,,b,,,format=raw";

	(void)state;
	expect_pair(&cursor, "path", "a,b,");
	expect_pair(&cursor, "format", "raw");
	assert_null(cursor);
}

static void empty_keys_are_refused(void **state)
{
	static const char *const lists[] = {"", ",", "=x", "a=1,", "a=1,=2"};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
		const char *cursor = lists[i];
		struct err err = ERR_INIT;
		int rc;

		do {
			char *k = NULL, *v = NULL;

			rc = parse_pair(&cursor, &k, &v, &err);
			free(k);
			free(v);
		} while (rc > 0);
		assert_int_equal(rc, -EINVAL);
		assert_non_null(strstr(err.msg, "key=value"));
	}
}

static void suggestions(void **state)
{
	static const char *const names[] = {"kernel", "memory", "root", "cmdline", NULL};
	char long_word[4096];

	(void)state;
	assert_string_equal(parse_suggest("kernal", names), "kernel");
	assert_string_equal(parse_suggest("memroy", names), "memory");
	assert_string_equal(parse_suggest("mem", names), "memory");
	assert_string_equal(parse_suggest("comandline", names), "cmdline");
	assert_null(parse_suggest("x", names));
	assert_null(parse_suggest("", names));
	assert_null(parse_suggest("network", names));
	memset(long_word, 'k', sizeof(long_word) - 1);
	long_word[sizeof(long_word) - 1] = '\0';
	assert_null(parse_suggest(long_word, names));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(sizes),
	    cmocka_unit_test(size_texts_are_exact),
	    cmocka_unit_test(numbers_have_bounds),
	    cmocka_unit_test(switches_are_on_or_off),
	    cmocka_unit_test(lists_of_pairs),
	    cmocka_unit_test(doubled_comma_is_one),
	    cmocka_unit_test(empty_keys_are_refused),
	    cmocka_unit_test(suggestions),
	};

	return cmocka_run_group_tests_name("parse", tests, NULL, NULL);
}
