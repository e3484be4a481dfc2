/* See control/child/watch.h. */
#include "control/child/watch.h"

#include "base/checked.h"

#include <poll.h>

static void wait_for(struct child_watch *w);

static void end_if_idle(struct child_watch *w)
{
	for (unsigned i = 0; i < ARRAY_LEN(w->fds); i++) {
		if (w->fds[i].waiting)
			return; /* came() follows */
	}
	w->over(w->ctx);
}

static void came(struct loop_op *op, int res)
{
	struct child_watched *fd = container_of(op, struct child_watched, op);
	struct child_watch *w = fd->watch;

	fd->waiting = false;
	if (w->over)
		end_if_idle(w);
	else if (res >= 0)
		wait_for(w);
}

static void wait_for(struct child_watch *w)
{
	int fds[ARRAY_LEN(w->fds)] = {-1, -1};

	w->look(w->ctx, fds);
	for (unsigned i = 0; i < ARRAY_LEN(w->fds); i++) {
		struct child_watched *fd = &w->fds[i];

		if (fd->waiting || fds[i] < 0)
			continue;
		fd->waiting = true;
		loop_poll(w->loop, &fd->op, fds[i], POLLIN);
	}
}

void child_watch_begin(struct child_watch *w, struct loop *loop,
		       void (*look)(void *ctx, int ret_fds[2]), void *ctx)
{
	*w = (struct child_watch){.loop = loop, .look = look, .ctx = ctx};
	for (unsigned i = 0; i < ARRAY_LEN(w->fds); i++) {
		w->fds[i].watch = w;
		w->fds[i].op.done = came;
	}
	wait_for(w);
}

void child_watch_end(struct child_watch *w, void (*over)(void *ctx), void *ctx)
{
	w->over = over;
	w->ctx = ctx;
	for (unsigned i = 0; i < ARRAY_LEN(w->fds); i++) {
		if (w->fds[i].waiting)
			loop_cancel(w->loop, &w->fds[i].op);
	}
	end_if_idle(w);
}
