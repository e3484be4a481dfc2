/*
 * A passt(1): the guest's packets become sockets of an ordinary process, so that nobody has to
 * configure anything. It ends when our end of the socket is closed, also by SIGKILL of this
 * process; started as root it is nobody. IPv4 alone: what is configured is.
 *
 * The guest does not reach the host's own 127.0.0.1 (--no-map-gw).
 *
 * Threads: any.
 */
#ifndef CONTROL_NETWORK_PASST_H
#define CONTROL_NETWORK_PASST_H

#include "base/err.h"
#include "control/child/child.h"
#include "vmm/config.h"

/*
 * Starts one with net's MAC, MTU and forwards. What is 0 of *addresses is chosen: the second
 * address of the default pool, the first of the guest's network that is not its own as the gateway;
 * DNS by resolv_read(). The guest is to be configured with them; it gets the same by DHCP. passt
 * answers already when this returns.
 *
 * ret_child->fd: a stream socket; each frame behind its length (4 bytes, big endian), as of QEMU's
 * -netdev stream. It has ended when read(2) says so, and is started again the same, see child.h.
 *
 * -ENOENT: no passt; -EIO: what it said (no default route, a port is taken). Waits up to 10 s.
 */
int passt_open(const struct machine_net *net, struct net_addresses *addresses,
	       struct child *ret_child, struct err *err);

/* Is it what passt says at every start, where there is no syslog or it was root? */
bool passt_is_noise(const char *line);

#endif
