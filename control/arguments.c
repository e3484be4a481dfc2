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

/* The option at argv[*i]; *i ends on the last word used. */
static int parse_option(const struct arguments *args, int argc, char *const *argv, int *i,
			struct err *err)
{
	const char *word = argv[*i] + 2, *equals = strchr(word, '=');
	const char *value = equals ? equals + 1 : NULL;
	const struct option_setting *s;
	char name[NAME_MAX_BYTES];
	int res;

	snprintf(name, sizeof(name), "%.*s", equals ? (int)(equals - word) : (int)strlen(word),
		 word);
	s = option_setting_find(args->settings, args->nsettings, name);
	if (!s)
		return unknown(args, name, err);
	if (!s->arg && value)
		return err_set(err, EINVAL, "--%s takes no value", name);
	if (s->arg && !value) {
		if (*i + 1 >= argc)
			return err_set(err, EINVAL, "--%s lacks its value; say --%s %s", name, name,
				       s->arg);
		value = argv[++*i];
	}
	res = s->set(args->target, value, err);
	if (res)
		err_prefix(err, "--%s", name);
	return res;
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
			res = err_set(err, EINVAL, "unknown option %s; options are long", word);
		} else if (n == args->operands_max) {
			res = err_set(err, EINVAL, "unexpected argument '%s'", word);
		} else {
			operands[n++] = word;
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
		char left[48];

		snprintf(left, sizeof(left), "--%s %s", s->name, s->arg ? s->arg : "");
		fprintf(out, "  %-26s %s\n", left, s->help);
	}
}
