/* --net: a kind, and a key=value list. */
#include "devices/virtio/net.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "control/options/parse.h"
#include "control/options/priv.h"
#include "control/options/settings.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

struct net_target {
	struct machine_net *net;
	bool has_kind;
};

/* ---- values ---- */

/* "a.b.c.d", host byte order. */
static int parse_ipv4(const char *text, uint32_t *ret_address, struct err *err)
{
	struct in_addr a;

	if (inet_pton(AF_INET, text, &a) != 1 || !a.s_addr)
		return err_set(err, EINVAL, "'%s' is no IPv4 address", text);
	*ret_address = ntohl(a.s_addr);
	return 0;
}

/* "a.b.c.d/n", of at least min bits. */
static int parse_network(const char *text, unsigned min, unsigned max, uint32_t *ret_address,
			 unsigned *ret_prefix, struct err *err)
{
	const char *slash = strchr(text, '/');
	char address[INET_ADDRSTRLEN];

	if (!slash || (size_t)(slash - text) >= sizeof(address) ||
	    parse_unsigned(slash + 1, min, max, ret_prefix))
		return err_set(err, EINVAL, "'%s' is no address/bits with %u to %u bits", text, min,
			       max);
	snprintf(address, sizeof(address), "%.*s", (int)(slash - text), text);
	return parse_ipv4(address, ret_address, err);
}

static int parse_port(const char *text, uint16_t *ret_port)
{
	unsigned port;

	if (parse_unsigned(text, 1, 65535, &port))
		return -EINVAL;
	*ret_port = (uint16_t)port;
	return 0;
}

/* ---- kinds ---- */

static int set_kind(void *target, enum net_kind kind, struct err *err)
{
	struct net_target *t = target;

	if (t->has_kind)
		return err_set(err, EINVAL, "is a second kind; an interface has one");
	t->has_kind = true;
	t->net->kind = kind;
	return 0;
}

static int set_named(void *target, enum net_kind kind, const char *name, struct err *err)
{
	struct net_target *t = target;
	int rc = set_kind(target, kind, err);

	if (rc)
		return rc;
	if (!*name || strlen(name) >= IFNAMSIZ || strpbrk(name, "/% "))
		return err_set(err, EINVAL,
			       "'%s' is no name of an interface; use 1 to %d characters without "
			       "/, %% and blanks",
			       name, IFNAMSIZ - 1);
	return options_set_string(&t->net->name, name, err);
}

static int set_auto(void *target, const char *value, struct err *err)
{
	(void)value;
	return set_kind(target, NET_AUTO, err);
}

static int set_pool(void *target, const char *value, struct err *err)
{
	(void)value;
	return set_kind(target, NET_POOL, err);
}

static int set_passt(void *target, const char *value, struct err *err)
{
	(void)value;
	return set_kind(target, NET_PASST, err);
}

static int set_tap(void *target, const char *value, struct err *err)
{
	return set_named(target, NET_TAP, value, err);
}

static int set_bridge(void *target, const char *value, struct err *err)
{
	return set_named(target, NET_BRIDGE, value, err);
}

static int set_fd(void *target, const char *value, struct err *err)
{
	struct net_target *t = target;
	unsigned fd;

	if (parse_unsigned(value, 3, 1 << 20, &fd))
		return err_set(err, EINVAL, "'%s' is no number of a descriptor from 3 up", value);
	t->net->fd = (int)fd;
	return set_kind(target, NET_FD, err);
}

/* ---- the host's side ---- */

static int set_subnets(void *target, const char *value, struct err *err)
{
	struct machine_net *net = ((struct net_target *)target)->net;

	return parse_network(value, 8, 30, &net->pool, &net->pool_prefix, err);
}

static int set_nat(void *target, const char *value, struct err *err)
{
	if (parse_switch(value, &((struct net_target *)target)->net->nat))
		return err_set(err, EINVAL, "'%s' is neither on nor off", value);
	return 0;
}

static int set_containers(void *target, const char *value, struct err *err)
{
	if (parse_switch(value, &((struct net_target *)target)->net->with_containers))
		return err_set(err, EINVAL, "'%s' is neither on nor off", value);
	return 0;
}

/* tcp:[ADDRESS:]PORT:PORT */
static int set_forward(void *target, const char *value, struct err *err)
{
	struct machine_net *net = ((struct net_target *)target)->net;
	char text[64], *at = text, *parts[4];
	struct net_forward f = {0};
	unsigned n = 0;

	if (net->nforwards == NET_FORWARDS_MAX)
		return err_set(err, EINVAL, "there are %d already", NET_FORWARDS_MAX);
	snprintf(text, sizeof(text), "%s", value);
	while (n < ARRAY_LEN(parts) && (parts[n] = strsep(&at, ":")))
		n++;
	if (at || n < 3 || strlen(value) >= sizeof(text) ||
	    (strcmp(parts[0], "tcp") != 0 && strcmp(parts[0], "udp") != 0) ||
	    parse_port(parts[n - 2], &f.host_port) || parse_port(parts[n - 1], &f.guest_port))
		return err_set(err, EINVAL,
			       "'%s' is not tcp:PORT:PORT or udp:PORT:PORT, host's and guest's, "
			       "with ADDRESS: before the host's where it is one of it",
			       value);
	f.udp = !strcmp(parts[0], "udp");
	if (n == 4 && parse_ipv4(parts[1], &f.host_address, err))
		return -EINVAL;
	net->forwards[net->nforwards++] = f;
	return 0;
}

/* ---- addresses ---- */

static int set_address(void *target, const char *value, struct err *err)
{
	struct net_addresses *a = &((struct net_target *)target)->net->addresses;

	return parse_network(value, 1, 31, &a->guest, &a->prefix, err);
}

static int set_address6(void *target, const char *value, struct err *err)
{
	struct net_addresses *a = &((struct net_target *)target)->net->addresses;
	struct net_ipv6 *ipv6 = &a->ipv6[a->nipv6];
	const char *slash = strchr(value, '/');
	char address[INET6_ADDRSTRLEN];

	if (a->nipv6 == NET_IPV6_MAX)
		return err_set(err, EINVAL, "there are %d already", NET_IPV6_MAX);
	if (slash && (size_t)(slash - value) < sizeof(address)) {
		snprintf(address, sizeof(address), "%.*s", (int)(slash - value), value);
		if (inet_pton(AF_INET6, address, ipv6->bytes) == 1 && ipv6->bytes[0] != 0xff &&
		    !parse_unsigned(slash + 1, 1, 128, &ipv6->prefix)) {
			a->nipv6++;
			return 0;
		}
	}
	return err_set(err, EINVAL, "'%s' is no IPv6 address/bits, such as 2001:db8::6/64", value);
}

static int set_gateway(void *target, const char *value, struct err *err)
{
	return parse_ipv4(value, &((struct net_target *)target)->net->addresses.gateway, err);
}

static int set_dns(void *target, const char *value, struct err *err)
{
	struct net_addresses *a = &((struct net_target *)target)->net->addresses;

	if (a->ndns == NET_DNS_MAX)
		return err_set(err, EINVAL, "there are %d already", NET_DNS_MAX);
	return parse_ipv4(value, &a->dns[a->ndns++], err);
}

/* ---- the device ---- */

static int set_backend(void *target, const char *value, struct err *err)
{
	static const char *const names[] = {
	    [NET_BACKEND_AUTO] = "auto",
	    [NET_BACKEND_VHOST] = "vhost",
	    [NET_BACKEND_BUILTIN] = "builtin",
	};

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		if (!strcmp(value, names[i])) {
			((struct net_target *)target)->net->backend = (enum net_backend)i;
			return 0;
		}
	}
	return err_set(err, EINVAL, "'%s' is none of auto, vhost and builtin", value);
}

static int set_mac(void *target, const char *value, struct err *err)
{
	uint8_t *mac = ((struct net_target *)target)->net->mac;
	int end = 0;

	if (strlen(value) != 17 ||
	    sscanf(value, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", &mac[0], &mac[1], &mac[2],
		   &mac[3], &mac[4], &mac[5], &end) != 6 ||
	    end != 17)
		return err_set(err, EINVAL, "'%s' is not as 02:00:00:12:34:56", value);
	if (mac[0] & 1 || !(mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5]))
		return err_set(err, EINVAL,
			       "'%s' is no address of one interface: its first byte "
			       "is to be even, and not all of it 0",
			       value);
	return 0;
}

static int set_mtu(void *target, const char *value, struct err *err)
{
	if (parse_unsigned(value, VIRTIO_NET_MTU_MIN, VIRTIO_NET_MTU_MAX,
			   &((struct net_target *)target)->net->mtu))
		return err_set(err, EINVAL, "'%s' is not a number from %d to %d", value,
			       VIRTIO_NET_MTU_MIN, VIRTIO_NET_MTU_MAX);
	return 0;
}

static int set_queues(void *target, const char *value, struct err *err)
{
	if (parse_unsigned(value, 1, VIRTIO_NET_PAIRS_MAX,
			   &((struct net_target *)target)->net->queues))
		return err_set(err, EINVAL, "'%s' is not a number from 1 to %d", value,
			       VIRTIO_NET_PAIRS_MAX);
	return 0;
}

static int set_spoof(void *target, const char *value, struct err *err)
{
	if (parse_switch(value, &((struct net_target *)target)->net->may_spoof))
		return err_set(err, EINVAL, "'%s' is neither on nor off", value);
	return 0;
}

static int set_rate(const char *value, uint64_t *ret_per_s, struct err *err)
{
	if (parse_size(value, ret_per_s) || !*ret_per_s)
		return err_set(err, EINVAL, "'%s' is no number above 0, such as 5000 or 10M",
			       value);
	return 0;
}

static int set_rx_bytes(void *target, const char *value, struct err *err)
{
	return set_rate(value, &((struct net_target *)target)->net->rx_bytes_per_s, err);
}

static int set_rx_packets(void *target, const char *value, struct err *err)
{
	return set_rate(value, &((struct net_target *)target)->net->rx_packets_per_s, err);
}

static int set_tx_bytes(void *target, const char *value, struct err *err)
{
	return set_rate(value, &((struct net_target *)target)->net->tx_bytes_per_s, err);
}

static int set_tx_packets(void *target, const char *value, struct err *err)
{
	return set_rate(value, &((struct net_target *)target)->net->tx_packets_per_s, err);
}

static const struct option_setting net_keys[] = {
    {"auto", NULL, set_auto, "pool where this process may, else passt"},
    {"pool", NULL, set_pool, "a tap with a /30 of its own, host and guest"},
    {"tap", "NAME", set_tap, "this interface; made where there is none"},
    {"bridge", "NAME", set_bridge, "a tap that is a port of this bridge"},
    {"fd", "N", set_fd, "an open tap, or a datagram socket that carries its packets"},
    {"passt", NULL, set_passt, "passt(1): networking without any right"},
    {"subnets", "ADDRESS/BITS", set_subnets, "pool: where the /30s are of (100.115.92.0/24)"},
    {"nat", "on|off", set_nat, "pool: the guest reaches what the host reaches (off)"},
    {"forward", "tcp|udp:PORT:PORT", set_forward,
     "pool, passt: host's port to guest's; may be repeated"},
    {"address", "ADDRESS/BITS", set_address, "the guest's"},
    {"address6", "ADDRESS/BITS", set_address6, "the guest's, IPv6; may be repeated"},
    {"gateway", "ADDRESS", set_gateway, "the guest's default route"},
    {"dns", "ADDRESS", set_dns, "the guest's nameserver (the host's); may be repeated"},
    {"backend", "auto|vhost|builtin", set_backend, "who moves the packets (vhost if there)"},
    {"mac", "ADDRESS", set_mac, "the guest's interface's (one is made)"},
    {"mtu", "N", set_mtu, "longest packet in bytes (the interface's own)"},
    {"queues", "N", set_queues, "queue pairs (1)"},
    {"spoof", "on|off", set_spoof, "packets from others' addresses are let out (off)"},
    {"rx_bytes_per_s", "SIZE", set_rx_bytes, "limit of what the guest gets"},
    {"rx_packets_per_s", "N", set_rx_packets, "likewise"},
    {"tx_bytes_per_s", "SIZE", set_tx_bytes, "limit of what it sends"},
    {"tx_packets_per_s", "N", set_tx_packets, "likewise"},
    {"containers", "on|off", set_containers, "pool: a /28 for containers is routed to it (off)"},
};

#define KEY_FORWARD  8
#define KEY_ADDRESS6 10
#define KEY_DNS	     12
#define MANY	     (UINT32_C(1) << KEY_FORWARD | UINT32_C(1) << KEY_ADDRESS6 | UINT32_C(1) << KEY_DNS)

/* What does not go together. */
static int check(const struct machine_net *net, struct err *err)
{
	const bool by_address = net->kind == NET_AUTO || net->kind == NET_POOL;

	if (net->nat && !by_address)
		return err_set(err, EINVAL,
			       "nat=on belongs to pool; passt does it by itself, and "
			       "for a tap or a bridge it is the host's to do");
	if (net->with_containers && !by_address)
		return err_set(err, EINVAL, "containers=on belongs to pool");
	if (net->pool && !by_address)
		return err_set(err, EINVAL, "subnets= belongs to pool");
	if (net->nforwards && !by_address && net->kind != NET_PASST)
		return err_set(err, EINVAL, "forward= belongs to pool and passt");
	if (net->addresses.guest && net->kind == NET_POOL)
		return err_set(err, EINVAL, "address= is the pool's to choose; say subnets=");
	if (net->addresses.nipv6 && net->kind == NET_PASST)
		return err_set(err, EINVAL, "address6=: passt has IPv4 alone");
	if (net->queues > 1 && (net->kind == NET_FD || net->kind == NET_PASST))
		return err_set(err, EINVAL, "queues=%u: %s has one", net->queues,
			       net->kind == NET_FD ? "fd" : "passt");
	if (net->addresses.gateway && !net->addresses.guest)
		return err_set(err, EINVAL, "gateway= needs address=");
	if (net->backend == NET_BACKEND_VHOST && net->kind == NET_PASST)
		return err_set(err, EINVAL, "backend=vhost needs a tap, which passt is not");
	if (net->backend == NET_BACKEND_VHOST && (net->rx_bytes_per_s || net->rx_packets_per_s ||
						  net->tx_bytes_per_s || net->tx_packets_per_s))
		return err_set(err, EINVAL, "limits belong to backend=builtin");
	return 0;
}

int options_add_net(struct machine_config *machine, const char *list, struct err *err)
{
	struct machine_net *net = &machine->nets[machine->nnets];
	struct net_target t = {.net = net};
	int rc;

	if (machine->no_net || (machine->nnets && !strcmp(list, "none")))
		return err_set(err, EINVAL, "none goes with no other");
	if (!strcmp(list, "none")) {
		machine->no_net = true;
		return 0;
	}
	if (machine->nnets == MACHINE_NETS_MAX)
		return err_set(err, EINVAL, "at most %d interfaces are possible", MACHINE_NETS_MAX);
	*net = (struct machine_net){.fd = -1};
	rc = option_settings_read(net_keys, ARRAY_LEN(net_keys), MANY, list, &t, err);
	machine->nnets++; /* what it holds is freed with the rest */
	if (rc)
		return rc;
	if (!t.has_kind)
		return err_set(err, EINVAL,
			       "no kind is said: auto, pool, tap=NAME, bridge=NAME, fd=N, "
			       "passt or none");
	return check(net, err);
}

void options_net_help(FILE *out)
{
	_Static_assert(ARRAY_LEN(net_keys) <= 32, "a bit for each");
	for (unsigned i = 0; i < ARRAY_LEN(net_keys); i++) {
		const struct option_setting *k = &net_keys[i];
		char left[48];

		snprintf(left, sizeof(left), "%s%s%s", k->name, k->arg ? "=" : "",
			 k->arg ? k->arg : "");
		fprintf(out, "  %-30s %s\n", left, k->help);
	}
}
