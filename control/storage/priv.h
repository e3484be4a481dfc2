/* What storage.c and edit.c share: where an image is. Threads: any. */
#ifndef CONTROL_STORAGE_PRIV_H
#define CONTROL_STORAGE_PRIV_H

#include "control/storage/storage.h"

#include <sys/stat.h>

struct place {
	char path[PATH_MAX]; /* below the root */
	const char *name;    /* its last part; set with dir_fd */
	int dir_fd;
};

/* Checks what the client says and opens the folder, to be closed. -ENOENT: that is not there;
 * -EINVAL, -ELOOP, ... */
int place_open(const struct storage *storage, const char *id, const char *disk_path, int location,
	       struct place *ret_place, struct err *err);

/* The absolute path. */
void place_path(const struct storage *storage, const struct place *place, char ret_path[PATH_MAX]);

/* Opens the image itself, a regular file, no link. -ENOENT: it is not there. */
int place_open_file(const struct place *place, int flags, int *ret_fd, struct stat *ret_st,
		    struct err *err);

/* -EBUSY with the name of the VM that has the file as a disk. */
int place_check_users(const struct stat *st, const struct storage_user *users, size_t nusers,
		      struct err *err);

/* The file again by the same inode, with the rights of `identity` (NULL: ours): -EACCES where it
 * may not write it. */
int place_check_rights(int fd, const struct identity *identity, struct err *err);

#endif
