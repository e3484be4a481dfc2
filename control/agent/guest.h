/*
 * The agent in the guest of this process's VM: waited for, then one connection for all calls.
 *
 *   away --guest_attach--> awaited --"ready"--> connecting --> there --+
 *    ^                        ^                     |                  | the connection is lost:
 *    |                        +--- it cannot be ----+<-----------------+ the agent, or the guest,
 *    +-- guest_detach, from everywhere                                   has ended or starts anew
 *
 * What comes from the guest is hostile: texts of failed calls are to be cleaned (guest_clean_text)
 * before they are shown.
 *
 * Threads: the loop's.
 */
#ifndef CONTROL_AGENT_GUEST_H
#define CONTROL_AGENT_GUEST_H

#include "control/agent/connect.h"
#include "control/ttrpc/client.h"
#include "vmm/machine.h"

enum guest_state {
	GUEST_AWAY, /* no machine */
	GUEST_AWAITED,
	GUEST_CONNECTING,
	GUEST_THERE,
};

struct guest_callbacks {
	/* The agent takes calls, for the first time or again; may be NULL. */
	void (*ready)(void *ctx);
	/* guest_detach() is about to close the connection; may be NULL. */
	void (*leaving)(void *ctx);
	void *ctx;
};

struct guest {
	struct loop *loop;
	struct guest_callbacks callbacks;
	enum guest_state state;
	struct machine *machine;
	const char *token;
	struct agent_connect *connect; /* while connecting */
	struct ttrpc_client *client;   /* while there */
	struct loop_timer retry;
	bool retrying;
	void (*refused)(void *ctx); /* of guest_shutdown() */
	unsigned tries;		    /* since it said "ready", or was there */
};

void guest_init(struct guest *g, struct loop *loop, const struct guest_callbacks *callbacks);

/* The machine runs, or is about to. `token` outlives it; "": the agent wants none. */
void guest_attach(struct guest *g, struct machine *machine, const char *token);

/* A new one for machine_config.agent_token. */
int guest_make_token(char ret_token[33], struct err *err);

/* Before the machine is freed; calls under way are forgotten. Also when nothing is attached. */
void guest_detach(struct guest *g);

/* The guest has connected to READY_PORT: `fd` is taken over. For machine_callbacks. */
void guest_said_ready(struct guest *g, int fd);

/*
 * For calls of AGENT_SERVICE, and only until control returns to the loop. NULL: it is not there,
 * with the reason in `err` (EAGAIN: not yet).
 */
struct ttrpc_client *guest_client(struct guest *g, struct err *err);

/*
 * Asks the agent to shut the guest down. False: it is not there. `refused` is called where it does
 * not answer within 2 s, or cannot, unless guest_detach() comes before; ctx is that of the
 * callbacks.
 */
bool guest_shutdown(struct guest *g, void (*refused)(void *ctx));

/* Makes text that a guest has sent one line of printable ASCII, in place. */
void guest_clean_text(char *text);

#endif
