/* Mount and Unmount. See proto/agent.proto, mount(2). */
#include "guest/agent/calls.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/filesystem.h"
#include "proto/agent.pb-c.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLANK_START_BYTES \
	(1 * MIB)		   /* every file system has a superblock, or a part of one, there */
#define BLANK_END_BYTES (64 * KIB) /* the second copy of a GPT, a RAID's label */
#define WAIT_MS_MAX	60000
#define LOOK_AGAIN_US	5000
#define MAKE_BYTES_MAX	4096

/* ---- target -------------------------------------------------------------------------------------
 */

/* As mkdir -p. */
static int make_directories(const char *path, struct err *err)
{
	char part[MAKE_BYTES_MAX];

	if (strlen(path) >= sizeof(part))
		return err_set(err, ENAMETOOLONG, "the path is too long");
	strcpy(part, path);
	for (char *p = part + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		if (mkdir(part, 0755) < 0 && errno != EEXIST)
			return err_sys(err, errno, "making %s", part);
		*p = '/';
	}
	if (mkdir(part, 0755) < 0 && errno != EEXIST)
		return err_sys(err, errno, "making %s", part);
	return 0;
}

static int prepare_target(const char *target, struct err *err)
{
	struct stat st;

	if (target[0] != '/')
		return err_set(err, EINVAL, "target '%s' is not an absolute path", target);
	/* of a bind mount it may be a file */
	return stat(target, &st) == 0 ? 0 : make_directories(target, err);
}

/* ---- source -------------------------------------------------------------------------------------
 */

/* A device appears when the kernel has found it, which may be later than this call. */
static void wait_for_source(const char *source, unsigned wait_ms)
{
	unsigned tries = MIN(wait_ms, WAIT_MS_MAX) * 1000 / LOOK_AGAIN_US;

	if (strncmp(source, "/dev/", 5) != 0)
		return;
	while (tries-- && access(source, F_OK) < 0 && errno == ENOENT)
		usleep(LOOK_AGAIN_US);
}

/* 1: zeroes alone; 0: not; -errno. */
static int is_zero(int fd, uint64_t offset, uint64_t len)
{
	uint8_t buf[16384];

	while (len) {
		ssize_t n = pread(fd, buf, MIN(len, sizeof(buf)), (off_t)offset);

		if (n < 0)
			return -errno;
		if (n == 0)
			return 1;
		if (buf[0] || memcmp(buf, buf + 1, (size_t)n - 1) != 0)
			return 0;
		offset += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 1;
}

static int is_blank(const char *device, struct err *err)
{
	autofd int fd = open(device, O_RDONLY | O_CLOEXEC);
	uint64_t size = 0;
	int res;

	if (fd < 0)
		return err_sys(err, errno, "%s", device);
	if (ioctl(fd, BLKGETSIZE64, &size) < 0)
		return err_set(err, ENOTBLK, "%s is not a block device", device);
	res = is_zero(fd, 0, BLANK_START_BYTES);
	if (res > 0 && size > BLANK_END_BYTES)
		res = is_zero(fd, size - BLANK_END_BYTES, BLANK_END_BYTES);
	return res < 0 ? err_sys(err, -res, "reading %s", device) : res;
}

/* What is on the device, as filesystem_find() names it; NULL: nobody knows. */
static const char *what_is_on(const char *device)
{
	autofd int fd = open(device, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	bool mountable;

	return fd < 0 ? NULL : filesystem_find(fd, &mountable);
}

/* A mkfs.btrfs that was cut leaves a number of its own, and nothing of anybody else's. */
static bool is_unfinished(const char *device, const char *fstype)
{
	const char *what = strcmp(fstype, "btrfs") != 0 ? NULL : what_is_on(device);

	return what && strstr(what, "unfinished btrfs");
}

static int make_filesystem(const char *device, const char *fstype, struct err *err)
{
	char program[64];
	const char *argv[5] = {program};
	int n = 1;

	if (!fstype[0] || strspn(fstype, "abcdefghijklmnopqrstuvwxyz0123456789") != strlen(fstype))
		return err_set(err, EINVAL, "file system '%.40s' has no mkfs", fstype);
	snprintf(program, sizeof(program), "mkfs.%.40s", fstype);
	if (!strncmp(fstype, "ext", 3)) {
		argv[n++] = "-q";
		argv[n++] = "-F"; /* no questions */
	}
	argv[n] = device;
	return job_run_program(argv, err);
}

/* ---- calls --------------------------------------------------------------------------------------
 */

static const char *cure(int error)
{
	switch (error) {
	case ENODEV:
		return "; the guest's kernel has no such file system, nor is a module of it loaded";
	case EINVAL:
		return "; is it another file system, or blank?";
	case EBUSY:
		return "; it is mounted already, or in use";
	case ENOTBLK:
		return "; the source must be a block device";
	default:
		return "";
	}
}

int call_mount(const ProtobufCMessage *message, ProtobufCMessage *reply, struct err *err)
{
	const Lodge__Agent__V1__MountRequest *r = (const Lodge__Agent__V1__MountRequest *)message;
	Lodge__Agent__V1__MountResponse *ret = (Lodge__Agent__V1__MountResponse *)reply;
	unsigned long flags = (unsigned long)r->flags;
	const char *what;
	int res;

	wait_for_source(r->source, r->wait_ms);
	res = prepare_target(r->target, err);
	if (res) {
		err_prefix(err, "mounting %s on %s", r->source, r->target);
		return res;
	}
	if (r->mkfs_if_blank) {
		res = is_blank(r->source, err);
		if (!res)
			res = is_unfinished(r->source, r->fstype);
		if (res > 0) {
			res = make_filesystem(r->source, r->fstype, err);
			ret->made = !res;
		}
		if (res < 0) {
			err_prefix(err, "mounting %s on %s", r->source, r->target);
			return res;
		}
	}
	if (mount(r->source, r->target, r->fstype[0] ? r->fstype : NULL, flags,
		  r->data[0] ? r->data : NULL) == 0)
		return 0;
	res = errno;
	what = res == EINVAL ? what_is_on(r->source) : NULL;
	return err_set(err, res, "mounting %s on %s%s%s: %s%s%s", r->source, r->target,
		       r->fstype[0] ? " as " : "", r->fstype, strerror(res),
		       what ? "; it holds " : cure(res), what ? what : "");
}

int call_unmount(const ProtobufCMessage *message, ProtobufCMessage *reply, struct err *err)
{
	const Lodge__Agent__V1__UnmountRequest *r =
	    (const Lodge__Agent__V1__UnmountRequest *)message;

	(void)reply;
	if (umount2(r->target, r->detach ? MNT_DETACH : 0) == 0)
		return 0;
	return err_sys(err, errno, "unmounting %s", r->target);
}
