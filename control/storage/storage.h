/*
 * Disk images below a storage root, where clients name them.
 *
 * Every lookup is made beneath an open directory without following a symbolic link
 * (openat2(2), RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS), so that no name, and nobody who may write
 * below the root, leads outside. A new image appears complete or not at all.
 *
 * Folders are looked up with our own rights. An image belongs to the user who had it made, and is
 * changed and destroyed with the rights of the user who asks for that (`identity`; NULL: ours).
 *
 * Threads: a storage is read only once it is open; the calls may block: not on a loop's thread.
 */
#ifndef CONTROL_STORAGE_STORAGE_H
#define CONTROL_STORAGE_STORAGE_H

#include "base/err.h"
#include "control/access/identity.h"
#include "disk/qcow2/qcow2.h"
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
		    const struct identity *identity, struct storage_result *ret_result);

/* A disk of a VM, for the message that names who uses it. */
struct storage_user {
	const char *vm;
	const char *path;
};

void storage_destroy(const struct storage *storage,
		     const VmTools__Concierge__DestroyDiskImageRequest *request,
		     const struct identity *identity, const struct storage_user *users,
		     size_t nusers, struct storage_result *ret_result);

/* ---- images that are there (edit.c) ----
 * -ENOENT; -EINVAL: no such name can be, or the image is not of that type; -EBUSY, -EAGAIN: a VM or
 * another program uses it; -EACCES: the caller may not; -errno of the host. Messages name the path.
 */

struct storage_name {
	const char *id, *disk_path;
	int location, image_type; /* as in the messages */
};

struct storage_info {
	char path[PATH_MAX];
	uint64_t size_bytes;
	uint64_t allocated_bytes;
	bool in_use; /* for writing */
};

int storage_info(const struct storage *storage, const struct storage_name *name,
		 const struct storage_user *users, size_t nusers, struct storage_info *ret_info,
		 struct err *err);

/* An image with a backing file is refused: that is named by the image, not by the caller. */
int storage_resize(const struct storage *storage, const struct storage_name *name,
		   const struct identity *identity, const struct storage_user *users, size_t nusers,
		   uint64_t size_bytes, bool shrink, uint64_t *ret_old_bytes, struct err *err);

/* `ops->progress` may stop it: -ECANCELED. */
int storage_check(const struct storage *storage, const struct storage_name *name,
		  const struct identity *identity, const struct storage_user *users, size_t nusers,
		  bool repair, const struct qcow2_check_ops *ops,
		  struct qcow2_check_result *ret_result, struct err *err);

#endif
