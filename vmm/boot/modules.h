/*
 * A kernel's modules, found through modules.dep (depmod(8)): which files a set of names needs, in
 * the order in which they can be loaded. The directory is taken as data of the user's: sizes are
 * bounded, and nothing outside of it is opened.
 */
#ifndef VMM_BOOT_MODULES_H
#define VMM_BOOT_MODULES_H

#include "base/err.h"

#include <stdint.h>

/* A kernel has some thousands of modules, and modules.dep well under a mebibyte. */
#define MODULES_DEP_BYTES_MAX (UINT64_C(16) << 20)

/* One boot needs a dozen or two. */
#define MODULES_MAX 256

/* The largest ones (graphics drivers) have ten to twenty. */
#define MODULE_BYTES_MAX (UINT64_C(64) << 20)

struct module {
	char *name;    /* with underscores: "virtio_blk" */
	int fd;	       /* the plain file, or -1 */
	uint8_t *data; /* unpacked, where the file was packed (.ko.xz, .ko.zst, .ko.gz) */
	uint64_t bytes;
};

struct module_list {
	struct module *modules;
	unsigned n;
};

/*
 * Opens the modules of these names and all that they depend on, dependencies first, each once.
 * '-' and '_' are the same. A name that modules.dep does not have is built into the kernel, or not
 * there at all: it is left out. -ENOENT: no such directory, or no modules.dep in it; -ENOEXEC:
 * damaged.
 */
int modules_open(const char *dir, const char *const *names, unsigned nnames,
		 struct module_list *ret_list, struct err *err);
void modules_close(struct module_list *list);

#endif
