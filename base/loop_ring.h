/* The io_uring of a loop. For base/loop_uring.c. */
#ifndef BASE_LOOP_RING_H
#define BASE_LOOP_RING_H

#include "base/err.h"
#include "base/loop.h"

#include <liburing.h>

/*
 * Creates a ring that is still disabled: the thread that calls loop_ring_enable() becomes the one
 * to use it. -ENOSYS, -EPERM, -ENOMEM with a message that says what to do.
 */
int loop_ring_new(struct io_uring *ret_ring, unsigned entries, enum loop_use use, struct err *err);

/* 0 or -errno. */
int loop_ring_enable(struct io_uring *ring);

#endif
