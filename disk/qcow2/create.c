/*
 * New images.
 *
 *   cluster 0: header | 1: refcount table | 2: refcount block | then the L1 table, and what is
 *   allocated in advance
 *
 * An image of no size is written by hand and then grown like any other.
 */
#include "base/cleanup.h"
#include "disk/qcow2/tools.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int check_opts(const struct qcow2_create_opts *o, const struct q2_header *h, struct err *err)
{
	unsigned width = o->refcount_bits ? o->refcount_bits : 16;

	if (o->cluster_bytes &&
	    (!is_pow2(o->cluster_bytes) || o->cluster_bytes < QCOW2_CLUSTER_BYTES_MIN ||
	     o->cluster_bytes > QCOW2_CLUSTER_BYTES_MAX))
		return err_set(err, EINVAL,
			       "cluster size %u; a power of two from %u to %u is possible",
			       o->cluster_bytes, QCOW2_CLUSTER_BYTES_MIN, QCOW2_CLUSTER_BYTES_MAX);
	if (h->version != 2 && h->version != 3)
		return err_set(err, EINVAL, "version %u; 2 and 3 are possible", h->version);
	if (!is_pow2(width) || width > 64)
		return err_set(err, EINVAL,
			       "refcounts of %u bits; a power of two up to 64 is possible", width);
	if (h->version == 2 &&
	    (width != 16 || o->extended_l2 || o->lazy_refcounts || o->compression != QCOW2_ZLIB))
		return err_set(err, EINVAL,
			       "version 2 (compat 0.10) has 16-bit refcounts, zlib, no extended L2 "
			       "entries and no lazy refcounts; use version 3");
	if (o->extended_l2 && h->cluster_bits < Q2_CLUSTER_BITS_EXTL2_MIN)
		return err_set(err, EINVAL,
			       "extended L2 entries need clusters of %u bytes at least",
			       1u << Q2_CLUSTER_BITS_EXTL2_MIN);
	if (o->backing_path && (!o->backing_format || !*o->backing_format))
		return err_set(err, EINVAL, "the format of the backing file is not stated");
	if (o->backing_path &&
	    (!*o->backing_path || strlen(o->backing_path) > QCOW2_BACKING_NAME_MAX))
		return err_set(err, EINVAL,
			       "the backing file's name has %zu bytes; 1 to %d are possible",
			       strlen(o->backing_path), QCOW2_BACKING_NAME_MAX);
	if (o->backing_path && strlen(o->backing_format) > QCOW2_FORMAT_NAME_MAX)
		return err_set(err, EINVAL, "the backing format '%s' is unknown",
			       o->backing_format);
	if (o->backing_path && o->prealloc != QCOW2_PREALLOC_OFF)
		return err_set(err, EINVAL,
			       "space cannot be allocated in advance with a backing file, which it "
			       "would hide");
	if (!o->has_size && (!o->backing_path || o->backing_unchecked))
		return err_set(err, EINVAL, "no size is given");
	return 0;
}

static struct q2_header make_header(const struct qcow2_create_opts *o)
{
	unsigned width = o->refcount_bits ? o->refcount_bits : 16;
	uint32_t cluster = o->cluster_bytes ? o->cluster_bytes : QCOW2_CLUSTER_BYTES_DEFAULT;
	struct q2_header h = {
	    .version = o->version ? o->version : 3,
	    .cluster_bits = (unsigned)__builtin_ctz(cluster),
	    .refcount_order = (unsigned)__builtin_ctz(width),
	    .l1_offset = 3 * (uint64_t)cluster,
	    .reftable_offset = cluster,
	    .reftable_clusters = 1,
	    .compression = o->compression == QCOW2_ZSTD ? Q2_COMPRESSION_ZSTD : Q2_COMPRESSION_ZLIB,
	};

	if (o->extended_l2)
		h.incompatible |= Q2_INCOMPAT_EXTL2;
	if (h.compression)
		h.incompatible |= Q2_INCOMPAT_COMPRESSION;
	if (o->lazy_refcounts)
		h.compatible |= Q2_COMPAT_LAZY_REFCOUNTS;
	if (o->backing_path)
		memcpy(h.backing, o->backing_path,
		       strnlen(o->backing_path, QCOW2_BACKING_NAME_MAX));
	if (o->backing_path && o->backing_format)
		memcpy(h.backing_format, o->backing_format,
		       strnlen(o->backing_format, QCOW2_FORMAT_NAME_MAX));
	h.header_len = h.version == 2 ? Q2_HEADER_V2_BYTES : sizeof(struct q2_header_disk);
	h.extensions_end = h.header_len;
	return h;
}

/* Header, refcount table and block; the L1 table has no entries yet. */
static int write_first(int fd, struct q2_header *h, struct err *err)
{
	const uint64_t cluster = UINT64_C(1) << h->cluster_bits;
	autofree uint8_t *buf = q2_zalloc(3 * cluster);
	struct image_file f = {.fd = fd};
	struct q2_header_disk d = {
	    .magic = be32_put(Q2_MAGIC),
	    .version = be32_put(h->version),
	    .cluster_bits = be32_put(h->cluster_bits),
	    .refcount_order = be32_put(h->refcount_order),
	    .header_len = be32_put(h->header_len),
	    .compression_type = h->compression,
	};
	int r;

	if (!buf)
		return err_set(err, ENOMEM, "no memory");
	memcpy(buf, &d, h->header_len);
	if (h->version == 2)
		memset(buf + Q2_HEADER_V2_BYTES, 0, sizeof(d) - Q2_HEADER_V2_BYTES);
	r = q2_header_rebuild(h, buf, err);
	if (r)
		return r;
	be64_store(buf + cluster, 2 * cluster);
	for (unsigned i = 0; i < 3; i++)
		q2_ref_store(buf + 2 * cluster, 1u << h->refcount_order, i, 1);
	r = q2_pwrite(&f, buf, 3 * cluster, 0);
	return r ? err_sys(err, -r, "cannot be written") : 0;
}

/* The disk gets its size. */
static int set_size(struct qcow2 *q, const struct qcow2_create_opts *o, struct err *err)
{
	uint64_t size = o->size_bytes, entries;
	int r;

	if (!o->has_size) {
		r = q2_backing_size(q, &size, err);
		if (r)
			return r;
	}
	if (size > INT64_MAX - IMAGE_SECTOR_BYTES)
		return err_set(err, EFBIG, "%llu bytes are more than a disk can have",
			       (unsigned long long)size);
	size = align_up(size, IMAGE_SECTOR_BYTES);
	if (!q2_header_l1_needed(q->cluster_bits, q->extl2, size, &entries))
		return err_set(
		    err, EFBIG,
		    "%llu bytes are more than clusters of %u can address; use larger ones",
		    (unsigned long long)size, q->cluster_bytes);
	r = q2_grow_l1(q, entries);
	if (!r) {
		q->h.size_bytes = q->img.info.size_bytes = size;
		r = q2_header_write(q);
	}
	return r ? err_sys(err, -r, "cannot be written") : 0;
}

static int fill(const struct qcow2_create_opts *o, struct err *err)
{
	struct image_opts opts = {.path = o->path, .format = IMAGE_QCOW2};
	struct q2_open_how how = {.check = true};
	struct qcow2 *q;
	int r = q2_open_one(&opts, &how, &q, err);

	if (r)
		return r;
	if (o->backing_path && o->has_size && !o->backing_unchecked) {
		uint64_t unused;

		r = q2_backing_size(q, &unused, err);
	}
	if (!r)
		r = set_size(q, o, err);
	if (!r)
		r = q2_preallocate(q, 0, q->h.size_bytes, o->prealloc, o->progress, err);
	if (!r) {
		r = q2_tool_commit(q);
		if (!r && fsync(q->file.fd))
			r = -errno;
		if (r)
			r = err_sys(err, -r, "cannot be written");
	}
	q2_free(q);
	return r;
}

int qcow2_create(const struct qcow2_create_opts *o, struct err *err)
{
	struct q2_header h = make_header(o);
	int fd, r = check_opts(o, &h, err);

	if (r)
		goto fail;
	fd = open(o->path, O_RDWR | O_CLOEXEC | (o->into_empty ? 0 : O_CREAT | O_EXCL), 0666);
	if (fd < 0) {
		r = errno == EEXIST ? err_set(err, EEXIST, "exists already")
				    : err_sys(err, errno, "cannot be created");
		goto fail;
	}
	r = write_first(fd, &h, err);
	close(fd);
	if (!r)
		r = fill(o, err);
	if (!r)
		return 0;
	if (!o->into_empty)
		unlink(o->path);
fail:
	err_prefix(err, "disk image %s", o->path);
	return r;
}
