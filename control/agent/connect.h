/*
 * Ways to the agent in a guest: a stream that control/ttrpc/client.h takes.
 *
 *	vhost-vsock       AF_VSOCK, by the guest's cid
 *	built-in vsock    its Unix socket: "CONNECT 8888\n", answered by "OK <port>\n", then
 *	                  the stream
 *	Unix              a socket of the agent itself (lodge-agent --listen unix:PATH), for
 *	                  tests
 *
 * Threads: the loop's.
 */
#ifndef CONTROL_AGENT_CONNECT_H
#define CONTROL_AGENT_CONNECT_H

#include "base/loop.h"

#include <stdint.h>

#define AGENT_SERVICE "lodge.agent.v1.Agent" /* proto/agent.proto */

#define AGENT_PORT 8888 /* of the guest: where the agent listens */
#define READY_PORT 7777 /* of the host: the agent connects here when it does */

enum agent_way {
	AGENT_BY_VSOCK,
	AGENT_BY_BUILTIN, /* by `path`, or without one by `fd` */
	AGENT_BY_UNIX,
};

struct agent_address {
	enum agent_way way;
	uint32_t cid;	  /* BY_VSOCK */
	const char *path; /* the others */
	int fd;		  /* other end of one that the device serves; taken over, also on failure */
	uint32_t port;	  /* BY_VSOCK, BY_BUILTIN */
};

struct agent_connect;

/*
 * Calls `done` once, never from inside this call, unless it is cancelled: with a connected socket,
 * which is the callee's from then on, or with -errno and what failed. -ETIMEDOUT: not within
 * `timeout_ns`; -ECONNREFUSED, -ECONNRESET: nobody listens in the guest, or not yet. `address` is
 * not needed any more when this returns. 0; -EINVAL, -ENAMETOOLONG: the address; -ENOMEM; other
 * -errno of socket(2), connect(2).
 */
int agent_connect(struct loop *loop, const struct agent_address *address, uint64_t timeout_ns,
		  void (*done)(void *ctx, int fd, const struct err *err), void *ctx,
		  struct agent_connect **ret_connect, struct err *err);

/* Before `done`. NULL is accepted. */
void agent_connect_cancel(struct agent_connect *c);

#endif
