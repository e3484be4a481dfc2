/* Starts a program again and again. See control/child/child.h. */
#include "control/child/keeper.h"

#include "control/child/child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Its descriptors, from 3 up; 0 and 1 are /dev/null. */
enum { KEEPER_WORDS = STDERR_FILENO, KEEPER_SOCKET = 3, KEEPER_NULL = 4 };

#define DELAY_MIN_MS 100
#define DELAY_MAX_MS 10000
#define STEADY_S     10 /* who ran so long is started again without much delay */
#define END_MS	     2000

static void leave(int status)
{
	syscall(SYS_exit_group, status);
}

/* One line for who listens, which ends this. */
static void complain(const char *what, int code)
{
	const char *error = strerrordesc_np(code);
	char line[256];
	int n = snprintf(line, sizeof(line), "%s: %s\n", what, error ? error : "it failed");

	(void)!write(STDERR_FILENO, line, (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1);
	leave(127);
}

/* The program. Does not return. */
static void become(const struct keeper_plan *p, int fd)
{
	const char *what = "";
	int res = p->jail ? p->jail->enter(p->jail->ctx, &what) : 0;

	if (res)
		complain(what, -res);
	signal(SIGPIPE, SIG_DFL);
	if (dup2(p->on_stdin ? fd : KEEPER_NULL, STDIN_FILENO) < 0 ||
	    dup2(p->on_stdin ? KEEPER_NULL : fd, CHILD_FD) < 0 ||
	    close_range(CHILD_FD + !p->on_stdin, ~0U, 0) || execve(p->path, p->argv, p->env))
		complain("it cannot be executed", errno);
}

/* fork(2), without what may be locked in this process. */
static pid_t fork_into(const struct keeper_plan *p)
{
	const int namespaces = p->jail ? p->jail->namespaces : 0;

	return (pid_t)syscall(SYS_clone, (unsigned long)namespaces | SIGCHLD, NULL, NULL, NULL,
			      NULL);
}

static void tell(bool begun, int status, int fd)
{
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct keeper_message text;
	struct iovec iov = {.iov_base = &text, .iov_len = sizeof(text)};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	memset(&text, 0, sizeof(text));
	text.begun = begun;
	text.status = status;
	if (begun) {
		memset(&control, 0, sizeof(control));
		control.head.cmsg_level = SOL_SOCKET;
		control.head.cmsg_type = SCM_RIGHTS;
		control.head.cmsg_len = CMSG_LEN(sizeof(fd));
		memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control.bytes);
	}
	(void)!sendmsg(KEEPER_SOCKET, &msg, MSG_NOSIGNAL);
}

/* Is nobody there any more? Waits so long for that, or for `other` (-1: none) to be readable. */
static bool is_alone(int other, int timeout_ms)
{
	struct pollfd polls[2] = {{.fd = KEEPER_SOCKET}, {.fd = other, .events = POLLIN}};

	while (poll(polls, 2, timeout_ms) < 0 && errno == EINTR)
		;
	return polls[0].revents;
}

/* The program's end of a new socket; ours is sent off. */
static int make_socket(void)
{
	int fd[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd))
		return -1;
	tell(true, 0, fd[0]);
	close(fd[0]);
	return fd[1];
}

/* Its status; does not return when nobody wants it any more. */
static int keep(const struct keeper_plan *p, pid_t pid)
{
	int status = 0, process = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd poll_end = {.fd = process, .events = POLLIN};

	if (process >= 0 && is_alone(process, -1)) {
		if (p->jail || poll(&poll_end, 1, END_MS) <= 0)
			kill(pid, SIGKILL);
		leave(0);
	}
	close(process);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

/* One life of the program; does not return when nobody wants another. */
static int run_once(const struct keeper_plan *p)
{
	const int fd = make_socket();
	const pid_t pid = fd < 0 ? -1 : fork_into(p);
	int status = 0;

	if (!pid)
		become(p, fd);
	if (fd >= 0)
		close(fd);
	if (pid > 0)
		status = keep(p, pid);
	return status;
}

static void settle(const struct keeper_plan *p)
{
	const char *what = "";
	sigset_t none;
	int res;

	prctl(PR_SET_NAME, "lodge-keeper");
	for (int s = 1; s < NSIG; s++)
		signal(s, SIG_DFL);
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&none);
	if (dup2(p->words, KEEPER_WORDS) < 0)
		leave(1);
	res = p->jail ? p->jail->build(p->jail->ctx, &what) : 0;
	if (res)
		complain(what, -res);
	if (dup2(p->null, STDIN_FILENO) < 0 || dup2(p->null, STDOUT_FILENO) < 0 ||
	    dup2(p->keeper, KEEPER_SOCKET) < 0 || dup2(p->null, KEEPER_NULL) < 0 ||
	    close_range(KEEPER_NULL + 1, ~0U, 0) || fcntl(KEEPER_SOCKET, F_SETFD, FD_CLOEXEC) ||
	    chdir("/") || sigprocmask(SIG_SETMASK, &none, NULL))
		leave(1);
}

void keeper_run(const struct keeper_plan *p)
{
	int delay_ms = DELAY_MIN_MS;

	settle(p);
	for (;;) {
		struct timespec began, ended;
		int status;

		clock_gettime(CLOCK_MONOTONIC, &began);
		status = run_once(p);
		clock_gettime(CLOCK_MONOTONIC, &ended);
		tell(false, status, -1);
		if (ended.tv_sec - began.tv_sec >= STEADY_S)
			delay_ms = DELAY_MIN_MS;
		if (is_alone(-1, delay_ms))
			leave(0);
		delay_ms = delay_ms * 2 < DELAY_MAX_MS ? delay_ms * 2 : DELAY_MAX_MS;
	}
}
