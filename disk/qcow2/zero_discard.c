/*
 * Discard and write-zeroes.
 *
 * Whole clusters (with extended L2 entries: subclusters) become so in the L2 table alone; where
 * that cannot say it (parts of clusters, version 2 with something below) zeroes are written as
 * data.
 *
 * What was discarded reads as zeroes from then on, for ever: version 3 says so with a mark, also
 * without a backing file, since one may be added later. Version 2 has no mark: there it reads as
 * zeroes as long as there is no backing file, and with one nothing is discarded.
 */
#include "disk/qcow2/engine.h"

#include <errno.h>

static void zero_step(struct q2_op *op);

static enum q2_zero_how how_of(const struct q2_op *op)
{
	if (op->req->op == IMAGE_DISCARD)
		return Q2_ZERO_DISCARD;
	return op->req->flags & IMAGE_MAY_UNMAP && !op->q->no_discard && !q2_is_external(op->q)
		   ? Q2_ZERO_UNMAP
		   : Q2_ZERO_KEEP;
}

static void end(struct q2_op *op, int res)
{
	if (res)
		q2_finish(op, res);
	else
		q2_finish_change(op);
}

/*
 * How much of the extent at op->pos needs nothing done. What reads as zeroes only because there is
 * nothing yet is marked so in whole clusters, where there is a mark: it stays so when the image
 * gets a backing file later (QEMU does the same).
 */
static uint64_t done_len(const struct q2_op *op, const struct q2_extent *ext, enum q2_zero_how how)
{
	const struct qcow2 *q = op->q;
	uint64_t cluster = q->cluster_bytes, in_cluster = q2_in_cluster(q, op->pos);

	if (how == Q2_ZERO_DISCARD && q2_is_external(q))
		return ext->len;    /* nothing is given up there */
	if (how == Q2_ZERO_DISCARD) /* old data, here the backing file's, is a right answer */
		return ext->kind == Q2_UNALLOCATED || (ext->kind == Q2_ZERO && !ext->host)
			   ? ext->len
			   : 0;
	if (op->req->flags & IMAGE_EXPLICIT && ext->kind == Q2_UNALLOCATED)
		return 0;
	if (!q2_reads_zero(q, ext, op->pos))
		return 0;
	if (op->req->flags & IMAGE_EXPLICIT && ext->kind == Q2_UNALLOCATED)
		return 0;
	if (ext->kind == Q2_ZERO)
		return how == Q2_ZERO_KEEP || !ext->host ? ext->len : 0;
	if (q->h.version < 3)
		return ext->len;
	if (in_cluster)
		return MIN(ext->len, cluster - in_cluster);
	return ext->len < cluster && op->pos + ext->len < q->img.info.size_bytes ? ext->len : 0;
}

static void zeroes_written(struct q2_op *op)
{
	op->zeroes = false;
	op->pos = op->wr_end;
	zero_step(op);
}

/* Changes the table at pos. 0: went on; > 0: see q2_need(); -ENOTSUP: *ret_len to be written. */
static int change(struct q2_op *op, enum q2_zero_how how, uint64_t *ret_len)
{
	struct qcow2 *q = op->q;
	int r;

	if (q->freed.count > Q2_FREED_MAX)
		return Q2_NEED_ROOM;
	r = q2_zero_range(q, op->pos, op->end, how, ret_len);
	if (!r)
		op->pos += *ret_len;
	return r;
}

static struct q2_busy *conflict(const struct q2_op *op)
{
	struct qcow2 *q = op->q;
	uint64_t to = MIN(op->end, op->pos + q2_l2_rest(q, op->pos));

	return q2_busy_find(q, align_down(op->pos, q->cluster_bytes),
			    align_up(to, q->cluster_bytes));
}

/* A shared table is no reason to copy it for what need not be done. */
static bool skip_table(struct q2_op *op, enum q2_zero_how how)
{
	uint64_t span = q2_l2_span(op->q);

	if (how != Q2_ZERO_DISCARD)
		return false;
	op->pos = MIN(op->end, align_down(op->pos, span) + span);
	return true;
}

static void zero_step(struct q2_op *op)
{
	struct qcow2 *q = op->q;
	enum q2_zero_how how = how_of(op);
	struct q2_extent ext;
	int r = op->res;

	while (!r && op->pos < op->end) {
		struct q2_busy *busy;
		uint64_t len;

		r = q->broken ? -EIO : q2_map(q, op->pos, op->end - op->pos, &ext);
		if (r)
			break;
		len = done_len(op, &ext, how);
		if (len) {
			op->pos += len;
			continue;
		}
		if (!q2_l1_writable(q, op->pos)) {
			if (skip_table(op, how))
				continue;
			q2_table_prepare(op, op->pos, zero_step);
			return;
		}
		busy = conflict(op);
		if (busy || q->frozen) {
			q2_wait(op, busy ? &busy->waiting : &q->engine->thaw, zero_step);
			return;
		}
		r = change(op, how, &len);
		if (r == -ENOTSUP) {
			op->zeroes = true;
			q2_write(op, op->pos, op->pos + len, zeroes_written);
			return;
		}
	}
	if (r > 0)
		q2_need(op, r, zero_step);
	else
		end(op, r);
}

void q2_zero_start(struct q2_op *op)
{
	if (op->req->op == IMAGE_DISCARD && op->q->no_discard)
		q2_finish(op, 0);
	else
		zero_step(op);
}
