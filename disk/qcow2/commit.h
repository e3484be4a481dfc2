/*
 * Writing back metadata, in the order that keeps the image whole at every moment.
 *
 *   refcount blocks, (flush, refcount table, (flush, header,)) flush, L2 and L1 tables, flush,
 *   then: give up the refcounts of released clusters, after their holes are punched
 *
 * The parts in brackets happen only where there is something of the kind; the flush in the middle
 * only where tables refer to something new. While L2 tables are on their way (from the first step
 * to the last write of them) the tables in memory are frozen: an entry that came in between would
 * refer to what is not durable. Data goes on being written meanwhile.
 *
 * One commit at a time serves all requests that came before it began. After a failed write what was
 * to be written is dirty again, and nothing is given up.
 */
#ifndef DISK_QCOW2_COMMIT_H
#define DISK_QCOW2_COMMIT_H

#include "disk/qcow2/qcow2_priv.h"

/* Writes in flight together: enough to keep a disk busy. */
#define Q2_COMMIT_WRITES 16

enum q2_phase {
	Q2_PHASE_IDLE,
	Q2_PHASE_REFBLOCKS,
	Q2_PHASE_REFTABLE,
	Q2_PHASE_HEADER,
	Q2_PHASE_ORDER,
	Q2_PHASE_L2,
	Q2_PHASE_L1,
	Q2_PHASE_SYNC,
	Q2_PHASE_GRACE,
	Q2_PHASE_FREE,
	Q2_PHASE_END,
};

enum q2_step_kind {
	Q2_STEP_WRITE,
	Q2_STEP_SYNC,
	Q2_STEP_GRACE, /* until I/O to released clusters has ended */
	Q2_STEP_READ,  /* q->want */
	Q2_STEP_PUNCH,
	Q2_STEP_END,
};

/* The next thing to do. A write's contents are in the buffer that was given. */
struct q2_step {
	enum q2_step_kind kind;
	enum q2_phase phase; /* of which it is */
	uint64_t offset, len;
	struct q2_table *t; /* pinned while it is written */
	size_t unit;	    /* of the L1 or refcount table */
};

/* Where a commit stands. Pure: q2_commit_next() tells what to do, q2_commit_wrote() what came of
 * it. */
struct q2_progress {
	enum q2_phase phase;
	unsigned left;	      /* tables of this phase */
	size_t unit;	      /* L1, refcount table: next */
	bool unsynced;	      /* something was written since the last flush */
	bool synced;	      /* the flush that comes before this phase was made */
	size_t run;	      /* of q->freeing */
	uint64_t at, punched; /* in that run */
};

void q2_commit_begin(struct qcow2 *q, struct q2_progress *p);
int q2_commit_next(struct qcow2 *q, struct q2_progress *p, void *buf, struct q2_step *ret_step);
void q2_commit_wrote(struct qcow2 *q, const struct q2_step *step, int res);
/* Over, well or not. */
void q2_commit_end(struct qcow2 *q, struct q2_progress *p, int res);

bool q2_is_dirty(const struct qcow2 *q);

/* All of it at once; no request is in flight. */
int q2_commit_sync(struct qcow2 *q);

/* Writes the fields of the header at once. */
int q2_header_write(struct qcow2 *q);

#endif
