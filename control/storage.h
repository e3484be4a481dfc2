/*
 * Disk images below a storage root, where clients name them.
 *
 * Every lookup is made beneath an open directory without following a symbolic link
 * (openat2(2), RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS), so that no name, and nobody who may write
 * below the root, leads outside. A new image appears complete or not at all.
 *
 * Threads: a storage is read only once it is open; the calls may block: not on a loop's thread.
 */
#ifndef CONTROL_STORAGE_H
#define CONTROL_STORAGE_H

#include "base/err.h"
#include "proto/vm_concierge.pb-c.h"

#include <limits.h>

struct storage {
	char *root; /* absolute */
	int root_fd;
};

#define STORAGE_INIT           \
	{                      \
		.root_fd = -1, \
	}

int storage_open(struct storage *storage, const char *root, struct err *err);
void storage_close(struct storage *storage);

struct storage_result {
	VmTools__Concierge__DiskImageStatus status;
	char path[PATH_MAX]; /* absolute, where it is known */
	struct err err;	     /* with STATUS_FAILED */
};

void storage_create(const struct storage *storage,
		    const VmTools__Concierge__CreateDiskImageRequest *request,
		    struct storage_result *ret_result);

/* A disk of a VM, for the message that names who uses it. */
struct storage_user {
	const char *vm;
	const char *path;
};

void storage_destroy(const struct storage *storage,
		     const VmTools__Concierge__DestroyDiskImageRequest *request,
		     const struct storage_user *users, size_t nusers,
		     struct storage_result *ret_result);

#endif
