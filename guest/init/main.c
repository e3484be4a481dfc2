/* lodge-init: the walk. See init.h. */
#include "init.h"

#include <stddef.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <termios.h>
#include <unistd.h>

#define CONF	"/lodge.conf"
#define MODULES "/modules/order"
#define NEWROOT "/newroot"

static void power_off(void)
{
	tcdrain(STDERR_FILENO);
	reboot(RB_POWER_OFF);
}

static void without_root(const struct conf *conf, char **argv, char **envp)
{
	if (conf->exec) {
		modules_load(MODULES);
		network_set_up(conf);
		mount_kernel_filesystems("");
		(void)exec_init(conf->exec, argv, envp);
		return;
	}
	say("no root file system and nothing to start; powering off (--root path=...)");
	power_off();
}

static void with_root(const struct conf *conf, char **argv, char **envp)
{
	int agent = agent_open();

	/* device nodes appear here */
	if (mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, NULL) < 0)
		say("this kernel has no devtmpfs (CONFIG_DEVTMPFS); ", conf->root,
		    " will not be found");
	modules_load(MODULES);
	network_set_up(conf);
	if (!root_mount(conf, NEWROOT))
		return;
	mount_kernel_filesystems(NEWROOT);
	if (!switch_root(NEWROOT))
		return;
	network_name_servers(conf);
	agent = agent_start(agent, conf, envp);
	if (exec_init(conf->init, argv, envp))
		return;
	if (agent > 0)
		agent_stay(agent);
	else
		say_no_init();
}

/* The kernel hands on what it did not understand of its command line: words in argv, assignments in
 * envp. They go on to the root's init. */
int main(int argc, char **argv, char **envp)
{
	struct conf conf = {0};

	(void)argc;
	if (conf_read(CONF, &conf)) {
		if (conf.root)
			with_root(&conf, argv, envp);
		else
			without_root(&conf, argv, envp);
	}
	tcdrain(STDERR_FILENO); /* the panic that follows drops what the serial port has not sent */
	return 1;
}
