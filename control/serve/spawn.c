/* Spawning the process of a VM. See control/serve/spawn.h. */
#include "control/serve/spawn.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "control/unix_socket.h"
#include "devices/virtio/vsock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHILD_FD   3 /* of the socket, in the child */
#define VSOCK_NAME "vsock"
/* The StartVm is there before the process is; only one whose server died waits longer. */
#define IDLE_TIMEOUT_S "10"

int serve_spawn_dir(const char *runtime_dir, char ret_dir[PATH_MAX], int *ret_fd, struct err *err)
{
	char path[PATH_MAX], dir[PATH_MAX];

	if ((size_t)snprintf(dir, sizeof(dir), "%s/vm.XXXXXX", runtime_dir) >=
		sizeof(dir) - sizeof("/socket") ||
	    !mkdtemp(dir))
		return err_sys(err, errno, "no runtime directory in %s", runtime_dir);
	memcpy(ret_dir, dir, sizeof(dir));
	snprintf(path, sizeof(path), "%.*s/socket", (int)sizeof(path) - 16, dir);
	return unix_listen(path, NULL, ret_fd, err);
}

/* What it inherits and what not. */
static int spawn(int socket_fd, char *const *argv, pid_t *ret_pid)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none;
	int res;

	sigemptyset(&none);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attr);
	/* its log goes where ours does; it keeps nothing else open for whoever reads our output */
	posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDWR, 0);
	posix_spawn_file_actions_adddup2(&actions, STDIN_FILENO, STDOUT_FILENO);
	posix_spawn_file_actions_adddup2(&actions, socket_fd, CHILD_FD);
	posix_spawn_file_actions_addclosefrom_np(&actions, CHILD_FD + 1);
	/* a session of its own: what is typed at this process's terminal is not for VMs */
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK);
	posix_spawnattr_setsigmask(&attr, &none);
	res = posix_spawn(ret_pid, "/proc/self/exe", &actions, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	return res;
}

int serve_spawn(int socket_fd, const char *dir, const char *component_root, const char *log_level,
		bool sandbox, const struct identity *identity, pid_t *ret_pid, struct err *err)
{
	char name[] = "lodge", command[] = "vmm", option[] = "--socket-fd", log[] = "--log";
	char fd_text[16], level[16], idle[] = "--idle-timeout=" IDLE_TIMEOUT_S;
	char vsock[] = "--vsock-socket", path[VSOCK_PATH_MAX + 1];
	bool has_vsock = (size_t)snprintf(path, sizeof(path), "%s/" VSOCK_NAME, dir) < sizeof(path);
	char files_of[] = "--files-of", locked[] = "--sandbox=on", free[] = "--sandbox=off";
	char root_option[] = "--component-root";
	autofree char *whose = identity ? identity_text(identity) : NULL;
	char *argv[16] = {
	    name, command, option, fd_text, log, level, idle, sandbox ? locked : free, root_option};
	size_t n = 9;
	int res;

	memcpy(&argv[n++], &component_root, sizeof(component_root)); /* is not written to */
	if (identity && !whose)
		return err_set(err, ENOMEM, "out of memory");
	if (identity) {
		argv[n++] = files_of;
		argv[n++] = whose;
	}
	if (has_vsock) {
		argv[n++] = vsock;
		argv[n++] = path;
	} else {
		log_warn("control: %s: too long a path for a vsock socket in it; the host's "
			 "programs cannot reach the guest",
			 dir);
	}
	snprintf(fd_text, sizeof(fd_text), "%d", CHILD_FD);
	snprintf(level, sizeof(level), "%s", log_level);
	res = spawn(socket_fd, argv, ret_pid);
	return res ? err_sys(err, res, "the VM's process cannot be started") : 0;
}

/* Sockets are all that is in it: of the VM's process, and of programs that the guest can reach. */
static void empty_dir(const char *path)
{
	DIR *dir = opendir(path);
	const struct dirent *e;

	while (dir && (e = readdir(dir))) {
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			unlinkat(dirfd(dir), e->d_name, 0);
	}
	if (dir)
		closedir(dir);
}

void serve_spawn_remove_dir(const char *dir)
{
	if (!*dir)
		return;
	empty_dir(dir);
	if (rmdir(dir) && errno != ENOENT)
		log_warn("control: %s: %s", dir, strerror(errno));
}
