/* What the children of WriteFile and ReadFile do. For process_spec.run. */
#ifndef GUEST_AGENT_COPY_H
#define GUEST_AGENT_COPY_H

#include "base/err.h"
#include "proto/agent.pb-c.h"

#include <stdint.h>
#include <sys/types.h>

/* What ReadFile's child writes before the data, in one piece. */
struct copy_attributes {
	uint64_t size_bytes;
	int64_t mtime_ns;
	uint32_t mode, uid, gid;
	uint32_t zero;
};

/* Lodge__Agent__V1__WriteFileOpen: standard input becomes the file. Ends without it when the child
 * is killed. */
int copy_in(const void *open, struct err *err);

/* Lodge__Agent__V1__ReadFileRequest: the file goes to standard output. */
int copy_out(const void *request, struct err *err);

/* The missing directories of an absolute path shorter than PATH_MAX, `dir` itself included. */
int copy_make_directories(const char *dir, struct err *err);

/* Owner, mode (`mode` where none is given) and time. `a` may be NULL. */
int copy_set_attributes(int fd, const Lodge__Agent__V1__FileAttributes *a, mode_t mode,
			struct err *err);

#endif
