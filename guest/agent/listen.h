/*
 * Where the agent is reached: a vsock port, which the host alone may use, or for tests a Unix
 * socket. And how it tells the host that it is.
 *
 * Threads: the loop's.
 */
#ifndef GUEST_AGENT_LISTEN_H
#define GUEST_AGENT_LISTEN_H

#include "base/loop.h"

/* "vsock:PORT" or "unix:PATH". *ret_fd listens. -EADDRINUSE: another agent does. */
int listen_open(const char *where, int *ret_fd, struct err *err);

/* For ttrpc_server_config.admit: on vsock only the host may call, not a program of the guest. */
void *listen_admit(void *ctx, int fd);

/*
 * Connects to "vsock:PORT" of the host, or "unix:PATH", and closes again, which says "ready". Tries
 * for a minute, as the host may not listen yet. -EINVAL: names no address.
 */
struct ready {
	struct loop *loop;
	const char *where;
	int fd;
	unsigned tries;
	struct loop_op op;
	struct loop_timer timer;
};

int ready_begin(struct ready *r, struct loop *loop, const char *where, struct err *err);

#endif
