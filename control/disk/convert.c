/*
 * `lodge disk convert`: the contents of an image in a new one, of another format or with other
 * options. Holes stay holes, zeroes become holes, and on top of a backing file only what differs
 * from it is stored.
 */
#include "base/checked.h"
#include "control/disk/backing.h"
#include "control/disk/commands.h"
#include "control/disk/job.h"
#include "control/disk/new_image.h"
#include "disk/image_tools.h"

#include <errno.h>
#include <stdlib.h>

#define RAW_UNIT_BYTES 4096u /* zeroes shorter than this stay data in a raw image */

struct convert {
	struct disk_job job;
	struct disk_options options;
	struct new_image made;
	struct image *src, *dst;
	struct image *base; /* below dst; NULL: nothing */
};

static bool reads_as_zeroes(const struct image_extent *e)
{
	return e->kind != IMAGE_EXTENT_DATA;
}

/* Zeroes are left out where the new image has them anyway. */
static int plan(void *ctx, uint64_t offset_bytes, uint64_t len_bytes, enum copy_kind *ret_kind,
		uint64_t *ret_len_bytes, struct err *err)
{
	struct convert *c = ctx;
	struct image_extent e, below;
	uint64_t base_bytes = c->base ? image_info(c->base)->size_bytes : 0;
	int r = image_map(c->src, offset_bytes, len_bytes, &e, err);

	if (r)
		return r;
	*ret_kind = reads_as_zeroes(&e) ? COPY_SKIP : COPY_DATA;
	*ret_len_bytes = e.len_bytes;
	if (*ret_kind == COPY_DATA || offset_bytes >= base_bytes)
		return 0;
	r = image_map(c->base, offset_bytes, MIN(e.len_bytes, base_bytes - offset_bytes), &below,
		      err);
	if (r)
		return r;
	*ret_kind = reads_as_zeroes(&below) ? COPY_SKIP : COPY_ZERO;
	*ret_len_bytes = below.len_bytes;
	return 0;
}

static int store_compressed(void *ctx, uint64_t offset_bytes, const void *data, uint64_t len_bytes,
			    struct err *err)
{
	struct convert *c = ctx;
	uint32_t cluster = qcow2_cluster_bytes(c->dst);
	int r = 0;

	for (uint64_t at = 0; at < len_bytes && !r; at += cluster) {
		if (offset_bytes + at >= image_info(c->dst)->size_bytes)
			break; /* a unit of several clusters, past the end */
		r = qcow2_write_compressed(c->dst, offset_bytes + at, (const char *)data + at, err);
	}
	return r;
}

static int open_src(struct convert *c, const struct disk_args *args, struct err *err)
{
	const struct image_opts o = {
	    .path = args->operands[0],
	    .format = args->from.format,
	    .read_only = true,
	    .backing = args->allow_backing,
	};

	return disk_job_open(&c->job, &o, &c->src, err);
}

/* What the new image stands on, to compare with: the user has named it, so it is opened. */
static int open_base(struct convert *c, const char *dst_path, struct err *err)
{
	struct image_opts o = {
	    .format = c->options.backing_format.format,
	    .read_only = true,
	    .backing = c->job.args->allow_backing,
	};
	char *path = NULL;
	int r;

	if (!c->options.qcow2.backing_path)
		return 0;
	r = backing_resolve(dst_path, c->options.qcow2.backing_path, &path, err);
	if (r)
		return r;
	o.path = path;
	r = disk_job_open(&c->job, &o, &c->base, err);
	free(path);
	return r;
}

static int open_dst(struct convert *c, struct err *err)
{
	const struct image_opts o = {
	    .path = c->made.file.work_path,
	    .format = c->made.format,
	    .backing = c->base != NULL,
	};

	return disk_job_open(&c->job, &o, &c->dst, err);
}

static int copy(struct convert *c, struct copy_stats *ret_stats, struct err *err)
{
	struct copy_opts o = {
	    .src = c->src,
	    .dst = c->dst,
	    .compare = c->base,
	    .len_bytes = image_info(c->src)->size_bytes,
	    .unit_bytes = RAW_UNIT_BYTES,
	    .skip_zeroes = !c->base,
	    .plan = plan,
	    .ctx = c,
	};

	if (c->made.format == IMAGE_QCOW2)
		o.unit_bytes = MAX(qcow2_cluster_bytes(c->dst), RAW_UNIT_BYTES);
	if (c->job.args->compress)
		o.store = store_compressed;
	return disk_job_copy(&c->job, "convert", &o, ret_stats, err);
}

/* The new image, made and filled; under its name when all went well. */
static int convert(struct convert *c, struct copy_stats *ret_stats, struct err *err)
{
	const struct disk_args *args = c->job.args;
	const char *path = args->operands[1];
	int r = new_image_begin(&c->made, &c->job, path, args->to.format, &c->options,
				image_info(c->src)->size_bytes, err);

	if (r)
		return r;
	r = open_dst(c, err);
	if (!r)
		r = copy(c, ret_stats, err);
	disk_job_close(c->dst);
	return new_image_end(&c->made, r, err);
}

static int check_args(const struct disk_args *args, struct disk_options *ret_options,
		      struct err *err)
{
	int r = disk_options_parse(args, args->to.format, ret_options, err);

	if (!r && args->compress && args->to.format != IMAGE_QCOW2)
		r = err_set(err, EINVAL,
			    "--compress: a raw image cannot be compressed; say --to "
			    "qcow2");
	if (!r && args->compress && ret_options->qcow2.prealloc != QCOW2_PREALLOC_OFF)
		r = err_set(err, EINVAL,
			    "--compress and -o preallocation exclude each other; leave one out");
	return r;
}

int disk_convert(struct disk_args *args)
{
	const char *src = args->operands[0], *dst = args->operands[1];
	struct copy_stats stats = {0};
	struct err err = ERR_INIT;
	struct convert c = {0};
	uint64_t size_bytes = 0;
	int r = check_args(args, &c.options, &err);

	if (r)
		return disk_usage_error(args, &err);
	r = disk_job_begin(&c.job, args, &err);
	if (!r && same_file(src, dst))
		r = err_set(&err, EINVAL, "%s and %s are the same file; name another file", src,
			    dst);
	if (!r)
		r = open_src(&c, args, &err);
	if (!r)
		r = open_base(&c, dst, &err);
	if (!r) {
		size_bytes = image_info(c.src)->size_bytes;
		r = convert(&c, &stats, &err);
	}
	disk_job_close(c.src);
	disk_job_close(c.base);
	disk_job_end(&c.job);
	if (!r)
		disk_print_result(args, dst, args->to.format, size_bytes, &stats);
	return disk_result(args, &c.job, r, &err);
}
