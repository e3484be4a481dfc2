/* One attempt at an operation by system call. For base/loop_epoll.c and base/loop_workers.c. */
#ifndef BASE_LOOP_TRY_H
#define BASE_LOOP_TRY_H

#include "base/loop_priv.h"

#include <stdbool.h>

/*
 * A stream operation, without blocking: its result, or -EAGAIN when the descriptor has to become
 * ready first. `always_ready`: it cannot be waited for (a regular file), so it may be waited on.
 */
int loop_try_stream(const struct loop_op *op, bool always_ready);

/* A positioned operation; takes as long as the disk takes. */
int loop_try_positioned(const struct loop_op *op);

#endif
