/* Signals of a server. See control/signals.h. */
#include "control/signals.h"

#include "base/checked.h"
#include "base/cleanup.h"

#include <errno.h>
#include <signal.h>
#include <sys/signalfd.h>

static void signals_ready(struct loop_op *op, int res)
{
	struct signals *s = container_of(op, struct signals, op);
	struct signalfd_siginfo info;

	if (res == -ECANCELED)
		return;
	while (read(s->fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
		s->fn(s->ctx, (int)info.ssi_signo);
	loop_poll(s->loop, &s->op, s->fd, POLLIN);
}

int signals_open(struct signals *s, struct loop *loop, void (*fn)(void *ctx, int sig), void *ctx,
		 struct err *err)
{
	static const int handled[] = {SIGTERM, SIGINT, SIGHUP};
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_LEN(handled); i++) {
		struct sigaction sa;

		if (!sigaction(handled[i], NULL, &sa) && sa.sa_handler != SIG_IGN)
			sigaddset(&set, handled[i]);
	}
	if (sigprocmask(SIG_BLOCK, &set, NULL))
		return err_sys(err, errno, "cannot block signals");
	s->fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (s->fd < 0)
		return err_sys(err, errno, "signalfd");
	s->loop = loop;
	s->fn = fn;
	s->ctx = ctx;
	s->op.done = signals_ready;
	loop_poll(loop, &s->op, s->fd, POLLIN);
	return 0;
}

void signals_close(struct signals *s)
{
	if (s->fd >= 0)
		loop_cancel(s->loop, &s->op);
}

void signals_free(struct signals *s)
{
	cleanup_fd(&s->fd);
	s->fd = -1;
}
