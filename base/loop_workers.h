/*
 * A pool of threads that carries out positioned I/O for the epoll backend.
 *
 * Threads: one owner calls everything; operations move to the workers with submit and come back
 * with collect, and belong to the other side in between.
 */
#ifndef BASE_LOOP_WORKERS_H
#define BASE_LOOP_WORKERS_H

#include "base/err.h"
#include "base/loop_priv.h"

struct loop_workers;

/* `loop` is woken when something has completed; it outlives the workers. */
int loop_workers_new(struct loop *loop, unsigned count, struct loop_workers **ret_workers,
		     struct err *err);

/* Ends the threads; what they are at is finished, what they did not begin is -ECANCELED. */
void loop_workers_stop(struct loop_workers *w);

/* Must be stopped. NULL is accepted. */
void loop_workers_free(struct loop_workers *w);

/* Takes over all of `list`, in order. */
void loop_workers_submit(struct loop_workers *w, struct op_list *list);

/* Appends what has completed, with p.res set. */
void loop_workers_collect(struct loop_workers *w, struct op_list *ret_list);

/* True: it had not begun and is the owner's again. */
bool loop_workers_cancel(struct loop_workers *w, struct loop_op *op);

#endif
