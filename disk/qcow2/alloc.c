/*
 * The allocator: the first free clusters at or behind a hint.
 *
 * Nothing is scanned when an image is opened; the hint moves over what is in use as allocations
 * come, and back to what is given up.
 */
#include "base/log.h"
#include "disk/qcow2/qcow2_priv.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* An offset has 56 bits in tables; far less is left to sums and to every file system. */
#define FILE_BYTES_MAX (UINT64_C(1) << 55)

int q2_broken(struct qcow2 *q, const char *fmt, ...)
{
	char msg[200];
	va_list ap;

	if (q->broken)
		return -EIO;
	va_start(ap, fmt);
	vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	log_error("disk image %s: %s; nothing is written to it any more; repair it with lodge disk "
		  "check",
		  q->img.path, msg);
	q->broken = true;
	if (!q->img.info.read_only && q->h.version >= 3) {
		q->h.incompatible |= Q2_INCOMPAT_CORRUPT;
		q->header_dirty = true;
	}
	return -EIO;
}

static bool overlaps(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
	return a < b + b_len && b < a + a_len;
}

bool q2_is_metadata(const struct qcow2 *q, uint64_t offset, uint64_t len)
{
	uint64_t reftable_bytes = (uint64_t)q->h.reftable_clusters << q->cluster_bits;
	uint64_t l1_bytes = align_up((uint64_t)q->h.l1_entries * 8, q->cluster_bytes);

	return offset < q->cluster_bytes || overlaps(offset, len, q->h.l1_offset, l1_bytes) ||
	       overlaps(offset, len, q->h.reftable_offset, reftable_bytes) ||
	       (q->reftable_moved && overlaps(offset, len, q->reftable_old_offset,
					      q->reftable_old_clusters << q->cluster_bits)) ||
	       (q->h.snapshots && overlaps(offset, len, q->h.snapshots_offset, q->cluster_bytes));
}

/* Finds free clusters; all their blocks exist then. */
static int search(struct qcow2 *q, uint64_t want, uint64_t *ret_first, uint64_t *ret_count)
{
	uint64_t first = q->free_hint, count = 0;

	while (count < want) {
		uint64_t value;
		int r;

		if (first + count >= FILE_BYTES_MAX >> q->cluster_bits)
			return -ENOSPC;
		/* a block that is made takes a cluster of its own, so this comes before each look
		 */
		r = q2_ref_ensure(q, first + count);
		if (!r)
			r = q2_ref_get(q, first + count, &value);
		if (r)
			return r;
		if (!value) {
			count++;
		} else if (count) {
			break;
		} else {
			/* nothing below is free; remembered, so that a search that was cut off by
			 * a read goes on from here */
			q->free_hint = ++first;
		}
	}
	*ret_first = first;
	*ret_count = count;
	return 0;
}

int q2_alloc(struct qcow2 *q, uint64_t want, uint64_t *ret_offset, uint64_t *ret_count)
{
	uint64_t first = 0, count = 0, offset, end;
	int r;

	if (q->broken)
		return -EIO;
	r = search(q, want, &first, &count);
	if (r)
		return r;
	offset = first << q->cluster_bits;
	end = offset + (count << q->cluster_bits);
	if (q2_is_metadata(q, offset, end - offset))
		return q2_broken(q, "metadata at 0x%llx has refcount 0",
				 (unsigned long long)offset);
	for (uint64_t i = 0; i < count; i++) {
		uint64_t at = offset + (i << q->cluster_bits);

		if (q2_cache_find(&q->l2_cache, at) || q2_cache_find(&q->ref_cache, at))
			return q2_broken(q, "the table at 0x%llx has refcount 0",
					 (unsigned long long)at);
	}
	/* all pieces that hold these refcounts were just looked at; should one have gone, the
	 * clusters that are marked already are free again when this is called again */
	for (uint64_t i = 0; i < count; i++) {
		r = q2_ref_set(q, first + i, 1);
		if (r) {
			while (i--)
				(void)q2_ref_set(q, first + i, 0);
			return r;
		}
	}
	q->free_hint = first + count;
	q->file_end = MAX(q->file_end, end);
	if (q->zero_from != UINT64_MAX)
		q->zero_from = MAX(q->zero_from, end);
	*ret_offset = offset;
	*ret_count = count;
	return 0;
}

/* Clusters [first, first + count) of no block yet, with their blocks in front of them. */
static int place_behind(struct qcow2 *q, uint64_t count, uint64_t *ret_first)
{
	uint64_t per_block = UINT64_C(1) << q->refblock_bits, block, blocks = 1, first;
	int r;

	while (blocks + count > blocks << q->refblock_bits)
		blocks++;
	do { /* a longer table goes behind the end itself */
		block = (q2_cluster_of(q, q->file_end) + per_block - 1) >> q->refblock_bits;
		while (block < q->reftable_entries && q->reftable[block])
			block++;
		first = block << q->refblock_bits;
		if (first + blocks + count >= FILE_BYTES_MAX >> q->cluster_bits)
			return -ENOSPC;
		r = block + blocks > q->reftable_entries
			? Q2_SYNC(q, q2_ref_grow(q, block + blocks - 1))
			: 0;
		if (r < 0)
			return r;
	} while (block != (q2_cluster_of(q, q->file_end) + per_block - 1) >> q->refblock_bits);
	for (uint64_t i = 0; i < blocks; i++) {
		r = Q2_SYNC(q, q2_ref_place_block(q, block + i, (first + i) << q->cluster_bits));
		if (r)
			return r;
	}
	for (uint64_t i = 0; i < blocks + count; i++) {
		r = Q2_SYNC(q, q2_ref_set(q, first + i, 1));
		if (r)
			return r;
	}
	*ret_first = first + blocks;
	return 0;
}

int q2_alloc_contiguous(struct qcow2 *q, uint64_t count, uint64_t *ret_offset)
{
	uint64_t offset = 0, got = 0, first = 0;
	int r;

	q->free_hint = MAX(q->free_hint, q2_cluster_of(q, q->file_end));
	r = Q2_SYNC(q, q2_alloc(q, count, &offset, &got));
	if (r)
		return r;
	if (got == count) {
		*ret_offset = offset;
		return 0;
	}
	q2_release(q, offset, got << q->cluster_bits);
	r = place_behind(q, count, &first);
	if (r)
		return r;
	*ret_offset = first << q->cluster_bits;
	q->file_end = MAX(q->file_end, (first + count) << q->cluster_bits);
	if (q->zero_from != UINT64_MAX)
		q->zero_from = MAX(q->zero_from, q->file_end);
	return 0;
}

static void release(struct qcow2 *q, uint64_t offset, uint64_t bytes, bool is_table)
{
	struct q2_freed_list *l = &q->freed;
	uint64_t first = offset >> q->cluster_bits;
	uint64_t count = ((offset + bytes - 1) >> q->cluster_bits) - first + 1;

	if (l->count && l->runs[l->count - 1].is_table == is_table &&
	    l->runs[l->count - 1].cluster + l->runs[l->count - 1].count == first) {
		l->runs[l->count - 1].count += count;
		return;
	}
	if (l->count == l->room) {
		size_t room = l->room ? l->room * 2 : 64;
		struct q2_freed *runs = realloc(l->runs, room * sizeof(*runs));

		if (!runs) {
			log_warn("disk image %s: no memory: %llu clusters stay in use for nothing "
				 "until lodge disk check --repair",
				 q->img.path, (unsigned long long)count);
			return;
		}
		l->runs = runs;
		l->room = room;
	}
	l->runs[l->count++] = (struct q2_freed){first, count, is_table};
}

void q2_release(struct qcow2 *q, uint64_t offset, uint64_t bytes)
{
	if (offset & Q2_IN_DATA_FILE) /* each cluster has its place there for ever */
		return;
	release(q, offset, bytes, false);
}

void q2_release_table(struct qcow2 *q, uint64_t offset, uint64_t bytes)
{
	release(q, offset, bytes, true);
}
