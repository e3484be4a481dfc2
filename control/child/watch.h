/*
 * Watching a program with a keeper, or two of its descriptors: who has it is called when one can be
 * read, and looks (child_news(), child_hear()).
 *
 * Threads: the loop's.
 */
#ifndef CONTROL_CHILD_WATCH_H
#define CONTROL_CHILD_WATCH_H

#include "base/loop.h"

#include <stdbool.h>

struct child_watch {
	struct loop *loop; /* NULL: nothing has been watched */
	/* Looks, and says what to wait for next; -1: none. */
	void (*look)(void *ctx, int ret_fds[2]);
	void (*over)(void *ctx); /* of child_watch_end() */
	void *ctx;
	struct child_watched {
		struct child_watch *watch;
		struct loop_op op;
		bool waiting;
	} fds[2];
};

/* `look` is called at once as well. *watch lives until child_watch_end() is over. */
void child_watch_begin(struct child_watch *watch, struct loop *loop,
		       void (*look)(void *ctx, int ret_fds[2]), void *ctx);

/* `look` is not called any more. `over` is, with the same ctx, when nothing waits for the
 * descriptors any more: then they, and *watch, may go. Of one that was never begun: at once. */
void child_watch_end(struct child_watch *watch, void (*over)(void *ctx), void *ctx);

#endif
