/* The commands of `lodge disk`, one file each; the table is in control/cmd_disk.c. */
#ifndef CONTROL_DISK_COMMANDS_H
#define CONTROL_DISK_COMMANDS_H

#include "control/command.h"
#include "control/disk/args.h"

/* Exit status of `lodge disk check`, beside those of all commands. */
enum disk_check_exit {
	DISK_CHECK_LEAKS = 3,	    /* space is lost, nothing worse */
	DISK_CHECK_CORRUPTIONS = 4, /* data is in danger */
};

/* Each returns the exit status; errors have been printed. */
int disk_create(struct disk_args *args);
int disk_info(struct disk_args *args);
int disk_check(struct disk_args *args);
int disk_resize(struct disk_args *args);
int disk_convert(struct disk_args *args);
int disk_map(struct disk_args *args);
int disk_rebase(struct disk_args *args);
int disk_commit(struct disk_args *args);
int disk_snapshot(struct disk_args *args);
int disk_discard(struct disk_args *args);

#endif
