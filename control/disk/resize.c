/* `lodge disk resize`: a larger disk or, with --shrink, a smaller one. */
#include "control/disk/commands.h"
#include "control/disk/job.h"
#include "control/disk/options.h"

#include <errno.h>

static int current_size(const struct disk_args *args, uint64_t *ret_bytes, struct err *err)
{
	struct qcow2_info info;
	struct raw_facts facts;
	int r;

	if (args->format.format == IMAGE_RAW) {
		r = raw_facts(args->operands[0], &facts, err);
		if (!r)
			*ret_bytes = facts.size_bytes;
		return r;
	}
	r = qcow2_info(args->operands[0], &info, err);
	if (!r)
		*ret_bytes = info.size_bytes;
	return r;
}

static int resize(struct disk_args *args, struct disk_job *job, uint64_t size_bytes,
		  enum qcow2_prealloc prealloc, struct err *err)
{
	const struct tool_progress progress = {.at = disk_job_at, .ctx = job};
	const char *path = args->operands[0];
	int r;

	progress_begin(&job->progress, "resize", size_bytes, args->progress, args->quiet);
	if (args->format.format == IMAGE_QCOW2)
		r = qcow2_resize(path, size_bytes, args->shrink, prealloc, &progress, err);
	else
		r = raw_resize(path, size_bytes, args->shrink, disk_options_raw_prealloc(prealloc),
			       &progress, err);
	progress_end(&job->progress, job->done_bytes);
	return r;
}

int disk_resize(struct disk_args *args)
{
	enum qcow2_prealloc prealloc = QCOW2_PREALLOC_OFF;
	uint64_t size_bytes = 0, current_bytes = 0;
	struct err err = ERR_INIT;
	struct disk_job job;
	int r = disk_options_parse_prealloc(args, args->format.format, &prealloc, &err);

	/* once without the file, so that nonsense is refused before it is opened */
	if (!r)
		r = disk_args_size(args->operands[1], true, 0, &size_bytes, &err);
	if (r)
		return disk_usage_error(args, &err);
	r = current_size(args, &current_bytes, &err);
	if (!r)
		r = disk_args_size(args->operands[1], true, current_bytes, &size_bytes, &err);
	if (r)
		return disk_result(args, NULL, r, &err);
	r = disk_job_begin(&job, args, &err);
	if (!r)
		r = resize(args, &job, size_bytes, prealloc, &err);
	disk_job_end(&job);
	if (!r)
		disk_print_result(args, args->operands[0], args->format.format, size_bytes, NULL);
	return disk_result(args, &job, r, &err);
}
