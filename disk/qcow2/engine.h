/*
 * Requests on their way through the driver. See disk/qcow2/qcow2_priv.h.
 *
 * An operation (q2_op) carries one request. It runs as a chain of steps: a step either finishes the
 * request, or leaves it waiting for one thing (its I/O, a table, another operation, a commit),
 * which runs its next step with the result in `res`. A step that finds a table missing is simply
 * run again when the table has come.
 *
 *   q2_submit -> step -+-> finished -> image_complete()
 *                ^     |
 *                +-----+ waiting
 *
 * Invariants
 *  1. Callbacks of requests run last, when nothing of the driver is on the stack.
 *  2. An operation that waits for another or for a commit has no I/O in flight and no cluster
 *     mapped: what it found out is looked up again.
 */
#ifndef DISK_QCOW2_ENGINE_H
#define DISK_QCOW2_ENGINE_H

#include "disk/qcow2/commit.h"
#include "disk/qcow2/qcow2_priv.h"

/* Requests that are worked on at a time; more wait for one to end. */
#define Q2_OPS 128

/* Pieces of memory of one I/O; for more, an array is allocated. */
#define Q2_OP_IOVS 64

/* A range of guest clusters whose place is being changed by the operation that holds it. */
struct q2_busy {
	uint64_t start, end; /* end 0: not held */
	struct q2_ops waiting;
	struct q2_busy *next;
};

struct q2_op {
	struct image_req io; /* what it has in flight: on the file or the backing image */
	struct qcow2 *q;
	struct q2_op *next;
	struct image_req *req;
	void (*step)(struct q2_op *op);
	int res;
	uint64_t pos, end; /* what is left of the request */

	/* read.c: guest range -> `rd_buf`, or the request's memory */
	uint64_t rd_pos, rd_end;
	uint8_t *rd_buf;
	uint64_t rd_buf_pos; /* guest offset of rd_buf[0] */
	void (*rd_done)(struct q2_op *op);

	/* inflate.c */
	struct q2_slot *slot; /* that it fills */
	void (*inflated)(struct q2_op *op, const uint8_t *cluster);

	/* write.c */
	uint64_t wr_pos, wr_end, wr_data_end;
	void (*wr_done)(struct q2_op *op);
	struct q2_run run;
	struct q2_table *pinned;
	uint8_t *cow;	    /* what is copied around the data */
	uint8_t head, tail; /* enum q2_cow */
	bool zeroes;	    /* the data is zeroes, the request has none */

	/* table.c */
	uint64_t tb_guest, tb_offset, tb_at;
	void (*tb_done)(struct q2_op *op);

	/* split.c */
	struct q2_op *parent; /* whose request it carries a part of; NULL: all of it */
	unsigned children;
	int children_res;
	bool joining; /* `step` is for when the last child has ended */

	struct q2_busy busy;

	/* engine.c: a piece of a table that it reads */
	struct q2_table *load;
	struct q2_cache *load_cache;
	void (*resume)(struct q2_op *op); /* inflate.c too */

	uint8_t gen;
	bool in_gen;

	struct iovec *iov; /* inline_iov, or allocated */
	unsigned niov, iov_room;
	struct iovec inline_iov[Q2_OP_IOVS];
};

struct q2_write {
	struct image_req io;
	struct qcow2 *q;
	struct q2_step step;
	struct iovec iov;
	uint8_t *buf;
	struct q2_write *next;
};

/* The commit under way. writeback.c */
struct q2_writeback {
	bool running;
	struct q2_progress progress;
	struct q2_ops waiting; /* for the next one */
	struct q2_ops serving;
	struct q2_write writes[Q2_COMMIT_WRITES];
	struct q2_write *free;
	unsigned inflight;
	struct image_req req; /* flush, punch, read: alone in flight */
	struct iovec req_iov;
	struct q2_step pending; /* waits for the writes before it */
	bool has_pending;
	bool in_grace;
	bool data_synced; /* the data file, before the image's own */
	int res;
	struct q2_table *load;
	uint8_t *memory;
};

struct q2_engine {
	struct q2_op *ops; /* Q2_OPS */
	unsigned fresh;
	struct q2_op *free;
	struct image_queue waiting; /* for an operation */
	struct q2_ops ready;
	struct image_queue ended;
	bool running;
	struct q2_busy *busy;
	struct q2_ops thaw; /* wait until tables may change */
	unsigned io[2];	    /* on the file's data, by generation */
	unsigned gen;
	struct q2_writeback wb;
};

/* ---- engine.c ---- */

int q2_engine_init(struct qcow2 *q);
void q2_engine_free(struct qcow2 *q);

/* The end of a step: the operation goes on when whoever has the list wakes it. */
void q2_wait(struct q2_op *op, struct q2_ops *list, void (*step)(struct q2_op *op));
void q2_wake(struct qcow2 *q, struct q2_ops *list, int res);
void q2_ops_push(struct q2_ops *l, struct q2_op *op);
struct q2_op *q2_ops_pop(struct q2_ops *l);

/* Runs what is ready, then completes what has ended; the image may be gone afterwards. */
void q2_run(struct qcow2 *q, bool in_submit);

/* Does what a pure function asked for, then `step`. */
void q2_need(struct q2_op *op, int need, void (*step)(struct q2_op *op));

void q2_finish(struct q2_op *op, int res);

/* One more operation, or NULL; q2_op_put() when it has ended. */
struct q2_op *q2_op_get(struct qcow2 *q);
void q2_op_put(struct q2_op *op);
void q2_op_init(struct q2_op *op, struct image_req *req);

/* Finishes a change: with FUA, a flush before. */
void q2_finish_change(struct q2_op *op);

/* Another operation's range that this one touches, or NULL. */
struct q2_busy *q2_busy_find(struct qcow2 *q, uint64_t start, uint64_t end);
void q2_hold(struct q2_op *op, uint64_t start, uint64_t end);
void q2_unhold(struct q2_op *op);

/* I/O of op->iov at an offset of the file (or of the data file, where the offset says so), or of
 * the backing image; then `step`. */
void q2_io_file(struct q2_op *op, enum image_op what, uint64_t offset, uint64_t len,
		void (*step)(struct q2_op *op));
void q2_io_backing(struct q2_op *op, uint64_t offset, uint64_t len, void (*step)(struct q2_op *op));

/* op->iov from the start, with room for the request's memory and so many zeroes. -ENOMEM */
int q2_iov_begin(struct q2_op *op, uint64_t zero_bytes);
/* One piece of memory. */
void q2_iov_one(struct q2_op *op, void *base, size_t len);
void q2_iov_add(struct q2_op *op, void *base, size_t len);
void q2_iov_add_zeroes(struct q2_op *op, uint64_t len);
/* Nothing but the request's memory for [guest, guest + len); all of it goes as it is. -ENOMEM */
int q2_iov_request(struct q2_op *op, uint64_t guest, uint64_t len);
/* The request's memory for [guest, guest + len). */
void q2_iov_add_request(struct q2_op *op, uint64_t guest, uint64_t len);

/* Copies to (or, `from` NULL, zeroes) the request's memory. */
void q2_request_fill(struct q2_op *op, uint64_t guest, const uint8_t *from, uint64_t len);

/* ---- split.c ---- */

/* Hands a part of the operation's request to another one. False: it does it itself. */
bool q2_split_read(struct q2_op *op, uint64_t pos, uint64_t end);
bool q2_split_write(struct q2_op *op, uint64_t pos, uint64_t end);
/* `step` when all parts have ended, with the first error of any. */
void q2_join(struct q2_op *op, void (*step)(struct q2_op *op));

/* ---- inflate.c ---- */

/*
 * The compressed cluster of an extent: `use` gets it. 0: it was in memory; 1: later, then `step`
 * (which may have to ask again); -ENOMEM.
 */
int q2_inflate(struct q2_op *op, const struct q2_extent *ext,
	       void (*use)(struct q2_op *op, const uint8_t *cluster),
	       void (*step)(struct q2_op *op));

/* ---- writeback.c ---- */

int q2_writeback_init(struct qcow2 *q);
void q2_writeback_free(struct qcow2 *q);
/* A commit that begins from now on, then `step`. */
void q2_commit(struct q2_op *op, void (*step)(struct q2_op *op));
/* The last I/O of a generation has ended. */
void q2_grace_over(struct qcow2 *q);

/* ---- what requests do ---- */

void q2_read(struct q2_op *op, uint64_t pos, uint64_t end, uint8_t *buf,
	     void (*done)(struct q2_op *op));
void q2_write(struct q2_op *op, uint64_t pos, uint64_t end, void (*done)(struct q2_op *op));
/* Makes the L2 table for `guest` one that may be written. */
void q2_table_prepare(struct q2_op *op, uint64_t guest, void (*done)(struct q2_op *op));
/* What is there reads as zeroes already. */
bool q2_reads_zero(const struct qcow2 *q, const struct q2_extent *ext, uint64_t guest);
void q2_zero_start(struct q2_op *op);

#endif
