/* See networks.h. */
#include "control/network/networks.h"

#include "base/cleanup.h"

static bool is_hosts(const struct machine_net *net)
{
	return net->kind == NET_AUTO || net->kind == NET_POOL || net->kind == NET_PASST;
}

static int open_one(struct machine_net *net, const struct networks_rights *rights,
		    struct network **ret_network, struct err *err)
{
	const bool assume = is_hosts(net) && rights->as_host;
	struct err back = ERR_INIT;
	int res = assume ? rights->as_host(rights->ctx, true, err) : 0;

	if (res)
		return res;
	res = network_open(net, ret_network, err);
	if (assume && rights->as_host(rights->ctx, false, &back))
		return err_set(err, back.code, "%s", back.msg);
	return res;
}

int networks_open(struct networks *networks, struct machine_config *config,
		  const struct networks_rights *rights, struct err *err)
{
	int res = 0;

	for (unsigned i = 0; i < config->nnets && !res; i++)
		res = open_one(&config->nets[i], rights, &networks->list[i], err);
	if (res)
		networks_free(networks);
	return res;
}

void networks_free(struct networks *networks)
{
	for (unsigned i = 0; i < MACHINE_NETS_MAX; i++)
		network_free(steal_ptr(&networks->list[i]));
}
