/*
 * Reading a range of the guest's disk, into the request's memory or into a buffer (for what a write
 * copies). Each extent that is stored is one I/O; those of a request go side by side (split.c).
 */
#include "disk/qcow2/engine.h"

#include <string.h>

static void read_step(struct q2_op *op);

static void read_end(struct q2_op *op, int res)
{
	op->res = res;
	op->rd_done(op);
}

static void fill(struct q2_op *op, const uint8_t *from, uint64_t len)
{
	if (!op->rd_buf)
		q2_request_fill(op, op->rd_pos, from, len);
	else if (from)
		memcpy(op->rd_buf + (op->rd_pos - op->rd_buf_pos), from, len);
	else
		memset(op->rd_buf + (op->rd_pos - op->rd_buf_pos), 0, len);
	op->rd_pos += len;
}

static void extent_read(struct q2_op *op)
{
	if (op->res) {
		read_end(op, op->res);
		return;
	}
	op->rd_pos += op->io.len_bytes;
	read_step(op);
}

static int point_iov(struct q2_op *op, uint64_t len)
{
	if (!op->rd_buf)
		return q2_iov_request(op, op->rd_pos, len);
	q2_iov_one(op, op->rd_buf + (op->rd_pos - op->rd_buf_pos), len);
	return 0;
}

/* What shows of the backing file, which may be shorter. */
static void read_backing(struct q2_op *op, uint64_t len)
{
	struct qcow2 *q = op->q;
	int r;

	len = MIN(len, q->backing_bytes - op->rd_pos);
	r = point_iov(op, len);
	if (r)
		read_end(op, r);
	else
		q2_io_backing(op, op->rd_pos, len, extent_read);
}

/* All of a compressed cluster is there. */
static void use_cluster(struct q2_op *op, const uint8_t *cluster)
{
	uint64_t in_cluster = q2_in_cluster(op->q, op->rd_pos);

	fill(op, cluster + in_cluster,
	     MIN(op->rd_end - op->rd_pos, op->q->cluster_bytes - in_cluster));
}

static void read_data(struct q2_op *op, const struct q2_extent *ext)
{
	int r = point_iov(op, ext->len);

	if (r)
		read_end(op, r);
	else
		q2_io_file(op, IMAGE_READ, ext->host, ext->len, extent_read);
}

/* Does it take I/O? */
static bool is_stored(const struct q2_op *op, const struct q2_extent *ext)
{
	return ext->kind == Q2_DATA || ext->kind == Q2_COMPRESSED_DATA ||
	       (ext->kind == Q2_UNALLOCATED && op->rd_pos < op->q->backing_bytes);
}

static void read_step(struct q2_op *op)
{
	struct qcow2 *q = op->q;

	if (op->res) {
		read_end(op, op->res);
		return;
	}
	while (op->rd_pos < op->rd_end) {
		uint64_t size = q->img.info.size_bytes;
		struct q2_extent ext;
		int r;

		if (op->rd_pos >= size) { /* the rest of the last cluster */
			fill(op, NULL, op->rd_end - op->rd_pos);
			break;
		}
		r = q2_map(q, op->rd_pos, MIN(op->rd_end, size) - op->rd_pos, &ext);
		if (r > 0) {
			q2_need(op, r, read_step);
			return;
		}
		/* what is not the last goes on while the rest is looked up */
		if (!r && is_stored(op, &ext) && ext.len < op->rd_end - op->rd_pos &&
		    q2_split_read(op, op->rd_pos, op->rd_pos + ext.len)) {
			op->rd_pos += ext.len;
			continue;
		}
		if (!r && ext.kind == Q2_DATA) {
			read_data(op, &ext);
			return;
		}
		if (!r && ext.kind == Q2_COMPRESSED_DATA) {
			r = q2_inflate(op, &ext, use_cluster, read_step);
			if (r > 0)
				return;
		} else if (!r && ext.kind == Q2_UNALLOCATED && op->rd_pos < q->backing_bytes) {
			read_backing(op, ext.len);
			return;
		} else if (!r) {
			fill(op, NULL, ext.len);
		}
		if (r) {
			read_end(op, r);
			return;
		}
	}
	read_end(op, 0);
}

void q2_read(struct q2_op *op, uint64_t pos, uint64_t end, uint8_t *buf,
	     void (*done)(struct q2_op *op))
{
	op->rd_pos = pos;
	op->rd_end = end;
	op->rd_buf = buf;
	op->rd_buf_pos = pos;
	op->rd_done = done;
	op->res = 0;
	read_step(op);
}
