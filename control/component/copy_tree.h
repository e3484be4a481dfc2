/*
 * Files and a kernel's modules, copied and synced; what is copied is whole when a call returns 0.
 *
 * Threads: the job's.
 */
#ifndef CONTROL_COMPONENT_COPY_TREE_H
#define CONTROL_COMPONENT_COPY_TREE_H

#include "control/disk/job.h"

/* The regular file at `path` as `name`, which must be new, in the folder; mode 0644. -ECANCELED: a
 * signal came. */
int copy_file(const char *path, int dir_fd, const char *name, struct disk_job *job,
	      struct err *err);

/*
 * The folder of modules at `path` as modules/RELEASE in the folder: its files and folders, but no
 * links, which lead to the kernel's sources. -ENOENT: it has no modules.dep.
 */
int copy_modules(const char *path, int dir_fd, const char *release, struct disk_job *job,
		 struct err *err);

#endif
