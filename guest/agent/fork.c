/* A child process: its pipes or its terminal, and its first steps. See guest/agent/process.h. */
#include "guest/agent/process_priv.h"

#include "base/checked.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Beyond these a child on an old kernel keeps what it has inherited; the agent has no more. */
#define FILES_SCAN_MAX 8192

struct ends {
	int child[3];  /* what becomes 0, 1 and 2 in the child; -1: /dev/null */
	int status[2]; /* read, write */
};

static void close_fds(const int *fds, int n)
{
	for (int i = 0; i < n; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

static int make_nonblocking(int fd)
{
	return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

/* ---- pipes and terminals ------------------------------------------------------------------------
 */

/* `ours`: index of the end that the agent keeps. */
static int open_pipe(int ours, int *ret_ours, int *ret_child)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	make_nonblocking(fds[ours]);
	*ret_ours = fds[ours];
	*ret_child = fds[!ours];
	return 0;
}

static int open_pipes(struct process *p, const struct process_spec *spec, struct ends *e)
{
	int res = 0;

	if (spec->in)
		res = open_pipe(1, &p->in.fd, &e->child[0]);
	if (!res && spec->out)
		res = open_pipe(0, &p->out[PROCESS_OUT].fd, &e->child[1]);
	if (!res && spec->err && !spec->merge)
		res = open_pipe(0, &p->out[PROCESS_ERR].fd, &e->child[2]);
	return res;
}

/* A guest without an init of its own may have no devpts yet. */
static int open_master(void)
{
	int fd = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);

	if (fd >= 0 || (errno != ENOENT && errno != ENODEV && errno != EIO))
		return fd;
	mkdir("/dev/pts", 0755);
	if (mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "mode=620,ptmxmode=666") <
	    0)
		return -1;
	fd = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	return fd >= 0 ? fd : open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
}

static int open_terminal(struct process *p, const struct winsize *size, struct ends *e,
			 struct err *err)
{
	int zero = 0;

	p->terminal_fd = open_master();
	if (p->terminal_fd < 0)
		return err_sys(err, errno, "/dev/ptmx");
	if (ioctl(p->terminal_fd, TIOCSPTLCK, &zero) < 0)
		return err_sys(err, errno, "unlocking a terminal");
	(void)ioctl(p->terminal_fd, TIOCSWINSZ, size);
	e->child[0] = ioctl(p->terminal_fd, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (e->child[0] < 0)
		return err_sys(err, errno, "opening a terminal");
	e->child[1] = fcntl(e->child[0], F_DUPFD_CLOEXEC, 0);
	e->child[2] = fcntl(e->child[0], F_DUPFD_CLOEXEC, 0);
	p->in.fd = fcntl(p->terminal_fd, F_DUPFD_CLOEXEC, 0);
	p->out[PROCESS_OUT].fd = fcntl(p->terminal_fd, F_DUPFD_CLOEXEC, 0);
	if (e->child[1] < 0 || e->child[2] < 0 || p->in.fd < 0 || p->out[PROCESS_OUT].fd < 0)
		return err_sys(err, errno, "descriptors for a terminal");
	return 0;
}

static int open_ends(struct process *p, const struct process_spec *spec, struct ends *e,
		     struct err *err)
{
	int res;

	if (pipe2(e->status, O_CLOEXEC) < 0)
		return err_sys(err, errno, "a pipe for a process");
	p->status.fd = e->status[0];
	make_nonblocking(p->status.fd);
	if (spec->terminal)
		return open_terminal(p, spec->terminal, e, err);
	res = open_pipes(p, spec, e);
	return res ? err_sys(err, -res, "pipes for a process") : 0;
}

/* ---- in the child -------------------------------------------------------------------------------
 */

static void close_above(unsigned last)
{
	if (syscall(SYS_close_range, last + 1, ~0U, 0) == 0)
		return;
	for (int fd = (int)last + 1; fd < FILES_SCAN_MAX; fd++)
		close(fd);
}

/* Puts the ends onto 0 to 3, whatever numbers they have. */
static int place_ends(struct ends *e, bool merge, struct err *err)
{
	int fds[4];

	for (int i = 0; i < 3; i++) {
		if (e->child[i] < 0 && !(i == 2 && merge))
			e->child[i] = open("/dev/null", O_RDWR | O_CLOEXEC);
		if (e->child[i] < 0 && !(i == 2 && merge))
			return err_sys(err, errno, "/dev/null");
	}
	/* out of the way of each other first */
	for (int i = 0; i < 4; i++) {
		int from = i == 3 ? e->status[1] : i == 2 && merge ? e->child[1] : e->child[i];

		fds[i] = fcntl(from, F_DUPFD, 16);
		if (fds[i] < 0)
			return err_sys(err, errno, "descriptors of a process");
	}
	e->status[1] = fds[3];
	for (int i = 0; i < 4; i++)
		dup2(fds[i], i);
	fcntl(PROCESS_STATUS_FD, F_SETFD, FD_CLOEXEC);
	e->status[1] = PROCESS_STATUS_FD;
	close_above(PROCESS_STATUS_FD);
	return 0;
}

static void reset_signals(void)
{
	sigset_t none;

	signal(SIGPIPE, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* What the agent has made different for itself. */
static void reset_self(const struct agent *agent)
{
	static const char score[] = "0";
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd >= 0) {
		(void)!write(fd, score, sizeof(score) - 1);
		close(fd);
	}
	(void)setrlimit(RLIMIT_NOFILE, &agent->files);
	umask(022);
}

static _Noreturn void child_main(const struct agent *agent, const struct process_spec *spec,
				 struct ends *e)
{
	struct err err = ERR_INIT;
	int res;

	setsid();
	reset_signals();
	reset_self(agent);
	res = place_ends(e, spec->merge, &err);
	if (!res && spec->terminal && ioctl(0, TIOCSCTTY, 0) < 0)
		res = err_sys(&err, errno, "making a terminal the controlling one");
	if (!res)
		res = spec->run(spec->arg, &err);
	if (res) {
		if (!err.code)
			err_sys(&err, -res, "process");
		(void)!write(e->status[1], &err, sizeof(err));
	}
	_exit(res ? 1 : 0);
}

int process_fork(struct process *p, const struct process_spec *spec, struct err *err)
{
	struct ends e = {.child = {-1, -1, -1}, .status = {-1, -1}};
	int res = open_ends(p, spec, &e, err);

	if (!res) {
		p->pid = fork();
		if (p->pid == 0)
			child_main(p->agent, spec, &e);
		if (p->pid < 0)
			res = err_sys(err, errno, "fork");
	}
	close_fds(e.child, 3);
	close_fds(&e.status[1], 1);
	if (res) {
		int ours[] = {p->terminal_fd, p->in.fd, p->out[0].fd, p->out[1].fd, p->status.fd};

		close_fds(ours, (int)ARRAY_LEN(ours));
	}
	return res;
}
