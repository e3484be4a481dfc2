/* See control/network/passt.h. */
#include "control/network/passt.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "control/network/resolv.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/ethernet.h>
#include <net/if_arp.h>
#include <netinet/if_ether.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#define ARGS_MAX   (24 + 2 * NET_DNS_MAX + 2 * NET_FORWARDS_MAX)
#define TEXT_MAX   32 /* "255.255.255.255/65535:65535" */
#define WORDS_MAX  2048
#define ANSWER_S   30
#define FRAME_MAX  65536
#define GUEST_HOST 2 /* of the default network */
#define PREFIX	   30

struct arguments {
	const char *list[ARGS_MAX];
	char texts[ARGS_MAX][TEXT_MAX];
	size_t n;
};

/* One frame of ARP on the stream; RFC 826. */
struct arp_frame {
	uint32_t length; /* all are big endian */
	struct ether_header ether;
	struct ether_arp arp;
} __attribute__((packed));
_Static_assert(sizeof(struct arp_frame) == 4 + 14 + 28, "RFC 826");

static void add(struct arguments *a, const char *option)
{
	a->list[a->n++] = option;
}

static void add_address(struct arguments *a, const char *option, uint32_t address)
{
	const struct in_addr in = {.s_addr = htonl(address)};

	add(a, option);
	inet_ntop(AF_INET, &in, a->texts[a->n], TEXT_MAX);
	add(a, a->texts[a->n]);
}

static void add_number(struct arguments *a, const char *option, unsigned number)
{
	add(a, option);
	snprintf(a->texts[a->n], TEXT_MAX, "%u", number);
	add(a, a->texts[a->n]);
}

static void add_forward(struct arguments *a, const struct net_forward *f)
{
	const struct in_addr in = {.s_addr = htonl(f->host_address)};
	char host[INET_ADDRSTRLEN] = "";

	if (f->host_address)
		inet_ntop(AF_INET, &in, host, sizeof(host));
	add(a, f->udp ? "--udp-ports" : "--tcp-ports");
	snprintf(a->texts[a->n], TEXT_MAX, "%s%s%u:%u", host, *host ? "/" : "", f->host_port,
		 f->guest_port);
	add(a, a->texts[a->n]);
}

static void make_arguments(struct arguments *a, const struct machine_net *net,
			   const struct net_addresses *addresses)
{
	bool udp = false;

	add(a, "passt");
	add(a, "--foreground");
	add(a, "--one-off");
	add(a, "--quiet");
	add(a, "--ipv4-only");
	add(a, "--no-map-gw");
	add_number(a, "--fd", CHILD_FD);
	add_address(a, "--address", addresses->guest);
	add_number(a, "--netmask", addresses->prefix);
	add_address(a, "--gateway", addresses->gateway);
	for (unsigned i = 0; i < addresses->ndns; i++)
		add_address(a, "--dns", addresses->dns[i]);
	if (!addresses->ndns) {
		add(a, "--dns");
		add(a, "none");
	}
	if (net->mtu)
		add_number(a, "--mtu", net->mtu);
	for (unsigned i = 0; i < net->nforwards; i++) {
		add_forward(a, &net->forwards[i]);
		udp |= net->forwards[i].udp;
	}
	/* else those of TCP are UDP's as well */
	if (!udp) {
		add(a, "--udp-ports");
		add(a, "none");
	}
	a->list[a->n] = NULL;
}

static void choose(struct net_addresses *a)
{
	uint32_t first;

	if (!a->guest)
		a->guest = NET_POOL_DEFAULT + GUEST_HOST;
	if (!a->prefix)
		a->prefix = PREFIX;
	if (!a->gateway) {
		first = a->guest & ~(UINT32_MAX >> a->prefix);
		a->gateway = first + 1 == a->guest ? first + 2 : first + 1;
	}
	if (!a->ndns)
		a->ndns = resolv_read(a->dns);
}

static int ask(const struct child *child, const uint8_t mac[6], const struct net_addresses *a)
{
	const uint32_t guest = htonl(a->guest), gateway = htonl(a->gateway);
	struct arp_frame f = {
	    .length = htonl(sizeof(f) - sizeof(f.length)),
	    .ether.ether_type = htons(ETHERTYPE_ARP),
	    .arp.ea_hdr = {.ar_hrd = htons(ARPHRD_ETHER),
			   .ar_pro = htons(ETHERTYPE_IP),
			   .ar_hln = ETH_ALEN,
			   .ar_pln = sizeof(guest),
			   .ar_op = htons(ARPOP_REQUEST)},
	};

	memset(f.ether.ether_dhost, 0xff, ETH_ALEN);
	memcpy(f.ether.ether_shost, mac, ETH_ALEN);
	memcpy(f.arp.arp_sha, mac, ETH_ALEN);
	memcpy(f.arp.arp_spa, &guest, sizeof(guest));
	memcpy(f.arp.arp_tpa, &gateway, sizeof(gateway));
	return send(child->fd, &f, sizeof(f), MSG_NOSIGNAL) == sizeof(f) ? 0 : -errno;
}

/* The next frame, whole, if it is an answer. 1: it is; 0: another; its end or nothing in time:
 * -errno. */
static int take_frame(int fd)
{
	struct arp_frame f;
	uint32_t length;
	ssize_t n = recv(fd, &length, sizeof(length), MSG_WAITALL);

	if (n != sizeof(length))
		return n < 0 ? -errno : -EPIPE;
	length = ntohl(length);
	if (length > FRAME_MAX)
		return -EPROTO;
	memset(&f, 0, sizeof(f));
	for (size_t at = 0; at < length; at += (size_t)n) {
		char rest[256];
		size_t want = length - at < sizeof(rest) ? length - at : sizeof(rest);

		n = recv(fd, rest, want, MSG_WAITALL);
		if (n <= 0)
			return n < 0 ? -errno : -EPIPE;
		if (!at)
			memcpy(&f.ether, rest,
			       (size_t)n < sizeof(f) - 4 ? (size_t)n : sizeof(f) - 4);
	}
	return f.ether.ether_type == htons(ETHERTYPE_ARP) &&
	       f.arp.ea_hdr.ar_op == htons(ARPOP_REPLY);
}

bool passt_is_noise(const char *line)
{
	return !strncmp(line, "Failed to send ", strlen("Failed to send ")) ||
	       !strncmp(line, "Don't run as root", strlen("Don't run as root"));
}

/* passt's words in one line. */
static int fail(struct child *child, const char *words, struct err *err)
{
	char line[ERR_MSG_MAX - 128] = "", ended[32];
	const char *cure = "";
	size_t n = 0;

	for (const char *at = words; *at && n < sizeof(line);) {
		int length = (int)strcspn(at, "\n");

		if (length && !passt_is_noise(at))
			n += (size_t)snprintf(line + n, sizeof(line) - n, "%s%.*s", n ? "; " : "",
					      length, at);
		at += length;
		at += *at == '\n';
	}
	if (!n) {
		child_how_ended(child, ended, sizeof(ended));
		return err_set(err, EIO, "passt: it has ended without a word (%s)", ended);
	}
	if (strstr(line, "external") || strstr(line, "External"))
		cure = " (the host needs a default route)";
	else if (strstr(line, "bind"))
		cure = " (a port in use, or one below 1024, which is root's; forward another)";
	return err_set(err, EIO, "passt: %s%s", line, cure);
}

/* Asks, and again each second: a busy host takes its time. As take_frame(), and -EAGAIN. */
static int wait_frame(struct child *child, const uint8_t mac[6], const struct net_addresses *chosen)
{
	struct pollfd frame = {.fd = child->fd, .events = POLLIN};
	int left = ANSWER_S;

	while (left--) {
		/* the socket takes it before passt is there */
		(void)ask(child, mac, chosen);
		if (poll(&frame, 1, 1000) > 0)
			return take_frame(child->fd);
	}
	return -EAGAIN;
}

/* It says much that is no reason: only its end is, and then all it said. */
static int wait_answer(struct child *child, const uint8_t mac[6],
		       const struct net_addresses *chosen, struct err *err)
{
	const struct timeval in_time = {.tv_sec = ANSWER_S}, for_ever = {0};
	char words[WORDS_MAX] = "";
	int res;

	setsockopt(child->fd, SOL_SOCKET, SO_RCVTIMEO, &in_time, sizeof(in_time));
	do {
		res = wait_frame(child, mac, chosen);
	} while (!res);
	setsockopt(child->fd, SOL_SOCKET, SO_RCVTIMEO, &for_ever, sizeof(for_ever));
	if (res == 1)
		return 0;
	child_listen(child, words, sizeof(words), 0);
	if (!*words && res != -EPIPE && res != -ECONNRESET)
		return err_sys(err, res == -EAGAIN ? ETIMEDOUT : -res, "passt does not answer");
	return fail(child, words, err);
}

int passt_open(const struct machine_net *net, struct net_addresses *addresses,
	       struct child *ret_child, struct err *err)
{
	struct net_addresses chosen = *addresses;
	struct arguments a = {.n = 0};
	int res;

	*ret_child = CHILD_NONE;
	choose(&chosen);
	make_arguments(&a, net, &chosen);
	res = child_start(a.list, "passt", false, NULL, ret_child, err);
	if (res)
		return res;
	res = wait_answer(ret_child, net->mac, &chosen, err);
	if (res) {
		child_end(ret_child);
		child_close(ret_child);
		return res;
	}
	*addresses = chosen;
	return 0;
}
