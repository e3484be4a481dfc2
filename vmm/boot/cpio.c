/* Writing of newc cpio archives: see cpio.h. */
#include "vmm/boot/cpio.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define HEADER_BYTES 110 /* 6 + 13 * 8 */

_Static_assert(HEADER_BYTES == 6 + 13 * 8, "newc header");

static int header(struct cpio *c, const char *name, uint32_t mode, uint32_t size, uint32_t major,
		  uint32_t minor)
{
	char text[HEADER_BYTES + 1];
	size_t name_bytes = strlen(name) + 1;
	int r;

	snprintf(text, sizeof(text), "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		 ++c->ino, mode, 0, 0, 1, 0, size, 0, 0, major, minor, (uint32_t)name_bytes, 0);
	r = cpio_data(c, text, HEADER_BYTES);
	if (r == 0)
		r = cpio_data(c, name, name_bytes);
	return r == 0 ? cpio_pad(c) : r;
}

int cpio_entry(struct cpio *c, const char *name, uint32_t mode, uint64_t size_bytes)
{
	if (size_bytes > UINT32_MAX)
		return -EFBIG;
	return header(c, name, mode, (uint32_t)size_bytes, 0, 0);
}

int cpio_device(struct cpio *c, const char *name, uint32_t mode, unsigned major, unsigned minor)
{
	return header(c, name, mode, 0, major, minor);
}

int cpio_data(struct cpio *c, const void *data, size_t len_bytes)
{
	c->bytes += len_bytes;
	return c->out ? placer_write(c->out, data, len_bytes) : 0;
}

int cpio_data_fd(struct cpio *c, int fd, uint64_t len_bytes)
{
	c->bytes += len_bytes;
	return c->out ? placer_copy(c->out, fd, len_bytes) : 0;
}

int cpio_pad(struct cpio *c)
{
	static const char zeros[4];

	return cpio_data(c, zeros, -c->bytes & 3);
}

int cpio_file(struct cpio *c, const char *name, uint32_t mode, const void *data, size_t len_bytes)
{
	int r = cpio_entry(c, name, mode, len_bytes);

	if (r == 0)
		r = cpio_data(c, data, len_bytes);
	return r == 0 ? cpio_pad(c) : r;
}

int cpio_end(struct cpio *c)
{
	return cpio_file(c, "TRAILER!!!", 0, "", 0);
}
