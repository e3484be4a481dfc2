#include "control/terminal/tty.h"

#include "base/checked.h"
#include "base/err.h"
#include "base/log.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <termios.h>
#include <unistd.h>

static const int tty_crash_signals[] = {
    SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, SIGTRAP,
};

/* For the crash handler: what it needs to put the terminal back. */
static struct {
	int fd;
	struct termios saved;
	atomic_bool raw; /* `saved` is what the terminal must get back */
	struct sigaction before[ARRAY_LEN(tty_crash_signals)];
	bool adopted;
} tty;

_Static_assert(ATOMIC_BOOL_LOCK_FREE == 2, "the crash handler reads an atomic_bool");

void tty_restore(void)
{
	/* tcsetattr() is async-signal-safe (signal-safety(7)); TCSADRAIN would wait for a
	 * terminal that is stopped */
	if (atomic_exchange(&tty.raw, false)) {
		tcsetattr(tty.fd, TCSANOW, &tty.saved);
		log_set_crlf(false);
	}
}

static void tty_crashed(int sig, siginfo_t *info, void *context)
{
	int saved_errno = errno;

	(void)context;

	tty_restore();
	for (size_t i = 0; i < ARRAY_LEN(tty_crash_signals); i++) {
		if (tty_crash_signals[i] == sig)
			sigaction(sig, &tty.before[i], NULL);
	}
	/* A fault happens again on return and finds the former handler, with its address. What was
	 * sent (abort(3), kill(2)) is sent again; it is blocked until this handler returns. */
	if (info->si_code <= 0)
		raise(sig);
	errno = saved_errno;
}

int tty_adopt(int fd)
{
	struct sigaction sa = {.sa_sigaction = tty_crashed, .sa_flags = SA_SIGINFO | SA_ONSTACK};

	if (!isatty(fd))
		return -ENOTTY;
	tty.fd = fd;
	sigemptyset(&sa.sa_mask);
	for (size_t i = 0; i < ARRAY_LEN(tty_crash_signals); i++) {
		if (sigaction(tty_crash_signals[i], &sa, &tty.before[i]))
			return -errno;
	}
	tty.adopted = true;
	return 0;
}

bool tty_foreground(void)
{
	return tty.adopted && tcgetpgrp(tty.fd) == getpgrp();
}

int tty_raw(void)
{
	struct termios t;

	if (atomic_load(&tty.raw) || !tty_foreground())
		return 0;
	if (tcgetattr(tty.fd, &tty.saved))
		return -errno;
	t = tty.saved;
	cfmakeraw(&t);
	t.c_cc[VMIN] = 1;
	t.c_cc[VTIME] = 0;
	/* set before the change: a crash in between restores what is there already */
	atomic_store(&tty.raw, true);
	if (tcsetattr(tty.fd, TCSANOW, &t)) {
		int rc = -errno;

		atomic_store(&tty.raw, false);
		return rc;
	}
	log_set_crlf(isatty(STDERR_FILENO));
	return 0;
}

void tty_say(const char *fmt, ...)
{
	const bool raw = atomic_load(&tty.raw) && isatty(STDERR_FILENO);
	struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
	char line[ERR_MSG_MAX + 128];
	va_list ap;
	int n = 0;

	if (raw) { /* the guest's line stays as it is */
		line[n++] = '\r';
		line[n++] = '\n';
	}
	va_start(ap, fmt);
	n += vsnprintf(line + n, sizeof(line) - 5, fmt, ap);
	va_end(ap);
	n = MIN(n, (int)sizeof(line) - 4);
	for (int i = raw ? 2 : 0; i < n; i++) { /* names of files may hold anything */
		if ((unsigned char)line[i] < ' ' || line[i] == 0x7f)
			line[i] = '?';
	}
	if (raw)
		line[n++] = '\r';
	line[n++] = '\n';
	/* A terminal that takes nothing (a dead connection) must not hold up the machine's end.
	 * One write, so that lines of several threads never mix; a closed stderr loses it. */
	if (raw && (poll(&p, 1, 0) != 1 || !(p.revents & POLLOUT)))
		return;
	if (write(STDERR_FILENO, line, (size_t)n) < 0)
		return;
}

void tty_forget(void)
{
	if (!tty.adopted)
		return;
	tty_restore();
	for (size_t i = 0; i < ARRAY_LEN(tty_crash_signals); i++)
		sigaction(tty_crash_signals[i], &tty.before[i], NULL);
	tty.adopted = false;
}
