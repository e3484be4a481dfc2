/*
 * Subnets of VMs: a tap with a network of four addresses (a /30): the host's is the second, the
 * guest's the third.
 *
 * The default pool, 100.115.92.0/24, is laid out as ChromeOS does: VMs have the /30s from .4 to
 * .127, which are 31. Of another all are used.
 *
 * The tap's name, "lodge-XXXXXXXX" with the host's address in hex, is the lock of its subnet: it is
 * made exclusively, and the kernel takes it away with its last descriptor, however a process ends.
 */
#ifndef CONTROL_NETWORK_POOL_H
#define CONTROL_NETWORK_POOL_H

#include "base/err.h"
#include "vmm/config.h"

/*
 * The first subnet that is free: opens its tap with net->queues, and fills guest, gateway and
 * prefix of net->addresses. Subnets that overlap with an address of the host are passed over. The
 * tap is down and has no address. -EBUSY: none is free; -EPERM.
 */
int pool_take(struct machine_net *net, struct tap *ret_tap, struct err *err);

/*
 * A network for containers behind the guest, whose tap is up and has its address: the first that is
 * free of the four /28 from 100.115.92.192 on. Fills addresses.containers, and routes it by the
 * guest's address; that route is its lock, which the kernel takes away with the tap. -EBUSY: none
 * is free; -EPERM.
 */
int pool_take_containers(struct machine_net *net, const struct tap *tap, struct err *err);

#endif
