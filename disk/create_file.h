/*
 * A file that appears under its name only when it is complete.
 *
 *   begin --(written through work_path or fd)--> commit: synced, named, folder synced
 *                                           \--> abort: nothing was ever there
 *
 * Until then it has no name at all (O_TMPFILE), so that not even SIGKILL leaves anything, or where
 * the file system cannot do that or a name in its folder is needed, the name .NAME.XXXXXX.
 *
 * Invariants
 *  1. Under the final name there is what was there before or the complete new file.
 *  2. A file that is to be replaced is locked against every other user of it as an image from
 *     begin to commit, and only a regular file is ever replaced.
 *
 * Threads: one at a time.
 */
#ifndef DISK_CREATE_FILE_H
#define DISK_CREATE_FILE_H

#include "base/err.h"

#include <stdbool.h>

#define CREATE_FILE_REPLACE (1u << 0) /* an existing file may be replaced */
#define CREATE_FILE_NAMED   (1u << 1) /* work_path lies in the folder of the final name */

struct create_file {
	int fd;		 /* open for reading and writing; closed by commit and abort */
	char *work_path; /* opens the file while it has no final name */
	/* private */
	int folder_fd;
	int replaced_fd; /* holds the lock; -1: there was none */
	char *path;
	const char *name;      /* within path */
	const char *work_name; /* within work_path, where it is in the folder; else NULL */
	unsigned flags;
};

/*
 * Creates the empty file for `path`. -EEXIST: there is a file, and CREATE_FILE_REPLACE was not
 * given, or it is none that can be replaced; -EAGAIN: another process uses it; -errno. Messages
 * name the path.
 */
int create_file_begin(struct create_file *f, const char *path, unsigned flags, struct err *err);

/* Ends it well. On failure the new file is gone, as after abort; only where the folder cannot be
 * synced at the very end it stays, complete. */
int create_file_commit(struct create_file *f, struct err *err);

/* Messages of others name work_path, which nobody knows: puts the final name in its place. */
void create_file_name_err(const struct create_file *f, struct err *err);

/* Leaves nothing behind. Does nothing after commit or abort, or to a zeroed struct. */
void create_file_abort(struct create_file *f);

#endif
