/* Processes: their life and their ends. See guest/agent/process.h. */
#include "guest/agent/process_priv.h"

#include "base/checked.h"
#include "base/log.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* A terminal gives its last output a moment after the process has ended; and another process may
 * hold it open for ever. */
#define LINGER_NS UINT64_C(250000000)

static void process_free(struct process *p)
{
	struct agent *agent = p->agent;

	loop_timer_disarm(agent->loop, &p->linger);
	if (p->terminal_fd >= 0)
		close(p->terminal_fd);
	*p->at = p->next;
	if (p->next)
		p->next->at = p->at;
	agent->nprocesses--;
	free(p->in.ring);
	free(p);
}

static void process_end(struct loop_msg *m)
{
	struct process *p = container_of(m, struct process, over);
	const struct process_ops *ops = p->ops;
	int status = p->wait_status;
	void *ctx = p->ctx;
	struct err err = p->status.err;

	process_free(p);
	if (ops)
		ops->ended(ctx, status, &err);
}

void process_check(struct process *p)
{
	bool streams = p->in.fd >= 0 || p->status.fd >= 0;

	for (int i = 0; i < PROCESS_OUTS; i++)
		streams |= p->out[i].fd >= 0;
	if (p->exited && !streams)
		loop_defer(p->agent->loop, &p->over);
}

static void linger_over(struct loop_timer *t)
{
	struct process *p = container_of(t, struct process, linger);

	p->linger_over = true;
	streams_exited(p);
}

static void process_exited(struct process *p, int wait_status)
{
	p->exited = true;
	p->wait_status = wait_status;
	if (p->terminal_fd >= 0) {
		p->linger.fn = linger_over;
		loop_timer_arm(p->agent->loop, &p->linger, loop_now_ns() + LINGER_NS);
	}
	streams_exited(p);
	process_check(p);
}

/* ---- reaping ------------------------------------------------------------------------------------
 */

/* All that have ended, also orphans that came to this process because it is the guest's init. */
static void reap(struct agent *agent)
{
	pid_t pid;
	int status;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		struct process *p = agent->processes;

		while (p && p->pid != pid)
			p = p->next;
		if (p)
			process_exited(p, status);
	}
}

static void signalled(struct loop_op *op, int res)
{
	struct agent *agent = container_of(op, struct agent, signal_op);

	if (res == -ECANCELED)
		return;
	loop_read(agent->loop, op, agent->signal_fd, &agent->signal, sizeof(agent->signal));
	reap(agent);
}

int processes_init(struct agent *agent, struct err *err)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	agent->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (agent->signal_fd < 0)
		return err_sys(err, errno, "a descriptor for SIGCHLD");
	agent->signal_op.done = signalled;
	loop_read(agent->loop, &agent->signal_op, agent->signal_fd, &agent->signal,
		  sizeof(agent->signal));
	reap(agent); /* whoever executed the agent may have had children */
	return 0;
}

/* ---- for calls ----------------------------------------------------------------------------------
 */

static void process_link(struct process *p)
{
	struct agent *agent = p->agent;

	p->next = agent->processes;
	p->at = &agent->processes;
	if (p->next)
		p->next->at = &p->next;
	agent->processes = p;
	agent->nprocesses++;
}

int process_start(struct agent *agent, const struct process_spec *spec,
		  const struct process_ops *ops, void *ctx, struct process **ret_process,
		  struct err *err)
{
	struct process *p;
	int res;

	if (agent->nprocesses >= PROCESSES_MAX)
		return err_set(err, EAGAIN, "%d processes of the agent are running", PROCESSES_MAX);
	p = calloc(1, sizeof(*p));
	if (!p)
		return err_set(err, ENOMEM, "the agent is out of memory");
	p->agent = agent;
	p->ops = ops;
	p->ctx = ctx;
	p->over.fn = process_end;
	streams_init(p);
	res = process_fork(p, spec, err);
	if (res) {
		free(p);
		return res;
	}
	process_link(p);
	streams_begin(p);
	*ret_process = p;
	return 0;
}

pid_t process_id(const struct process *p)
{
	return p->pid;
}

int process_signal(struct process *p, int sig)
{
	pid_t foreground;

	if (p->exited)
		return 0;
	if (p->terminal_fd >= 0 && ioctl(p->terminal_fd, TIOCGPGRP, &foreground) == 0 &&
	    foreground > 1 && foreground != p->pid)
		(void)kill(-foreground, sig);
	/* it makes its group itself, in a moment */
	if (kill(-p->pid, sig) < 0 && (errno != ESRCH || kill(p->pid, sig) < 0))
		return -errno;
	return 0;
}

void process_resize(struct process *p, const struct winsize *size)
{
	if (p->terminal_fd >= 0)
		(void)ioctl(p->terminal_fd, TIOCSWINSZ, size);
}

void process_let_go(struct process *p, bool kill_it)
{
	/* before its input ends: it must not take that for the end of a file */
	if (kill_it)
		(void)process_signal(p, SIGKILL);
	p->ops = NULL;
	streams_drop(p);
	process_check(p);
}
