/* A file that appears when it is complete. See disk/create_file.h. */
#include "disk/create_file.h"

#include "base/cleanup.h"
#include "disk/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MODE 0666 /* less the umask */
#define RANDOM	  ".XXXXXX"

static void create_file_free(struct create_file *f)
{
	if (!f->path)
		return;
	cleanup_fd(&f->fd);
	cleanup_fd(&f->folder_fd);
	cleanup_fd(&f->replaced_fd);
	free(f->path);
	free(f->work_path);
	*f = (struct create_file){.fd = -1, .folder_fd = -1, .replaced_fd = -1};
}

void create_file_name_err(const struct create_file *f, struct err *err)
{
	char *at = err->code && f->path ? strstr(err->msg, f->work_path) : NULL;
	char msg[ERR_MSG_MAX];

	if (!at)
		return;
	snprintf(msg, sizeof(msg), "%.*s%s%s", (int)(at - err->msg), err->msg, f->path,
		 at + strlen(f->work_path));
	memcpy(err->msg, msg, sizeof(msg));
}

void create_file_abort(struct create_file *f)
{
	if (!f->path)
		return;
	if (f->work_name)
		(void)unlinkat(f->folder_fd, f->work_name, 0);
	create_file_free(f);
}

/* The folder of f->path, whose name begins at f->name. */
static int open_folder(struct create_file *f)
{
	char *folder;
	int fd;

	if (f->name == f->path)
		return open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	folder = strndup(f->path, (size_t)(f->name - f->path)); /* with its slash */
	if (!folder) {
		errno = ENOMEM;
		return -1;
	}
	fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	free(folder);
	return fd;
}

/* Where the file is to be: a link to an existing file is followed, so that the link stays. */
static int resolve(struct create_file *f, const char *path, struct err *err)
{
	char *slash;

	f->path = realpath(path, NULL);
	if (!f->path)
		f->path = strdup(path);
	if (!f->path)
		return err_set(err, ENOMEM, "no memory");
	slash = strrchr(f->path, '/');
	f->name = slash ? slash + 1 : f->path;
	if (!*f->name)
		return err_set(err, EISDIR, "%s names a folder; add the name of the file", path);
	f->folder_fd = open_folder(f);
	if (f->folder_fd < 0)
		return err_sys(err, errno, "%s: its folder cannot be opened", path);
	return 0;
}

/* Is there a file already, and may it go? */
static int examine_old(struct create_file *f, const char *path, struct err *err)
{
	struct stat st;

	if (fstatat(f->folder_fd, f->name, &st, AT_SYMLINK_NOFOLLOW)) {
		if (errno == ENOENT)
			return 0;
		return err_sys(err, errno, "%s cannot be examined", path);
	}
	if (S_ISDIR(st.st_mode))
		return err_set(err, EEXIST, "%s is a folder; name a file", path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, EEXIST, "%s is no regular file; name another file", path);
	if (!(f->flags & CREATE_FILE_REPLACE))
		return err_set(err, EEXIST,
			       "%s exists; name another file, or replace it with --force", path);
	f->replaced_fd = openat(f->folder_fd, f->name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (f->replaced_fd < 0)
		return err_sys(err, errno, "%s cannot be replaced", path);
	if (image_lock(f->replaced_fd, false, err)) {
		err_prefix(err, "%s", path);
		return -err->code;
	}
	return 0;
}

/* A file without a name. -EOPNOTSUPP, ...: not possible here. */
static int make_nameless(struct create_file *f)
{
	if (f->flags & CREATE_FILE_NAMED)
		return -EOPNOTSUPP;
	f->fd = openat(f->folder_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, FILE_MODE);
	if (f->fd < 0)
		return -errno;
	if (asprintf(&f->work_path, "/proc/self/fd/%d", f->fd) < 0)
		f->work_path = NULL;
	if (!f->work_path || access(f->work_path, R_OK | W_OK)) { /* there is no /proc */
		free(f->work_path);
		f->work_path = NULL;
		cleanup_fd(&f->fd);
		f->fd = -1;
		return -EOPNOTSUPP;
	}
	return 0;
}

/* mkostemp() takes no folder, and makes the file for its owner alone. */
static int make_named(struct create_file *f)
{
	const int folder_len = (int)(f->name - f->path);
	const int name_max = NAME_MAX - 1 - (int)strlen(RANDOM);
	mode_t mask = umask(0);

	umask(mask);
	if (asprintf(&f->work_path, "%.*s.%.*s" RANDOM, folder_len, f->path, name_max, f->name) <
	    0) {
		f->work_path = NULL;
		return -ENOMEM;
	}
	f->fd = mkostemp(f->work_path, O_CLOEXEC);
	if (f->fd < 0)
		return -errno;
	f->work_name = f->work_path + folder_len;
	return fchmod(f->fd, FILE_MODE & ~mask) ? -errno : 0;
}

/* Who could read the old file can read the new one, and nobody else. */
static int copy_mode(struct create_file *f)
{
	struct stat st;

	if (f->replaced_fd < 0)
		return 0;
	if (fstat(f->replaced_fd, &st))
		return -errno;
	/* another owner only root can give; without it the mode alone must do */
	if (fchown(f->fd, st.st_uid, st.st_gid) && errno != EPERM)
		return -errno;
	return fchmod(f->fd, st.st_mode & 0777) ? -errno : 0;
}

int create_file_begin(struct create_file *f, const char *path, unsigned flags, struct err *err)
{
	int r;

	*f = (struct create_file){.fd = -1, .folder_fd = -1, .replaced_fd = -1, .flags = flags};
	r = resolve(f, path, err);
	if (!r)
		r = examine_old(f, path, err);
	if (r)
		goto fail;
	if (make_nameless(f)) {
		r = make_named(f);
		if (r) {
			err_sys(err, -r, "%s cannot be created", path);
			goto fail;
		}
	}
	r = copy_mode(f);
	if (r) {
		err_sys(err, -r, "%s cannot be given its mode", path);
		goto fail;
	}
	return 0;

fail:
	create_file_abort(f);
	return r;
}

/* Gives a nameless file a random name beside the final one, for a rename() over that. */
static int link_beside(struct create_file *f)
{
	for (unsigned i = 0; i < 100; i++) {
		autofree char *path = NULL;
		int fd, r;

		/* only the name is wanted: linkat() finds out whether it is free */
		if (asprintf(&path, ".lodge-%d-%u", getpid(), i) < 0) {
			path = NULL;
			return -ENOMEM;
		}
		fd = f->folder_fd;
		r = linkat(AT_FDCWD, f->work_path, fd, path, AT_SYMLINK_FOLLOW) ? -errno : 0;
		if (r == -EEXIST)
			continue;
		if (r)
			return r;
		free(f->work_path);
		f->work_path = steal_ptr(&path);
		f->work_name = f->work_path;
		return 0;
	}
	return -EEXIST;
}

/* The final name, at once. -EEXIST: someone else has made such a file meanwhile. */
static int give_name(struct create_file *f)
{
	int r = 0;

	if (f->replaced_fd < 0) {
		if (!f->work_name)
			return linkat(AT_FDCWD, f->work_path, f->folder_fd, f->name,
				      AT_SYMLINK_FOLLOW)
				   ? -errno
				   : 0;
		if (!renameat2(f->folder_fd, f->work_name, f->folder_fd, f->name, RENAME_NOREPLACE))
			goto renamed;
		if (errno != EINVAL && errno != ENOSYS)
			return -errno;
		/* this file system cannot: a link does not replace either, and is as atomic */
		if (linkat(f->folder_fd, f->work_name, f->folder_fd, f->name, 0))
			return -errno;
		(void)unlinkat(f->folder_fd, f->work_name, 0);
		goto renamed;
	}
	if (!f->work_name)
		r = link_beside(f);
	if (!r && renameat(f->folder_fd, f->work_name, f->folder_fd, f->name))
		r = -errno;
	if (r)
		return r;
renamed:
	f->work_name = NULL;
	return 0;
}

int create_file_commit(struct create_file *f, struct err *err)
{
	int r;

	if (fsync(f->fd)) {
		r = err_sys(err, errno, "%s cannot be written", f->path);
		goto fail;
	}
	r = give_name(f);
	if (r == -EEXIST) {
		err_set(err, EEXIST, "%s was made by someone else meanwhile; name another file",
			f->path);
		goto fail;
	}
	if (r) {
		err_sys(err, -r, "%s cannot be given its name", f->path);
		goto fail;
	}
	if (fsync(f->folder_fd) && errno != EINVAL) /* EINVAL: folders cannot be synced there */
		r = err_sys(err, errno, "%s is complete, but its folder cannot be synced", f->path);
	create_file_free(f);
	return r;

fail:
	create_file_abort(f);
	return r;
}
