/* The JSON writer: structure, and strings that hold anything. */
#include "base/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char *text;
static size_t text_len;

static struct json open_json(void)
{
	free(text);
	text = NULL;
	return (struct json)JSON_INIT(open_memstream(&text, &text_len));
}

static void check_string(const char *value, const char *literal)
{
	struct json j = open_json();

	json_write_string(j.out, value);
	fclose(j.out);
	assert_string_equal(text, literal);
}

static void members_stand_on_lines(void **state)
{
	struct json j = open_json();

	(void)state;
	json_object(&j, NULL);
	json_string(&j, "name", "x");
	json_u64(&j, "size", UINT64_MAX);
	json_bool(&j, "on", true);
	json_null(&j, "none");
	json_string(&j, "also_none", NULL);
	json_end(&j);
	fclose(j.out);
	assert_string_equal(text, "{\n  \"name\": \"x\",\n  \"size\": 18446744073709551615,\n"
				  "  \"on\": true,\n  \"none\": null,\n  \"also_none\": null\n}\n");
}

static void containers_nest(void **state)
{
	struct json j = open_json();

	(void)state;
	json_object(&j, NULL);
	json_array(&j, "list");
	for (int i = 0; i < 2; i++) {
		json_object_inline(&j, NULL);
		json_u64(&j, "a", 1);
		json_array(&j, "b");
		json_u64(&j, NULL, 2);
		json_u64(&j, NULL, 3);
		json_end(&j);
		json_end(&j);
	}
	json_end(&j);
	json_end(&j);
	fclose(j.out);
	assert_string_equal(text, "{\n  \"list\": [\n    {\"a\": 1, \"b\": [2, 3]},\n"
				  "    {\"a\": 1, \"b\": [2, 3]}\n  ]\n}\n");
}

static void empty_containers_are_closed(void **state)
{
	struct json j = open_json();

	(void)state;
	json_object(&j, NULL);
	json_array(&j, "list");
	json_end(&j);
	json_end(&j);
	fclose(j.out);
	assert_string_equal(text, "{\n  \"list\": []\n}\n");
}

static void specials_are_escaped(void **state)
{
	(void)state;
	check_string("a\"b\\c", "\"a\\\"b\\\\c\"");
	check_string("\n\t\x01\x7f", "\"\\u000a\\u0009\\u0001\\u007f\"");
	check_string("", "\"\"");
}

static void utf8_is_kept(void **state)
{
	(void)state;
	check_string("\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80",
		     "\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\"");
}

static void what_is_not_utf8_is_replaced(void **state)
{
	(void)state;
	check_string("a\xff"
		     "b",
		     "\"a\\ufffdb\"");
	check_string("\xc3", "\"\\ufffd\"");			   /* cut short */
	check_string("\xc0\xaf", "\"\\ufffd\\ufffd\"");		   /* longer than needed */
	check_string("\xed\xa0\x80", "\"\\ufffd\\ufffd\\ufffd\""); /* a surrogate */
	check_string("\xf4\x90\x80\x80", "\"\\ufffd\\ufffd\\ufffd\\ufffd\"");
	check_string("\xe2\x82\"", "\"\\ufffd\\ufffd\\\"\"");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(members_stand_on_lines),
	    cmocka_unit_test(containers_nest),
	    cmocka_unit_test(empty_containers_are_closed),
	    cmocka_unit_test(specials_are_escaped),
	    cmocka_unit_test(utf8_is_kept),
	    cmocka_unit_test(what_is_not_utf8_is_replaced),
	};
	int r = cmocka_run_group_tests(tests, NULL, NULL);

	free(text);
	return r;
}
