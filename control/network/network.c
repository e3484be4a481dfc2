/* See network.h. */
#include "control/network/network.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/netlink.h"
#include "control/child/child.h"
#include "control/child/watch.h"
#include "control/network/passt.h"
#include "control/network/pool.h"
#include "control/network/resolv.h"
#include "control/network/rules.h"
#include "devices/virtio/vhost_net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#define NFS_PORT   2049
#define NAME_TRIES 16 /* for a tap of a bridge */
#define WORDS_MAX  2048

struct network {
	struct tap tap;
	struct rules *rules;  /* NULL: none */
	struct child passt;   /* its `fd` is the tap's */
	struct netlink stats; /* fd -1: none */
	int index;	      /* of the tap, for it */

	struct network_events events;
	struct child_watch watch;
	bool whole; /* as was told last */
};

/* ---- the guest's hardware address: locally administered, and no group's ---- */

static int random_bytes(void *buf, size_t n, struct err *err)
{
	return getrandom(buf, n, 0) == (ssize_t)n ? 0
						  : err_sys(err, errno, "network: random numbers");
}

/* From the guest's address where the host chose it, so that it is the same for the same address. */
static int make_mac(struct machine_net *net, struct err *err)
{
	static const uint8_t none[6];
	const uint32_t a = net->addresses.guest;
	int res;

	if (memcmp(net->mac, none, sizeof(none)) != 0)
		return 0;
	if (net->kind == NET_POOL) {
		const uint8_t mac[6] = {
		    2, 0, (uint8_t)(a >> 24), (uint8_t)(a >> 16), (uint8_t)(a >> 8), (uint8_t)a};

		memcpy(net->mac, mac, sizeof(mac));
		return 0;
	}
	res = random_bytes(net->mac, sizeof(net->mac), err);
	net->mac[0] = (uint8_t)((net->mac[0] & 0xfc) | 2);
	return res;
}

/* ---- the host's interfaces ---- */

static int find(struct netlink *nl, const char *name, int *ret_index, bool *ret_is_bridge,
		struct err *err)
{
	int res = netlink_link_find(nl, name, ret_index, ret_is_bridge);

	if (res == -ENODEV)
		return err_set(err, ENOENT, "network: there is no interface %s", name);
	return res ? err_sys(err, -res, "network: interface %s", name) : 0;
}

/* The tap gets an address (0: none) and a bridge (0: none), and is set up. */
static int set_up(struct netlink *nl, const struct machine_net *net, const struct tap *tap,
		  uint32_t address, int bridge, struct err *err)
{
	struct net_address a = {.family = AF_INET, .prefix_bits = net->addresses.prefix};
	int index, res;
	bool is_bridge;

	address = htonl(address);
	memcpy(a.bytes, &address, sizeof(address));
	res = netlink_link_find(nl, tap->name, &index, &is_bridge);
	if (!res && address)
		res = netlink_address_add(nl, index, &a);
	if (!res)
		res = netlink_link_up(nl, index, net->mtu, bridge);
	return res ? err_sys(err, -res, "network: tap %s cannot be set up", tap->name) : 0;
}

/* ---- kinds ---- */

/* Ports at the host's end that nothing listens at: 2049 and those behind it, or any. */
static int choose_port(const struct machine_net *net, unsigned n, uint16_t *ret_port)
{
	struct sockaddr_in at = {.sin_family = AF_INET,
				 .sin_port = htons((uint16_t)(NFS_PORT + n)),
				 .sin_addr.s_addr = htonl(net->addresses.gateway)};
	autofd int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof(at);

	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&at, sizeof(at))) {
		at.sin_port = 0;
		if (errno != EADDRINUSE || bind(fd, (struct sockaddr *)&at, sizeof(at)))
			return -errno;
	}
	if (getsockname(fd, (struct sockaddr *)&at, &len))
		return -errno;
	*ret_port = ntohs(at.sin_port);
	return 0;
}

static int choose_ports(struct machine_net *net, struct err *err)
{
	for (unsigned i = 0; i < net->nshare_ports; i++) {
		int res = choose_port(net, i, &net->share_ports[i]);

		if (res)
			return err_sys(err, -res, "network: a port for shares");
	}
	return 0;
}

static int open_pool(struct network *n, struct netlink *nl, struct machine_net *net,
		     struct err *err)
{
	int res = pool_take(net, &n->tap, err);

	if (!res)
		res = set_up(nl, net, &n->tap, net->addresses.gateway, 0, err);
	if (!res)
		res = choose_ports(net, err);
	return res || !net->with_containers ? res : pool_take_containers(net, &n->tap, err);
}

/* One of a name that nothing has. */
static int open_any_tap(struct network *n, const struct machine_net *net, struct err *err)
{
	int res = -EBUSY;

	for (unsigned i = 0; i < NAME_TRIES && res == -EBUSY; i++) {
		char name[IFNAMSIZ];
		uint32_t number;

		res = random_bytes(&number, sizeof(number), err);
		if (res)
			return res;
		snprintf(name, sizeof(name), "lodge%08x", number);
		*err = (struct err)ERR_INIT;
		res = tap_open(name, net->queues ? net->queues : 1, true, &n->tap, err);
	}
	return res;
}

static int open_bridge(struct network *n, struct netlink *nl, const struct machine_net *net,
		       struct err *err)
{
	bool is_bridge;
	int bridge, res = find(nl, net->name, &bridge, &is_bridge, err);

	if (!res && !is_bridge)
		return err_set(err, EINVAL,
			       "network: %s is no bridge; make one: ip link add NAME type bridge",
			       net->name);
	if (!res)
		res = open_any_tap(n, net, err);
	return res ? res : set_up(nl, net, &n->tap, 0, bridge, err);
}

/* One that was there is as its owner wants it. */
static int open_tap(struct network *n, struct netlink *nl, const struct machine_net *net,
		    struct err *err)
{
	struct err none = ERR_INIT;
	int index, res;
	bool is_bridge, was_there = !find(nl, net->name, &index, &is_bridge, &none);

	res = tap_open(net->name, net->queues ? net->queues : 1, false, &n->tap, err);
	return res || was_there ? res : set_up(nl, net, &n->tap, 0, 0, err);
}

static int open_fd(struct network *n, const struct machine_net *net, struct err *err)
{
	autofd int fd = fcntl(net->fd, F_DUPFD_CLOEXEC, 0);
	int res;

	if (fd < 0)
		return err_sys(err, errno, "network: fd %d", net->fd);
	res = tap_adopt(fd, &n->tap, err);
	if (!res)
		(void)steal_fd(&fd); /* the tap's */
	return res;
}

static int open_passt(struct network *n, struct machine_net *net, struct err *err)
{
	int res = make_mac(net, err);

	if (!res)
		res = passt_open(net, &net->addresses, &n->passt, err);
	if (!res)
		res = tap_adopt_stream(n->passt.fd, &n->tap, err);
	if (!res)
		(void)steal_fd(&n->passt.fd); /* the tap's */
	return res;
}

/* For network_stats(), once this process may open nothing any more. */
static void open_stats(struct network *n)
{
	bool is_bridge;

	if (netlink_open(&n->stats)) {
		n->stats.fd = -1;
	} else if (netlink_link_find(&n->stats, n->tap.name, &n->index, &is_bridge)) {
		netlink_close(&n->stats);
		n->stats.fd = -1;
	}
}

static int open_kind(struct network *n, struct netlink *nl, struct machine_net *net,
		     struct err *err)
{
	switch (net->kind) {
	case NET_POOL:
		return open_pool(n, nl, net, err);
	case NET_TAP:
		return open_tap(n, nl, net, err);
	case NET_BRIDGE:
		return open_bridge(n, nl, net, err);
	case NET_FD:
		return open_fd(n, net, err);
	default:
		return open_passt(n, net, err);
	}
}

/* A pool's tap, or, where this process may not make one, passt. To try is the only way to know: in
 * a user namespace there are rights that are none. */
static int open_auto(struct network *n, struct netlink *nl, struct machine_net *net,
		     struct err *err)
{
	const struct net_addresses wished = net->addresses;
	struct err why = ERR_INIT;
	int res;

	net->kind = NET_POOL;
	res = open_kind(n, nl, net, &why);
	if (res != -EPERM && res != -EACCES && res != -ENOENT)
		return res ? err_set(err, why.code, "%s", why.msg) : 0;
	log_info("%s; so it is passt", why.msg);
	tap_close(&n->tap);
	net->addresses = wished;
	net->kind = NET_PASST;
	return open_kind(n, nl, net, err);
}

/* ---- rules ---- */

/* Would the host's kernel move the packets, if nothing of ours had to look at each? */
static bool wants_guard(const struct machine_net *net, const struct tap *tap)
{
	return !net->may_spoof && net->backend != NET_BACKEND_BUILTIN && !tap->socket &&
	       !net->rx_bytes_per_s && !net->rx_packets_per_s && !net->tx_bytes_per_s &&
	       !net->tx_packets_per_s && !access(VHOST_NET_DEVICE, F_OK);
}

static int open_rules(struct network *n, struct machine_net *net, struct err *err)
{
	struct err why = ERR_INIT;

	if (net->kind == NET_PASST)
		return 0;
	if (wants_guard(net, &n->tap)) {
		net->guarded =
		    !rules_open(net, n->tap.name, net->addresses.gateway, true, &n->rules, &why);
		if (net->guarded)
			return 0;
		if (net->backend == NET_BACKEND_VHOST)
			return err_set(err, why.code, "%s; or say spoof=on, or backend=builtin",
				       why.msg);
		log_info("%s; so lodge moves the packets, and looks at them", why.msg);
	}
	if (!net->nat && !net->nforwards && !net->nshare_ports)
		return 0;
	return rules_open(net, n->tap.name, net->addresses.gateway, false, &n->rules, err);
}

/* ---- */

int network_open(struct machine_net *net, struct network **ret_network, struct err *err)
{
	struct network *n = calloc(1, sizeof(*n));
	struct netlink nl;
	int res;

	if (!n)
		return err_set(err, ENOMEM, "network: out of memory");
	n->passt = CHILD_NONE;
	n->stats.fd = -1;
	n->whole = true;
	res = netlink_open(&nl);
	if (res) {
		free(n);
		return err_sys(err, -res, "network: rtnetlink");
	}
	if ((net->with_containers || net->nshare_ports) && net->kind == NET_AUTO)
		net->kind = NET_POOL; /* passt cannot reach them, nor the host's end */
	res = net->kind == NET_AUTO ? open_auto(n, &nl, net, err) : open_kind(n, &nl, net, err);
	if (!res && (net->kind == NET_POOL || net->kind == NET_TAP || net->kind == NET_BRIDGE))
		open_stats(n);
	netlink_close(&nl);
	if (!res)
		res = make_mac(net, err);
	if (!res && net->addresses.guest && !net->addresses.ndns)
		net->addresses.ndns = resolv_read(net->addresses.dns);
	if (!res)
		res = open_rules(n, net, err);
	if (res) {
		network_free(n);
		return res;
	}
	net->tap = &n->tap;
	*ret_network = n;
	return 0;
}

/* ---- watching ---- */

static void say_words(struct network *n)
{
	char words[WORDS_MAX] = "", *rest = words, *line;

	child_hear(&n->passt, words, sizeof(words));
	while ((line = strsep(&rest, "\n"))) {
		if (*line && !passt_is_noise(line))
			log_info("passt: %s", line);
	}
}

static void look_at_passt(struct network *n)
{
	char ended[32];

	switch (child_news(&n->passt, ended, sizeof(ended))) {
	case CHILD_ENDED:
		log_warn("network: passt has ended (%s); it is started again", ended);
		break;
	case CHILD_BEGUN:
		n->events.reconnect(n->events.ctx, steal_fd(&n->passt.fd));
		break;
	case CHILD_ALONE:
		log_warn("network: nobody watches passt any more");
		break;
	case CHILD_NOTHING:
		break;
	}
	say_words(n);
}

static void look(void *ctx, int ret_fds[2])
{
	struct network *n = ctx;
	bool whole;

	if (!n->rules) {
		look_at_passt(n);
		ret_fds[0] = n->passt.keeper;
		ret_fds[1] = n->passt.words;
		return;
	}
	whole = rules_look(n->rules);
	if (whole != n->whole)
		n->events.whole(n->events.ctx, whole);
	n->whole = whole;
	rules_poll_fds(n->rules, ret_fds);
}

void network_watch(struct network *n, struct loop *loop, const struct network_events *events)
{
	n->events = *events;
	child_watch_begin(&n->watch, loop, look, n);
}

static void release(void *ctx)
{
	struct network *n = ctx;

	rules_free(n->rules);
	child_close(&n->passt);
	if (n->stats.fd >= 0)
		netlink_close(&n->stats);
	free(n);
}

void network_free(struct network *n)
{
	if (!n)
		return;
	tap_close(&n->tap);
	child_end(&n->passt);
	if (n->rules)
		rules_end(n->rules);
	child_watch_end(&n->watch, release, n);
}

/* ---- what the kernel counts ---- */

void network_stats(struct network *n, struct virtio_net_stats *stats)
{
	struct netlink_counters c;

	if (n->stats.fd < 0 || netlink_link_counters(&n->stats, n->index, &c))
		return;
	/* what the tap receives, the guest has sent */
	stats->rx_packets = c.tx_packets;
	stats->rx_bytes = c.tx_bytes;
	stats->rx_dropped = c.tx_dropped;
	stats->tx_packets = c.rx_packets;
	stats->tx_bytes = c.rx_bytes;
	stats->tx_dropped = c.rx_dropped;
}

const char *network_tap(const struct network *n)
{
	return n->tap.name;
}
