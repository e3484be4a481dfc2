/* See control/network/child.h. */
#include "control/network/child.h"

#include "base/cleanup.h"

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

/* All that the child needs, made before fork(). */
struct plan {
	char path[PATH_MAX];
	char *const *argv;
	char *const *env;
	int null, fd, words; /* above CHILD_FD */
	bool on_stdin;
};

/* Async-signal-safe; does not return. */
static void become(const struct plan *p)
{
	static const char failed[] = "it cannot be executed\n";
	sigset_t none;

	for (int s = 1; s < NSIG; s++)
		signal(s, SIG_DFL);
	sigemptyset(&none);
	if (dup2(p->on_stdin ? p->fd : p->null, STDIN_FILENO) < 0 ||
	    dup2(p->null, STDOUT_FILENO) < 0 || dup2(p->words, STDERR_FILENO) < 0 ||
	    dup2(p->on_stdin ? p->null : p->fd, CHILD_FD) < 0 ||
	    close_range(CHILD_FD + !p->on_stdin, ~0U, 0) || chdir("/") ||
	    sigprocmask(SIG_SETMASK, &none, NULL) || execve(p->path, p->argv, p->env))
		(void)!write(STDERR_FILENO, failed, sizeof(failed) - 1);
	syscall(SYS_exit_group, 127);
}

/* Twice, so that it is init's, who waits for it. */
static int fork_twice(const struct plan *p, struct err *err)
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
			become(p);
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

/* The child's ends must not be where it wants others. */
static int move_up(int *fd)
{
	int moved = fcntl(*fd, F_DUPFD_CLOEXEC, CHILD_FD + 1);

	if (moved < 0)
		return -errno;
	close(*fd);
	*fd = moved;
	return 0;
}

int child_start(const char *const argv[], const char *package, bool on_stdin,
		struct child *ret_child, struct err *err)
{
	const char *path = getenv("PATH");
	char variable[] = "PATH=" SYSTEM_PATH, locale[] = "LC_ALL=C", home[] = "HOME=/nonexistent";
	char *env[] = {variable, locale, home, NULL};
	int fd[2] = {-1, -1}, words[2] = {-1, -1}, res;
	autofd int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct plan p = {.env = env, .on_stdin = on_stdin};

	if (!find_in(path ? path : "", argv[0], p.path) && !find_in(SYSTEM_PATH, argv[0], p.path))
		return err_set(err, ENOENT, "%s is not installed (apt install %s)", argv[0],
			       package);
	if (null < 0)
		return err_sys(err, errno, "/dev/null");
	memcpy(&p.argv, &argv, sizeof(p.argv)); /* execve() does not write there */
	res = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) ||
		      socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, words)
		  ? -errno
		  : 0;
	if (!res)
		res = move_up(&fd[1]);
	if (!res)
		res = move_up(&words[1]);
	if (!res)
		res = move_up(&null);
	p.fd = fd[1];
	p.words = words[1];
	p.null = null;
	res = res ? err_sys(err, -res, "%s: a socket", argv[0]) : fork_twice(&p, err);
	cleanup_fd(&fd[1]);
	cleanup_fd(&words[1]);
	if (res) {
		cleanup_fd(&fd[0]);
		cleanup_fd(&words[0]);
		return res;
	}
	*ret_child = (struct child){.fd = fd[0], .words = words[0]};
	return 0;
}

static bool hear(const struct child *child, char *text, size_t size)
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
	return hear(child, text, size) || !(polls[0].revents & (POLLHUP | POLLERR));
}

void child_hush(struct child *child)
{
	cleanup_fd(&child->words);
	child->words = -1;
}

void child_close(struct child *child)
{
	child_hush(child);
	cleanup_fd(&child->fd);
	child->fd = -1;
}
