/*
 * Work that may block (files of a client, the making of a machine), off the loop's thread.
 *
 * At most BACKGROUND_MAX run at a time, each on a thread of its own; further ones wait in order.
 *
 * Threads: the loop's, but `work`, which runs on its own and touches only what is its own.
 */
#ifndef CONTROL_BACKGROUND_H
#define CONTROL_BACKGROUND_H

#include "base/loop.h"

#include <pthread.h>

#define BACKGROUND_MAX 16

/* One piece of work; the caller's, until `done`. */
struct background_job {
	void (*work)(struct background_job *job);
	void (*done)(struct background_job *job); /* on the loop's thread, never from within run */
	/* private */
	struct background *owner;
	pthread_t thread;
	struct loop_msg msg;
	struct background_job *next;
};

struct background {
	struct loop *loop;
	unsigned running;
	struct background_job *waiting, **tail;
	bool draining, timed_out;
	struct loop_timer timer;
};

void background_init(struct background *bg, struct loop *loop);

/* Where no thread can be made the work waits until another one ends, or is done on the spot. */
void background_run(struct background *bg, struct background_job *job);

/*
 * While the loop does not run: runs it until all work is done, for `timeout_ms` at most. False:
 * some hangs (a dead file server), and what it uses must stay until the process ends.
 */
bool background_drain(struct background *bg, unsigned timeout_ms);

#endif
