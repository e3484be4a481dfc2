/* What the synchronous tools of disk/qcow2/ share. */
#ifndef DISK_QCOW2_TOOLS_H
#define DISK_QCOW2_TOOLS_H

#include "disk/qcow2/commit.h"
#include "disk/qcow2/qcow2_priv.h"

/* Opens one image by its path for a tool, without what is below. Messages name the path. */
int q2_tool_open(const char *path, bool read_only, bool check, struct qcow2 **ret_q,
		 struct err *err);

/* Writes everything and closes. Keeps an earlier error. */
int q2_tool_close(struct qcow2 *q, int res, struct err *err);

/* All that is dirty, until nothing is. */
int q2_tool_commit(struct qcow2 *q);

/* An L2 table for `guest` that may be written. */
int q2_tool_table(struct qcow2 *q, uint64_t guest);

/* Maps every cluster of [from, to) that is not, and takes the space as `prealloc` says. */
int q2_preallocate(struct qcow2 *q, uint64_t from, uint64_t to, enum qcow2_prealloc prealloc,
		   const struct tool_progress *progress, struct err *err);

/* A longer L1 table, where the present one is too short. */
int q2_grow_l1(struct qcow2 *q, uint64_t entries);

/* How long the backing file is; the chain below it is not opened. */
int q2_backing_size(const struct qcow2 *q, uint64_t *ret_bytes, struct err *err);

/* resize.c: of image_driver. */
int q2_image_grow_begin(struct image *img, uint64_t size_bytes, uint64_t *ret_from,
			uint64_t *ret_to, struct err *err);
int q2_image_grow_end(struct image *img, uint64_t old_bytes, int failed, struct err *err);

#endif
