/* `lodge disk create`: a new image, empty or on top of a backing file. */
#include "control/disk/commands.h"
#include "control/disk/job.h"
#include "control/disk/new_image.h"

#include <errno.h>

/* The size that a new image got from its backing file. */
static int find_size(const char *path, enum image_format format, uint64_t *size_bytes,
		     struct err *err)
{
	struct qcow2_info info;
	int r;

	if (*size_bytes || format != IMAGE_QCOW2)
		return 0;
	r = qcow2_info(path, &info, err);
	if (!r)
		*size_bytes = info.size_bytes;
	return r;
}

static int create(struct disk_args *args, struct disk_job *job, const struct disk_options *options,
		  uint64_t size_bytes, struct err *err)
{
	const char *path = args->operands[0];
	struct new_image image;
	int r = new_image_begin(&image, job, path, args->format.format, options, size_bytes, err);

	if (!r)
		r = new_image_end(&image, 0, err);
	if (!r)
		r = find_size(path, args->format.format, &size_bytes, err);
	if (!r)
		disk_print_result(args, path, args->format.format, size_bytes, NULL);
	return r;
}

int disk_create(struct disk_args *args)
{
	struct disk_options options;
	struct err err = ERR_INIT;
	uint64_t size_bytes = 0;
	struct disk_job job;
	int r = disk_options_parse(args, args->format.format, &options, &err);

	if (!r && args->noperands == 2)
		r = disk_args_size(args->operands[1], false, 0, &size_bytes, &err);
	else if (!r && !options.qcow2.backing_path)
		r = err_set(&err, EINVAL,
			    "the size is missing; say lodge disk create ... %s 10G, for example",
			    args->operands[0]);
	if (r)
		return disk_usage_error(args, &err);
	r = disk_job_begin(&job, args, &err);
	if (!r)
		r = create(args, &job, &options, size_bytes, &err);
	disk_job_end(&job);
	return disk_result(args, &job, r, &err);
}
