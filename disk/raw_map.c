/* Where a raw image holds data: what the host's file system says about holes. */
#include "disk/raw_priv.h"

#include <errno.h>
#include <unistd.h>

int raw_map(struct image *img, uint64_t offset_bytes, uint64_t len_bytes,
	    struct image_extent *ret_extent, struct err *err)
{
	struct raw *raw = raw_of(img);
	struct image_extent ext = {
	    .offset_bytes = offset_bytes,
	    .len_bytes = len_bytes,
	    .has_host_offset = true,
	    .host_offset_bytes = offset_bytes,
	};
	off_t from = (off_t)offset_bytes;
	off_t data = lseek(raw->file.fd, from, SEEK_DATA);
	off_t hole;

	if (data > from) { /* a hole up to the data */
		ext.kind = IMAGE_EXTENT_HOLE;
		ext.len_bytes = MIN(len_bytes, (uint64_t)(data - from));
	} else if (data == from) {
		hole = lseek(raw->file.fd, from, SEEK_HOLE);
		if (hole > from)
			ext.len_bytes = MIN(len_bytes, (uint64_t)(hole - from));
	} else if (errno == ENXIO) { /* no data behind here */
		ext.kind = IMAGE_EXTENT_HOLE;
	} else if (errno != EINVAL && errno != EOPNOTSUPP) {
		return err_sys(err, errno, "its holes cannot be found");
	} /* else a device, or a file system that does not tell: all data */
	*ret_extent = ext;
	return 0;
}
