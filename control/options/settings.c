/* Tables of settings. See control/options/settings.h. */
#include "control/options/settings.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "control/options/parse.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

const struct option_setting *option_setting_find(const struct option_setting *settings, size_t n,
						 const char *name)
{
	for (size_t i = 0; i < n; i++) {
		if (!strcmp(settings[i].name, name))
			return &settings[i];
	}
	return NULL;
}

int option_setting_unknown(const struct option_setting *settings, size_t n, const char *what,
			   const char *name, struct err *err)
{
	const char *names[64];
	const char *dashes = *what == 'o' ? "--" : "";
	const char *near;

	assert(n < ARRAY_LEN(names));
	for (size_t i = 0; i < n; i++)
		names[i] = settings[i].name;
	names[n] = NULL;
	near = parse_suggest(name, names);
	if (near)
		return err_set(err, EINVAL, "unknown %s %s%s; did you mean %s%s?", what, dashes,
			       name, dashes, near);
	return err_set(err, EINVAL, "unknown %s %s%s; `lodge run --help` lists them", what, dashes,
		       name);
}

static int read_one(const struct option_setting *key, const char *value, void *target,
		    struct err *err)
{
	if (key->arg && !value)
		return err_set(err, EINVAL, "lacks its value; say %s=%s", key->name, key->arg);
	if (!key->arg && value)
		return err_set(err, EINVAL, "takes no value");
	return key->set(target, value, err);
}

int option_settings_read(const struct option_setting *settings, size_t n, uint32_t many,
			 const char *list, void *target, struct err *err)
{
	uint32_t seen = 0;

	for (;;) {
		const struct option_setting *key;
		autofree char *name = NULL;
		autofree char *value = NULL;
		int rc = parse_pair(&list, &name, &value, err);

		if (rc <= 0)
			return rc;
		key = option_setting_find(settings, n, name);
		if (!key)
			return option_setting_unknown(settings, n, "key", name, err);
		if (seen & ~many & UINT32_C(1) << (key - settings))
			return err_set(err, EINVAL, "key %s is given twice", name);
		seen |= UINT32_C(1) << (key - settings);
		rc = read_one(key, value, target, err);
		if (rc) {
			err_prefix(err, "%s", name);
			return rc;
		}
	}
}

int options_set_string(char **field, const char *value, struct err *err)
{
	char *copy = strdup(value);

	if (!copy)
		return err_set(err, ENOMEM, "out of memory");
	free(*field);
	*field = copy;
	return 0;
}
