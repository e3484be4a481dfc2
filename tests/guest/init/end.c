/*
 * The ways in which a guest ends, or does not.
 */
#include "guest.h"

#include <arch_host.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <termios.h>
#include <unistd.h>

#include <linux/input.h>

#define INPUTS_MAX 8

/* The kernel does not wait for a serial port to send what it holds. */
static void drain_console(void)
{
	tcdrain(STDOUT_FILENO);
}

int cmd_poweroff(const struct args *args)
{
	(void)args;
	drain_console();
	reboot(RB_POWER_OFF);
	return fail("power off: %s", strerror(errno));
}

/* How, is the kernel's choice: reboot=k, a, p or t on its command line. */
int cmd_reboot(const struct args *args)
{
	(void)args;
	drain_console();
	reboot(RB_AUTOBOOT);
	return fail("reboot: %s", strerror(errno));
}

int cmd_panic(const struct args *args)
{
	(void)args;
	drain_console();
	if (write_file("/proc/sysrq-trigger", "c"))
		return fail("sysrq-trigger: %s", strerror(errno));
	return fail("the kernel lives");
}

/* The kernel panics when its first process ends. */
int cmd_exit(const struct args *args)
{
	drain_console();
	_exit((int)arg_number(args, 0, 0));
}

/* sleep[:SECONDS], or for good */
int cmd_sleep(const struct args *args)
{
	say("sleeping");
	if (args->n)
		sleep((unsigned)arg_number(args, 0, 0));
	else
		for (;;)
			pause();
	return 0;
}

/* Keeps a processor busy for good, without a system call. */
int cmd_spin(const struct args *args)
{
	(void)args;
	say("spinning");
	for (;;)
		host_relax();
}

/* Waits until the ACPI power button is pressed. */
int cmd_button(const struct args *args)
{
	struct pollfd fds[INPUTS_MAX];
	struct input_event event;
	nfds_t n = 0;

	(void)args;
	for (unsigned i = 0; i < INPUTS_MAX; i++) {
		char path[32];

		snprintf(path, sizeof(path), "/dev/input/event%u", i);
		fds[n].fd = open(path, O_RDONLY | O_CLOEXEC);
		fds[n].events = POLLIN;
		n += fds[n].fd >= 0;
	}
	if (!n)
		return fail("no input devices: the kernel has found no button");
	say("watching %u", (unsigned)n);
	for (;;) {
		if (poll(fds, n, -1) < 0)
			return fail("poll: %s", strerror(errno));
		for (nfds_t i = 0; i < n; i++)
			if (fds[i].revents &&
			    read(fds[i].fd, &event, sizeof(event)) == sizeof(event) &&
			    event.type == EV_KEY && event.code == KEY_POWER && event.value) {
				say("pressed");
				return 0;
			}
	}
}
