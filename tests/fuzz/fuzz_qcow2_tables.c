/*
 * qcow2: L2 entries and refcount blocks of any contents, in memory: mapped, planned, linked,
 * zeroed; counted, allocated, given up.
 *
 * Input: 4 bytes of geometry, 4 of a script's seed, then what every table holds, over and over.
 */
#include "base/log.h"
#include "disk/qcow2/qcow2_priv.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define FILE_CLUSTERS 256
#define STEPS	      24

static const uint8_t *contents;
static size_t contents_len;

/* Reads the piece that was asked for. False: no room. */
static bool supply(struct qcow2 *q)
{
	struct q2_table *t = q2_cache_take(q->want.cache, q->want.offset);

	if (!t)
		return false;
	for (uint32_t at = 0; at < q->unit_bytes;) {
		size_t from = (size_t)(q->want.offset + at) % contents_len;
		uint32_t n = (uint32_t)MIN(contents_len - from, (size_t)(q->unit_bytes - at));

		memcpy(t->data + at, contents + from, n);
		at += n;
	}
	t->state = Q2_TABLE_VALID;
	return true;
}

#define DO(q, call)                                    \
	({                                             \
		int do_;                               \
		while ((do_ = (call)) == Q2_NEED_READ) \
			if (!supply(q))                \
				break;                 \
		do_;                                   \
	})

static void look(struct qcow2 *q, uint64_t guest, uint64_t len)
{
	struct q2_extent ext;

	if (DO(q, q2_map(q, guest, len, &ext)))
		return;
	assert(ext.len && ext.len <= len);
	if (ext.kind == Q2_DATA)
		assert(ext.host >= q->cluster_bytes && ext.host < q->file_end + q->cluster_bytes);
	if (ext.kind == Q2_COMPRESSED_DATA)
		assert(ext.host < q->file_end && ext.host_len <= 2 * q->cluster_bytes);
}

static void change(struct qcow2 *q, uint64_t guest, uint64_t len, unsigned how)
{
	struct q2_extent ext;
	struct q2_table *t;
	struct q2_run run;
	uint64_t done, count;
	bool in_place;

	if (!q2_l1_writable(q, guest) || q->broken)
		return;
	if (how < 4) {
		if (!DO(q, q2_zero_range(q, guest, guest + len, (enum q2_zero_how)how, &done)))
			assert(done && done <= len);
		return;
	}
	if (DO(q, q2_plan_write(q, guest, guest + len, &in_place, &ext, &run)) || in_place)
		return;
	assert(run.from <= guest && run.to > guest && run.clusters);
	if (!run.reuse && DO(q, q2_alloc(q, run.clusters, &run.host, &count)))
		return;
	if (!run.reuse)
		run.clusters = MIN(run.clusters, count);
	run.to = MIN(run.to, run.guest + (run.clusters << q->cluster_bits));
	if (!DO(q, q2_l2_get(q, guest, &t)) && t)
		q2_link_run(q, t, &run);
}

static bool set_up(struct qcow2 *q, const uint8_t *geometry)
{
	q->extl2 = geometry[0] & 1;
	q->h.version = geometry[0] & 2 && !q->extl2 ? 2 : 3;
	q->cluster_bits = q->extl2 ? 14 : 9 + geometry[1] % 4;
	q->cluster_bytes = 1u << q->cluster_bits;
	q->entry_bytes = q->extl2 ? 16 : 8;
	q->l2_bits = q->cluster_bits - (q->extl2 ? 4 : 3);
	q->sub_bits = q->cluster_bits - (q->extl2 ? 5 : 0);
	q->unit_bytes = MIN(q->cluster_bytes, Q2_UNIT_BYTES_MAX);
	q->h.refcount_order = geometry[2] % 7;
	q->ref_bits = 1u << q->h.refcount_order;
	q->refblock_bits = q->cluster_bits + 3 - q->h.refcount_order;
	q->file_end = (uint64_t)FILE_CLUSTERS << q->cluster_bits;
	q->zero_from = q->file_end;
	q->h.l1_entries = 2;
	q->h.l1_offset = 3 * (uint64_t)q->cluster_bytes;
	q->h.reftable_offset = q->cluster_bytes;
	q->h.reftable_clusters = 1;
	q->reftable_entries = q->cluster_bytes / 8;
	q->img.info.size_bytes = 2 * q2_l2_span(q) - 512;
	q->l1 = q2_zalloc(q->unit_bytes);
	q->l1_dirty = q2_zalloc(1);
	q->reftable = q2_zalloc(q->cluster_bytes);
	q->reftable_dirty = q2_zalloc(q->cluster_bytes / q->unit_bytes);
	if (!q->l1 || !q->l1_dirty || !q->reftable || !q->reftable_dirty ||
	    q2_cache_init(&q->l2_cache, q->unit_bytes, 40) ||
	    q2_cache_init(&q->ref_cache, q->unit_bytes, 80))
		return false;
	q->l1[0] = 4 * (uint64_t)q->cluster_bytes | Q2_COPIED;
	q->l1[1] = (uint64_t)geometry[3] << q->cluster_bits | (geometry[0] & 4 ? Q2_COPIED : 0);
	for (unsigned i = 0; i < 8; i++)
		q->reftable[i] = (uint64_t)(2 + i * (geometry[0] >> 3)) << q->cluster_bits;
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct qcow2 *q;
	uint32_t seed;

	if (size < 24)
		return 0;
	log_init(-1, LOG_LEVEL_ERROR);
	memcpy(&seed, data + 4, 4);
	contents = data + 8;
	contents_len = size - 8;
	q = calloc(1, sizeof(*q));
	if (q && set_up(q, data)) {
		for (unsigned step = 0; step < STEPS && !q->broken; step++) {
			uint64_t disk = q->img.info.size_bytes, guest, value;

			seed = seed * 1664525 + 1013904223;
			guest = (uint64_t)(seed >> 4) * 512 % disk;
			look(q, guest, MIN(disk - guest, UINT64_C(512) + (seed >> 12)));
			if (seed & 0x80000000)
				change(q, guest,
				       MIN(disk - guest, UINT64_C(512) * (1 + seed % 999)),
				       (seed >> 8) % 6);
			(void)DO(q, q2_ref_get(q, seed % 1024, &value));
		}
	}
	if (q)
		q2_free(q);
	return 0;
}
