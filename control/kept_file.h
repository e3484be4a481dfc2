/*
 * A file that is to be removed at the end, when this process cannot name paths any more: its folder
 * is kept open.
 */
#ifndef CONTROL_KEPT_FILE_H
#define CONTROL_KEPT_FILE_H

#include "base/err.h"

struct kept_file {
	int dir_fd; /* owned; -1: none */
	const char *name;
};

#define KEPT_FILE_INIT       \
	{                    \
		.dir_fd = -1 \
	}

/* `path` outlives it. The file need not exist, its folder must. */
int kept_file_open(struct kept_file *kept, const char *path, struct err *err);

/* A file that is not there is as good. */
void kept_file_remove(const struct kept_file *kept);

void kept_file_close(struct kept_file *kept);

#endif
