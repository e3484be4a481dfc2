/*
 * Making an image longer while it is in use.
 *
 * Threads: the loop's that the image is attached to.
 */
#ifndef DISK_IMAGE_GROW_H
#define DISK_IMAGE_GROW_H

#include "disk/image.h"

/* The caller's, from image_grow() to `done`. */
struct image_grow {
	uint64_t size_bytes; /* the new size: larger, in whole logical blocks */
	/*
	 * Once; also from within image_grow(). err.code: 0, or why the image is as it was: EROFS;
	 * EINVAL: smaller, not in whole blocks, a block device; EFBIG, ENOTSUP: its format cannot;
	 * ENOSPC, EIO, ...
	 */
	void (*done)(struct image_grow *g);
	struct err err;
	uint64_t old_bytes; /* the size until now */

	/* private */
	struct image *img;
	struct image_req req;
};

/*
 * What is new reads as zeroes, and is durable when `done` is called. The image is attached, and no
 * other request is in flight until then. Files are changed by calls that wait: some milliseconds.
 */
void image_grow(struct image *img, struct image_grow *g);

#endif
