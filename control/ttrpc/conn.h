/*
 * One connection that carries ttrpc frames: reading, and a bounded queue of what is to be written.
 * Server and client stand on it. For control/ttrpc/ only.
 *
 *   new --close--> draining its operations --> freed by itself
 *
 * Invariants
 *  1. No callback comes after ttrpc_conn_close(), which may be called from any of them.
 *  2. At most TTRPC_QUEUE_MAX bytes wait for the peer, plus what the kernel holds. A peer that
 *     does not read is not read from either above TTRPC_QUEUE_HIGH, and is closed above the limit.
 *
 * Threads: the loop's.
 */
#ifndef CONTROL_TTRPC_CONN_H
#define CONTROL_TTRPC_CONN_H

#include "base/loop.h"
#include "control/ttrpc/frame.h"

#define TTRPC_QUEUE_HIGH (256 * 1024)
#define TTRPC_QUEUE_MAX	 (16 * 1024 * 1024) /* several answers of the largest size */

struct ttrpc_conn;

struct ttrpc_conn_ops {
	void (*frame)(void *ctx, const struct ttrpc_header *header, const uint8_t *data);
	/* Announces more than TTRPC_DATA_MAX; its data is skipped. */
	void (*oversized)(void *ctx, const struct ttrpc_header *header);
	/* Everything that was queued is with the kernel. */
	void (*drained)(void *ctx);
	/* The peer is gone (0), or the connection failed (-errno). Once; close it then. */
	void (*closed)(void *ctx, int error);
};

/* Takes `fd` over, a connected stream socket, also on failure. 0 or -ENOMEM. */
int ttrpc_conn_new(struct loop *loop, int fd, const struct ttrpc_conn_ops *ops, void *ctx,
		   struct ttrpc_conn **ret_conn);

/*
 * Queues a frame; header->len_bytes of `data` are copied. -ENOBUFS: the peer does not read and the
 * connection ends; -ENOMEM likewise; -EPIPE: it has ended. Where it ends, `closed` follows later.
 */
int ttrpc_conn_send(struct ttrpc_conn *conn, const struct ttrpc_header *header, const void *data);

/* Takes nothing more from the peer, or goes on. */
void ttrpc_conn_hold(struct ttrpc_conn *conn, bool hold);

/* Bytes that the kernel has not taken yet. */
size_t ttrpc_conn_queued(const struct ttrpc_conn *conn);

/* Closes the socket; what is queued is lost. NULL is accepted. */
void ttrpc_conn_close(struct ttrpc_conn *conn);

#endif
