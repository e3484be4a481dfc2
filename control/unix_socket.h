/* Unix stream sockets of the control plane. */
#ifndef CONTROL_UNIX_SOCKET_H
#define CONTROL_UNIX_SOCKET_H

#include "base/err.h"

#include <sys/types.h>

/* Who may connect, as far as the file system decides. */
struct unix_mode {
	mode_t mode;
	gid_t group; /* (gid_t)-1: this process's */
};

/*
 * A listening socket at `path`; `mode` NULL: for its owner alone. A socket that nobody serves any
 * more is replaced. -EADDRINUSE: someone serves it, or it is no socket; -ENAMETOOLONG; -errno. Not
 * while other threads make files.
 */
int unix_listen(const char *path, const struct unix_mode *mode, int *ret_fd, struct err *err);

/* -ENOENT, -ECONNREFUSED: nobody serves it. */
int unix_connect(const char *path, int *ret_fd, struct err *err);

/* The process that called listen(2) on the other end; 0: not known. */
pid_t unix_peer_pid(int fd);

#endif
