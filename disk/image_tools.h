/*
 * What tools ask of an image beyond reading and writing: where its contents lie.
 *
 * Threads: one at a time; synchronous. No request may be in flight.
 */
#ifndef DISK_IMAGE_TOOLS_H
#define DISK_IMAGE_TOOLS_H

#include "disk/image.h"

enum image_extent_kind {
	IMAGE_EXTENT_DATA, /* stored bytes */
	IMAGE_EXTENT_ZERO, /* reads as zeroes because the image says so */
	IMAGE_EXTENT_HOLE, /* reads as zeroes because nothing is stored in any image of the chain */
};

struct image_extent {
	uint64_t offset_bytes; /* in the guest's view */
	uint64_t len_bytes;
	enum image_extent_kind kind;
	unsigned
	    depth; /* which image of the chain decides: 0 the image itself, 1 its backing ... */
	bool compressed;
	bool has_host_offset; /* the bytes, or the space kept for them, lie in that image's file at
			       */
	uint64_t host_offset_bytes;
};

/*
 * The extent that begins at `offset_bytes`, which is within the image: as long as it is of one kind
 * and contiguous, at most `len_bytes` (not 0). Extents that touch may be of one kind: the caller
 * merges them. 0; -EINVAL: out of range; -EIO: the image is malformed there or cannot be read.
 */
int image_map(struct image *img, uint64_t offset_bytes, uint64_t len_bytes,
	      struct image_extent *ret_extent, struct err *err);

/*
 * The image that stands below this one, NULL when there is none (or it is raw). It belongs to the
 * image above: read it by requests of its own only while it is attached with that one.
 */
struct image *image_backing(struct image *img);

#endif
