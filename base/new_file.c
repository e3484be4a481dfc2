/* Files that are made whole. See base/new_file.h. */
#include "base/new_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define TRIES 100

/* A name that no other has, by process and time. */
static void make_name(char name[NEW_FILE_NAME_MAX], int i)
{
	snprintf(name, NEW_FILE_NAME_MAX, ".lodge-new.%d.%d", getpid(), i);
}

int new_file_begin(struct new_file *f, int dir_fd, const char *name, struct err *err)
{
	*f = (struct new_file){.dir_fd = dir_fd, .name = name};
	f->fd = openat(dir_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (f->fd >= 0)
		return 0;
	if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL && errno != ENOENT)
		return err_sys(err, errno, "making a file for %s", name);
	for (int i = 0; i < TRIES; i++) {
		make_name(f->temporary, i);
		f->fd = openat(dir_fd, f->temporary, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
		if (f->fd >= 0)
			return 0;
		if (errno != EEXIST)
			break;
	}
	f->temporary[0] = '\0';
	return err_sys(err, errno, "making a file for %s", name);
}

/* What has no name gets one in the folder. */
static int link_as(const struct new_file *f, const char *name)
{
	char self[64];

	snprintf(self, sizeof(self), "/proc/self/fd/%d", f->fd);
	return linkat(AT_FDCWD, self, f->dir_fd, name, AT_SYMLINK_FOLLOW) ? -errno : 0;
}

static int give_name(struct new_file *f)
{
	int res = -EEXIST;

	for (int i = 0; i < TRIES && res == -EEXIST; i++) {
		make_name(f->temporary, i);
		res = link_as(f, f->temporary);
	}
	if (res)
		f->temporary[0] = '\0';
	return res;
}

/* Its own name, which nothing may have. */
static int name_new(struct new_file *f)
{
	if (!f->temporary[0])
		return link_as(f, f->name);
	/* a link does not replace either, and is as atomic as a rename */
	return linkat(f->dir_fd, f->temporary, f->dir_fd, f->name, 0) ? -errno : 0;
}

static int name_over(struct new_file *f)
{
	int res = f->temporary[0] ? 0 : give_name(f);

	if (res)
		return res;
	if (renameat(f->dir_fd, f->temporary, f->dir_fd, f->name))
		return -errno;
	f->temporary[0] = '\0';
	return 0;
}

int new_file_end(struct new_file *f, int res, bool replace, struct err *err)
{
	if (!res)
		res = replace ? name_over(f) : name_new(f);
	if (res && !err->code)
		err_sys(err, -res, "making %s", f->name);
	if (f->temporary[0])
		unlinkat(f->dir_fd, f->temporary, 0);
	close(f->fd);
	return res;
}

int new_file_link(int dir_fd, const char *name, const char *target, struct err *err)
{
	char temporary[NEW_FILE_NAME_MAX];
	int res = 0;

	for (int i = 0; i < TRIES; i++) {
		make_name(temporary, i);
		res = symlinkat(target, dir_fd, temporary) ? -errno : 0;
		if (res != -EEXIST)
			break;
	}
	if (!res && renameat(dir_fd, temporary, dir_fd, name)) {
		res = -errno;
		unlinkat(dir_fd, temporary, 0);
	}
	return res ? err_sys(err, -res, "making %s", name) : 0;
}
