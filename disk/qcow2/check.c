/* What refers to which cluster. See disk/qcow2/check.h. */
#include "disk/qcow2/check.h"

#include "base/cleanup.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

typedef unsigned long long ull;

/* Progress is told after so many bytes of tables: 1 MiB. */
#define PROGRESS_BITS 20

void q2_check_problem(struct q2_check *c, const char *fmt, ...)
{
	char line[256];
	va_list ap;

	if (!c->ops || !c->ops->problem)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	c->ops->problem(c->ops->ctx, line);
}

int q2_check_spend(struct q2_check *c, uint64_t bytes)
{
	uint64_t done = c->spent;

	if (bytes > c->limit - done)
		return -EFBIG;
	c->spent += bytes;
	if (!c->ops || !c->ops->progress || done >> PROGRESS_BITS == c->spent >> PROGRESS_BITS)
		return 0;
	return c->ops->progress(c->ops->ctx, c->at, c->total) || c->repairing ? 0 : -ECANCELED;
}

static uint32_t *map_counts(uint64_t n)
{
	void *p = mmap(NULL, (size_t)n * sizeof(uint32_t), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void unmap_counts(uint32_t *p, uint64_t n)
{
	if (p)
		munmap(p, (size_t)n * sizeof(*p));
}

int q2_check_init(struct q2_check *c)
{
	c->clusters = q2_cluster_of(c->q, c->q->file_end);
	if (c->clusters > Q2_CHECK_CLUSTERS_MAX)
		return -EFBIG;
	/* tables, then refcounts */
	c->total = c->q->h.l1_entries + c->clusters;
	c->refs = map_counts(c->clusters);
	c->tables = map_counts(c->clusters);
	return c->refs && c->tables ? 0 : -ENOMEM;
}

void q2_check_free(struct q2_check *c)
{
	unmap_counts(c->refs, c->clusters);
	unmap_counts(c->tables, c->clusters);
	c->refs = c->tables = NULL;
}

bool q2_check_refs(struct q2_check *c, uint64_t offset, uint64_t len, uint32_t n)
{
	uint64_t end;

	if (!len)
		return true;
	if (!ck_add(offset, len, &end) || end > c->q->file_end)
		return false;
	for (uint64_t i = q2_cluster_of(c->q, offset); i <= q2_cluster_of(c->q, end - 1); i++)
		c->refs[i] = n > UINT32_MAX - c->refs[i] ? UINT32_MAX : c->refs[i] + n;
	c->result.image_end_bytes =
	    MAX(c->result.image_end_bytes, align_up(end, c->q->cluster_bytes));
	return true;
}

static void corrupt(struct q2_check *c)
{
	c->result.corruptions++;
	c->unfixable = true;
}

/* Counts for fragmentation and use, as qemu-img has them. */
static void count_use(struct q2_check *c, uint64_t host, bool compressed)
{
	c->result.allocated_clusters++;
	if (compressed)
		c->result.compressed_clusters++;
	if (compressed || (c->last_host && host != c->last_host + c->q->cluster_bytes))
		c->result.fragmented_clusters++;
	if (!compressed)
		c->last_host = host;
}

/* Where the guest's clusters lie, of one L2 table. */
struct l2_use {
	uint64_t table, guest;
	uint32_t users; /* L1 entries that refer to it */
	bool active;	/* the disk's own, not only a snapshot's */
};

static void check_entry(struct q2_check *c, struct q2_entry e, uint64_t guest,
			const struct l2_use *use)
{
	struct qcow2 *q = c->q;
	uint64_t host = e.word & Q2_OFFSET_MASK;
	uint32_t len;

	if (q2_is_external(q)) { /* without refcounts */
		if (e.word & Q2_COMPRESSED || (host && host != guest)) {
			q2_check_problem(c,
					 "guest offset 0x%llx: entry 0x%llx is none of an external "
					 "data file",
					 (ull)guest, (ull)e.word);
			corrupt(c);
		} else if (use->active && e.word & (Q2_OFFSET_MASK | Q2_COPIED)) {
			c->result.allocated_clusters++;
		}
		return;
	}
	if (e.word & Q2_COMPRESSED) {
		q2_entry_compressed(q, e.word, &host, &len);
		if (e.word & Q2_COPIED || host < q->cluster_bytes ||
		    !q2_check_refs(c, host, MIN((uint64_t)len, MAX(q->file_end, host) - host),
				   use->users) ||
		    host >= q->file_end) {
			q2_check_problem(c,
					 "compressed cluster of guest offset 0x%llx: bad entry "
					 "0x%llx",
					 (ull)guest, (ull)e.word);
			corrupt(c);
		} else if (use->active) {
			count_use(c, host, true);
		}
		return;
	}
	if (q->extl2 && q2_bitmap_alloc(e.bitmap) & q2_bitmap_zero(e.bitmap)) {
		q2_check_problem(c, "guest offset 0x%llx: bitmap 0x%llx contradicts itself",
				 (ull)guest, (ull)e.bitmap);
		corrupt(c);
	}
	if (!host) {
		if (q->extl2 && q2_bitmap_alloc(e.bitmap)) {
			q2_check_problem(c, "guest offset 0x%llx: subclusters without a cluster",
					 (ull)guest);
			corrupt(c);
		}
		return;
	}
	if (q2_in_cluster(q, host) || !q2_check_refs(c, host, q->cluster_bytes, use->users)) {
		q2_check_problem(
		    c, "guest offset 0x%llx: its cluster 0x%llx is %s", (ull)guest, (ull)host,
		    q2_in_cluster(q, host) ? "not on a cluster" : "past the end of the file");
		corrupt(c);
		return;
	}
	if (use->active)
		count_use(c, host, false);
}

static int check_l2(struct q2_check *c, const struct l2_use *use, uint8_t *buf)
{
	struct qcow2 *q = c->q;
	uint64_t guest = use->guest;
	int r = q2_check_spend(c, q->cluster_bytes);

	if (!r)
		r = q2_pread(&q->file, buf, q->cluster_bytes, use->table);
	for (size_t at = 0; !r && at < q->cluster_bytes; at += q->entry_bytes) {
		struct q2_entry e = {be64_load(buf + at), q->extl2 ? be64_load(buf + at + 8) : 0};

		if (e.word || e.bitmap)
			check_entry(c, e, guest, use);
		guest += q->cluster_bytes;
	}
	return r;
}

/* Once all L1 tables are counted: first the disk's own L2 tables, then those of snapshots alone. */
static int check_l2_tables(struct q2_check *c)
{
	struct qcow2 *q = c->q;
	autofree uint8_t *buf = q2_zalloc(q->cluster_bytes);
	int r = buf ? 0 : -ENOMEM;

	for (uint64_t i = 0; !r && i < q->h.l1_entries; i++) {
		uint64_t table = q->l1[i] & Q2_OFFSET_MASK, n = q2_cluster_of(q, table);
		struct l2_use use = {.table = table, .guest = i * q2_l2_span(q), .active = true};

		c->at = i;
		if (!table || q2_in_cluster(q, table) || n >= c->clusters || !c->tables[n])
			continue;
		use.users = c->tables[n];
		c->tables[n] = 0;
		r = check_l2(c, &use, buf);
	}
	for (uint64_t n = 0; !r && q->h.snapshots && n < c->clusters; n++) {
		struct l2_use use = {.table = n << q->cluster_bits, .users = c->tables[n]};

		if (use.users)
			r = check_l2(c, &use, buf);
	}
	return r;
}

static int read_l1(struct q2_check *c, uint64_t offset, uint64_t entries, uint64_t **ret_l1)
{
	uint64_t *l1 = q2_zalloc((size_t)MAX(entries, UINT64_C(1)) * 8);
	int r = l1 ? q2_check_spend(c, entries * 8) : -ENOMEM;

	if (!r)
		r = q2_pread(&c->q->file, l1, (size_t)entries * 8, offset);

	if (r) {
		free(l1);
		return r;
	}
	for (uint64_t i = 0; i < entries; i++)
		l1[i] = be64_load(&l1[i]);
	*ret_l1 = l1;
	return 0;
}

int q2_check_l1(struct q2_check *c, uint64_t l1_offset, uint64_t entries)
{
	struct qcow2 *q = c->q;
	autofree uint64_t *l1 = NULL;
	int r;

	/* each has clusters of its own: no more than there are */
	c->l1_bytes += entries * 8;
	if (q2_in_cluster(q, l1_offset) || c->l1_bytes > q->file_end ||
	    !q2_check_ref(c, l1_offset, entries * 8)) {
		q2_check_problem(
		    c,
		    "L1 table at 0x%llx: not on a cluster, past the end of the file, or "
		    "over others",
		    (ull)l1_offset);
		corrupt(c);
		return 0;
	}
	r = read_l1(c, l1_offset, entries, &l1);
	for (uint64_t i = 0; !r && i < entries; i++) {
		uint64_t table = l1[i] & Q2_OFFSET_MASK;

		if (!table)
			continue;
		if (q2_in_cluster(q, table) || !q2_check_ref(c, table, q->cluster_bytes)) {
			q2_check_problem(
			    c,
			    "L1 entry %llu is 0x%llx: not on a cluster, or past the end "
			    "of the file",
			    (ull)i, (ull)l1[i]);
			corrupt(c);
		} else if (c->tables[q2_cluster_of(q, table)] < UINT32_MAX) {
			c->tables[q2_cluster_of(q, table)]++;
		}
	}
	return r;
}

static int count_refcounts(struct q2_check *c)
{
	struct qcow2 *q = c->q;
	uint64_t bytes = (uint64_t)q->h.reftable_clusters << q->cluster_bits;

	if (!q2_check_ref(c, q->h.reftable_offset, MIN(bytes, q->file_end - q->h.reftable_offset)))
		return -EIO;
	for (uint32_t i = 0; i < q->reftable_entries; i++) {
		uint64_t block = q->reftable[i];

		if (!block)
			continue;
		if (block & Q2_REF_RESERVED || q2_in_cluster(q, block) ||
		    block < q->cluster_bytes || !q2_check_ref(c, block, q->cluster_bytes)) {
			q2_check_problem(
			    c,
			    "refcount table entry %u is 0x%llx: not on a cluster, or past "
			    "the end of the file",
			    i, (ull)block);
			c->result.corruptions++;
			c->refcounts_unusable = true;
		} else if (c->refs[q2_cluster_of(q, block)] != 1) {
			q2_check_problem(c, "refcount block %u at 0x%llx lies over something else",
					 i, (ull)block);
			c->result.corruptions++;
			c->refcounts_unusable = true;
		}
	}
	return 0;
}

/* The clusters of one bitmap, whose table may be long: piece by piece. */
static int count_bitmap(struct q2_check *c, uint64_t table, uint64_t entries)
{
	struct qcow2 *q = c->q;
	uint64_t words[512], n;
	int r = 0;

	c->l1_bytes += entries * 8;
	if (q2_in_cluster(q, table) || c->l1_bytes > q->file_end ||
	    !q2_check_ref(c, table, entries * 8)) {
		q2_check_problem(c, "bitmap table at 0x%llx cannot be there", (ull)table);
		corrupt(c);
		return 0;
	}
	for (uint64_t i = 0; !r && i < entries; i += n) {
		n = MIN(entries - i, (uint64_t)ARRAY_LEN(words));
		r = q2_check_spend(c, n * 8);
		if (!r)
			r = q2_pread(&q->file, words, (size_t)n * 8, table + i * 8);
		for (uint64_t k = 0; !r && k < n; k++) {
			uint64_t host = be64_load(&words[k]) & Q2_OFFSET_MASK;

			if (host && !q2_check_ref(c, host, q->cluster_bytes))
				corrupt(c);
		}
	}
	return r;
}

/* The bitmap directory of the extension, its tables and their clusters. */
static int count_bitmaps(struct q2_check *c)
{
	struct qcow2 *q = c->q;
	uint64_t at = q->h.header_len, dir = 0, size = 0;
	autofree uint8_t *buf = NULL;
	int r;

	if (!(q->h.autoclear & Q2_AUTOCLEAR_BITMAPS))
		return 0;
	while (at + 8 <= q->h.extensions_end) {
		uint32_t type = be32_load(q->first + at), len = be32_load(q->first + at + 4);

		if (type == Q2_EXT_BITMAPS && len >= 24) {
			size = be64_load(q->first + at + 16);
			dir = be64_load(q->first + at + 24);
		}
		at += 8 + align_up(len, 8);
	}
	if (size > Q2_SNAPSHOT_TABLE_MAX || q2_in_cluster(q, dir) || !q2_check_ref(c, dir, size)) {
		q2_check_problem(c, "bitmap directory at 0x%llx cannot be there", (ull)dir);
		corrupt(c);
		return 0;
	}
	buf = q2_zalloc((size_t)size + 1);
	r = buf ? q2_pread(&q->file, buf, (size_t)size, dir) : -ENOMEM;
	for (at = 0; !r && at + 24 <= size;) {
		uint64_t table = be64_load(buf + at), entries = be32_load(buf + at + 8);
		uint64_t next =
		    align_up(24 + (uint64_t)be16_load(buf + at + 18) + be32_load(buf + at + 20), 8);

		r = count_bitmap(c, table, entries);
		at += next;
	}
	return r;
}

int q2_check_count(struct q2_check *c)
{
	struct qcow2 *q = c->q;
	int r;

	c->result.total_clusters = (q->h.size_bytes + q->cluster_bytes - 1) >> q->cluster_bits;
	q2_check_ref(c, 0, q->cluster_bytes);
	r = q2_check_l1(c, q->h.l1_offset, q->h.l1_entries);
	if (!r)
		r = q2_check_snapshots(c);
	if (!r)
		r = check_l2_tables(c);
	if (!r)
		r = count_bitmaps(c);
	if (!r) /* last: a block over anything else is noticed */
		r = count_refcounts(c);
	return r;
}
