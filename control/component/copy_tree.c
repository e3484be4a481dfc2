/* See control/component/copy_tree.h. */
#include "control/component/copy_tree.h"

#include "base/checked.h"
#include "base/cleanup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define COPY_BYTES (256 * KIB)
#define DEPTH_MAX  32 /* folders in folders; modules have eight or so */

static int copy_data(int from, int to, struct disk_job *job, struct err *err)
{
	autofree char *buf = malloc(COPY_BYTES);

	if (!buf)
		return err_set(err, ENOMEM, "out of memory");
	for (;;) {
		ssize_t n = read(from, buf, COPY_BYTES);

		if (n < 0)
			return err_sys(err, errno, "reading it");
		if (!n)
			return fsync(to) ? err_sys(err, errno, "syncing the copy") : 0;
		for (ssize_t done = 0; done < n;) {
			ssize_t written = write(to, buf + done, (size_t)(n - done));

			if (written < 0)
				return err_sys(err, errno, "writing the copy");
			done += written;
		}
		if (!disk_job_go_on(job))
			return err_set(err, ECANCELED, "interrupted");
	}
}

static int copy_open_file(int from, int dir_fd, const char *name, struct disk_job *job,
			  struct err *err)
{
	autofd int to =
	    openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);

	if (to < 0)
		return err_sys(err, errno, "making the copy");
	return copy_data(from, to, job, err);
}

int copy_file(const char *path, int dir_fd, const char *name, struct disk_job *job, struct err *err)
{
	autofd int from = open(path, O_RDONLY | O_CLOEXEC);
	int res;

	if (from < 0)
		return err_sys(err, errno, "%s", path);
	res = copy_open_file(from, dir_fd, name, job, err);
	if (res)
		err_prefix(err, "copying %s", path);
	return res;
}

/* ---- folders ------------------------------------------------------------------------------------
 */

static int copy_folder(int from, int to, unsigned depth, struct disk_job *job, struct err *err);

static int make_folder(int dir_fd, const char *name, int *ret_fd, struct err *err)
{
	if (mkdirat(dir_fd, name, 0755))
		return err_sys(err, errno, "making the folder %s", name);
	*ret_fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return *ret_fd < 0 ? err_sys(err, errno, "%s", name) : 0;
}

static int copy_entry(int from_dir, int to_dir, const char *name, unsigned depth,
		      struct disk_job *job, struct err *err)
{
	autofd int from = -1, to = -1;
	struct stat st;
	int res = 0;

	if (fstatat(from_dir, name, &st, AT_SYMLINK_NOFOLLOW))
		return err_sys(err, errno, "%s", name);
	if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
		return 0;
	from = openat(from_dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (from < 0)
		return err_sys(err, errno, "%s", name);
	if (S_ISREG(st.st_mode))
		res = copy_open_file(from, to_dir, name, job, err);
	else
		res = make_folder(to_dir, name, &to, err);
	if (!res && S_ISDIR(st.st_mode))
		res = copy_folder(steal_fd(&from), to, depth + 1, job, err);
	if (res)
		err_prefix(err, "%s", name);
	return res;
}

/* Closes `from`. */
static int copy_folder(int from, int to, unsigned depth, struct disk_job *job, struct err *err)
{
	DIR *dir = fdopendir(from);
	const struct dirent *e;
	int res = 0;

	if (!dir) {
		close(from);
		return err_sys(err, errno, "reading the folder");
	}
	if (depth > DEPTH_MAX)
		res = err_set(err, ELOOP, "folders are more than %d deep", DEPTH_MAX);
	while (!res && (e = readdir(dir))) {
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			res = copy_entry(dirfd(dir), to, e->d_name, depth, job, err);
	}
	closedir(dir);
	if (!res && fsync(to))
		res = err_sys(err, errno, "syncing the folder");
	return res;
}

int copy_modules(const char *path, int dir_fd, const char *release, struct disk_job *job,
		 struct err *err)
{
	autofd int from = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), modules = -1, to = -1;
	int res;

	if (from < 0)
		return err_sys(err, errno, "modules %s", path);
	if (faccessat(from, "modules.dep", R_OK, 0))
		return err_sys(err, errno,
			       "modules %s: modules.dep, which depmod(8) makes, cannot be read",
			       path);
	if (strchr(release, '/'))
		return err_set(err, EINVAL, "the kernel's release %s is no name", release);
	res = make_folder(dir_fd, "modules", &modules, err);
	if (!res)
		res = make_folder(modules, release, &to, err);
	if (!res)
		res = copy_folder(steal_fd(&from), to, 0, job, err);
	if (res)
		err_prefix(err, "copying modules %s", path);
	return res;
}
