/*
 * What a termina VM needs beyond a start: LXD, with its data on the stateful disk, which boot.h has
 * mounted on /mnt/stateful, and the containers' network.
 *
 *   begin --> lxd is started --> it answers --> preseeded? --no--> preseed, note that it is done
 *                                                  |                            |
 *                                                 yes --> lxdbr0's address ------+--> done
 *
 * The preseed is made once: a pool on btrfs, the bridge lxdbr0, and the default profile are the
 * guest's from then on. That it is done is noted in LXD's own configuration (user.lodge.preseed).
 *
 * Programs of the guest do each step, by its agent; what one that failed has said last is in the
 * message. There is no time limit here but the start's.
 *
 * Threads: the loop's.
 */
#ifndef CONTROL_AGENT_TERMINA_H
#define CONTROL_AGENT_TERMINA_H

#include "control/agent/guest.h"

#define TERMINA_STATEFUL   "/mnt/stateful"
#define TERMINA_TIMEOUT_MS 120000 /* of a start, where nobody says another */

#define TERMINA_SAID_MAX 256 /* bytes of a program's last line */

struct termina {
	struct loop *loop;
	struct guest *guest; /* NULL: not begun, or over */
	unsigned step;
	uint32_t containers;		/* the network, host order */
	struct ttrpc_client_call *call; /* under way; NULL: none */
	struct loop_timer again;
	uint32_t lxd_pid;
	bool exited; /* the program has */
	unsigned status, signal;
	char out[TERMINA_SAID_MAX], said[TERMINA_SAID_MAX]; /* the ends of its output, and errors */
	size_t out_len, said_len;
	void (*done)(void *ctx, const struct err *err);
	void *ctx;
};

/* `containers` is the network of NET_CONTAINERS_PREFIX, host order. `done` as of boot_begin(). */
void termina_begin(struct termina *t, struct loop *loop, struct guest *guest, uint32_t containers,
		   void (*done)(void *ctx, const struct err *err), void *ctx);

/* What it is at, for a message: "starting LXD". */
const char *termina_step(const struct termina *t);

/* Zeroed, begun or over. Before guest_detach(). */
void termina_end(struct termina *t);

#endif
