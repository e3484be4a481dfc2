/*
 * The host's side of a machine's interface: its tap and address, translation, forwarded ports, or a
 * passt(1).
 *
 * pool: tap "lodge-XXXXXXXX" (the host's address of the /30, in hex), made exclusively: who has the
 * tap has the subnet. It goes with its last descriptor, so with the process.
 *
 * nat, forward, and the guard against spoofing where vhost moves the packets: tables of nftables
 * that their owner takes along; nft(8) holds them, and ends with our end of its socket, so with the
 * process.
 *
 * passt: a process at the other end of a socket, which ends with that.
 *
 * So nothing is left however this process ends, also by SIGKILL, and nothing has to be cleaned up
 * by another. Should nft or passt end before, it is started again, and until then the guest's link
 * is down: what is not translated or guarded does not leave.
 *
 * Threads: any, one at a time.
 */
#ifndef CONTROL_NETWORK_NETWORK_H
#define CONTROL_NETWORK_NETWORK_H

#include "base/err.h"
#include "base/loop.h"
#include "devices/virtio/net.h"
#include "vmm/config.h"

/* What is open of the host, beside the tap; lives as long as the machine. */
struct network;

/*
 * Opens what net->kind says and fills net->tap, net->addresses, net->mac (where they are 0) and
 * net->kind (of NET_AUTO). Needs CAP_NET_ADMIN for all but NET_FD, NET_PASST and a NET_TAP that is
 * there and this user's. *ret_network is to be freed after the machine; NULL where nothing is
 * needed. On failure nothing is left: -EPERM, -EBUSY (the pool is exhausted, the tap is used),
 * -ENOENT (no such bridge, no passt or nft), -EINVAL; the message names the thing and the cure.
 */
int network_open(struct machine_net *net, struct network **ret_network, struct err *err);
/* NULL is accepted. Of one that is watched, what the loop still has is freed when it lets go. */
void network_free(struct network *network);

struct network_events {
	/* What the host does for the guest's packets is there, or not. */
	void (*whole)(void *ctx, bool whole);
	/* Another passt: a stream socket, the callee's. */
	void (*reconnect)(void *ctx, int fd);
	void *ctx;
};

/* Watches nft and passt, from now until network_free(), on the loop's thread. `events` is copied.
 */
void network_watch(struct network *network, struct loop *loop, const struct network_events *events);

/* What the host's kernel has counted at the tap, seen from the guest, into *stats; nothing, where
 * it cannot be asked. The loop's thread. */
void network_stats(struct network *network, struct virtio_net_stats *stats);

const char *network_tap(const struct network *network); /* its name; "": none */

#endif
