/*
 * What is mounted (proc(5): /proc/PID/mountinfo).
 *
 * Threads: none of its own.
 */
#ifndef GUEST_AGENT_MOUNTS_H
#define GUEST_AGENT_MOUNTS_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

struct mount_entry {
	unsigned major, minor; /* of the device; major 0: stands on none, or is btrfs */
	char *root;	       /* "/": the whole file system, no part of it */
	char *target;
	char *fstype;
	char *source;
	bool read_only; /* the mount, or the file system */
};

struct mounts {
	struct mount_entry *entries; /* in the order in which they were mounted */
	size_t n;
	char *text; /* the strings are in it */
};

/* The caller frees also after a failure. 0 or -errno. */
int mounts_read(struct mounts *ret_mounts, struct err *err);
void mounts_free(struct mounts *mounts);

/* The topmost mount on a path, which must be a mount's target; NULL: none. */
const struct mount_entry *mounts_find(const struct mounts *mounts, const char *target);

/* Stands on a disk of the guest, or on something like one. */
bool mount_on_device(const struct mount_entry *m);

#endif
