/* A new image. See control/disk/new_image.h. */
#include "control/disk/new_image.h"

#include "base/checked.h"
#include "disk/image_tools.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

static int make_raw(struct new_image *n, struct disk_job *job, const struct disk_options *options,
		    uint64_t size_bytes, struct err *err)
{
	const struct tool_progress progress = {.at = disk_job_at, .ctx = job};

	return raw_set_size(n->file.fd, 0, size_bytes,
			    disk_options_raw_prealloc(options->qcow2.prealloc), &progress, err);
}

static int make_qcow2(struct new_image *n, struct disk_job *job, const struct disk_options *options,
		      uint64_t size_bytes, struct err *err)
{
	const struct tool_progress progress = {.at = disk_job_at, .ctx = job};
	struct qcow2_create_opts o = options->qcow2;

	o.path = n->file.work_path;
	o.into_empty = true;
	o.size_bytes = size_bytes;
	o.has_size = size_bytes != 0;
	o.progress = &progress;
	return qcow2_create(&o, err);
}

int new_image_begin(struct new_image *n, struct disk_job *job, const char *path,
		    enum image_format format, const struct disk_options *options,
		    uint64_t size_bytes, struct err *err)
{
	/* what a backing file's name means depends on the folder */
	unsigned flags = (options->qcow2.backing_path ? CREATE_FILE_NAMED : 0) |
			 (job->args->force ? CREATE_FILE_REPLACE : 0);
	int r;

	n->format = format;
	r = create_file_begin(&n->file, path, flags, err);
	if (r)
		return r;
	progress_begin(&job->progress, "allocate", size_bytes, job->args->progress,
		       job->args->quiet || options->qcow2.prealloc <= QCOW2_PREALLOC_METADATA);
	if (format == IMAGE_RAW)
		r = make_raw(n, job, options, size_bytes, err);
	else
		r = make_qcow2(n, job, options, size_bytes, err);
	progress_end(&job->progress, job->done_bytes);
	if (!r && !disk_job_go_on(job))
		r = err_set(err, ECANCELED, "interrupted");
	if (!r)
		return 0;
	create_file_name_err(&n->file, err);
	if (!strstr(err->msg, path))
		err_prefix(err, "%s", path);
	return new_image_end(n, r, err);
}

int new_image_end(struct new_image *n, int r, struct err *err)
{
	if (!r)
		return create_file_commit(&n->file, err);
	create_file_name_err(&n->file, err);
	create_file_abort(&n->file);
	return r;
}
