/*
 * Context ids (cids) of guests, the addresses of vsock: from 3 up, each given once while the host
 * is up, and never to two machines at a time.
 *
 * A file on a file system that a restart of the host empties holds the next cid as a decimal
 * number; byte N of it is locked (F_OFD_SETLK) by the machine that has cid N, byte 0 by whoever
 * changes the number. The file may be missing. It is CID_FILE, or, where this user cannot make
 * that, $XDG_RUNTIME_DIR/lodge-cid: users without a common file can meet in the same cid, which
 * vhost then refuses and the built-in vsock does not mind, its cids being known to the guest alone.
 *
 * Threads: any, on cids of their own; processes are kept apart by the locks.
 */
#ifndef VMM_CID_H
#define VMM_CID_H

#include "base/err.h"

#include <stdint.h>

#define CID_FILE "/run/lodge/cid"

struct cid {
	uint32_t cid;
	int fd; /* holds the lock; -1: none */
};

#define CID_INIT         \
	{                \
		.fd = -1 \
	}

/*
 * Takes a cid: `wanted`, or the next where that is 0. `claim` has the last word and may be NULL:
 * -EADDRINUSE of it means that others of this host have the cid. `path` NULL: as above.
 * -EADDRINUSE: `wanted` is in use; -EPROTO: the file holds no number; -ENOSPC: all were used.
 */
int cid_take(const char *path, uint32_t wanted, int (*claim)(void *ctx, uint32_t cid), void *ctx,
	     struct cid *ret_cid, struct err *err);

/* The cid is not used again while the host is up, unless someone asks for it by number. */
void cid_drop(struct cid *cid);

#endif
