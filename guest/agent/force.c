/*
 * The guest's end without an init: as umount -a and halt -f do it. See guest/agent/shutdown.h.
 *
 *	TERM to all -> wait -> KILL to all -> sync -> unmount, topmost first -> the rest read-only
 *-> sync -> reboot(2)
 */
#include "guest/agent/shutdown.h"

#include "base/checked.h"
#include "guest/agent/mounts.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

#define TERM_WAIT_MS 2000
#define KILL_WAIT_MS 1000
#define LOOK_MS	     10

/* A mount below another goes in the next round. */
#define UNMOUNT_ROUNDS 8

/* Kernel threads have no executable. */
static bool is_user_process(const char *pid)
{
	char path[300], exe[8];

	snprintf(path, sizeof(path), "/proc/%s/exe", pid);
	return readlink(path, exe, sizeof(exe)) > 0;
}

/* Is there a process beside init and this one? */
static bool others_live(void)
{
	DIR *dir = opendir("/proc");
	const struct dirent *entry;
	bool found = false;

	while (dir && !found && (entry = readdir(dir))) {
		long pid = isdigit((unsigned char)entry->d_name[0]) ? atol(entry->d_name) : 1;

		found = pid != 1 && pid != getpid() && is_user_process(entry->d_name);
	}
	if (dir)
		closedir(dir);
	return found;
}

static void signal_all(int sig, int wait_ms)
{
	kill(-1, sig); /* all but process 1 and this one */
	for (int ms = 0; ms < wait_ms; ms += LOOK_MS) {
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		if (!others_live())
			return;
		usleep(LOOK_MS * 1000);
	}
}

/* True: one was unmounted. */
static bool unmount_round(void)
{
	struct mounts mounts;
	bool any = false;

	if (mounts_read(&mounts, NULL) == 0) {
		for (size_t i = mounts.n; i-- > 0;) {
			const char *target = mounts.entries[i].target;

			/* what the rest of this needs goes with the kernel */
			if (!strcmp(target, "/") || !strcmp(target, "/proc") ||
			    !strcmp(target, "/dev"))
				continue;
			any |= umount2(target, UMOUNT_NOFOLLOW) == 0;
		}
	}
	mounts_free(&mounts);
	return any;
}

/* Where something is open for writing still, which can be process 1 only, a freeze leaves the file
 * system as an unmount would, for the little that it has to live. */
static void make_one_read_only(const char *target)
{
	int fd;

	if (mount(NULL, target, NULL, MS_REMOUNT | MS_RDONLY, NULL) == 0)
		return;
	fd = open(target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return;
	(void)ioctl(fd, FIFREEZE, 0);
	close(fd);
}

/* What could not be unmounted, the root above all. A bind mount of a part says nothing of the whole
 * file system. */
static void make_read_only(void)
{
	struct mounts mounts;

	if (mounts_read(&mounts, NULL) == 0) {
		for (size_t i = mounts.n; i-- > 0;) {
			const struct mount_entry *m = &mounts.entries[i];

			if (mount_on_device(m) && !m->read_only &&
			    (!strcmp(m->root, "/") || !strcmp(m->fstype, "btrfs")))
				make_one_read_only(m->target);
		}
	}
	mounts_free(&mounts);
}

int shutdown_force(bool reboot_after)
{
	signal_all(SIGTERM, TERM_WAIT_MS);
	signal_all(SIGKILL, KILL_WAIT_MS);
	sync();
	for (int i = 0; i < UNMOUNT_ROUNDS && unmount_round(); i++)
		;
	make_read_only();
	sync();
	return reboot(reboot_after ? RB_AUTOBOOT : RB_POWER_OFF) < 0 ? -errno : 0;
}
