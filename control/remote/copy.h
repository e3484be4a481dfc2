/*
 * What `lodge cp` (cp.c) is made of: one direction in each of copy_in.c and copy_out.c.
 *
 * A guest may answer with anything: what it sends goes below the place that the user named and
 * nowhere else, without set-user-id bits, through no link.
 */
#ifndef CONTROL_REMOTE_COPY_H
#define CONTROL_REMOTE_COPY_H

#include "control/disk/progress.h"
#include "control/remote/remote.h"

#include <limits.h>

#define COPY_DEPTH_MAX 200 /* each folder on the way has a descriptor */
#define COPY_MODE_BITS 0777

/* Threads: one. */
struct copy {
	struct remote *r;
	const char *vm;
	bool quiet;
	struct progress progress;
	unsigned failed; /* what could not be copied: told, the others were */
};

/* From a path of the host ("-": standard input) to one of the guest. 0 or an exit status; what
 * failed has been printed. */
int copy_in(struct copy *c, const char *from, const char *to);
int copy_out(struct copy *c, const char *from, const char *to);

/* ---- for both ---- */

/* One more that could not be copied. */
void copy_say(struct copy *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* "DIR/NAME"; false: too long, which is said. */
bool copy_join(struct copy *c, char ret[static PATH_MAX], const char *dir, const char *name);

/* The last name of a path, slashes at its end left out; "" of "/", "." and "..", whose own contents
 * are meant. */
const char *copy_base(const char *path, char ret[static NAME_MAX + 1]);

/* What is at a path of the guest; to be freed. NULL: the call failed, `error` says why. */
Lodge__Agent__V1__ListFilesResponse *copy_list(struct copy *c, const char *path, bool entries,
					       uint64_t skip, struct lodge_error *error);

#endif
