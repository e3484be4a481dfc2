/* See control/share/jail.h. */
#include "control/share/jail.h"

#include "base/checked.h"
#include "control/share/jail_priv.h"
#include "control/share/preload/handles.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/mount.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define LIBRARY "/lodge/handles.so"

extern const uint8_t share_handles_start[], share_handles_end[];

/* Of the host's root: what a program needs to run. Symbolic links stay such. */
static const char *const system_parts[] = {"usr",      "bin",	     "sbin",   "lib",
					   "lib32",    "lib64",	     "libx32", "etc/ld.so.cache",
					   "dev/null", "dev/urandom"};
static const char *const folders[] = {"etc", "dev", "proc", "run", "share", "lodge"};

/* What libtirpc wants to know of TCP: netconfig(5), and how users are looked up: not at all. */
static const char netconfig[] = "tcp tpi_cots_ord v inet tcp - -\n"
				"tcp6 tpi_cots_ord v inet6 tcp - -\n"
				"udp tpi_clts v inet udp - -\n"
				"udp6 tpi_clts v inet6 udp - -\n"
				"local tpi_cots_ord - loopback - - -\n";
static const char hosts[] = "127.0.0.1 localhost\n";
static const char nsswitch[] = "passwd: files\ngroup: files\nhosts: files\n";

int jail_init(struct jail *jail, struct err *err)
{
	uint32_t name[3];

	if (getrandom(jail->key, sizeof(jail->key), 0) != sizeof(jail->key) ||
	    getrandom(name, sizeof(name), 0) != sizeof(name))
		return err_sys(err, errno, "random numbers");
	/* clients take servers of one name for the same one */
	snprintf(jail->host_name, sizeof(jail->host_name), "lodge%08x%08x", name[0], name[1]);
	return 0;
}

/* ---- the root, in the keeper --------------------------------------------------------------------
 */

/* A copy of the mount that `path` is in, mounted nowhere; from `path` down. */
static int copy_tree(int dir, const char *path, uint64_t attributes)
{
	const unsigned empty = *path ? 0 : AT_EMPTY_PATH;
	struct mount_attr attr = {.attr_set = attributes | MOUNT_ATTR_NOSUID,
				  .propagation = MS_PRIVATE};
	int tree =
	    (int)syscall(SYS_open_tree, dir, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | empty);

	if (tree < 0)
		return -errno;
	if (syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attr, sizeof(attr))) {
		int code = errno;

		close(tree);
		return -code;
	}
	return tree;
}

static int attach(int tree, int root, const char *path)
{
	int res =
	    syscall(SYS_move_mount, tree, "", root, path, MOVE_MOUNT_F_EMPTY_PATH) ? -errno : 0;

	close(tree);
	return res;
}

/* A tmpfs, mounted nowhere. */
static int make_tmpfs(const char *size)
{
	int fs = (int)syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC), root;

	if (fs < 0)
		return -errno;
	if (syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "size", size, 0) ||
	    syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "mode", "0755", 0) ||
	    syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		root = -1;
	else
		root = (int)syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC,
				    MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
	close(fs);
	return root < 0 ? -errno : root;
}

static int write_file(int root, const char *path, const void *data, size_t len, mode_t mode)
{
	int fd = openat(root, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode), res = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, data, len) != (ssize_t)len)
		res = -ENOSPC;
	close(fd);
	return res;
}

static int write_files(const struct jail *jail, int root)
{
	int res = write_file(root, HANDLES_KEY + 1, jail->key, sizeof(jail->key), 0400);

	if (!res)
		res = write_file(root, JAIL_CONF + 1, jail->conf, strlen(jail->conf), 0444);
	if (!res)
		res =
		    write_file(root, LIBRARY + 1, share_handles_start,
			       (uintptr_t)share_handles_end - (uintptr_t)share_handles_start, 0444);
	if (!res)
		res = write_file(root, "etc/netconfig", netconfig, sizeof(netconfig) - 1, 0444);
	if (!res)
		res = write_file(root, "etc/nsswitch.conf", nsswitch, sizeof(nsswitch) - 1, 0444);
	if (!res)
		res = write_file(root, "etc/hosts", hosts, sizeof(hosts) - 1, 0444);
	if (!res && (symlinkat("/proc/self/mounts", root, "etc/mtab") ||
		     symlinkat("run", root, "tmp") || symlinkat("run", root, "var")))
		res = -errno;
	return res;
}

/* Something for the host's `part` to be mounted on; 1: there is none, or nothing to mount. */
static int prepare_part(int root, const char *part)
{
	char path[64], target[PATH_MAX];
	struct stat st;
	ssize_t n;

	snprintf(path, sizeof(path), "/%s", part);
	if (lstat(path, &st))
		return 1;
	if (S_ISDIR(st.st_mode))
		return mkdirat(root, part, 0755) ? -errno : 0;
	if (!S_ISLNK(st.st_mode))
		return write_file(root, part, "", 0, 0444);
	n = readlink(path, target, sizeof(target) - 1);
	if (n < 0)
		return -errno;
	target[n] = '\0';
	return symlinkat(target, root, part) ? -errno : 1;
}

/* The root is made, but for the new namespace that mounts are put into. */
struct building {
	int root;
	int share;
	int parts[ARRAY_LEN(system_parts)]; /* -1: none */
};

static int collect(const struct jail *jail, struct building *b, const char **ret_what)
{
	int res = 0;

	*ret_what = "a root of its own";
	b->root = make_tmpfs("4m");
	if (b->root < 0)
		return b->root;
	for (size_t i = 0; i < ARRAY_LEN(folders) && !res; i++)
		res = mkdirat(b->root, folders[i], 0755) ? -errno : 0;
	if (!res)
		res = write_files(jail, b->root);
	for (size_t i = 0; i < ARRAY_LEN(system_parts) && !res; i++) {
		char path[64];

		snprintf(path, sizeof(path), "/%s", system_parts[i]);
		*ret_what = system_parts[i];
		b->parts[i] = -1;
		res = prepare_part(b->root, system_parts[i]);
		if (!res)
			res = b->parts[i] = copy_tree(AT_FDCWD, path, MOUNT_ATTR_RDONLY);
		res = MIN(res, 0);
	}
	if (res)
		return res;
	*ret_what = "the directory";
	b->share = copy_tree(jail->dir, "",
			     MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC |
				 (jail->read_only ? MOUNT_ATTR_RDONLY : 0));
	return MIN(b->share, 0);
}

static int mount_all(const struct building *b, const char **ret_what)
{
	struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY};
	int run, res = 0;

	*ret_what = "mounting a root of its own";
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return -errno;
	if (syscall(SYS_move_mount, b->root, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH))
		return -errno;
	for (size_t i = 0; i < ARRAY_LEN(system_parts) && !res; i++) {
		if (b->parts[i] >= 0)
			res = attach(b->parts[i], b->root, system_parts[i]);
	}
	if (!res)
		res = attach(b->share, b->root, JAIL_SHARE + 1);
	run = res ? res : make_tmpfs("64m");
	res = run < 0 ? run : attach(run, b->root, "run");
	if (!res && mkdirat(b->root, JAIL_STATE + 1, 0755))
		res = -errno;
	if (!res && syscall(SYS_mount_setattr, b->root, "", AT_EMPTY_PATH, &attr, sizeof(attr)))
		res = -errno;
	return res;
}

static int build(void *ctx, const char **ret_what)
{
	const struct jail *jail = ctx;
	struct building b;
	int res;

	umask(0);
	res = collect(jail, &b, ret_what);
	if (res)
		return res;
	*ret_what = "namespaces of its own";
	if (unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS) ||
	    sethostname(jail->host_name, strlen(jail->host_name)))
		return -errno;
	res = mount_all(&b, ret_what);
	if (res)
		return res;
	*ret_what = "changing to a root of its own";
	/* pivot_root(2): the old root ends up on the new one, and is taken off */
	if (fchdir(b.root) || syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) ||
	    chdir("/"))
		return -errno;
	return 0;
}

/* ---- its processes ------------------------------------------------------------------------------
 */

/* Process 1 of the namespace. It ends with the keeper, and all others with it. */
static void wait_for_program(pid_t pid)
{
	int status = 0;

	close_range(0, ~0U, 0);
	while (waitpid(pid, &status, 0) != pid)
		;
	syscall(SYS_exit_group, WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
}

static int enter(void *ctx, const char **ret_what)
{
	pid_t pid;

	(void)ctx;
	*ret_what = "/proc";
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) ||
	    /* read-only: to root's number alone much of it would be writable */
	    mount("proc", "/proc", "proc", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
		  "subset=pid"))
		return -errno;
	*ret_what = "fork";
	pid = (pid_t)syscall(SYS_clone, (unsigned long)SIGCHLD, NULL, NULL, NULL, NULL);
	if (pid < 0)
		return -errno;
	if (pid)
		wait_for_program(pid);
	return jail_confine(ret_what);
}

struct child_jail jail_child(struct jail *jail)
{
	static char preload[] = "LD_PRELOAD=" LIBRARY;

	return (struct child_jail){.build = build,
				   .enter = enter,
				   .namespaces = CLONE_NEWPID | CLONE_NEWNS,
				   .variable = preload,
				   .ctx = jail};
}
