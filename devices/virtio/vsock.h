/*
 * virtio-vsock (virtio 1.2 §5.10), stream sockets: the built-in backend.
 *
 * The host's side is Unix sockets, by the convention that Firecracker began and others share:
 *
 *   host to guest   a program connects to PATH and writes "CONNECT <port>\n"; when the guest's
 *                   listener on that port has accepted it reads "OK <local port>\n", then both
 *                   sides stream. A refused connection is closed without a word.
 *   guest to host   a guest that connects to port P of the host (cid 2) is connected to the Unix
 *                   socket PATH_P; where nobody listens it is refused.
 *
 * The process itself needs no path: virtio_vsock_adopt() takes an end of a socket pair for what a
 * program's connection is, and one port of the host can be its own.
 *
 * Half close goes both ways: shutdown(2) on either side is an end of file on the other.
 *
 * What the guest can make the host keep is bounded: VSOCK_CONNS_MAX connections, the window of each
 * (vsock_priv.h), and answers that wait; beyond that the device takes nothing more from the guest
 * until the guest has taken what waits. A guest that sends more than its window, or packets that
 * fit no connection, has that connection reset; malformed descriptors end in NEEDS_RESET.
 *
 * Threads: all on one loop. The host's programs are trusted as far as the modes of the socket and
 * its folder go.
 */
#ifndef DEVICES_VIRTIO_VSOCK_H
#define DEVICES_VIRTIO_VSOCK_H

#include "base/err.h"
#include "base/loop.h"
#include "devices/virtio/virtio.h"

#define VSOCK_CID_HOST	2
#define VSOCK_CID_FIRST 3
#define VSOCK_CID_MAX	0xfffffffeu /* the one above means "any" */

/* Connections of one guest, those that are just being made or ended included. */
#define VSOCK_CONNS_MAX 1024

/* PATH, so that "_4294967295" and a NUL fit into sun_path. */
#define VSOCK_PATH_MAX 96

struct virtio_vsock_config {
	uint32_t cid;
	const char *path; /* PATH; copied; NULL: connections of the guest are refused */
	int listen_fd;	/* listens at PATH; the device's on success; -1: none come from the host */
	unsigned conns; /* at most; 0: VSOCK_CONNS_MAX */

	/*
	 * Takes one end of a socket pair over, whose other is the guest's new connection to
	 * `own_port` of the host. False: it does not, and the guest is refused. On the loop's
	 * thread. NULL: that port is as any other.
	 */
	bool (*accepted)(void *ctx, int fd);
	void *ctx;
	uint32_t own_port;
};

/*
 * `loop`, which does not run yet, serves the device. -EINVAL: a number is out of range;
 * -ENAMETOOLONG: the path; -ENOMEM, -EMFILE.
 */
int virtio_vsock_new(const struct virtio_vsock_config *config, struct loop *loop,
		     struct virtio_dev **ret_dev, struct err *err);

/*
 * Serves `fd`, one end of a stream socket pair, as a connection accepted at PATH: "CONNECT
 * <port>\n" comes first. It waits until there are a driver and room, and is closed at once where
 * VSOCK_CONNS_MAX wait already. Any thread, until the device is freed.
 */
void virtio_vsock_adopt(struct virtio_dev *dev, int fd);

/* Connections now, those that are just being made or ended included. The loop's thread, or while
 * the loop does not run. */
unsigned virtio_vsock_conns(struct virtio_dev *dev);

#endif
