/*
 * A tap interface: one descriptor for each queue, each packet behind a struct virtio_net_hdr of 12
 * bytes, little-endian (linux/if_tun.h, Documentation/networking/tuntap.rst).
 *
 * A datagram socket (SOCK_SEQPACKET or SOCK_DGRAM) may stand in its place: packets with the same
 * header go through it one by one, and what only a tap can do (offloads, filter) is left out. Or a
 * stream socket, as of passt(1): each frame behind its length, 32 bits big-endian, and no header.
 *
 * Threads: opened by one thread; afterwards the device's loop uses it.
 */
#ifndef DEVICES_VIRTIO_TAP_H
#define DEVICES_VIRTIO_TAP_H

#include "base/err.h"

#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>

#define TAP_DEVICE     "/dev/net/tun"
#define TAP_QUEUES_MAX 7 /* pairs, and a control queue, in VIRTIO_QUEUES_MAX */

struct tap {
	int fds[TAP_QUEUES_MAX]; /* O_NONBLOCK; -1 from `queues` on */
	unsigned queues;	 /* 0: not open */
	bool socket;		 /* no tap but a socket */
	bool stream;		 /* and that one of a stream */
	bool multi;		 /* queues can be detached */
	bool uso;		 /* the kernel takes UDP segmentation */
	char name[IFNAMSIZ];	 /* "" for a socket */
};

/* Offloads: what the guest takes from us unfinished. */
#define TAP_CSUM 1u
#define TAP_TSO4 2u
#define TAP_TSO6 4u
#define TAP_ECN	 8u
#define TAP_USO4 0x20u
#define TAP_USO6 0x40u

/*
 * Opens `queues` queues of interface `name`, which is made, and goes again with the last of them,
 * where there is none and the process may (CAP_NET_ADMIN). `exclusive`: only where there is none, so
 * that two who choose the same name never share. -EPERM, -EBUSY (exclusive: there is one; else
 * another process has all queues), -EINVAL (the interface is of another kind): the message says what
 * to do.
 */
int tap_open(const char *name, unsigned queues, bool exclusive, struct tap *ret_tap,
	     struct err *err);

/* Takes `fd` over on success, one queue. -EINVAL: it is no tap with IFF_VNET_HDR and IFF_NO_PI, and
 * no datagram socket. */
int tap_adopt(int fd, struct tap *ret_tap, struct err *err);

/* Likewise a connected stream socket. -EINVAL: it is none. */
int tap_adopt_stream(int fd, struct tap *ret_tap, struct err *err);
void tap_close(struct tap *tap); /* what is not open is accepted */

/* 0 or -errno; 0 for what a socket cannot do. */
int tap_set_offloads(const struct tap *tap, unsigned offloads);

/* Idempotent is the caller's. Nothing for queue 0, which stays: without any, the interface takes no
 * offloads and no filter. */
int tap_set_queue(const struct tap *tap, unsigned queue, bool on);

/*
 * Passes packets for these addresses only. `n` 0: all packets. TAP_MACS_MAX at most. The kernel
 * compares with the first 8; further ones of groups it hashes, so others of the same hash pass as
 * well; with one of an interface behind those 8 it passes all packets. So: interfaces first.
 */
#define TAP_MACS_MAX 66
int tap_set_filter(const struct tap *tap, const uint8_t (*macs)[6], unsigned n, bool allmulti);

#endif
