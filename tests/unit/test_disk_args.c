/* The arguments of `lodge disk`: what is taken, and what is refused with which words. */
#include "control/disk/args.h"

#include "base/checked.h"
#include "control/disk/backing.h"
#include "control/disk/options.h"
#include "control/disk/progress.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct disk_command all = {
    .name = "convert",
    .synopsis = "SRC DST",
    .options = DISK_ARG_FROM_TO | DISK_ARG_OPTION | DISK_ARG_BACKING | DISK_ARG_ALLOW_BACKING |
	       DISK_ARG_COMPRESS | DISK_ARG_FORCE | DISK_ARG_PROGRESS | DISK_ARG_JSON |
	       DISK_ARG_NO_BACKING | DISK_ARG_REPAIR,
    .min_operands = 2,
    .max_operands = 2,
    .operands = "SRC DST",
};

static const struct disk_command only_format = {
    .name = "info",
    .synopsis = "-f FORMAT PATH",
    .options = DISK_ARG_FORMAT | DISK_ARG_JSON,
    .min_operands = 1,
    .max_operands = 1,
    .operands = "PATH",
};

static struct err err;

#define PARSE(command, args, ...)                                                   \
	parse(command, args, sizeof((char *[]){"x", __VA_ARGS__}) / sizeof(char *), \
	      (char *[]){"x", __VA_ARGS__, NULL})

static int parse(const struct disk_command *command, struct disk_args *args, int argc, char **argv)
{
	err = (struct err)ERR_INIT;
	return disk_args_parse(command, argc, argv, args, &err);
}

#define RAW_TO_RAW "--from", "raw", "--to", "raw"

static void takes_all_forms(void **state)
{
	struct disk_args args;

	(void)state;
	assert_int_equal(PARSE(&all, &args, "a", RAW_TO_RAW, "-cq", "-oa=b", "-o", "c=d", "--json",
			       "--option=e=f", "--", "-b"),
			 0);
	assert_true(args.compress && args.quiet && args.json);
	assert_false(args.force);
	assert_int_equal(args.ncreate_options, 3);
	assert_string_equal(args.create_options[0], "a=b");
	assert_string_equal(args.create_options[1], "c=d");
	assert_string_equal(args.create_options[2], "e=f");
	assert_string_equal(args.operands[0], "a");
	assert_string_equal(args.operands[1], "-b");
	assert_true(args.from.given && args.to.given);
}

static void help_wins(void **state)
{
	struct disk_args args;

	(void)state;
	assert_int_equal(PARSE(&all, &args, "--help"), 0);
	assert_true(args.help);
	assert_int_equal(PARSE(&only_format, &args, "-h", "--nonsense"), 0);
	assert_true(args.help);
}

static void refused(int r, const char *text)
{
	assert_int_equal(r, -EINVAL);
	if (!strstr(err.msg, text))
		fail_msg("'%s' is not in: %s", text, err.msg);
}

static void what_is_wrong_is_named(void **state)
{
	struct disk_args args;

	(void)state;
	refused(PARSE(&only_format, &args, "a"), "add -f raw or -f qcow2");
	refused(PARSE(&only_format, &args, "-f", "qcow", "a"), "unknown format 'qcow'");
	refused(PARSE(&only_format, &args, "-f"), "--format needs a value");
	refused(PARSE(&only_format, &args, "-f", "raw"), "PATH is missing");
	refused(PARSE(&only_format, &args, "-f", "raw", "a", "b"), "unexpected argument 'b'");
	refused(PARSE(&only_format, &args, "-f", "raw", "--jsn", "a"), "did you mean --json?");
	refused(PARSE(&only_format, &args, "-f", "raw", "--json=1", "a"), "takes no value");
	refused(PARSE(&only_format, &args, "-f", "raw", "--force", "a"), "unknown option --force");
	refused(PARSE(&only_format, &args, "-x", "a"), "unknown option -x");
	refused(PARSE(&all, &args, RAW_TO_RAW, "a"), "DST is missing");
	refused(PARSE(&all, &args, "--from", "raw", "a", "b"), "add --to raw");
	refused(PARSE(&all, &args, RAW_TO_RAW, "-o", "x", "a", "b"), "'x' is not name=value");
	refused(PARSE(&all, &args, RAW_TO_RAW, "-o", "=x", "a", "b"), "is not name=value");
	refused(PARSE(&all, &args, RAW_TO_RAW, "-b", "c", "a", "b"), "--backing-format");
	refused(PARSE(&all, &args, RAW_TO_RAW, "-b", "", "a", "b"), "empty");
	refused(PARSE(&all, &args, RAW_TO_RAW, "--backing-format", "raw", "a", "b"),
		"without --backing");
	refused(PARSE(&all, &args, RAW_TO_RAW, "-pq", "a", "b"), "exclude each other");
	refused(PARSE(&all, &args, RAW_TO_RAW, "--repair", "some", "a", "b"),
		"'some' is neither leaks nor all");
}

static void sizes_are_checked(void **state)
{
	uint64_t bytes = 7;

	(void)state;
	err = (struct err)ERR_INIT;
	assert_int_equal(disk_args_size("10G", false, 0, &bytes, &err), 0);
	assert_int_equal(bytes, 10 * GIB);
	assert_int_equal(disk_args_size("+1M", true, 512, &bytes, &err), 0);
	assert_int_equal(bytes, MIB + 512);
	refused(disk_args_size("+1M", false, 0, &bytes, &err), "is not a size");
	err = (struct err)ERR_INIT;
	refused(disk_args_size("513", false, 0, &bytes, &err), "the next that is: 1024");
	err = (struct err)ERR_INIT;
	refused(disk_args_size("0", false, 0, &bytes, &err), "cannot be empty");
	err = (struct err)ERR_INIT;
	refused(disk_args_size("9000000T", false, 0, &bytes, &err), "more than a file can hold");
	err = (struct err)ERR_INIT;
	refused(disk_args_size("+1G", true, INT64_MAX, &bytes, &err), "more than a file can hold");
	err = (struct err)ERR_INIT;
	refused(disk_args_size("-1", false, 0, &bytes, &err), "is not a size");
	assert_int_equal(bytes, MIB + 512);
}

static int options_of(const char *text, enum image_format format, struct disk_options *o)
{
	struct disk_args args = {.create_options = {text}, .ncreate_options = 1};

	err = (struct err)ERR_INIT;
	return disk_options_parse(&args, format, o, &err);
}

static void image_options_are_taken(void **state)
{
	struct disk_options o;

	(void)state;
	assert_int_equal(options_of("cluster_size=2M", IMAGE_QCOW2, &o), 0);
	assert_int_equal(o.qcow2.cluster_bytes, 2 * MIB);
	assert_int_equal(options_of("compat=0.10", IMAGE_QCOW2, &o), 0);
	assert_int_equal(o.qcow2.version, 2);
	assert_int_equal(options_of("refcount_bits=64", IMAGE_QCOW2, &o), 0);
	assert_int_equal(o.qcow2.refcount_bits, 64);
	assert_int_equal(options_of("extended_l2=on", IMAGE_QCOW2, &o), 0);
	assert_true(o.qcow2.extended_l2);
	assert_int_equal(options_of("compression_type=zstd", IMAGE_QCOW2, &o), 0);
	assert_int_equal(o.qcow2.compression, QCOW2_ZSTD);
	assert_int_equal(options_of("preallocation=full", IMAGE_RAW, &o), 0);
	assert_int_equal(disk_options_raw_prealloc(o.qcow2.prealloc), RAW_PREALLOC_FULL);
}

static void image_options_are_checked(void **state)
{
	struct disk_options o;

	(void)state;
	refused(options_of("cluster_size=3K", IMAGE_QCOW2, &o), "'3K' is not a power of two");
	refused(options_of("cluster_size=4M", IMAGE_QCOW2, &o), "512 to 2M");
	refused(options_of("version=4", IMAGE_QCOW2, &o), "neither 2");
	refused(options_of("refcount_bits=3", IMAGE_QCOW2, &o), "none of 1, 2, 4");
	refused(options_of("lazy_refcounts=yes", IMAGE_QCOW2, &o), "neither on nor off");
	refused(options_of("clustersize=64K", IMAGE_QCOW2, &o), "did you mean cluster_size?");
	refused(options_of("frobnicate=1", IMAGE_QCOW2, &o), "unknown option -o frobnicate");
	refused(options_of("backing=x", IMAGE_QCOW2, &o), "format of the backing file x");
	refused(options_of("backing_format=raw", IMAGE_QCOW2, &o), "without a backing file");
	refused(options_of("cluster_size=64K", IMAGE_RAW, &o), "a raw image has none");
	refused(options_of("preallocation=metadata", IMAGE_RAW, &o), "no metadata");
	refused(options_of("preallocation=some", IMAGE_RAW, &o), "none of off");
}

static void backing_names_are_from_the_folder(void **state)
{
	static const struct {
		const char *image, *name, *path;
	} cases[] = {
	    {"a", "b", "b"},   {"dir/a", "b", "dir/b"}, {"/x/dir/a", "../b", "/x/dir/../b"},
	    {"/a", "b", "/b"}, {"dir/a", "/b", "/b"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		char *path = NULL;

		assert_int_equal(backing_resolve(cases[i].image, cases[i].name, &path, &err), 0);
		assert_string_equal(path, cases[i].path);
		free(path);
	}
}

static void progress_is_one_line(void **state)
{
	struct progress p = {
	    .what = "convert", .total_bytes = 10 * GIB, .started_ns = UINT64_C(1000000000)};
	char text[PROGRESS_TEXT_MAX];

	(void)state;
	assert_string_equal(progress_text(&p, 5 * GIB, UINT64_C(11000000000), text),
			    "convert: 50 %, 5 GiB of 10 GiB, 512 MiB/s");
	p.total_bytes = UINT64_MAX / 2;
	assert_non_null(
	    strstr(progress_text(&p, UINT64_MAX / 2, UINT64_C(2000000000), text), "100 %"));
	p.percent_only = true;
	p.total_bytes = 8;
	assert_string_equal(progress_text(&p, 2, 0, text), "convert: 25 %");
	p.total_bytes = 0;
	assert_non_null(strstr(progress_text(&p, 0, 0, text), "100 %"));
}

static void sizes_for_people_are_short(void **state)
{
	char text[SIZE_HUMAN_MAX];

	(void)state;
	assert_string_equal(size_human(0, text), "0 bytes");
	assert_string_equal(size_human(1023, text), "1023 bytes");
	assert_string_equal(size_human(1024, text), "1 KiB");
	assert_string_equal(size_human(1536 * KIB, text), "1.5 MiB");
	assert_string_equal(size_human(1023 * MIB, text), "1023 MiB");
	assert_string_equal(size_human(UINT64_MAX, text), "16 EiB");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(takes_all_forms),
	    cmocka_unit_test(help_wins),
	    cmocka_unit_test(what_is_wrong_is_named),
	    cmocka_unit_test(sizes_are_checked),
	    cmocka_unit_test(image_options_are_taken),
	    cmocka_unit_test(image_options_are_checked),
	    cmocka_unit_test(backing_names_are_from_the_folder),
	    cmocka_unit_test(progress_is_one_line),
	    cmocka_unit_test(sizes_for_people_are_short),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
