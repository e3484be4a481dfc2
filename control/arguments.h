/*
 * The arguments of a command whose options stand in a table: "--name value" or "--name=value",
 * mixed with operands; "--" ends the options. Some have a letter as well: "-u NAME", "-it".
 */
#ifndef CONTROL_ARGUMENTS_H
#define CONTROL_ARGUMENTS_H

#include "control/options/settings.h"

#include <stdio.h>

struct arguments_letter {
	char letter;
	const char *name; /* of the setting that it stands for */
};

struct arguments {
	const char *command; /* for messages */
	const struct option_setting *settings;
	size_t nsettings;
	void *target; /* of the settings */
	unsigned operands_min, operands_max;
	const char *operands_help; /* "NAME"; how they are called in messages */
	const struct arguments_letter *letters;
	size_t nletters;
	/* Behind so many operands the next is a command, whose words are all operands. 0: none. */
	unsigned command_at;
};

/*
 * Calls the setters; operands go to operands[], of operands_max. 0; 1: --help was given;
 * -EINVAL with a message for the user.
 */
int arguments_parse(const struct arguments *args, int argc, char *const *argv,
		    const char **operands, unsigned *ret_noperands, struct err *err);

/* One line for each setting. */
void arguments_help(const struct arguments *args, FILE *out);

#endif
