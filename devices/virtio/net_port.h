/*
 * virtio-net's other side: packets in and out, one at a time, whatever carries them.
 *
 *	tap, datagram   a packet is one readv(2) or writev(2), behind the header of net_wire.h
 *	stream          each frame behind its length (32 bits, big-endian), no header; as passt(1)
 *
 * Invariants, of a stream
 *  1. A frame that was begun is sent whole: what the socket did not take is copied to `out`, so
 *that nothing depends on the guest's memory, or on the queue, any more.
 *  2. in[in_at..in_end) is what was received and not yet given away, from the start of a frame.
 *
 * Threads: one at a time.
 */
#ifndef DEVICES_VIRTIO_NET_PORT_H
#define DEVICES_VIRTIO_NET_PORT_H

#include "devices/virtio/net_wire.h"
#include "devices/virtio/tap.h"

#include <sys/types.h>
#include <sys/uio.h>

#define NET_PORT_LEN_BYTES 4
#define NET_PORT_IN	   (2 * (NET_PORT_LEN_BYTES + NET_FRAME_MAX))

struct net_port {
	int fd; /* not owned */
	bool stream;
	bool datagram; /* SOCK_DGRAM, where a packet may be empty */
	unsigned lost; /* reads in a row that failed */
	unsigned in_at, in_end;
	unsigned out_at, out_end;
	uint8_t in[NET_PORT_IN];
	uint8_t out[NET_FRAME_MAX];
};

/* At its start; another descriptor begins with nothing of the former. */
void net_port_init(struct net_port *port, const struct tap *tap, unsigned queue);

/*
 * Reads one packet with its header, a stream's being zero. The iovecs hold the longest packet and
 * more. Its bytes; -EAGAIN: none now, POLLIN tells; -EIO: one was lost; -EPIPE: the end.
 */
ssize_t net_port_read(struct net_port *port, const struct iovec *iov, unsigned niov);

/*
 * Writes one packet; iov[0] holds at least its header, and the bytes of that are the port's to use.
 * 0; -EAGAIN: not now, POLLOUT tells; -EIO: it was not taken; -EPIPE: the end.
 */
int net_port_write(struct net_port *port, struct iovec *iov, unsigned niov, size_t frame_bytes);

/* Sends what is left of a frame: 0: nothing is; -EAGAIN, -EPIPE as above. */
int net_port_flush(struct net_port *port);

#endif
