/* Programs of the guest that a job needs (mkfs). See guest/agent/job.h. */
#include "guest/agent/job.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATH_USUAL "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* The end of what a failing program says is what matters. */
#define SAID_BYTES 256

#define ARGS_MAX 15

static _Noreturn void child(const char *const *argv, int out)
{
	static char path[] = PATH_USUAL, lang[] = "LC_ALL=C";
	static char *env[] = {path, lang, NULL};
	char *args[ARGS_MAX + 1] = {0};

	for (int i = 0; i < ARGS_MAX && argv[i]; i++)
		args[i] = strdup(argv[i]);
	dup2(out, STDOUT_FILENO);
	dup2(out, STDERR_FILENO);
	environ = env;
	execvp(args[0], args);
	_exit(errno == ENOENT ? 127 : 126);
}

/* The last line of what comes, until the end. */
static void read_last_line(int fd, char line[static SAID_BYTES])
{
	char text[SAID_BYTES];
	size_t len = 0;
	ssize_t n;

	line[0] = '\0';
	while ((n = read(fd, text, sizeof(text))) > 0 || (n < 0 && errno == EINTR)) {
		for (ssize_t i = 0; i < n; i++) {
			if (len && line[len - 1] == '\n' && text[i] != '\n')
				len = 0;
			if (len < SAID_BYTES - 1 && (text[i] != '\n' || len))
				line[len++] = text[i];
		}
	}
	while (len && line[len - 1] == '\n')
		len--;
	line[len] = '\0';
}

int job_run_program(const char *const *argv, struct err *err)
{
	char said[SAID_BYTES];
	int pipefd[2], status = 0;
	pid_t pid;

	if (pipe2(pipefd, O_CLOEXEC) < 0)
		return err_sys(err, errno, "a pipe for %s", argv[0]);
	pid = fork();
	if (pid == 0)
		child(argv, pipefd[1]);
	close(pipefd[1]);
	if (pid < 0) {
		close(pipefd[0]);
		return err_sys(err, errno, "fork");
	}
	read_last_line(pipefd[0], said);
	close(pipefd[0]);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		return err_set(err, ENOENT, "%s is not in the guest", argv[0]);
	if (status)
		return err_set(err, EIO, "%s failed: %s", argv[0],
			       said[0] ? said : "no reason given");
	return 0;
}
