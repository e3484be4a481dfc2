/* A machine's vsock: the choice of a backend, its cid, the host's socket and this process's own
 * port. For vmm/machine*.c. */
#ifndef VMM_MACHINE_VSOCK_H
#define VMM_MACHINE_VSOCK_H

#include "base/err.h"
#include "devices/platform.h"
#include "devices/virtio/vhost_vsock.h"
#include "vmm/cid.h"
#include "vmm/config.h"
#include "vmm/machine.h"
#include "vmm/vsock_port.h"

/* What is open of the host. */
struct machine_vsock {
	struct cid cid;		 /* .cid 0: the machine has no vsock */
	bool by_host;		 /* vhost, not built-in */
	struct vhost vhost;	 /* until it is the device's */
	struct vsock_port *port; /* this process's; NULL: none */
	int listen_fd;		 /* at the config's socket; -1: none */
	int dir_fd;		 /* its folder, where the guest's connections go as well */
	const char *name;	 /* its name there */
};

#define MACHINE_VSOCK_INIT                                                          \
	{                                                                           \
		.cid = CID_INIT, .vhost = VHOST_INIT, .listen_fd = -1, .dir_fd = -1 \
	}

/*
 * The file of the socket is left behind: who locked the process in removes it, or the next machine
 * of that name. Free comes after a failed open as well.
 */
int machine_vsock_open(struct machine_vsock *v, const struct machine_config *config,
		       struct loop *control, const struct machine_callbacks *callbacks,
		       struct err *err);
/* The device's loop is of machine_io_sockets(), in `dir_fd`. */
int machine_vsock_device(struct machine_vsock *v, const struct platform *plat, struct loop *loop,
			 struct virtio_dev **ret_dev, struct err *err);
void machine_vsock_free(struct machine_vsock *v);

#endif
