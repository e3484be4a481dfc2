/*
 * `lodge disk discard-unused`: space that holds only zeroes goes back to the host. A raw image gets
 * holes, a qcow2 image zero clusters, whose space its file gives back.
 */
#include "base/checked.h"
#include "base/json.h"
#include "control/disk/commands.h"
#include "control/disk/job.h"
#include "disk/image_tools.h"
#include "disk/qcow2/qcow2.h"
#include "disk/raw_tools.h"

#include <errno.h>
#include <stdio.h>

#define RAW_UNIT_BYTES 4096u

struct discard {
	struct disk_job job;
	struct image *img;
	uint64_t size_bytes;
	uint64_t before_bytes, after_bytes; /* space on the host */
};

/*
 * Only what the image itself stores takes space that can be given back. What a file system calls a
 * hole can be space that was allocated ahead.
 */
static int plan(void *ctx, uint64_t offset_bytes, uint64_t len_bytes, enum copy_kind *ret_kind,
		uint64_t *ret_len_bytes, struct err *err)
{
	struct image *img = ctx;
	bool raw = image_info(img)->format == IMAGE_RAW;
	struct image_extent e;
	int r = image_map(img, offset_bytes, len_bytes, &e, err);

	if (r)
		return r;
	*ret_len_bytes = e.len_bytes;
	if (!e.depth && e.kind == IMAGE_EXTENT_DATA)
		*ret_kind = COPY_DATA;
	else if (raw || (!e.depth && e.kind == IMAGE_EXTENT_ZERO && e.has_host_offset))
		*ret_kind = COPY_ZERO;
	else
		*ret_kind = COPY_SKIP;
	return 0;
}

static int space_of(const char *path, uint64_t *ret_bytes, struct err *err)
{
	struct raw_facts facts;
	int r = raw_facts(path, &facts, err);

	if (!r)
		*ret_bytes = facts.allocated_bytes;
	return r;
}

static int discard_all(struct discard *d, struct err *err)
{
	const struct disk_args *args = d->job.args;
	struct copy_opts o = {
	    .src = d->img,
	    .dst = d->img,
	    .len_bytes = d->size_bytes,
	    .unit_bytes = RAW_UNIT_BYTES,
	    .skip_data = true,
	    .plan = plan,
	    .ctx = d->img,
	};
	struct copy_stats stats;

	if (!image_info(d->img)->discard_granularity_bytes)
		return err_set(err, EOPNOTSUPP,
			       "%s: its file system cannot give space back (no holes in files)",
			       args->operands[0]);
	if (args->format.format == IMAGE_QCOW2)
		o.unit_bytes = qcow2_cluster_bytes(d->img);
	return disk_job_copy(&d->job, "discard-unused", &o, &stats, err);
}

static int discard_image(struct discard *d, struct err *err)
{
	const struct disk_args *args = d->job.args;
	const struct image_opts o = {
	    .path = args->operands[0],
	    .format = args->format.format,
	    .backing = args->allow_backing,
	};
	int r = disk_job_open(&d->job, &o, &d->img, err);

	if (r)
		return r;
	d->size_bytes = image_info(d->img)->size_bytes;
	r = space_of(o.path, &d->before_bytes, err);
	if (!r)
		r = discard_all(d, err);
	disk_job_close(d->img);
	return r ? r : space_of(o.path, &d->after_bytes, err);
}

static void print_result(const struct discard *d)
{
	const struct disk_args *args = d->job.args;
	/* someone else's file system may have grown it meanwhile */
	uint64_t freed_bytes = d->before_bytes - MIN(d->after_bytes, d->before_bytes);
	struct json j = JSON_INIT(stdout);
	char freed[SIZE_HUMAN_MAX], left[SIZE_HUMAN_MAX];

	if (!args->json) {
		printf("%s given back, %s in use\n", size_human(freed_bytes, freed),
		       size_human(d->after_bytes, left));
		return;
	}
	json_object(&j, NULL);
	json_string(&j, "path", args->operands[0]);
	json_string(&j, "format", image_format_name(args->format.format));
	json_u64(&j, "size_bytes", d->size_bytes);
	json_u64(&j, "freed_bytes", freed_bytes);
	json_u64(&j, "allocated_bytes", d->after_bytes);
	json_end(&j);
}

int disk_discard(struct disk_args *args)
{
	struct err err = ERR_INIT;
	struct discard d = {0};
	int r = disk_job_begin(&d.job, args, &err);

	if (!r)
		r = discard_image(&d, &err);
	disk_job_end(&d.job);
	if (!r)
		print_result(&d);
	return disk_result(args, &d.job, r, &err);
}
