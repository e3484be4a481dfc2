/* See pool.h. */
#include "control/network/pool.h"

#include "base/checked.h"
#include "base/netlink.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SUBNET_PREFIX 30
#define SUBNET_BYTES  4u
#define HOST_OFFSET   1
#define GUEST_OFFSET  2

/* Octets of the default pool that are VMs'. */
#define DEFAULT_FIRST 4
#define DEFAULT_END   128

/* The part of it that is containers'. */
#define CONTAINERS_FIRST (NET_POOL_DEFAULT + 192)
#define CONTAINERS_BYTES (1u << (32 - NET_CONTAINERS_PREFIX))
#define CONTAINERS_COUNT 4u

#define TAKEN_MAX 1024 /* addresses of the host within the pool */

struct pool {
	uint32_t first, end; /* first address of the first /30, and behind the last */
	unsigned ntaken;
	struct {
		uint32_t first, last;
	} taken[TAKEN_MAX];
};

static uint32_t mask_of(unsigned prefix)
{
	return prefix ? UINT32_MAX << (32 - prefix) : 0;
}

static void take_note(void *ctx, const struct net_address *a)
{
	struct pool *p = ctx;
	uint32_t address, mask;

	if (a->family != AF_INET || p->ntaken == TAKEN_MAX)
		return;
	memcpy(&address, a->bytes, sizeof(address));
	address = ntohl(address);
	mask = mask_of(a->prefix_bits);
	if ((address | ~mask) < p->first || (p->end && (address & mask) >= p->end))
		return;
	p->taken[p->ntaken].first = address & mask;
	p->taken[p->ntaken++].last = address | ~mask;
}

static bool overlaps(const struct pool *p, uint32_t subnet, uint32_t bytes)
{
	for (unsigned i = 0; i < p->ntaken; i++) {
		if (subnet <= p->taken[i].last && subnet + bytes - 1 >= p->taken[i].first)
			return true;
	}
	return false;
}

static void lay_out(struct pool *p, uint32_t address, unsigned prefix)
{
	p->first = address & mask_of(prefix);
	p->end = (address | ~mask_of(prefix)) + 1; /* 0 for the last of all */
	if (p->first == NET_POOL_DEFAULT && prefix == NET_POOL_PREFIX) {
		p->end = p->first + DEFAULT_END;
		p->first += DEFAULT_FIRST;
	}
}

/* 1: somebody else has it. */
static int try_one(struct machine_net *net, uint32_t subnet, struct tap *ret_tap, struct err *err)
{
	struct err why = ERR_INIT;
	char name[IFNAMSIZ];
	int res;

	snprintf(name, sizeof(name), "lodge-%08x", subnet + HOST_OFFSET);
	res = tap_open(name, net->queues ? net->queues : 1, true, ret_tap, &why);
	if (res == -EBUSY)
		return 1;
	if (res)
		return err_set(err, why.code, "%s", why.msg);
	net->addresses.gateway = subnet + HOST_OFFSET;
	net->addresses.guest = subnet + GUEST_OFFSET;
	net->addresses.prefix = SUBNET_PREFIX;
	return 0;
}

static int pool_search(struct pool *p, struct machine_net *net, struct tap *ret_tap,
		       struct err *err)
{
	const uint32_t address = net->pool ? net->pool : NET_POOL_DEFAULT;
	const unsigned prefix = net->pool ? net->pool_prefix : NET_POOL_PREFIX;
	struct netlink nl;
	int res = netlink_open(&nl);

	lay_out(p, address, prefix);
	if (!res) {
		res = netlink_addresses(&nl, 0, take_note, p);
		netlink_close(&nl);
	}
	if (res)
		return err_sys(err, -res, "network: the host's addresses");
	for (uint32_t subnet = p->first; subnet != p->end; subnet += SUBNET_BYTES) {
		res = overlaps(p, subnet, SUBNET_BYTES) ? 1 : try_one(net, subnet, ret_tap, err);
		if (res <= 0)
			return res;
	}
	return err_set(
	    err, EBUSY,
	    "network: all %u subnets of the pool %u.%u.%u.%u/%u are in use; stop a VM, or name "
	    "a larger pool (subnets=)",
	    (p->end - p->first) / SUBNET_BYTES, address >> 24, address >> 16 & 0xff,
	    address >> 8 & 0xff, address & 0xff, prefix);
}

int pool_take(struct machine_net *net, struct tap *ret_tap, struct err *err)
{
	struct pool *p = calloc(1, sizeof(*p));
	int res;

	if (!p)
		return err_set(err, ENOMEM, "network: out of memory");
	res = pool_search(p, net, ret_tap, err);
	free(p);
	return res;
}

/* ---- containers ---- */

static struct net_address ipv4(uint32_t address, unsigned prefix)
{
	struct net_address a = {.family = AF_INET, .prefix_bits = prefix};

	address = htonl(address);
	memcpy(a.bytes, &address, sizeof(address));
	return a;
}

static int containers_search(struct netlink *nl, struct pool *p, struct machine_net *net, int index,
			     struct err *err)
{
	const struct net_address guest = ipv4(net->addresses.guest, 32);
	int res;

	p->first = CONTAINERS_FIRST;
	p->end = CONTAINERS_FIRST + CONTAINERS_COUNT * CONTAINERS_BYTES;
	res = netlink_addresses(nl, 0, take_note, p);
	for (uint32_t subnet = p->first; subnet != p->end && !res; subnet += CONTAINERS_BYTES) {
		const struct net_address to = ipv4(subnet, NET_CONTAINERS_PREFIX);

		if (overlaps(p, subnet, CONTAINERS_BYTES))
			continue;
		res = netlink_route_new(nl, index, &to, &guest);
		if (!res) {
			net->addresses.containers = subnet;
			return 0;
		}
		if (res == -EEXIST)
			res = 0;
	}
	if (res)
		return err_sys(err, -res, "network: routing a network of containers");
	return err_set(
	    err, EBUSY,
	    "network: all %u networks for containers (/%d, from 100.115.92.192 on) are in "
	    "use; stop a VM that has containers",
	    CONTAINERS_COUNT, NET_CONTAINERS_PREFIX);
}

int pool_take_containers(struct machine_net *net, const struct tap *tap, struct err *err)
{
	struct pool *p = calloc(1, sizeof(*p));
	struct netlink nl;
	bool is_bridge;
	int index, res;

	if (!p)
		return err_set(err, ENOMEM, "network: out of memory");
	res = netlink_open(&nl);
	if (res) {
		free(p);
		return err_sys(err, -res, "network: rtnetlink");
	}
	res = netlink_link_find(&nl, tap->name, &index, &is_bridge);
	if (res)
		err_sys(err, -res, "network: tap %s", tap->name);
	else
		res = containers_search(&nl, p, net, index, err);
	netlink_close(&nl);
	free(p);
	return res;
}
