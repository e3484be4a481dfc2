/* See control/network/rules.h. */
#include "control/network/rules.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "control/child/child.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* 16 forwards of 4 rules of at most 192 bytes, and less than 20 other lines */
#define COMMANDS_MAX 16384
#define WORDS_MAX    1024
#define NFT_MS	     10000
#define END_MS	     2000
/* The process before us may have just ended, and its nft is about to. */
#define OWNED_TRIES 20
#define OWNED_MS    100
/* The last command asks for a chain that there is not: that nft says so is the sign that it has
 * read all before, on standard error, which no build of it buffers. */
#define LAST_CHAIN "all-is-done"

struct rules {
	struct child nft;
	char tap[IFNAMSIZ];
	char *text; /* the commands */
	size_t used;
	bool in_place;
	char words[WORDS_MAX]; /* of nft, since it was fed */
};

struct commands {
	const struct machine_net *net;
	const char *tap;
	char table[32];
	char guest[INET_ADDRSTRLEN];
	char senders[2 * INET_ADDRSTRLEN + 16]; /* the guest, and containers behind it */
	char text[COMMANDS_MAX];
	size_t used;
};

__attribute__((format(printf, 2, 3))) static void add(struct commands *c, const char *fmt, ...)
{
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf(c->text + c->used, sizeof(c->text) - c->used, fmt, args);
	va_end(args);
	if (n > 0)
		c->used += (size_t)n; /* checked by all_fits() */
}

static bool all_fits(const struct commands *c)
{
	return c->used < sizeof(c->text);
}

/* What nft reads as one word; interfaces may have names that it does not. */
static int name_table(struct commands *c, const char *tap, struct err *err)
{
	static const char own[] = "lodge-";
	const bool is_own = !strncmp(tap, own, sizeof(own) - 1);

	if (!*tap || tap[strspn(tap, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				     "0123456789_.-")])
		return err_set(err, EINVAL,
			       "only interfaces named with letters, digits, "
			       "'_', '.' and '-' can have rules");
	c->tap = tap;
	snprintf(c->table, sizeof(c->table), "%s%s", is_own ? "" : own, tap);
	return 0;
}

static const char *ipv4(uint32_t address, char text[INET_ADDRSTRLEN])
{
	const struct in_addr in = {.s_addr = htonl(address)};

	inet_ntop(AF_INET, &in, text, INET_ADDRSTRLEN);
	return text;
}

static void name_senders(struct commands *c)
{
	const uint32_t containers = c->net->addresses.containers;
	char network[INET_ADDRSTRLEN];

	if (containers)
		snprintf(c->senders, sizeof(c->senders), "{ %s, %s/%d }", c->guest,
			 ipv4(containers, network), NET_CONTAINERS_PREFIX);
	else
		snprintf(c->senders, sizeof(c->senders), "%s", c->guest);
}

static bool is_loopback(uint32_t address)
{
	return address >> 24 == 127;
}

/* At hook prerouting all but the guest itself, at output this host. */
static void add_forward(struct commands *c, const struct net_forward *f)
{
	const char *proto = f->udp ? "udp" : "tcp";
	char at[INET_ADDRSTRLEN], where[INET_ADDRSTRLEN + 16] = "fib daddr type local";

	if (f->host_address)
		snprintf(where, sizeof(where), "ip daddr %s", ipv4(f->host_address, at));
	add(c,
	    "add rule inet %s pre iifname != \"%s\" meta nfproto ipv4 %s %s dport %u dnat ip to "
	    "%s:%u\n",
	    c->table, c->tap, where, proto, f->host_port, c->guest, f->guest_port);
	add(c, "add rule inet %s out meta nfproto ipv4 %s %s dport %u dnat ip to %s:%u\n", c->table,
	    where, proto, f->host_port, c->guest, f->guest_port);
}

static void add_nat(struct commands *c, uint32_t host_address)
{
	char host[INET_ADDRSTRLEN], to[INET_ADDRSTRLEN + 16] = "masquerade";

	if (host_address)
		snprintf(to, sizeof(to), "snat ip to %s", ipv4(host_address, host));
	/* before the translation of answers, which may be to 127.0.0.1 */
	add(c, "add chain inet %s raw { type filter hook prerouting priority -300 ; }\n", c->table);
	add(c, "add rule inet %s raw iifname \"%s\" ip daddr 127.0.0.0/8 drop\n", c->table, c->tap);
	add(c, "add rule inet %s raw iifname \"%s\" ip saddr 127.0.0.0/8 drop\n", c->table, c->tap);
	add(c, "add chain inet %s pre { type nat hook prerouting priority -100 ; }\n", c->table);
	add(c, "add chain inet %s out { type nat hook output priority -100 ; }\n", c->table);
	add(c, "add chain inet %s post { type nat hook postrouting priority 100 ; }\n", c->table);
	add(c, "add rule inet %s post oifname \"%s\" ip saddr 127.0.0.0/8 %s\n", c->table, c->tap,
	    to);
	if (c->net->nat)
		add(c,
		    "add rule inet %s post iifname \"%s\" oifname != \"%s\" ip saddr %s "
		    "masquerade\n",
		    c->table, c->tap, c->tap, c->senders);
	for (unsigned i = 0; i < c->net->nforwards; i++)
		add_forward(c, &c->net->forwards[i]);
}

/* What serves shares listens for this guest: no other machine reaches it, nor this host. */
static void add_shares(struct commands *c, uint32_t host_address)
{
	char host[INET_ADDRSTRLEN];

	if (!c->net->nshare_ports)
		return;
	ipv4(host_address, host);
	add(c, "add chain inet %s shares { type filter hook input priority -5 ; }\n", c->table);
	for (unsigned i = 0; i < c->net->nshare_ports; i++) {
		const unsigned port = c->net->share_ports[i];

		add(c, "add rule inet %s shares ip daddr %s tcp dport %u iifname != \"%s\" drop\n",
		    c->table, host, port, c->tap);
		add(c, "add rule inet %s shares ip daddr %s tcp dport %u ip saddr != %s drop\n",
		    c->table, host, port, c->guest);
	}
}

/* As net_spoof.c has it. */
static void add_guard_ipv6(struct commands *c)
{
	const struct net_addresses *a = &c->net->addresses;
	const uint8_t *m = c->net->mac;
	char saddr[(NET_IPV6_MAX + 1) * (INET6_ADDRSTRLEN + 2)], target[(NET_IPV6_MAX + 1) * 40];
	int s, t;

	/* the link-local one of its MAC: RFC 4291 appendix A */
	s = snprintf(saddr, sizeof(saddr), "fe80::%02x%02x:%02xff:fe%02x:%02x%02x", m[0] ^ 2, m[1],
		     m[2], m[3], m[4], m[5]);
	t = snprintf(target, sizeof(target), "0xfe80000000000000%02x%02x%02xfffe%02x%02x%02x",
		     m[0] ^ 2, m[1], m[2], m[3], m[4], m[5]);
	for (unsigned i = 0; i < a->nipv6; i++) {
		char text[INET6_ADDRSTRLEN];

		inet_ntop(AF_INET6, a->ipv6[i].bytes, text, sizeof(text));
		s += snprintf(saddr + s, sizeof(saddr) - (size_t)s, ", %s", text);
		t += snprintf(target + t, sizeof(target) - (size_t)t, ", 0x");
		for (unsigned k = 0; k < 16; k++)
			t += snprintf(target + t, sizeof(target) - (size_t)t, "%02x",
				      a->ipv6[i].bytes[k]);
	}
	add(c, "add rule netdev %s in ip6 saddr != { ::, %s } drop\n", c->table, saddr);
	add(c, "add rule netdev %s in ip6 saddr :: meta l4proto != icmpv6 drop\n", c->table);
	add(c, "add rule netdev %s in icmpv6 type { nd-router-advert, nd-redirect } drop\n",
	    c->table);
	add(c, "add rule netdev %s in icmpv6 type nd-neighbor-advert @th,64,128 != { %s } drop\n",
	    c->table, target);
	add(c,
	    "add rule netdev %s in ip6 saddr :: icmpv6 type nd-neighbor-solicit @th,64,128 != { "
	    "%s } drop\n",
	    c->table, target);
}

static void add_guard(struct commands *c)
{
	const uint8_t *m = c->net->mac;
	char mac[18];

	snprintf(mac, sizeof(mac), "%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4],
		 m[5]);
	add(c, "add table netdev %s { flags owner ; }\n", c->table);
	add(c,
	    "add chain netdev %s in { type filter hook ingress device \"%s\" priority -500 ; }\n",
	    c->table, c->tap);
	add(c, "add rule netdev %s in ether saddr != %s drop\n", c->table, mac);
	add(c, "add rule netdev %s in arp saddr ether != %s drop\n", c->table, mac);
	if (!c->net->addresses.guest && !c->net->addresses.nipv6)
		return;
	/* the host takes the tag 0 off, and looks at what is below */
	add(c, "add rule netdev %s in @ll,96,16 { 0x8100, 0x88a8, 0x9100 } drop\n", c->table);
	add_guard_ipv6(c);
	if (!c->net->addresses.guest)
		return;
	add(c, "add rule netdev %s in arp saddr ip != { 0.0.0.0, %s } drop\n", c->table, c->guest);
	add(c, "add rule netdev %s in ip saddr 0.0.0.0 udp dport 67 accept\n", c->table);
	add(c, "add rule netdev %s in ip saddr != %s drop\n", c->table, c->senders);
}

/* `path` below /proc/sys/net/ipv4 becomes 1; *ret_changed: it was not. */
static int set_switch(const char *path, bool *ret_changed, struct err *err)
{
	char full[128], now = 0;
	autofd int fd = -1;

	*ret_changed = false;
	snprintf(full, sizeof(full), "/proc/sys/net/ipv4/%s", path);
	fd = open(full, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, &now, 1) != 1)
		return err_sys(err, errno, "%s", full);
	if (now != '0')
		return 0;
	close(fd);
	fd = open(full, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "1\n", 2) != 2)
		return err_sys(err, errno, "%s cannot be set to 1", full);
	*ret_changed = true;
	return 0;
}

static int set_switches(const struct machine_net *net, const char *tap, struct err *err)
{
	bool local = false, forward = net->nat, changed;
	char path[64];
	int res = 0;

	for (unsigned i = 0; i < net->nforwards; i++) {
		const uint32_t host = net->forwards[i].host_address;

		local |= !host || is_loopback(host);
		forward |= !is_loopback(host);
	}
	if (forward) {
		res = set_switch("ip_forward", &changed, err);
		if (!res && changed)
			log_info("network: net.ipv4.ip_forward is 1 now, for the guest's packets; "
				 "it stays");
	}
	if (!res && local) {
		snprintf(path, sizeof(path), "conf/%s/route_localnet", tap);
		res = set_switch(path, &changed, err);
	}
	return res;
}

/* What nft says is "Error: WHAT", the command, and "^^^" below it. 1: nothing so far. */
static int judge(const char *words, bool ended, struct err *err)
{
	const char *error = strstr(words, "Error: "), *line = error ? strchr(error, '\n') : NULL;
	int what, command, code = EIO;

	if (error && line && strstr(line, LAST_CHAIN))
		if (!strncmp(line + 1, "list chain ", strlen("list chain ")))
			return 0;
	if (!ended && (!line || !strchr(line + 1, '\n')))
		return 1;
	if (!error || !line) {
		what = (int)strcspn(words, "\n");
		return err_set(err, EIO, "nft has ended: %.*s", what, words);
	}
	what = (int)strcspn(error, "\n");
	command = (int)strcspn(line + 1, "\n");
	if (strstr(error, "not permitted"))
		code = EPERM;
	return err_set(err, code, "nft: %.*s: %.*s", what, error, command, line + 1);
}

static int feed(struct rules *r, struct err *err)
{
	*r->words = 0;
	if (send(r->nft.fd, r->text, r->used, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno != EPIPE)
		return err_sys(err, errno, "nft");
	return 0;
}

static int feed_and_wait(struct rules *r, struct err *err)
{
	int res = feed(r, err) ? -EIO : 1;

	while (res == 1) {
		res = child_listen(&r->nft, r->words, sizeof(r->words), NFT_MS);
		if (res < 0)
			return err_sys(err, -res, "nft");
		res = judge(r->words, !res, err);
	}
	r->in_place = !res;
	return res;
}

static int attempt(const struct commands *c, struct rules **ret, struct err *err)
{
	static const char *const argv[] = {"nft", "-i", NULL};
	struct rules *r = calloc(1, sizeof(*r));
	int res;

	if (r)
		r->text = strdup(c->text);
	if (!r || !r->text) {
		free(r);
		return err_set(err, ENOMEM, "out of memory");
	}
	r->nft = CHILD_NONE;
	r->used = c->used;
	snprintf(r->tap, sizeof(r->tap), "%s", c->tap);
	res = child_start(argv, "nftables", true, NULL, &r->nft, err);
	if (!res)
		res = feed_and_wait(r, err);
	if (res)
		rules_free(r);
	else
		*ret = r;
	return res;
}

static int open_rules(struct commands *c, struct rules **ret, struct err *err)
{
	for (int try = 1;; try++) {
		struct err e = ERR_INIT;
		int res = attempt(c, ret, &e);

		if (!res)
			return 0;
		if (res != -EPERM || try == OWNED_TRIES || geteuid())
			return err_set(err, e.code, "%s", e.msg);
		poll(NULL, 0, OWNED_MS);
	}
}

int rules_open(const struct machine_net *net, const char *tap, uint32_t host_address, bool guard,
	       struct rules **ret, struct err *err)
{
	autofree struct commands *c = NULL;
	const bool nat = net->nat || net->nforwards, inet = nat || net->nshare_ports;
	int res = 0;

	if (!inet && !guard) {
		*ret = NULL;
		return 0;
	}
	if (nat && !net->addresses.guest)
		return err_set(err, EINVAL,
			       "nat and forwards need the guest's address: --net address=");
	c = malloc(sizeof(*c));
	if (!c)
		return err_set(err, ENOMEM, "out of memory");
	memset(c, 0, sizeof(*c));
	c->net = net;
	res = name_table(c, tap, err);
	ipv4(net->addresses.guest, c->guest);
	name_senders(c);
	if (inet)
		add(c, "add table inet %s { flags owner ; }\n", c->table);
	if (nat)
		add_nat(c, host_address);
	add_shares(c, host_address);
	if (guard)
		add_guard(c);
	add(c, "list chain %s %s " LAST_CHAIN "\n", inet ? "inet" : "netdev", c->table);
	if (!all_fits(c))
		return err_set(err, E2BIG, "too many rules for nft");
	/* newer kernels take a hook on an interface that is yet to come */
	if (!res && !if_nametoindex(tap))
		res = err_set(err, ENODEV, "there is no such interface");
	if (!res && nat)
		res = set_switches(net, tap, err);
	if (!res)
		res = open_rules(c, ret, err);
	if (res)
		err_prefix(err, "network: rules of %s", tap);
	return res;
}

/* ---- watching ---- */

void rules_poll_fds(const struct rules *rules, int ret_fds[2])
{
	ret_fds[0] = rules->nft.keeper;
	ret_fds[1] = rules->nft.words;
}

/* A new nft gets the commands; one that does not take them ends, and the next is tried. */
static void begin_again(struct rules *r)
{
	struct err err = ERR_INIT;

	if (feed(r, &err))
		log_warn("network: rules of %s: %s", r->tap, err.msg);
}

static void judge_again(struct rules *r)
{
	struct err err = ERR_INIT;
	int res = judge(r->words, false, &err);

	if (res == 1)
		return;
	*r->words = 0;
	if (!res) {
		r->in_place = true;
		log_warn("network: rules of %s are in place again", r->tap);
		return;
	}
	log_warn("network: rules of %s: %s", r->tap, err.msg);
	if (!r->in_place)
		shutdown(r->nft.fd, SHUT_WR);
}

bool rules_look(struct rules *r)
{
	char ended[32];

	switch (child_news(&r->nft, ended, sizeof(ended))) {
	case CHILD_ENDED:
		if (r->in_place)
			log_warn("network: nft of %s has ended (%s), and its rules are gone; it is "
				 "started again",
				 r->tap, ended);
		r->in_place = false;
		break;
	case CHILD_BEGUN:
		begin_again(r);
		break;
	case CHILD_ALONE:
		log_warn("network: nobody watches nft of %s any more", r->tap);
		break;
	case CHILD_NOTHING:
		break;
	}
	if (child_hear(&r->nft, r->words, sizeof(r->words)))
		judge_again(r);
	return r->in_place;
}

void rules_end(struct rules *rules)
{
	char words[WORDS_MAX] = "";

	if (rules->nft.fd < 0)
		return;
	child_end(&rules->nft);
	/* it reads the end, and ends itself, which is our end */
	shutdown(rules->nft.fd, SHUT_WR);
	while (child_listen(&rules->nft, words, sizeof(words), END_MS) > 0)
		;
	cleanup_fd(&rules->nft.fd);
	rules->nft.fd = -1;
}

void rules_free(struct rules *rules)
{
	if (!rules)
		return;
	rules_end(rules);
	child_close(&rules->nft);
	free(rules->text);
	free(rules);
}
