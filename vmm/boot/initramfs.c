/*
 * The initramfs: see initramfs.h. What ours holds:
 *
 *	dev/ dev/console proc/ sys/ newroot/   what init mounts on; the console that the kernel
 *opens for it init                                   guest/init
 *	lodge-agent                            guest/agent
 *	lodge.conf                             what init is to do
 *	modules/000-name.ko ...                in load order
 *	modules/order                          their paths, one a line, in that order
 *
 * All files are open since building, so that loading works when the process has locked itself in.
 */
#include "vmm/boot/initramfs.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "vmm/boot/cpio.h"
#include "vmm/boot/modules.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* guest/init_blob.S */
extern const uint8_t guest_init_start[], guest_init_end[];
extern const uint8_t guest_agent_start[], guest_agent_end[];

/* The format's sizes have 32 bits; more than a guest's memory below 4 GiB never fits anyway. */
#define INITRD_BYTES_MAX (3 * GIB)

#define CONSOLE_MAJOR 5
#define CONSOLE_MINOR 1

#define MODULE_PATH_MAX 160

struct initramfs {
	char *path; /* the user's own file, open as fd; NULL: ours, of all that follows */
	int fd;
	char *conf;
	bool agent;
	struct module_list modules;
	char *order;
	uint64_t bytes;
};

static struct initramfs *initramfs_new(void)
{
	struct initramfs *ird = calloc(1, sizeof(*ird));

	if (ird)
		ird->fd = -1;
	return ird;
}

static int open_initrd(struct initramfs *ird, struct err *err)
{
	struct stat st;

	ird->fd = open(ird->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (ird->fd < 0 && errno == ENOENT)
		return err_set(err, ENOENT, "no such file; --initrd takes a cpio archive");
	if (ird->fd < 0 && errno == EACCES)
		return err_set(err, EACCES, "no permission to read it; see its mode and its owner");
	if (ird->fd < 0 || fstat(ird->fd, &st) < 0)
		return err_sys(err, errno, "cannot be opened");
	if (S_ISDIR(st.st_mode))
		return err_set(err, EISDIR,
			       "is a directory; --initrd takes a cpio archive (find . | cpio -o -H "
			       "newc)");
	if (!S_ISREG(st.st_mode))
		return err_set(err, EINVAL, "is not a regular file; copy it into one");
	if (!st.st_size)
		return err_set(err, EINVAL, "is empty; copy or build it again");
	if ((uint64_t)st.st_size > INITRD_BYTES_MAX)
		return err_set(err, EFBIG, "has %llu bytes, more than %llu, which never fit",
			       (unsigned long long)st.st_size,
			       (unsigned long long)INITRD_BYTES_MAX);
	ird->bytes = (uint64_t)st.st_size;
	return 0;
}

int initramfs_from_file(const char *path, struct initramfs **ret_initramfs, struct err *err)
{
	struct initramfs *ird = initramfs_new();
	int r;

	if (!ird)
		return err_set(err, ENOMEM, "no memory for an initramfs");
	ird->path = strdup(path);
	r = ird->path ? open_initrd(ird, err) : err_set(err, ENOMEM, "no memory");
	if (r < 0) {
		err_prefix(err, "initrd %s", path);
		initramfs_free(ird);
		return r;
	}
	*ret_initramfs = ird;
	return 0;
}

static void module_path(char path[static MODULE_PATH_MAX], unsigned n, const struct module *m)
{
	snprintf(path, MODULE_PATH_MAX, "modules/%03u-%.100s.ko", n, m->name);
}

static int make_order(struct initramfs *ird)
{
	char path[MODULE_PATH_MAX];
	size_t len = 0;
	FILE *f = open_memstream(&ird->order, &len);

	if (!f)
		return -ENOMEM;
	for (unsigned i = 0; i < ird->modules.n; i++) {
		module_path(path, i, &ird->modules.modules[i]);
		fprintf(f, "/%s\n", path);
	}
	return fclose(f) == 0 ? 0 : -ENOMEM;
}

static int emit_modules(const struct initramfs *ird, struct cpio *c)
{
	char path[MODULE_PATH_MAX];
	int r = cpio_entry(c, "modules", S_IFDIR | 0755, 0);

	for (unsigned i = 0; i < ird->modules.n && r == 0; i++) {
		const struct module *m = &ird->modules.modules[i];

		module_path(path, i, m);
		r = cpio_entry(c, path, S_IFREG | 0644, m->bytes);
		if (r == 0)
			r = m->data ? cpio_data(c, m->data, m->bytes)
				    : cpio_data_fd(c, m->fd, m->bytes);
		if (r == 0)
			r = cpio_pad(c);
	}
	if (r == 0)
		r = cpio_file(c, "modules/order", S_IFREG | 0644, ird->order, strlen(ird->order));
	return r;
}

/* The whole archive, once to be measured and once to be written. */
static int emit(const struct initramfs *ird, struct cpio *c)
{
	static const char *const dirs[] = {"dev", "proc", "sys", "newroot"};
	int r = 0;

	for (size_t i = 0; i < ARRAY_LEN(dirs) && r == 0; i++)
		r = cpio_entry(c, dirs[i], S_IFDIR | 0755, 0);
	if (r == 0)
		r = cpio_device(c, "dev/console", S_IFCHR | 0600, CONSOLE_MAJOR, CONSOLE_MINOR);
	if (r == 0)
		r = cpio_file(c, "init", S_IFREG | 0755, guest_init_start,
			      (uintptr_t)guest_init_end - (uintptr_t)guest_init_start);
	if (r == 0 && ird->agent)
		r = cpio_file(c, "lodge-agent", S_IFREG | 0755, guest_agent_start,
			      (uintptr_t)guest_agent_end - (uintptr_t)guest_agent_start);
	if (r == 0)
		r = cpio_file(c, "lodge.conf", S_IFREG | 0644, ird->conf, strlen(ird->conf));
	if (r == 0 && ird->modules.n)
		r = emit_modules(ird, c);
	return r == 0 ? cpio_end(c) : r;
}

int initramfs_build(const struct initramfs_spec *spec, struct initramfs **ret_initramfs,
		    struct err *err)
{
	struct initramfs *ird = initramfs_new();
	struct cpio measure = {0};
	int r = 0;

	if (!ird)
		return err_set(err, ENOMEM, "no memory for an initramfs");
	ird->agent = spec->agent;
	ird->conf = strdup(spec->conf ? spec->conf : "");
	if (!ird->conf)
		r = err_set(err, ENOMEM, "no memory for an initramfs");
	if (r == 0 && spec->modules_dir)
		r = modules_open(spec->modules_dir, spec->modules, spec->nmodules, &ird->modules,
				 err);
	if (r == 0 && make_order(ird) < 0)
		r = err_set(err, ENOMEM, "no memory for an initramfs");
	if (r == 0) {
		r = emit(ird, &measure);
		ird->bytes = measure.bytes;
		if (r < 0)
			err_sys(err, -r, "initramfs");
	}
	if (r < 0) {
		initramfs_free(ird);
		return r;
	}
	*ret_initramfs = ird;
	return 0;
}

void initramfs_free(struct initramfs *ird)
{
	if (!ird)
		return;
	if (ird->fd >= 0)
		close(ird->fd);
	modules_close(&ird->modules);
	free(ird->order);
	free(ird->conf);
	free(ird->path);
	free(ird);
}

uint64_t initramfs_size_bytes(const struct initramfs *ird)
{
	return ird->bytes;
}

int initramfs_load(struct initramfs *ird, const struct gmem *mem, gpa_t gpa, struct err *err)
{
	struct placer placer;
	struct cpio c = {.out = &placer};
	int r;

	if (!gmem_ro(mem, gpa, ird->bytes))
		return err_set(err, ENOMEM,
			       "initramfs of %llu KiB does not fit at 0x%llx; give the guest more "
			       "memory (--memory)",
			       (unsigned long long)(ird->bytes / KIB), (unsigned long long)gpa);
	r = placer_init(&placer, mem, gpa);
	if (r == 0)
		r = ird->path ? placer_copy(&placer, ird->fd, ird->bytes) : emit(ird, &c);
	if (r == 0)
		r = placer_flush(&placer);
	placer_fini(&placer);
	if (r == -ESTALE)
		return err_set(
		    err, ESTALE, "%s %s became shorter while it was read; try again",
		    ird->path ? "initrd" : "initramfs:", ird->path ? ird->path : "a module");
	if (r < 0)
		return err_sys(err, -r, "initramfs cannot be copied into guest memory");
	return 0;
}
