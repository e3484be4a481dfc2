/*
 * Network interfaces by rtnetlink (rtnetlink(7)): as much as a guest needs to be reached.
 *
 * All calls block; each returns 0 or -errno as the kernel gives it. Threads: none of its own.
 */
#ifndef GUEST_AGENT_NETLINK_H
#define GUEST_AGENT_NETLINK_H

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

/* Up, and its MTU unless 0. */
int netlink_link_up(struct netlink *nl, int index, unsigned mtu);

int netlink_address_add(struct netlink *nl, int index, const struct net_address *address);
int netlink_address_delete(struct netlink *nl, int index, const struct net_address *address);

/* Calls `found` for each address of the interface whose scope is wider than the link. */
int netlink_addresses(struct netlink *nl, int index,
		      void (*found)(void *ctx, const struct net_address *address), void *ctx);

/* The default route of the family goes by this gateway from now on. */
int netlink_default_route(struct netlink *nl, int index, const struct net_address *gateway);

#endif
