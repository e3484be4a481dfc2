/* Counting references and comparing them with refcounts: check.c counts, repair.c compares. */
#ifndef DISK_QCOW2_CHECK_H
#define DISK_QCOW2_CHECK_H

#include "disk/qcow2/tools.h"

/*
 * One 32-bit count for each cluster of the file, in memory that the host gives as it is touched: at
 * most 4 GiB of it, which is 64 TiB of 64 KiB clusters; and once more for L2 tables.
 *
 * What a malformed image can make a check do is bounded by the size of its file: every L2 table is
 * read once, however many entries refer to it, and all L1 tables together are no longer than the
 * file.
 */
#define Q2_CHECK_CLUSTERS_MAX (UINT64_C(1) << 30)

/* Tables that are read to set refcounts right when an image is opened, where nobody can stop it:
 * those of 8 TiB at 64 KiB clusters. */
#define Q2_REBUILD_BYTES_MAX (UINT64_C(1) << 30)

struct q2_check {
	struct qcow2 *q;
	const struct qcow2_check_ops *ops;
	unsigned repair;
	struct qcow2_check_result result;
	uint32_t *refs; /* mapped */
	uint32_t
	    *tables; /* the same: L1 entries that refer to an L2 table there, until it is read */
	uint64_t l1_bytes;     /* of all L1 tables so far */
	uint64_t limit, spent; /* bytes of tables that may be read, and have been */
	uint64_t at, total;    /* progress */
	uint64_t clusters;
	uint64_t last_host;	 /* for fragmentation */
	bool refcounts_unusable; /* the table or a block is not where one can be */
	bool unfixable;		 /* something is wrong that no refcount sets right */
	bool repairing;		 /* no end before its end */
	struct err *err;
};

void q2_check_problem(struct q2_check *c, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

int q2_check_init(struct q2_check *c);
void q2_check_free(struct q2_check *c);

/* Counts all references. 0; -errno: could not be read, or cancelled. */
int q2_check_count(struct q2_check *c);

/* Adds `n` references to each cluster of the range; false: it is not within the file. */
bool q2_check_refs(struct q2_check *c, uint64_t offset, uint64_t len, uint32_t n);
static inline bool q2_check_ref(struct q2_check *c, uint64_t offset, uint64_t len)
{
	return q2_check_refs(c, offset, len, 1);
}

/* Before so many bytes of tables are read: -EFBIG, that is more than was allowed; -ECANCELED. */
int q2_check_spend(struct q2_check *c, uint64_t bytes);

/* Sets the COPIED flags of the active tables to what the counts say; only looks without REPAIR_ALL.
 */
int q2_check_copied(struct q2_check *c);

/* Compares refcounts, repairs. */
int q2_check_compare(struct q2_check *c);

/* Snapshots: their table, tables and clusters. snapshot.c */
int q2_check_snapshots(struct q2_check *c);

/* An L1 table's own clusters and its L2 tables, which are read later, each once. */
int q2_check_l1(struct q2_check *c, uint64_t l1_offset, uint64_t entries);

#endif
