/*
 * Tables of settings: a command's options, the keys within an option's list, the lines of a
 * configuration file. A setting is a name and its setter, which writes to a target of the caller's.
 */
#ifndef CONTROL_OPTIONS_SETTINGS_H
#define CONTROL_OPTIONS_SETTINGS_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

/* An option, or a key within its list. */
struct option_setting {
	const char *name;
	const char *arg; /* how the value is called in the help; NULL: takes none */
	int (*set)(void *target, const char *value, struct err *err);
	const char *help;
};

/* Which of the `n` settings is called `name`; NULL: none. */
const struct option_setting *option_setting_find(const struct option_setting *settings, size_t n,
						 const char *name);

/*
 * Reads a list of key=value, or of keys alone where a setting takes none, one setter for each. Keys
 * whose bit of `many` is set may come several times.
 */
int option_settings_read(const struct option_setting *settings, size_t n, uint32_t many,
			 const char *list, void *target, struct err *err);

/* -EINVAL with "unknown <what> '<name>'" and the nearest name. */
int option_setting_unknown(const struct option_setting *settings, size_t n, const char *what,
			   const char *name, struct err *err);

/* Replaces a string of the options by a copy of `value`. */
int options_set_string(char **field, const char *value, struct err *err);

#endif
