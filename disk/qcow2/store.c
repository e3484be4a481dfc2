/* What the header tells, its backing file, compressed clusters, and an image emptied. */
#include "base/cleanup.h"
#include "disk/qcow2/tools.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void fill_info(const struct q2_header *h, struct qcow2_info *info)
{
	info->version = h->version;
	info->size_bytes = h->size_bytes;
	info->cluster_bytes = 1u << h->cluster_bits;
	info->refcount_bits = 1u << h->refcount_order;
	info->extended_l2 = h->incompatible & Q2_INCOMPAT_EXTL2;
	info->lazy_refcounts = h->compatible & Q2_COMPAT_LAZY_REFCOUNTS;
	info->dirty = h->incompatible & Q2_INCOMPAT_DIRTY;
	info->corrupt = h->incompatible & Q2_INCOMPAT_CORRUPT;
	info->encrypted = h->crypt_method != 0;
	info->has_data_file = h->incompatible & Q2_INCOMPAT_DATA_FILE;
	info->has_bitmaps = h->autoclear & Q2_AUTOCLEAR_BITMAPS;
	info->compression = h->compression == Q2_COMPRESSION_ZSTD ? QCOW2_ZSTD : QCOW2_ZLIB;
	info->incompatible_features = h->incompatible;
	info->compatible_features = h->compatible;
	info->autoclear_features = h->autoclear;
	info->has_backing = h->backing[0] != 0;
	memcpy(info->backing_path, h->backing, sizeof(info->backing_path));
	memcpy(info->backing_format, h->backing_format, sizeof(info->backing_format));
	memcpy(info->data_file, h->data_file, sizeof(info->data_file));
	info->snapshots = h->snapshots;
}

static int read_info(const struct image_file *f, struct qcow2_info *info, struct err *err)
{
	autofree uint8_t *first = NULL;
	struct q2_header h;
	uint8_t start[512];
	struct stat st;
	int r = q2_pread(f, start, sizeof(start), 0);

	if (r)
		return err_sys(err, -r, "its header cannot be read");
	r = q2_header_parse(start, (size_t)MIN(f->size_bytes, (uint64_t)sizeof(start)), &h, err);
	if (r)
		return r;
	first = q2_zalloc(UINT64_C(1) << h.cluster_bits);
	if (!first)
		return err_set(err, ENOMEM, "no memory");
	r = q2_pread(f, first, UINT64_C(1) << h.cluster_bits, 0);
	if (r)
		return err_sys(err, -r, "its header cannot be read");
	r = q2_header_parse_extensions(&h, first, err);
	if (r)
		return r;
	fill_info(&h, info);
	info->file_bytes = f->size_bytes;
	if (!fstat(f->fd, &st))
		info->allocated_bytes = (uint64_t)st.st_blocks * 512;
	return 0;
}

int qcow2_info(const char *path, struct qcow2_info *ret_info, struct err *err)
{
	struct image_opts opts = {.path = path, .read_only = true, .no_lock = true};
	struct qcow2_info info = {0};
	struct image_file f;
	int r = image_file_open(&opts, &f, err);

	if (!r) {
		r = read_info(&f, &info, err);
		image_close(f.img);
	}
	if (r)
		err_prefix(err, "disk image %s", path);
	else
		*ret_info = info;
	return r;
}

static int set_backing(struct qcow2 *q, const char *path, const char *format, struct err *err)
{
	struct q2_header h = q->h;
	int r;

	if (path && (!*path || strlen(path) > QCOW2_BACKING_NAME_MAX))
		return err_set(err, EINVAL,
			       "the backing file's name has %zu bytes; 1 to %d are possible",
			       strlen(path), QCOW2_BACKING_NAME_MAX);
	if (path && (!format || !*format || strlen(format) > QCOW2_FORMAT_NAME_MAX))
		return err_set(err, EINVAL, "the format of the backing file is not stated");
	snprintf(h.backing, sizeof(h.backing), "%s", path ? path : "");
	snprintf(h.backing_format, sizeof(h.backing_format), "%s", path ? format : "");
	r = q2_header_rebuild(&h, q->first, err);
	if (r)
		return r;
	r = q2_pwrite(&q->file, q->first, q->cluster_bytes, 0);
	if (!r)
		r = q2_sync(&q->file);
	if (!r)
		q->h = h;
	return r ? err_sys(err, -r, "its header cannot be written") : 0;
}

int qcow2_set_backing(const char *path, const char *backing_path, const char *backing_format,
		      struct err *err)
{
	struct qcow2 *q;
	int r = q2_tool_open(path, false, false, &q, err);

	if (r)
		return r;
	r = set_backing(q, backing_path, backing_format, err);
	return q2_tool_close(q, r, err);
}

/* Room for `len` packed bytes: behind the last ones in the same cluster where that goes. */
static int pack_room(struct qcow2 *q, uint32_t len, uint64_t *ret_offset)
{
	uint64_t at = q->pack_offset, refs, next, count;
	uint64_t room = at ? q->cluster_bytes - q2_in_cluster(q, at) : 0;
	int r;

	if (at && len <= room) {
		r = Q2_SYNC(q, q2_ref_get(q, q2_cluster_of(q, at), &refs));
		if (!r && refs && refs < q2_ref_max(q->ref_bits)) {
			r = Q2_SYNC(q, q2_ref_set(q, q2_cluster_of(q, at), refs + 1));
			*ret_offset = at;
			return r;
		}
	}
	r = Q2_SYNC(q, q2_alloc(q, 1, &next, &count));
	*ret_offset = next;
	return r;
}

static int store_packed(struct qcow2 *q, uint64_t guest, const uint8_t *packed, uint32_t len)
{
	struct q2_entry e = {0};
	struct q2_table *t;
	uint64_t offset;
	int r = pack_room(q, len, &offset);

	if (!r)
		r = q2_pwrite(&q->file, packed, len, offset);
	if (!r)
		r = Q2_SYNC(q, q2_l2_get(q, guest, &t));
	if (r) {
		q->pack_offset = 0;
		return r;
	}
	e.word = q2_entry_make_compressed(q, offset, len);
	q2_entry_store(q, t, guest, e);
	q->need_order = true;
	q2_inflate_forget(q);
	q->pack_offset = q2_in_cluster(q, offset + len) ? offset + len : 0;
	return 0;
}

static int store_plain(struct qcow2 *q, uint64_t guest, const uint8_t *data)
{
	struct q2_run run = {.guest = guest, .clusters = 1, .from = guest};
	struct q2_table *t;
	uint64_t count;
	int r = Q2_SYNC(q, q2_alloc(q, 1, &run.host, &count));

	run.to = guest + q->cluster_bytes;
	if (!r)
		r = q2_pwrite(&q->file, data, q->cluster_bytes, run.host);
	if (!r)
		r = Q2_SYNC(q, q2_l2_get(q, guest, &t));
	if (!r)
		q2_link_run(q, t, &run);
	return r;
}

/* Plain where compression does not make it smaller. */
static int pack_and_store(struct qcow2 *q, uint64_t guest, const void *data)
{
	autofree uint8_t *packed = q2_zalloc(q->cluster_bytes);
	uint32_t len;
	int r;

	if (!packed)
		return -ENOMEM;
	r = q2_pack(q, data, packed, &len);
	if (!r)
		return store_packed(q, guest, packed, len);
	return r == -ENOSPC ? store_plain(q, guest, data) : r;
}

int qcow2_write_compressed(struct image *img, uint64_t offset_bytes, const void *data,
			   struct err *err)
{
	struct qcow2 *q = qcow2_of(img);
	struct q2_extent ext;
	int r;

	if (img->driver != &image_qcow2_driver || img->info.read_only || img->inflight ||
	    q2_in_cluster(q, offset_bytes) || offset_bytes >= img->info.size_bytes)
		return err_set(err, EINVAL, "disk image %s: no compressed cluster can be at %llu",
			       img->path, (unsigned long long)offset_bytes);
	if (q2_is_external(q))
		return err_set(err, ENOTSUP,
			       "disk image %s: an external data file holds no compressed clusters",
			       img->path);
	r = q2_tool_table(q, offset_bytes);
	if (!r)
		r = Q2_SYNC(q, q2_map(q, offset_bytes, 1, &ext));
	if (!r && (ext.kind != Q2_UNALLOCATED || ext.host))
		return err_set(err, EEXIST, "disk image %s: the cluster at %llu is in use",
			       img->path, (unsigned long long)offset_bytes);
	if (!r)
		r = pack_and_store(q, offset_bytes, data);
	return r ? err_sys(err, -r, "disk image %s: cannot be written", img->path) : 0;
}

int qcow2_make_empty(struct image *img, struct err *err)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t size = img->info.size_bytes, len;
	struct q2_table *t;
	int r = img->inflight || img->info.read_only ? -EINVAL : 0;

	for (uint64_t pos = 0; !r && pos < size; pos += len) {
		len = MIN(size - pos, q2_l2_span(q) - (pos & (q2_l2_span(q) - 1)));
		r = Q2_SYNC(q, q2_l2_get(q, pos, &t));
		if (r || !t)
			continue;
		r = q2_tool_table(q, pos);
		if (!r)
			r = Q2_SYNC(q, q2_zero_range(q, pos, size, Q2_ZERO_EMPTY, &len));
	}
	if (!r)
		r = q2_tool_commit(q);
	return r ? err_sys(err, -r, "disk image %s: cannot be emptied", img->path) : 0;
}
