/* Unix stream sockets. See control/unix_socket.h. */
#include "control/unix_socket.h"

#include "base/cleanup.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define BACKLOG 1024

static int address(const char *path, struct sockaddr_un *ret_addr, struct err *err)
{
	size_t len = strlen(path);

	if (!len || len >= sizeof(ret_addr->sun_path))
		return err_set(err, ENAMETOOLONG, "socket %s: 1 to %zu bytes are possible", path,
			       sizeof(ret_addr->sun_path) - 1);
	*ret_addr = (struct sockaddr_un){.sun_family = AF_UNIX};
	memcpy(ret_addr->sun_path, path, len + 1);
	return 0;
}

static int unix_open(void)
{
	return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

int unix_connect(const char *path, int *ret_fd, struct err *err)
{
	struct sockaddr_un addr;
	autofd int fd = -1;
	int res = address(path, &addr, err);

	if (res)
		return res;
	fd = unix_open();
	if (fd < 0)
		return err_sys(err, errno, "socket %s", path);
	if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)))
		return err_sys(err, errno, "socket %s", path);
	*ret_fd = steal_fd(&fd);
	return 0;
}

/*
 * Does the process live that listens? One that was killed can hold its socket for a moment longer:
 * the kernel undoes an io_uring, and with it the accept under way, in the background.
 */
static bool is_served(int fd)
{
	pid_t pid = unix_peer_pid(fd);

	return pid <= 0 || !kill(pid, 0) || errno != ESRCH;
}

/* Takes a dead socket away. */
static int make_room(const char *path, struct err *err)
{
	struct stat st;
	int fd = -1, res;

	if (lstat(path, &st))
		return errno == ENOENT ? 0 : err_sys(err, errno, "socket %s", path);
	if (!S_ISSOCK(st.st_mode))
		return err_set(err, EADDRINUSE, "socket %s: there is something else of that name",
			       path);
	res = unix_connect(path, &fd, NULL);
	if (!res) {
		bool served = is_served(fd);

		close(fd);
		if (!served)
			res = -ECONNREFUSED;
	}
	if (!res) {
		return err_set(err, EADDRINUSE, "socket %s: another process serves it", path);
	}
	if (res != -ECONNREFUSED)
		return err_sys(err, -res, "socket %s", path);
	if (unlink(path) && errno != ENOENT)
		return err_sys(err, errno, "socket %s", path);
	return 0;
}

int unix_listen(const char *path, const struct unix_mode *mode, int *ret_fd, struct err *err)
{
	struct sockaddr_un addr;
	autofd int fd = -1;
	mode_t mask;
	int res = address(path, &addr, err);

	if (!res)
		res = make_room(path, err);
	if (res)
		return res;
	fd = unix_open();
	if (fd < 0)
		return err_sys(err, errno, "socket %s", path);
	mask = umask(0177);
	res = bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) ? errno : 0;
	umask(mask);
	if (res == ENOENT)
		return err_set(err, ENOENT,
			       "socket %s: its directory does not exist; make it (mkdir -p)", path);
	if (res)
		return err_sys(err, res, "socket %s", path);
	/* nobody can connect before it listens */
	if (mode && ((mode->group != (gid_t)-1 && lchown(path, (uid_t)-1, mode->group)) ||
		     chmod(path, mode->mode))) {
		res = err_sys(err, errno, "socket %s: its group and mode", path);
		unlink(path);
		return res;
	}
	if (listen(fd, BACKLOG))
		return err_sys(err, errno, "socket %s", path);
	*ret_fd = steal_fd(&fd);
	return 0;
}

pid_t unix_peer_pid(int fd)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) ? 0 : cred.pid;
}
