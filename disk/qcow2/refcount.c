/*
 * Refcounts: one number of 1 to 64 bits for each cluster of the file.
 *
 * The refcount table is wholly in memory, blocks piece by piece. A block that does not exist says
 * that all of its clusters are free; so a new block is put into the first of those, which makes it
 * its own first entry and needs no search. A table that is too short is replaced by a longer one
 * behind all that it covers:
 *
 *   first cluster behind what the old table covers
 *   | new block 0 | ... | new block k-1 | the new table | free ...
 *
 * where the k blocks are just those that are needed to cover themselves and the table.
 */
#include "disk/qcow2/qcow2_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

uint64_t q2_ref_load(const void *slice, unsigned bits, uint64_t index)
{
	const uint8_t *p = slice;
	unsigned per_byte;

	switch (bits) {
	case 8:
		return p[index];
	case 16:
		return be16_load(p + index * 2);
	case 32:
		return be32_load(p + index * 4);
	case 64:
		return be64_load(p + index * 8);
	default:
		per_byte = 8 / bits;
		return p[index / per_byte] >> (index % per_byte * bits) & ((1u << bits) - 1);
	}
}

void q2_ref_store(void *slice, unsigned bits, uint64_t index, uint64_t value)
{
	uint8_t *p = slice;
	unsigned per_byte, shift;

	switch (bits) {
	case 8:
		p[index] = (uint8_t)value;
		break;
	case 16:
		be16_store(p + index * 2, (uint16_t)value);
		break;
	case 32:
		be32_store(p + index * 4, (uint32_t)value);
		break;
	case 64:
		be64_store(p + index * 8, value);
		break;
	default:
		per_byte = 8 / bits;
		p += index / per_byte;
		shift = (unsigned)(index % per_byte) * bits;
		*p = (uint8_t)((*p & ~(((1u << bits) - 1) << shift)) | (unsigned)value << shift);
	}
}

int q2_table_get(struct qcow2 *q, struct q2_cache *cache, uint64_t offset, struct q2_table **ret_t)
{
	struct q2_table *t = q2_cache_find(cache, offset);

	if (t && t->state == Q2_TABLE_VALID) {
		*ret_t = t;
		return 0;
	}
	q->want.cache = cache;
	q->want.offset = offset;
	return Q2_NEED_READ;
}

int q2_table_new(struct qcow2 *q, struct q2_cache *cache, uint64_t offset, struct q2_table **ret_t)
{
	struct q2_table *t = q2_cache_find(cache, offset);

	(void)q;
	if (!t)
		t = q2_cache_take(cache, offset);
	else if (t->state != Q2_TABLE_VALID)
		return -EIO; /* somebody reads a table there while it is free */
	if (!t)
		return Q2_NEED_ROOM;
	memset(t->data, 0, cache->unit_bytes);
	t->state = Q2_TABLE_VALID;
	q2_cache_set_dirty(cache, t);
	*ret_t = t;
	return 0;
}

int q2_refblock(struct qcow2 *q, uint64_t cluster, uint64_t *ret_offset)
{
	uint64_t n = cluster >> q->refblock_bits, entry;

	*ret_offset = 0;
	if (n >= q->reftable_entries || !q->reftable[n])
		return 0;
	entry = q->reftable[n];
	if (entry & Q2_REF_RESERVED || q2_in_cluster(q, entry))
		return q2_broken(q, "refcount table entry %llu is 0x%llx, not on a cluster",
				 (unsigned long long)n, (unsigned long long)entry);
	if (entry >= q->file_end)
		return q2_broken(q, "refcount table entry %llu is 0x%llx, past the end of the file",
				 (unsigned long long)n, (unsigned long long)entry);
	if (q2_is_metadata(q, entry, q->cluster_bytes))
		return q2_broken(q, "refcount block %llu at 0x%llx lies over other metadata",
				 (unsigned long long)n, (unsigned long long)entry);
	*ret_offset = entry;
	return 0;
}

/* The piece that holds a cluster's refcount, and its index there; NULL: no such block. */
static int find(struct qcow2 *q, uint64_t cluster, struct q2_table **ret_t, uint64_t *ret_index)
{
	uint64_t per_unit = (uint64_t)q->unit_bytes * 8 / q->ref_bits;
	uint64_t in_block = cluster & ((UINT64_C(1) << q->refblock_bits) - 1), block;
	int r = q2_refblock(q, cluster, &block);

	*ret_t = NULL;
	if (r || !block)
		return r;
	*ret_index = in_block % per_unit;
	return q2_table_get(q, &q->ref_cache, block + in_block / per_unit * q->unit_bytes, ret_t);
}

int q2_ref_get(struct qcow2 *q, uint64_t cluster, uint64_t *ret_value)
{
	struct q2_table *t;
	uint64_t index;
	int r = find(q, cluster, &t, &index);

	if (!r)
		*ret_value = t ? q2_ref_load(t->data, q->ref_bits, index) : 0;
	return r;
}

int q2_ref_set(struct qcow2 *q, uint64_t cluster, uint64_t value)
{
	struct q2_table *t;
	uint64_t index;
	int r = find(q, cluster, &t, &index);

	if (r)
		return r;
	if (!t)
		return -EIO;
	q2_ref_store(t->data, q->ref_bits, index, value);
	q2_cache_set_dirty(&q->ref_cache, t);
	return 0;
}

static void set_entry(struct qcow2 *q, uint64_t n, uint64_t offset)
{
	q->reftable[n] = offset;
	q->reftable_dirty[n * 8 / q->unit_bytes] = 1;
	q->reftable_any_dirty = true;
}

/* An empty block at this place, in memory. */
static int new_block(struct qcow2 *q, uint64_t offset)
{
	struct q2_table *t;

	for (uint64_t at = 0; at < q->cluster_bytes; at += q->unit_bytes) {
		int r = q2_table_new(q, &q->ref_cache, offset + at, &t);

		if (r)
			return r;
	}
	return 0;
}

static void extend_file(struct qcow2 *q, uint64_t end)
{
	q->file_end = MAX(q->file_end, end);
	if (q->zero_from != UINT64_MAX)
		q->zero_from = MAX(q->zero_from, end);
}

/* The block of entry n of the table, in the first cluster that it covers. */
static int add_block(struct qcow2 *q, uint64_t n)
{
	uint64_t offset = n << (q->refblock_bits + q->cluster_bits);
	int r;

	if (!offset || q2_is_metadata(q, offset, q->cluster_bytes))
		return q2_broken(q, "there is no refcount block for metadata at 0x%llx",
				 (unsigned long long)offset);
	/* its own pieces may be there: a call that ran out of room before */
	if (q2_cache_find(&q->l2_cache, offset))
		return q2_broken(q, "there is no refcount block for the table at 0x%llx",
				 (unsigned long long)offset);
	r = new_block(q, offset);
	if (r)
		return r;
	set_entry(q, n, offset);
	extend_file(q, offset + q->cluster_bytes);
	return q2_ref_set(q, n << q->refblock_bits, 1);
}

/* How long the new table is, and how many blocks it needs for itself. */
static int plan_growth(const struct qcow2 *q, uint64_t n, uint64_t *ret_blocks,
		       uint64_t *ret_clusters)
{
	uint64_t per_cluster = q->cluster_bytes / 8, old = q->reftable_entries;
	uint64_t entries = MAX(n + 1, old + old / 2), blocks = 1, clusters;

	for (;;) {
		clusters = (MAX(entries, old + blocks) + per_cluster - 1) / per_cluster;
		if (clusters * q->cluster_bytes > Q2_REFTABLE_BYTES_MAX)
			clusters = Q2_REFTABLE_BYTES_MAX >> q->cluster_bits;
		if (MAX(n + 1, old + blocks) > clusters * per_cluster)
			return -ENOSPC; /* the most that the format can count */
		if (blocks + clusters <= blocks << q->refblock_bits)
			break;
		blocks =
		    (blocks + clusters + (UINT64_C(1) << q->refblock_bits) - 1) >> q->refblock_bits;
		/* the blocks themselves may need one more */
		if (blocks + clusters > blocks << q->refblock_bits)
			blocks++;
	}
	*ret_blocks = blocks;
	*ret_clusters = clusters;
	return 0;
}

static int grow_arrays(struct qcow2 *q, uint64_t clusters)
{
	size_t bytes = (size_t)(clusters << q->cluster_bits);
	uint64_t *table = q2_zalloc(bytes);
	uint8_t *dirty = q2_zalloc(bytes / q->unit_bytes);

	if (!table || !dirty) {
		free(table);
		free(dirty);
		return -ENOMEM;
	}
	memcpy(table, q->reftable, (size_t)q->reftable_entries * 8);
	free(q->reftable);
	free(q->reftable_dirty);
	q->reftable = table;
	q->reftable_dirty = dirty;
	q->reftable_entries = (uint32_t)(bytes / 8);
	memset(dirty, 1, bytes / q->unit_bytes);
	q->reftable_any_dirty = true;
	return 0;
}

static int grow_table(struct qcow2 *q, uint64_t n)
{
	uint64_t first = (uint64_t)q->reftable_entries, blocks, clusters, start, old_bytes;
	uint64_t base = first << q->refblock_bits; /* cluster index */
	int r;

	/* one move at a time: the place that the header names is kept until it names the new one */
	if (q->reftable_moved)
		return Q2_NEED_ROOM;
	r = plan_growth(q, n, &blocks, &clusters);
	if (r)
		return r;
	start = base << q->cluster_bits;
	if (q2_is_metadata(q, start, (blocks + clusters) << q->cluster_bits))
		return q2_broken(q, "there are no refcounts for the metadata behind 0x%llx",
				 (unsigned long long)start);
	for (uint64_t i = 0; i < blocks; i++) {
		r = new_block(q, start + (i << q->cluster_bits));
		if (r)
			return r;
	}
	r = grow_arrays(q, clusters);
	if (r)
		return r;
	old_bytes = (uint64_t)q->h.reftable_clusters << q->cluster_bits;
	q->reftable_moved = true;
	q->reftable_old_offset = q->h.reftable_offset;
	q->reftable_old_clusters = q->h.reftable_clusters;
	q->h.reftable_offset = start + (blocks << q->cluster_bits);
	q->h.reftable_clusters = (uint32_t)clusters;
	extend_file(q, start + ((blocks + clusters) << q->cluster_bits));
	for (uint64_t i = 0; i < blocks; i++)
		set_entry(q, first + i, start + (i << q->cluster_bits));
	for (uint64_t i = 0; i < blocks + clusters; i++) {
		r = q2_ref_set(q, base + i, 1);
		if (r) /* the pieces were all made above */
			return r < 0 ? r : -EIO;
	}
	q2_release(q, q->reftable_old_offset, old_bytes);
	return 0;
}

int q2_ref_grow(struct qcow2 *q, uint64_t n)
{
	int r = 0;

	while (!r && n >= q->reftable_entries)
		r = grow_table(q, n);
	return r;
}

int q2_ref_place_block(struct qcow2 *q, uint64_t n, uint64_t offset)
{
	int r;

	if (q->reftable[n])
		return -EIO;
	r = new_block(q, offset);
	if (r)
		return r;
	set_entry(q, n, offset);
	extend_file(q, offset + q->cluster_bytes);
	return 0;
}

int q2_ref_ensure(struct qcow2 *q, uint64_t cluster)
{
	uint64_t n = cluster >> q->refblock_bits;
	int r;

	if (n < q->reftable_entries && q->reftable[n])
		return 0;
	/* a commit is writing the table: what it does not know of must not get in between */
	if (q->ref_frozen)
		return Q2_NEED_ROOM;
	r = q2_ref_grow(q, n);
	if (!r && !q->reftable[n])
		r = add_block(q, n);
	return r;
}
