/* See control/network/resolv.h. */
#include "control/network/resolv.h"

#include <arpa/inet.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define RESOLVED_STUB UINT32_C(0x7f000035) /* 127.0.0.53 */

/* "nameserver ADDRESS", spaces or tabs in front, between and behind. */
static bool parse_line(const char *line, uint32_t *ret_address)
{
	static const char blank[] = " \t\r\n";
	char text[INET_ADDRSTRLEN];
	struct in_addr in;
	size_t n;

	line += strspn(line, blank);
	n = strcspn(line, blank);
	if (n != strlen("nameserver") || strncmp(line, "nameserver", n) != 0)
		return false;
	line += n + strspn(line + n, blank);
	n = strcspn(line, blank);
	if (!n || n >= sizeof(text))
		return false;
	memcpy(text, line, n);
	text[n] = 0;
	if (inet_pton(AF_INET, text, &in) != 1)
		return false;
	*ret_address = ntohl(in.s_addr);
	return true;
}

static unsigned read_file(const char *path, uint32_t dns[NET_DNS_MAX], bool *ret_stub)
{
	FILE *file = fopen(path, "re");
	uint32_t address;
	char line[512];
	unsigned n = 0;

	*ret_stub = false;
	while (file && n < NET_DNS_MAX && fgets(line, sizeof(line), file)) {
		if (!parse_line(line, &address))
			continue;
		*ret_stub |= address == RESOLVED_STUB;
		/* 0.0.0.0 is this host as well */
		if (address >> 24 != 127 && address)
			dns[n++] = address;
	}
	if (file)
		fclose(file);
	return n;
}

unsigned resolv_read_files(const char *path, const char *resolved, uint32_t dns[NET_DNS_MAX])
{
	bool stub, ignored;
	unsigned n = read_file(path, dns, &stub);

	return n || !stub ? n : read_file(resolved, dns, &ignored);
}

unsigned resolv_read(uint32_t dns[NET_DNS_MAX])
{
	return resolv_read_files("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf", dns);
}
