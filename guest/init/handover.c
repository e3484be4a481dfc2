/* Handing over: the kernel's file systems, the new root, and its init. */
#include "init.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#define PATH_BYTES_MAX 64

static const struct {
	const char *dir, *type;
	unsigned long flags;
} kernel_filesystems[] = {
    {"/dev", "devtmpfs", MS_NOSUID},
    {"/proc", "proc", MS_NOSUID | MS_NOEXEC | MS_NODEV},
    {"/sys", "sysfs", MS_NOSUID | MS_NOEXEC | MS_NODEV},
};

#define NFILESYSTEMS (sizeof(kernel_filesystems) / sizeof(kernel_filesystems[0]))

void mount_kernel_filesystems(const char *root)
{
	char path[PATH_BYTES_MAX];

	for (size_t i = 0; i < NFILESYSTEMS; i++) {
		const char *type = kernel_filesystems[i].type;

		strcpy(stpcpy(path, root), kernel_filesystems[i].dir);
		/* a root without the directory does without the file system; one that has it
		 * mounted (EBUSY) keeps it */
		if (mount(type, path, type, kernel_filesystems[i].flags, NULL) < 0 &&
		    errno != ENOENT && errno != EBUSY)
			say("cannot mount ", type, " on ", path, ": ", strerror(errno));
	}
}

/* Removes all that lies in the directory, on this file system only. */
static void remove_tree(int dirfd, dev_t dev)
{
	DIR *dir = fdopendir(dirfd);
	const struct dirent *entry;

	if (!dir) {
		close(dirfd);
		return;
	}
	while ((entry = readdir(dir))) {
		struct stat st;

		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (fstatat(dirfd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || st.st_dev != dev)
			continue;
		if (S_ISDIR(st.st_mode)) {
			int sub = openat(dirfd, entry->d_name,
					 O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

			if (sub >= 0)
				remove_tree(sub, dev);
			unlinkat(dirfd, entry->d_name, AT_REMOVEDIR);
		} else {
			unlinkat(dirfd, entry->d_name, 0);
		}
	}
	closedir(dir);
}

/* The initramfs lies in memory that nothing frees but removing its files. Anything else than such a
 * file system is left alone. */
static void free_initramfs(int rootfd)
{
	struct statfs fs;
	struct stat st;

	if (fstatfs(rootfd, &fs) == 0 && fstat(rootfd, &st) == 0 &&
	    (fs.f_type == RAMFS_MAGIC || fs.f_type == TMPFS_MAGIC))
		remove_tree(rootfd, st.st_dev);
	else
		close(rootfd);
}

bool switch_root(const char *target)
{
	int old = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	/* our own devtmpfs: the new root has one by now */
	umount2("/dev", MNT_DETACH);
	if (chdir(target) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 ||
	    chdir("/") < 0) {
		say("cannot make ", target, " the root: ", strerror(errno));
		return false;
	}
	if (old >= 0)
		free_initramfs(old);
	return true;
}

static int try_exec(const char *program, char **argv, char **envp)
{
	memcpy(&argv[0], &program, sizeof(program)); /* execve() changes none of them */
	execve(program, argv, envp);
	return errno;
}

bool exec_init(const char *init, char **argv, char **envp)
{
	static const char *const usual[] = {"/sbin/init", "/etc/init", "/bin/init", "/bin/sh"};
	bool found = false;
	int e;

	if (init) {
		/* another program than the one that was asked for would only hide the mistake */
		e = try_exec(init, argv, envp);
		say("cannot start ", init, ": ", strerror(e),
		    e == ENOENT ? "; neither it nor its interpreter is on this root (--init)" : "");
		return true;
	}
	for (size_t i = 0; i < sizeof(usual) / sizeof(usual[0]); i++) {
		e = try_exec(usual[i], argv, envp);
		if (e == ENOENT)
			continue;
		say("cannot start ", usual[i], ": ", strerror(e));
		found = true;
	}
	return found;
}

void say_no_init(void)
{
	say("no init found on this root: neither /sbin/init nor /bin/sh; is it the right disk or "
	    "partition? (--root path=..., --init)");
}
