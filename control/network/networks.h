/* The host's side of all interfaces of a machine. See control/network/network.h. */
#ifndef CONTROL_NETWORK_NETWORKS_H
#define CONTROL_NETWORK_NETWORKS_H

#include "control/network/network.h"
#include "vmm/machine.h"

struct networks {
	struct network *list[MACHINE_NETS_MAX];
	struct networks_link {
		struct machine *machine;
		unsigned index;
		bool unplugged; /* by networks_set_link() */
		bool broken;	/* the host's part is missing */
	} links[MACHINE_NETS_MAX];
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
/* With the machine started, on the control loop's thread: the host's side is watched from now on,
 * and what ends of it is started again, which the machine's links show. */
void networks_watch(struct networks *networks, struct machine *machine, struct loop *loop);

/* The guest's end of interface `n`, as of a cable; below machine_config.nnets. */
void networks_set_link(struct networks *networks, unsigned n, bool up);

/* What has passed interface `n`; 0 where nobody counts. As machine_net_stats(). */
void networks_stats(const struct networks *networks, unsigned n,
		    struct virtio_net_stats *ret_stats);
/* The name of its tap on the host; "": none. */
const char *networks_tap(const struct networks *networks, unsigned n);

/* After the machine; of one that was never opened, all zero, as well. */
void networks_free(struct networks *networks);

#endif
