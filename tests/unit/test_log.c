/* base/log: one write for each line, levels, the limit. Lines are caught in a packet pipe. */
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static int sink[2];

/* O_DIRECT makes a pipe keep each write apart. */
static int setup(void **state)
{
	(void)state;
	if (pipe2(sink, O_CLOEXEC | O_DIRECT | O_NONBLOCK))
		return -1;
	log_init(sink[1], LOG_LEVEL_INFO);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	log_init(STDERR_FILENO, LOG_LEVEL_INFO);
	close(sink[0]);
	close(sink[1]);
	return 0;
}

/* One write's worth; "" when there is none. */
static const char *next_line(void)
{
	static char line[4096];
	ssize_t n = read(sink[0], line, sizeof(line) - 1);

	line[n > 0 ? n : 0] = 0;
	return line;
}

static void lines_carry_their_level(void **state)
{
	(void)state;
	log_error("no %s", "kvm");
	log_warn("slow");
	log_info("up");
	assert_string_equal(next_line(), "lodge: error: no kvm\n");
	assert_string_equal(next_line(), "lodge: warn: slow\n");
	assert_string_equal(next_line(), "lodge: info: up\n");
}

static void lines_return_on_a_raw_terminal(void **state)
{
	char text[5000];
	size_t len;

	(void)state;
	log_set_crlf(true);
	log_info("up");
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	log_info("%s", text);
	log_set_crlf(false);
	log_info("up");
	assert_string_equal(next_line(), "lodge: info: up\r\n");
	len = strlen(next_line());
	assert_true(len > 100 && len <= 1024);
	assert_string_equal(next_line(), "lodge: info: up\n");
}

static void levels_above_are_left_out(void **state)
{
	(void)state;
	log_debug("detail");
	assert_string_equal(next_line(), "");
	assert_false(log_enabled(LOG_LEVEL_DEBUG));
	log_init(sink[1], LOG_LEVEL_DEBUG);
	log_debug("detail");
	assert_string_equal(next_line(), "lodge: debug: detail\n");
	log_init(sink[1], LOG_LEVEL_ERROR);
	log_warn("hidden");
	assert_string_equal(next_line(), "");
}

static void names_of_levels(void **state)
{
	enum log_level level = LOG_LEVEL_ERROR;

	(void)state;
	assert_int_equal(log_level_parse("debug", &level), 0);
	assert_int_equal(level, LOG_LEVEL_DEBUG);
	assert_int_equal(log_level_parse("error", &level), 0);
	assert_int_equal(level, LOG_LEVEL_ERROR);
	assert_int_equal(log_level_parse("loud", &level), -EINVAL);
	assert_int_equal(log_level_parse("", &level), -EINVAL);
	assert_int_equal(level, LOG_LEVEL_ERROR);
}

static void text_cannot_forge_lines(void **state)
{
	(void)state;
	log_info("%s", "a\nlodge: error: b\033[2J");
	assert_string_equal(next_line(), "lodge: info: a?lodge: error: b?[2J\n");
}

static void long_lines_are_cut(void **state)
{
	char text[5000];
	const char *line;

	(void)state;
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = 0;
	log_info("%s", text);
	line = next_line();
	assert_true(strlen(line) <= 1024);
	assert_string_equal(line + strlen(line) - 5, "x...\n");
	assert_string_equal(next_line(), "");
}

static void limit_says_when_it_is_reached(void **state)
{
	struct log_limit limit = {0}, other = {0};
	int lines = 0, marks = 0;

	(void)state;
	/* a new second may begin in between: then there are two windows, and never more */
	for (int i = 0; i < 100000; i++)
		log_limited(&limit, LOG_LEVEL_WARN, "guest did %d", i);
	for (const char *l = next_line(); *l; l = next_line()) {
		lines++;
		marks += strstr(l, "not logged") != NULL;
	}
	assert_in_range(lines, LOG_LIMIT_BURST, 2 * LOG_LIMIT_BURST);
	assert_in_range(marks, 1, 2);

	log_limited(&other, LOG_LEVEL_WARN, "another");
	assert_string_equal(next_line(), "lodge: warn: another\n");
}

static void errno_survives(void **state)
{
	(void)state;
	close(sink[0]);
	close(sink[1]);
	errno = ENOSPC;
	log_info("into nothing");
	assert_int_equal(errno, ENOSPC);
	assert_int_equal(setup(NULL), 0);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(lines_carry_their_level),	 TEST(lines_return_on_a_raw_terminal),
	    TEST(levels_above_are_left_out),	 TEST(names_of_levels),
	    TEST(text_cannot_forge_lines),	 TEST(long_lines_are_cut),
	    TEST(limit_says_when_it_is_reached), TEST(errno_survives),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
