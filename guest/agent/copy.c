/*
 * Files, in a child process. See guest/agent/copy.h.
 *
 * A new file has no name until it is whole (O_TMPFILE), so that a child that is killed leaves
 * nothing; where the file system has no such files it has a name of its own until then.
 */
#include "guest/agent/copy.h"

#include "base/cleanup.h"
#include "proto/agent.pb-c.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define NS_PER_S     INT64_C(1000000000)
#define BUFFER_BYTES (64 * 1024)
#define MODE_DEFAULT 0644
#define MODE_BITS    07777

#define attributes_t Lodge__Agent__V1__FileAttributes

static int copy(int from, int to, const char *path, struct err *err)
{
	static uint8_t buf[BUFFER_BYTES];
	ssize_t n;

	while ((n = read(from, buf, sizeof(buf))) != 0) {
		if (n < 0 && errno != EINTR)
			return err_sys(err, errno, "reading %s", path);
		for (ssize_t done = 0, w; done < n; done += w) {
			w = write(to, buf + done, (size_t)(n - done));
			if (w < 0 && errno != EINTR)
				return err_sys(err, errno, "writing %s", path);
			if (w < 0)
				w = 0;
		}
	}
	return 0;
}

/* ---- WriteFile ----------------------------------------------------------------------------------
 */

struct target {
	char path[PATH_MAX]; /* of the file */
	char dir[PATH_MAX];
	char temporary[PATH_MAX]; /* its name until it is whole; "": it has none */
};

static bool join(char ret[static PATH_MAX], const char *dir, const char *name)
{
	return (size_t)snprintf(ret, PATH_MAX, "%s/%s", strcmp(dir, "/") ? dir : "", name) <
	       PATH_MAX;
}

static int find_target(const Lodge__Agent__V1__WriteFileOpen *o, struct target *t, struct err *err)
{
	struct stat st;
	char *slash;

	if (o->path[0] != '/')
		return err_set(err, EINVAL, "'%s' is not an absolute path", o->path);
	if (strlen(o->path) >= PATH_MAX)
		return err_set(err, ENAMETOOLONG, "the path is too long");
	strcpy(t->path, o->path);
	if (stat(o->path, &st) == 0 && S_ISDIR(st.st_mode)) {
		if (!o->name[0] || strchr(o->name, '/') || !strcmp(o->name, ".") ||
		    !strcmp(o->name, ".."))
			return err_set(err, EISDIR, "%s is a directory", o->path);
		if (!join(t->path, o->path, o->name))
			return err_set(err, ENAMETOOLONG, "the path is too long");
	}
	strcpy(t->dir, t->path);
	slash = strrchr(t->dir, '/');
	if (!slash[1])
		return err_set(err, EISDIR, "'%s' names no file", t->path);
	slash[slash == t->dir] = '\0';
	return 0;
}

int copy_make_directories(const char *dir, struct err *err)
{
	char part[PATH_MAX];

	strcpy(part, dir);
	for (char *p = part + 1;; p++) {
		char c = *p;

		if (c && c != '/')
			continue;
		*p = '\0';
		if (mkdir(part, 0755) < 0 && errno != EEXIST)
			return err_sys(err, errno, "making %s", part);
		*p = c;
		if (!c)
			return 0;
	}
}

static int create(struct target *t, struct err *err)
{
	char name[64];
	int fd = open(t->dir, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);

	if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL))
		return fd >= 0 ? fd : err_sys(err, errno, "making a file in %s", t->dir);
	snprintf(name, sizeof(name), ".lodge-agent.%d", getpid());
	if (!join(t->temporary, t->dir, name))
		return err_set(err, ENAMETOOLONG, "the path is too long");
	fd = open(t->temporary, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
	return fd >= 0 ? fd : err_sys(err, errno, "making a file in %s", t->dir);
}

int copy_set_attributes(int fd, const attributes_t *a, mode_t mode, struct err *err)
{
	if (a && a->mode)
		mode = a->mode & MODE_BITS;
	if (a && (a->uid || a->gid) && fchown(fd, a->uid, a->gid) < 0)
		return err_sys(err, errno, "its owner");
	if (fchmod(fd, mode) < 0)
		return err_sys(err, errno, "its mode");
	if (a && a->mtime_ns > 0) {
		struct timespec times[2] = {{.tv_nsec = UTIME_NOW},
					    {.tv_sec = (time_t)(a->mtime_ns / NS_PER_S),
					     .tv_nsec = (long)(a->mtime_ns % NS_PER_S)}};

		(void)futimens(fd, times);
	}
	return 0;
}

/* The file gets its name, in place of what had it. */
static int put_in_place(int fd, struct target *t, struct err *err)
{
	char self[64], name[64];

	if (!t->temporary[0]) {
		snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
		snprintf(name, sizeof(name), ".lodge-agent.%d", getpid());
		if (linkat(AT_FDCWD, self, AT_FDCWD, t->path, AT_SYMLINK_FOLLOW) == 0)
			return 0;
		if (errno != EEXIST || !join(t->temporary, t->dir, name))
			return err_sys(err, errno, "making %s", t->path);
		if (linkat(AT_FDCWD, self, AT_FDCWD, t->temporary, AT_SYMLINK_FOLLOW) < 0)
			return err_sys(err, errno, "making %s", t->temporary);
	}
	return rename(t->temporary, t->path) < 0 ? err_sys(err, errno, "making %s", t->path) : 0;
}

int copy_in(const void *arg, struct err *err)
{
	const Lodge__Agent__V1__WriteFileOpen *o = arg;
	static struct target target;
	autofd int fd = -1;
	int res;

	/* an end of the agent is not the end of the data */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	res = find_target(o, &target, err);
	if (!res && o->make_directories)
		res = copy_make_directories(target.dir, err);
	if (res)
		return res;
	fd = create(&target, err);
	if (fd < 0)
		return fd;
	res = copy(STDIN_FILENO, fd, target.path, err);
	if (!res) {
		res = copy_set_attributes(fd, o->attributes, MODE_DEFAULT, err);
		err_prefix(err, "%s", target.path);
	}
	if (!res)
		res = put_in_place(fd, &target, err);
	if (res && target.temporary[0])
		unlink(target.temporary);
	return res;
}

/* ---- ReadFile -----------------------------------------------------------------------------------
 */

int copy_out(const void *arg, struct err *err)
{
	const Lodge__Agent__V1__ReadFileRequest *r = arg;
	struct copy_attributes a = {0};
	struct stat st;
	autofd int fd = -1;

	if (r->path[0] != '/')
		return err_set(err, EINVAL, "'%s' is not an absolute path", r->path);
	fd = open(r->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(err, errno, "%s", r->path);
	if (S_ISDIR(st.st_mode))
		return err_set(err, EISDIR, "%s is a directory", r->path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, EINVAL, "%s is not a regular file", r->path);
	a.size_bytes = (uint64_t)st.st_size;
	a.mtime_ns = (int64_t)st.st_mtim.tv_sec * NS_PER_S + st.st_mtim.tv_nsec;
	a.mode = st.st_mode & MODE_BITS;
	a.uid = st.st_uid;
	a.gid = st.st_gid;
	if (write(STDOUT_FILENO, &a, sizeof(a)) != sizeof(a)) /* below PIPE_BUF: in one piece */
		return err_sys(err, errno, "reading %s", r->path);
	return copy(fd, STDOUT_FILENO, r->path, err);
}
