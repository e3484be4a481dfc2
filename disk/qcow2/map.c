/* Where a qcow2 image and its chain hold data, for tools. */
#include "disk/qcow2/qcow2_priv.h"

#include <errno.h>

/* What this image alone says. */
static int map_one(struct qcow2 *q, uint64_t offset, uint64_t len, struct image_extent *ret,
		   bool *ret_below, struct err *err)
{
	struct q2_extent ext;
	int r = Q2_SYNC(q, q2_map(q, offset, len, &ext));

	if (r)
		return err_sys(err, -r, "its table for offset %llu cannot be used",
			       (unsigned long long)offset);
	ret->len_bytes = ext.len;
	ret->compressed = ext.kind == Q2_COMPRESSED_DATA;
	ret->has_host_offset =
	    ext.host && ext.kind != Q2_UNALLOCATED && !ret->compressed && !q2_is_external(q);
	ret->host_offset_bytes = ret->has_host_offset ? ext.host : 0;
	*ret_below = ext.kind == Q2_UNALLOCATED;
	if (*ret_below)
		ret->kind = IMAGE_EXTENT_HOLE;
	else
		ret->kind = ext.kind == Q2_ZERO ? IMAGE_EXTENT_ZERO : IMAGE_EXTENT_DATA;
	return 0;
}

int q2_image_map(struct image *img, uint64_t offset_bytes, uint64_t len_bytes,
		 struct image_extent *ret_extent, struct err *err)
{
	struct image_extent ext = {.offset_bytes = offset_bytes};
	struct qcow2 *q = qcow2_of(img);
	uint64_t len = len_bytes;
	unsigned depth = 0;
	bool below = false;
	int r;

	for (;; depth++) {
		r = map_one(q, offset_bytes, len, &ext, &below, err);
		if (r)
			return r;
		ext.depth = depth;
		if (!below || offset_bytes >= q->backing_bytes)
			break;
		len = MIN(ext.len_bytes, q->backing_bytes - offset_bytes);
		if (q->backing->driver != &image_qcow2_driver) {
			r = q->backing->driver->map(q->backing, offset_bytes, len, &ext, err);
			ext.depth = depth + 1;
			break;
		}
		q = qcow2_of(q->backing);
	}
	if (!r)
		*ret_extent = ext;
	return r;
}
