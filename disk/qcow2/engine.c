/* Requests: waiting, I/O and completion. See disk/qcow2/engine.h. */
#include "disk/qcow2/engine.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Zeroes to write, many times in one I/O. */
#define ZERO_BYTES (64 * 1024)
static const uint8_t zero_memory[ZERO_BYTES] __attribute__((aligned(4096)));

/* Lists */

void q2_ops_push(struct q2_ops *l, struct q2_op *op)
{
	op->next = NULL;
	if (l->tail)
		l->tail->next = op;
	else
		l->head = op;
	l->tail = op;
}

struct q2_op *q2_ops_pop(struct q2_ops *l)
{
	struct q2_op *op = l->head;

	if (op) {
		l->head = op->next;
		if (!l->head)
			l->tail = NULL;
	}
	return op;
}

void q2_wait(struct q2_op *op, struct q2_ops *list, void (*step)(struct q2_op *op))
{
	op->step = step;
	q2_ops_push(list, op);
}

void q2_wake(struct qcow2 *q, struct q2_ops *list, int res)
{
	struct q2_op *op;

	while ((op = q2_ops_pop(list))) {
		op->res = res;
		q2_ops_push(&q->engine->ready, op);
	}
}

/* Beginning and end of an operation */

struct q2_op *q2_op_get(struct qcow2 *q)
{
	struct q2_engine *e = q->engine;
	struct q2_op *op = e->free;

	if (op) {
		e->free = op->next;
	} else if (e->fresh < Q2_OPS) {
		op = &e->ops[e->fresh++];
		op->q = q;
		op->iov = op->inline_iov;
		op->iov_room = Q2_OP_IOVS;
	}
	return op;
}

static void ended(struct q2_op *op)
{
	q2_finish(op, op->res);
}

static void read_done(struct q2_op *op)
{
	q2_join(op, ended);
}

static void flush(struct q2_op *op)
{
	struct qcow2 *q = op->q;

	if (q->sync_failed) /* of one file: the other's next flush would not know */
		q2_finish(op, -EIO);
	else if (q2_is_dirty(q) || q->engine->wb.running)
		q2_commit(op, ended);
	else
		q2_io_file(op, IMAGE_FLUSH, q2_is_external(q) ? Q2_IN_DATA_FILE : 0, 0, ended);
}

static void changed(struct q2_op *op)
{
	if (op->res)
		q2_finish(op, op->res);
	else
		q2_finish_change(op);
}

static void change_done(struct q2_op *op)
{
	q2_join(op, changed);
}

void q2_finish_change(struct q2_op *op)
{
	if (op->req->flags & IMAGE_FUA)
		flush(op);
	else
		q2_finish(op, 0);
}

void q2_op_init(struct q2_op *op, struct image_req *req)
{
	op->req = req;
	op->res = 0;
	op->zeroes = false;
	op->children_res = 0;
}

static void op_start(struct q2_op *op, struct image_req *req)
{
	q2_op_init(op, req);
	op->pos = req->offset_bytes;
	op->end = req->offset_bytes + req->len_bytes;
	switch (req->op) {
	case IMAGE_READ:
		q2_read(op, op->pos, op->end, NULL, read_done);
		break;
	case IMAGE_WRITE:
		q2_write(op, op->pos, op->end, change_done);
		break;
	case IMAGE_FLUSH:
		flush(op);
		break;
	case IMAGE_DISCARD:
	case IMAGE_WRITE_ZEROES:
		q2_zero_start(op);
		break;
	}
}

static void start_step(struct q2_op *op)
{
	op_start(op, op->req);
}

void q2_op_put(struct q2_op *op)
{
	struct q2_engine *e = op->q->engine;
	struct image_req *req;

	assert(!op->busy.end && !op->pinned && !op->children && !op->slot);
	if (op->iov != op->inline_iov) {
		free(op->iov);
		op->iov = op->inline_iov;
		op->iov_room = Q2_OP_IOVS;
	}
	req = image_queue_pop(&e->waiting);
	if (req) {
		op->req = req;
		op->step = start_step;
		q2_ops_push(&e->ready, op);
	} else {
		op->next = e->free;
		e->free = op;
	}
}

void q2_finish(struct q2_op *op, int res)
{
	op->req->p.res = res;
	image_queue_push(&op->q->engine->ended, op->req);
	q2_op_put(op);
}

void q2_run(struct qcow2 *q, bool in_submit)
{
	struct q2_engine *e = q->engine;
	struct image_queue ended;
	struct image_req *req;
	struct q2_op *op;

	if (e->running)
		return;
	e->running = true;
	while ((op = q2_ops_pop(&e->ready)))
		op->step(op);
	e->running = false;

	ended = e->ended;
	e->ended = (struct image_queue){0};
	while ((req = image_queue_pop(&ended))) {
		if (in_submit)
			image_complete_later(req, req->p.res);
		else
			image_complete(req, req->p.res);
	}
}

void q2_submit(struct image *img, struct image_req *req)
{
	struct qcow2 *q = qcow2_of(img);
	struct q2_op *op = q2_op_get(q);

	if (!op) {
		image_queue_push(&q->engine->waiting, req);
		return;
	}
	op_start(op, req);
	q2_run(q, true);
}

/* Tables */

static void table_loaded(struct q2_op *op)
{
	struct q2_table *t = op->load;

	t->state = Q2_TABLE_VALID;
	q2_wake(op->q, &t->waiting, 0); /* after a failure they try for themselves */
	if (op->res)
		q2_cache_drop(op->load_cache, t);
	op->resume(op);
}

static void load(struct q2_op *op, void (*step)(struct q2_op *op))
{
	struct qcow2 *q = op->q;
	struct q2_table *t = q2_cache_find(q->want.cache, q->want.offset);

	if (t && t->state == Q2_TABLE_LOADING) {
		q2_wait(op, &t->waiting, step);
		return;
	}
	t = q2_cache_take(q->want.cache, q->want.offset);
	if (!t) {
		q2_commit(op, step);
		return;
	}
	op->load = t;
	op->load_cache = q->want.cache;
	op->resume = step;
	q2_iov_one(op, t->data, q->unit_bytes);
	q2_io_file(op, IMAGE_READ, t->offset, q->unit_bytes, table_loaded);
}

void q2_need(struct q2_op *op, int need, void (*step)(struct q2_op *op))
{
	if (need == Q2_NEED_READ)
		load(op, step);
	else
		q2_commit(op, step);
}

/* Ranges that are held */

struct q2_busy *q2_busy_find(struct qcow2 *q, uint64_t start, uint64_t end)
{
	for (struct q2_busy *b = q->engine->busy; b; b = b->next) {
		if (start < b->end && b->start < end)
			return b;
	}
	return NULL;
}

void q2_hold(struct q2_op *op, uint64_t start, uint64_t end)
{
	struct q2_engine *e = op->q->engine;

	op->busy.start = start;
	op->busy.end = end;
	op->busy.next = e->busy;
	e->busy = &op->busy;
}

void q2_unhold(struct q2_op *op)
{
	struct q2_busy **p = &op->q->engine->busy;

	while (*p != &op->busy)
		p = &(*p)->next;
	*p = op->busy.next;
	op->busy.end = 0;
	q2_wake(op->q, &op->busy.waiting, 0);
}

/* I/O */

static void io_done(struct image_req *io, int res)
{
	struct q2_op *op = container_of(io, struct q2_op, io);
	struct qcow2 *q = op->q;
	struct q2_engine *e = q->engine;

	op->res = res;
	if (op->in_gen) {
		op->in_gen = false;
		if (!--e->io[op->gen] && op->gen != e->gen)
			q2_grace_over(q);
	}
	q2_ops_push(&e->ready, op);
	q2_run(q, false);
}

static void prepare_io(struct q2_op *op, enum image_op what, uint64_t offset, uint64_t len,
		       void (*step)(struct q2_op *op))
{
	op->step = step;
	op->io.op = what;
	op->io.flags = 0;
	op->io.offset_bytes = offset;
	op->io.len_bytes = len;
	op->io.done = io_done;
}

/* Past image_submit(), which looks for what cannot be here. */
static void submit_file(struct image *file, struct image_req *io)
{
	io->p.img = file;
	file->inflight++;
	file->driver->submit(file, io);
}

void q2_io_file(struct q2_op *op, enum image_op what, uint64_t offset, uint64_t len,
		void (*step)(struct q2_op *op))
{
	struct q2_engine *e = op->q->engine;
	bool external = offset & Q2_IN_DATA_FILE;

	prepare_io(op, what, offset & ~Q2_IN_DATA_FILE, len, step);
	if (what != IMAGE_FLUSH) {
		op->in_gen = true;
		op->gen = (uint8_t)e->gen;
		e->io[e->gen]++;
	}
	submit_file(external ? op->q->data.img : op->q->file.img, &op->io);
}

void q2_io_backing(struct q2_op *op, uint64_t offset, uint64_t len, void (*step)(struct q2_op *op))
{
	prepare_io(op, IMAGE_READ, offset, len, step);
	image_submit(op->q->backing, &op->io);
}

int q2_iov_begin(struct q2_op *op, uint64_t zero_bytes)
{
	/* copied head and tail; zeroes in up to three places */
	uint64_t need = op->req->niov + 2 + (zero_bytes ? zero_bytes / ZERO_BYTES + 3 : 0);

	op->niov = 0;
	op->io.iov = op->iov;
	op->io.niov = 0;
	if (need > op->iov_room) {
		struct iovec *v = calloc((size_t)need, sizeof(*v));

		if (!v)
			return -ENOMEM;
		if (op->iov != op->inline_iov)
			free(op->iov);
		op->iov = v;
		op->iov_room = (unsigned)need;
		op->io.iov = v;
	}
	return 0;
}

int q2_iov_request(struct q2_op *op, uint64_t guest, uint64_t len)
{
	int r;

	if (len == op->req->len_bytes && !op->zeroes) {
		op->io.iov = op->req->iov;
		op->io.niov = op->req->niov;
		return 0;
	}
	r = q2_iov_begin(op, op->zeroes ? len : 0);
	if (!r)
		q2_iov_add_request(op, guest, len);
	return r;
}

void q2_iov_one(struct q2_op *op, void *base, size_t len)
{
	op->niov = 0;
	op->io.iov = op->iov;
	q2_iov_add(op, base, len);
}

void q2_iov_add(struct q2_op *op, void *base, size_t len)
{
	assert(op->niov < op->iov_room);
	if (!len)
		return;
	op->iov[op->niov++] = (struct iovec){base, len};
	op->io.niov = op->niov;
}

void q2_iov_add_zeroes(struct q2_op *op, uint64_t len)
{
	const void *from = zero_memory;
	void *base;

	memcpy(&base, &from,
	       sizeof(base)); /* an iovec's base is not const although it is only read */
	while (len) {
		size_t n = (size_t)MIN(len, (uint64_t)ZERO_BYTES);

		q2_iov_add(op, base, n);
		len -= n;
	}
}

void q2_iov_add_request(struct q2_op *op, uint64_t guest, uint64_t len)
{
	uint64_t skip = guest - op->req->offset_bytes;

	if (op->zeroes) {
		q2_iov_add_zeroes(op, len);
		return;
	}
	for (unsigned i = 0; len; i++) {
		const struct iovec *v = &op->req->iov[i];
		size_t n;

		if (skip >= v->iov_len) {
			skip -= v->iov_len;
			continue;
		}
		n = (size_t)MIN(len, v->iov_len - skip);
		q2_iov_add(op, (uint8_t *)v->iov_base + skip, n);
		skip = 0;
		len -= n;
	}
}

void q2_request_fill(struct q2_op *op, uint64_t guest, const uint8_t *from, uint64_t len)
{
	uint64_t skip = guest - op->req->offset_bytes;

	for (unsigned i = 0; len; i++) {
		const struct iovec *v = &op->req->iov[i];
		size_t n;

		if (skip >= v->iov_len) {
			skip -= v->iov_len;
			continue;
		}
		n = (size_t)MIN(len, v->iov_len - skip);
		if (from) {
			memcpy((uint8_t *)v->iov_base + skip, from, n);
			from += n;
		} else {
			memset((uint8_t *)v->iov_base + skip, 0, n);
		}
		skip = 0;
		len -= n;
	}
}

/* Life */

int q2_engine_init(struct qcow2 *q)
{
	struct q2_engine *e = calloc(1, sizeof(*e));
	void *ops;

	if (!e)
		return -ENOMEM;
	/* touched only as deep as requests are in flight */
	ops = mmap(NULL, Q2_OPS * sizeof(struct q2_op), PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (ops == MAP_FAILED) {
		free(e);
		return -ENOMEM;
	}
	e->ops = ops;
	q->engine = e;
	if (q2_writeback_init(q)) {
		q2_engine_free(q);
		return -ENOMEM;
	}
	return 0;
}

void q2_engine_free(struct qcow2 *q)
{
	if (!q->engine)
		return;
	q2_writeback_free(q);
	munmap(q->engine->ops, Q2_OPS * sizeof(struct q2_op));
	free(q->engine);
	q->engine = NULL;
}
