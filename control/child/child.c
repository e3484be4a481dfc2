/* See control/child/child.h. */
#include "control/child/child.h"

#include "base/cleanup.h"
#include "control/child/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define SYSTEM_PATH "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"

/* In the folders of `list`; only absolute ones, as the directory changes. */
static bool find_in(const char *list, const char *name, char ret_path[PATH_MAX])
{
	while (*list) {
		size_t length = strcspn(list, ":");

		if (*list == '/' &&
		    snprintf(ret_path, PATH_MAX, "%.*s/%s", (int)length, list, name) < PATH_MAX &&
		    !access(ret_path, X_OK))
			return true;
		list += length;
		list += *list == ':';
	}
	return false;
}

/* Twice, so that it is init's, who waits for it. */
static int fork_twice(const struct keeper_plan *p, struct err *err)
{
	sigset_t all, before;
	int status, code = 0;
	pid_t pid;

	/* no handler of ours runs in the child */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pid = fork();
	if (!pid) {
		setsid();
		pid = fork();
		if (!pid)
			keeper_run(p);
		syscall(SYS_exit_group, pid < 0 ? errno : 0);
	}
	if (pid < 0)
		code = errno;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (code)
		return err_sys(err, code, "fork");
	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			return 0; /* SIGCHLD is ignored: it was waited for */
	}
	if (WIFEXITED(status) && WEXITSTATUS(status))
		return err_sys(err, WEXITSTATUS(status), "fork");
	return 0;
}

/* The keeper's ends must not be where it wants others. */
static int move_up(int *fd)
{
	int moved = fcntl(*fd, F_DUPFD_CLOEXEC, KEEPER_FREE);

	if (moved < 0)
		return -errno;
	close(*fd);
	*fd = moved;
	return 0;
}

/* Whether there is a message; *ret_fd: what came with it, or -1. */
static bool take_message(int keeper, struct keeper_message *ret, int *ret_fd, int flags)
{
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = {.iov_base = ret, .iov_len = sizeof(*ret)};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = sizeof(control)};
	const struct cmsghdr *c;
	ssize_t n;

	*ret_fd = -1;
	do
		n = recvmsg(keeper, &msg, MSG_CMSG_CLOEXEC | flags);
	while (n < 0 && errno == EINTR);
	if (n != sizeof(*ret)) {
		if (!n) /* its end */
			errno = EPIPE;
		return false;
	}
	c = CMSG_FIRSTHDR(&msg);
	if (c && c->cmsg_type == SCM_RIGHTS)
		memcpy(ret_fd, CMSG_DATA(c), sizeof(*ret_fd));
	return true;
}

/* A socketpair, the other end out of the way. */
static int make_pair(int type, int ret[2])
{
	if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ret))
		return -errno;
	return move_up(&ret[1]);
}

/* It has ended, and may have said why. */
static int no_keeper(const struct keeper_plan *p, const struct child *child, struct err *err)
{
	char why[256] = "";
	const int code = errno;

	child_hear(child, why, sizeof(why));
	why[strcspn(why, "\n")] = '\0';
	return *why ? err_set(err, EIO, "%s: %s", p->argv[0], why)
		    : err_sys(err, code, "%s: its keeper", p->argv[0]);
}

static int start(struct keeper_plan *p, struct child *ret_child, struct err *err)
{
	int keeper[2] = {-1, -1}, words[2] = {-1, -1};
	struct keeper_message begun;
	int res = make_pair(SOCK_SEQPACKET, keeper);

	if (!res)
		res = make_pair(SOCK_DGRAM, words);
	if (!res)
		res = move_up(&p->null);
	p->keeper = keeper[1];
	p->words = words[1];
	res = res ? err_sys(err, -res, "%s: a socket", p->argv[0]) : fork_twice(p, err);
	cleanup_fd(&keeper[1]);
	cleanup_fd(&words[1]);
	*ret_child = (struct child){.fd = -1, .words = words[0], .keeper = keeper[0]};
	if (!res && (!take_message(keeper[0], &begun, &ret_child->fd, 0) || ret_child->fd < 0))
		res = no_keeper(p, ret_child, err);
	if (res)
		child_close(ret_child);
	return res;
}

int child_start(const char *const argv[], const char *package, bool on_stdin,
		const struct child_jail *jail, struct child *ret_child, struct err *err)
{
	const char *path = getenv("PATH");
	char variable[] = "PATH=" SYSTEM_PATH, locale[] = "LC_ALL=C", home[] = "HOME=/nonexistent";
	char *env[] = {variable, locale, home, jail ? jail->variable : NULL, NULL};
	struct keeper_plan p = {.env = env, .jail = jail, .on_stdin = on_stdin};
	int res;

	if (!find_in(path ? path : "", argv[0], p.path) && !find_in(SYSTEM_PATH, argv[0], p.path))
		return err_set(err, ENOENT, "%s is not installed (apt install %s)", argv[0],
			       package);
	p.null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (p.null < 0)
		return err_sys(err, errno, "/dev/null");
	memcpy(&p.argv, &argv, sizeof(p.argv)); /* execve() does not write there */
	res = start(&p, ret_child, err);
	cleanup_fd(&p.null);
	return res;
}

bool child_find(const char *root, const char *name, char ret_path[PATH_MAX])
{
	char *path = strdup(SYSTEM_PATH), *rest = path, *folder;
	bool found = false;

	while (path && !found && (folder = strsep(&rest, ":")))
		found = snprintf(ret_path, PATH_MAX, "%s%s/%s", root, folder, name) < PATH_MAX &&
			!access(ret_path, X_OK);
	free(path);
	return found;
}

bool child_hear(const struct child *child, char *text, size_t size)
{
	bool heard = false;

	for (;;) {
		size_t used = strlen(text);
		char line[1024];
		ssize_t n = recv(child->words, line, sizeof(line), MSG_DONTWAIT);

		if (n <= 0)
			return heard;
		heard = true;
		snprintf(text + used, size - used, "%.*s", (int)n, line);
	}
}

int child_listen(const struct child *child, char *text, size_t size, int timeout_ms)
{
	struct pollfd polls[2] = {{.fd = child->fd, .events = POLLIN},
				  {.fd = child->words, .events = POLLIN}};
	int n = poll(polls, 2, timeout_ms);

	if (n < 0)
		return errno == EINTR ? 1 : -errno;
	if (!n)
		return -ETIMEDOUT;
	return child_hear(child, text, size) || !(polls[0].revents & (POLLHUP | POLLERR));
}

static void tell_end(int status, char ended[], size_t size)
{
	if (WIFSIGNALED(status))
		snprintf(ended, size, "signal %d", WTERMSIG(status));
	else
		snprintf(ended, size, "status %d", WEXITSTATUS(status));
}

enum child_news child_news(struct child *child, char ended[], size_t size)
{
	struct keeper_message m;
	int fd;

	if (child->keeper < 0)
		return CHILD_NOTHING;
	if (!take_message(child->keeper, &m, &fd, MSG_DONTWAIT)) {
		if (errno == EAGAIN)
			return CHILD_NOTHING;
		cleanup_fd(&child->keeper);
		child->keeper = -1;
		return CHILD_ALONE;
	}
	if (!m.begun) {
		tell_end(m.status, ended, size);
		return CHILD_ENDED;
	}
	cleanup_fd(&child->fd);
	child->fd = fd;
	return CHILD_BEGUN;
}

void child_end(const struct child *child)
{
	if (child->keeper >= 0)
		shutdown(child->keeper, SHUT_RDWR);
}

void child_close(struct child *child)
{
	cleanup_fd(&child->keeper);
	cleanup_fd(&child->words);
	cleanup_fd(&child->fd);
	*child = CHILD_NONE;
}
