/* Service managers. See control/serve/service_manager.h. */
#include "control/serve/service_manager.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "control/options/parse.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define LISTEN_FD 3 /* the first: SD_LISTEN_FDS_START */

bool service_manager_listens(void)
{
	const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
	unsigned value;

	return pid && fds && !parse_unsigned(pid, 1, INT_MAX, &value) && (pid_t)value == getpid() &&
	       !parse_unsigned(fds, 1, INT_MAX, &value);
}

static int take_socket(int *ret_fd, struct err *err)
{
	struct sockaddr_un addr = {0};
	socklen_t len = sizeof(addr), size = sizeof(int);
	int type = 0, listens = 0;
	unsigned n;

	if (parse_unsigned(getenv("LISTEN_FDS"), 1, 1, &n))
		return err_set(err, EINVAL,
			       "the service manager hands over %s sockets; one can be served",
			       getenv("LISTEN_FDS"));
	if (getsockname(LISTEN_FD, (struct sockaddr *)&addr, &len) || addr.sun_family != AF_UNIX ||
	    getsockopt(LISTEN_FD, SOL_SOCKET, SO_TYPE, &type, &size) || type != SOCK_STREAM ||
	    getsockopt(LISTEN_FD, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) || !listens)
		return err_set(err, EINVAL,
			       "what the service manager hands over is no listening Unix stream "
			       "socket; ListenStream= of the socket unit needs a path");
	if (fcntl(LISTEN_FD, F_SETFD, FD_CLOEXEC))
		return err_sys(err, errno, "descriptor %d", LISTEN_FD);
	*ret_fd = LISTEN_FD;
	return 0;
}

/* A path, or with '@' a name of the abstract kind. -1: nobody, or nobody who listens. */
static int connect_to(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	size_t len = strlen(path);
	int fd;

	if ((*path != '/' && *path != '@') || len >= sizeof(addr.sun_path))
		return -1;
	memcpy(addr.sun_path, path, len);
	if (*path == '@')
		addr.sun_path[0] = '\0';
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0 && connect(fd, (const struct sockaddr *)&addr,
			       (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len))) {
		close(fd);
		fd = -1;
	}
	return fd;
}

int service_manager_open(struct service_manager *m, int *ret_listen_fd, struct err *err)
{
	const char *path = getenv("NOTIFY_SOCKET");
	int res = 0;

	if (path) {
		m->fd = connect_to(path);
		if (m->fd < 0)
			log_warn("control: NOTIFY_SOCKET=%s cannot be used", path);
	}
	if (service_manager_listens())
		res = take_socket(ret_listen_fd, err);
	unsetenv("NOTIFY_SOCKET");
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	return res;
}

void service_manager_say(const struct service_manager *m, const char *lines)
{
	if (m->fd >= 0 && send(m->fd, lines, strlen(lines), MSG_NOSIGNAL) < 0)
		log_warn("control: the service manager is not told: %s", strerror(errno));
}

void service_manager_close(struct service_manager *m)
{
	cleanup_fd(&m->fd);
	m->fd = -1;
}
