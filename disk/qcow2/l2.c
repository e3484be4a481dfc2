/*
 * Where a guest's bytes lie: L1 and L2 tables, standard and extended.
 *
 * Pure: works on pieces of tables in memory. An extent never goes past the piece that it was found
 * in, so one answer needs one piece.
 */
#include "disk/qcow2/qcow2_priv.h"

#include <errno.h>

typedef unsigned long long ull;

/* Index of the entry for `guest` within its piece of the table. */
static uint64_t index_in_piece(const struct qcow2 *q, uint64_t guest)
{
	return (guest >> q->cluster_bits) & (q->unit_bytes / q->entry_bytes - 1);
}

struct q2_entry q2_entry_load(const struct qcow2 *q, const struct q2_table *t, uint64_t guest)
{
	const uint8_t *p = t->data + index_in_piece(q, guest) * q->entry_bytes;

	struct q2_entry e = {be64_load(p), q->extl2 ? be64_load(p + 8) : 0};

	if (q2_is_external(q) && !(e.word & Q2_COMPRESSED) && e.word & (Q2_OFFSET_MASK | Q2_COPIED))
		e.word |= Q2_IN_DATA_FILE;
	return e;
}

void q2_entry_store(struct qcow2 *q, struct q2_table *t, uint64_t guest, struct q2_entry e)
{
	uint8_t *p = t->data + index_in_piece(q, guest) * q->entry_bytes;

	if (q2_is_external(q))
		e.word &= ~Q2_IN_DATA_FILE;
	be64_store(p, e.word);
	if (q->extl2)
		be64_store(p + 8, e.bitmap);
	q2_cache_set_dirty(&q->l2_cache, t);
}

uint64_t q2_l2_rest(const struct qcow2 *q, uint64_t guest)
{
	uint64_t piece = (uint64_t)(q->unit_bytes / q->entry_bytes) << q->cluster_bits;

	return piece - (guest & (piece - 1));
}

int q2_l2_get(struct qcow2 *q, uint64_t guest, struct q2_table **ret_t)
{
	uint64_t l1e = q->l1[q2_l1_index(q, guest)], table = l1e & Q2_OFFSET_MASK, at;
	struct q2_table *t;

	if (!table) {
		*ret_t = NULL;
		return 0;
	}
	at = ((guest >> q->cluster_bits) & ((UINT64_C(1) << q->l2_bits) - 1)) * q->entry_bytes;
	at = table + align_down(at, q->unit_bytes);
	t = q2_cache_find(&q->l2_cache, at);
	if (t && t->state == Q2_TABLE_VALID) { /* checked when it was read */
		*ret_t = t;
		return 0;
	}
	if (q2_in_cluster(q, table) || table >= q->file_end)
		return q2_broken(q, "L1 entry %zu is 0x%llx, %s", q2_l1_index(q, guest), (ull)l1e,
				 q2_in_cluster(q, table) ? "not on a cluster"
							 : "past the end of the file");
	if (q2_is_metadata(q, table, q->cluster_bytes) || q2_cache_find(&q->ref_cache, table))
		return q2_broken(q, "the L2 table at 0x%llx lies over other metadata", (ull)table);
	return q2_table_get(q, &q->l2_cache, at, ret_t);
}

void q2_entry_compressed(const struct qcow2 *q, uint64_t word, uint64_t *ret_offset,
			 uint32_t *ret_len)
{
	unsigned x = 62 - (q->cluster_bits - 8);
	uint64_t offset = word & ((UINT64_C(1) << x) - 1);
	uint64_t sectors = ((word & (Q2_COMPRESSED - 1)) >> x) + 1;

	*ret_offset = offset;
	*ret_len = (uint32_t)(sectors * Q2_COMPRESSED_SECTOR - offset % Q2_COMPRESSED_SECTOR);
}

uint64_t q2_entry_make_compressed(const struct qcow2 *q, uint64_t offset, uint32_t len)
{
	unsigned x = 62 - (q->cluster_bits - 8);
	uint64_t first = offset / Q2_COMPRESSED_SECTOR,
		 last = (offset + len - 1) / Q2_COMPRESSED_SECTOR;

	return Q2_COMPRESSED | (last - first) << x | offset;
}

/* With a data file everything lies in that, where the guest has it. */
static int check_external(struct qcow2 *q, uint64_t guest, struct q2_entry e)
{
	uint64_t host = e.word & Q2_OFFSET_MASK;

	if (e.word & Q2_COMPRESSED)
		return q2_broken(q, "L2 entry for 0x%llx: compressed, with an external data file",
				 (ull)guest);
	if (host && host != (align_down(guest, q->cluster_bytes) | Q2_IN_DATA_FILE))
		return q2_broken(q, "L2 entry for 0x%llx: its place in the data file is 0x%llx",
				 (ull)guest, (ull)(host & ~Q2_IN_DATA_FILE));
	return 0;
}

int q2_entry_check(struct qcow2 *q, uint64_t guest, struct q2_entry e)
{
	uint64_t host = e.word & Q2_OFFSET_MASK;
	uint32_t len;

	if (q2_is_external(q) && check_external(q, guest, e))
		return -EIO;
	if (e.word & Q2_COMPRESSED) {
		q2_entry_compressed(q, e.word, &host, &len);
		if (host < q->cluster_bytes || host >= q->file_end)
			return q2_broken(q,
					 "L2 entry for 0x%llx: compressed data at 0x%llx is not "
					 "within the file",
					 (ull)guest, (ull)host);
		return 0;
	}
	if (q->extl2 && q2_bitmap_alloc(e.bitmap) & q2_bitmap_zero(e.bitmap))
		return q2_broken(q, "L2 entry for 0x%llx: its bitmap 0x%llx contradicts itself",
				 (ull)guest, (ull)e.bitmap);
	if (q->extl2 && q2_bitmap_alloc(e.bitmap) && !host)
		return q2_broken(q, "L2 entry for 0x%llx: allocated subclusters without a cluster",
				 (ull)guest);
	if (!host || q2_is_external(q))
		return 0;
	if (q2_in_cluster(q, host) || host >= q->file_end)
		return q2_broken(q, "L2 entry for 0x%llx is 0x%llx, %s", (ull)guest, (ull)e.word,
				 q2_in_cluster(q, host) ? "not on a cluster"
							: "past the end of the file");
	if (q2_is_metadata(q, host, q->cluster_bytes))
		return q2_broken(q, "L2 entry for 0x%llx: its cluster 0x%llx lies over metadata",
				 (ull)guest, (ull)host);
	return 0;
}

static enum q2_kind entry_kind(const struct qcow2 *q, struct q2_entry e, unsigned sub)
{
	if (e.word & Q2_COMPRESSED)
		return Q2_COMPRESSED_DATA;
	if (q->extl2) {
		if (q2_bitmap_alloc(e.bitmap) & UINT32_C(1) << sub)
			return Q2_DATA;
		return q2_bitmap_zero(e.bitmap) & UINT32_C(1) << sub ? Q2_ZERO : Q2_UNALLOCATED;
	}
	if (e.word & Q2_L2_ZERO && q->h.version >= 3)
		return Q2_ZERO;
	return e.word & Q2_OFFSET_MASK ? Q2_DATA : Q2_UNALLOCATED;
}

/* The extent of the one (sub)cluster at `guest`. */
static int map_one(struct qcow2 *q, struct q2_table *t, uint64_t guest, struct q2_extent *ret_ext)
{
	struct q2_entry e = q2_entry_load(q, t, guest);
	unsigned sub = (unsigned)(q2_in_cluster(q, guest) >> q->sub_bits);
	uint64_t sub_bytes = UINT64_C(1) << q->sub_bits, host = e.word & Q2_OFFSET_MASK;
	int r = q2_entry_check(q, guest, e);

	if (r)
		return r;
	ret_ext->kind = entry_kind(q, e, sub);
	ret_ext->copied = e.word & Q2_COPIED;
	ret_ext->len = sub_bytes - (guest & (sub_bytes - 1));
	ret_ext->host = host ? host + q2_in_cluster(q, guest) : 0;
	if (ret_ext->kind == Q2_COMPRESSED_DATA) {
		q2_entry_compressed(q, e.word, &ret_ext->host, &ret_ext->host_len);
		ret_ext->len = q->cluster_bytes - q2_in_cluster(q, guest);
		ret_ext->copied = false;
	}
	return 0;
}

/* Does `b` go on where `a` ends? */
static bool continues(const struct q2_extent *a, const struct q2_extent *b)
{
	if (a->kind != b->kind || a->kind == Q2_COMPRESSED_DATA || a->copied != b->copied)
		return false;
	return a->kind == Q2_UNALLOCATED || (!a->host && !b->host) ||
	       (a->host && b->host == a->host + a->len);
}

int q2_map(struct qcow2 *q, uint64_t guest, uint64_t len, struct q2_extent *ret_ext)
{
	struct q2_extent ext = {0}, next;
	struct q2_table *t = NULL;
	int r = q2_l2_get(q, guest, &t);

	if (r)
		return r;
	if (!t) {
		uint64_t span = q2_l2_span(q);

		*ret_ext = (struct q2_extent){.kind = Q2_UNALLOCATED,
					      .len = MIN(len, span - (guest & (span - 1)))};
		return 0;
	}
	len = MIN(len, q2_l2_rest(q, guest));
	r = map_one(q, t, guest, &ext);
	if (r)
		return r;
	while (ext.len < len) {
		/* what is wrong with the next is said when it is asked for */
		if (map_one(q, t, guest + ext.len, &next) || !continues(&ext, &next))
			break;
		ext.len += next.len;
	}
	ext.len = MIN(ext.len, len);
	*ret_ext = ext;
	return 0;
}
