/*
 * `lodge doctor [--json]`.
 */
#include "control/command.h"
#include "control/doctor/doctor.h"
#include "control/options/parse.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* Of the terminal; 0: standard output is none. */
static unsigned terminal_columns(void)
{
	struct winsize size;

	return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

static int unknown_option(const char *word)
{
	static const char *const names[] = {"--json", "--help", NULL};
	const char *near = parse_suggest(word, names);

	if (near)
		fprintf(stderr, "lodge doctor: unknown option %s; did you mean %s?\n", word, near);
	else
		fprintf(stderr, "lodge doctor: unexpected argument '%s'; it takes --json only\n",
			word);
	return LODGE_USAGE;
}

int cmd_doctor(int argc, char **argv)
{
	struct doctor doctor = {.root = ""};
	bool json = false;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			cmd_doctor_help();
			return LODGE_OK;
		}
		if (strcmp(argv[i], "--json") != 0)
			return unknown_option(argv[i]);
		json = true;
	}
	doctor_examine(&doctor);
	if (json)
		doctor_print_json(&doctor, stdout);
	else
		doctor_print(&doctor, stdout, terminal_columns());
	return doctor_verdict(&doctor) ? LODGE_OK : LODGE_FAILED;
}

void cmd_doctor_help(void)
{
	fputs("usage: lodge doctor [--json]\n\n"
	      "Prints what this host offers to run guests, and what to do about each lack.\n\n"
	      "  --json   one JSON object on standard output\n\n"
	      "Exit status: 0 guests can run here, 1 they cannot, 2 wrong arguments.\n",
	      stdout);
}
