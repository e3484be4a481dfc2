/*
 * A port of the host that a machine's own process serves, for its guest alone: each stream that the
 * guest opens to it comes to the control loop.
 *
 *   vhost      an AF_VSOCK listener; connections that are not this guest's are dropped
 *   built-in   the device's thread gives an end of a socket pair for each
 *
 * Threads: made and freed on the control loop's, or on any before it runs; vsock_port_give() on
 * any.
 */
#ifndef VMM_VSOCK_PORT_H
#define VMM_VSOCK_PORT_H

#include "base/err.h"
#include "base/loop.h"

#include <stdbool.h>
#include <stdint.h>

struct vsock_port;

/* Streams of the guest that wait for the control loop; those above are refused. */
#define VSOCK_PORT_WAITING 64

/* `accepted` takes over what comes, on the loop's thread. -ENOMEM. */
int vsock_port_new(struct loop *loop, uint32_t port, void (*accepted)(void *ctx, int fd), void *ctx,
		   struct vsock_port **ret_port, struct err *err);

/*
 * Vhost: listens at the port, or at any that is free where another process has it, for the guest
 * with this cid; from vsock_port_start() on, connections are taken.
 */
int vsock_port_listen(struct vsock_port *p, uint32_t guest_cid, struct err *err);
void vsock_port_start(struct vsock_port *p);

/* The port that it really is. */
uint32_t vsock_port_number(const struct vsock_port *p);

/* False: too many wait, and `fd` stays the caller's. */
bool vsock_port_give(void *port, int fd);

/* Nobody gives any more. `accepted` is not called afterwards. NULL is accepted. */
void vsock_port_free(struct vsock_port *p);

#endif
