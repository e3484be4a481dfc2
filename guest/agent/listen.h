/*
 * Where the agent is reached: a vsock port, which the host alone may use, or for tests a Unix
 * socket. And how it tells the host that it is.
 *
 * Threads: the loop's.
 */
#ifndef GUEST_AGENT_LISTEN_H
#define GUEST_AGENT_LISTEN_H

#include "base/loop.h"
#include "control/ttrpc/server.h"

/* "vsock:PORT" or "unix:PATH". *ret_fd listens. -EADDRINUSE: another agent does. */
int listen_open(const char *where, int *ret_fd, struct err *err);

/*
 * For ttrpc_server_config: on vsock only the host may call, not a program of the guest; and where
 * the agent has a token only who has told it (Authenticate).
 */
void *listen_admit(void *ctx, int fd);
void listen_leave(void *ctx, void *peer);
bool listen_permit(void *ctx, const void *peer, const struct ttrpc_method *method,
		   const ProtobufCMessage *request, struct err *err);

/* The method: ttrpc_method.start. */
void listen_authenticate(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *request);

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
