/*
 * Rules of nftables that live as long as this process: translation, forwarded ports, and the guard
 * against spoofing.
 *
 * An nft(8) reads its commands from a socket and owns the tables it makes (flags owner: Linux 5.12,
 * nft 0.9.9); when the socket is closed, also by SIGKILL of this process, it ends and the kernel
 * removes them. They are named by the tap: `table inet lodge-TAP` (nat, forwards) and `table netdev
 * lodge-TAP` (the guard), or TAP where that begins so itself. Other firewalls' rules go on to hold:
 * what one of them drops stays dropped.
 *
 * 1. A guest's packets never reach 127.0.0.0/8 of the host, although forwards need route_localnet
 * on the tap; nor do packets that claim to come from there.
 * 2. No rule names anything but the tap and the guest's address, so that machines' tables add up.
 *
 * Threads: any, one at a time for a struct rules.
 */
#ifndef CONTROL_NETWORK_RULES_H
#define CONTROL_NETWORK_RULES_H

#include "base/err.h"
#include "vmm/config.h"

#include <stdbool.h>

struct rules;

/*
 * Puts in place what `net` asks for, with its interface `tap` there already.
 *
 * What is said of the guest's address below holds for net->addresses.containers too, but for ARP
 * and forwards.
 *
 * nat: what comes from net->addresses.guest by the tap leaves by other interfaces with the host's
 * address. Sets net.ipv4.ip_forward where it is 0, and leaves it so: others may rely on it by then.
 *
 * forwards: the host's ports become the guest's, for who comes from outside (ip_forward as above),
 * from another machine, and for the host itself, also at 127.0.0.1: then with `host_address`, the
 * host's in the guest's network (0: as masquerading has it).
 *
 * shares (net->nshare_ports): those ports of the host's end take connections from the guest's
 * address by its tap alone; not even this host's own.
 *
 * guard: dropped are frames from another MAC than net->mac, ARP that tells of another MAC or, where
 * net->addresses.guest is known, of another address, and then all IPv4 from another but DHCP from
 * 0.0.0.0, IPv6 from another than the given ones and the link-local one of the MAC, neighbour
 * advertisements of others, router advertisements, redirects, and frames with a VLAN tag.
 *
 * Nothing to do: 0, and *ret is NULL. -ENOENT: no nft; -ENODEV: no such tap; -EPERM: no
 * CAP_NET_ADMIN, or another process has rules of it; -EINVAL: nat or forwards without the guest's
 * address, or a name that nft cannot read; -EIO: what nft said. Waits for nft for up to 10 s.
 */
int rules_open(const struct machine_net *net, const char *tap, uint32_t host_address, bool guard,
	       struct rules **ret, struct err *err);

/*
 * Watching. nft(8) is started again when it has ended, which takes the rules along; then they are
 * put in place anew.
 *
 * rules_poll_fds(): readable when rules_look() has something to do. It says whether the rules are
 * in place, does not wait, and logs what has happened.
 */
void rules_poll_fds(const struct rules *rules, int ret_fds[2]); /* -1: none any more */
bool rules_look(struct rules *rules);

/* The rules are gone when it returns. Only rules_free() follows. */
void rules_end(struct rules *rules);
/* Also that, before. NULL is accepted. */
void rules_free(struct rules *rules);

#endif
