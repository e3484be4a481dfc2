/*
 * `lodge disk commit`: what an image has of its own goes into its backing file, and the image is
 * empty afterwards.
 *
 * While it is copied the image keeps everything, so that a stop at any point leaves it as it was
 * seen: the backing file has only more of what the image shows. It is emptied when the backing file
 * is durable.
 *
 * The backing file is opened twice: below the image for reading, where only what the image itself
 * has is read, and for writing. The locks are taken here for both: nobody else is in either file.
 */
#include "base/cleanup.h"
#include "control/disk/backing.h"
#include "control/disk/commands.h"
#include "control/disk/job.h"
#include "disk/image_tools.h"
#include "disk/lock.h"
#include "disk/qcow2/qcow2.h"
#include "disk/raw_tools.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define RAW_UNIT_BYTES 4096u

struct commit {
	struct disk_job job;
	char *base_path;
	enum image_format base_format;
	struct image *img, *base;
	int lock_fd; /* holds the lock of the image */
};

/* Only what the image itself has. */
static int plan(void *ctx, uint64_t offset_bytes, uint64_t len_bytes, enum copy_kind *ret_kind,
		uint64_t *ret_len_bytes, struct err *err)
{
	struct commit *c = ctx;
	struct image_extent e;
	int r = image_map(c->img, offset_bytes, len_bytes, &e, err);

	if (r)
		return r;
	*ret_len_bytes = e.len_bytes;
	if (e.depth || e.kind == IMAGE_EXTENT_HOLE)
		*ret_kind = COPY_SKIP;
	else
		*ret_kind = e.kind == IMAGE_EXTENT_DATA ? COPY_DATA : COPY_ZERO;
	return 0;
}

/* What the image names, where that is allowed. */
static int find_base(struct commit *c, struct qcow2_info *info, struct err *err)
{
	const struct disk_args *args = c->job.args;
	int r = qcow2_info(args->operands[0], info, err);

	if (r)
		return r;
	if (!info->has_backing)
		return err_set(err, EINVAL, "%s has no backing file to commit to",
			       args->operands[0]);
	if (!args->allow_backing)
		return err_set(err, EPERM,
			       "%s names the backing file %s, which would be written; say "
			       "--allow-backing if that is meant",
			       args->operands[0], info->backing_path);
	if (image_format_parse(info->backing_format, &c->base_format))
		return err_set(
		    err, EINVAL,
		    "%s does not state the format of %s; state it with lodge disk rebase "
		    "--unsafe",
		    args->operands[0], info->backing_path);
	return backing_resolve(args->operands[0], info->backing_path, &c->base_path, err);
}

static int lock_image(struct commit *c, struct err *err)
{
	const char *path = c->job.args->operands[0];
	int r;

	c->lock_fd = open(path, O_RDWR | O_CLOEXEC);
	if (c->lock_fd < 0)
		return err_sys(err, errno, "%s cannot be opened for writing", path);
	r = image_lock(c->lock_fd, false, err);
	err_prefix(err, "%s", path);
	return r;
}

/* The backing file becomes as large as the image. */
static int grow_base(struct commit *c, uint64_t size_bytes, struct err *err)
{
	struct qcow2_info info;
	struct raw_facts facts;
	int r;

	if (c->base_format == IMAGE_QCOW2) {
		r = qcow2_info(c->base_path, &info, err);
		if (r || info.size_bytes >= size_bytes)
			return r;
		return qcow2_resize(c->base_path, size_bytes, false, QCOW2_PREALLOC_OFF, NULL, err);
	}
	r = raw_facts(c->base_path, &facts, err);
	if (r || facts.size_bytes >= size_bytes)
		return r;
	return raw_resize(c->base_path, size_bytes, false, RAW_PREALLOC_OFF, NULL, err);
}

static int open_both(struct commit *c, struct err *err)
{
	const struct image_opts base = {
	    .path = c->base_path, .format = c->base_format, .backing = true};
	const struct image_opts img = {.path = c->job.args->operands[0],
				       .format = IMAGE_QCOW2,
				       .backing = true,
				       .no_lock = true};
	int r = disk_job_open(&c->job, &base, &c->base, err);

	return r ? r : disk_job_open(&c->job, &img, &c->img, err);
}

static int commit(struct commit *c, struct copy_stats *ret_stats, struct err *err)
{
	struct copy_opts o = {.unit_bytes = RAW_UNIT_BYTES, .plan = plan, .ctx = c};
	struct qcow2_info info;
	int r = find_base(c, &info, err);

	if (!r)
		r = lock_image(c, err);
	if (!r)
		r = grow_base(c, info.size_bytes, err);
	if (!r)
		r = open_both(c, err);
	if (r)
		return r;
	if (c->base_format == IMAGE_QCOW2)
		o.unit_bytes = qcow2_cluster_bytes(c->base);
	o.src = c->img;
	o.dst = c->base;
	o.len_bytes = image_info(c->img)->size_bytes;
	r = disk_job_copy(&c->job, "commit", &o, ret_stats, err);
	return r ? r : qcow2_make_empty(c->img, err);
}

int disk_commit(struct disk_args *args)
{
	struct commit c = {.lock_fd = -1};
	struct copy_stats stats = {0};
	struct err err = ERR_INIT;
	uint64_t size_bytes = 0;
	int r;

	if (args->format.format != IMAGE_QCOW2) {
		err_set(&err, EINVAL, "a raw image has no backing file; only qcow2 can have one");
		return disk_usage_error(args, &err);
	}
	r = disk_job_begin(&c.job, args, &err);
	if (!r)
		r = commit(&c, &stats, &err);
	if (!r)
		size_bytes = image_info(c.img)->size_bytes;
	disk_job_close(c.img);
	disk_job_close(c.base);
	cleanup_fd(&c.lock_fd);
	disk_job_end(&c.job);
	if (!r)
		disk_print_result(args, c.base_path, c.base_format, size_bytes, &stats);
	free(c.base_path);
	return disk_result(args, &c.job, r, &err);
}
