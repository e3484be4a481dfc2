/*
 * A configuration file: the options of a command as lines "name = value", by the command's own
 * table. An option without a value is switched with on or off; one that may be given several times
 * may have several lines. Empty lines and those that begin with '#' say nothing.
 */
#ifndef CONTROL_SERVE_CONFIG_FILE_H
#define CONTROL_SERVE_CONFIG_FILE_H

#include "control/options/settings.h"

#define CONFIG_FILE_MAX (64 * 1024) /* bytes */

struct config_file {
	char *text;
};

#define CONFIG_FILE_INIT      \
	{                     \
		.text = NULL, \
	}

struct config_target {
	const struct option_setting *settings;
	size_t nsettings;
	void *target; /* of the settings */
};

/*
 * Calls the setters; values live until config_file_free(). -EINVAL with the file, the line and what
 * is wrong; -errno where the file cannot be read.
 */
int config_file_read(struct config_file *file, const char *path, const struct config_target *target,
		     struct err *err);
void config_file_free(struct config_file *file);

#endif
