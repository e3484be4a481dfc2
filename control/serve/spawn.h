/*
 * The process of a VM of `lodge serve`: a `lodge vmm` that listens in a runtime directory of its
 * own. It holds nothing of ours but that socket and standard error.
 */
#ifndef CONTROL_SERVE_SPAWN_H
#define CONTROL_SERVE_SPAWN_H

#include "control/access/identity.h"

#include <limits.h>

/* A new directory vm.XXXXXX below `runtime_dir`, told in `ret_dir`, also where only the rest fails,
 * and a listening socket in it. */
int serve_spawn_dir(const char *runtime_dir, char ret_dir[PATH_MAX], int *ret_fd, struct err *err);

/* `dir` is that directory. `identity`: with whose rights it opens the files of its VM; NULL: with
 * ours. */
int serve_spawn(int socket_fd, const char *dir, const char *component_root, const char *log_level,
		bool sandbox, const struct identity *identity, pid_t *ret_pid, struct err *err);

/* Of a process that has ended. An empty `dir` is none. */
void serve_spawn_remove_dir(const char *dir);

#endif
