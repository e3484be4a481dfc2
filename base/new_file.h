/*
 * A file that takes its name when it is whole: by folder descriptors, so that no link in the way is
 * followed. Until then it has no name (O_TMPFILE), so that not even SIGKILL leaves anything, or
 * where the file system cannot do that, .lodge-new.PID.N.
 *
 * Threads: one.
 */
#ifndef BASE_NEW_FILE_H
#define BASE_NEW_FILE_H

#include "base/err.h"

#include <stdbool.h>

#define NEW_FILE_NAME_MAX 64

struct new_file {
	int fd; /* to be written to */
	/* private */
	int dir_fd;
	const char *name;
	char temporary[NEW_FILE_NAME_MAX]; /* "": it has none yet */
};

/* For `name` in the folder; both stay valid until the end. -errno. */
int new_file_begin(struct new_file *f, int dir_fd, const char *name, struct err *err);

/*
 * Gives it its name, or with `res` not 0 leaves nothing. Returns `res`, or -errno. Closes it.
 * `replace`: what has the name goes; otherwise that is -EEXIST.
 */
int new_file_end(struct new_file *f, int res, bool replace, struct err *err);

/* A symbolic link in place of what has the name, which must be no directory. -errno. */
int new_file_link(int dir_fd, const char *name, const char *target, struct err *err);

#endif
