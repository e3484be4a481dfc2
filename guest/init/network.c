/*
 * Interfaces, where no agent configures them: addresses, default route, name servers. By ioctls
 * (netdevice(7)), which need no more than a socket.
 *
 * A line of the conf: the interface's hardware address, then words, in any order:
 *   4:ADDRESS/BITS  6:ADDRESS/BITS  g:GATEWAY  d:NAMESERVER
 */
#include "init.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/ipv6.h>
#include <net/if.h>
#include <net/route.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAC_BYTES	6
#define INTERFACES_MAX	64 /* that are looked at */
#define WORD_BYTES_MAX	64
#define RESOLV_CONF	"/etc/resolv.conf"
#define RESOLV_CONF_NEW RESOLV_CONF ".lodge"

/* "02:00:64:73:5c:06" */
static bool parse_mac(const char *text, unsigned char ret_mac[MAC_BYTES])
{
	for (int i = 0; i < MAC_BYTES; i++, text += 3) {
		char *end;

		ret_mac[i] = (unsigned char)strtoul(text, &end, 16);
		if (end != text + 2 || (i + 1 < MAC_BYTES && *end != ':'))
			return false;
	}
	return true;
}

/* Its name and index into `ret`. */
static bool find_interface(int fd, const unsigned char mac[MAC_BYTES], struct ifreq *ret,
			   int *ret_index)
{
	for (int index = 1; index <= INTERFACES_MAX; index++) {
		*ret = (struct ifreq){.ifr_ifindex = index};
		if (ioctl(fd, SIOCGIFNAME, ret) < 0 || ioctl(fd, SIOCGIFHWADDR, ret) < 0 ||
		    memcmp(ret->ifr_hwaddr.sa_data, mac, MAC_BYTES) != 0)
			continue;
		*ret_index = index;
		return true;
	}
	return false;
}

static void put_ipv4(struct sockaddr *ret, in_addr_t address)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = address};

	memcpy(ret, &in, sizeof(in));
}

/* "ADDRESS/BITS", of which the address becomes a string of its own. */
static unsigned split_prefix(char *text)
{
	char *slash = strchr(text, '/');

	if (!slash)
		return 0;
	*slash = '\0';
	return (unsigned)strtoul(slash + 1, NULL, 10);
}

static bool set_flags_up(int fd, struct ifreq *ifr)
{
	if (ioctl(fd, SIOCGIFFLAGS, ifr) < 0)
		return false;
	ifr->ifr_flags |= IFF_UP;
	return ioctl(fd, SIOCSIFFLAGS, ifr) >= 0;
}

static bool add_ipv4(int fd, struct ifreq *ifr, char *text)
{
	unsigned bits = split_prefix(text);
	struct in_addr address;

	if (inet_pton(AF_INET, text, &address) != 1 || bits > 32)
		return false;
	put_ipv4(&ifr->ifr_addr, address.s_addr);
	if (ioctl(fd, SIOCSIFADDR, ifr) < 0)
		return false;
	put_ipv4(&ifr->ifr_netmask, htonl(bits ? ~0u << (32 - bits) : 0));
	return ioctl(fd, SIOCSIFNETMASK, ifr) >= 0;
}

static bool add_ipv6(int index, char *text)
{
	struct in6_ifreq r = {.ifr6_ifindex = index, .ifr6_prefixlen = split_prefix(text)};
	int fd, res;

	if (inet_pton(AF_INET6, text, &r.ifr6_addr) != 1)
		return false;
	fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return false;
	res = ioctl(fd, SIOCSIFADDR, &r);
	close(fd);
	return res >= 0 || errno == EEXIST;
}

static bool add_gateway(int fd, const char *text)
{
	struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
	struct in_addr address;

	if (inet_pton(AF_INET, text, &address) != 1)
		return false;
	put_ipv4(&route.rt_gateway, address.s_addr);
	put_ipv4(&route.rt_dst, INADDR_ANY);
	put_ipv4(&route.rt_genmask, INADDR_ANY);
	return ioctl(fd, SIOCADDRT, &route) >= 0 || errno == EEXIST;
}

/* The next word of a line, and what is behind it; NULL: there is none. */
static const char *next_word(const char *at, char ret_word[static WORD_BYTES_MAX])
{
	size_t len;

	at += strspn(at, " ");
	len = strcspn(at, " ");
	if (!len || len >= WORD_BYTES_MAX)
		return NULL;
	memcpy(ret_word, at, len);
	ret_word[len] = '\0';
	return at + len;
}

static bool take_word(int fd, struct ifreq *ifr, int index, char *word)
{
	errno = EINVAL;
	switch (word[0]) {
	case '4':
		return add_ipv4(fd, ifr, word + 2);
	case '6':
		return add_ipv6(index, word + 2);
	case 'g':
		return add_gateway(fd, word + 2);
	default:
		return true;
	}
}

static void set_up(int fd, const char *line)
{
	char word[WORD_BYTES_MAX], whole[WORD_BYTES_MAX];
	unsigned char mac[MAC_BYTES];
	struct ifreq ifr;
	int index;

	line = next_word(line, word);
	if (!line || !parse_mac(word, mac))
		return;
	if (!find_interface(fd, mac, &ifr, &index)) {
		say("no network interface ", word,
		    "; does the kernel have its driver (virtio_net)? (--modules DIR)");
		return;
	}
	if (!set_flags_up(fd, &ifr))
		say("network interface ", ifr.ifr_name, ": ", strerror(errno));
	while ((line = next_word(line, word))) {
		memcpy(whole, word, sizeof(whole));
		if (!take_word(fd, &ifr, index, word))
			say("network interface ", ifr.ifr_name, ": ", whole + 2, ": ",
			    strerror(errno));
	}
}

void network_set_up(const struct conf *conf)
{
	struct ifreq lo = {.ifr_name = "lo"};
	int fd;

	if (!conf->net[0])
		return;
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0) {
		say("this kernel has no network: ", strerror(errno));
		return;
	}
	(void)set_flags_up(fd, &lo);
	for (int i = 0; i < CONF_NETS && conf->net[i]; i++)
		set_up(fd, conf->net[i]);
	close(fd);
}

/* ---- name servers ---- */

static void write_servers(int fd, const char *line)
{
	char word[WORD_BYTES_MAX];

	while ((line = next_word(line, word))) {
		if (word[0] != 'd')
			continue;
		(void)!write(fd, "nameserver ", 11);
		(void)!write(fd, word + 2, strlen(word + 2));
		(void)!write(fd, "\n", 1);
	}
}

void network_name_servers(const struct conf *conf)
{
	bool any = false;
	int fd;

	for (int i = 0; i < CONF_NETS && conf->net[i]; i++)
		any |= strstr(conf->net[i], " d:") != NULL;
	if (!any)
		return;
	/* a root that may not be written keeps what it has */
	fd = open(RESOLV_CONF_NEW, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0)
		return;
	for (int i = 0; i < CONF_NETS && conf->net[i]; i++)
		write_servers(fd, conf->net[i]);
	close(fd);
	if (rename(RESOLV_CONF_NEW, RESOLV_CONF) < 0)
		unlink(RESOLV_CONF_NEW);
}
