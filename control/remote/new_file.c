/* Files that are made whole. See control/remote/new_file.h. */
#include "control/remote/new_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define TRIES 100

/* A name that no other has, by process and time. */
static void make_name(char name[NEW_FILE_NAME_MAX], int i)
{
	snprintf(name, NEW_FILE_NAME_MAX, ".lodge-cp.%d.%d", getpid(), i);
}

int new_file_begin(struct new_file *f, int dir_fd, const char *name, struct err *err)
{
	*f = (struct new_file){.dir_fd = dir_fd, .name = name};
	f->fd = openat(dir_fd, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
	if (f->fd >= 0)
		return 0;
	if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL && errno != ENOENT)
		return err_sys(err, errno, "making a file for %s", name);
	for (int i = 0; i < TRIES; i++) {
		make_name(f->temporary, i);
		f->fd = openat(dir_fd, f->temporary, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
		if (f->fd >= 0)
			return 0;
		if (errno != EEXIST)
			break;
	}
	f->temporary[0] = '\0';
	return err_sys(err, errno, "making a file for %s", name);
}

/* What has no name gets one in the folder. */
static int give_name(struct new_file *f)
{
	char self[64];

	snprintf(self, sizeof(self), "/proc/self/fd/%d", f->fd);
	for (int i = 0; i < TRIES; i++) {
		make_name(f->temporary, i);
		if (!linkat(AT_FDCWD, self, f->dir_fd, f->temporary, AT_SYMLINK_FOLLOW))
			return 0;
		if (errno != EEXIST)
			break;
	}
	f->temporary[0] = '\0';
	return -errno;
}

int new_file_end(struct new_file *f, int res, struct err *err)
{
	if (!res && !f->temporary[0])
		res = give_name(f);
	if (!res && renameat(f->dir_fd, f->temporary, f->dir_fd, f->name))
		res = -errno;
	else if (!res)
		f->temporary[0] = '\0';
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
