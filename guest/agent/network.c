/* ConfigureNetwork. See proto/agent.proto. */
#include "guest/agent/calls.h"

#include "base/checked.h"
#include "base/netlink.h"
#include "proto/agent.pb-c.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RESOLV_CONF	"/etc/resolv.conf"
#define RESOLV_CONF_NEW RESOLV_CONF ".lodge"
#define ADDRESSES_MAX	64
#define MTU_MIN		68 /* RFC 791 */
#define MTU_MAX		65535

#define request_t Lodge__Agent__V1__ConfigureNetworkRequest

/* "address" or "address/bits". */
static bool parse_address(const char *text, bool with_prefix, struct net_address *ret)
{
	char host[INET6_ADDRSTRLEN];
	const char *slash = strchr(text, '/');
	size_t len = slash ? (size_t)(slash - text) : strlen(text);
	struct net_address a = {0};
	unsigned long bits;
	char *end;

	if (!slash != !with_prefix || len >= sizeof(host))
		return false;
	memcpy(host, text, len);
	host[len] = '\0';
	a.family = strchr(host, ':') ? AF_INET6 : AF_INET;
	if (inet_pton(a.family, host, a.bytes) != 1)
		return false;
	if (with_prefix) {
		bits = strtoul(slash + 1, &end, 10);
		if (slash[1] < '0' || slash[1] > '9' || *end ||
		    bits > (a.family == AF_INET ? 32 : 128))
			return false;
		a.prefix_bits = (unsigned)bits;
	}
	*ret = a;
	return true;
}

/* A word of /etc/resolv.conf. */
static bool is_word(const char *text)
{
	for (const char *p = text; *p; p++)
		if ((unsigned char)*p <= ' ' || *p == 0x7f)
			return false;
	return *text != '\0';
}

/* All of the request, before anything is changed. */
static int check(const request_t *r, struct err *err)
{
	struct net_address a;

	if (r->n_addresses > ADDRESSES_MAX)
		return err_set(err, E2BIG, "more than %d addresses", ADDRESSES_MAX);
	for (size_t i = 0; i < r->n_addresses; i++)
		if (!parse_address(r->addresses[i], true, &a))
			return err_set(err, EINVAL,
				       "'%.100s' is no address like 192.0.2.6/30 or "
				       "2001:db8::6/64",
				       r->addresses[i]);
	for (size_t i = 0; i < r->n_gateways; i++)
		if (!parse_address(r->gateways[i], false, &a))
			return err_set(err, EINVAL, "gateway '%.100s' is no address",
				       r->gateways[i]);
	for (size_t i = 0; i < r->n_nameservers; i++)
		if (!parse_address(r->nameservers[i], false, &a))
			return err_set(err, EINVAL, "name server '%.100s' is no address",
				       r->nameservers[i]);
	for (size_t i = 0; i < r->n_search; i++)
		if (!is_word(r->search[i]))
			return err_set(err, EINVAL, "search domain '%.100s' is no name",
				       r->search[i]);
	if (r->mtu && (r->mtu < MTU_MIN || r->mtu > MTU_MAX))
		return err_set(err, EINVAL, "an MTU is %d to %d, not %u", MTU_MIN, MTU_MAX, r->mtu);
	return 0;
}

/* ---- interface ----------------------------------------------------------------------------------
 */

/* Has a device behind it: no bridge, tunnel or loopback. */
static bool is_hardware(const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/class/net/%.*s/device", IFNAMSIZ, name);
	return access(path, F_OK) == 0;
}

/* By its name, or the address of its hardware. */
static bool is_called(const char *ifname, const char *name)
{
	char path[64], mac[20] = "";
	FILE *file;

	if (!strcmp(ifname, name))
		return true;
	if (!strchr(name, ':'))
		return false;
	snprintf(path, sizeof(path), "/sys/class/net/%.*s/address", IFNAMSIZ, ifname);
	file = fopen(path, "re");
	if (!file)
		return false;
	if (!fgets(mac, sizeof(mac), file))
		mac[0] = '\0';
	fclose(file);
	mac[strcspn(mac, "\n")] = '\0';
	return !strcasecmp(mac, name);
}

/* The named one, or the first with hardware, or else the first that is not lo. */
static int find_interface(const char *name, char ret_name[static IFNAMSIZ], struct err *err)
{
	struct if_nameindex *all = if_nameindex();
	int index = 0;
	bool hardware = false;

	if (!all)
		return err_sys(err, errno, "listing the interfaces");
	for (const struct if_nameindex *i = all; i->if_index; i++) {
		bool wanted = name[0] ? is_called(i->if_name, name) : strcmp(i->if_name, "lo") != 0;

		if (!wanted || (index && (hardware || !is_hardware(i->if_name))))
			continue;
		index = (int)i->if_index;
		hardware = is_hardware(i->if_name);
		snprintf(ret_name, IFNAMSIZ, "%s", i->if_name);
	}
	if_freenameindex(all);
	if (index)
		return index;
	return name[0] ? err_set(err, ENODEV, "the guest has no interface %.50s", name)
		       : err_set(err, ENODEV, "the guest has no network interface");
}

struct surplus {
	const request_t *request;
	struct net_address list[ADDRESSES_MAX];
	unsigned n;
};

static void keep_or_drop(void *ctx, const struct net_address *present)
{
	struct surplus *s = ctx;
	struct net_address a;
	bool is_meant = false; /* addresses of its family are given */

	for (size_t i = 0; i < s->request->n_addresses; i++) {
		if (!parse_address(s->request->addresses[i], true, &a))
			continue;
		if (!memcmp(&a, present, sizeof(a)))
			return;
		is_meant |= a.family == present->family;
	}
	if (is_meant && s->n < ADDRESSES_MAX)
		s->list[s->n++] = *present;
}

static int set_addresses(struct netlink *nl, int index, const request_t *r, struct err *err)
{
	struct surplus surplus = {.request = r};
	struct net_address a;
	int res = r->n_addresses ? netlink_addresses(nl, index, keep_or_drop, &surplus) : 0;

	if (res)
		return err_sys(err, -res, "reading the addresses");
	for (unsigned i = 0; i < surplus.n; i++)
		(void)netlink_address_delete(nl, index, &surplus.list[i]);
	for (size_t i = 0; i < r->n_addresses; i++) {
		(void)parse_address(r->addresses[i], true, &a);
		res = netlink_address_add(nl, index, &a);
		if (res)
			return err_sys(err, -res, "address %s", r->addresses[i]);
	}
	return 0;
}

static int set_routes(struct netlink *nl, int index, const request_t *r, struct err *err)
{
	struct net_address a;

	for (size_t i = 0; i < r->n_gateways; i++) {
		int res;

		(void)parse_address(r->gateways[i], false, &a);
		res = netlink_default_route(nl, index, &a);
		if (res)
			return err_sys(err, -res, "default route by %s", r->gateways[i]);
	}
	return 0;
}

static int set_interface(int index, const request_t *r, struct err *err)
{
	struct netlink nl;
	int lo = (int)if_nametoindex("lo");
	int res = netlink_open(&nl);

	if (res)
		return err_sys(err, -res, "netlink");
	if (lo)
		(void)netlink_link_up(&nl, lo, 0, 0);
	res = netlink_link_up(&nl, index, r->mtu, 0);
	if (res)
		res = err_sys(err, -res, "bringing it up");
	if (!res)
		res = set_addresses(&nl, index, r, err);
	if (!res)
		res = set_routes(&nl, index, r, err);
	netlink_close(&nl);
	return res;
}

/* ---- names --------------------------------------------------------------------------------------
 */

static int write_resolv_conf(const request_t *r, struct err *err)
{
	FILE *f = fopen(RESOLV_CONF_NEW, "we");
	bool ok;

	if (!f)
		return err_sys(err, errno, "%s", RESOLV_CONF_NEW);
	if (r->n_search)
		fputs("search", f);
	for (size_t i = 0; i < r->n_search; i++)
		fprintf(f, " %s", r->search[i]);
	if (r->n_search)
		fputc('\n', f);
	for (size_t i = 0; i < r->n_nameservers; i++)
		fprintf(f, "nameserver %s\n", r->nameservers[i]);
	fchmod(fileno(f), 0644);
	ok = !ferror(f);
	ok = fclose(f) == 0 && ok;
	if (!ok || rename(RESOLV_CONF_NEW, RESOLV_CONF) < 0) {
		err_sys(err, errno, "writing %s", RESOLV_CONF);
		unlink(RESOLV_CONF_NEW);
		return -err->code;
	}
	return 0;
}

int call_configure_network(const ProtobufCMessage *message, ProtobufCMessage *reply,
			   struct err *err)
{
	static char name[IFNAMSIZ];
	const request_t *r = (const request_t *)message;
	int index, res;

	res = check(r, err);
	if (res)
		return res;
	index = find_interface(r->interface, name, err);
	if (index < 0)
		return index;
	res = set_interface(index, r, err);
	if (res) {
		err_prefix(err, "interface %s", name);
		return res;
	}
	if (r->hostname[0] && sethostname(r->hostname, strlen(r->hostname)) < 0)
		return err_sys(err, errno, "host name %.100s", r->hostname);
	if (r->n_nameservers || r->n_search)
		res = write_resolv_conf(r, err);
	((Lodge__Agent__V1__ConfigureNetworkResponse *)reply)->interface = name;
	return res;
}
