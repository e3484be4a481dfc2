/* The arguments of `lodge disk COMMAND`. See control/disk/args.h. */
#include "control/disk/args.h"

#include "base/checked.h"
#include "control/options/parse.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

/* The kernel's files end there. */
#define IMAGE_SIZE_MAX ((uint64_t)INT64_MAX)

struct option {
	unsigned bit;
	char letter; /* 0: none */
	const char *name;
	const char *arg; /* NULL: takes none, and `flag` is set */
	size_t flag;
	int (*set)(struct disk_args *args, const char *value, struct err *err);
	const char *help;
};

/* ---- values -----------------------------------------------------------------------------------
 */

static int set_any_format(struct disk_format *format, const char *value, struct err *err)
{
	if (image_format_parse(value, &format->format))
		return err_set(err, EINVAL, "unknown format '%s'; it is raw or qcow2", value);
	format->given = true;
	return 0;
}

static int set_format(struct disk_args *args, const char *value, struct err *err)
{
	return set_any_format(&args->format, value, err);
}

static int set_from(struct disk_args *args, const char *value, struct err *err)
{
	return set_any_format(&args->from, value, err);
}

static int set_to(struct disk_args *args, const char *value, struct err *err)
{
	return set_any_format(&args->to, value, err);
}

static int set_backing_format(struct disk_args *args, const char *value, struct err *err)
{
	return set_any_format(&args->backing_format, value, err);
}

static int set_backing(struct disk_args *args, const char *value, struct err *err)
{
	if (!*value)
		return err_set(err, EINVAL, "the name of the file is empty");
	args->backing = value;
	return 0;
}

static int set_create_option(struct disk_args *args, const char *value, struct err *err)
{
	if (!strchr(value, '=') || *value == '=')
		return err_set(err, EINVAL,
			       "'%s' is not name=value, such as cluster_size=64K (one -o for each)",
			       value);
	if (args->ncreate_options == DISK_CREATE_OPTIONS_MAX)
		return err_set(err, EINVAL, "more than %d options", DISK_CREATE_OPTIONS_MAX);
	args->create_options[args->ncreate_options++] = value;
	return 0;
}

static int set_repair(struct disk_args *args, const char *value, struct err *err)
{
	if (!strcmp(value, "leaks"))
		args->repair = DISK_REPAIR_LEAKS;
	else if (!strcmp(value, "all"))
		args->repair = DISK_REPAIR_ALL;
	else
		return err_set(err, EINVAL, "'%s' is neither leaks nor all", value);
	return 0;
}

/* ---- the table --------------------------------------------------------------------------------
 */

#define FLAG(member) .flag = offsetof(struct disk_args, member)

static const struct option options[] = {
    {DISK_ARG_FORMAT, 'f', "format", "FORMAT", 0, set_format, "raw or qcow2; needed"},
    {DISK_ARG_FROM_TO, 0, "from", "FORMAT", 0, set_from, "format of SRC; needed"},
    {DISK_ARG_FROM_TO, 0, "to", "FORMAT", 0, set_to, "format of DST; needed"},
    {DISK_ARG_OPTION, 'o', "option", "NAME=VALUE", 0, set_create_option,
     "of the new image, see below; may be repeated"},
    {DISK_ARG_BACKING, 'b', "backing", "FILE", 0, set_backing,
     "the backing file; relative names are from the image's folder"},
    {DISK_ARG_BACKING, 0, "backing-format", "FORMAT", 0, set_backing_format,
     "format of the backing file; needed with --backing"},
    {DISK_ARG_NO_BACKING, 0, "no-backing", NULL, FLAG(no_backing), NULL,
     "from now on the image has no backing file"},
    {DISK_ARG_ALLOW_BACKING, 0, "allow-backing", NULL, FLAG(allow_backing), NULL,
     "open the backing files that the image names"},
    {DISK_ARG_COMPRESS, 'c', "compress", NULL, FLAG(compress), NULL,
     "compress the clusters (qcow2)"},
    {DISK_ARG_REPAIR, 0, "repair", "leaks|all", 0, set_repair,
     "free what nothing uses; or correct every error"},
    {DISK_ARG_SHRINK, 0, "shrink", NULL, FLAG(shrink), NULL,
     "allow a smaller size: what lies beyond is lost"},
    {DISK_ARG_UNSAFE, 0, "unsafe", NULL, FLAG(unsafe), NULL,
     "change the name alone: both files have the same contents"},
    {DISK_ARG_FORCE, 0, "force", NULL, FLAG(force), NULL, "replace a file that exists"},
    {DISK_ARG_JSON, 0, "json", NULL, FLAG(json), NULL, "one JSON object on standard output"},
    {DISK_ARG_PROGRESS, 'p', "progress", NULL, FLAG(progress), NULL,
     "show the progress even where standard error is no terminal"},
    {DISK_ARG_PROGRESS, 'q', "quiet", NULL, FLAG(quiet), NULL, "show no progress"},
};

static const struct option *find_long(const struct disk_command *command, const char *name,
				      size_t len)
{
	for (size_t i = 0; i < ARRAY_LEN(options); i++) {
		if (options[i].bit & command->options && strlen(options[i].name) == len &&
		    !memcmp(options[i].name, name, len))
			return &options[i];
	}
	return NULL;
}

static const struct option *find_short(const struct disk_command *command, char letter)
{
	for (size_t i = 0; i < ARRAY_LEN(options); i++) {
		if (options[i].bit & command->options && options[i].letter == letter)
			return &options[i];
	}
	return NULL;
}

static int unknown(const struct disk_command *command, const char *word, struct err *err)
{
	const char *names[ARRAY_LEN(options) + 2];
	const char *near = NULL;
	char name[64];
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_LEN(options); i++) {
		if (options[i].bit & command->options)
			names[n++] = options[i].name;
	}
	names[n++] = "help";
	names[n] = NULL;
	if (word[1] == '-') {
		snprintf(name, sizeof(name), "%.*s", (int)strcspn(word + 2, "="), word + 2);
		near = parse_suggest(name, names);
	}
	if (near)
		return err_set(err, EINVAL, "unknown option %s; did you mean --%s?", word, near);
	return err_set(err, EINVAL, "unknown option %s; `lodge disk %s --help` lists them", word,
		       command->name);
}

/* `value`: what stands in the same word; NULL: nothing. */
static int apply(const struct option *o, struct disk_args *args, const char *value,
		 char *const **next, struct err *err)
{
	int r;

	if (!o->arg) {
		if (value)
			return err_set(err, EINVAL, "--%s takes no value", o->name);
		*(bool *)((char *)args + o->flag) = true;
		return 0;
	}
	if (!value) {
		value = **next;
		if (!value)
			return err_set(err, EINVAL, "--%s needs a value: %s", o->name, o->arg);
		++*next;
	}
	r = o->set(args, value, err);
	if (r)
		err_prefix(err, "--%s", o->name);
	return r;
}

/* "-f raw", "-fraw", "-cp": letters without value may be followed by others. */
static int parse_letters(const struct disk_command *command, struct disk_args *args,
			 const char *word, char *const **next, struct err *err)
{
	for (const char *p = word + 1; *p; p++) {
		const struct option *o = find_short(command, *p);
		int r;

		if (!o)
			return unknown(command, word, err);
		r = apply(o, args, o->arg && p[1] ? p + 1 : NULL, next, err);
		if (r || o->arg)
			return r;
	}
	return 0;
}

static int parse_long(const struct disk_command *command, struct disk_args *args, const char *word,
		      char *const **next, struct err *err)
{
	size_t len = strcspn(word + 2, "=");
	const struct option *o = find_long(command, word + 2, len);

	if (!o)
		return unknown(command, word, err);
	return apply(o, args, word[2 + len] ? word + 3 + len : NULL, next, err);
}

/* What can be said without opening a file. */
static int check(const struct disk_command *command, const struct disk_args *args, struct err *err)
{
	int r = 0;

	if (args->noperands < command->min_operands)
		return err_set(err, EINVAL, "%s is missing; say lodge disk %s %s",
			       args->noperands ? strrchr(command->operands, ' ') + 1
					       : command->operands,
			       command->name, command->synopsis);
	if (command->options & DISK_ARG_FORMAT)
		r = disk_args_need(&args->format, "-f", err);
	if (!r && command->options & DISK_ARG_FROM_TO)
		r = disk_args_need(&args->from, "--from", err);
	if (!r && command->options & DISK_ARG_FROM_TO)
		r = disk_args_need(&args->to, "--to", err);
	if (!r && args->backing && !args->backing_format.given)
		r = err_set(err, EINVAL,
			    "the format of the backing file %s must be stated; add "
			    "--backing-format raw or --backing-format qcow2",
			    args->backing);
	if (!r && !args->backing && args->backing_format.given)
		r = err_set(err, EINVAL, "--backing-format without --backing FILE");
	if (!r && args->backing && args->no_backing)
		r = err_set(err, EINVAL, "--backing and --no-backing exclude each other");
	if (!r && args->progress && args->quiet)
		r = err_set(err, EINVAL, "--progress and --quiet exclude each other");
	return r;
}

int disk_args_parse(const struct disk_command *command, int argc, char *const *argv,
		    struct disk_args *ret_args, struct err *err)
{
	char *const *next = argv + 1;
	struct disk_args args = {.command = command};
	bool only_operands = false;
	int r = 0;

	(void)argc; /* argv ends with NULL */
	while (*next && !r) {
		const char *word = *next++;

		if (only_operands || *word != '-' || !word[1]) {
			if (args.noperands == command->max_operands)
				return err_set(err, EINVAL,
					       "unexpected argument '%s'; say lodge disk %s %s",
					       word, command->name, command->synopsis);
			args.operands[args.noperands++] = word;
		} else if (!strcmp(word, "--")) {
			only_operands = true;
		} else if (!strcmp(word, "--help") || !strcmp(word, "-h")) {
			args.help = true;
			*ret_args = args;
			return 0;
		} else if (word[1] == '-') {
			r = parse_long(command, &args, word, &next, err);
		} else {
			r = parse_letters(command, &args, word, &next, err);
		}
	}
	if (!r)
		r = check(command, &args, err);
	if (!r)
		*ret_args = args;
	return r;
}

void disk_args_help(const struct disk_command *command, FILE *out)
{
	for (size_t i = 0; i < ARRAY_LEN(options); i++) {
		const struct option *o = &options[i];
		char left[64];

		if (!(o->bit & command->options))
			continue;
		snprintf(left, sizeof(left), "%s%c%s--%s%s%s", o->letter ? "-" : " ",
			 o->letter ? o->letter : ' ', o->letter ? ", " : "  ", o->name,
			 o->arg ? " " : "", o->arg ? o->arg : "");
		fprintf(out, "  %-28s %s\n", left, o->help);
	}
}

int disk_args_need(const struct disk_format *format, const char *option, struct err *err)
{
	if (format->given)
		return 0;
	return err_set(err, EINVAL,
		       "the format must be stated, it is never guessed; add %s raw or %s qcow2",
		       option, option);
}

int disk_args_size(const char *text, bool relative, uint64_t current_bytes, uint64_t *ret_bytes,
		   struct err *err)
{
	bool plus = *text == '+' && relative;
	uint64_t bytes;
	int r = parse_size(text + plus, &bytes);

	if (r == -EINVAL)
		return err_set(err, EINVAL, "'%s' is not a size; say for example 512M or %s", text,
			       relative ? "10G, or +1G for so much more" : "10G");
	if (r || (plus && !ck_add(bytes, current_bytes, &bytes)) || bytes > IMAGE_SIZE_MAX)
		return err_set(err, EINVAL, "'%s' is more than a file can hold", text);
	if (!bytes)
		return err_set(err, EINVAL, "'%s': an image cannot be empty; say for example 10G",
			       text);
	if (!is_aligned(bytes, IMAGE_SECTOR_BYTES))
		return err_set(err, EINVAL,
			       "'%s' is not a multiple of %d bytes; the next that is: %" PRIu64,
			       text, IMAGE_SECTOR_BYTES, align_up(bytes, IMAGE_SECTOR_BYTES));
	*ret_bytes = bytes;
	return 0;
}
