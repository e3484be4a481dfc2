/* The packets of virtio-vsock (virtio 1.2 §5.10.6): a header, then the data of an RW packet. */
#ifndef DEVICES_VIRTIO_VSOCK_WIRE_H
#define DEVICES_VIRTIO_VSOCK_WIRE_H

#include "base/bytes.h"

#include <stddef.h>

#define VSOCK_TYPE_STREAM 1

enum vsock_op {
	VSOCK_OP_INVALID,
	VSOCK_OP_REQUEST,
	VSOCK_OP_RESPONSE,
	VSOCK_OP_RST,
	VSOCK_OP_SHUTDOWN,
	VSOCK_OP_RW,
	VSOCK_OP_CREDIT_UPDATE,
	VSOCK_OP_CREDIT_REQUEST,
};

/* Flags of SHUTDOWN: what the sender of the packet will not do any more. */
#define VSOCK_SHUT_RECV 1u
#define VSOCK_SHUT_SEND 2u
#define VSOCK_SHUT_BOTH (VSOCK_SHUT_RECV | VSOCK_SHUT_SEND)

struct vsock_hdr {
	struct le64 src_cid;
	struct le64 dst_cid;
	struct le32 src_port;
	struct le32 dst_port;
	struct le32 len; /* bytes of data that follow */
	struct le16 type;
	struct le16 op;
	struct le32 flags;
	struct le32 buf_alloc; /* the sender's whole receive buffer of this connection */
	struct le32 fwd_cnt;   /* bytes it has passed on so far, modulo 2^32 */
};
_Static_assert(sizeof(struct vsock_hdr) == 44, "wire size");
_Static_assert(offsetof(struct vsock_hdr, type) == 28, "wire offset");
_Static_assert(offsetof(struct vsock_hdr, fwd_cnt) == 40, "wire offset");

struct vsock_config_wire {
	struct le64 guest_cid;
};

/* The device's queues; config space holds the cid. */
enum {
	VSOCK_QUEUE_RX,
	VSOCK_QUEUE_TX,
	VSOCK_QUEUE_EVENT,
	VSOCK_QUEUES,
};

#define VSOCK_QUEUE_SIZE 256

#endif
