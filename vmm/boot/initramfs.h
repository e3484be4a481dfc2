/*
 * The initramfs: a user's file as it is, or ours, made in memory.
 *
 * Ours is an uncompressed newc cpio archive (Linux Documentation/driver-api/early-userspace/
 * buffer-format.rst): /init (guest/init, embedded in this executable), /lodge-agent (guest/agent,
 * likewise, where it is wanted), /lodge.conf (what init is to do) and the kernel modules it needs,
 * found through modules.dep, in load order. Files are read straight into guest memory: nothing is
 * copied twice.
 */
#ifndef VMM_BOOT_INITRAMFS_H
#define VMM_BOOT_INITRAMFS_H

#include "base/err.h"
#include "base/gmem.h"

#include <stdbool.h>
#include <stdint.h>

struct initramfs;

/* The user's own. */
int initramfs_from_file(const char *path, struct initramfs **ret_initramfs, struct err *err);

struct initramfs_spec {
	const char *modules_dir; /* with modules.dep; NULL: no modules */
	const char *const
	    *modules; /* names wanted ("virtio_blk"); absent ones are built in or skipped */
	unsigned nmodules;
	const char *conf; /* text of /lodge.conf */
	bool agent;	  /* init starts it: the guest needs a vsock device and its module */
};

int initramfs_build(const struct initramfs_spec *spec, struct initramfs **ret_initramfs,
		    struct err *err);
void initramfs_free(struct initramfs *initramfs);

uint64_t initramfs_size_bytes(const struct initramfs *initramfs);

/* Writes the archive to guest memory at `gpa`, which must be zero there still. -ENOMEM: does not
 * fit; -ESTALE: a file became shorter since it was opened. */
int initramfs_load(struct initramfs *initramfs, const struct gmem *mem, gpa_t gpa, struct err *err);

/*
 * Looks for the module directory of a kernel: <dir of kernel>/modules/<release>,
 * <dir>/lib/modules/<release>, <dir>/../lib/modules/<release>, /lib/modules/<release>. NULL where
 * there is none; the caller frees.
 */
char *modules_dir_find(const char *kernel_path, const char *release);

#endif
