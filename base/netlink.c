/* rtnetlink. See base/netlink.h. */
#include "base/netlink.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define ANSWER_S 5

struct request {
	struct nlmsghdr h;
	union {
		struct ifinfomsg link;
		struct ifaddrmsg address;
		struct rtmsg route;
	};
	uint8_t attributes[128];
};

int netlink_open(struct netlink *nl)
{
	struct timeval timeout = {.tv_sec = ANSWER_S};

	nl->seq = 0;
	nl->fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (nl->fd < 0)
		return -errno;
	setsockopt(nl->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	return 0;
}

void netlink_close(struct netlink *nl)
{
	close(nl->fd);
}

static void begin(struct request *r, int type, unsigned flags, size_t body_bytes)
{
	memset(r, 0, sizeof(*r));
	r->h.nlmsg_len = NLMSG_LENGTH(body_bytes);
	r->h.nlmsg_type = (uint16_t)type;
	r->h.nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
}

/* What is added fits: at most three attributes of 16 bytes. */
static void add(struct request *r, int type, const void *data, size_t len)
{
	struct rtattr *a = (struct rtattr *)((uint8_t *)r + NLMSG_ALIGN(r->h.nlmsg_len));

	a->rta_type = (unsigned short)type;
	a->rta_len = (unsigned short)RTA_LENGTH(len);
	memcpy(RTA_DATA(a), data, len);
	r->h.nlmsg_len = NLMSG_ALIGN(r->h.nlmsg_len) + (uint32_t)RTA_SPACE(len);
}

/* One message of an answer. 1: go on; 0: the end; -errno. */
typedef int take_fn(const struct nlmsghdr *h, void *ctx);

static int take_answer(struct netlink *nl, const struct nlmsghdr *h, size_t left, take_fn *take,
		       void *ctx)
{
	for (; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
		if (h->nlmsg_seq != nl->seq)
			continue;
		if (h->nlmsg_type == NLMSG_DONE)
			return 0;
		if (h->nlmsg_type == NLMSG_ERROR)
			return ((const struct nlmsgerr *)NLMSG_DATA(h))->error;
		if (take)
			take(h, ctx);
	}
	return 1;
}

static int transact(struct netlink *nl, struct request *r, take_fn *take, void *ctx)
{
	_Alignas(struct nlmsghdr) uint8_t answer[8192];
	int res = 1;

	r->h.nlmsg_seq = ++nl->seq;
	if (!take)
		r->h.nlmsg_flags |= NLM_F_ACK;
	if (send(nl->fd, r, r->h.nlmsg_len, 0) < 0)
		return -errno;
	while (res > 0) {
		ssize_t n = recv(nl->fd, answer, sizeof(answer), 0);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0)
			res =
			    take_answer(nl, (const struct nlmsghdr *)answer, (size_t)n, take, ctx);
	}
	return res;
}

/* ---- interfaces ---- */

struct found_link {
	int index;
	bool is_bridge;
};

static bool is_bridge(const struct rtattr *info)
{
	size_t left = RTA_PAYLOAD(info);

	for (const struct rtattr *at = RTA_DATA(info); RTA_OK(at, left); at = RTA_NEXT(at, left)) {
		if (at->rta_type == IFLA_INFO_KIND)
			return !strncmp(RTA_DATA(at), "bridge", RTA_PAYLOAD(at));
	}
	return false;
}

static int take_link(const struct nlmsghdr *h, void *ctx)
{
	const struct ifinfomsg *m = NLMSG_DATA(h);
	struct found_link *l = ctx;
	size_t left = IFLA_PAYLOAD(h);

	if (h->nlmsg_type != RTM_NEWLINK)
		return 1;
	l->index = m->ifi_index;
	for (const struct rtattr *at = IFLA_RTA(m); RTA_OK(at, left); at = RTA_NEXT(at, left)) {
		if (at->rta_type == IFLA_LINKINFO)
			l->is_bridge = is_bridge(at);
	}
	return 1;
}

int netlink_link_find(struct netlink *nl, const char *name, int *ret_index, bool *ret_is_bridge)
{
	char whole[IFNAMSIZ] = "";
	struct found_link found = {0};
	struct request r;
	int res;

	if (snprintf(whole, sizeof(whole), "%s", name) >= (int)sizeof(whole))
		return -ENODEV;
	begin(&r, RTM_GETLINK, NLM_F_ACK, sizeof(r.link));
	r.link.ifi_family = AF_UNSPEC;
	add(&r, IFLA_IFNAME, whole, strlen(whole) + 1);
	res = transact(nl, &r, take_link, &found);
	*ret_index = found.index;
	*ret_is_bridge = found.is_bridge;
	return !res && !found.index ? -ENODEV : res;
}

static int take_counters(const struct nlmsghdr *h, void *ctx)
{
	const struct ifinfomsg *m = NLMSG_DATA(h);
	struct netlink_counters *c = ctx;
	struct rtnl_link_stats64 s = {0};
	size_t left = IFLA_PAYLOAD(h);

	if (h->nlmsg_type != RTM_NEWLINK)
		return 1;
	for (const struct rtattr *at = IFLA_RTA(m); RTA_OK(at, left); at = RTA_NEXT(at, left)) {
		const size_t n = RTA_PAYLOAD(at);

		if (at->rta_type == IFLA_STATS64) /* which grows with the kernel */
			memcpy(&s, RTA_DATA(at), n < sizeof(s) ? n : sizeof(s));
	}
	*c = (struct netlink_counters){
	    .rx_packets = s.rx_packets,
	    .rx_bytes = s.rx_bytes,
	    .rx_dropped = s.rx_dropped,
	    .tx_packets = s.tx_packets,
	    .tx_bytes = s.tx_bytes,
	    .tx_dropped = s.tx_dropped,
	};
	return 1;
}

int netlink_link_counters(struct netlink *nl, int index, struct netlink_counters *ret_counters)
{
	struct request r;

	begin(&r, RTM_GETLINK, NLM_F_ACK, sizeof(r.link));
	r.link.ifi_family = AF_UNSPEC;
	r.link.ifi_index = index;
	return transact(nl, &r, take_counters, ret_counters);
}

int netlink_link_up(struct netlink *nl, int index, unsigned mtu, int bridge)
{
	struct request r;

	begin(&r, RTM_NEWLINK, 0, sizeof(r.link));
	r.link.ifi_family = AF_UNSPEC;
	r.link.ifi_index = index;
	r.link.ifi_flags = IFF_UP;
	r.link.ifi_change = IFF_UP;
	if (mtu)
		add(&r, IFLA_MTU, &mtu, sizeof(mtu));
	if (bridge)
		add(&r, IFLA_MASTER, &bridge, sizeof(bridge));
	return transact(nl, &r, NULL, NULL);
}

/* ---- addresses and routes ---- */

static size_t address_bytes(const struct net_address *a)
{
	return a->family == AF_INET ? 4 : 16;
}

static int change_address(struct netlink *nl, int type, unsigned flags, int index,
			  const struct net_address *a)
{
	struct request r;

	begin(&r, type, flags, sizeof(r.address));
	r.address.ifa_family = (uint8_t)a->family;
	r.address.ifa_prefixlen = (uint8_t)a->prefix_bits;
	r.address.ifa_index = (unsigned)index;
	if (a->family == AF_INET6)
		r.address.ifa_flags = IFA_F_NODAD; /* the host gave it: nobody else has it */
	add(&r, IFA_LOCAL, a->bytes, address_bytes(a));
	add(&r, IFA_ADDRESS, a->bytes, address_bytes(a));
	return transact(nl, &r, NULL, NULL);
}

int netlink_address_add(struct netlink *nl, int index, const struct net_address *address)
{
	return change_address(nl, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, index, address);
}

int netlink_address_delete(struct netlink *nl, int index, const struct net_address *address)
{
	return change_address(nl, RTM_DELADDR, 0, index, address);
}

struct listing {
	int index;
	void (*found)(void *ctx, const struct net_address *address);
	void *ctx;
};

static int take_address(const struct nlmsghdr *h, void *ctx)
{
	const struct listing *l = ctx;
	const struct ifaddrmsg *m = NLMSG_DATA(h);
	size_t left = IFA_PAYLOAD(h);
	const uint8_t *bytes = NULL;
	struct net_address a = {.family = m->ifa_family, .prefix_bits = m->ifa_prefixlen};

	if (h->nlmsg_type != RTM_NEWADDR ||
	    (l->index && ((int)m->ifa_index != l->index || m->ifa_scope >= RT_SCOPE_LINK)) ||
	    (a.family != AF_INET && a.family != AF_INET6))
		return 1;
	for (const struct rtattr *at = IFA_RTA(m); RTA_OK(at, left); at = RTA_NEXT(at, left)) {
		if (RTA_PAYLOAD(at) < address_bytes(&a))
			continue;
		if (at->rta_type == IFA_LOCAL || (at->rta_type == IFA_ADDRESS && !bytes))
			bytes = RTA_DATA(at);
	}
	if (!bytes)
		return 1;
	memcpy(a.bytes, bytes, address_bytes(&a));
	l->found(l->ctx, &a);
	return 1;
}

int netlink_addresses(struct netlink *nl, int index,
		      void (*found)(void *ctx, const struct net_address *address), void *ctx)
{
	struct listing listing = {index, found, ctx};
	struct request r;

	begin(&r, RTM_GETADDR, NLM_F_DUMP, sizeof(r.address));
	r.address.ifa_family = AF_UNSPEC;
	return transact(nl, &r, take_address, &listing);
}

static void begin_route(struct request *r, unsigned flags, int index,
			const struct net_address *gateway)
{
	begin(r, RTM_NEWROUTE, NLM_F_CREATE | flags, sizeof(r->route));
	r->route.rtm_family = (uint8_t)gateway->family;
	r->route.rtm_table = RT_TABLE_MAIN;
	r->route.rtm_protocol = RTPROT_STATIC;
	r->route.rtm_scope = RT_SCOPE_UNIVERSE;
	r->route.rtm_type = RTN_UNICAST;
	add(r, RTA_GATEWAY, gateway->bytes, address_bytes(gateway));
	add(r, RTA_OIF, &index, sizeof(index));
}

int netlink_default_route(struct netlink *nl, int index, const struct net_address *gateway)
{
	struct request r;

	begin_route(&r, NLM_F_REPLACE, index, gateway);
	return transact(nl, &r, NULL, NULL);
}

int netlink_route_new(struct netlink *nl, int index, const struct net_address *to,
		      const struct net_address *gateway)
{
	struct request r;

	begin_route(&r, NLM_F_EXCL, index, gateway);
	r.route.rtm_dst_len = (uint8_t)to->prefix_bits;
	add(&r, RTA_DST, to->bytes, address_bytes(to));
	return transact(nl, &r, NULL, NULL);
}
