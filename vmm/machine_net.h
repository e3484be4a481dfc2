/* A machine's network interfaces: the choice of a backend for each. For vmm/machine*.c. */
#ifndef VMM_MACHINE_NET_H
#define VMM_MACHINE_NET_H

#include "base/err.h"
#include "base/loop.h"
#include "devices/platform.h"
#include "devices/virtio/virtio.h"
#include "vmm/config.h"

/* Takes the config's tap over on success. */
int machine_net_device(const struct machine_net *net, const struct platform *plat, struct loop *loop,
		       struct virtio_dev **ret_dev, struct err *err);

#endif
