/* A machine's network interfaces: the choice of a backend for each. For vmm/machine*.c. */
#ifndef VMM_MACHINE_NET_H
#define VMM_MACHINE_NET_H

#include "base/err.h"
#include "base/loop.h"
#include "devices/platform.h"
#include "devices/virtio/vhost_net.h"
#include "vmm/config.h"

/*
 * Opens /dev/vhost-net where it is to move the packets: where that is asked for, or the host has it
 * and it can do what is asked for: no limits, and no filter of ours against spoofing.
 */
int machine_net_open(const struct machine_net *net, struct vhost_net *ret_vhost, struct err *err);

/* Takes the config's tap over on success, and `vhost`, if it is open. */
int machine_net_device(const struct machine_net *net, struct vhost_net *vhost,
		       const struct platform *plat, struct loop *loop, struct virtio_dev **ret_dev,
		       struct err *err);

#endif
