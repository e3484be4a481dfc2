/* The host's side of all interfaces of a machine. See control/network/network.h. */
#ifndef CONTROL_NETWORK_NETWORKS_H
#define CONTROL_NETWORK_NETWORKS_H

#include "control/network/network.h"

struct networks {
	struct network *list[MACHINE_NETS_MAX];
};

/* `as_host`, optional, as of struct machine_callbacks: around what is the host's to give (pool,
 * passt), and not around what the caller names. */
struct networks_rights {
	int (*as_host)(void *ctx, bool on, struct err *err);
	void *ctx;
};

/* Before machine_new(). On failure nothing is left open. */
int networks_open(struct networks *networks, struct machine_config *config,
		  const struct networks_rights *rights, struct err *err);
/* After the machine; of one that was never opened, all zero, as well. */
void networks_free(struct networks *networks);

#endif
