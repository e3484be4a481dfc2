/*
 * control/serve/config_file: lines "name = value" by a table of options.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "control/serve/config_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATH_MAX_HERE 64
#define WORDS_MAX     8

struct target {
	const char *words[WORDS_MAX];
	unsigned nwords;
	unsigned switched;
};

static int set_word(void *target, const char *value, struct err *err)
{
	struct target *t = target;

	if (!strcmp(value, "wrong"))
		return err_set(err, EINVAL, "'%s' is refused", value);
	assert_true(t->nwords < WORDS_MAX);
	t->words[t->nwords++] = value;
	return 0;
}

static int set_switch(void *target, const char *value, struct err *err)
{
	(void)err;
	assert_null(value);
	((struct target *)target)->switched++;
	return 0;
}

static const struct option_setting settings[] = {
    {"word", "WORD", set_word, "a word"},
    {"switch", NULL, set_switch, "a switch"},
};

struct fixture {
	struct target target;
	struct config_file file;
	struct err err;
	char path[PATH_MAX_HERE];
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	int fd;

	if (!f)
		return -1;
	strcpy(f->path, "/tmp/lodge-config-XXXXXX");
	fd = mkstemp(f->path);
	*state = f;
	return fd < 0 ? -1 : close(fd);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	unlink(f->path);
	config_file_free(&f->file);
	free(f);
	return 0;
}

/* What becomes of a file with these bytes. */
static int take(struct fixture *f, const void *text, size_t len)
{
	const struct config_target target = {
	    .settings = settings, .nsettings = ARRAY_LEN(settings), .target = &f->target};
	FILE *file = fopen(f->path, "we");

	assert_non_null(file);
	assert_int_equal(fwrite(text, 1, len, file), len);
	assert_int_equal(fclose(file), 0);
	config_file_free(&f->file);
	f->target = (struct target){.nwords = 0};
	f->err = (struct err)ERR_INIT;
	return config_file_read(&f->file, f->path, &target, &f->err);
}

static int take_text(struct fixture *f, const char *text)
{
	return take(f, text, strlen(text));
}

static void refused(struct fixture *f, const char *text, unsigned line, const char *why)
{
	char where[PATH_MAX_HERE + 16];

	assert_int_equal(take_text(f, text), -EINVAL);
	snprintf(where, sizeof(where), "%s:%u: ", f->path, line);
	if (strncmp(f->err.msg, where, strlen(where)) != 0 || !strstr(f->err.msg, why))
		fail_msg("'%s' is said of '%s'", f->err.msg, text);
}

static void lines_are_set_in_their_order(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(take_text(f, "# about\n\nword=a\n  word \t=  b c \t\nswitch = on\r\n"
				      "switch = off\nword = d = # e\n   # more\n\t\nword=f"),
			 0);
	assert_int_equal(f->target.nwords, 4);
	assert_string_equal(f->target.words[0], "a");
	assert_string_equal(f->target.words[1], "b c");
	assert_string_equal(f->target.words[2], "d = # e");
	assert_string_equal(f->target.words[3], "f");
	assert_int_equal(f->target.switched, 1);
}

static void an_empty_file_says_nothing(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(take_text(f, ""), 0);
	assert_int_equal(take_text(f, "\n\n\r\n"), 0);
	assert_int_equal(f->target.nwords + f->target.switched, 0);
}

static void what_is_wrong_is_named_with_its_line(void **state)
{
	refused(*state, "\n# x\nwords = a\n", 3, "did you mean word");
	refused(*state, "word\n", 1, "no `name = value`");
	refused(*state, "word=a\nword =\t\r\n", 2, "word has no value");
	refused(*state, "= a", 1, "setting");
	refused(*state, "switch = maybe", 1, "neither on nor off");
	refused(*state, "word = wrong", 1, "word: 'wrong' is refused");
	refused(*state, "word = wrong\nword = b", 1, "wrong");
	refused(*state, "[section]\nword = b", 1, "[section]");
	refused(*state, "wor\xff\x01 = b", 1, "setting");
}

static void nothing_is_set_after_a_wrong_line(void **state)
{
	struct fixture *f = *state;

	refused(f, "word = a\nnothing = b\nword = c", 2, "nothing");
	assert_int_equal(f->target.nwords, 1);
}

static void what_is_no_text_is_refused(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(take(f, "word = a\0b\n", 11), -EINVAL);
	assert_non_null(strstr(f->err.msg, "is no text"));
}

static void a_file_has_a_size(void **state)
{
	struct fixture *f = *state;
	char *text = malloc(CONFIG_FILE_MAX + 1);

	assert_non_null(text);
	memset(text, '#', CONFIG_FILE_MAX + 1);
	assert_int_equal(take(f, text, CONFIG_FILE_MAX), 0);
	assert_int_equal(take(f, text, CONFIG_FILE_MAX + 1), -EFBIG);
	assert_non_null(strstr(f->err.msg, "more than 65536 bytes"));
	free(text);
}

static void what_cannot_be_read_is_named(void **state)
{
	const struct config_target target = {.settings = settings,
					     .nsettings = ARRAY_LEN(settings)};
	struct config_file file = CONFIG_FILE_INIT;
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(config_file_read(&file, "/tmp/absent/file", &target, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "/tmp/absent/file"));
	err = (struct err)ERR_INIT;
	assert_int_equal(config_file_read(&file, "/tmp", &target, &err), -EISDIR);
	assert_non_null(strstr(err.msg, "/tmp"));
	config_file_free(&file);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(lines_are_set_in_their_order),
	    TEST(an_empty_file_says_nothing),
	    TEST(what_is_wrong_is_named_with_its_line),
	    TEST(nothing_is_set_after_a_wrong_line),
	    TEST(what_is_no_text_is_refused),
	    TEST(a_file_has_a_size),
	    cmocka_unit_test(what_cannot_be_read_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
