/*
 * What tools do with raw images besides reading and writing: their size and their space.
 *
 * All functions are synchronous. Those that take a path open the file themselves and lock it where
 * they change it. Messages name the path.
 *
 * Threads: any; one call at a time for one file.
 */
#ifndef DISK_RAW_TOOLS_H
#define DISK_RAW_TOOLS_H

#include "base/err.h"
#include "disk/tool_progress.h"

#include <stdbool.h>
#include <stdint.h>

struct raw_facts {
	uint64_t size_bytes;
	uint64_t allocated_bytes; /* space that the host has given to it; of a device its size */
	bool is_device;
};

/* Looks without a lock: nothing is read that a writer changes. */
int raw_facts(const char *path, struct raw_facts *ret_facts, struct err *err);

enum raw_prealloc {
	RAW_PREALLOC_OFF,    /* a hole */
	RAW_PREALLOC_FALLOC, /* allocated by the host */
	RAW_PREALLOC_FULL,   /* and written with zeroes */
};

/*
 * Sets the length of the open file, `from_bytes` long until now, and allocates what is new. After a
 * failure it has its old length again. -EOPNOTSUPP: the file system cannot allocate. Messages have
 * no path. `progress` may be NULL.
 */
int raw_set_size(int fd, uint64_t from_bytes, uint64_t to_bytes, enum raw_prealloc prealloc,
		 const struct tool_progress *progress, struct err *err);

/*
 * Allocates a part of the open file, which is as long already: FALLOC keeps what is there, FULL
 * writes zeroes over it. Errors as above.
 */
int raw_allocate(int fd, uint64_t from_bytes, uint64_t to_bytes, enum raw_prealloc prealloc,
		 const struct tool_progress *progress, struct err *err);

/* -EINVAL: smaller and not `shrink`, or no regular file; -EAGAIN: in use. */
int raw_resize(const char *path, uint64_t size_bytes, bool shrink, enum raw_prealloc prealloc,
	       const struct tool_progress *progress, struct err *err);

#endif
