/*
 * The arguments of `lodge disk COMMAND`: one table of options, of which each command takes some.
 *
 * Options and operands may be mixed; "--" ends the options. Strings point into argv.
 */
#ifndef CONTROL_DISK_ARGS_H
#define CONTROL_DISK_ARGS_H

#include "base/err.h"
#include "disk/image.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define DISK_CREATE_OPTIONS_MAX 32
#define DISK_OPERANDS_MAX	2

/* Bits of disk_command.options. */
enum {
	DISK_ARG_FORMAT = 1 << 0,
	DISK_ARG_FROM_TO = 1 << 1,
	DISK_ARG_OPTION = 1 << 2,
	DISK_ARG_JSON = 1 << 3,
	DISK_ARG_PROGRESS = 1 << 4, /* --progress and --quiet */
	DISK_ARG_FORCE = 1 << 5,
	DISK_ARG_SHRINK = 1 << 6,
	DISK_ARG_REPAIR = 1 << 7,
	DISK_ARG_UNSAFE = 1 << 8,
	DISK_ARG_BACKING = 1 << 9, /* --backing and --backing-format */
	DISK_ARG_NO_BACKING = 1 << 10,
	DISK_ARG_ALLOW_BACKING = 1 << 11,
	DISK_ARG_COMPRESS = 1 << 12,
};

enum disk_repair {
	DISK_REPAIR_NONE,
	DISK_REPAIR_LEAKS,
	DISK_REPAIR_ALL,
};

/* A format that may be missing. */
struct disk_format {
	bool given;
	enum image_format format;
};

struct disk_args {
	const struct disk_command *command;
	struct disk_format format, from, to, backing_format;
	const char *create_options[DISK_CREATE_OPTIONS_MAX]; /* "name=value" */
	unsigned ncreate_options;
	const char *backing;
	enum disk_repair repair;
	bool json;
	bool progress;
	bool quiet;
	bool force;
	bool shrink;
	bool unsafe;
	bool no_backing;
	bool allow_backing;
	bool compress;
	bool help; /* --help was given: nothing else has been checked */
	const char *operands[DISK_OPERANDS_MAX];
	unsigned noperands;
};

struct disk_command {
	const char *name;
	const char *synopsis; /* what follows the name */
	const char *summary;
	unsigned options;
	unsigned min_operands, max_operands;
	const char *operands; /* "PATH SIZE", for the message about a missing one */
	const char *details;  /* lines after the options in the help; may be NULL */
	int (*run)(struct disk_args *args);
};

/* Parses argv[1..]; argv[0] is the command's name. -EINVAL: `err` says what is wrong. */
int disk_args_parse(const struct disk_command *command, int argc, char *const *argv,
		    struct disk_args *ret_args, struct err *err);

/* The options that the command takes, for its help. */
void disk_args_help(const struct disk_command *command, FILE *out);

/* Is the format stated? -EINVAL with the option that is missing. */
int disk_args_need(const struct disk_format *format, const char *option, struct err *err);

/*
 * The size of an image: SIZE, or +SIZE on top of `current_bytes` where `relative` allows it, a
 * multiple of 512 and more than 0. -EINVAL.
 */
int disk_args_size(const char *text, bool relative, uint64_t current_bytes, uint64_t *ret_bytes,
		   struct err *err);

#endif
