/*
 * Network interfaces by rtnetlink (rtnetlink(7)): as much as a host and its guest need to reach
 * each other.
 *
 * All calls block; each returns 0 or -errno as the kernel gives it. Threads: none of its own.
 */
#ifndef BASE_NETLINK_H
#define BASE_NETLINK_H

#include <stdbool.h>
#include <stdint.h>

struct net_address {
	int family; /* AF_INET, AF_INET6 */
	unsigned prefix_bits;
	uint8_t bytes[16];
};

struct netlink {
	int fd;
	uint32_t seq;
};

int netlink_open(struct netlink *nl);
void netlink_close(struct netlink *nl);

/* The interface's index, and whether it is a bridge. -ENODEV: there is none. */
int netlink_link_find(struct netlink *nl, const char *name, int *ret_index, bool *ret_is_bridge);

/* What an interface has counted; all its own view. */
struct netlink_counters {
	uint64_t rx_packets, rx_bytes, rx_dropped;
	uint64_t tx_packets, tx_bytes, tx_dropped;
};
int netlink_link_counters(struct netlink *nl, int index, struct netlink_counters *ret_counters);

/* Up; its MTU, and the bridge that it is a port of, unless 0. */
int netlink_link_up(struct netlink *nl, int index, unsigned mtu, int bridge);

int netlink_address_add(struct netlink *nl, int index, const struct net_address *address);
int netlink_address_delete(struct netlink *nl, int index, const struct net_address *address);

/* Calls `found` for each address of the interface whose scope is wider than the link; `index` 0:
 * for each of any interface and scope. */
int netlink_addresses(struct netlink *nl, int index,
		      void (*found)(void *ctx, const struct net_address *address), void *ctx);

/* The default route of the family goes by this gateway from now on. */
int netlink_default_route(struct netlink *nl, int index, const struct net_address *gateway);

/* A route to the network `to` by this gateway. -EEXIST: there is a route to just that network. The
 * kernel removes it with the interface. */
int netlink_route_new(struct netlink *nl, int index, const struct net_address *to,
		      const struct net_address *gateway);

#endif
