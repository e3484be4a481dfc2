/* Which metadata is written next, and the synchronous way to do it. See disk/qcow2/commit.h. */
#include "disk/qcow2/commit.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>

bool q2_is_dirty(const struct qcow2 *q)
{
	return q->ref_cache.ndirty || q->l2_cache.ndirty || q->l1_any_dirty ||
	       q->reftable_any_dirty || q->header_dirty || q->freed.count;
}

void q2_commit_begin(struct qcow2 *q, struct q2_progress *p)
{
	struct q2_freed_list empty = q->freeing;

	*p = (struct q2_progress){.phase = Q2_PHASE_REFBLOCKS, .left = q->ref_cache.ndirty};
	if (q->broken) { /* only that it is so is still written */
		p->phase = Q2_PHASE_HEADER;
		return;
	}
	q->frozen = q->ref_frozen = true;
	q->freeing = q->freed;
	q->freed = empty;
}

static void enter(struct q2_progress *p, enum q2_phase phase, unsigned left)
{
	p->phase = phase;
	p->left = left;
	p->unit = 0;
	p->synced = false;
}

static void step_sync(struct q2_progress *p, struct q2_step *s)
{
	s->kind = Q2_STEP_SYNC;
	p->unsynced = false;
	p->synced = true;
}

/* The next dirty table of a cache; false: that was all. */
static bool next_table(struct qcow2 *q, struct q2_cache *c, struct q2_progress *p, void *buf,
		       struct q2_step *s)
{
	struct q2_table *t = p->left ? q2_cache_pop_dirty(c) : NULL;

	if (!t)
		return false;
	p->left--;
	t->pins++;
	memcpy(buf, t->data, q->unit_bytes);
	s->t = t;
	s->offset = t->offset;
	s->len = q->unit_bytes;
	p->unsynced = true;
	return true;
}

/* The next dirty unit of a table that is wholly in memory. */
static bool next_unit(struct qcow2 *q, const uint64_t *table, uint8_t *dirty, uint64_t entries,
		      uint64_t at, struct q2_progress *p, void *buf, struct q2_step *s)
{
	size_t per_unit = q->unit_bytes / 8, units = (size_t)((entries + per_unit - 1) / per_unit);

	while (p->unit < units && !dirty[p->unit])
		p->unit++;
	if (p->unit == units)
		return false;
	for (size_t i = 0; i < per_unit; i++)
		be64_store((uint8_t *)buf + i * 8, table[p->unit * per_unit + i]);
	dirty[p->unit] = 0;
	s->unit = p->unit;
	s->offset = at + (uint64_t)p->unit * q->unit_bytes;
	s->len = q->unit_bytes;
	p->unsynced = true;
	return true;
}

/* The first unit of the file; `moved`: the refcount table's new place is durable. */
static void fill_header(struct qcow2 *q, bool moved, void *buf)
{
	struct q2_header h = q->h;

	if (q->reftable_moved && !moved) {
		h.reftable_offset = q->reftable_old_offset;
		h.reftable_clusters = (uint32_t)q->reftable_old_clusters;
	}
	q2_header_store(&h, q->first);
	memcpy(buf, q->first, q->unit_bytes);
}

static bool next_header(struct qcow2 *q, struct q2_progress *p, void *buf, struct q2_step *s)
{
	if (!q->header_dirty && (!q->reftable_moved || q->broken))
		return false;
	if (q->reftable_moved && !q->broken && p->unsynced) {
		step_sync(p, s);
		return true;
	}
	fill_header(q, !q->broken, buf);
	q->header_dirty = false;
	q->reftable_moved = q->reftable_moved && q->broken;
	s->offset = 0;
	s->len = q->unit_bytes;
	p->unsynced = true;
	return true;
}

static bool has_l2_work(const struct qcow2 *q)
{
	return q->l2_cache.ndirty || q->l1_any_dirty;
}

/* Sets `n` refcounts from 1 to 0: the clusters are free from now on. */
static int make_free(struct qcow2 *q, const struct q2_freed *run, uint64_t first, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++) {
		int r = q2_ref_set(q, first + i, 0);

		if (r)
			return r; /* from the start again: it is 0 already, which changes nothing */
	}
	if (run->is_table)
		q2_cache_forget(&q->l2_cache, first << q->cluster_bits, n << q->cluster_bits);
	q->free_hint = MIN(q->free_hint, first);
	if (q2_cluster_of(q, q->pack_offset) >= first &&
	    q2_cluster_of(q, q->pack_offset) < first + n)
		q->pack_offset = 0;
	return 0;
}

/* How many clusters from here on are this reference's alone; they are of one piece of a block. */
static uint64_t alone(struct qcow2 *q, uint64_t first, uint64_t max)
{
	uint64_t per_unit = (uint64_t)q->unit_bytes * 8 / q->ref_bits, value, n = 1;

	max = MIN(max, per_unit - first % per_unit);
	while (n < max && !q2_ref_get(q, first + n, &value) && value == 1)
		n++;
	return n;
}

/* 0: go on; 1: a step is to be taken. */
static int next_free(struct qcow2 *q, struct q2_progress *p, struct q2_step *s)
{
	struct q2_freed *run = &q->freeing.runs[p->run];
	uint64_t first = run->cluster + p->at, value;
	int r;

	if (p->at == run->count) {
		p->run++;
		p->at = 0;
		return 0;
	}
	if (p->punched) {
		r = make_free(q, run, first, p->punched);
		if (!r) {
			p->at += p->punched;
			p->punched = 0;
		}
	} else {
		r = q2_ref_get(q, first, &value);
		if (!r && !value)
			r = q2_broken(q, "cluster 0x%llx is in use and has refcount 0",
				      (unsigned long long)first << q->cluster_bits);
		if (!r && value == 1) {
			p->punched = alone(q, first, run->count - p->at);
			s->kind = Q2_STEP_PUNCH;
			s->offset = first << q->cluster_bits;
			s->len = p->punched << q->cluster_bits;
			return !q->no_discard;
		}
		if (!r)
			r = q2_ref_set(q, first, value - 1);
		p->at += !r;
	}
	if (r == Q2_NEED_READ) {
		s->kind = Q2_STEP_READ;
		return 1;
	}
	return r;
}

static void thaw(struct qcow2 *q)
{
	q->frozen = q->ref_frozen = false;
}

/* One attempt: true when `s` is a step, false when the phase has changed. */
static bool next_in_phase(struct qcow2 *q, struct q2_progress *p, void *buf, struct q2_step *s)
{
	switch (p->phase) {
	case Q2_PHASE_REFBLOCKS:
		if (next_table(q, &q->ref_cache, p, buf, s))
			return true;
		enter(p, Q2_PHASE_REFTABLE, 0);
		return false;
	case Q2_PHASE_REFTABLE:
		if (q->reftable_any_dirty && p->unsynced && !p->synced) {
			step_sync(p, s);
			return true;
		}
		if (q->reftable_any_dirty &&
		    next_unit(q, q->reftable, q->reftable_dirty, q->reftable_entries,
			      q->h.reftable_offset, p, buf, s))
			return true;
		q->reftable_any_dirty = false;
		enter(p, Q2_PHASE_HEADER, 0);
		return false;
	case Q2_PHASE_HEADER:
		if (next_header(q, p, buf, s))
			return true;
		q->ref_frozen = false;
		enter(p, q->broken ? Q2_PHASE_SYNC : Q2_PHASE_ORDER, 0);
		return false;
	case Q2_PHASE_ORDER:
		enter(p, Q2_PHASE_L2, q->l2_cache.ndirty);
		if (!has_l2_work(q) || !(q->need_order || p->unsynced))
			return false;
		q->need_order = false;
		step_sync(p, s);
		return true;
	case Q2_PHASE_L2:
		if (next_table(q, &q->l2_cache, p, buf, s))
			return true;
		enter(p, Q2_PHASE_L1, 0);
		return false;
	case Q2_PHASE_L1:
		if (q->l1_any_dirty &&
		    next_unit(q, q->l1, q->l1_dirty, q->h.l1_entries, q->h.l1_offset, p, buf, s))
			return true;
		q->l1_any_dirty = false;
		thaw(q);
		enter(p, Q2_PHASE_SYNC, 0);
		return false;
	default: /* Q2_PHASE_SYNC; the rest is q2_commit_next()'s */
		enter(p, Q2_PHASE_GRACE, 0);
		step_sync(p, s);
		return true;
	}
}

int q2_commit_next(struct qcow2 *q, struct q2_progress *p, void *buf, struct q2_step *ret_step)
{
	struct q2_step *s = ret_step;
	int r;

	for (;;) {
		*s = (struct q2_step){.kind = Q2_STEP_WRITE, .phase = p->phase};
		if (p->phase < Q2_PHASE_GRACE) {
			if (next_in_phase(q, p, buf, s))
				return 0;
			continue;
		}
		if (p->phase == Q2_PHASE_GRACE && q->freeing.count && !q->broken) {
			p->phase = Q2_PHASE_FREE;
			s->kind = Q2_STEP_GRACE;
			return 0;
		}
		if (p->phase == Q2_PHASE_FREE && p->run < q->freeing.count) {
			r = next_free(q, p, s);
			if (r)
				return MIN(r, 0);
			continue;
		}
		p->phase = Q2_PHASE_END;
		s->kind = Q2_STEP_END;
		return q->broken ? -EIO : 0;
	}
}

void q2_commit_wrote(struct qcow2 *q, const struct q2_step *s, int res)
{
	if (s->t)
		s->t->pins--;
	if (!res)
		return;
	switch (s->phase) {
	case Q2_PHASE_REFBLOCKS:
		q2_cache_set_dirty(&q->ref_cache, s->t);
		break;
	case Q2_PHASE_REFTABLE:
		q->reftable_dirty[s->unit] = 1;
		q->reftable_any_dirty = true;
		break;
	case Q2_PHASE_HEADER:
		/* the old place of the refcount table is kept as long as it may be the one named */
		q->header_dirty = true;
		q->reftable_moved = q->reftable_old_clusters != 0;
		break;
	case Q2_PHASE_L2:
		q2_cache_set_dirty(&q->l2_cache, s->t);
		break;
	case Q2_PHASE_L1:
		q->l1_dirty[s->unit] = 1;
		q->l1_any_dirty = true;
		break;
	default:
		break;
	}
}

/* What was not given up is so with the next commit. */
static void keep_freed(struct qcow2 *q, const struct q2_progress *p)
{
	for (size_t i = p->run; i < q->freeing.count; i++) {
		const struct q2_freed *f = &q->freeing.runs[i];
		uint64_t skip = i == p->run ? p->at : 0;
		uint64_t offset = (f->cluster + skip) << q->cluster_bits;
		uint64_t bytes = (f->count - skip) << q->cluster_bits;

		if (bytes && f->is_table)
			q2_release_table(q, offset, bytes);
		else if (bytes)
			q2_release(q, offset, bytes);
	}
}

void q2_commit_end(struct qcow2 *q, struct q2_progress *p, int res)
{
	thaw(q);
	if (res) {
		q->need_order = true;
		keep_freed(q, p);
	} else if (!q->reftable_moved) {
		q->reftable_old_clusters = 0;
	}
	q->freeing.count = 0;
	p->phase = Q2_PHASE_IDLE;
}

static int do_step(struct qcow2 *q, const struct q2_step *s, const void *buf)
{
	int r = 0;

	switch (s->kind) {
	case Q2_STEP_WRITE:
		r = q2_pwrite(&q->file, buf, (size_t)s->len, s->offset);
		q2_commit_wrote(q, s, r);
		break;
	case Q2_STEP_SYNC:
		r = q->data.img ? q2_sync(&q->data) : 0;
		r = r ? r : q2_sync(&q->file);
		q->sync_failed = r != 0;
		break;
	case Q2_STEP_READ:
		/* no room: the tables that fill it are written now, the rest is for the next commit
		 */
		r = q->ref_cache.ndirty == q->ref_cache.slots ? -ENOBUFS
							      : q2_sync_need(q, Q2_NEED_READ);
		break;
	case Q2_STEP_PUNCH: /* where it cannot be, the space stays */
		(void)fallocate(q->file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				(off_t)s->offset, (off_t)s->len);
		break;
	case Q2_STEP_GRACE: /* nothing is in flight */
	case Q2_STEP_END:
		break;
	}
	return r;
}

int q2_commit_sync(struct qcow2 *q)
{
	uint8_t *buf = q2_buffer(&q->file, q->unit_bytes);
	struct q2_progress p;
	struct q2_step s;
	int r;

	if (!buf)
		return -ENOMEM;
	if (q->sync_failed) {
		free(buf);
		return -EIO;
	}
	q2_commit_begin(q, &p);
	do {
		r = q2_commit_next(q, &p, buf, &s);
		if (r || s.kind == Q2_STEP_END)
			break;
		r = do_step(q, &s, buf);
	} while (!r);
	q2_commit_end(q, &p, r);
	free(buf);
	return r == -ENOBUFS ? 0 : r;
}

int q2_header_write(struct qcow2 *q)
{
	uint8_t *buf = q2_buffer(&q->file, q->unit_bytes);
	int r;

	if (!buf)
		return -ENOMEM;
	fill_header(q, true, buf);
	r = q2_pwrite(&q->file, buf, q->unit_bytes, 0);
	free(buf);
	return r ? r : q2_sync(&q->file);
}
