/* What tools ask of an image. See disk/image_tools.h. */
#include "disk/image_tools.h"

#include "base/checked.h"
#include "disk/image_priv.h"

#include <errno.h>

int image_map(struct image *img, uint64_t offset_bytes, uint64_t len_bytes,
	      struct image_extent *ret_extent, struct err *err)
{
	uint64_t size = img->info.size_bytes;
	int r;

	if (!len_bytes || offset_bytes >= size)
		return err_set(err, EINVAL, "disk image %s: nothing to map at %llu", img->path,
			       (unsigned long long)offset_bytes);
	len_bytes = MIN(len_bytes, size - offset_bytes);
	r = img->driver->map(img, offset_bytes, len_bytes, ret_extent, err);
	if (r)
		err_prefix(err, "disk image %s", img->path);
	return r;
}

struct image *image_backing(struct image *img)
{
	return img->driver->backing ? img->driver->backing(img) : NULL;
}
