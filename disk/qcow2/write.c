/*
 * Writing a range of the guest's disk.
 *
 *   plan -> in place: one I/O for each contiguous extent
 *        -> a run: take clusters, hold the range, read what is copied around the data (head, tail),
 *           write [head][data][tail] at once, then refer to it (link.c)
 *
 * Nothing refers to a new cluster before its data is written, so a failure leaves no trace but
 * clusters that are given up with the next commit.
 */
#include "disk/qcow2/engine.h"

#include <errno.h>
#include <stdlib.h>

/* What stands between the data and the edge of what is stored. */
enum q2_cow {
	Q2_COW_SKIP, /* nothing, or what reads as zeroes already */
	Q2_COW_ZERO,
	Q2_COW_COPY,
};

static void write_step(struct q2_op *op);

static void write_end(struct q2_op *op, int res)
{
	op->res = res;
	op->wr_done(op);
}

bool q2_reads_zero(const struct qcow2 *q, const struct q2_extent *ext, uint64_t guest)
{
	return ext->kind == Q2_ZERO || (ext->kind == Q2_UNALLOCATED && guest >= q->backing_bytes);
}

static void in_place_done(struct q2_op *op)
{
	if (op->res) {
		write_end(op, op->res);
		return;
	}
	op->wr_pos += op->io.len_bytes;
	write_step(op);
}

static void write_in_place(struct q2_op *op, const struct q2_extent *ext)
{
	/* zeroes: so many that their iovecs stay few */
	uint64_t len = op->zeroes ? MIN(ext->len, 2 * MIB) : ext->len;
	int r;

	/* what is not the last goes on while the rest is looked up */
	if (ext->len < op->wr_end - op->wr_pos &&
	    q2_split_write(op, op->wr_pos, op->wr_pos + ext->len)) {
		op->wr_pos += ext->len;
		write_step(op);
		return;
	}
	r = q2_iov_request(op, op->wr_pos, len);
	if (r)
		write_end(op, r);
	else
		q2_io_file(op, IMAGE_WRITE, ext->host, len, in_place_done);
}

/* Runs */

static void run_over(struct q2_op *op)
{
	free(op->cow);
	op->cow = NULL;
	if (op->pinned)
		op->pinned->pins--;
	op->pinned = NULL;
	q2_unhold(op);
}

static void run_failed(struct q2_op *op, int res)
{
	struct q2_run *run = &op->run;

	if (!run->reuse)
		q2_release(op->q, run->host, run->clusters << op->q->cluster_bits);
	run_over(op);
	write_end(op, res);
}

static void link_step(struct q2_op *op)
{
	struct qcow2 *q = op->q;

	if (q->frozen) {
		q2_wait(op, &q->engine->thaw, link_step);
		return;
	}
	q2_link_run(q, op->pinned, &op->run);
	op->wr_pos = op->wr_data_end;
	op->res = 0;
	run_over(op);
	write_step(op);
}

static void run_written(struct q2_op *op)
{
	if (op->res)
		run_failed(op, op->res);
	else
		link_step(op);
}

static uint64_t head_len(const struct q2_op *op)
{
	return op->wr_pos - op->run.from;
}

static uint64_t tail_len(const struct q2_op *op)
{
	return op->run.to - op->wr_data_end;
}

static void add_edge(struct q2_op *op, enum q2_cow what, uint8_t *copy, uint64_t len)
{
	if (what == Q2_COW_COPY)
		q2_iov_add(op, copy, (size_t)len);
	else if (what == Q2_COW_ZERO)
		q2_iov_add_zeroes(op, len);
}

static void write_run(struct q2_op *op)
{
	const struct q2_run *run = &op->run;
	uint64_t from = op->head == Q2_COW_SKIP ? op->wr_pos : run->from;
	uint64_t to = op->tail == Q2_COW_SKIP ? op->wr_data_end : run->to;
	uint64_t head_copy = op->head == Q2_COW_COPY ? head_len(op) : 0;
	uint64_t data = op->wr_data_end - op->wr_pos, zeroes = op->zeroes ? data : 0;
	int r;

	zeroes += op->head == Q2_COW_ZERO ? head_len(op) : 0;
	zeroes += op->tail == Q2_COW_ZERO ? tail_len(op) : 0;
	r = q2_iov_begin(op, zeroes);

	if (r) {
		run_failed(op, r);
		return;
	}
	add_edge(op, op->head, op->cow, head_len(op));
	q2_iov_add_request(op, op->wr_pos, data);
	add_edge(op, op->tail, head_copy ? op->cow + head_copy : op->cow, tail_len(op));
	q2_io_file(op, IMAGE_WRITE, run->host + (from - run->guest), to - from, run_written);
}

static void tail_read(struct q2_op *op)
{
	if (op->res)
		run_failed(op, op->res);
	else
		write_run(op);
}

static void head_read(struct q2_op *op)
{
	uint64_t skip = op->head == Q2_COW_COPY ? head_len(op) : 0;

	if (op->res)
		run_failed(op, op->res);
	else if (op->tail == Q2_COW_COPY)
		q2_read(op, op->wr_data_end, op->run.to, op->cow + skip, tail_read);
	else
		write_run(op);
}

/* What is to be done about [from, to), all within one cluster? Its piece of the table is there. */
static enum q2_cow edge(struct q2_op *op, uint64_t from, uint64_t to)
{
	struct qcow2 *q = op->q;
	struct q2_extent ext;

	to = MIN(to, q->img.info.size_bytes);
	while (from < to) {
		if (q2_map(q, from, to - from, &ext) || !q2_reads_zero(q, &ext, from))
			return Q2_COW_COPY;
		from += ext.len;
	}
	return op->run.fresh ? Q2_COW_SKIP : Q2_COW_ZERO;
}

static void start_run(struct q2_op *op, struct q2_table *t)
{
	struct qcow2 *q = op->q;
	struct q2_run *run = &op->run;
	uint64_t copy = 0;

	q2_hold(op, run->guest, run->guest + (run->clusters << q->cluster_bits));
	op->pinned = t;
	t->pins++;
	op->wr_data_end = MIN(op->wr_end, run->to);
	op->head = head_len(op) ? edge(op, run->from, op->wr_pos) : Q2_COW_SKIP;
	op->tail = tail_len(op) ? edge(op, op->wr_data_end, run->to) : Q2_COW_SKIP;
	if (op->head == Q2_COW_COPY)
		copy += head_len(op);
	if (op->tail == Q2_COW_COPY)
		copy += tail_len(op);
	if (copy) {
		op->cow = q2_buffer(&q->file, (size_t)copy);
		if (!op->cow) {
			run_failed(op, -ENOMEM);
			return;
		}
	}
	op->res = 0;
	if (op->head == Q2_COW_COPY)
		q2_read(op, run->from, op->wr_pos, op->cow, head_read);
	else
		head_read(op);
}

/* Takes clusters for the run. 0, > 0 (see q2_need()), -errno. */
static int take_clusters(struct qcow2 *q, struct q2_run *run)
{
	uint64_t zero_from = q->zero_from, count, end;
	int r;

	if (run->reuse)
		return 0;
	if (q2_is_external(q)) {
		run->host = run->guest | Q2_IN_DATA_FILE;
		run->fresh = false;
		return 0;
	}
	r = q2_alloc(q, run->clusters, &run->host, &count);
	if (r)
		return r;
	run->clusters = count;
	run->fresh = q2_is_fresh(zero_from, run->host);
	end = run->guest + (count << q->cluster_bits);
	run->to = MIN(run->to, end);
	return 0;
}

/* What comes next at wr_pos. */
static void write_step(struct q2_op *op)
{
	struct qcow2 *q = op->q;
	struct q2_extent ext;
	struct q2_busy *busy;
	struct q2_table *t;
	bool in_place;
	int r = op->res;

	if (!r && q->broken)
		r = -EIO;
	if (r || op->wr_pos == op->wr_end) {
		write_end(op, r);
		return;
	}
	if (!q2_l1_writable(q, op->wr_pos)) {
		q2_table_prepare(op, op->wr_pos, write_step);
		return;
	}
	r = q2_plan_write(q, op->wr_pos, op->wr_end, &in_place, &ext, &op->run);
	if (!r && in_place) {
		write_in_place(op, &ext);
		return;
	}
	if (!r) {
		busy = q2_busy_find(q, op->run.guest,
				    op->run.guest + (op->run.clusters << q->cluster_bits));
		if (busy) {
			q2_wait(op, &busy->waiting, write_step);
			return;
		}
		if (q->freed.count > Q2_FREED_MAX)
			r = Q2_NEED_ROOM;
	}
	if (!r)
		r = take_clusters(q, &op->run);
	if (!r)
		r = q2_l2_get(q, op->wr_pos, &t);
	if (r > 0)
		q2_need(op, r, write_step);
	else if (r)
		write_end(op, r);
	else
		start_run(op, t);
}

void q2_write(struct q2_op *op, uint64_t pos, uint64_t end, void (*done)(struct q2_op *op))
{
	op->wr_pos = pos;
	op->wr_end = end;
	op->wr_done = done;
	op->res = 0;
	write_step(op);
}
