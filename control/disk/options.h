/* The -o options of new images. */
#ifndef CONTROL_DISK_OPTIONS_H
#define CONTROL_DISK_OPTIONS_H

#include "control/disk/args.h"
#include "disk/qcow2/qcow2.h"
#include "disk/raw_tools.h"

struct disk_options {
	struct qcow2_create_opts qcow2; /* path and size are not set here */
	struct disk_format backing_format;
};

/*
 * Takes -o, --backing and --backing-format of a new image of `format`. -EINVAL: unknown, or not for
 * this format. Strings point into argv.
 */
int disk_options_parse(const struct disk_args *args, enum image_format format,
		       struct disk_options *ret_options, struct err *err);

/* Where all that counts is preallocation. */
int disk_options_parse_prealloc(const struct disk_args *args, enum image_format format,
				enum qcow2_prealloc *ret_prealloc, struct err *err);

/* What a raw image can have of it. */
enum raw_prealloc disk_options_raw_prealloc(enum qcow2_prealloc prealloc);

/* The list for the help. */
extern const char disk_options_text[];

#endif
