/*
 * The agent's part of `lodge run`: mounts when the guest starts and, for --exec, calls into the
 * guest from the process at the other end of a socket.
 *
 * Life: init -> begin -> end -> loop_free() -> free. Zeroed: nothing to be ended or freed.
 *
 * Threads: the loop's.
 */
#ifndef CONTROL_RUN_GUEST_H
#define CONTROL_RUN_GUEST_H

#include "control/agent/boot.h"
#include "control/agent/relay.h"

struct run_guest_callbacks {
	/* The agent is not ready in time, or a disk is not mounted. */
	void (*failed)(void *ctx, const struct err *err);
	/* The other process has closed the socket. */
	void (*over)(void *ctx);
	void *ctx;
};

struct run_guest {
	struct loop *loop;
	struct run_guest_callbacks callbacks;
	struct guest guest;
	struct boot boot;
	struct relay relay;
	struct ttrpc_server *server; /* NULL: not yet, or no --exec */
	struct loop_op watch;	     /* for the other process's end, until it is served */
	bool watching;
	int fd; /* not served yet; -1: none */
	void (*refused)(void *ctx);
};

void run_guest_init(struct run_guest *g, struct loop *loop,
		    const struct run_guest_callbacks *callbacks);

/* The machine is about to start. `fd` is taken over: it gets a byte when calls are taken; -1: none.
 */
void run_guest_begin(struct run_guest *g, struct machine *machine,
		     const struct machine_config *config, const struct shares *shares,
		     unsigned timeout_ms, int fd);
/* shares_state() may have changed. */
void run_guest_shares_changed(struct run_guest *g);

/* As guest_shutdown(), with the ctx of the callbacks. */
bool run_guest_shutdown(struct run_guest *g, void (*refused)(void *ctx));

/* Before machine_free(). */
void run_guest_end(struct run_guest *g);
void run_guest_free(struct run_guest *g);

#endif
