/*
 * Components: the kernel and the root of a VM that a StartVm with start_termina runs, by versions.
 *
 *   ROOT/cros-termina/VERSION/vm_kernel      bzImage or ELF
 *                             vm_rootfs.img  a file system, raw, without partitions; not written to
 *                             modules/       of the kernel, by its release; may be missing
 *
 * A version is numbers with dots between ("13429.0", "7"), compared number by number; what has
 * another name is no version. The highest is used, also where it is incomplete: that a component is
 * broken is to be seen, and not to be an old one's start.
 *
 * Threads: any. Looks at files: not for the thread of a loop.
 */
#ifndef CONTROL_COMPONENT_COMPONENT_H
#define CONTROL_COMPONENT_COMPONENT_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define COMPONENT_ROOT	      "/run/imageloader"
#define COMPONENT_NAME	      "cros-termina"
#define COMPONENT_KERNEL      "vm_kernel"
#define COMPONENT_ROOTFS      "vm_rootfs.img"
#define COMPONENT_MODULES     "modules"
#define COMPONENT_VERSION_MAX 64 /* bytes; longer names are no versions */

/* ---- versions (version.c): pure ---- */

bool version_valid(const char *text);
/* As strcmp(), of valid ones. "1.0" is below "1.0.0", and "1.01" is above "1.1": no two names are
 * equal. */
int version_compare(const char *a, const char *b);
/* The last number plus one ("1.9" -> "1.10"). -ERANGE: it would be too long. */
int version_next(const char *version, char ret_next[COMPONENT_VERSION_MAX + 1]);

/* ---- what there is (component.c) ---- */

struct component {
	char version[COMPONENT_VERSION_MAX + 1];
	/* bytes; 0: the file is missing, or has no contents that can be read */
	uint64_t kernel_bytes, rootfs_bytes, rootfs_allocated_bytes;
	const char *lacks; /* the name of the first file that is missing; NULL: complete */
};

struct components {
	struct component *list; /* by version, the highest first */
	size_t n;
};

/* All versions below the root; none where that is not there. -errno with a message. */
int components_read(const char *root, struct components *ret_components, struct err *err);
void components_free(struct components *components);

struct component_paths {
	char *kernel, *rootfs;
	const char *fstype; /* of rootfs, as mount(2) has it */
};

/*
 * The highest version, whole. -ENOENT: none, or it is incomplete; -EINVAL: its root is no file
 * system; the message names the path and the cure.
 */
int component_find(const char *root, struct component_paths *ret_paths, struct err *err);
void component_paths_free(struct component_paths *paths);

/* Is there a file system, without partitions, in the file at `path`? *ret_fstype: which. -EINVAL:
 * what there is instead, and the cure. */
int component_check_rootfs(const char *path, const char **ret_fstype, struct err *err);

#endif
