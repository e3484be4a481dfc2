/*
 * The calls of lodge.v1.Guests in the VM's process, passed on to the agent in the guest.
 *
 *	clients ==ttrpc server==> relay --one ttrpc client--> agent
 *
 * All calls share one connection to the agent, so that none may stop it:
 *  1. Of each stream the agent has at most RELAY_WINDOW_BYTES (and one message) on the way; they
 *     wait here, for that call alone, until its client reads. The agent is told what was taken.
 *  2. A client has at most RELAY_INPUT_BYTES on the way that the agent's process has not taken;
 *     they wait here while the connection to the agent is full. Who sends more loses the call.
 *  3. A call whose client goes is given up at the agent, which kills its process.
 *  4. An agent that breaks these rules, or answers nonsense, ends the call that it does it to; what
 *     it sends for no call is dropped.
 *
 * Threads: the loop's.
 */
#ifndef CONTROL_AGENT_RELAY_H
#define CONTROL_AGENT_RELAY_H

#include "control/agent/guests.h"
#include "control/ttrpc/client.h"

#define RELAY_WINDOW_BYTES (256 * 1024)
#define RELAY_INPUT_BYTES  (256 * 1024)	 /* the agent's own limit: proto/agent.proto */
#define RELAY_QUEUE_MAX	   (1024 * 1024) /* of input, with what its messages need themselves */
#define RELAY_MESSAGE_MAX  (64 * 1024)	 /* of a stream of the agent, which sends half of it */
/* The agent takes TTRPC_CALLS_MAX; some are the host's own. */
#define RELAY_CALLS_MAX (TTRPC_CALLS_MAX - 16)

struct relay_call;

struct relay_ops {
	/* Is this the VM? */
	bool (*is_mine)(void *ctx, const char *name);
	/*
	 * The connection to the agent; it stays the callee's. NULL with why there is none: "the VM
	 * has no agent: ...". The relay alone uses its ttrpc_client_when_drained().
	 */
	struct ttrpc_client *(*client)(void *ctx, struct err *err);
};

/* Zeroed but for `ops` and `ctx`: no calls. */
struct relay {
	const struct relay_ops *ops;
	void *ctx; /* for the ops */

	struct relay_call *calls;
	unsigned ncalls;
};

/* What the methods do, for GUESTS_METHODS(): the start by a function that finds the relay, the
 * others as they are. */
void relay_start(struct relay *relay, struct ttrpc_call *call, const ProtobufCMessage *request);
void relay_data(void *ctx, struct ttrpc_call *call, const ProtobufCMessage *message);
void relay_data_end(void *ctx, struct ttrpc_call *call);
void relay_cancelled(void *ctx, struct ttrpc_call *call);

/* Fails all calls with UNAVAILABLE. To be called before ttrpc_client_close() of the client; not
 * needed for a connection that ended by itself. */
void relay_end(struct relay *relay, const char *why);

#endif
