/*
 * New L2 tables: for a part of the disk that has none, or whose table is shared with a snapshot.
 *
 * The new table is made piece by piece in memory and written like any other; nothing refers to it
 * before it is complete.
 */
#include "disk/qcow2/engine.h"

#include <errno.h>
#include <string.h>

static void end(struct q2_op *op, int res)
{
	struct qcow2 *q = op->q;

	if (res && op->tb_offset) {
		q2_cache_forget(&q->l2_cache, op->tb_offset, q->cluster_bytes);
		q2_release(q, op->tb_offset, q->cluster_bytes);
	}
	q2_unhold(op);
	op->res = res;
	op->tb_done(op);
}

/* The piece of the old table that the next piece of the new one is a copy of; NULL: zeroes. */
static int old_piece(struct q2_op *op, struct q2_table **ret_t)
{
	struct qcow2 *q = op->q;
	uint64_t old = q2_l1_offset(q, op->tb_guest);
	int r;

	*ret_t = NULL;
	if (!old)
		return 0;
	r = q2_l2_get(q, op->tb_guest, ret_t); /* looks where the table is before it is used */
	if (!r)
		r = q2_table_get(q, &q->l2_cache, old + op->tb_at, ret_t);
	return r;
}

static int next_piece(struct q2_op *op)
{
	struct qcow2 *q = op->q;
	struct q2_table *from, *to;
	int r = old_piece(op, &from);

	if (r)
		return r;
	if (from)
		from->pins++; /* not the victim that makes room for its copy */
	r = q2_table_new(q, &q->l2_cache, op->tb_offset + op->tb_at, &to);
	if (from)
		from->pins--;
	if (r)
		return r;
	if (from)
		memcpy(to->data, from->data, q->unit_bytes);
	op->tb_at += q->unit_bytes;
	return 0;
}

static void table_step(struct q2_op *op)
{
	struct qcow2 *q = op->q;
	uint64_t count;
	int r = op->res;

	if (!r && !op->tb_offset)
		r = q2_alloc(q, 1, &op->tb_offset, &count);
	while (!r && op->tb_at < q->cluster_bytes)
		r = next_piece(op);
	if (r > 0) {
		q2_need(op, r, table_step);
	} else if (r) {
		end(op, r);
	} else if (q->frozen) {
		q2_wait(op, &q->engine->thaw, table_step);
	} else {
		q2_link_l2(q, op->tb_guest, op->tb_offset);
		end(op, 0);
	}
}

void q2_table_prepare(struct q2_op *op, uint64_t guest, void (*done)(struct q2_op *op))
{
	struct qcow2 *q = op->q;
	uint64_t start = align_down(guest, q2_l2_span(q));
	struct q2_busy *busy = q2_busy_find(q, start, start + q2_l2_span(q));

	if (busy) {
		q2_wait(op, &busy->waiting, done);
		return;
	}
	q2_hold(op, start, start + q2_l2_span(q));
	op->tb_guest = start;
	op->tb_offset = 0;
	op->tb_at = 0;
	op->tb_done = done;
	op->res = 0;
	table_step(op);
}
