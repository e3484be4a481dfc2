/* Starting the agent: see init.h. */
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define ENV_MAX 32 /* the kernel gives init as many */

int agent_open(void)
{
	int fd = open(AGENT_PATH, O_RDONLY | O_CLOEXEC);

	if (fd < 0 && errno != ENOENT)
		say("cannot open " AGENT_PATH ": ", strerror(errno));
	return fd;
}

/* An option with its value, behind what is there; execveat() changes none of them. */
static char **add_option(char **at, char *option, const char *value)
{
	if (!value)
		return at;
	at[0] = option;
	memcpy(&at[1], &value, sizeof(value));
	return at + 2;
}

/* The kernel's variables of init, and the token: by the environment, which root alone can read. */
static char **add_token(char **envp, const char *token)
{
	static char *env[ENV_MAX + 2], variable[160] = "LODGE_AGENT_TOKEN=";
	size_t n = 0, len = strlen(variable);

	if (!token || strlen(token) >= sizeof(variable) - len)
		return envp;
	for (; n < ENV_MAX && envp[n]; n++)
		env[n] = envp[n];
	memcpy(variable + len, token, strlen(token) + 1);
	env[n] = variable;
	return env;
}

int agent_start(int fd, const struct conf *conf, char **envp)
{
	static char name[] = "@lodge-agent", listen[] = "--listen", ready[] = "--ready";
	char *argv[6] = {name};
	char **at = argv + 1;
	pid_t pid;

	if (fd < 0)
		return -1;
	at = add_option(at, listen, conf->agent);
	add_option(at, ready, conf->ready);
	envp = add_token(envp, conf->token);
	pid = fork();
	if (pid == 0) {
		setsid();
		/* its file is gone from the initramfs: by descriptor */
		syscall(SYS_execveat, fd, "", argv, envp, AT_EMPTY_PATH);
		say("cannot start the agent: ", strerror(errno));
		_exit(1);
	}
	if (pid < 0)
		say("cannot start the agent: ", strerror(errno));
	close(fd);
	return pid;
}

/* What programs expect, and no init of the root will mount. */
static void mount_the_rest(void)
{
	static const struct {
		const char *dir, *type, *data;
		unsigned long flags;
	} rest[] = {
	    {"/dev/pts", "devpts", "mode=620,ptmxmode=666", MS_NOSUID | MS_NOEXEC},
	    {"/dev/shm", "tmpfs", "mode=1777", MS_NOSUID | MS_NODEV},
	    {"/run", "tmpfs", "mode=755", MS_NOSUID | MS_NODEV},
	};

	for (size_t i = 0; i < sizeof(rest) / sizeof(rest[0]); i++) {
		mkdir(rest[i].dir, 0755);
		mount(rest[i].type, rest[i].dir, rest[i].type, rest[i].flags, rest[i].data);
	}
}

void agent_stay(int agent)
{
	pid_t pid;

	say("no init found on this root; the agent alone runs");
	/* the agent knows it by that: it takes no part in shutdown */
	prctl(PR_SET_NAME, "lodge-init");
	mount_the_rest();
	do
		pid = wait(NULL);
	while (pid != agent && (pid > 0 || errno == EINTR));
	say("the agent has ended");
}
