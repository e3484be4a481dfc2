/* See network.h. Of the kinds, taps by name so far. */
#include "control/network/network.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

struct network {
	struct tap tap;
};

/* Locally administered, and no group's. */
static int make_mac(uint8_t mac[6], struct err *err)
{
	if (getrandom(mac, 6, 0) != 6)
		return err_sys(err, errno, "network: random numbers");
	mac[0] = (uint8_t)((mac[0] & 0xfc) | 2);
	return 0;
}

int network_open(struct machine_net *net, struct network **ret_network, struct err *err)
{
	static const uint8_t none[6];
	struct network *n;
	int res;

	if (net->kind != NET_TAP)
		return err_set(err, ENOTSUP, "network: only tap=NAME is there so far");
	n = calloc(1, sizeof(*n));
	if (!n)
		return err_set(err, ENOMEM, "network: out of memory");
	res = tap_open(net->name, net->queues ? net->queues : 1, false, &n->tap, err);
	if (!res && !memcmp(net->mac, none, sizeof(none)))
		res = make_mac(net->mac, err);
	if (res) {
		network_free(n);
		return res;
	}
	net->tap = &n->tap;
	*ret_network = n;
	return 0;
}

void network_free(struct network *network)
{
	if (!network)
		return;
	tap_close(&network->tap);
	free(network);
}
