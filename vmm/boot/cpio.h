/*
 * A cpio archive in the "newc" format, as Linux reads it (Documentation/driver-api/early-userspace/
 * buffer-format.rst), written through a placer or, without one, only measured: the same calls in
 * the same order give the size first and the archive later.
 *
 *	entry: header, name with its NUL, zeros up to a multiple of 4, data, zeros up to a multiple
 *of 4 header: "070701" and 13 numbers of 8 hexadecimal digits: ino mode uid gid nlink mtime
 *filesize devmajor devminor rdevmajor rdevminor namesize check
 */
#ifndef VMM_BOOT_CPIO_H
#define VMM_BOOT_CPIO_H

#include "vmm/boot/place.h"

#include <stddef.h>
#include <stdint.h>

struct cpio {
	struct placer *out; /* NULL: only measure */
	uint64_t bytes;	    /* so far */
	uint32_t ino;
};

/* A header with its name; size_bytes of data must follow, in any number of calls, and then
 * cpio_pad(). -EFBIG: the format has no room for such a size. The others return what the placer
 * gave. */
int cpio_entry(struct cpio *c, const char *name, uint32_t mode, uint64_t size_bytes);
int cpio_device(struct cpio *c, const char *name, uint32_t mode, unsigned major, unsigned minor);
int cpio_data(struct cpio *c, const void *data, size_t len_bytes);
int cpio_data_fd(struct cpio *c, int fd, uint64_t len_bytes);
int cpio_pad(struct cpio *c);

/* An entry with all its data. */
int cpio_file(struct cpio *c, const char *name, uint32_t mode, const void *data, size_t len_bytes);

/* The entry that ends the archive. */
int cpio_end(struct cpio *c);

#endif
