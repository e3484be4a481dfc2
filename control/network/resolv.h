/* The host's name servers that a guest can ask. */
#ifndef CONTROL_NETWORK_RESOLV_H
#define CONTROL_NETWORK_RESOLV_H

#include "vmm/config.h"

#include <stdint.h>

/*
 * The first IPv4 ones of /etc/resolv.conf (resolv.conf(5)) that are not this host's loopback; where
 * only systemd-resolved's 127.0.0.53 is there, those of /run/systemd/resolve/resolv.conf, which it
 * asks itself. Host byte order. How many; 0: none is known. Any thread.
 */
unsigned resolv_read(uint32_t dns[NET_DNS_MAX]);

/* The same of other files; for tests. */
unsigned resolv_read_files(const char *path, const char *resolved, uint32_t dns[NET_DNS_MAX]);

#endif
