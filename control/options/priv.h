/* The options that are lists of keys: disk.c, net.c, share.c and vsock.c. */
#ifndef CONTROL_OPTIONS_PRIV_H
#define CONTROL_OPTIONS_PRIV_H

#include "base/err.h"
#include "vmm/config.h"

#include <stdio.h>

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
