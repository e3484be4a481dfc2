/*
 * The arguments of `lodge run`, checked, as a machine_config and what the command itself needs.
 *
 * All that can be known to be wrong without opening a file is refused here, in one line that names
 * the option, the value and the cure.
 */
#ifndef CONTROL_OPTIONS_OPTIONS_H
#define CONTROL_OPTIONS_OPTIONS_H

#include "base/err.h"
#include "base/log.h"
#include "vmm/config.h"

#include <stdbool.h>
#include <stdio.h>

#define RUN_STOP_TIMEOUT_DEFAULT 10
#define RUN_STOP_TIMEOUT_MAX	 86400

enum run_console {
	RUN_CONSOLE_STDIO,
	RUN_CONSOLE_FILE,
	RUN_CONSOLE_NONE,
};

struct run_options {
	struct machine_config machine;
	enum run_console console;
	char *console_path; /* RUN_CONSOLE_FILE */
	bool console_given;
	bool agent;		   /* also where nothing else needs it */
	char *exec;		   /* for a shell of the guest; NULL: nothing is run */
	unsigned start_timeout_ms; /* until the agent is ready, and disks are mounted; 0: 30 s */
	enum log_level log_level;
	unsigned stop_timeout_s; /* from the power button to the stop */
	bool sandbox;		 /* the process is locked in */
	bool dry_run;		 /* make the machine, start nothing */
	bool no_boot;		 /* set by the caller: another says what is booted */
	char *dump_dtb;		 /* file for the device tree; starts nothing either */
	bool transport_given;
	bool help; /* --help was given: nothing else has been checked */
};

/*
 * Parses argv[1..]. Fill `options` with run_options_init() first; run_options_fini() after success
 * and failure alike. -EINVAL: the arguments are wrong, `err` says how; -ENOMEM.
 */
void run_options_init(struct run_options *options);
int run_options_parse(struct run_options *options, int argc, char *const *argv, struct err *err);
void run_options_fini(struct run_options *options);

/* The list of options for `lodge run --help`. */
void run_options_help(FILE *out);

#endif
