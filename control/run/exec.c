/* `lodge run --exec`. See control/run/exec.h. */
#include "control/run/exec.h"

#include "base/cleanup.h"
#include "control/remote/session.h"
#include "control/terminal/tty.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* Its exit status, 128 and its signal, or LODGE_HOST_FAILED. */
static int wait_for(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			return LODGE_HOST_FAILED;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : LODGE_SIGNALLED + WTERMSIG(status);
}

/* Keys of the terminal are not for it, and it has neither input nor output. */
static int become_machine(int (*machine)(void *ctx, int fd), void *ctx, int fd)
{
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null_fd >= 0) {
		dup2(null_fd, STDIN_FILENO);
		dup2(null_fd, STDOUT_FILENO);
		close(null_fd);
	}
	setpgid(0, 0);
	return machine(ctx, fd);
}

static int run_session(const char *command, struct lodge_client *client)
{
	static const struct remote_command run_command = {.name = "run",
							  .failed_as = SESSION_FAILED};
	struct remote_options options = {.socket = NULL};
	struct remote r = {.command = &run_command, .options = &options, .client = client};
	Lodge__Agent__V1__ExecStart start = LODGE__AGENT__V1__EXEC_START__INIT;
	struct session_spec spec = {
	    .vm = "run", .start = &start, .terminal = session_on_terminal(), .input = true};
	const char *term = getenv("TERM");
	autofree char *variable = NULL;
	char *argv[] = {remote_borrow("/bin/sh"), remote_borrow("-c"), remote_borrow(command)};

	start.argv = argv;
	start.n_argv = 3;
	if (spec.terminal && term && *term && asprintf(&variable, "TERM=%s", term) > 0) {
		start.env = &variable;
		start.n_env = 1;
	}
	return session_run(&r, &spec);
}

/* Takes `fd` over. */
static int run_client(const char *command, int fd, pid_t pid)
{
	struct lodge_client *client;
	struct lodge_error error;
	char ready;
	ssize_t n;
	int status;

	do
		n = read(fd, &ready, 1);
	while (n < 0 && errno == EINTR);
	if (n != 1) {
		close(fd);
		return wait_for(pid);
	}
	if (lodge_adopt(fd, &client, &error)) {
		tty_say("lodge run: %s", error.text);
		status = SESSION_FAILED;
	} else {
		status = run_session(command, client);
		lodge_close(client);
	}
	wait_for(pid);
	return status;
}

int run_exec(const char *command, int (*machine)(void *ctx, int fd), void *ctx)
{
	int fds[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds)) {
		tty_say("lodge run: socketpair: %s", strerror(errno));
		return LODGE_FAILED;
	}
	fflush(NULL);
	pid = fork();
	if (pid < 0) {
		tty_say("lodge run: fork: %s", strerror(errno));
		close(fds[0]);
		close(fds[1]);
		return LODGE_FAILED;
	}
	if (!pid) {
		close(fds[0]);
		return become_machine(machine, ctx, fds[1]);
	}
	close(fds[1]);
	return run_client(command, fds[0], pid);
}
