/* Unix stream sockets of the control plane: made for their owner alone. */
#ifndef CONTROL_UNIX_SOCKET_H
#define CONTROL_UNIX_SOCKET_H

#include "base/err.h"

#include <stdbool.h>
#include <sys/types.h>

/*
 * A listening socket at `path`, mode 0600. A socket that nobody serves any more is replaced.
 * -EADDRINUSE: someone serves it, or it is no socket; -ENAMETOOLONG; -errno. Not while other
 * threads make files.
 */
int unix_listen(const char *path, int *ret_fd, struct err *err);

/* -ENOENT, -ECONNREFUSED: nobody serves it. */
int unix_connect(const char *path, int *ret_fd, struct err *err);

/* Does the peer have this process's user id, or is it root (SO_PEERCRED)? */
bool unix_peer_allowed(int fd);

/* The process that called listen(2) on the other end; 0: not known. */
pid_t unix_peer_pid(int fd);

#endif
