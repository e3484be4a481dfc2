/* A machine's network interfaces. See machine_net.h. */
#include "vmm/machine_net.h"

#include "devices/virtio/net.h"

#include <string.h>

int machine_net_device(const struct machine_net *net, const struct platform *plat, struct loop *loop,
		       struct virtio_dev **ret_dev, struct err *err)
{
	struct virtio_net_config c = {.mtu = net->mtu};

	(void)plat;
	memcpy(c.mac, net->mac, sizeof(c.mac));
	return virtio_net_new(&c, net->tap, loop, ret_dev, err);
}
