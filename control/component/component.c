/* The components that there are. See control/component/component.h. */
#include "control/component/component.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/filesystem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define STAT_BLOCK_BYTES 512

#define CURE "install one: `lodge component install --kernel FILE --root FILE`"

static int by_version(const void *a, const void *b)
{
	const struct component *x = a, *y = b;

	return version_compare(y->version, x->version);
}

/* A file, or a block device, and how long it is; 0: none that a VM can be started from. */
static uint64_t file_bytes(int dir_fd, const char *version, const char *name,
			   uint64_t *ret_allocated)
{
	char path[COMPONENT_VERSION_MAX + 64];
	uint64_t bytes = 0;
	autofd int fd = -1;
	struct stat st;

	snprintf(path, sizeof(path), "%s/%s", version, name);
	if (fstatat(dir_fd, path, &st, 0))
		return 0;
	if (S_ISREG(st.st_mode)) {
		*ret_allocated = (uint64_t)st.st_blocks * STAT_BLOCK_BYTES;
		return (uint64_t)st.st_size;
	}
	if (!S_ISBLK(st.st_mode))
		return 0;
	fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, BLKGETSIZE64, &bytes))
		return 0;
	*ret_allocated = bytes;
	return bytes;
}

static void examine(int dir_fd, struct component *c)
{
	uint64_t kernel_allocated = 0;

	c->kernel_bytes = file_bytes(dir_fd, c->version, COMPONENT_KERNEL, &kernel_allocated);
	c->rootfs_bytes =
	    file_bytes(dir_fd, c->version, COMPONENT_ROOTFS, &c->rootfs_allocated_bytes);
	c->lacks = !c->kernel_bytes ? COMPONENT_KERNEL : !c->rootfs_bytes ? COMPONENT_ROOTFS : NULL;
}

/* Folders alone, also behind a link. */
static bool is_version(int dir_fd, const char *name)
{
	struct stat st;

	return version_valid(name) && !fstatat(dir_fd, name, &st, 0) && S_ISDIR(st.st_mode);
}

static int read_names(DIR *dir, struct components *components, struct err *err)
{
	const struct dirent *e;

	for (;;) {
		struct component *list;

		errno = 0;
		e = readdir(dir);
		if (!e)
			return errno ? err_sys(err, errno, "reading it") : 0;
		if (!is_version(dirfd(dir), e->d_name))
			continue;
		list = reallocarray(components->list, components->n + 1, sizeof(*list));
		if (!list)
			return err_set(err, ENOMEM, "out of memory");
		components->list = list;
		memset(&list[components->n], 0, sizeof(*list));
		memcpy(list[components->n].version, e->d_name, strlen(e->d_name) + 1);
		examine(dirfd(dir), &list[components->n++]);
	}
}

int components_read(const char *root, struct components *ret_components, struct err *err)
{
	struct components components = {0};
	autofree char *path = NULL;
	DIR *dir;
	int res;

	if (asprintf(&path, "%s/" COMPONENT_NAME, root) < 0)
		return err_set(err, ENOMEM, "out of memory");
	dir = opendir(path);
	if (!dir && errno != ENOENT)
		return err_sys(err, errno, "components in %s", path);
	if (dir) {
		res = read_names(dir, &components, err);
		closedir(dir);
		if (res) {
			err_prefix(err, "components in %s", path);
			components_free(&components);
			return res;
		}
		if (components.n)
			qsort(components.list, components.n, sizeof(*components.list), by_version);
	}
	*ret_components = components;
	return 0;
}

void components_free(struct components *components)
{
	free(steal_ptr(&components->list));
	components->n = 0;
}

/* ---- the one that is used -----------------------------------------------------------------------
 */

int component_check_rootfs(const char *path, const char **ret_fstype, struct err *err)
{
	autofd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	bool mountable = false;
	const char *what;

	if (fd < 0)
		return err_sys(err, errno, "root image %s", path);
	what = filesystem_find(fd, &mountable);
	if (!what)
		return err_set(err, EINVAL,
			       "root image %s has no file system that is known; make it with, for "
			       "example, mke2fs -d FOLDER",
			       path);
	if (mountable) {
		*ret_fstype = what;
		return 0;
	}
	return err_set(err, EINVAL, "root image %s holds %s, and no file system; %s", path, what,
		       strstr(what, "qcow2") ? "say --format qcow2"
					     : "a component's root is one without partitions");
}

static int join(char **ret, const char *root, const char *version, const char *name,
		struct err *err)
{
	char *path = NULL;

	if (asprintf(&path, "%s/" COMPONENT_NAME "/%s/%s", root, version, name) < 0 || !path)
		return err_set(err, ENOMEM, "out of memory");
	*ret = path;
	return 0;
}

static int name_paths(const char *root, const char *version, struct component_paths *paths,
		      struct err *err)
{
	int res = join(&paths->kernel, root, version, COMPONENT_KERNEL, err);

	if (!res)
		res = join(&paths->rootfs, root, version, COMPONENT_ROOTFS, err);
	if (res || !paths->rootfs)
		return res;
	res = component_check_rootfs(paths->rootfs, &paths->fstype, err);
	if (res)
		err_prefix(err, "component %s", version);
	return res;
}

int component_find(const char *root, struct component_paths *ret_paths, struct err *err)
{
	struct component_paths paths = {0};
	struct components components = {0};
	const struct component *c;
	int res = components_read(root, &components, err);

	if (res)
		return res;
	c = components.list;
	if (!c)
		res = err_set(err, ENOENT,
			      "no component is installed in %s/" COMPONENT_NAME "; " CURE, root);
	else if (c->lacks)
		res = err_set(err, ENOENT,
			      "component %s/" COMPONENT_NAME
			      "/%s is incomplete: it has no %s; remove it, or " CURE,
			      root, c->version, c->lacks);
	else
		res = name_paths(root, c->version, &paths, err);
	components_free(&components);
	if (res)
		component_paths_free(&paths);
	else
		*ret_paths = paths;
	return res;
}

void component_paths_free(struct component_paths *paths)
{
	free(steal_ptr(&paths->kernel));
	free(steal_ptr(&paths->rootfs));
}
