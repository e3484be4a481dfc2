/*
 * Opening, closing and the binding to a loop: the qcow2 driver as disk/image.c sees it.
 *
 * What is read at once is the first cluster, the L1 table and, for writing, the refcount table; all
 * three are bounded. Nothing is written before everything has been found good.
 */
#include "base/log.h"
#include "disk/qcow2/engine.h"
#include "disk/qcow2/tools.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Room for tables under construction, and for one pinned piece for each operation. */
#define L2_SLOTS_EXTRA	(2 * Q2_OPS)
#define REF_CACHE_BYTES (2u << 20)
#define REF_SLOTS_EXTRA 256

void q2_free(struct qcow2 *q)
{
	if (!q)
		return;
	q2_cache_free(&q->l2_cache);
	q2_cache_free(&q->ref_cache);
	q2_inflate_free(q);
	image_close(q->backing);
	image_close(q->data.img);
	image_close(q->file.img);
	free(q->freed.runs);
	free(q->freeing.runs);
	free(q->reftable);
	free(q->reftable_dirty);
	free(q->l1);
	free(q->l1_dirty);
	free(q->first);
	free(q->img.path);
	free(q);
}

static int read_header(struct qcow2 *q, const struct q2_open_how *how,
		       const struct image_opts *opts, struct err *err)
{
	uint8_t start[512];
	size_t len = (size_t)MIN(q->file.size_bytes, (uint64_t)sizeof(start));
	int r = q2_pread(&q->file, start, sizeof(start), 0);

	if (r)
		return err_sys(err, -r, "its header cannot be read");
	r = q2_header_parse(start, len, &q->h, err);
	if (r)
		return r;
	q->cluster_bits = q->h.cluster_bits;
	q->cluster_bytes = 1u << q->cluster_bits;
	q->first = malloc(q->cluster_bytes);
	if (!q->first)
		return err_set(err, ENOMEM, "no memory");
	r = q2_pread(&q->file, q->first, q->cluster_bytes, 0);
	if (r)
		return err_sys(err, -r, "its header cannot be read");
	r = q2_header_parse_extensions(&q->h, q->first, err);
	if (!r)
		r = q2_header_check(&q->h, q->file.size_bytes, opts->data_file || how->check, err);
	if (r)
		return r;
	if (!(q->h.incompatible & Q2_INCOMPAT_CORRUPT) || how->check)
		return 0;
	if (!opts->read_only)
		return err_set(err, EROFS,
			       "is marked corrupt; open it read-only, or repair it with lodge disk "
			       "check");
	log_warn("disk image %s: is marked corrupt; it is only read", q->img.path);
	return 0;
}

/* The caller's, wherever the image itself says that it is. */
static int open_data(struct qcow2 *q, const struct image_opts *opts, struct err *err)
{
	struct image_opts data = *opts;
	int r;

	if (opts->data_file && !q2_is_external(q))
		return err_set(err, EINVAL, "keeps its data itself; do without data_file");
	if (!opts->data_file)
		return 0;
	data.path = opts->data_file;
	r = image_file_open(&data, &q->data, err);
	if (r) {
		err_prefix(err, "data file %s", opts->data_file);
		return r;
	}
	if (q->data.dev == q->file.dev && q->data.ino == q->file.ino)
		return err_set(err, EINVAL, "is given as its own data file");
	return 0;
}

static int set_geometry(struct qcow2 *q, struct err *err)
{
	uint32_t align = MAX(q->file.align_bytes, q->data.align_bytes);

	q->extl2 = q->h.incompatible & Q2_INCOMPAT_EXTL2;
	q->entry_bytes = q->extl2 ? 16 : 8;
	q->l2_bits = q->cluster_bits - (q->extl2 ? 4 : 3);
	q->sub_bits = q->cluster_bits - (q->extl2 ? 5 : 0);
	q->unit_bytes = MIN(q->cluster_bytes, Q2_UNIT_BYTES_MAX);
	q->ref_bits = 1u << q->h.refcount_order;
	q->refblock_bits = q->cluster_bits + 3 - q->h.refcount_order;
	q->file_end = align_up(q->file.size_bytes, q->cluster_bytes);
	q->zero_from = q->file.is_regular ? q->file_end : UINT64_MAX;
	if (align > UINT32_C(1) << q->sub_bits)
		return err_set(
		    err, EINVAL,
		    "has (sub)clusters of %u bytes, less than the %u that direct I/O needs "
		    "there; do without direct I/O",
		    1u << q->sub_bits, align);
	return 0;
}

/* A table of big-endian words, in memory a multiple of a unit. */
static int read_table(struct qcow2 *q, const char *name, uint64_t offset, uint64_t entries,
		      uint64_t **ret_table, uint8_t **ret_dirty, struct err *err)
{
	size_t bytes = (size_t)align_up(MAX(entries, UINT64_C(1)) * 8, q->unit_bytes);
	int r;

	*ret_table = calloc(1, bytes);
	*ret_dirty = calloc(1, bytes / q->unit_bytes);
	if (!*ret_table || !*ret_dirty)
		return err_set(err, ENOMEM, "no memory for its %s (%zu bytes)", name, bytes);
	r = q2_pread(&q->file, *ret_table, (size_t)entries * 8, offset);
	if (r)
		return err_sys(err, -r, "its %s cannot be read", name);
	for (uint64_t i = 0; i < entries; i++)
		(*ret_table)[i] = be64_load(&(*ret_table)[i]);
	return 0;
}

static int read_tables(struct qcow2 *q, bool with_refcounts, struct err *err)
{
	int r =
	    read_table(q, "L1 table", q->h.l1_offset, q->h.l1_entries, &q->l1, &q->l1_dirty, err);

	if (r || !with_refcounts)
		return r;
	q->reftable_entries = (uint32_t)(((uint64_t)q->h.reftable_clusters << q->cluster_bits) / 8);
	return read_table(q, "refcount table", q->h.reftable_offset, q->reftable_entries,
			  &q->reftable, &q->reftable_dirty, err);
}

static int make_caches(struct qcow2 *q, const struct image_opts *opts, bool with_refcounts,
		       struct err *err)
{
	uint64_t cluster_units = q->cluster_bytes / q->unit_bytes;
	uint64_t tables = q->h.size_bytes / q2_l2_span(q) + 1;
	uint64_t bytes = opts->cache_bytes ? opts->cache_bytes : QCOW2_CACHE_BYTES_DEFAULT;
	uint64_t least = 2 * cluster_units + L2_SLOTS_EXTRA;
	uint64_t slots = MIN(tables * cluster_units + L2_SLOTS_EXTRA, bytes / q->unit_bytes);
	uint64_t ref_slots =
	    MAX(2 * cluster_units + REF_SLOTS_EXTRA, (uint64_t)REF_CACHE_BYTES / q->unit_bytes);
	int r;

	slots = MAX(MIN(slots, (uint64_t)UINT32_MAX / 2), least);
	r = q2_cache_init(&q->l2_cache, q->unit_bytes, (unsigned)slots);
	if (!r)
		r = q2_cache_init(&q->ref_cache, q->unit_bytes,
				  with_refcounts ? (unsigned)ref_slots : 1);
	if (!r)
		r = q2_inflate_init(q);
	return r ? err_set(err, ENOMEM, "no memory for its tables") : 0;
}

static void set_info(struct qcow2 *q, const struct image_opts *opts)
{
	const struct image_info *file = &(q->data.img ? q->data : q->file).img->info;
	struct image_info *info = &q->img.info;

	*info = (struct image_info){
	    .format = IMAGE_QCOW2,
	    .size_bytes = align_down(q->h.size_bytes, file->logical_block_bytes),
	    .logical_block_bytes = file->logical_block_bytes,
	    .physical_block_bytes = file->physical_block_bytes,
	    .optimal_io_bytes = q->cluster_bytes,
	    .read_only = opts->read_only,
	    .can_write_zeroes = !opts->read_only,
	    .discard_granularity_bytes = opts->read_only || opts->no_discard ? 0 : q->cluster_bytes,
	};
	if (info->size_bytes != q->h.size_bytes)
		log_warn(
		    "disk image %s: its last %llu bytes do not fill a block of %u bytes and are "
		    "left out",
		    q->img.path, (unsigned long long)(q->h.size_bytes - info->size_bytes),
		    info->logical_block_bytes);
}

/* What a writer does before its first write. */
static int prepare_writing(struct qcow2 *q, struct err *err)
{
	uint64_t kept = q2_is_external(q) ? Q2_AUTOCLEAR_RAW_DATA : 0;
	int r;

	if (q->h.incompatible & Q2_INCOMPAT_DIRTY) {
		log_info("disk image %s: was not closed; its refcounts are rebuilt", q->img.path);
		r = q2_rebuild_refcounts(q, err);
		if (r)
			return r;
	}
	if (!(q->h.autoclear & ~kept))
		return 0;
	/* they promise something that is true no longer once data is written */
	q->h.autoclear &= kept;
	r = q2_header_write(q);
	return r ? err_sys(err, -r, "its header cannot be written") : 0;
}

int q2_open_one(const struct image_opts *opts, const struct q2_open_how *how, struct qcow2 **ret_q,
		struct err *err)
{
	bool with_refcounts = !opts->read_only || how->check;
	struct qcow2 *q = calloc(1, sizeof(*q));
	int r;

	if (!q)
		return err_set(err, ENOMEM, "no memory");
	q->img.path = strdup(opts->path);
	r = q->img.path ? image_file_open(opts, &q->file, err) : err_set(err, ENOMEM, "no memory");
	if (!r)
		r = read_header(q, how, opts, err);
	if (!r)
		r = open_data(q, opts, err);
	if (!r)
		r = set_geometry(q, err);
	if (!r)
		r = read_tables(q, with_refcounts, err);
	if (!r)
		r = make_caches(q, opts, with_refcounts, err);
	if (!r) {
		q->no_discard = opts->no_discard;
		set_info(q, opts);
		image_init(&q->img, &image_qcow2_driver);
	}
	if (!r && !opts->read_only && !how->check)
		r = prepare_writing(q, err);
	if (r) {
		q2_free(q);
		return r;
	}
	*ret_q = q;
	return 0;
}

static int driver_open(const struct image_opts *opts, struct image **ret_img, struct err *err)
{
	static const struct q2_open_how how = {0};
	struct qcow2 *q = NULL;
	int r = q2_open_one(opts, &how, &q, err);

	if (r || !q)
		return r;
	r = q2_backing_open(q, opts, err);
	if (r) {
		q2_free(q);
		return r;
	}
	*ret_img = &q->img;
	return 0;
}

/* What no flush has written yet. */
static void write_rest(struct qcow2 *q)
{
	int r;

	if (q->img.info.read_only || !q2_is_dirty(q))
		return;
	r = q2_commit_sync(q);
	if (!r && q2_is_dirty(q)) /* refcounts that were given up by the first */
		r = q2_commit_sync(q);
	if (r)
		log_error(
		    "disk image %s: its tables cannot be written: %s; what was not flushed is "
		    "lost",
		    q->img.path, strerror(-r));
}

static void driver_close(struct image *img)
{
	struct qcow2 *q = qcow2_of(img);

	write_rest(q);
	q2_free(q);
}

static int driver_attach(struct image *img, struct loop *loop, struct err *err)
{
	struct qcow2 *q = qcow2_of(img);
	int r;

	if (q2_engine_init(q))
		return err_set(err, ENOMEM, "no memory");
	r = image_attach(q->file.img, loop, err);
	if (r) {
		q2_engine_free(q);
		return r;
	}
	r = q->data.img ? image_attach(q->data.img, loop, err) : 0;
	if (!r && q->backing) {
		r = image_attach(q->backing, loop, err);
		if (r && q->data.img)
			image_detach(q->data.img);
	}
	if (r) {
		image_detach(q->file.img);
		q2_engine_free(q);
		return r;
	}
	q2_inflate_attach(q);
	return 0;
}

static void driver_detach(struct image *img)
{
	struct qcow2 *q = qcow2_of(img);

	write_rest(q);
	q2_inflate_detach(q);
	if (q->backing)
		image_detach(q->backing);
	if (q->data.img)
		image_detach(q->data.img);
	image_detach(q->file.img);
	q2_engine_free(q);
}

static void driver_inject_fault(struct image *img, unsigned n, int errnum)
{
	image_inject_fault(qcow2_of(img)->file.img, n, errnum);
}

static struct image *driver_backing(struct image *img)
{
	return qcow2_of(img)->backing;
}

uint32_t qcow2_cluster_bytes(const struct image *img)
{
	const void *q = (const char *)img - offsetof(struct qcow2, img);

	return ((const struct qcow2 *)q)->cluster_bytes;
}

const struct image_driver image_qcow2_driver = {
    .name = "qcow2",
    .format = IMAGE_QCOW2,
    .open = driver_open,
    .close = driver_close,
    .attach = driver_attach,
    .detach = driver_detach,
    .submit = q2_submit,
    .inject_fault = driver_inject_fault,
    .map = q2_image_map,
    .backing = driver_backing,
    .grow_begin = q2_image_grow_begin,
    .grow_end = q2_image_grow_end,
};
