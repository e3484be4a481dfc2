/*
 * `lodge disk COMMAND`: one static table of commands, each in a file of control/disk/.
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "control/command.h"
#include "control/disk/args.h"
#include "control/disk/commands.h"
#include "control/disk/options.h"
#include "control/options/parse.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define ARGS_LONG (DISK_ARG_FORMAT | DISK_ARG_PROGRESS)

static const struct disk_command commands[] = {
    {.name = "create",
     .synopsis = "-f FORMAT [-o NAME=VALUE]... [--force] PATH [SIZE]",
     .summary = "make a new image",
     .options = ARGS_LONG | DISK_ARG_OPTION | DISK_ARG_BACKING | DISK_ARG_FORCE | DISK_ARG_JSON,
     .min_operands = 1,
     .max_operands = 2,
     .operands = "PATH",
     .details = disk_options_text,
     .run = disk_create},
    {.name = "info",
     .synopsis = "-f FORMAT [--json] PATH",
     .summary = "what an image is",
     .options = DISK_ARG_FORMAT | DISK_ARG_JSON,
     .min_operands = 1,
     .max_operands = 1,
     .operands = "PATH",
     .run = disk_info},
    {.name = "check",
     .synopsis = "-f FORMAT [--repair leaks|all] [--json] PATH",
     .summary = "whether the structure of an image is whole",
     .options = ARGS_LONG | DISK_ARG_REPAIR | DISK_ARG_JSON,
     .min_operands = 1,
     .max_operands = 1,
     .operands = "PATH",
     .details = "\nExit status: 0 whole or repaired, 3 leaked clusters, 4 errors that endanger "
		"data;\n1 the check could not be made, 2 wrong arguments.\n",
     .run = disk_check},
    {.name = "resize",
     .synopsis = "-f FORMAT [--shrink] PATH SIZE|+SIZE",
     .summary = "make the disk larger or smaller",
     .options = ARGS_LONG | DISK_ARG_OPTION | DISK_ARG_SHRINK | DISK_ARG_JSON,
     .min_operands = 2,
     .max_operands = 2,
     .operands = "PATH SIZE",
     .details = "\nOf the options of images only -o preallocation=... can be said.\n",
     .run = disk_resize},
    {.name = "convert",
     .synopsis = "--from FORMAT --to FORMAT [-o NAME=VALUE]... [--force] SRC DST",
     .summary = "copy an image into a new one of any format",
     .options = DISK_ARG_FROM_TO | DISK_ARG_OPTION | DISK_ARG_BACKING | DISK_ARG_ALLOW_BACKING |
		DISK_ARG_COMPRESS | DISK_ARG_FORCE | DISK_ARG_PROGRESS | DISK_ARG_JSON,
     .min_operands = 2,
     .max_operands = 2,
     .operands = "SRC DST",
     .details = disk_options_text,
     .run = disk_convert},
    {.name = "map",
     .synopsis = "-f FORMAT [--allow-backing] [--json] PATH",
     .summary = "where the contents of an image lie",
     .options = DISK_ARG_FORMAT | DISK_ARG_ALLOW_BACKING | DISK_ARG_JSON,
     .min_operands = 1,
     .max_operands = 1,
     .operands = "PATH",
     .run = disk_map},
    {.name = "rebase",
     .synopsis = "-f qcow2 [--unsafe] {--backing FILE ... | --no-backing} PATH",
     .summary = "put another backing file below an image",
     .options = ARGS_LONG | DISK_ARG_BACKING | DISK_ARG_NO_BACKING | DISK_ARG_ALLOW_BACKING |
		DISK_ARG_UNSAFE,
     .min_operands = 1,
     .max_operands = 1,
     .operands = "PATH",
     .run = disk_rebase},
    {.name = "commit",
     .synopsis = "-f qcow2 --allow-backing PATH",
     .summary = "write an image's contents into its backing file",
     .options = ARGS_LONG | DISK_ARG_ALLOW_BACKING | DISK_ARG_JSON,
     .min_operands = 1,
     .max_operands = 1,
     .operands = "PATH",
     .run = disk_commit},
    {.name = "snapshot",
     .synopsis = "list -f qcow2 [--json] PATH",
     .summary = "list the snapshots inside an image",
     .options = DISK_ARG_FORMAT | DISK_ARG_JSON,
     .min_operands = 2,
     .max_operands = 2,
     .operands = "list PATH",
     .run = disk_snapshot},
    {.name = "discard-unused",
     .synopsis = "-f FORMAT [--allow-backing] PATH",
     .summary = "give space that holds only zeroes back to the host",
     .options = ARGS_LONG | DISK_ARG_ALLOW_BACKING | DISK_ARG_JSON,
     .min_operands = 1,
     .max_operands = 1,
     .operands = "PATH",
     .run = disk_discard},
};

static const struct disk_command *find(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		if (!strcmp(commands[i].name, name))
			return &commands[i];
	}
	return NULL;
}

static int unknown(const char *name)
{
	const char *names[ARRAY_LEN(commands) + 1] = {NULL};
	const char *near;

	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		names[i] = commands[i].name;
	near = parse_suggest(name, names);
	if (near)
		fprintf(stderr, "lodge disk: unknown command '%s'; did you mean %s?\n", name, near);
	else
		fprintf(stderr, "lodge disk: unknown command '%s'; `lodge help disk` lists them\n",
			name);
	return LODGE_USAGE;
}

static void usage(FILE *out)
{
	fputs("usage: lodge disk COMMAND [argument ...]\n\n"
	      "Makes, examines and changes disk images, raw and qcow2. Their format is always "
	      "stated.\n\nCommands:\n",
	      out);
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		fprintf(out, "  %-15s %s\n", commands[i].name, commands[i].summary);
	fputs("\n`lodge disk COMMAND --help` explains one; lodge-disk(1) explains all.\n\n"
	      "Exit status: 0 done, 1 failed, 2 wrong arguments, 128+N ended by signal N;\n"
	      "check: 3 leaked clusters, 4 errors.\n",
	      out);
}

void cmd_disk_help(void)
{
	usage(stdout);
}

static void command_help(const struct disk_command *command)
{
	printf("usage: lodge disk %s %s\n\n", command->name, command->synopsis);
	disk_args_help(command, stdout);
	if (command->details)
		fputs(command->details, stdout);
}

int cmd_disk_help_of(const char *word)
{
	const struct disk_command *command = find(word);

	if (!command)
		return unknown(word);
	command_help(command);
	return LODGE_OK;
}

int cmd_disk(int argc, char **argv)
{
	const struct disk_command *command;
	struct err err = ERR_INIT;
	struct disk_args args;
	int silent, status;

	if (argc < 2) {
		usage(stderr);
		return LODGE_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
		usage(stdout);
		return LODGE_OK;
	}
	command = find(argv[1]);
	if (!command)
		return unknown(argv[1]);
	if (disk_args_parse(command, argc - 1, argv + 1, &args, &err)) {
		fprintf(stderr, "lodge disk %s: %s\n", command->name, err.msg);
		return LODGE_USAGE;
	}
	if (args.help) {
		command_help(command);
		return LODGE_OK;
	}
	/* what fails is said once, in one line, by the command itself */
	silent = open("/dev/null", O_WRONLY | O_CLOEXEC);
	log_init(silent, LOG_LEVEL_ERROR);
	status = command->run(&args);
	log_init(STDERR_FILENO, LOG_LEVEL_ERROR);
	cleanup_fd(&silent);
	return status;
}
