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

/* ---- while the machine runs ---- */

static void apply(const struct networks_link *link)
{
	machine_net_set_link(link->machine, link->index, !link->unplugged && !link->broken);
}

static void whole(void *ctx, bool is_whole)
{
	struct networks_link *link = ctx;

	link->broken = !is_whole;
	apply(link);
}

static void reconnect(void *ctx, int fd)
{
	const struct networks_link *link = ctx;

	machine_net_reconnect(link->machine, link->index, fd);
}

void networks_watch(struct networks *networks, struct machine *machine, struct loop *loop)
{
	for (unsigned i = 0; i < MACHINE_NETS_MAX; i++) {
		struct networks_link *link = &networks->links[i];

		*link = (struct networks_link){.machine = machine, .index = i};
		if (networks->list[i])
			network_watch(networks->list[i], loop,
				      &(struct network_events){
					  .whole = whole, .reconnect = reconnect, .ctx = link});
	}
}

void networks_set_link(struct networks *networks, unsigned n, bool up)
{
	networks->links[n].unplugged = !up;
	apply(&networks->links[n]);
}

void networks_stats(const struct networks *networks, unsigned n, struct virtio_net_stats *ret_stats)
{
	if (!machine_net_stats(networks->links[n].machine, n, ret_stats) && networks->list[n])
		network_stats(networks->list[n], ret_stats);
}

const char *networks_tap(const struct networks *networks, unsigned n)
{
	return networks->list[n] ? network_tap(networks->list[n]) : "";
}

void networks_free(struct networks *networks)
{
	for (unsigned i = 0; i < MACHINE_NETS_MAX; i++)
		network_free(steal_ptr(&networks->list[i]));
}
