/*
 * A system call that the table does not have: one line, and the end of the process.
 *
 * Everything here may run in a signal handler, on any thread.
 */
#include "base/checked.h"
#include "control/command.h"
#include "control/sandbox/priv.h"
#include "control/terminal/tty.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_SECCOMP
#define SYS_SECCOMP 1 /* si_code */
#endif

static const char *const names[] = {
#include <syscall_names.h>
};

static const char *const role_names[] = {
    [THREAD_CONTROL] = "control", [THREAD_VCPU] = "vcpu",     [THREAD_IO] = "io",
    [THREAD_SOCKETS] = "sockets", [THREAD_WORKER] = "worker",
};

_Static_assert(ARRAY_LEN(role_names) == NTHREAD_ROLES, "a name for each role");

static _Thread_local const char *my_role = "?";

void sandbox_trap_role(enum thread_role role)
{
	my_role = role_names[role];
}

const char *sandbox_role_name(enum thread_role role)
{
	return role_names[role];
}

const char *sandbox_syscall_name(int nr)
{
	return nr >= 0 && nr < (int)ARRAY_LEN(names) ? names[nr] : NULL;
}

/* ---- a line, without stdio ----------------------------------------------------------------------
 */

struct line {
	char text[256];
	size_t len;
};

static void add(struct line *l, const char *s)
{
	while (*s && l->len < sizeof(l->text))
		l->text[l->len++] = *s++;
}

static void add_number(struct line *l, unsigned value)
{
	char digits[16], *p = &digits[sizeof(digits) - 1];

	*p = '\0';
	do {
		*--p = (char)('0' + value % 10);
		value /= 10;
	} while (value);
	add(l, p);
}

static void add_thread(struct line *l)
{
	char name[17] = "";

	prctl(PR_GET_NAME, name);
	add(l, "lodge: seccomp: thread ");
	add(l, name);
	add(l, " (");
	add(l, my_role);
	add(l, ") ");
}

/* The end of a process that is not to be trusted any more: nothing of it runs again. */
_Noreturn static void say_and_end(struct line *l, int status)
{
	add(l, "\n");
	if (write(STDERR_FILENO, l->text, l->len) < 0) {
		/* nobody reads it */
	}
	for (;;)
		_exit(status);
}

static void violated(int sig, siginfo_t *info, void *context)
{
	struct line l = {.len = 0};
	const char *name;

	(void)context;
	tty_restore();
	if (info->si_code != SYS_SECCOMP) { /* someone sent it */
		signal(sig, SIG_DFL);
		raise(sig);
		return;
	}
	name = sandbox_syscall_name(info->si_syscall);
	add_thread(&l);
	add(&l, "called ");
	add(&l, name ? name : "an unknown system call");
	add(&l, " (");
	add_number(&l, (unsigned)info->si_syscall);
	add(&l, "), which it may not: the VM ends here; please report this");
	say_and_end(&l, LODGE_HOST_FAILED);
}

_Noreturn void sandbox_die(const char *doing, int errnum)
{
	struct line l = {.len = 0};
	const char *text = strerrordesc_np(errnum);

	tty_restore();
	add_thread(&l);
	add(&l, doing);
	add(&l, ": ");
	add(&l, text ? text : "?");
	say_and_end(&l, LODGE_FAILED);
}

int sandbox_trap_install(void)
{
	struct sigaction sa = {.sa_sigaction = violated, .sa_flags = SA_SIGINFO | SA_ONSTACK};

	sigemptyset(&sa.sa_mask);
	return sigaction(SIGSYS, &sa, NULL) ? -errno : 0;
}
