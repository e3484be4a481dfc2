/*
 * Changes of L2 tables: what a write needs, and what refers to it afterwards.
 *
 * Pure. What is given up is released with q2_release(): used again only after the table is durable.
 */
#include "disk/qcow2/qcow2_priv.h"

#include <assert.h>
#include <errno.h>

/* A run is bounded, so that one request does not keep others waiting for long. */
#define RUN_BYTES_MAX (4 * MIB)

static uint32_t sub_mask(const struct qcow2 *q, uint64_t from, uint64_t to)
{
	unsigned first = (unsigned)(from >> q->sub_bits),
		 last = (unsigned)((to - 1) >> q->sub_bits);
	unsigned n = last - first + 1;

	return (n == 32 ? UINT32_MAX : (UINT32_C(1) << n) - 1) << first;
}

/* Does this entry's cluster stay, because it is the guest's alone? */
static bool keeps_cluster(struct q2_entry e)
{
	return !(e.word & Q2_COMPRESSED) && e.word & Q2_COPIED && e.word & Q2_OFFSET_MASK;
}

/*
 * How much of a new cluster has to be stored around [pos, end): all of it when the old one holds
 * data that is shared or compressed, else whole subclusters (without them: clusters).
 */
static void widen(const struct qcow2 *q, struct q2_entry e, uint64_t *pos, uint64_t *end,
		  bool first, bool last)
{
	uint64_t unit = UINT64_C(1) << q->sub_bits;
	bool has_data = e.word & Q2_COMPRESSED || q2_bitmap_alloc(e.bitmap);

	if (q->extl2 && has_data && !keeps_cluster(e))
		unit = q->cluster_bytes;
	if (first)
		*pos = align_down(*pos, unit);
	if (last)
		*end = align_up(*end, unit);
}

int q2_plan_write(struct qcow2 *q, uint64_t pos, uint64_t end, bool *ret_in_place,
		  struct q2_extent *ret_ext, struct q2_run *ret_run)
{
	struct q2_run run = {.guest = align_down(pos, q->cluster_bytes)};
	struct q2_entry e, last;
	struct q2_table *t;
	int r = q2_map(q, pos, end - pos, ret_ext);

	if (r)
		return r;
	*ret_in_place = ret_ext->kind == Q2_DATA && ret_ext->copied;
	if (*ret_in_place)
		return 0;
	r = q2_l2_get(q, pos, &t);
	if (r)
		return r;
	end = MIN(end, pos + MIN(q2_l2_rest(q, pos), RUN_BYTES_MAX));
	e = q2_entry_load(q, t, pos);
	run.clusters = 1;
	run.reuse = keeps_cluster(e);
	if (run.reuse) {
		run.host = e.word & Q2_OFFSET_MASK;
		/* not into a subcluster that is there: others may write to it in place meanwhile,
		 * and what is copied around the data would undo that */
		end = MIN(end, pos + ret_ext->len);
	}
	while (!run.reuse && run.guest + run.clusters * q->cluster_bytes < end) {
		uint64_t guest = run.guest + run.clusters * q->cluster_bytes;

		last = q2_entry_load(q, t, guest);
		r = q2_entry_check(q, guest, last);
		if (r)
			return r;
		if (keeps_cluster(last))
			break;
		run.clusters++;
	}
	if (run.clusters == 1)
		last = e;
	else
		last = q2_entry_load(q, t, run.guest + (run.clusters - 1) * q->cluster_bytes);
	run.from = pos;
	run.to = MIN(end, run.guest + run.clusters * q->cluster_bytes);
	widen(q, e, &run.from, &run.to, true, false);
	widen(q, last, &run.from, &run.to, false, true);
	*ret_run = run;
	return 0;
}

/* Gives up what an entry refers to. */
static void release_entry(struct qcow2 *q, struct q2_entry e)
{
	uint64_t host = e.word & Q2_OFFSET_MASK;
	uint32_t len;

	if (e.word & Q2_COMPRESSED) {
		q2_entry_compressed(q, e.word, &host, &len);
		q2_release(q, host, len);
	} else if (host) {
		q2_release(q, host, q->cluster_bytes);
	}
}

void q2_link_run(struct qcow2 *q, struct q2_table *t, const struct q2_run *run)
{
	assert(!q->frozen);
	for (uint64_t i = 0; i < run->clusters; i++) {
		uint64_t guest = run->guest + (i << q->cluster_bits);
		struct q2_entry old = q2_entry_load(q, t, guest), e = {0};
		uint64_t from = MAX(run->from, guest), to = MIN(run->to, guest + q->cluster_bytes);

		e.word = (run->host + (i << q->cluster_bits)) | Q2_COPIED;
		if (q->extl2) {
			uint32_t now = sub_mask(q, from - guest, to - guest);
			/* what the old cluster held is all stored anew, or it is this cluster */
			uint32_t alloc = q2_bitmap_alloc(old.bitmap) | now;
			uint32_t zero = q2_bitmap_zero(old.bitmap) & ~now;

			if (old.word & Q2_COMPRESSED) {
				alloc = UINT32_MAX;
				zero = 0;
			}
			e.bitmap = (uint64_t)zero << 32 | alloc;
		}
		q2_entry_store(q, t, guest, e);
		if (!run->reuse)
			release_entry(q, old);
	}
	q->need_order = true;
}

void q2_link_l2(struct qcow2 *q, uint64_t guest, uint64_t offset)
{
	size_t i = q2_l1_index(q, guest);
	uint64_t old = q->l1[i] & Q2_OFFSET_MASK;

	assert(!q->frozen);
	q->l1[i] = offset | Q2_COPIED;
	q->l1_dirty[i * 8 / q->unit_bytes] = 1;
	q->l1_any_dirty = true;
	q->need_order = true;
	if (old)
		q2_release_table(q, old, q->cluster_bytes);
}

/* Something below: also where a tool has not opened it. */
static bool has_backing(const struct qcow2 *q)
{
	return q->h.backing[0];
}

/* What an entry becomes that is to read as zeroes, or as nothing of this image's. */
static struct q2_entry zeroed(const struct qcow2 *q, struct q2_entry e, enum q2_zero_how how)
{
	bool keep = how == Q2_ZERO_KEEP && keeps_cluster(e);
	struct q2_entry to = {0};

	/* discarding nothing leaves nothing, unless something shows there */
	if (how == Q2_ZERO_EMPTY ||
	    (how == Q2_ZERO_DISCARD && !e.word && !e.bitmap && !has_backing(q)))
		return to;
	if (keep)
		to.word = e.word & (Q2_OFFSET_MASK | Q2_COPIED);
	if (q->extl2)
		to.bitmap = (uint64_t)UINT32_MAX << 32;
	else
		to.word |= Q2_L2_ZERO;
	return to;
}

static int zero_cluster(struct qcow2 *q, struct q2_table *t, uint64_t guest, enum q2_zero_how how)
{
	struct q2_entry e = q2_entry_load(q, t, guest), to;
	int r = q2_entry_check(q, guest, e);

	if (r)
		return r;
	if (q->h.version < 3 && how != Q2_ZERO_EMPTY) {
		/* no zero flag: only to be nowhere can mean zeroes, unless something shows through
		 */
		if (how == Q2_ZERO_DISCARD && has_backing(q))
			return 0;
		if (has_backing(q) || (how == Q2_ZERO_KEEP && e.word & Q2_OFFSET_MASK))
			return -ENOTSUP;
		to = (struct q2_entry){0};
	} else {
		to = zeroed(q, e, how);
	}
	if (to.word == e.word && to.bitmap == e.bitmap)
		return 0;
	q2_entry_store(q, t, guest, to);
	if (!(to.word & Q2_OFFSET_MASK))
		release_entry(q, e);
	return 0;
}

/* Whole subclusters of one cluster. */
static int zero_subclusters(struct qcow2 *q, struct q2_table *t, uint64_t pos, uint64_t end)
{
	struct q2_entry e = q2_entry_load(q, t, pos);
	uint64_t guest = align_down(pos, q->cluster_bytes);
	uint32_t mask = sub_mask(q, pos - guest, end - guest);
	int r = q2_entry_check(q, pos, e);

	if (r)
		return r;
	/* of a shared or compressed cluster nothing can be taken away */
	if (e.word & Q2_COMPRESSED || (e.word & Q2_OFFSET_MASK && !keeps_cluster(e)))
		return -ENOTSUP;
	e.bitmap =
	    (uint64_t)(q2_bitmap_zero(e.bitmap) | mask) << 32 | (q2_bitmap_alloc(e.bitmap) & ~mask);
	q2_entry_store(q, t, pos, e);
	return 0;
}

int q2_zero_range(struct qcow2 *q, uint64_t pos, uint64_t end, enum q2_zero_how how,
		  uint64_t *ret_len)
{
	uint64_t cluster = q->cluster_bytes, sub = UINT64_C(1) << q->sub_bits, at;
	uint64_t next = MIN(end, align_down(pos, cluster) + cluster);
	struct q2_table *t;
	int r = q2_l2_get(q, pos, &t);

	if (r)
		return r;
	assert(t && !q->frozen);
	if (how != Q2_ZERO_EMPTY && q->h.autoclear & Q2_AUTOCLEAR_RAW_DATA) {
		*ret_len = end - pos; /* the data file has to say it, too */
		return -ENOTSUP;
	}
	/* the last cluster may be cut by the end of the disk */
	if (q2_in_cluster(q, pos) || (next - pos < cluster && next != q->img.info.size_bytes)) {
		*ret_len = next - pos;
		if (how == Q2_ZERO_DISCARD)
			return 0;
		if (!is_aligned(pos, sub)) /* up to where subclusters are whole */
			*ret_len = MIN(next, align_up(pos, sub)) - pos;
		if (!q->extl2 || !is_aligned(pos, sub) || next - pos < sub)
			return -ENOTSUP;
		*ret_len = align_down(next - pos, sub);
		return zero_subclusters(q, t, pos, pos + *ret_len);
	}
	end = MIN(end, pos + q2_l2_rest(q, pos));
	for (at = pos; at < end; at += cluster) {
		if (end - at < cluster && end != q->img.info.size_bytes)
			break;
		r = zero_cluster(q, t, at, how);
		if (r)
			break;
	}
	if (r && at != pos)
		r = 0; /* said when it is asked for */
	*ret_len = r ? MIN(end, pos + cluster) - pos : MIN(at, end) - pos;
	return r;
}
