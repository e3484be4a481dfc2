/*
 * The commit of an attached image: many writes at a time, through the loop.
 *
 * disk/qcow2/commit.c says what comes next; here it is done.
 */
#include "disk/qcow2/engine.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void go_on(struct qcow2 *q);

static void submit_to(struct image *file, struct image_req *io)
{
	io->p.img = file;
	file->inflight++;
	file->driver->submit(file, io);
}

static void begin(struct qcow2 *q)
{
	struct q2_writeback *wb = &q->engine->wb;

	wb->running = true;
	wb->res = 0;
	wb->serving = wb->waiting;
	wb->waiting = (struct q2_ops){0};
	q2_commit_begin(q, &wb->progress);
	go_on(q);
}

void q2_commit(struct q2_op *op, void (*step)(struct q2_op *op))
{
	struct qcow2 *q = op->q;
	struct q2_writeback *wb = &q->engine->wb;

	q2_wait(op, &wb->waiting, step);
	if (!wb->running)
		begin(q);
}

static void over(struct qcow2 *q)
{
	struct q2_writeback *wb = &q->engine->wb;
	/* not enough memory to give everything up at once: the next commit goes on */
	int res = wb->res == -ENOBUFS ? 0 : wb->res;

	q2_commit_end(q, &wb->progress, wb->res);
	q2_wake(q, &q->engine->thaw, 0);
	q2_wake(q, &wb->serving, res);
	wb->running = false;
	if (wb->waiting.head)
		begin(q);
}

static void written(struct image_req *io, int res)
{
	struct q2_write *w = container_of(io, struct q2_write, io);
	struct qcow2 *q = w->q;
	struct q2_writeback *wb = &q->engine->wb;

	q2_commit_wrote(q, &w->step, res);
	if (!wb->res)
		wb->res = res;
	w->next = wb->free;
	wb->free = w;
	wb->inflight--;
	go_on(q);
	q2_run(q, false);
}

static void write_table(struct qcow2 *q, struct q2_write *w)
{
	struct q2_writeback *wb = &q->engine->wb;

	wb->inflight++;
	w->iov = (struct iovec){w->buf, (size_t)w->step.len};
	w->io = (struct image_req){
	    .op = IMAGE_WRITE,
	    .offset_bytes = w->step.offset,
	    .len_bytes = w->step.len,
	    .iov = &w->iov,
	    .niov = 1,
	    .done = written,
	};
	submit_to(q->file.img, &w->io);
}

static void alone_done(struct image_req *io, int res)
{
	struct q2_writeback *wb = container_of(io, struct q2_writeback, req);
	struct q2_engine *e = container_of(wb, struct q2_engine, wb);
	struct qcow2 *q = wb->writes[0].q;

	(void)e;
	if (!wb->data_synced && !res) {
		wb->data_synced = true;
		submit_to(q->file.img, io);
		return;
	}
	wb->inflight--;
	if (io->op == IMAGE_FLUSH && res)
		q->sync_failed = true;
	if (io->op == IMAGE_READ) {
		wb->load->state = Q2_TABLE_VALID;
		q2_wake(q, &wb->load->waiting, 0);
		if (res)
			q2_cache_drop(&q->ref_cache, wb->load);
	}
	/* a hole that cannot be punched is space lost, no error */
	if (!wb->res && io->op != IMAGE_DISCARD)
		wb->res = res;
	go_on(q);
	q2_run(q, false);
}

static void do_alone(struct qcow2 *q, const struct q2_step *s)
{
	struct q2_writeback *wb = &q->engine->wb;
	struct q2_engine *e = q->engine;
	enum image_op what = IMAGE_FLUSH;

	if (s->kind == Q2_STEP_GRACE) {
		unsigned old = e->gen;

		e->gen ^= 1;
		assert(!e->io[e->gen]);
		wb->in_grace = e->io[old] != 0;
		return;
	}
	if (s->kind == Q2_STEP_PUNCH)
		what = IMAGE_DISCARD;
	wb->req = (struct image_req){
	    .op = what, .offset_bytes = s->offset, .len_bytes = s->len, .done = alone_done};
	if (s->kind == Q2_STEP_READ) {
		struct q2_table *t = q2_cache_find(&q->ref_cache, q->want.offset);

		/* somebody else reads it, or there is no room: the next commit goes on with it */
		t = t ? NULL : q2_cache_take(&q->ref_cache, q->want.offset);
		if (!t) {
			wb->res = -ENOBUFS;
			return;
		}
		wb->load = t;
		wb->req.op = IMAGE_READ;
		wb->req.offset_bytes = t->offset;
		wb->req.len_bytes = q->unit_bytes;
		wb->req_iov = (struct iovec){t->data, q->unit_bytes};
		wb->req.iov = &wb->req_iov;
		wb->req.niov = 1;
	}
	wb->inflight++;
	/* tables refer to the data file, too: what they say of it has to be there */
	wb->data_synced = what != IMAGE_FLUSH || !q2_is_external(q);
	submit_to(wb->data_synced ? q->file.img : q->data.img, &wb->req);
}

void q2_grace_over(struct qcow2 *q)
{
	struct q2_writeback *wb = &q->engine->wb;

	if (!wb->in_grace)
		return;
	wb->in_grace = false;
	go_on(q);
}

/* As far as it goes without waiting. */
static void go_on(struct qcow2 *q)
{
	struct q2_writeback *wb = &q->engine->wb;

	while (!wb->in_grace) {
		struct q2_write *w = wb->free;

		if (wb->res) {
			wb->has_pending = false;
			if (!wb->inflight)
				over(q);
			return;
		}
		if (wb->has_pending) {
			if (wb->inflight)
				return;
			wb->has_pending = false;
			do_alone(q, &wb->pending);
			continue;
		}
		if (!w || (wb->inflight && wb->progress.phase > Q2_PHASE_SYNC))
			return;
		wb->res = q2_commit_next(q, &wb->progress, w->buf, &w->step);
		if (wb->res)
			continue;
		/* tables may change as soon as the last of them is on its way */
		if (!q->frozen)
			q2_wake(q, &q->engine->thaw, 0);
		if (w->step.kind == Q2_STEP_WRITE) {
			wb->free = w->next;
			write_table(q, w);
		} else if (w->step.kind == Q2_STEP_END) {
			assert(!wb->inflight);
			over(q);
			return;
		} else {
			wb->pending = w->step;
			wb->has_pending = true;
		}
	}
}

int q2_writeback_init(struct qcow2 *q)
{
	struct q2_writeback *wb = &q->engine->wb;

	wb->memory = q2_buffer(&q->file, (size_t)Q2_COMMIT_WRITES * q->unit_bytes);
	if (!wb->memory)
		return -ENOMEM;
	for (unsigned i = 0; i < Q2_COMMIT_WRITES; i++) {
		struct q2_write *w = &wb->writes[i];

		w->q = q;
		w->buf = wb->memory + (size_t)i * q->unit_bytes;
		w->next = wb->free;
		wb->free = w;
	}
	return 0;
}

void q2_writeback_free(struct qcow2 *q)
{
	free(q->engine->wb.memory);
}
