/* What this host has to lock a process in with, for `lodge doctor`. */
#include "control/sandbox/priv.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

bool sandbox_has_seccomp(void)
{
	static const uint32_t action = SECCOMP_RET_TRAP;

	return !syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action);
}

/* What a process of this user gets. The root changes in the child alone, which then ends. */
enum sandbox_root sandbox_probe_root(void)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		enum sandbox_root root = sandbox_root_prepare(true);

		if (root <= SANDBOX_ROOT_USERNS && sandbox_root_empty())
			root = SANDBOX_ROOT_NONE;
		syscall(SYS_exit_group, (int)root);
	}
	if (pid > 0) {
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
		if (WIFEXITED(status) && WEXITSTATUS(status) <= SANDBOX_ROOT_USERNS)
			return (enum sandbox_root)WEXITSTATUS(status);
	}
	return sandbox_landlock_abi() ? SANDBOX_ROOT_LANDLOCK : SANDBOX_ROOT_NONE;
}
