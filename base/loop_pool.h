/*
 * A few threads for work that would keep a loop's thread from its I/O: unpacking, checksums.
 *
 * A job moves to the threads when it is submitted and back when its `done` is called on the loop's
 * thread, exactly once. The threads see nothing but the job.
 *
 * Threads: all functions on the loop's thread; `run` on one of the pool's.
 */
#ifndef BASE_LOOP_POOL_H
#define BASE_LOOP_POOL_H

#include "base/err.h"
#include "base/loop.h"

struct loop_pool;

struct loop_job {
	/* `thread` counts from 0: which one runs it */
	void (*run)(struct loop_job *job, unsigned thread);
	void (*done)(struct loop_job *job);
	struct loop_job *next; /* private */
};

/* Starts the threads; they ignore all signals. -EAGAIN, -EPERM, ...: the host allows none. */
int loop_pool_new(struct loop *loop, unsigned threads, struct loop_pool **ret_pool,
		  struct err *err);

/* No job may be in flight; the loop may be gone. NULL is accepted. */
void loop_pool_free(struct loop_pool *pool);

/*
 * When the loop is freed while jobs are in flight, it waits for them, and `done` is called then.
 */
void loop_pool_submit(struct loop_pool *pool, struct loop_job *job);

#endif
