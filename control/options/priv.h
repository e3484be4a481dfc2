/* What options.c, disk.c, net.c, share.c and vsock.c have in common. */
#ifndef CONTROL_OPTIONS_PRIV_H
#define CONTROL_OPTIONS_PRIV_H

#include "control/options/options.h"

/* Replaces a string of the options by a copy of `value`. */
int options_set_string(char **field, const char *value, struct err *err);

/* One setting of an option or of a key within its list. */
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

/* --root and --disk: appends to the disks of `machine`; the root becomes the first. */
int options_add_root(struct machine_config *machine, const char *list, struct err *err);
int options_add_disk(struct machine_config *machine, const char *list, struct err *err);

/* --vsock. */
int options_set_vsock(struct vsock_config *vsock, const char *list, struct err *err);
void options_vsock_help(FILE *out);

/* --net: appends to the interfaces of `machine`; or "none", which no other goes with. */
int options_add_net(struct machine_config *machine, const char *list, struct err *err);
void options_net_help(FILE *out);

/* --share: appends to the shares of `machine`; "UID[:GID]". */
int options_add_share(struct machine_config *machine, const char *list, struct err *err);
int options_share_user(struct machine_share *share, const char *text, struct err *err);
void options_share_help(FILE *out);

/* When all options are known: shares get mount points, and an interface to be reached by. */
int options_check_shares(struct machine_config *machine, struct err *err);

/* What can only be said when all options are known. */
int options_check_disks(const struct machine_config *machine, struct err *err);

/* The keys of --root and --disk, for the help. */
void options_disk_help(FILE *out);

#endif
