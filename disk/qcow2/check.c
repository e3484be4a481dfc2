/* What refers to which cluster. See disk/qcow2/check.h. */
#include "disk/qcow2/check.h"

#include "base/cleanup.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

typedef unsigned long long ull;

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

static int progress(struct q2_check *c, uint64_t done, uint64_t total)
{
	if (!c->ops || !c->ops->progress || c->ops->progress(c->ops->ctx, done, total))
		return 0;
	return -ECANCELED;
}

int q2_check_init(struct q2_check *c)
{
	struct qcow2 *q = c->q;
	void *p;

	c->clusters = q2_cluster_of(q, q->file_end);
	if (c->clusters > Q2_CHECK_CLUSTERS_MAX)
		return -EFBIG;
	p = mmap(NULL, (size_t)c->clusters * sizeof(*c->refs), PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return -ENOMEM;
	c->refs = p;
	return 0;
}

void q2_check_free(struct q2_check *c)
{
	if (c->refs)
		munmap(c->refs, (size_t)c->clusters * sizeof(*c->refs));
	c->refs = NULL;
}

bool q2_check_ref(struct q2_check *c, uint64_t offset, uint64_t len)
{
	uint64_t end;

	if (!len)
		return true;
	if (!ck_add(offset, len, &end) || end > c->q->file_end)
		return false;
	for (uint64_t i = q2_cluster_of(c->q, offset); i <= q2_cluster_of(c->q, end - 1); i++) {
		if (c->refs[i] < UINT32_MAX)
			c->refs[i]++;
	}
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

static void check_entry(struct q2_check *c, struct q2_entry e, uint64_t guest, bool active)
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
		} else if (active && e.word & (Q2_OFFSET_MASK | Q2_COPIED)) {
			c->result.allocated_clusters++;
		}
		return;
	}
	if (e.word & Q2_COMPRESSED) {
		q2_entry_compressed(q, e.word, &host, &len);
		if (e.word & Q2_COPIED || host < q->cluster_bytes ||
		    !q2_check_ref(c, host, MIN((uint64_t)len, MAX(q->file_end, host) - host)) ||
		    host >= q->file_end) {
			q2_check_problem(c,
					 "compressed cluster of guest offset 0x%llx: bad entry "
					 "0x%llx",
					 (ull)guest, (ull)e.word);
			corrupt(c);
		} else if (active) {
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
	if (q2_in_cluster(q, host) || !q2_check_ref(c, host, q->cluster_bytes)) {
		q2_check_problem(
		    c, "guest offset 0x%llx: its cluster 0x%llx is %s", (ull)guest, (ull)host,
		    q2_in_cluster(q, host) ? "not on a cluster" : "past the end of the file");
		corrupt(c);
		return;
	}
	if (active)
		count_use(c, host, false);
}

static int check_l2(struct q2_check *c, uint64_t table, uint64_t guest, bool active)
{
	struct qcow2 *q = c->q;
	autofree uint8_t *buf = q2_zalloc(q->cluster_bytes);
	int r = buf ? q2_pread(&q->file, buf, q->cluster_bytes, table) : -ENOMEM;

	for (size_t at = 0; !r && at < q->cluster_bytes; at += q->entry_bytes) {
		struct q2_entry e = {be64_load(buf + at), q->extl2 ? be64_load(buf + at + 8) : 0};

		if (e.word || e.bitmap)
			check_entry(c, e, guest, active);
		guest += q->cluster_bytes;
	}
	return r;
}

static int read_l1(struct q2_check *c, uint64_t offset, uint64_t entries, uint64_t **ret_l1)
{
	uint64_t *l1 = q2_zalloc((size_t)MAX(entries, UINT64_C(1)) * 8);
	int r = l1 ? q2_pread(&c->q->file, l1, (size_t)entries * 8, offset) : -ENOMEM;

	if (r) {
		free(l1);
		return r;
	}
	for (uint64_t i = 0; i < entries; i++)
		l1[i] = be64_load(&l1[i]);
	*ret_l1 = l1;
	return 0;
}

int q2_check_l1(struct q2_check *c, uint64_t l1_offset, uint64_t entries, bool active)
{
	struct qcow2 *q = c->q;
	autofree uint64_t *l1 = NULL;
	int r;

	if (q2_in_cluster(q, l1_offset) || !q2_check_ref(c, l1_offset, entries * 8)) {
		q2_check_problem(
		    c, "L1 table at 0x%llx: not on a cluster, or past the end of the file",
		    (ull)l1_offset);
		corrupt(c);
		return 0;
	}
	r = read_l1(c, l1_offset, entries, &l1);
	for (uint64_t i = 0; !r && i < entries; i++) {
		uint64_t table = l1[i] & Q2_OFFSET_MASK;

		if (active && !(i & 63))
			r = progress(c, i, entries);
		if (r || !table)
			continue;
		if (q2_in_cluster(q, table) || !q2_check_ref(c, table, q->cluster_bytes)) {
			q2_check_problem(
			    c,
			    "L1 entry %llu is 0x%llx: not on a cluster, or past the end "
			    "of the file",
			    (ull)i, (ull)l1[i]);
			corrupt(c);
			continue;
		}
		r = check_l2(c, table, i * q2_l2_span(q), active);
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
		autofree uint64_t *words = NULL;

		if (q2_in_cluster(q, table) || !q2_check_ref(c, table, entries * 8)) {
			q2_check_problem(c, "bitmap table at 0x%llx cannot be there", (ull)table);
			corrupt(c);
			break;
		}
		r = read_l1(c, table, entries, &words);
		for (uint64_t i = 0; !r && i < entries; i++) {
			uint64_t host = words[i] & Q2_OFFSET_MASK;

			if (host && !q2_check_ref(c, host, q->cluster_bytes))
				corrupt(c);
		}
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
	r = q2_check_l1(c, q->h.l1_offset, q->h.l1_entries, true);
	if (!r)
		r = q2_check_snapshots(c);
	if (!r)
		r = count_bitmaps(c);
	if (!r) /* last: a block over anything else is noticed */
		r = count_refcounts(c);
	return r;
}
