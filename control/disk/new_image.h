/*
 * A new image that appears under its name when it is complete: disk/create_file.h with an image in
 * it, for `create` and `convert`.
 */
#ifndef CONTROL_DISK_NEW_IMAGE_H
#define CONTROL_DISK_NEW_IMAGE_H

#include "control/disk/job.h"
#include "control/disk/options.h"
#include "disk/create_file.h"

struct new_image {
	struct create_file file;
	enum image_format format;
};

/*
 * Makes the empty image of `size_bytes` (0: as large as its backing file). Messages name `path`. On
 * failure nothing is left.
 */
int new_image_begin(struct new_image *n, struct disk_job *job, const char *path,
		    enum image_format format, const struct disk_options *options,
		    uint64_t size_bytes, struct err *err);

/* Ends it well, or badly when `r` is not 0: returns r, or the error of ending. It is closed. */
int new_image_end(struct new_image *n, int r, struct err *err);

#endif
