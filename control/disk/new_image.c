/* A new image. See control/disk/new_image.h. */
#include "control/disk/new_image.h"

#include <errno.h>

static int make_raw(struct new_image *n, struct disk_job *job, const char *path,
		    const struct disk_options *options, uint64_t size_bytes, struct err *err)
{
	const struct raw_progress progress = {.at = disk_job_at, .ctx = job};
	int r;

	progress_begin(&job->progress, "allocate", size_bytes, job->args->progress,
		       job->args->quiet);
	r = raw_set_size(n->file.fd, 0, size_bytes,
			 disk_options_raw_prealloc(options->qcow2.prealloc), &progress, err);
	progress_end(&job->progress, job->done_bytes);
	err_prefix(err, "%s", path);
	return r;
}

static int make_qcow2(struct new_image *n, const struct disk_options *options, uint64_t size_bytes,
		      struct err *err)
{
	struct qcow2_create_opts o = options->qcow2;

	o.path = n->file.work_path;
	o.size_bytes = size_bytes;
	o.has_size = size_bytes != 0;
	return qcow2_create(&o, err);
}

int new_image_begin(struct new_image *n, struct disk_job *job, const char *path,
		    enum image_format format, const struct disk_options *options,
		    uint64_t size_bytes, struct err *err)
{
	unsigned flags = (format == IMAGE_QCOW2 ? CREATE_FILE_ABSENT : 0) |
			 (job->args->force ? CREATE_FILE_REPLACE : 0);
	int r;

	n->format = format;
	r = create_file_begin(&n->file, path, flags, err);
	if (r)
		return r;
	if (format == IMAGE_RAW)
		r = make_raw(n, job, path, options, size_bytes, err);
	else
		r = make_qcow2(n, options, size_bytes, err);
	if (!r && !disk_job_go_on(job))
		r = err_set(err, ECANCELED, "interrupted");
	return r ? new_image_end(n, r, err) : 0;
}

int new_image_end(struct new_image *n, int r, struct err *err)
{
	if (!r)
		return create_file_commit(&n->file, err);
	create_file_name_err(&n->file, err);
	create_file_abort(&n->file);
	return r;
}
