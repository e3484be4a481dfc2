/* See control/component/install.h. */
#include "control/component/install.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "control/component/copy_tree.h"
#include "disk/image_tools.h"
#include "vmm/arch.h"
#include "vmm/boot/kernel.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define TEMPORARY	 ".lodge-new."
#define UNIT_BYTES	 4096u /* zeroes shorter than this are data */
#define NFTW_DESCRIPTORS 16

struct work {
	const struct component_install *install;
	struct disk_job *job;
	char *folder;	 /* of versions */
	int folder_fd;	 /* with the lock */
	char *temporary; /* path of the new one; NULL: not made */
	char *release;	 /* of the kernel; NULL: it does not say */
	char version[COMPONENT_VERSION_MAX + 1];
	bool replaces;
};

/* ---- removing -----------------------------------------------------------------------------------
 */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	(void)remove(path);
	return 0;
}

/* As rm -rf: links are not followed. */
static void remove_tree(const char *path)
{
	(void)nftw(path, remove_one, NFTW_DESCRIPTORS, FTW_DEPTH | FTW_PHYS);
}

/* What killed ones have left: with the lock nobody else is at work. */
static void remove_left(const struct work *w)
{
	const struct dirent *e;
	DIR *dir = w->folder ? opendir(w->folder) : NULL;

	if (!dir)
		return;
	while ((e = readdir(dir))) {
		autofree char *path = NULL;

		if (strncmp(e->d_name, TEMPORARY, sizeof(TEMPORARY) - 1) != 0)
			continue;
		if (asprintf(&path, "%s/%s", w->folder, e->d_name) < 0)
			path = NULL;
		else
			remove_tree(path);
	}
	closedir(dir);
}

/* ---- where to -----------------------------------------------------------------------------------
 */

static int make_folder(const char *path, struct err *err)
{
	if (!mkdir(path, 0755) || errno == EEXIST)
		return 0;
	return err_sys(err, errno, "making the folder %s", path);
}

static int open_folder(struct work *w, struct err *err)
{
	const char *root = w->install->root;
	int res = make_folder(root, err);

	if (res)
		return res;
	if (asprintf(&w->folder, "%s/" COMPONENT_NAME, root) < 0)
		w->folder = NULL;
	if (!w->folder)
		return err_set(err, ENOMEM, "out of memory");
	res = make_folder(w->folder, err);
	if (res)
		return res;
	w->folder_fd = open(w->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (w->folder_fd < 0)
		return err_sys(err, errno, "%s", w->folder);
	if (!flock(w->folder_fd, LOCK_EX | LOCK_NB))
		return 0;
	if (errno != EWOULDBLOCK)
		return err_sys(err, errno, "locking %s", w->folder);
	return err_set(err, EBUSY,
		       "another `lodge component install` is at work in %s; wait for it",
		       w->folder);
}

static int choose_next(struct work *w, struct err *err)
{
	struct components components;
	int res = components_read(w->install->root, &components, err);

	if (res)
		return res;
	if (!components.n)
		snprintf(w->version, sizeof(w->version), "1");
	else if (version_next(components.list[0].version, w->version))
		res = err_set(err, ERANGE, "no version follows %s; say --version",
			      components.list[0].version);
	components_free(&components);
	return res;
}

static int choose_version(struct work *w, struct err *err)
{
	const char *wanted = w->install->version;
	struct stat st;

	if (!wanted)
		return choose_next(w, err);
	snprintf(w->version, sizeof(w->version), "%s", wanted); /* checked */
	w->replaces = !fstatat(w->folder_fd, wanted, &st, AT_SYMLINK_NOFOLLOW);
	if (!w->replaces || w->install->force)
		return 0;
	return err_set(err, EEXIST,
		       "%s/%s is there already; name another version, or replace it with --force",
		       w->folder, wanted);
}

/* ---- what is copied -----------------------------------------------------------------------------
 */

static int check_sources(struct work *w, struct err *err)
{
	const struct component_install *i = w->install;
	struct kernel *kernel;
	const char *fstype, *release;
	int res;

	if (i->version && !version_valid(i->version))
		return err_set(err, EINVAL,
			       "'%s' is no version: numbers with dots between, at most %d bytes",
			       i->version, COMPONENT_VERSION_MAX);
	res = kernel_open(i->kernel, arch_kernel_machine(), &kernel, err);
	if (res)
		return res;
	release = kernel_release(kernel);
	w->release = release ? strdup(release) : NULL;
	kernel_close(kernel);
	if (i->modules && !w->release)
		return err_set(err, EINVAL,
			       "kernel %s does not say its release, so no modules can be found for "
			       "it; leave --modules out, or take its bzImage",
			       i->kernel);
	/* of another format when it is unpacked */
	return i->format == IMAGE_RAW ? component_check_rootfs(i->rootfs, &fstype, err) : 0;
}

struct root_copy {
	struct image *src, *dst;
};

static int plan(void *ctx, uint64_t offset_bytes, uint64_t len_bytes, enum copy_kind *ret_kind,
		uint64_t *ret_len_bytes, struct err *err)
{
	const struct root_copy *c = ctx;
	struct image_extent e;
	int res = image_map(c->src, offset_bytes, len_bytes, &e, err);

	if (res)
		return res;
	*ret_kind = e.kind == IMAGE_EXTENT_DATA ? COPY_DATA : COPY_SKIP;
	*ret_len_bytes = e.len_bytes;
	return 0;
}

/* The empty file at `path` becomes the root. */
static int copy_image(const struct work *w, const char *path, struct err *err)
{
	const struct image_opts src = {
	    .path = w->install->rootfs, .format = w->install->format, .read_only = true};
	const struct image_opts dst = {.path = path, .format = IMAGE_RAW};
	struct root_copy c = {0};
	struct copy_stats stats;
	int res = disk_job_open(w->job, &src, &c.src, err);

	if (!res && truncate(path, (off_t)image_info(c.src)->size_bytes))
		res = err_sys(err, errno, "making %s", path);
	if (!res)
		res = disk_job_open(w->job, &dst, &c.dst, err);
	if (!res) {
		const struct copy_opts o = {
		    .src = c.src,
		    .dst = c.dst,
		    .len_bytes = image_info(c.src)->size_bytes,
		    .unit_bytes = UNIT_BYTES,
		    .skip_zeroes = true,
		    .plan = plan,
		    .ctx = &c,
		};

		res = disk_job_copy(w->job, "install", &o, &stats, err);
	}
	disk_job_close(c.dst);
	disk_job_close(c.src);
	return res;
}

static int make_file(const char *path, int *ret_fd, struct err *err)
{
	*ret_fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (*ret_fd < 0)
		return err_sys(err, errno, "making %s", path);
	return 0;
}

static int copy_rootfs(const struct work *w, struct err *err)
{
	autofree char *path = NULL;
	autofd int fd = -1;
	const char *fstype;
	int res;

	if (asprintf(&path, "%s/" COMPONENT_ROOTFS, w->temporary) < 0) {
		path = NULL;
		return err_set(err, ENOMEM, "out of memory");
	}
	res = make_file(path, &fd, err);
	if (!res)
		res = copy_image(w, path, err);
	if (!res && w->install->format != IMAGE_RAW)
		res = component_check_rootfs(path, &fstype, err);
	if (!res && fsync(fd))
		res = err_sys(err, errno, "syncing %s", path);
	return res;
}

static int copy_all(struct work *w, struct err *err)
{
	const struct component_install *i = w->install;
	autofd int fd = -1;
	int res = 0;

	if (mkdir(w->temporary, 0755))
		return err_sys(err, errno, "making %s", w->temporary);
	fd = open(w->temporary, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, errno, "%s", w->temporary);
	res = copy_file(i->kernel, fd, COMPONENT_KERNEL, w->job, err);
	if (!res && i->modules)
		res = copy_modules(i->modules, fd, w->release, w->job, err);
	if (!res)
		res = copy_rootfs(w, err);
	if (!res && fsync(fd))
		res = err_sys(err, errno, "syncing %s", w->temporary);
	return res;
}

/* ---- the name -----------------------------------------------------------------------------------
 */

static int give_name(struct work *w, struct err *err)
{
	const char *temporary = strrchr(w->temporary, '/') + 1;
	const unsigned flags = w->replaces ? RENAME_EXCHANGE : 0;

	if (!disk_job_go_on(w->job))
		return err_set(err, ECANCELED, "interrupted");
	if (renameat2(w->folder_fd, temporary, w->folder_fd, w->version, flags))
		return err_sys(err, errno, "giving %s/%s its name", w->folder, w->version);
	if (!w->replaces)
		free(steal_ptr(&w->temporary)); /* otherwise the old one has that name */
	if (fsync(w->folder_fd))
		return err_sys(err, errno, "syncing %s", w->folder);
	return 0;
}

static int install_locked(struct work *w, struct err *err)
{
	int res;

	remove_left(w);
	res = choose_version(w, err);
	if (res)
		return res;
	if (asprintf(&w->temporary, "%s/" TEMPORARY "%d", w->folder, getpid()) < 0)
		w->temporary = NULL;
	if (!w->temporary)
		return err_set(err, ENOMEM, "out of memory");
	res = copy_all(w, err);
	if (!res)
		res = give_name(w, err);
	if (w->temporary)
		remove_tree(w->temporary);
	return res;
}

int component_install(const struct component_install *install, struct disk_job *job,
		      char ret_version[COMPONENT_VERSION_MAX + 1], struct err *err)
{
	struct work w = {.install = install, .job = job, .folder_fd = -1};
	int res = check_sources(&w, err);

	if (!res)
		res = open_folder(&w, err);
	if (!res)
		res = install_locked(&w, err);
	if (!res)
		memcpy(ret_version, w.version, sizeof(w.version));
	cleanup_fd(&w.folder_fd);
	free(w.folder);
	free(w.temporary);
	free(w.release);
	return res;
}
