/*
 * `lodge disk rebase`: another backing file below an image, or none.
 *
 * Safe: wherever the image shows its old backing file and that differs from the new one, what it
 * shows is copied into the image; only then its header names the new one. Stopped at any point
 * before, the image stands on the old one and is whole, if a little larger.
 */
#include "control/disk/backing.h"
#include "control/disk/commands.h"
#include "control/disk/job.h"
#include "disk/image_tools.h"
#include "disk/qcow2/qcow2.h"

#include <errno.h>
#include <stdlib.h>

struct rebase {
	struct disk_job job;
	struct image *img;
	struct image *base; /* the new one; NULL: none */
};

/* What the image itself has stays; all else is compared. */
static int plan(void *ctx, uint64_t offset_bytes, uint64_t len_bytes, enum copy_kind *ret_kind,
		uint64_t *ret_len_bytes, struct err *err)
{
	struct rebase *rebase = ctx;
	struct image_extent e, below;
	uint64_t base_bytes = rebase->base ? image_info(rebase->base)->size_bytes : 0;
	int r = image_map(rebase->img, offset_bytes, len_bytes, &e, err);

	if (r)
		return r;
	*ret_len_bytes = e.len_bytes;
	if (!e.depth && e.kind != IMAGE_EXTENT_HOLE)
		*ret_kind = COPY_SKIP;
	else
		*ret_kind = e.kind == IMAGE_EXTENT_DATA ? COPY_DATA : COPY_ZERO;
	if (*ret_kind != COPY_ZERO)
		return 0;
	/* zeroes on zeroes: nothing to compare */
	if (offset_bytes >= base_bytes) {
		*ret_kind = COPY_SKIP;
		return 0;
	}
	if (e.len_bytes > base_bytes - offset_bytes)
		e.len_bytes = base_bytes - offset_bytes;
	r = image_map(rebase->base, offset_bytes, e.len_bytes, &below, err);
	if (r)
		return r;
	if (below.kind != IMAGE_EXTENT_DATA)
		*ret_kind = COPY_SKIP;
	*ret_len_bytes = below.len_bytes;
	return 0;
}

static int open_base(struct rebase *rebase, struct err *err)
{
	const struct disk_args *args = rebase->job.args;
	struct image_opts o = {
	    .format = args->backing_format.format,
	    .read_only = true,
	    .backing = args->allow_backing,
	};
	char *path;
	int r;

	if (!args->backing)
		return 0;
	r = backing_resolve(args->operands[0], args->backing, &path, err);
	if (r)
		return r;
	o.path = path;
	if (same_file(path, args->operands[0]))
		r = err_set(err, EINVAL, "%s cannot be its own backing file", path);
	else
		r = disk_job_open(&rebase->job, &o, &rebase->base, err);
	free(path);
	return r;
}

static int copy_difference(struct rebase *rebase, struct err *err)
{
	const struct image_opts image_opts = {
	    .path = rebase->job.args->operands[0],
	    .format = IMAGE_QCOW2,
	    .backing = rebase->job.args->allow_backing,
	};
	struct copy_opts o = {.plan = plan, .ctx = rebase};
	struct copy_stats stats;
	int r = disk_job_open(&rebase->job, &image_opts, &rebase->img, err);

	if (r)
		return r;
	r = open_base(rebase, err);
	if (!r && image_backing(rebase->img)) {
		o.src = o.dst = rebase->img;
		o.compare = rebase->base;
		o.len_bytes = image_info(rebase->img)->size_bytes;
		o.unit_bytes = qcow2_cluster_bytes(rebase->img);
		/* what is behind the end of the old one can be data of the new one */
		o.explicit_zeroes = true;
		/* below nothing zeroes need not be stored */
		o.skip_zeroes = !rebase->base;
		r = disk_job_copy(&rebase->job, "rebase", &o, &stats, err);
	}
	disk_job_close(rebase->base);
	disk_job_close(rebase->img);
	return r;
}

static int check_args(const struct disk_args *args, struct err *err)
{
	if (args->format.format != IMAGE_QCOW2)
		return err_set(err, EINVAL,
			       "a raw image has no backing file; only qcow2 can have one");
	if (!args->backing && !args->no_backing)
		return err_set(err, EINVAL,
			       "the new backing file is missing; say --backing FILE "
			       "--backing-format FORMAT, or --no-backing");
	return 0;
}

int disk_rebase(struct disk_args *args)
{
	const char *format = args->backing ? image_format_name(args->backing_format.format) : NULL;
	struct rebase rebase = {0};
	struct err err = ERR_INIT;
	int r = check_args(args, &err);

	if (r)
		return disk_usage_error(args, &err);
	r = disk_job_begin(&rebase.job, args, &err);
	if (!r && !args->unsafe)
		r = copy_difference(&rebase, &err);
	/* the image is closed here for a moment; whoever opens it meanwhile finds it whole */
	if (!r)
		r = qcow2_set_backing(args->operands[0], args->backing, format, &err);
	disk_job_end(&rebase.job);
	return disk_result(args, &rebase.job, r, &err);
}
