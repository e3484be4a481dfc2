/*
 * Taking the files from a process: an empty root directory, or Landlock.
 *
 * The root is a tmpfs that is mounted nowhere, read-only: nothing on the host changes, nothing is
 * left behind, and it ends with the process.
 *
 * Source: fsopen(2), fsmount(2), user_namespaces(7), landlock(7).
 */
#include "base/cleanup.h"
#include "control/sandbox/priv.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <linux/mount.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* How users look that a user namespace does not know (/proc/sys/kernel/overflowuid): the user of
 * that number could not be told from them. */
#define OVERFLOW_UID 65534

static bool have_capabilities(void)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	return !syscall(SYS_capget, &head, data) && (data[0].effective || data[1].effective);
}

static int write_file(const char *path, const char *text)
{
	autofd int fd = open(path, O_WRONLY | O_CLOEXEC);

	return fd < 0 || write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

/* The process stays who it is there, and gets what it needs to change its root. */
static int enter_userns(void)
{
	unsigned uid = geteuid(), gid = getegid();
	char map[64];
	int res;

	if (unshare(CLONE_NEWUSER | CLONE_NEWNS))
		return -errno;
	snprintf(map, sizeof(map), "%u %u 1", uid, uid);
	res = write_file("/proc/self/uid_map", map);
	/* a group can be mapped only by who cannot leave his groups */
	if (!res)
		res = write_file("/proc/self/setgroups", "deny");
	snprintf(map, sizeof(map), "%u %u 1", gid, gid);
	return res ? res : write_file("/proc/self/gid_map", map);
}

enum sandbox_root sandbox_root_prepare(bool userns)
{
	if (have_capabilities())
		return SANDBOX_ROOT_EMPTY;
	if (userns && geteuid() != OVERFLOW_UID && !enter_userns())
		return SANDBOX_ROOT_USERNS;
	return sandbox_landlock_abi() ? SANDBOX_ROOT_LANDLOCK : SANDBOX_ROOT_NONE;
}

int sandbox_root_empty(void)
{
	autofd int fs = (int)syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC);
	autofd int root = -1;

	if (fs < 0 || syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		return -errno;
	root = (int)syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC,
			    MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
				MOUNT_ATTR_NOEXEC);
	return root < 0 || fchdir(root) || chroot(".") ? -errno : 0;
}

int sandbox_landlock_abi(void)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

	return abi < 0 ? 0 : (int)abi;
}

/* Everything that ABI 1 knows; what later ones add needs a path as well, which seccomp refuses. */
#define ALL_RIGHTS ((LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1)

int sandbox_landlock(int kept_dir_fd)
{
	const struct landlock_ruleset_attr all = {.handled_access_fs = ALL_RIGHTS};
	const struct landlock_path_beneath_attr kept = {
	    .allowed_access = LANDLOCK_ACCESS_FS_REMOVE_FILE, .parent_fd = kept_dir_fd};
	autofd int rules = (int)syscall(SYS_landlock_create_ruleset, &all, sizeof(all), 0);

	if (rules < 0)
		return -errno;
	if (kept_dir_fd >= 0 &&
	    syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &kept, 0))
		return -errno;
	return syscall(SYS_landlock_restrict_self, rules, 0) ? -errno : 0;
}
