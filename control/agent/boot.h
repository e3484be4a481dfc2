/*
 * The guest's part of a start: its agent is waited for, then the interfaces get their addresses and
 * the disks are mounted that are to be, then the shares, one after the other in their order; then
 * termina's steps.
 *
 *   boot_begin --> the agent is awaited --boot_agent_ready--> interfaces --> disks --> shares -->
 * done |                                        |            |         |
 *                        +---- the time is over ------------------+------------+---------+--> done,
 *                                                                                          with why
 *
 * Threads: the loop's.
 */
#ifndef CONTROL_AGENT_BOOT_H
#define CONTROL_AGENT_BOOT_H

#include "control/agent/guest.h"
#include "control/agent/termina.h"
#include "control/share/share.h"

#define BOOT_TIMEOUT_MS 30000 /* where nobody says another */

struct boot {
	struct loop *loop;
	struct guest *guest; /* NULL: not begun, or over */
	const struct machine_config *config;
	unsigned timeout_ms;
	bool going;			/* the agent is there */
	unsigned net;			/* being configured; then */
	unsigned disk;			/* mounting; then */
	const struct shares *shares;	/* NULL: none */
	unsigned share;			/* likewise; then */
	bool share_awaited;		/* its server is not there yet */
	struct termina termina;		/* where the config says so */
	struct ttrpc_client_call *call; /* under way; NULL: none */
	struct loop_timer timer;
	void (*done)(void *ctx, const struct err *err);
	void *ctx;
};

/* Does the guest need an agent to be started as the config says? */
bool boot_wanted(const struct machine_config *config);

/*
 * `guest` is attached; its `ready` calls boot_agent_ready(). `done` is called once, from the loop,
 * unless boot_end() comes before: err->code 0, or a message that names what failed and why.
 */
void boot_begin(struct boot *b, struct loop *loop, struct guest *guest,
		const struct machine_config *config, const struct shares *shares,
		unsigned timeout_ms, void (*done)(void *ctx, const struct err *err), void *ctx);

/* Also when it is over, or was never begun. */
void boot_agent_ready(struct boot *b);

/* As boot_agent_ready(): shares_state() may have changed. */
void boot_shares_changed(struct boot *b);

/* Zeroed, begun or over. Before guest_detach(). */
void boot_end(struct boot *b);

#endif
