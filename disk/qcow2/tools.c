/* Opening and closing for tools, and making tables without requests. See disk/qcow2/tools.h. */
#include "disk/qcow2/tools.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define ZERO_BYTES   (256 * 1024)
#define FALLOC_BYTES (64 * 1024 * 1024) /* between two looks at whether to go on */

int q2_tool_open(const char *path, bool read_only, bool check, struct qcow2 **ret_q,
		 struct err *err)
{
	struct image_opts opts = {.path = path, .format = IMAGE_QCOW2, .read_only = read_only};
	struct q2_open_how how = {.check = check};
	int r = q2_open_one(&opts, &how, ret_q, err);

	if (r)
		err_prefix(err, "disk image %s", path);
	return r;
}

int q2_tool_commit(struct qcow2 *q)
{
	int r = 0;

	while (!r && q2_is_dirty(q))
		r = q2_commit_sync(q);
	return r;
}

int q2_tool_close(struct qcow2 *q, int res, struct err *err)
{
	int r = res ? 0 : q2_tool_commit(q);

	if (r)
		res = err_sys(err, -r, "its tables cannot be written");
	if (res && err && !err->code)
		err_set(err, -res, "%s", strerror(-res));
	if (res)
		err_prefix(err, "disk image %s", q->img.path);
	q2_free(q);
	return res;
}

static int copy_piece(struct qcow2 *q, uint64_t guest, uint64_t to, uint64_t at)
{
	uint64_t old = q2_l1_offset(q, guest);
	struct q2_table *from = NULL, *t;
	int r = 0;

	if (old)
		r = Q2_SYNC(q, q2_table_get(q, &q->l2_cache, old + at, &from));
	if (r)
		return r;
	if (from)
		from->pins++;
	r = Q2_SYNC(q, q2_table_new(q, &q->l2_cache, to + at, &t));
	if (from)
		from->pins--;
	if (!r && from)
		memcpy(t->data, from->data, q->unit_bytes);
	return r;
}

int q2_tool_table(struct qcow2 *q, uint64_t guest)
{
	struct q2_table *t;
	uint64_t offset, count;
	int r;

	if (q2_l1_writable(q, guest))
		return 0;
	r = Q2_SYNC(q, q2_l2_get(q, guest, &t)); /* looks where it is */
	if (!r)
		r = Q2_SYNC(q, q2_alloc(q, 1, &offset, &count));
	for (uint64_t at = 0; !r && at < q->cluster_bytes; at += q->unit_bytes)
		r = copy_piece(q, guest, offset, at);
	if (!r)
		q2_link_l2(q, guest, offset);
	return r;
}

/* A preallocation under way. */
struct prealloc {
	enum qcow2_prealloc kind;
	uint64_t from, to; /* of the disk */
	const struct tool_progress *progress;
};

/* Space for the clusters of `run`, which were just taken. */
static int take_space(struct qcow2 *q, const struct prealloc *p, const struct q2_run *run)
{
	autofree uint8_t *zeroes = NULL;
	uint64_t at = run->host, end = at + (run->to - run->from), len;
	int r = 0;

	if (p->kind == QCOW2_PREALLOC_METADATA)
		return 0;
	if (p->kind == QCOW2_PREALLOC_FULL) {
		zeroes = q2_zalloc(ZERO_BYTES);
		if (!zeroes)
			return -ENOMEM;
	}
	for (; !r && at < end; at += len) {
		len = MIN(end - at, (uint64_t)(zeroes ? ZERO_BYTES : FALLOC_BYTES));
		if (zeroes)
			r = q2_pwrite(&q->file, zeroes, (size_t)len, at);
		else if (fallocate(q->file.fd, 0, (off_t)at, (off_t)len))
			r = -errno;
		if (!r && !tool_progress_at(p->progress, run->from + (at - run->host) - p->from,
					    p->to - p->from))
			r = -ECANCELED;
	}
	return r;
}

/* The run at `pos`: 0 and how much of it is mapped now. */
static int map_run(struct qcow2 *q, const struct prealloc *p, uint64_t pos, uint64_t *ret_len)
{
	const uint64_t end = p->to;
	struct q2_extent ext;
	struct q2_table *t;
	struct q2_run run;
	uint64_t count;
	bool in_place;
	int r = q2_tool_table(q, pos);

	if (!r)
		r = Q2_SYNC(q, q2_plan_write(q, pos, end, &in_place, &ext, &run));
	if (r)
		return r;
	if (in_place) {
		*ret_len = ext.len;
		return 0;
	}
	if (ext.kind != Q2_UNALLOCATED) { /* what was there before stays as it is */
		*ret_len = MIN(end - pos, q->cluster_bytes - q2_in_cluster(q, pos));
		return 0;
	}
	r = Q2_SYNC(q, q2_alloc(q, run.clusters, &run.host, &count));
	if (r)
		return r;
	run.clusters = count;
	run.from = run.guest;
	run.to = run.guest + (count << q->cluster_bits);
	r = take_space(q, p, &run);
	if (r) {
		q2_release(q, run.host, run.to - run.from);
		return r;
	}
	r = Q2_SYNC(q, q2_l2_get(q, pos, &t));
	if (r)
		return r;
	q2_link_run(q, t, &run);
	*ret_len = MIN(end, run.to) - pos;
	return 0;
}

int q2_preallocate(struct qcow2 *q, uint64_t from, uint64_t to, enum qcow2_prealloc prealloc,
		   const struct tool_progress *progress, struct err *err)
{
	const struct prealloc p = {prealloc, from, to, progress};
	uint64_t len = 0;
	int r = 0;

	if (prealloc == QCOW2_PREALLOC_OFF)
		return 0;
	for (uint64_t pos = from; !r && pos < to; pos += len) {
		r = map_run(q, &p, pos, &len);
		if (!r && !tool_progress_at(progress, pos + len - from, to - from))
			r = -ECANCELED;
	}
	if (r == -ECANCELED)
		return err_set(err, ECANCELED, "interrupted");
	if (r)
		return err_sys(err, -r, "its space cannot be allocated");
	r = q2_tool_commit(q);
	/* what tables refer to is within the file */
	if (!r && q->file.is_regular && ftruncate(q->file.fd, (off_t)q->file_end))
		r = -errno;
	return r ? err_sys(err, -r, "its space cannot be allocated") : 0;
}

int q2_grow_l1(struct qcow2 *q, uint64_t entries)
{
	size_t bytes = (size_t)align_up(entries * 8, q->cluster_bytes);
	uint64_t old_offset = q->h.l1_offset, old_entries = q->h.l1_entries, offset;
	uint64_t *l1 = NULL;
	uint8_t *dirty = NULL, *disk = NULL;
	int r;

	if (entries <= old_entries)
		return 0;
	l1 = q2_zalloc(bytes);
	disk = q2_zalloc(bytes);
	dirty = q2_zalloc(bytes / q->unit_bytes);
	r = l1 && disk && dirty ? q2_alloc_contiguous(q, bytes >> q->cluster_bits, &offset)
				: -ENOMEM;
	if (!r)
		r = q2_tool_commit(q); /* all refcounts, and the old table as it is in memory */
	if (!r) {
		memcpy(l1, q->l1, (size_t)old_entries * 8);
		for (uint64_t i = 0; i < old_entries; i++)
			be64_store(disk + i * 8, l1[i]);
		r = q2_pwrite(&q->file, disk, bytes, offset);
	}
	if (!r)
		r = q2_sync(&q->file);
	free(disk);
	if (r) {
		free(l1);
		free(dirty);
		return r;
	}
	free(q->l1);
	free(q->l1_dirty);
	q->l1 = l1;
	q->l1_dirty = dirty;
	q->h.l1_offset = offset;
	q->h.l1_entries = (uint32_t)entries;
	if (old_entries)
		q2_release(q, old_offset, old_entries * 8);
	return q2_header_write(q);
}

int q2_backing_size(const struct qcow2 *q, uint64_t *ret_bytes, struct err *err)
{
	autofree char *path = NULL;
	struct qcow2_info info;
	enum image_format format;
	int r = q2_backing_resolve(q->img.path, q->h.backing, &path, err);

	if (r)
		return r;
	if (image_format_parse(q->h.backing_format, &format))
		return err_set(err, ENOTSUP,
			       "the format of its backing file is '%s'; raw and qcow2 "
			       "are supported",
			       q->h.backing_format);
	if (format == IMAGE_RAW) {
		struct image_opts opts = {.path = path, .read_only = true};
		struct image_file file;

		r = image_file_open(&opts, &file, err);
		if (!r) {
			*ret_bytes = align_up(file.size_bytes, IMAGE_SECTOR_BYTES);
			image_close(file.img);
		} else {
			err_prefix(err, "backing file %s", path);
		}
		return r;
	}
	r = qcow2_info(path, &info, err);
	if (!r)
		*ret_bytes = info.size_bytes;
	return r;
}
