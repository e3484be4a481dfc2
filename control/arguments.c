/* Arguments by table. See control/arguments.h. */
#include "control/arguments.h"

#include "control/options/parse.h"

#include <errno.h>
#include <string.h>

#define NAME_MAX_BYTES 64
#define SETTINGS_MAX   32

static int unknown(const struct arguments *args, const char *name, struct err *err)
{
	const char *names[SETTINGS_MAX + 2], *near;
	size_t n = 0;

	for (; n < args->nsettings && n < SETTINGS_MAX; n++)
		names[n] = args->settings[n].name;
	names[n++] = "help";
	names[n] = NULL;
	near = parse_suggest(name, names);
	if (near)
		return err_set(err, EINVAL, "unknown option --%s; did you mean --%s?", name, near);
	return err_set(err, EINVAL, "unknown option --%s; `lodge help %s` lists them", name,
		       args->command);
}

/* `value`: what stands behind the option in its own word; NULL: nothing. */
static int apply(const struct arguments *args, const struct option_setting *s, const char *value,
		 int argc, char *const *argv, int *i, struct err *err)
{
	int res;

	if (s->arg && !value) {
		if (*i + 1 >= argc)
			return err_set(err, EINVAL, "--%s lacks its value; say --%s %s", s->name,
				       s->name, s->arg);
		value = argv[++*i];
	}
	res = s->set(args->target, value, err);
	if (res)
		err_prefix(err, "--%s", s->name);
	return res;
}

static const struct option_setting *find_letter(const struct arguments *args, char letter)
{
	for (size_t i = 0; i < args->nletters; i++) {
		if (args->letters[i].letter == letter)
			return option_setting_find(args->settings, args->nsettings,
						   args->letters[i].name);
	}
	return NULL;
}

/* The letters at argv[*i]; the last of them may take a value. */
static int parse_letters(const struct arguments *args, int argc, char *const *argv, int *i,
			 struct err *err)
{
	const char *word = argv[*i];
	int res = 0;

	for (const char *p = word + 1; *p && !res; p++) {
		const struct option_setting *s = find_letter(args, *p);

		if (!s && !args->nletters)
			return err_set(err, EINVAL, "unknown option %s; options are long", word);
		if (!s)
			return err_set(err, EINVAL,
				       "unknown option -%c; `lodge help %s` lists them", *p,
				       args->command);
		if (s->arg)
			return apply(args, s, p[1] ? p + 1 : NULL, argc, argv, i, err);
		res = apply(args, s, NULL, argc, argv, i, err);
	}
	return res;
}

/* The option at argv[*i]; *i ends on the last word used. */
static int parse_option(const struct arguments *args, int argc, char *const *argv, int *i,
			struct err *err)
{
	const char *word = argv[*i] + 2, *equals = strchr(word, '=');
	const char *value = equals ? equals + 1 : NULL;
	const struct option_setting *s;
	char name[NAME_MAX_BYTES];

	snprintf(name, sizeof(name), "%.*s", equals ? (int)(equals - word) : (int)strlen(word),
		 word);
	s = option_setting_find(args->settings, args->nsettings, name);
	if (!s)
		return unknown(args, name, err);
	if (!s->arg && value)
		return err_set(err, EINVAL, "--%s takes no value", name);
	return apply(args, s, value, argc, argv, i, err);
}

int arguments_parse(const struct arguments *args, int argc, char *const *argv,
		    const char **operands, unsigned *ret_noperands, struct err *err)
{
	bool options = true;
	unsigned n = 0;

	for (int i = 1; i < argc; i++) {
		const char *word = argv[i];
		int res = 0;

		if (options && !strcmp(word, "--")) {
			options = false;
		} else if (options && (!strcmp(word, "--help") || !strcmp(word, "-h"))) {
			return 1;
		} else if (options && !strncmp(word, "--", 2)) {
			res = parse_option(args, argc, argv, &i, err);
		} else if (options && word[0] == '-' && word[1]) {
			res = parse_letters(args, argc, argv, &i, err);
		} else if (n == args->operands_max) {
			res = err_set(err, EINVAL, "unexpected argument '%s'", word);
		} else {
			operands[n++] = word;
			options &= !args->command_at || n <= args->command_at;
		}
		if (res)
			return res;
	}
	if (n < args->operands_min)
		return err_set(err, EINVAL, "%s is missing", args->operands_help);
	if (ret_noperands)
		*ret_noperands = n;
	return 0;
}

void arguments_help(const struct arguments *args, FILE *out)
{
	for (size_t i = 0; i < args->nsettings; i++) {
		const struct option_setting *s = &args->settings[i];
		char left[48], letter[8] = "";

		for (size_t k = 0; k < args->nletters; k++) {
			if (!strcmp(args->letters[k].name, s->name))
				snprintf(letter, sizeof(letter), "-%c, ", args->letters[k].letter);
		}
		snprintf(left, sizeof(left), "%s--%s %s", letter, s->name, s->arg ? s->arg : "");
		fprintf(out, "  %-26s %s\n", left, s->help);
	}
}
