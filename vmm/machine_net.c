/* A machine's network interfaces. See machine_net.h. */
#include "vmm/machine_net.h"

#include "base/log.h"

#include <errno.h>
#include <string.h>

static bool is_limited(const struct machine_net *net)
{
	return net->rx_bytes_per_s || net->rx_packets_per_s || net->tx_bytes_per_s ||
	       net->tx_packets_per_s;
}

/* Can the host's kernel do it alone? */
static bool fits_vhost(const struct machine_net *net)
{
	return !net->tap->socket && !is_limited(net) && (net->may_spoof || net->guarded);
}

int machine_net_open(const struct machine_net *net, struct vhost_net *ret_vhost, struct err *err)
{
	struct err why = ERR_INIT;
	int res;

	*ret_vhost = (struct vhost_net)VHOST_NET_INIT;
	if (net->backend == NET_BACKEND_BUILTIN ||
	    (net->backend == NET_BACKEND_AUTO && !fits_vhost(net)))
		return 0;
	if (!fits_vhost(net))
		return err_set(
		    err, EINVAL,
		    "network: backend=vhost needs a tap, has no limits, and here nothing "
		    "keeps the guest from spoofing: say spoof=on, or backend=builtin");
	res = vhost_net_open(VHOST_NET_DEVICE, net->tap->queues, NULL, ret_vhost, &why);
	if (res && net->backend == NET_BACKEND_VHOST)
		return err_set(err, why.code, "%s; or use backend=builtin", why.msg);
	if (res)
		log_info("%s; so it is the built-in one", why.msg);
	return 0;
}

int machine_net_device(const struct machine_net *net, struct vhost_net *vhost,
		       const struct platform *plat, struct loop *loop, struct virtio_dev **ret_dev,
		       struct err *err)
{
	struct virtio_net_config c = {
	    .mtu = net->mtu,
	    .may_spoof = net->may_spoof,
	    .ipv4 = net->addresses.guest,
	    .routed = net->addresses.containers,
	    .routed_mask =
		net->addresses.containers ? UINT32_MAX << (32 - NET_CONTAINERS_PREFIX) : 0,
	    .rx_bytes_per_s = net->rx_bytes_per_s,
	    .rx_packets_per_s = net->rx_packets_per_s,
	    .tx_bytes_per_s = net->tx_bytes_per_s,
	    .tx_packets_per_s = net->tx_packets_per_s,
	};

	_Static_assert(NET_IPV6_MAX <= VIRTIO_NET_IPV6_MAX, "the device has room");
	memcpy(c.mac, net->mac, sizeof(c.mac));
	for (unsigned i = 0; i < net->addresses.nipv6; i++)
		memcpy(c.ipv6[c.nipv6++], net->addresses.ipv6[i].bytes, sizeof(c.ipv6[0]));
	if (vhost->n)
		return virtio_vhost_net_new(&c, net->tap, vhost, plat, loop, ret_dev, err);
	return virtio_net_new(&c, net->tap, loop, ret_dev, err);
}
