/* A new image. See control/disk/new_image.h. */
#include "control/disk/new_image.h"

#include "base/checked.h"
#include "disk/image_tools.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define FILL_BYTES (64 * MIB) /* between two looks at the signals */

static int make_raw(struct new_image *n, struct disk_job *job, const struct disk_options *options,
		    uint64_t size_bytes, struct err *err)
{
	const struct raw_progress progress = {.at = disk_job_at, .ctx = job};

	return raw_set_size(n->file.fd, 0, size_bytes,
			    disk_options_raw_prealloc(options->qcow2.prealloc), &progress, err);
}

/* Writes zeroes to the clusters that are mapped. */
static int fill_clusters(struct new_image *n, struct disk_job *job, struct image *img,
			 struct err *err)
{
	const uint64_t size = image_info(img)->size_bytes;
	struct image_extent e;
	int r = 0;

	for (uint64_t at = 0; at < size && !r; at += e.len_bytes) {
		r = image_map(img, at, MIN(size - at, FILL_BYTES), &e, err);
		if (!r && e.has_host_offset)
			r = raw_allocate(n->file.fd, e.host_offset_bytes,
					 e.host_offset_bytes + e.len_bytes, RAW_PREALLOC_FULL, NULL,
					 err);
		if (!r && !disk_job_at(job, at, size))
			r = err_set(err, ECANCELED, "interrupted");
	}
	return r;
}

/*
 * The space of an image whose clusters are all mapped. The driver could allocate it, too, but
 * neither tell how far it is nor stop.
 */
static int allocate_qcow2(struct new_image *n, struct disk_job *job, enum qcow2_prealloc prealloc,
			  struct err *err)
{
	const struct raw_progress progress = {.at = disk_job_at, .ctx = job};
	const struct image_opts o = {
	    .path = n->file.work_path, .format = IMAGE_QCOW2, .read_only = true, .backing = true};
	struct image *img;
	struct stat st;
	int r;

	if (fstat(n->file.fd, &st))
		return err_sys(err, errno, "examining it");
	if (prealloc == QCOW2_PREALLOC_FALLOC)
		return raw_allocate(n->file.fd, 0, (uint64_t)st.st_size, RAW_PREALLOC_FALLOC,
				    &progress, err);
	r = image_open(&o, &img, err);
	if (r)
		return r;
	r = fill_clusters(n, job, img, err);
	image_close(img);
	return r;
}

static int make_qcow2(struct new_image *n, struct disk_job *job, const struct disk_options *options,
		      uint64_t size_bytes, struct err *err)
{
	struct qcow2_create_opts o = options->qcow2;
	bool space = o.prealloc > QCOW2_PREALLOC_METADATA && !o.backing_path;
	int r;

	o.path = n->file.work_path;
	o.into_empty = true;
	o.size_bytes = size_bytes;
	o.has_size = size_bytes != 0;
	if (space)
		o.prealloc = QCOW2_PREALLOC_METADATA;
	r = qcow2_create(&o, err);
	return r || !space ? r : allocate_qcow2(n, job, options->qcow2.prealloc, err);
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
