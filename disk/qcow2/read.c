/*
 * Reading a range of the guest's disk, into the request's memory or into a buffer (for what a write
 * copies). Extent by extent; each that is stored is one I/O.
 */
#include "disk/qcow2/engine.h"

#include <errno.h>
#include <stdlib.h>
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

/* Compressed clusters */

static void unpack(struct q2_op *op)
{
	struct qcow2 *q = op->q;
	uint64_t in_cluster = q2_in_cluster(q, op->rd_pos);
	uint8_t *cluster = op->res ? NULL : q2_inflated_slot(q);
	int r = op->res;

	if (!r)
		r = cluster ? q2_unpack(q, op->packed + op->packed_skip, op->packed_len, cluster)
			    : -ENOMEM;
	if (!r) {
		q2_inflated_add(q, op->packed_host, op->packed_len);
		fill(op, cluster + in_cluster,
		     MIN(op->rd_end - op->rd_pos, q->cluster_bytes - in_cluster));
	}
	free(op->packed);
	op->packed = NULL;
	if (r)
		read_end(op, r);
	else
		read_step(op);
}

/* 0: it was in memory; 1: waits; -errno */
static int read_compressed(struct q2_op *op, const struct q2_extent *ext)
{
	struct qcow2 *q = op->q;
	const uint8_t *cluster = q2_inflated_find(q, ext->host, ext->host_len);
	uint64_t align = MAX(q->file.align_bytes, (uint32_t)IMAGE_SECTOR_BYTES), from, to;

	if (cluster) {
		fill(op, cluster + q2_in_cluster(q, op->rd_pos), ext->len);
		return 0;
	}
	from = align_down(ext->host, align);
	to = align_up(ext->host + ext->host_len, align);
	op->packed = q2_buffer(&q->file, (size_t)(to - from));
	if (!op->packed)
		return -ENOMEM;
	op->packed_host = ext->host;
	op->packed_len = ext->host_len;
	op->packed_skip = (uint32_t)(ext->host - from);
	q2_iov_one(op, op->packed, (size_t)(to - from));
	q2_io_file(op, IMAGE_READ, from, to - from, unpack);
	return 1;
}

static void read_data(struct q2_op *op, const struct q2_extent *ext)
{
	int r = point_iov(op, ext->len);

	if (r)
		read_end(op, r);
	else
		q2_io_file(op, IMAGE_READ, ext->host, ext->len, extent_read);
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
		if (!r && ext.kind == Q2_DATA) {
			read_data(op, &ext);
			return;
		}
		if (!r && ext.kind == Q2_COMPRESSED_DATA) {
			r = read_compressed(op, &ext);
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
