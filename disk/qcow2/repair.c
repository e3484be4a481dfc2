/*
 * Comparing refcounts with references, and setting them right.
 *
 * Where the refcount table and its blocks can be used, single refcounts are changed in place;
 * otherwise new ones are made behind the end of the file, complete, before the header names them.
 * COPIED flags follow when refcounts are durable.
 */
#include "disk/qcow2/check.h"

#include "base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long ull;

/* 0: agrees, or was set right; or it cannot be told here (-EIO: the block is missing). */
static int compare_one(struct q2_check *c, uint64_t cluster, uint64_t want, bool *ret_changed)
{
	struct qcow2 *q = c->q;
	uint64_t is = 0;
	bool leak;
	int r = Q2_SYNC(q, q2_ref_get(q, cluster, &is));

	if (r || is == want)
		return r;
	leak = is > want;
	q2_check_problem(c, "%s: cluster %llu has refcount %llu and %llu references",
			 leak ? "leaked" : "corrupt", (ull)cluster, (ull)is, (ull)want);
	if (leak)
		c->result.leaks++;
	else
		c->result.corruptions++;
	if (!(c->repair & QCOW2_REPAIR_ALL) && !(leak && c->repair & QCOW2_REPAIR_LEAKS))
		return 0;
	if (want > q2_ref_max(q->ref_bits)) {
		c->unfixable = true;
		return 0;
	}
	r = Q2_SYNC(q, q2_ref_set(q, cluster, want));
	if (r)
		return r;
	*ret_changed = true;
	if (leak)
		c->result.leaks_fixed++;
	else
		c->result.corruptions_fixed++;
	return 0;
}

/* Goes on behind the piece of a block that begins here, if it is all zeroes: most are. */
static int skip_zeroes(struct q2_check *c, uint64_t *cluster)
{
	struct qcow2 *q = c->q;
	uint64_t per_unit = (uint64_t)q->unit_bytes * 8 / q->ref_bits, block = 0;
	uint64_t in_block = *cluster & ((UINT64_C(1) << q->refblock_bits) - 1);
	struct q2_table *t;
	int r = q2_check_spend(c, q->unit_bytes);

	if (!r)
		r = q2_refblock(q, *cluster, &block);
	if (r || !block)
		return r;
	r = Q2_SYNC(
	    q, q2_table_get(q, &q->ref_cache, block + in_block / per_unit * q->unit_bytes, &t));
	if (!r && !t->data[0] && !memcmp(t->data, t->data + 1, q->unit_bytes - 1))
		*cluster += per_unit;
	return r;
}

/* Refcounts of clusters behind the end of the file, which nothing can refer to. */
static int compare_behind(struct q2_check *c, bool *ret_changed)
{
	struct qcow2 *q = c->q;
	uint64_t per_block = UINT64_C(1) << q->refblock_bits, cluster = c->clusters;
	uint64_t per_unit = (uint64_t)q->unit_bytes * 8 / q->ref_bits;
	int r = 0;

	while (!r && cluster >> q->refblock_bits < q->reftable_entries) {
		if (!q->reftable[cluster >> q->refblock_bits]) {
			cluster = align_down(cluster, per_block) + per_block;
			continue;
		}
		if (!(cluster % per_unit))
			r = skip_zeroes(c, &cluster);
		if (!r && cluster >> q->refblock_bits < q->reftable_entries &&
		    q->reftable[cluster >> q->refblock_bits])
			r = compare_one(c, cluster++, 0, ret_changed);
	}
	return r;
}

static int compare_all(struct q2_check *c, bool *ret_missing)
{
	struct qcow2 *q = c->q;
	uint64_t per_unit = (uint64_t)q->unit_bytes * 8 / q->ref_bits;
	bool changed = false;
	int r = 0;

	for (uint64_t i = 0; i < c->clusters; i++) {
		uint64_t n = i >> q->refblock_bits;

		c->at = q->h.l1_entries + i;
		if (!(i % per_unit))
			r = q2_check_spend(c, q->unit_bytes);
		if (r)
			return r;
		if (c->refs[i] && (n >= q->reftable_entries || !q->reftable[n])) {
			q2_check_problem(c,
					 "corrupt: cluster %llu has no refcount block and %u "
					 "references",
					 (ull)i, c->refs[i]);
			c->result.corruptions++;
			*ret_missing = true;
			continue;
		}
		r = compare_one(c, i, c->refs[i], &changed);
		if (r)
			return r;
	}
	r = compare_behind(c, &changed);
	if (!r && changed)
		r = q2_tool_commit(q);
	return r;
}

/* New refcounts behind everything: how many blocks, and clusters of the table. */
static void plan(const struct qcow2 *q, uint64_t used, uint64_t *ret_blocks, uint64_t *ret_clusters)
{
	uint64_t blocks = 0, clusters = 0, all, per_cluster = q->cluster_bytes / 8;

	do {
		all = used + blocks + clusters;
		*ret_blocks = blocks;
		*ret_clusters = clusters;
		blocks = (all + (UINT64_C(1) << q->refblock_bits) - 1) >> q->refblock_bits;
		clusters = (blocks + per_cluster - 1) / per_cluster;
	} while (blocks != *ret_blocks || clusters != *ret_clusters);
}

static int write_blocks(struct q2_check *c, uint64_t used, uint64_t blocks, uint64_t clusters)
{
	struct qcow2 *q = c->q;
	uint64_t per_block = UINT64_C(1) << q->refblock_bits, end = used + blocks + clusters;
	autofree uint8_t *buf = q2_zalloc(q->cluster_bytes);
	int r = buf ? 0 : -ENOMEM;

	for (uint64_t b = 0; !r && b < blocks; b++) {
		memset(buf, 0, q->cluster_bytes);
		for (uint64_t i = 0; i < per_block && b * per_block + i < end; i++) {
			uint64_t cluster = b * per_block + i;
			uint64_t v = cluster >= used	     ? 1
				     : cluster < c->clusters ? c->refs[cluster]
							     : 0;

			if (v > q2_ref_max(q->ref_bits))
				return -EOVERFLOW;
			q2_ref_store(buf, q->ref_bits, i, v);
		}
		r = q2_pwrite(&q->file, buf, q->cluster_bytes, (used + b) << q->cluster_bits);
	}
	return r;
}

/* The counts lack the old table and blocks: they are free afterwards. */
static int rebuild(struct q2_check *c)
{
	struct qcow2 *q = c->q;
	uint64_t used = c->clusters, blocks, clusters, table;
	uint64_t *entries;
	uint8_t *dirty;
	int r;

	plan(q, used, &blocks, &clusters);
	if (clusters << q->cluster_bits > Q2_REFTABLE_BYTES_MAX)
		return -EFBIG;
	entries = q2_zalloc((size_t)clusters * (q->cluster_bytes));
	dirty = q2_zalloc((size_t)clusters * (q->cluster_bytes / q->unit_bytes));
	table = (used + blocks) << q->cluster_bits;
	r = entries && dirty ? write_blocks(c, used, blocks, clusters) : -ENOMEM;
	for (uint64_t i = 0; !r && i < blocks; i++)
		be64_store(&entries[i], (used + i) << q->cluster_bits);
	if (!r)
		r = q2_pwrite(&q->file, entries, (size_t)(clusters << q->cluster_bits), table);
	if (!r)
		r = q2_sync(&q->file);
	if (r) {
		free(entries);
		free(dirty);
		return r;
	}
	for (uint64_t i = 0; i < blocks; i++)
		entries[i] = (used + i) << q->cluster_bits;
	free(q->reftable);
	free(q->reftable_dirty);
	q->reftable = entries;
	q->reftable_dirty = dirty;
	q->reftable_entries = (uint32_t)((clusters << q->cluster_bits) / 8);
	q->h.reftable_offset = table;
	q->h.reftable_clusters = (uint32_t)clusters;
	q->file_end = table + (clusters << q->cluster_bits);
	q->zero_from = q->zero_from == UINT64_MAX ? UINT64_MAX : q->file_end;
	q->free_hint = 0;
	q2_cache_free(&q->ref_cache);
	r = q2_cache_init(&q->ref_cache, q->unit_bytes, 1024);
	return r ? r : q2_header_write(q);
}

/* Takes back the references of the refcount table and its blocks. */
static void uncount_refcounts(struct q2_check *c)
{
	struct qcow2 *q = c->q;
	uint64_t first = q2_cluster_of(q, q->h.reftable_offset);

	for (uint64_t i = first; i < first + q->h.reftable_clusters && i < c->clusters; i++)
		c->refs[i] -= c->refs[i] != 0;
	for (uint32_t i = 0; i < q->reftable_entries; i++) {
		uint64_t block = q->reftable[i];

		if (block && !(block & Q2_REF_RESERVED) && !q2_in_cluster(q, block) &&
		    block >= q->cluster_bytes && q2_cluster_of(q, block) < c->clusters)
			c->refs[q2_cluster_of(q, block)] -= c->refs[q2_cluster_of(q, block)] != 0;
	}
}

int q2_check_compare(struct q2_check *c)
{
	bool missing = false;
	int r = 0;

	c->repairing = c->repair;
	if (!c->refcounts_unusable)
		r = compare_all(c, &missing);
	if (r || !(c->refcounts_unusable || missing) || !(c->repair & QCOW2_REPAIR_ALL))
		return r;
	uncount_refcounts(c);
	r = rebuild(c);
	if (r)
		return r;
	c->result.leaks_fixed = c->result.leaks;
	if (!c->unfixable)
		c->result.corruptions_fixed = c->result.corruptions;
	return 0;
}

/* COPIED: exactly one reference. */

static bool wants_copied(const struct q2_check *c, uint64_t host)
{
	uint64_t i = q2_cluster_of(c->q, host);

	return i < c->clusters && c->refs[i] == 1;
}

static bool fix_flag(struct q2_check *c, uint64_t *word, const char *what, uint64_t n)
{
	uint64_t host = *word & Q2_OFFSET_MASK;

	if (!host || q2_in_cluster(c->q, host) || q2_cluster_of(c->q, host) >= c->clusters ||
	    !!(*word & Q2_COPIED) == wants_copied(c, host))
		return false;
	q2_check_problem(
	    c, "corrupt: %s 0x%llx: its COPIED flag is %d and its cluster has %u references", what,
	    (ull)n, !!(*word & Q2_COPIED), c->refs[q2_cluster_of(c->q, host)]);
	c->result.corruptions++;
	if (!(c->repair & QCOW2_REPAIR_ALL))
		return false;
	*word ^= Q2_COPIED;
	c->result.corruptions_fixed++;
	return true;
}

static int fix_l2(struct q2_check *c, uint64_t table, uint64_t guest, uint8_t *buf)
{
	struct qcow2 *q = c->q;
	bool changed = false;
	int r = q2_pread(&q->file, buf, q->cluster_bytes, table);

	if (r)
		return r;
	for (size_t at = 0; at < q->cluster_bytes; at += q->entry_bytes) {
		uint64_t word = be64_load(buf + at);

		if (!(word & Q2_COMPRESSED) && fix_flag(c, &word, "guest offset", guest)) {
			be64_store(buf + at, word);
			changed = true;
		}
		guest += q->cluster_bytes;
	}
	return changed ? q2_pwrite(&q->file, buf, q->cluster_bytes, table) : 0;
}

int q2_check_copied(struct q2_check *c)
{
	struct qcow2 *q = c->q;
	autofree uint8_t *buf = q2_zalloc(q->cluster_bytes);
	int r = buf ? 0 : -ENOMEM;

	for (uint64_t i = 0; !r && i < q->h.l1_entries; i++) {
		uint64_t table = q->l1[i] & Q2_OFFSET_MASK;

		if (!table || q2_in_cluster(q, table) || q2_cluster_of(q, table) >= c->clusters)
			continue;
		if (fix_flag(c, &q->l1[i], "L1 entry", i)) {
			q->l1_dirty[i * 8 / q->unit_bytes] = 1;
			q->l1_any_dirty = true;
		}
		if (q2_is_external(q) || c->tables[q2_cluster_of(q, table)])
			continue;
		c->tables[q2_cluster_of(q, table)] = 1; /* once is enough */
		r = q2_check_spend(c, q->cluster_bytes);
		if (!r)
			r = fix_l2(c, table, i * q2_l2_span(q), buf);
	}
	return r ? r : q2_tool_commit(q);
}

static int run(struct q2_check *c)
{
	struct qcow2 *q = c->q;
	int r = q2_check_init(c);

	if (!r)
		r = q2_check_count(c);
	if (!r)
		r = q2_check_compare(c);
	if (!r)
		r = q2_check_copied(c);
	/* the refcount structure may have moved: what it was is not what is there */
	if (!r && c->repair & QCOW2_REPAIR_ALL && !c->unfixable &&
	    q->h.incompatible & (Q2_INCOMPAT_DIRTY | Q2_INCOMPAT_CORRUPT)) {
		q->h.incompatible &= ~(Q2_INCOMPAT_DIRTY | Q2_INCOMPAT_CORRUPT);
		q->broken = false;
		r = q2_header_write(q);
	}
	q2_check_free(c);
	return r;
}

int q2_rebuild_refcounts(struct qcow2 *q, struct err *err)
{
	struct q2_check c = {.q = q, .repair = QCOW2_REPAIR_ALL, .limit = Q2_REBUILD_BYTES_MAX};
	int r = run(&c);

	if (r == -EFBIG)
		return err_set(err, EFBIG,
			       "was not closed, and its tables are too large to be set right now; "
			       "repair it with lodge disk check");
	if (r)
		return err_sys(err, -r, "its refcounts cannot be rebuilt");
	if (c.unfixable)
		return err_set(
		    err, EINVAL,
		    "was not closed and %llu of its entries are broken; see lodge disk check",
		    (ull)(c.result.corruptions - c.result.corruptions_fixed));
	return 0;
}

int qcow2_check(const char *path, unsigned repair, const struct qcow2_check_ops *ops,
		struct qcow2_check_result *ret_result, struct err *err)
{
	struct q2_check c = {.ops = ops, .repair = repair, .limit = UINT64_MAX};
	int r = q2_tool_open(path, !repair, true, &c.q, err);

	if (r)
		return r;
	r = run(&c);
	if (r == -ECANCELED)
		err_set(err, ECANCELED, "the check was stopped");
	else if (r)
		err_sys(err, -r, "cannot be checked");
	r = q2_tool_close(c.q, r, err);
	if (!r)
		*ret_result = c.result;
	return r;
}
